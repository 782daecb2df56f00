"""`rlcurric eval`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console
from rich.table import Table

from rlcurric.cli.console import make_console
from rlcurric.cli.evaluate_alone import Options, in_options, recipe_of
from rlcurric.cli.files import check_output
from rlcurric.cli.live import Doing
from rlcurric.recipe.load import load_recipe
from rlcurric.recipe.schema import Recipe
from rlcurric.recipe.stages import TrainingStage

if TYPE_CHECKING:
    from rlcurric.train.eval_metrics import EvalSample
    from rlcurric.types import Prompt, Rollout


def run_eval(
    recipe: str | None,
    overrides: Sequence[str],
    overlay: str | None,
    checkpoint: Path | None,
    stage_name: str | None,
    output: Path | None,
    rollouts: Path | None,
    options: Options,
) -> int:
    """Evaluate a model as a stage of the recipe prompts, samples and grades, or as the options say."""
    console = make_console()
    for option, file in (("--output", output), ("--rollouts", rollouts)):
        check_output(option, file)
    alone = recipe is None or ("=" in recipe and options.model is not None)
    if not alone:
        assert recipe is not None
        if options.given:
            raise ValueError(
                f"{options.given[0]} is for an evaluation without a recipe; the recipe {recipe} says it itself, and "
                "KEY=VALUE changes it, e.g. evaluation.samples=8"
            )
        resolved = load_recipe(recipe, overrides, overlay)
        stage = _stage_of(resolved, stage_name)
        metrics = _evaluate(console, resolved, stage, checkpoint, rollouts)
    else:
        needed = (("--checkpoint", checkpoint), ("--stage", stage_name), ("--overlay", overlay))
        for option, value in needed:
            if value is not None:
                raise ValueError(f"{option} needs a RECIPE; without one the model is --model")
        changes = [*([recipe] if recipe is not None else []), *overrides]
        try:
            resolved = recipe_of(options, _folder_of(options.model, console), changes)
            stage = _stage_of(resolved, None)
            metrics = _evaluate(console, resolved, stage, None, rollouts)
        except ValueError as error:
            raise ValueError(in_options(str(error))) from error
    _print(console, stage, metrics)
    if output is not None:
        output.write_text(json.dumps(metrics, indent=1), encoding="utf-8")
    return 0


def _stage_of(recipe: Recipe, name: str | None) -> TrainingStage:
    """The stage of that name, else the last that is evaluated."""
    stages = {one.name: one for one in recipe.stages if isinstance(one, TrainingStage)}
    if name is None:
        if not stages:
            raise ValueError("No stage of the recipe changes weights: none says how to evaluate")
        return list(stages.values())[-1]
    if name not in stages:
        raise ValueError(f"--stage: unknown stage {name!r}. Known: {', '.join(stages)}")
    return stages[name]


def _folder_of(model: str | None, console: Console) -> Path | None:
    """The folder of weights that --model stands for; None for a hub id."""
    if model is None:
        return None
    from rlcurric.eval.standalone import model_folder

    path = Path(model).expanduser()
    run = Path(model.rpartition(":")[0] or model).expanduser()
    return model_folder(path, console.print) if run.exists() else None


def _evaluate(
    console: Console,
    recipe: Recipe,
    stage: TrainingStage,
    checkpoint: Path | None,
    rollouts: Path | None,
) -> dict[str, float]:
    from rlcurric.eval.standalone import Tell, evaluate_model

    with ExitStack() as stack:
        keep = None
        if rollouts is not None:
            keep = _Writer(stack.enter_context(rollouts.open("w", encoding="utf-8")))
        doing = stack.enter_context(Doing(console))
        return evaluate_model(recipe, stage, checkpoint, Tell(console.print, doing), keep)


class _Writer:
    """Every completion as a line of JSON."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def __call__(
        self, prompt: Prompt, rollouts: Sequence[Rollout], samples: Sequence[EvalSample]
    ) -> None:
        for rollout, one in zip(rollouts, samples, strict=True):
            line: dict[str, Any] = {
                "distribution": one.distribution,
                "uid": f"{one.uid:016x}",
                "sample": None if one.sample < 0 else one.sample,
                "forced_mode": one.mode if one.forced else None,
                "prompt": prompt.text,
                "completion": rollout.text,
                "answer": prompt.columns.get("answer"),
                "correct": one.correct,
                "length": one.length,
                "truncated": one.truncated,
                "thinks": one.thinks,
            }
            self._file.write(json.dumps(line, ensure_ascii=False, default=repr) + "\n")


# Metric -> heading and form, in the table's order; those that are not there are left out.
_COLUMNS = {
    "accuracy": ("accuracy", ".3f"),
    "pass_rate": ("avg@{samples}", ".3f"),
    "pass_at": ("pass@{k}", ".3f"),
    "length": ("mean length", ".1f"),
    "length_correct": ("length correct", ".1f"),
    "length_wrong": ("length wrong", ".1f"),
    "truncated": ("truncated", ".3f"),
    "think_rate": ("thinks", ".3f"),
    "forced": ("{mode} forced", ".3f"),
    "hybrid_accuracy": ("hybrid accuracy", ".3f"),
}


def _columns(stage: TrainingStage) -> list[tuple[str, str, str]]:
    """(kind of metric, heading, form)."""

    found = []
    for kind, (heading, form) in _COLUMNS.items():
        if kind == "pass_at":
            ks = [k for k in stage.evaluation.pass_at_k if k > 1]
            found += [(f"pass_at_{k}", heading.format(k=k), form) for k in ks]
        elif kind == "forced":
            found += [(f"forced_{m}", heading.format(mode=m), form) for m in stage.prompt.modes]
        else:
            found.append((kind, heading.format(samples=stage.evaluation.samples), form))
    return found


def _print(console: Console, stage: TrainingStage, metrics: Mapping[str, float]) -> None:
    names = [key.removeprefix("eval/length/") for key in metrics if key.startswith("eval/length/")]
    names = [*(name for name in names if name != "mean"), "mean"]
    if len(names) == 2:  # of one distribution the mean is itself
        names.pop()
    shown = [
        one for one in _columns(stage) if any(f"eval/{one[0]}/{name}" in metrics for name in names)
    ]
    table = Table(
        "distribution",
        *(heading for _, heading, _ in shown),
        title=f"held-out prompts of {stage.name}",
    )
    for name in names:
        values = [(metrics.get(f"eval/{kind}/{name}"), form) for kind, _, form in shown]
        table.add_row(
            name, *("-" if value is None else f"{value:{form}}" for value, form in values)
        )
    console.print(table)
    if unjudged := metrics.get("eval/unjudged/sum"):
        console.print(f"{unjudged:.0f} completions could not be judged and count nowhere")
