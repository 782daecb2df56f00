"""`rlcurric check`: all that can be known of a recipe before its weights are loaded."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from rlcurric.build import Parts, RunData
from rlcurric.build.trial import KINDS, Problem, affected, grade_golds, sample, try_rewards
from rlcurric.cli.console import make_console
from rlcurric.cli.live import Doing
from rlcurric.cli.overlap import tell_overlaps
from rlcurric.data import Row
from rlcurric.recipe.endings import check_schedules
from rlcurric.recipe.load import load_recipe
from rlcurric.recipe.schema import Recipe
from rlcurric.recipe.stages import StageBase, TrainingStage
from rlcurric.recipe.written import writer_of
from rlcurric.train.named import downloads, name_environment
from rlcurric.train.trackers import check_trackers

GRADED = KINDS[:3]  # gold, empty, garbage
TRIED = 4  # rows a distribution on which every reward is tried
SHOWN = 10  # lines on what is wrong
MAX_GOLD = 20_000  # rows a distribution whose gold answers are graded


def run_check(recipe: str, overrides: Sequence[str], overlay: str | None = None) -> int:
    """Names and arguments of every part, data, held-out split, prompt lengths, gold answers against the verifier."""
    console = make_console()
    resolved = load_recipe(recipe, overrides, overlay)
    name_environment(resolved)
    if needed := downloads(resolved):
        console.print(
            f"from the Hugging Face hub, downloaded at the first use and kept: {'; '.join(needed)}",
            highlight=False,
            soft_wrap=True,
        )
    with Doing(console) as doing:
        doing("binding names and arguments")
        parts = Parts(resolved)
        try:
            wrong = _check(console, resolved, parts, doing)
        finally:
            parts.close()
    if wrong:
        shown = "\n".join(one.line for one in wrong[:SHOWN])
        more = f"\n  and {len(wrong) - SHOWN} lines more" if len(wrong) > SHOWN else ""
        raise ValueError(
            f"{affected(wrong)} completions are not graded as they should be:\n{shown}{more}"
        )
    console.print(
        "Gold answers score 1, empty and garbage completions 0; rewards give the same scores again. Held-out rows are in "
        "no training set.",
        soft_wrap=True,
    )
    return 0


def _check(console: Console, recipe: Recipe, parts: Parts, doing: Doing) -> list[Problem]:
    """All of it: ValueError for a mistake in the recipe; what rewards do wrong with its rows."""
    parts.validate()
    doing("loading torch and transformers")
    from rlcurric.train.models import (
        check_named_models,
        context_length,
        model_config,
        set_environment,
        tokenizer_of,
    )

    set_environment(recipe)
    tokenizer = tokenizer_of(recipe)
    doing("reading data")
    context = context_length(recipe, model_config(recipe))
    data = RunData(recipe, tokenizer, context, parts.needs_demonstrations)
    check_named_models(recipe)
    check_trackers(recipe.run.trackers)
    said = check_schedules(recipe)
    for stage in recipe.stages:
        waits = data.waits_for(stage)
        if waits:
            console.print(
                f"note: stage {stage.name} reads what {', '.join(sorted(set(waits.values())))} writes; its rows are checked "
                "when it begins",
                soft_wrap=True,
            )
            continue
        doing(f"checking prompts and curriculum of stage {stage.name}")
        data.check_prompts(
            stage,
            parts.columns(stage),
            parts.columns(stage, graded=True),
        )
        doubtful = (*said[stage.name], *data.doubts(stage))
        for sentence in (*doubtful, *parts.try_curriculum(stage, data.pool(stage))):
            console.print(f"warning: {sentence}", highlight=False, soft_wrap=True)
        asked = isinstance(stage, TrainingStage) and stage.evaluation.at_end
        if asked and not data.held_out(stage):
            console.print(
                f"note: nothing is held out for the evaluation of stage {stage.name}; set "
                "distributions.NAME.held_out",
                soft_wrap=True,
            )
    console.print(
        f"recipe {recipe.name}: {len(recipe.stages)} stages, {_steps(recipe)}; parts, data and "
        "prompts ok",
        highlight=False,
        soft_wrap=True,
    )
    doing("comparing evaluation sets with training data")
    tell_overlaps(console, data.overlaps())
    wrong = _grade_golds(console, recipe, parts, data, doing)
    return wrong or _try_rewards(console, recipe, parts, data, doing)


def _steps(recipe: Recipe) -> str:
    if recipe.is_planned:
        return f"{recipe.total_steps} steps"
    return "ending by what is seen of them"


def _grade_golds(
    console: Console, recipe: Recipe, parts: Parts, data: RunData, doing: Doing
) -> list[Problem]:
    """Grade every row's gold answer, an empty completion and garbage; what is graded wrongly."""
    table = Table(
        "distribution", "train", "held out", "left out", "gold = 1", "empty = 0", "garbage = 0"
    )
    wrong: list[Problem] = []
    for name in recipe.distributions:
        if writer_of(recipe, name) is not None:
            continue
        user = next((one for one in recipe.stages if name in _used_by(one)), None)
        if user is None:
            console.print(f"note: no stage uses the distribution {name}")
            continue
        counts, trial = data.counts(name), parts.trial(user).without_services()
        graded = _answered(data, name)
        rows = {name: graded[:MAX_GOLD]} if graded else {}
        golds = grade_golds(trial, rows, parts.pool(), GRADED, doing)
        shares = [golds[name].share(kind) if name in golds else "-" for kind in GRADED]
        left_out = counts.read - counts.train - counts.held_out
        table.add_row(name, *map(str, (counts.train, counts.held_out, left_out)), *shares)
        wrong += [problem for one in golds.values() for problem in one.wrong]
    console.print(table)
    return wrong


def _used_by(stage: StageBase) -> tuple[str, ...]:
    """Distributions that a stage takes rows from: to train on, and to be evaluated on."""
    return (*stage.mixture, *(stage.evaluated_on if isinstance(stage, TrainingStage) else ()))


def _try_rewards(
    console: Console, recipe: Recipe, parts: Parts, data: RunData, doing: Doing
) -> list[Problem]:
    """Call every reward but services on a few rows, again and in another order; what goes wrong."""
    wrong: list[Problem] = []
    tried: set[str] = set()
    for stage in recipe.stages:
        trial = parts.trial(stage)
        for name in trial.services:
            if name not in tried:
                console.print(
                    f"note: the reward {name} is a service and is not called here; `rlcurric rewards test` does",
                    soft_wrap=True,
                )
        local = trial.without_services()
        key = f"{[one.reference for one in local.components]} {local.args} {stage.mixture}"
        if local.components and key not in tried:
            rows = {
                name: sample(graded, TRIED)
                for name in stage.mixture
                if writer_of(recipe, name) is None and (graded := _answered(data, name))
            }
            tried_here = try_rewards(local, rows, [parts.pool()], timed=False, tell=doing)
            wrong += tried_here.problems
        tried |= {key, *trial.services}
    return wrong


def _answered(data: RunData, name: str) -> list[Row]:
    """The rows of a distribution that can be graded: those that are only imitated may have no answer."""
    return [row for row in data.rows(name) if "answer" in row.columns]
