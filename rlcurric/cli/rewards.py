"""`rlcurric rewards test`: rewards tried without a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from rlcurric.assets import shipped_recipes
from rlcurric.build import Parts, read_distributions
from rlcurric.build.trial import KINDS, TIMEOUTS, Report, Rows, Trial, affected, sample, try_rewards
from rlcurric.cli.console import make_console
from rlcurric.cli.live import Doing
from rlcurric.cli.rows import RowOptions, source_of
from rlcurric.data import Place, Row, content_hash, require_columns
from rlcurric.recipe.load import load_recipe, parse_yaml
from rlcurric.recipe.schema import Recipe
from rlcurric.recipe.stages import StageBase, SupervisedStage
from rlcurric.recipe.written import evaluated_instead
from rlcurric.registry import nearest, registry
from rlcurric.rewards.protocol import discover_builtin, get_reward
from rlcurric.seeds import hash64

SHOWN = 10  # lines on what is wrong
_OPTIONS = {  # what a message says of a source -> where a command without a recipe has it
    "`columns": "--columns",
    "answer_pattern ": "--answer-pattern",
    "drop_unanswered": "--drop-unanswered",
}
_EXAMPLE = "--columns question=problem,answer=solution --answer-pattern '#### (.*)'"
_ALONE = "rewards"  # name of the stage that a reward on its own is put into


@dataclass(frozen=True)
class Options:
    """What the command line says beside the target."""

    rows: int = 32  # of each distribution
    data: Path | None = None  # rows for a reward on its own
    columns: str | None = None  # ours=theirs,...: these three as in a recipe's source
    answer_pattern: str | None = None
    drop_unanswered: bool = False
    gold: str | None = None
    correctness: bool = False
    workers: int | None = None
    deadline: float | None = None


def run_rewards_test(target: str, settings: Sequence[str], options: Options) -> int:
    """Exit code 0 where every reward passes, 1 where one does not."""
    if options.gold is not None and "{answer}" not in options.gold:
        raise ValueError(f"--gold: a text with {{answer}} in it is required, got {options.gold!r}")
    discover_builtin()
    console = make_console()
    alone = _names_a_reward(target)
    if alone:
        recipe = _recipe_of(target, settings, options)
    else:
        for option, given in _only_alone(options).items():
            if given:
                raise ValueError(f"{option} is for a reward; the recipe {target} says it itself")
        recipe = load_recipe(target, [*settings, *_grading(options)])
    try:
        with Doing(console) as doing:
            doing("binding rewards")
            parts = Parts(recipe)
            try:
                doing("reading rows")
                rows = _rows(recipe, options, alone)
                reports = [
                    _tried(console, stage, parts, _of(recipe, stage, rows), options, alone, doing)
                    for stage in _stages(recipe)
                ]
            finally:
                parts.close()
    except ValueError as error:
        place = f"stages.{_ALONE}.rewards"
        text = str(error)
        raise ValueError(
            text.removeprefix(f"{place}.").removeprefix(f"{place}: ") if alone else text
        ) from error
    if any(report.problems for report in reports):
        console.print(_failed(reports, rows, options), markup=False, soft_wrap=True)
        return 1
    console.print("passed")
    return 0


def _only_alone(options: Options) -> dict[str, object]:
    """Options that are for a reward without a recipe."""
    return {
        "--data": options.data,
        "--columns": options.columns,
        "--answer-pattern": options.answer_pattern,
        "--drop-unanswered": options.drop_unanswered,
        "--correctness": options.correctness,
    }


def _failed(reports: Sequence[Report], rows: Rows, options: Options) -> str:
    """How many completions are not judged as they should be, and why."""
    lines = [problem.line for report in reports for problem in report.problems]
    count = sum(affected(report.problems) for report in reports)
    of = sum(report.completions for report in reports)
    told = [f"FAILED: {count} of {of} completions are not judged as they should be:"]
    told += lines[:SHOWN]
    if len(lines) > SHOWN:
        told.append(f"  and {len(lines) - SHOWN} lines more")
    answers = [str(row.columns.get("answer")) for some in rows.values() for row in some]
    if options.data and options.answer_pattern is None and any("####" in one for one in answers):
        told.append(
            "Gold answers here hold '####': --answer-pattern '#### (.*)' takes what stands behind it."
        )
    return "\n".join(told)


def _names_a_reward(target: str) -> bool:
    """Whether the target is a reward; ValueError where it is no recipe either."""
    if ":" in target:
        return True
    if target in registry("reward"):
        return True
    if Path(target).suffix == ".py":
        raise ValueError(f"{target}: say which function of the file, {target}:FUNCTION")
    if Path(target).exists() or Path(target).suffix in (".yaml", ".yml"):
        return False
    if target in shipped_recipes():
        return False
    known = [*registry("reward"), *shipped_recipes()]
    raise ValueError(
        f"No reward and no recipe {target!r}. {nearest(target, known)} A reward of yours is FILE.py:function"
    )


def _recipe_of(name: str, settings: Sequence[str], options: Options) -> Recipe:
    """A recipe around one reward."""
    component: dict[str, object] = {"name": name}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key:
            raise ValueError(f"An argument of a reward is written KEY=VALUE, got {setting!r}")
        component[key] = parse_yaml(text, f"the value of {key}") if text.strip() else ""
    stage: dict[str, object] = {
        "name": _ALONE,
        "mixture": ["rows"],
        "rewards": [component],
        "until": {"steps": 1},
    }
    if options.correctness or get_reward(name).correctness:
        stage["correct"] = name.rpartition(":")[2]
    recipe = {
        "name": "rewards",
        "model": {"architecture": {}, "tokenizer": {"characters": "0"}},
        "distributions": {"rows": {"source": _source(options)}},
        "stages": [stage],
    }
    return load_recipe(recipe, _grading(options))


def _source(options: Options) -> dict[str, object]:
    """The file's source, as a recipe would have it."""
    given = options.columns, options.answer_pattern, options.drop_unanswered
    source = source_of(RowOptions(str(options.data), *given))
    if options.data is None and any(given):
        raise ValueError(
            "--columns, --answer-pattern and --drop-unanswered are for the rows of --data"
        )
    return source


