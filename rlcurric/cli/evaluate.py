"""`rlcurric eval`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from rlcurric.cli.console import make_console
from rlcurric.recipe.load import load_recipe


def run_eval(
    recipe: str,
    overrides: Sequence[str],
    overlay: str | None,
    checkpoint: Path | None,
    stage_name: str | None,
    output: Path | None,
) -> int:
    """Held-out accuracy of a model, as a stage of the recipe prompts, samples and grades."""
    console = make_console()
    resolved = load_recipe(recipe, overrides, overlay)
    names = [stage.name for stage in resolved.stages]
    if stage_name is not None and stage_name not in names:
        raise ValueError(f"--stage: unknown stage {stage_name!r}. Known: {', '.join(names)}")
    if output is not None and not output.resolve().parent.is_dir():
        raise ValueError(f"--output: there is no folder {output.resolve().parent}")
    if output is not None and output.is_dir():
        raise ValueError(f"--output: {output} is a folder; name a file")
    from rlcurric.eval.standalone import evaluate_model

    stage = resolved.stages[names.index(stage_name) if stage_name else -1]
    metrics = evaluate_model(resolved, stage, checkpoint, console.print)
    table = Table(
        "distribution",
        "accuracy",
        "mean length",
        "truncated",
        title=f"held-out prompts of {stage.name}",
    )
    for key in metrics:
        if key.startswith("eval/accuracy/"):
            name = key.removeprefix("eval/accuracy/")
            row = [metrics[f"eval/{kind}/{name}"] for kind in ("accuracy", "length", "truncated")]
            table.add_row(name, f"{row[0]:.3f}", f"{row[1]:.1f}", f"{row[2]:.3f}")
    console.print(table)
    if output is not None:
        output.write_text(json.dumps(metrics, indent=1), encoding="utf-8")
    return 0
