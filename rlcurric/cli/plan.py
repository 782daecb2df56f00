"""`rlcurric plan`: what a run takes, before anything is loaded."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rlcurric.cli.console import make_console
from rlcurric.plan.measured import Measured
from rlcurric.plan.memory import SHARDINGS
from rlcurric.plan.phases import Device
from rlcurric.plan.plan import Given, Known, make_plan
from rlcurric.plan.rows import StageRows, assumed_rows, rows_of
from rlcurric.plan.shapes import Shape, shape_of_architecture, shape_of_file
from rlcurric.plan.tell import as_dict, tell
from rlcurric.recipe.load import load_recipe
from rlcurric.recipe.schema import Recipe
from rlcurric.recipe.stages import RlStage
from rlcurric.registry import nearest

GIB = 2**30


@dataclass(frozen=True)
class Options:
    """What is planned for, and what cannot be known before."""

    run_dir: Path | None = None
    gpus: int = 0
    memory: float | None = None  # GiB
    sharding: str | None = None
    measured: Path | None = None
    throughput: float | None = None
    completion_tokens: float | None = None
    prompt_tokens: int | None = None
    rows: int | None = None
    admitted: float | None = None
    model_config: Path | None = None
    as_json: bool = False


def run_plan(recipe: str, overrides: Sequence[str], overlay: str | None, options: Options) -> int:
    """Print the plan; ValueError where the run cannot fit, naming the settings to change."""
    _check(options)
    resolved = load_recipe(recipe, overrides, overlay)
    device = _device(options)
    given = Given(
        device=device,
        run_dir=options.run_dir or Path("runs") / resolved.name,
        completion=options.completion_tokens,
        admitted=options.admitted,
        throughput=options.throughput,
        measured=_measured(options),
    )
    plan = make_plan(resolved, known_of(resolved, options), given)
    if options.as_json:
        print(json.dumps(as_dict(plan), indent=1))
    else:
        tell(plan, make_console())
    if plan.problems:
        raise ValueError(
            "this run does not fit:\n" + "\n".join(f"  {one}" for one in plan.problems)
        )
    return 0


def _check(options: Options) -> None:
    """ValueError for numbers that nothing can be counted with, and for a run directory that is a file."""
    if options.run_dir is not None and options.run_dir.is_file():
        raise ValueError(
            f"--run-dir: a folder, or a path for a new one, is required; {options.run_dir} is a file"
        )
    for option, value in (
        ("--memory", options.memory),
        ("--throughput", options.throughput),
        ("--completion-tokens", options.completion_tokens),
    ):
        if value is not None and not math.isfinite(value):
            raise ValueError(f"{option}: a finite number is required, got {value}")


def _device(options: Options) -> Device:
    if options.gpus and options.memory is None:
        raise ValueError(
            "--gpus needs --memory GIB, the memory of one of them, e.g. --gpus 8 --memory 80"
        )
    sharding = options.sharding or ("ddp" if options.gpus > 1 else "none")
    if sharding not in SHARDINGS:
        raise ValueError(f"--sharding: unknown {sharding!r}. {nearest(sharding, SHARDINGS)}")
    if (sharding == "none") != (options.gpus < 2):
        raise ValueError(
            f"--sharding {sharding} is for {'one process' if sharding == 'none' else 'several GPUs'}, got --gpus {options.gpus}"
        )
    if options.memory is not None:
        return Device(options.gpus, int(options.memory * GIB), sharding)
    from rlcurric.train.hostmemory import read_room

    return Device(0, read_room()[0], sharding)


def _measured(options: Options) -> Measured | None:
    if options.measured is None:
        return None
    if options.throughput is not None:
        raise ValueError(
            "--measured has a throughput of its own; leave --throughput out, or --measured"
        )
    from rlcurric.report.tables import read_run

    run = read_run(options.measured)
    stages = [stage.name for stage in run.recipe.stages]
    steps = [row for row in run.metrics if row.get("stage") in stages]
    if not steps:
        raise ValueError(
            f"--measured: the run {options.measured} has no step yet of a stage of its recipe ({', '.join(stages)})"
        )
    return Measured(run.path, run.recipe, steps)


def known_of(recipe: Recipe, options: Options) -> Known:
    """What the recipe's files say. No weights are read."""
    from rlcurric.build.objectives import bind_objective
    from rlcurric.train.named import name_environment

    name_environment(recipe)
    rows = _rows(recipe, options)
    shape = _shape(recipe, options.model_config)
    stages = [one for one in recipe.stages if isinstance(one, RlStage)]
    objectives = {one.name: bind_objective(one, recipe.base_dir) for one in stages}
    return Known(
        shape=shape,
        rows=rows,
        reference={name: one.kl.on for name, one in objectives.items()},
        rescored={
            one.name: one.optim.updates_per_step > 1
            or objectives[one.name].needs_scores
            or objectives[one.name].kl.on
            for one in stages
        },
        value_model={one.name: _value_model(recipe, one, shape) for one in stages},
    )


def _rows(recipe: Recipe, options: Options) -> dict[str, StageRows]:
    """From the data, or as the command line says."""
    if options.prompt_tokens is not None:
        return assumed_rows(recipe, options.prompt_tokens, options.completion_tokens, options.rows)
    if options.rows is not None:
        raise ValueError(
            "--rows stands beside --prompt-tokens, where no data are read; give both or none"
        )
    from rlcurric.build import RunData
    from rlcurric.train.models import context_length, model_config, tokenizer_of
    from rlcurric.train.named import downloads

    try:
        tokenizer, context = tokenizer_of(recipe), context_length(recipe, model_config(recipe))
        return rows_of(RunData(recipe, tokenizer, context), recipe)
    except (OSError, ValueError) as error:
        if not downloads(recipe):
            raise
        raise ValueError(
            f"{error}\nTo plan without tokenizer and data: --prompt-tokens N --completion-tokens N"
        ) from None


def _shape(recipe: Recipe, config: Path | None) -> Shape:
    """By --model-config, the recipe's architecture, or its model's config.json."""
    model = recipe.model
    if config is not None:
        return shape_of_file(config / "config.json" if config.is_dir() else config)
    if model.architecture is not None:
        from rlcurric.data.tokenizers import vocabulary

        assert model.tokenizer is not None
        words = vocabulary(model.tokenizer.characters, model.tokenizer.tags)
        return shape_of_architecture(model.architecture, len(words))
    assert model.path is not None
    return _named_shape(model.path, recipe.base_dir, "model.path")


def _value_model(recipe: Recipe, stage: RlStage, policy: Shape) -> int:
    """Parameters of a value model that is not the policy's own."""
    value = stage.curriculum.value
    if value.reads_policy or not stage.curriculum.scorer:
        return 0
    if value.backbone == "base":
        return policy.n
    key = f"stages.{stage.name}.curriculum.value.backbone"
    return _named_shape(value.backbone, recipe.base_dir, key).n


def _named_shape(named: str, base_dir: str, key: str) -> Shape:
    from rlcurric.train.named import local_path

    folder = local_path(named, base_dir, key)
    if folder is not None:
        return shape_of_file(folder / "config.json")
    from huggingface_hub import hf_hub_download

    try:
        file = hf_hub_download(named, "config.json")
    except Exception as error:
        raise ValueError(
            f"{key}: the sizes of {named} stand in its config.json, which could not be had from the hub "
            f"({type(error).__name__}). Give a config.json of it (--model-config FILE), go online once (it is kept), or set {key} to "
            "a local folder"
        ) from None
    return shape_of_file(Path(file))
