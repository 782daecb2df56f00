"""`rlcurric preflight`."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from rlcurric.cli.clock import clock
from rlcurric.cli.console import make_console
from rlcurric.cli.files import check_output
from rlcurric.recipe.load import load_recipe
from rlcurric.recipe.stages import RlStage
from rlcurric.registry import nearest


def run_preflight(
    recipe: str,
    overrides: Sequence[str],
    overlay: str | None,
    checkpoint: Path | None,
    stage_name: str | None,
    prompts: int,
    samples: int | None,
    output: Path | None,
    report: Path | None,
) -> int:
    """Measure an RL stage's prompts under a model and say what to change."""
    console = make_console()
    resolved = load_recipe(recipe, overrides, overlay)
    stages = {stage.name: stage for stage in resolved.stages if isinstance(stage, RlStage)}
    if not stages:
        raise ValueError(f"The recipe {resolved.name} has no stage of kind rl to look at")
    name = stage_name or next(iter(stages))
    if name not in stages:
        raise ValueError(f"--stage: no RL stage {name!r}. {nearest(name, stages)}")
    for option, file in (("--output", output), ("--report", report)):
        check_output(option, file)
    stage = stages[name]
    if stage.rollout.engine == "replay":
        raise ValueError(f"The stage {name} replays recorded rollouts; there is nothing to sample")
    from rlcurric.curriculum.measured import measured_line
    from rlcurric.eval.preflight import HISTOGRAM, advice, as_dict, preflight

    def say(text: str) -> None:
        console.print(text, soft_wrap=True)

    found = preflight(resolved, stage, checkpoint, prompts, samples, say)
    table = Table(
        *("distribution", "rate", "prompts by rate", "signal", "cut", "format", "tokens"),
        title=f"{found.group_size} samples a prompt, as stage {name} would draw them",
    )
    width = len(str(max(one.prompts for one in found.distributions)))
    for one in found.distributions:
        table.add_row(
            *(one.name, f"{one.pass_rate:.3f}"),
            " ".join(f"{count:>{width}}" for count in one.histogram),
            *(f"{one.informative:.2f}", f"{one.truncated:.2f}"),
            *("-" if one.format_rate is None else f"{one.format_rate:.2f}", f"{one.length:.1f}"),
        )
    console.print(table)
    say(
        f"Prompts by pass rate: {', '.join(HISTOGRAM)}. Signal: share of groups with right and wrong samples; cut: of "
        "completions that were truncated."
    )
    say(
        f"{found.tokens_per_second:.0f} tokens/s. {_steps(stage)} of this stage: about "
        f"{clock(found.rollout_seconds)} of rollouts (without refill) and {clock(found.update_seconds)} of updates"
    )
    for sentence in advice(found, stage):
        say(f"warning: {sentence}")
    if output is not None:
        output.write_text("".join(map(measured_line, found.outcomes)), encoding="utf-8")
        from_recipe = os.path.relpath(output.resolve(), Path(resolved.base_dir).resolve())
        say(
            f"wrote {len(found.outcomes)} prompts to {output}: stages.{name}.curriculum.warm_start={from_recipe}"
        )
    if report is not None:
        report.write_text(json.dumps(as_dict(found), indent=1) + "\n", encoding="utf-8")
    return 0


def _steps(stage: RlStage) -> str:
    return "One step" if stage.planned_steps is None else f"{stage.planned_steps} steps"
