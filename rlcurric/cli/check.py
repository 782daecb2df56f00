"""`rlcurric check`: all that can be known of a recipe before its weights are loaded."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from rlcurric.recipe.load import load_recipe

MAX_GOLD = 20_000  # rows a distribution whose gold answers are graded


def run_check(recipe: str, overrides: Sequence[str]) -> int:
    """Names and arguments of every part, data, held-out split, prompt lengths, gold answers against the verifier."""
    console = Console()
    resolved = load_recipe(recipe, overrides)
    from rlcurric.rewards.runner import start_forkserver

    start_forkserver()
    from rlcurric.build import Parts, RunData
    from rlcurric.train.models import context_length, model_config, set_environment, tokenizer_of

    set_environment(resolved)
    parts = Parts(resolved)
    try:
        parts.validate()
        console.print(
            f"recipe {resolved.name}: {len(resolved.stages)} stages, {resolved.total_steps} steps; parts ok"
        )
        tokenizer = tokenizer_of(resolved)
        data = RunData(resolved, tokenizer, context_length(resolved, model_config(resolved)))
        table = Table(
            "distribution",
            "train",
            "held out",
            "removed as held out elsewhere",
            "gold",
            "empty",
            "garbage",
        )
        wrong: list[str] = []
        for stage in resolved.stages:
            data.check_prompts(stage)
        for name in resolved.distributions:
            sizes = data.sizes(name)
            stage = next((stage for stage in resolved.stages if name in stage.mixture), None)
            grades = ("-", "-", "-")
            if stage is not None:
                gold = parts.grade_gold(stage, data.rows(name)[:MAX_GOLD], console)
                grades = tuple(f"{sum(scores)}/{len(scores)}" for scores in gold.scores)  # type: ignore[assignment]
                wrong += gold.problems
            table.add_row(name, str(sizes.train), str(sizes.held_out), str(sizes.removed), *grades)
        console.print(table)
    finally:
        parts.close()
    if wrong:
        shown = "\n".join(wrong[:10])
        raise ValueError(f"{len(wrong)} rows are not graded as they should be; the first:\n{shown}")
    console.print(
        "Gold answers score 1, empty and garbage completions 0. Held-out rows are in no training set."
    )
    return 0
