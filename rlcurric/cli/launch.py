"""`rlcurric launch`: a command on several ranks, with accelerate's launcher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlcurric.cli.launch_config import (
    LaunchConfig,
    Place,
    accelerate_arguments,
    environment,
    find_config,
    place,
    spelled,
)
from rlcurric.cli.launch_slurm import SlurmOptions, render, submit
from rlcurric.recipe.load import load_recipe

STOP_GRACE = 600.0  # seconds
COMMANDS = ("train", "doctor")


@dataclass(frozen=True)
class Options:
    """What `rlcurric launch` was asked for, beside the command."""

    config: str | None = None
    processes: int | None = None
    nodes: int | None = None
    node_rank: int | None = None
    rendezvous: str | None = None
    stop_grace: float = STOP_GRACE
    dry_run: bool = False
    slurm: SlurmOptions | None = None
    submit: bool = False
    output: Path | None = None  # where the Slurm script goes


@dataclass(frozen=True)
class Command:
    """The command that every rank runs."""

    words: tuple[str, ...]
    run_dir: Path | None  # of a training run


def run_launch(options: Options, words: Sequence[str]) -> int:
    """Check what can be checked cheaply, start the ranks, watch them."""
    config = find_config(options.config)
    command = read_command(words)
    if options.slurm is not None:
        return _slurm(config, options, options.slurm, command)
    if options.submit or options.output is not None:
        raise ValueError("--submit and --output are for Slurm: add --slurm")
    at = place(config, options.processes, options.nodes, options.node_rank, options.rendezvous)
    if options.dry_run:
        print(spelled(config, at, command.words))
        return 0
    return _run(config, at, command, options.stop_grace)


def read_command(words: Sequence[str]) -> Command:
    """The command behind the options; ValueError for a mistake in it, before any rank is started."""
    if not words or words[0] not in COMMANDS:
        got = f", got {words[0]!r}" if words else ""
        raise ValueError(
            f"launch runs {' or '.join(COMMANDS)} on several ranks{got}: "
            "`rlcurric launch --config cpu_2_ranks train RECIPE`"
        )
    given = _parameters(words)
    if words[0] != "train":
        return Command(tuple(words), None)
    recipe = load_recipe(given["recipe"], given["overrides"] or [], given["overlay"])
    return Command(tuple(words), given["run_dir"] or Path("runs") / recipe.name)


def _parameters(words: Sequence[str]) -> dict[str, Any]:
    """As the command itself would read its arguments."""
    from typer.main import get_command

    from rlcurric.cli.app import app

    name, *rest = words
    command = get_command(app).commands[name]  # type: ignore[attr-defined]
    parameters: dict[str, Any] = command.make_context(f"rlcurric {name}", rest).params
    return parameters


def slurm_options(
    asked: bool,
    time: str | None,
    partition: str | None,
    account: str | None,
    gpus_per_node: int | None,
    cpus_per_task: int | None,
    job_name: str | None,
    more: Sequence[str],
) -> SlurmOptions | None:
    """None where no Slurm script was asked for; ValueError for options that are for one only."""
    given = {
        "time": time,
        "partition": partition,
        "account": account,
        "gpus_per_node": gpus_per_node,
        "cpus_per_task": cpus_per_task,
        "job_name": job_name,
        "more": tuple(more) or None,
    }
    known: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if asked:
        return SlurmOptions(**known)
    if known:
        names = ["--sbatch" if name == "more" else f"--{name.replace('_', '-')}" for name in known]
        raise ValueError(f"{', '.join(names)}: for a Slurm script only; add --slurm")
    return None


def _slurm(config: LaunchConfig, options: Options, slurm: SlurmOptions, command: Command) -> int:
    """Write the script, and submit it if asked to."""
    if options.node_rank is not None or options.rendezvous is not None:
        raise ValueError("Under --slurm the script finds --node-rank and --rendezvous itself")
    nodes = options.nodes or config.nodes
    processes = options.processes or config.processes
    # any machine of the job will do: what is checked is that the numbers go together
    place(config, processes, nodes, 0, "host:1" if nodes > 1 else None)
    script = render(config, nodes, processes, options.stop_grace, command.words, slurm)
    if options.output is not None:
        options.output.write_text(script, encoding="utf-8")
    if not options.submit:
        print(
            f"wrote {options.output}: submit it with sbatch" if options.output else script.rstrip()
        )
    if options.submit and not options.dry_run:
        print(submit(script, options.output))
    return 0


def _run(config: LaunchConfig, at: Place, command: Command, grace: float) -> int:
    from rlcurric.cli.launch_folder import launch_folder
    from rlcurric.cli.launch_job import Job, listening, say
    from rlcurric.cli.launch_verdict import Mark, verdict
    from rlcurric.train.rundir import RunDirectory

    if command.run_dir is not None and at.node_rank == 0:
        # before a signal could become the stop file of a run that is another launcher's
        RunDirectory(command.run_dir).refuse_if_held()
    arguments = accelerate_arguments(config, at, command.words)
    gpus = 0 if config.on_cpu else at.processes
    mark = Mark.of(command.run_dir) if command.run_dir is not None else None
    stop_file = command.run_dir / "stop" if command.run_dir is not None else None
    with launch_folder() as (folder, lock), listening() as requests:
        status_file = folder / "status"
        # torchrun makes a folder for logs and leaves it: it goes with ours
        arguments = ["--log_dir", str(folder / "logs"), *arguments]
        job = Job(arguments, environment(config), gpus, status_file, lock)
        ended = job.run(requests, stop_file, grace)
        return verdict(status_file, mark, ended, say)
