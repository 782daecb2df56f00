"""The commands. Each imports what it needs when it runs, so that --help is quick."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rlcurric.version import __version__

app = typer.Typer(
    help="RL post-training for LLM reasoning, with the curriculum as a first-class decision.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
rewards_app = typer.Typer(help="Reward functions.", no_args_is_help=True)
recipes_app = typer.Typer(
    help="Recipes that ship with the package, and new ones.", no_args_is_help=True
)
app.add_typer(rewards_app, name="rewards")
app.add_typer(recipes_app, name="recipes")

RecipeArg = Annotated[
    str, typer.Argument(help="A recipe file, or the name of a shipped recipe.", metavar="RECIPE")
]
OverridesArg = Annotated[
    list[str] | None,
    typer.Argument(
        help="Changes to the recipe, e.g. rollout.engine=vllm seed=1.", metavar="[KEY=VALUE]..."
    ),
]
OverlayOption = Annotated[
    str | None,
    typer.Option(help="Lay these changes over it: a name among the recipe's overlays."),
]
RunDirOption = Annotated[Path | None, typer.Option(help="Default: runs/NAME.")]


def _print_version(asked: bool) -> None:
    if asked:
        print(f"rlcurric {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None: ...


@app.command()
def train(
    recipe: RecipeArg,
    overrides: OverridesArg = None,
    overlay: OverlayOption = None,
    run_dir: RunDirOption = None,
    from_: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="Begin a new run from a checkpoint of another.",
            metavar="RUN[:step|:stage]",
        ),
    ] = None,
) -> int:
    """Train a recipe; on a run directory with a checkpoint, go on from there."""
    from rlcurric.cli.train import run_train

    return run_train(recipe, overrides or [], overlay, run_dir, from_)


@app.command()
def check(recipe: RecipeArg, overrides: OverridesArg = None, overlay: OverlayOption = None) -> int:
    """Check a recipe before its weights are loaded: names, data, prompts, gold answers, rewards on a few rows.

    Services are bound to their arguments, not called.
    """
    from rlcurric.cli.check import run_check

    return run_check(recipe, overrides or [], overlay)


@app.command()
def eval(
    recipe: Annotated[
        str | None,
        typer.Argument(
            help="A recipe file, or the name of a shipped one. Without it: --model and --data.",
            metavar="[RECIPE]",
        ),
    ] = None,
    overrides: OverridesArg = None,
    overlay: OverlayOption = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="A run directory, RUN:step, or a Hugging Face folder."),
    ] = None,
    stage: Annotated[
        str | None, typer.Option(help="Evaluate as this stage does. Default: the last.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Write the metrics there as JSON.")] = None,
    rollouts: Annotated[
        Path | None, typer.Option(help="Write every completion there, a line of JSON each.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Without a recipe: a Hugging Face folder, a hub id, a run, or RUN:step."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Rows: jsonl, json, csv or parquet, or a data set of the hub.",
            metavar="FILE|OWNER/NAME",
        ),
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(
            help="Names of columns: question={Body} {Question},answer=Answer.",
            metavar="OURS=THEIRS,...",
        ),
    ] = None,
    answer_pattern: Annotated[
        str | None,
        typer.Option(
            help="Takes the gold answer out of a longer text: '#### (.*)'.", metavar="REGEX"
        ),
    ] = None,
    drop_unanswered: Annotated[
        bool, typer.Option("--drop-unanswered", help="Leave rows without an answer out.")
    ] = False,
    split: Annotated[str | None, typer.Option(help="Of a data set of the hub. [test]")] = None,
    config: Annotated[str | None, typer.Option(help="Of a data set of the hub.")] = None,
    reward: Annotated[
        str | None, typer.Option(help="What grades: a reward, or FILE.py:function. [verifier]")
    ] = None,
    template: Annotated[
        str | None, typer.Option(help="The prompt, with {columns} of the row. [{question}]")
    ] = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="Through the tokenizer's chat template.")
    ] = False,
    system: Annotated[str | None, typer.Option(help="System prompt.")] = None,
    prefill: Annotated[
        str | None, typer.Option(help="What the completion begins with, put there.")
    ] = None,
    modes: Annotated[
        str | None,
        typer.Option(
            help="Hybrid Accuracy: force each mode too, with --samples: think=<think>,no_think=<no_think>.",
            metavar="MODE=TOKEN,...",
        ),
    ] = None,
    engine: Annotated[str | None, typer.Option(help="vllm or torch. [auto]")] = None,
    samples: Annotated[
        int | None,
        typer.Option(
            help="Sampled completions a prompt beside the greedy one: avg@k, pass@k.", min=1
        ),
    ] = None,
    pass_at: Annotated[
        str | None,
        typer.Option(help="The k of pass@k. Default: powers of 2 up to --samples.", metavar="K,K"),
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="Of sampled completions. [1.0]")] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(help="Tokens of a completion, at most. [1024]", min=1)
    ] = None,
    prompts: Annotated[
        int | None, typer.Option(help="Rows, at most, drawn by hash. Default: all.", min=1)
    ] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that comes with the model.")
    ] = False,
) -> int:
    """Accuracy, avg@k, pass@k, lengths and truncation: on the held-out prompts of a recipe, or of any model on any rows."""
    from rlcurric.cli.evaluate import run_eval
    from rlcurric.cli.evaluate_alone import Options

    options = Options(
        model=model,
        data=data,
        columns=columns,
        answer_pattern=answer_pattern,
        drop_unanswered=drop_unanswered,
        split=split,
        config=config,
        reward=reward,
        template=template,
        chat=chat,
        system=system,
        prefill=prefill,
        modes=modes,
        engine=engine,
        samples=samples,
        pass_at=pass_at,
        temperature=temperature,
        max_new_tokens=max_new_tokens,
        prompts=prompts,
        trust_remote_code=trust_remote_code,
    )
    return run_eval(recipe, overrides or [], overlay, checkpoint, stage, output, rollouts, options)


@app.command()
def export(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            help="A run directory (its newest checkpoint) or RUN:step.", metavar="RUN[:step]"
        ),
    ],
    folder: Annotated[Path, typer.Argument(help="Folder to make; it must not exist.")],
    dtype: Annotated[
        str, typer.Option(help="float32, as trained, or bfloat16: half the size, rounded.")
    ] = "float32",
) -> int:
    """Write the model of a checkpoint as a plain Hugging Face folder: weights, tokenizer, generation settings."""
    from rlcurric.cli.export import run_export

    return run_export(checkpoint, folder, dtype)


@app.command()
def preflight(
    recipe: RecipeArg,
    overrides: OverridesArg = None,
    overlay: OverlayOption = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="A run directory, RUN:step, or a Hugging Face folder."),
    ] = None,
    stage: Annotated[
        str | None, typer.Option(help="RL stage to look at. Default: the first.")
    ] = None,
    prompts: Annotated[
        int, typer.Option(help="Training prompts of each distribution.", min=1)
    ] = 64,
    samples: Annotated[
        int | None, typer.Option(help="Samples a prompt. Default: curriculum.group_size.", min=2)
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Write what was measured there, for curriculum.warm_start.")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Write the table there as JSON.")] = None,
) -> int:
    """Sample a stage's prompts before training: pass rates, signal, truncation, speed, and advice."""
    from rlcurric.cli.preflight import run_preflight

    return run_preflight(
        recipe, overrides or [], overlay, checkpoint, stage, prompts, samples, output, report
    )


