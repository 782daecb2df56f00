"""`rlcurric check`: all that can be known of a recipe before its weights are loaded."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from rlcurric.cli.console import make_console
from rlcurric.recipe.load import load_recipe

MAX_GOLD = 20_000  # rows a distribution whose gold answers are graded


def run_check(recipe: str, overrides: Sequence[str]) -> int:
    """Names and arguments of every part, data, held-out split, prompt lengths, gold answers against the verifier."""
    console = make_console()
    resolved = load_recipe(recipe, overrides)
    from rlcurric.build import Parts, RunData
    from rlcurric.train.models import (
        check_named_models,
        context_length,
        model_config,
        set_environment,
        tokenizer_of,
    )

    set_environment(resolved)
    parts = Parts(resolved)
    try:
        parts.validate()
        tokenizer = tokenizer_of(resolved)
        data = RunData(resolved, tokenizer, context_length(resolved, model_config(resolved)))
        table = Table(
            "distribution", "train", "held out", "left out", "gold = 1", "empty = 0", "garbage = 0"
        )
        wrong: list[str] = []
        check_named_models(resolved)
        for stage in resolved.stages:
            data.check_prompts(stage, parts.columns(stage), parts.needs_demonstrations(stage))
            for sentence in parts.try_curriculum(stage, data.pool(stage)):
                console.print(f"warning: {sentence}", highlight=False, soft_wrap=True)
            if stage.evaluation.at_end and not data.held_out(stage):
                console.print(
                    f"note: nothing is held out for the evaluation of stage {stage.name}; set "
                    "distributions.NAME.held_out",
                    soft_wrap=True,
                )
        console.print(
            f"recipe {resolved.name}: {len(resolved.stages)} stages, {resolved.total_steps} steps; parts, data and "
            "prompts ok",
            highlight=False,
            soft_wrap=True,
        )
        for name in resolved.distributions:
            user = next((one for one in resolved.stages if name in one.mixture), None)
            if user is None:
                console.print(f"note: no stage uses the distribution {name}")
                continue
            counts, rows = data.counts(name), data.rows(name)[:MAX_GOLD]
            graded = parts.grade_gold(user, name, rows)
            wrong += graded.problems
            table.add_row(
                name,
                str(counts.train),
                str(counts.held_out),
                str(counts.read - counts.train - counts.held_out),
                f"{sum(score == 1 for score in graded.gold)}/{len(rows)}",
                f"{sum(score == 0 for score in graded.empty)}/{len(rows)}",
                f"{sum(score == 0 for score in graded.garbage)}/{len(rows)}",
            )
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
