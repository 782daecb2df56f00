"""A Slurm script for a launch: stops before its time limit with a checkpoint and goes back into the queue."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rlcurric.cli.launch_config import LaunchConfig
from rlcurric.errors import RunError

MARGIN = 120  # seconds before the limit beyond --stop-grace: SIGTERM, SIGKILL, and srun's own end
_TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<rest>\d+(?::\d+){0,2})")
_OPTION = re.compile(r"[a-z][a-z0-9-]*")
_OURS = ("nodes", "ntasks", "ntasks-per-node", "signal", "requeue", "no-requeue", "chdir", "array")
_BY_OPTION = {
    name: f"--{name}" for name in ("time", "partition", "account", "gpus-per-node", "cpus-per-task")
} | {"job-name": "--job-name"}


@dataclass(frozen=True)
class SlurmOptions:
    """What a job asks Slurm for."""

    time: str = "04:00:00"
    partition: str | None = None
    account: str | None = None
    gpus_per_node: int | None = None  # default: one a rank
    cpus_per_task: int | None = None  # default: eight a GPU, one a rank on the CPU
    job_name: str = "rlcurric"
    more: tuple[str, ...] = ()  # KEY=VALUE or KEY, as sbatch takes them


def seconds(time: str) -> int | None:
    """A time limit as Slurm spells it, in seconds; None for no limit. ValueError for what it does not take."""
    if time.upper() in ("UNLIMITED", "INFINITE"):
        return None
    match = _TIME.fullmatch(time)
    if match is None:
        raise ValueError(
            f"--time must be MINUTES, HOURS:MINUTES:SECONDS or DAYS-HOURS:MINUTES:SECONDS, got {time!r}"
        )
    parts = [int(part) for part in match["rest"].split(":")]
    if match["days"] is not None:  # days-hours[:minutes[:seconds]]
        hours, minutes, rest = [*parts, 0, 0][:3]
        return ((int(match["days"]) * 24 + hours) * 60 + minutes) * 60 + rest
    if len(parts) == 3:
        return (parts[0] * 60 + parts[1]) * 60 + parts[2]
    minutes, rest = [*parts, 0][:2]
    return minutes * 60 + rest


def render(
    config: LaunchConfig,
    nodes: int,
    processes: int,
    stop_grace: float,
    command: Sequence[str],
    options: SlurmOptions,
) -> str:
    """The script. Slurm starts one launcher a machine; `processes` are the ranks of each."""
    directives = _directives(config, nodes, processes, stop_grace, options)
    lines = "".join(
        f"#SBATCH --{key}{f'={value}' if value else ''}\n" for key, value in directives.items()
    )
    launcher = [sys.executable, "-m", "rlcurric", "launch", "--config", _config(config)]
    launcher += ["--stop-grace", f"{stop_grace:g}"]
    if processes != config.processes:
        launcher += ["--processes", str(processes)]
    words = shlex.join(launcher)
    if nodes > 1:
        words += f' --nodes {nodes} --node-rank "$SLURM_NODEID" --rendezvous "$RENDEZVOUS"'
    task = shlex.quote(f"exec {words} {shlex.join(command)}")
    return f"#!/usr/bin/env bash\n{lines}{_HEAD}{_RENDEZVOUS if nodes > 1 else ''}{_BODY.replace('TASK', task)}"


_HEAD = """
# Written by `rlcurric launch --slurm`. Slurm sends USR1 before the time limit, and TERM where it takes the nodes away.
# srun passes both on to the launchers: the run ends its step, writes a checkpoint and exits with 75, and the job goes
# back into the queue. It goes on where it stopped.
set -uo pipefail
"""
_RENDEZVOUS = """
# The ranks meet on the first machine. The port lies below those that the system hands out.
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export RENDEZVOUS="$head:$(( 12000 + SLURM_JOB_ID % 20000 ))"
"""
_BODY = """
srun --kill-on-bad-exit=1 bash -c TASK &
job=$!
signalled=0
trap 'signalled=1; kill -USR1 "$job" 2>/dev/null' USR1
trap 'signalled=1; kill -TERM "$job" 2>/dev/null' TERM

# A trapped signal ends `wait` early: then wait again. 127: srun's end was known already.
code=1
while true; do
    signalled=0
    wait "$job"
    now=$?
    (( now == 127 )) || code=$now
    (( signalled )) || break
done

if (( code == 75 )); then
    scontrol requeue "$SLURM_JOB_ID"
    exit $?
fi
exit "$code"
"""


def _config(config: LaunchConfig) -> str:
    """A shipped one by its name; a file by its place, wherever the job runs."""
    return str(Path(config.name).resolve()) if Path(config.name).is_file() else config.name


def _directives(
    config: LaunchConfig, nodes: int, processes: int, stop_grace: float, options: SlurmOptions
) -> dict[str, str]:
    """Options of sbatch in the order in which they are written; an empty value for a flag."""
    warning = int(stop_grace) + MARGIN
    limit = seconds(options.time)
    if limit is not None and limit <= warning:
        raise ValueError(
            f"--time {options.time} is {limit} s, and a stop may take --stop-grace {stop_grace:g} s and {MARGIN} s more: "
            "nothing is left to train in. Ask for more time, or set a shorter --stop-grace."
        )
    if warning > 65535:
        raise ValueError(
            f"--stop-grace must be at most {65535 - MARGIN} s under Slurm, got {stop_grace:g}"
        )
    gpus = options.gpus_per_node
    if gpus is None and not config.on_cpu:
        gpus = processes
    cpus = options.cpus_per_task or (processes if config.on_cpu else 8 * processes)
    found = {
        "job-name": options.job_name,
        "nodes": str(nodes),
        "ntasks-per-node": "1",
        "cpus-per-task": str(cpus),
        "time": options.time,
        "signal": f"B:USR1@{warning}",
        "requeue": "",
        "open-mode": "append",
        "output": "%x-%j.log",
        "chdir": str(Path.cwd()),
    }
    if gpus:
        found["gpus-per-node"] = str(gpus)
    if options.partition:
        found["partition"] = options.partition
    if options.account:
        found["account"] = options.account
    for item in options.more:
        key, _, value = item.partition("=")
        key = key.removeprefix("--")
        if not _OPTION.fullmatch(key) or "\n" in value:
            raise ValueError(
                f"--sbatch takes KEY=VALUE or KEY, as sbatch's options are called, got {item!r}"
            )
        if key in _OURS:
            raise ValueError(f"--sbatch {key}: the script depends on it; it cannot be set")
        if key in _BY_OPTION:
            raise ValueError(f"--sbatch {key}: give {_BY_OPTION[key]} instead")
        found[key] = value
    for key, value in found.items():
        if "\n" in value:
            raise ValueError(f"--{key} must be one line, got {value!r}")
    return found


def submit(script: str, file: Path | None) -> str:
    """Hand the script to sbatch; what it answers. RunError with its own words where it refuses."""
    program = shutil.which("sbatch")
    if program is None:
        raise ValueError(
            "--submit needs Slurm's sbatch, which is not on PATH: run this on a login node, or leave --submit out and take "
            "the script from --output FILE"
        )
    words = [program] if file is None else [program, str(file)]
    done = subprocess.run(
        words,
        input=script if file is None else None,
        capture_output=True,
        text=True,
        env=dict(os.environ),
    )
    if done.returncode:
        raise RunError(
            f"sbatch refused the job (exit code {done.returncode}): {done.stderr.strip()}"
        )
    return done.stdout.strip()