@app.command()
def simulate(
    recipe: RecipeArg,
    overrides: OverridesArg = None,
    overlay: OverlayOption = None,
    learner: Annotated[
        Path | None,
        typer.Option(help="YAML: ability, difficulty, learning rate of every distribution."),
    ] = None,
    from_: Annotated[
        Path | None,
        typer.Option("--from", help="Start at the pass rates that a run recorded.", metavar="RUN"),
    ] = None,
    replay: Annotated[
        Path | None,
        typer.Option(
            help="No simulated learner: the recipe's curriculum on what a run recorded.",
            metavar="RUN",
        ),
    ] = None,
    missing: Annotated[
        str | None,
        typer.Option(
            help="In a replay, where the record has no answer: skip, model or stop. [skip]"
        ),
    ] = None,
    window: Annotated[
        int | None,
        typer.Option(
            help="In a replay, steps by which a prompt's recorded visit may be away. [10]", min=0
        ),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(help="From the recipe's on. [3; in a replay 1]", min=1)
    ] = None,
    rows: Annotated[
        list[str] | None,
        typer.Option(
            help="Sizes of distributions that are not on this machine; NAME=N: of this one. [1000]",
            metavar="N|NAME=N",
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Of an RL stage, at most. Default: until it ends.", min=1)
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Write every step there.", metavar="FILE.csv|FILE.json"),
    ] = None,
) -> int:
    """Try a recipe's curriculum without a model: what it samples, what starves, when stages end.

    Against a simulated learner, or on the decisions and outcomes that a run recorded.
    """
    from rlcurric.cli.simulate import Options, run_simulate

    options = Options(
        learner=learner,
        origin=from_,
        replay=replay,
        missing=missing,
        window=window,
        seeds=seeds,
        rows=tuple(rows or ()),
        steps=steps,
        output=output,
    )
    return run_simulate(recipe, overrides or [], overlay, options)


@app.command()
def plan(
    recipe: RecipeArg,
    overrides: OverridesArg = None,
    overlay: OverlayOption = None,
    run_dir: Annotated[
        Path | None, typer.Option(help="Whose disk is looked at. Default: runs/NAME.")
    ] = None,
    gpus: Annotated[int, typer.Option(help="GPUs, one a rank; 0: the CPU.", min=0)] = 0,
    memory: Annotated[
        float | None,
        typer.Option(help="GiB of one GPU. Without GPUs: default, what is free here.", min=0.001),
    ] = None,
    sharding: Annotated[
        str | None,
        typer.Option(help="ddp, zero1, zero2, zero3 or fsdp2. Default: ddp for several GPUs."),
    ] = None,
    measured: Annotated[
        Path | None,
        typer.Option(
            help="A run directory: its lengths, admitted groups and seconds.", metavar="RUN"
        ),
    ] = None,
    throughput: Annotated[
        float | None,
        typer.Option(
            help="Tokens a second of whole steps: generated ones, on written rows trained ones.",
            min=0.001,
        ),
    ] = None,
    completion_tokens: Annotated[
        float | None, typer.Option(help="Mean length of a completion.", min=1)
    ] = None,
    prompt_tokens: Annotated[
        int | None, typer.Option(help="Read no data: every prompt has so many tokens.", min=1)
    ] = None,
    rows: Annotated[
        int | None,
        typer.Option(help="With --prompt-tokens: training rows of a distribution.", min=1),
    ] = None,
    admitted: Annotated[
        float | None,
        typer.Option(help="Share of the groups that gates admit.", min=0.001, max=1),
    ] = None,
    model_config: Annotated[
        Path | None,
        typer.Option(help="A config.json in place of the model's own.", metavar="FILE"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> int:
    """Steps, tokens, memory by phase, disk and time, before anything is loaded; exit code 2 for what cannot fit."""
    from rlcurric.cli.plan import Options, run_plan

    options = Options(
        run_dir=run_dir,
        gpus=gpus,
        memory=memory,
        sharding=sharding,
        measured=measured,
        throughput=throughput,
        completion_tokens=completion_tokens,
        prompt_tokens=prompt_tokens,
        rows=rows,
        admitted=admitted,
        model_config=model_config,
        as_json=as_json,
    )
    return run_plan(recipe, overrides or [], overlay, options)


@app.command()
def report(
    run: Annotated[
        Path, typer.Argument(help="A run directory, finished, running or broken.", metavar="RUN")
    ],
    output: Annotated[
        Path | None, typer.Option(help="Write the page there. Default: RUN/report.html.")
    ] = None,
    groups: Annotated[
        int, typer.Option(help="Groups of rollouts whose texts the page shows at most.", min=0)
    ] = 240,
    serve: Annotated[
        bool,
        typer.Option(
            "--serve", help="Serve it to this machine alone, made anew as the run goes on."
        ),
    ] = False,
    port: Annotated[
        int, typer.Option(help="With --serve: listen there; 0: any free one.", min=0, max=65535)
    ] = 8642,
) -> int:
    """What a run did, as one HTML page without a network: learned when, preferred what, where time went, what failed."""
    from rlcurric.cli.report import run_report

    return run_report(run, output, groups, serve, port)


@app.command()
def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Run directories, finished, running or broken.", metavar="RUN..."),
    ],
    output: Annotated[Path, typer.Option(help="Write the page there.")] = Path("compare.html"),
    against: Annotated[
        str,
        typer.Option(help="The axis shown first: steps, tokens, time or gpu-hours."),
    ] = "steps",
    target: Annotated[
        str | None,
        typer.Option(
            help="What is to be reached. Default: the held-out accuracy that every group reaches.",
            metavar="METRIC>=VALUE",
        ),
    ] = None,
    group: Annotated[
        list[str] | None,
        typer.Option(
            help="Put runs together under a name. Default: those whose recipes differ in the seed alone.",
            metavar="NAME=RUN,...",
        ),
    ] = None,
    png: Annotated[
        Path | None, typer.Option(help="Draw the main figures there too.", metavar="FILE.png")
    ] = None,
    csv: Annotated[
        Path | None,
        typer.Option(
            help="Write every number there, and the targets to FILE.targets.csv.",
            metavar="FILE.csv",
        ),
    ] = None,
) -> int:
    """Runs laid over each other as one HTML page without a network: curves, seeds grouped, what a target took, recipes' differences."""
    from rlcurric.cli.compare import run_compare

    return run_compare(runs, output, against, target, group or [], png, csv)


@app.command()
def watch(
    run: Annotated[
        Path, typer.Argument(help="A run directory: it is read, never written.", metavar="RUN")
    ],
    once: Annotated[
        bool, typer.Option("--once", help="Show where the run stands now, and end.")
    ] = False,
) -> int:
    """Follow a run from another shell: stages, distributions, speed, time left, warnings. Ctrl-C ends it, not the run."""
    from rlcurric.cli.watch import run_watch

    return run_watch(run, once)


@app.command()
def doctor(
    engine: Annotated[str, typer.Option(help="auto, torch or vllm.")] = "auto",
    run_dir: Annotated[
        Path | None,
        typer.Option(help="Where runs will be written: all ranks must share it. Default: runs."),
    ] = None,
) -> int:
    """Versions and devices; start an engine, generate once, compare its log-probs with the trainer's.

    Under `launch` also hosts, collectives, clocks and shared storage.
    """
    from rlcurric.cli.doctor import run_doctor

    return run_doctor(engine, run_dir)


@app.command(context_settings={"allow_interspersed_args": False})
def launch(
    command: Annotated[
        list[str],
        typer.Argument(
            help="What every rank runs: train RECIPE [KEY=VALUE]..., or doctor.",
            metavar="COMMAND...",
        ),
    ],
    config: Annotated[
        str | None,
        typer.Option(help="A shipped launch configuration, or a file of accelerate's."),
    ] = None,
    processes: Annotated[
        int | None, typer.Option(help="Ranks on each machine. Default: the configuration's.", min=1)
    ] = None,
    nodes: Annotated[int | None, typer.Option(help="Machines.", min=1)] = None,
    node_rank: Annotated[
        int | None, typer.Option(help="Which of the machines this one is, from 0.", min=0)
    ] = None,
    rendezvous: Annotated[
        str | None, typer.Option(help="Where machine 0 listens.", metavar="HOST:PORT")
    ] = None,
    stop_grace: Annotated[
        float,
        typer.Option(help="Seconds that a run may take to stop with a checkpoint.", min=0),
    ] = 600.0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print accelerate's command, start nothing.")
    ] = False,
    slurm: Annotated[
        bool, typer.Option("--slurm", help="Write a Slurm script instead of starting ranks here.")
    ] = False,
    submit: Annotated[bool, typer.Option("--submit", help="Hand the script to sbatch.")] = False,
    output: Annotated[
        Path | None, typer.Option(help="Write the script there. Default: print it.")
    ] = None,
    time: Annotated[
        str | None, typer.Option(help="Slurm: time limit of one run of the job. [04:00:00]")
    ] = None,
    partition: Annotated[str | None, typer.Option(help="Slurm.")] = None,
    account: Annotated[str | None, typer.Option(help="Slurm.")] = None,
    gpus_per_node: Annotated[
        int | None, typer.Option(help="Slurm. Default: one a rank.", min=0)
    ] = None,
    cpus_per_task: Annotated[
        int | None, typer.Option(help="Slurm. Default: eight a rank.", min=1)
    ] = None,
    job_name: Annotated[str | None, typer.Option(help="Slurm. [rlcurric]")] = None,
    sbatch: Annotated[
        list[str] | None,
        typer.Option(help="Slurm: another option of sbatch, e.g. qos=high.", metavar="KEY=VALUE"),
    ] = None,
) -> int:
    """Run a command on several ranks, here or as a Slurm job.

    SIGTERM, SIGINT and SIGUSR1 become a stop with a checkpoint (exit code 75).
    """
    from rlcurric.cli.launch import Options, run_launch, slurm_options

    asked = slurm_options(
        slurm, time, partition, account, gpus_per_node, cpus_per_task, job_name, sbatch or []
    )
    options = Options(
        config=config,
        processes=processes,
        nodes=nodes,
        node_rank=node_rank,
        rendezvous=rendezvous,
        stop_grace=stop_grace,
        dry_run=dry_run,
        slurm=asked,
        submit=submit,
        output=output,
    )
    return run_launch(options, command)


@app.command("verify-resume")
def verify_resume(
    recipe: RecipeArg,
    overrides: OverridesArg = None,
    overlay: OverlayOption = None,
    steps: Annotated[int, typer.Option(help="Steps of the undisturbed run.", min=2)] = 6,
    kill_at: Annotated[
        int | None, typer.Option(help="Kill during the step after this one. Default: half.")
    ] = None,
    work_dir: Annotated[Path | None, typer.Option(help="Keep both runs there.")] = None,
) -> int:
    """Prove on this machine that a killed and resumed run equals an undisturbed one, bit for bit."""
    from rlcurric.cli.verify import run_verify

    return run_verify(recipe, overrides or [], overlay, steps, kill_at, work_dir)


@rewards_app.command("list")
def rewards_list(
    file: Annotated[
        list[Path] | None, typer.Option(help="Also load rewards from this file.")
    ] = None,
) -> int:
    """Every reward a recipe can name, with its arguments."""
    from rlcurric.cli.listing import list_rewards

    return list_rewards(file or [])


@rewards_app.command("test")
def rewards_test(
    target: Annotated[
        str,
        typer.Argument(help="A recipe, a reward's name, or FILE.py:function.", metavar="TARGET"),
    ],
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            help="Changes to the recipe, or arguments of the reward.", metavar="[KEY=VALUE]..."
        ),
    ] = None,
    rows: Annotated[int, typer.Option(help="Rows of each distribution.", min=1)] = 32,
    data: Annotated[
        Path | None,
        typer.Option(help="Rows for a reward: jsonl, json, csv or parquet. Default: sums."),
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(
            help="Names of columns, as `columns` of a recipe's source: question={Body} {Question},answer=Answer.",
            metavar="OURS=THEIRS,...",
        ),
    ] = None,
    answer_pattern: Annotated[
        str | None,
        typer.Option(
            help="Takes the gold answer out of a longer text, as in a source: '#### (.*)'.",
            metavar="REGEX",
        ),
    ] = None,
    drop_unanswered: Annotated[
        bool, typer.Option("--drop-unanswered", help="Leave rows without an answer out.")
    ] = False,
    gold: Annotated[
        str | None,
        typer.Option(
            help="How a gold answer is written. Default: the first usual way that fits.",
            metavar="TEXT WITH {answer}",
        ),
    ] = None,
    correctness: Annotated[
        bool,
        typer.Option("--correctness", help="Hold a reward to gold answers that declares none."),
    ] = False,
    workers: Annotated[
        int | None, typer.Option(help="Worker processes. Default: the recipe's, or 2.", min=1)
    ] = None,
    deadline: Annotated[
        float | None, typer.Option(help="Seconds a call. Default: the recipe's, or 10.", min=0.001)
    ] = None,
) -> int:
    """Try rewards without a model: gold answers, nothing, garbage, other orders and workers, latency."""
    from rlcurric.cli.rewards import Options, run_rewards_test

    options = Options(
        rows=rows,
        data=data,
        columns=columns,
        answer_pattern=answer_pattern,
        drop_unanswered=drop_unanswered,
        gold=gold,
        correctness=correctness,
        workers=workers,
        deadline=deadline,
    )
    return run_rewards_test(target, settings or [], options)


@recipes_app.command("list")
def recipes_list() -> int:
    """Recipes that ship with the package."""
    from rlcurric.cli.listing import list_recipes

    return list_recipes()


@recipes_app.command("show")
def recipes_show(
    recipe: Annotated[
        str | None,
        typer.Argument(help="A recipe file, or the name of a shipped recipe.", metavar="[RECIPE]"),
    ] = None,
    overrides: OverridesArg = None,
    overlay: OverlayOption = None,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON Schema of recipes, for editors.")
    ] = False,
) -> int:
    """A recipe, resolved: defaults merged, overrides applied, every setting spelled out."""
    from rlcurric.cli.listing import show_recipe

    return show_recipe(recipe, overrides or [], overlay, schema)


@recipes_app.command("new")
def recipes_new(
    path: Annotated[Path, typer.Argument(help="File to write; it must not exist.")],
    like: Annotated[str, typer.Option(help="Shipped recipe to start from.")] = "gsm8k_grpo",
) -> int:
    """Write a new recipe to start from."""
    from rlcurric.cli.listing import new_recipe

    return new_recipe(path, like)