def _grading(options: Options) -> list[str]:
    given = {"workers": options.workers, "deadline": options.deadline}
    return [f"grading.{key}={value}" for key, value in given.items() if value is not None]


def _rows(recipe: Recipe, options: Options, alone: bool) -> Rows:
    """A few rows of every distribution; sums where a reward on its own is given none."""
    if alone and options.data is None:
        return {"rows": [_sum(k) for k in range(options.rows)]}
    try:
        found = read_distributions(recipe)
    except ValueError as error:
        if not alone:
            raise
        text = str(error).removeprefix("distributions.rows.source: ")
        named = [option for said, option in _OPTIONS.items() if said in text]
        hint = f" Without a recipe: {', '.join(named)}, as in {_EXAMPLE}"
        hint = hint if named else ""
        raise ValueError(text + hint) from error
    return {name: sample(one.train + one.held_out, options.rows) for name, one in found.items()}


def _sum(k: int) -> Row:
    question, answer = f"{17 * k + 3} + {k + 9} =", str(18 * k + 12)
    columns = {"question": question, "answer": answer}
    place = Place("made-up sum", k + 1)
    return Row(hash64("sum", k), content_hash(question), columns, place)


def _stages(recipe: Recipe) -> list[StageBase]:
    """One stage of all that grade alike."""
    alike = {
        f"{stage.rewards} {stage.correct} {stage.mixture} {stage.prompt.prefill}": stage
        for stage in reversed(recipe.stages)
    }
    return list(reversed(alike.values()))


def _tried(
    console: Console,
    stage: StageBase,
    parts: Parts,
    rows: Rows,
    options: Options,
    alone: bool,
    doing: Doing,
) -> Report:
    """Try the rewards of a stage and print what came of it."""
    if not alone:
        console.print(f"stage {stage.name}")
        parts.rubric(stage)
    trial = parts.trial(stage, options.gold)
    for some in rows.values():
        _require(some, parts, stage, alone and options.data is None)
    with parts.pool(stage.grading.workers + 1) as other:
        report = try_rewards(trial, rows, [parts.pool(), other], tell=doing)
    _print(console, trial, report)
    return report


def _of(recipe: Recipe, stage: StageBase, rows: Rows) -> Rows:
    """The rows that the stage's rewards grade: not what it only imitates; of written rows those that they are made of."""
    own = {name: rows[name] for name in evaluated_instead(recipe, stage.mixture)}
    if not isinstance(stage, SupervisedStage):
        return own
    return {name: [row for row in some if "answer" in row.columns] for name, some in own.items()}


def _require(rows: Sequence[Row], parts: Parts, stage: StageBase, made_up: bool) -> None:
    try:
        require_columns(rows, parts.columns(stage))
    except ValueError as error:
        hint = " Give rows that have it with --data." if made_up else ""
        raise ValueError(f"{error}{hint}") from None


def _print(console: Console, trial: Trial, report: Report) -> None:
    if report.golds:
        golds = Table("distribution", "gold = 1", "empty = 0", "garbage = 0", "another's = 0")
        for name, one in report.golds.items():
            golds.add_row(name, *(one.share(kind) for kind in KINDS))
        console.print(golds)
        for writing in dict.fromkeys(one.writing for one in report.golds.values()):
            users = [name for name, one in report.golds.items() if one.writing == writing]
            console.print(
                f"gold answers of {', '.join(users)} are written {writing!r}",
                markup=False,
                soft_wrap=True,
            )
    else:
        console.print("No reward verifies correctness here: none is held to gold answers.")
    calls = Table("reward", "where", "scope", "calls", "p50 ms", "p99 ms")
    for component in trial.components:
        took = report.seconds[component.name]
        p50, p99 = 1000 * np.percentile(took, [50, 99])
        reward = component.reward
        calls.add_row(
            *(component.name, reward.where, reward.scope, str(len(took))),
            *(f"{p50:.2f}", f"{p99:.2f}"),
        )
    console.print(calls)
    for name in report.untimed:
        console.print(
            f"{name} was timed no further: {TIMEOUTS} calls had no answer in time", soft_wrap=True
        )
    counts = ", ".join(f"{count} {status}" for status, count in sorted(report.statuses.items()))
    console.print(f"{report.completions} completions: {counts}", soft_wrap=True)
    same = [way for way in report.compared if not any(way in one.line for one in report.unlike)]
    console.print(f"the same scores {', '.join(same) or 'in no way'}", soft_wrap=True)
