"""`rlcurric simulate`."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from rlcurric.cli.console import make_console
from rlcurric.cli.files import check_output
from rlcurric.cli.live import Doing
from rlcurric.recipe.load import load_recipe
from rlcurric.recipe.schema import Recipe
from rlcurric.recipe.stages import RlStage
from rlcurric.registry import nearest
from rlcurric.simulate.fit import fit_learner
from rlcurric.simulate.record import Record
from rlcurric.simulate.replay import replay, replay_pools
from rlcurric.simulate.run import Walk, require_ends
from rlcurric.simulate.settings import load_learner
from rlcurric.simulate.tell import (
    Table,
    learner_table,
    replay_rows,
    replay_sentences,
    replay_tables,
    simulation_rows,
    simulation_sentences,
    simulation_tables,
    stage_rows,
)
from rlcurric.simulate.world import read_world, sampled_by
from rlcurric.train.named import name_environment

MISSING = ("skip", "model", "stop")
SEEDS = 3


@dataclass(frozen=True)
class Options:
    """What the command line says beside the recipe."""

    learner: Path | None = None
    origin: Path | None = None  # --from
    replay: Path | None = None
    missing: str | None = None
    window: int | None = None
    seeds: int | None = None
    rows: tuple[str, ...] = ()
    steps: int | None = None
    output: Path | None = None


def run_simulate(
    recipe: str, overrides: Sequence[str], overlay: str | None, options: Options
) -> int:
    """Print what would be sampled, what starves, when stages end; or what another curriculum does on a record."""
    _check(options)
    resolved = load_recipe(recipe, overrides, overlay)
    if not any(isinstance(stage, RlStage) for stage in resolved.stages):
        raise ValueError(
            f"The recipe {resolved.name} has no stage of kind rl: there is no curriculum to simulate"
        )
    console = make_console()
    if options.replay is not None:
        return _replay(console, resolved, options, options.replay)
    return _simulate(console, resolved, options)


def _check(options: Options) -> None:
    """ValueError for options that do not go together."""
    if options.missing is not None and options.missing not in MISSING:
        raise ValueError(
            f"--missing: unknown {options.missing!r}. {nearest(options.missing, MISSING)}"
        )
    of_simulation: tuple[tuple[str, object], ...] = (
        ("--learner", options.learner),
        ("--from", options.origin),
        ("--steps", options.steps),
        ("--rows", options.rows or None),
    )
    of_replay: tuple[tuple[str, object], ...] = (
        ("--missing", options.missing),
        ("--window", options.window),
    )
    for option, value in of_simulation if options.replay is not None else ():
        if value is not None:
            raise ValueError(
                f"{option} is for simulated learners; --replay takes the record's rollouts"
            )
    for option, value in of_replay if options.replay is None else ():
        if value is not None:
            raise ValueError(
                f"{option} says what a replay does where the record has no answer; give --replay RUN"
            )
    check_output("--output", options.output, ".csv", ".json")


def _simulate(console: Console, recipe: Recipe, options: Options) -> int:
    require_ends(recipe, options.steps)
    names = sampled_by(recipe)
    spec = load_learner(options.learner, names, list(recipe.distributions), graded_columns(recipe))
    said = []
    if options.origin is not None:
        record = Record(options.origin)
        spec, fitted = fit_learner(spec, record)
        told = ", ".join(f"{one.name} {one.pass_rate:.2f} ({one.groups} groups)" for one in fitted)
        said.append(f"starting pass rates fitted to {options.origin}: {told}")
        if rest := [name for name in names if name not in {one.name for one in fitted}]:
            said.append(
                f"{options.origin} has not sampled {', '.join(rest)}: as the learner has them"
            )
    elif options.learner is None:
        said.append(
            "no learner was named: distributions count as given from easy to hard, see the table; --learner FILE or --from RUN "
            "says how it is"
        )
    results = []
    with Doing(console) as doing:
        doing("reading rows")
        world = read_world(recipe, names, options.rows)
        seeds = options.seeds or SEEDS
        for number in range(seeds):
            seed = f"seed {number + 1} of {seeds}"

            def hear(
                row: Mapping[str, Any], lines: Sequence[Mapping[str, Any]], seed: str = seed
            ) -> None:
                doing(f"{seed}, {row['stage']}, step {row['step']}")

            walk = Walk(recipe, world, spec, recipe.seed + number, options.steps, hear)
            results.append(walk.run())
    said = [*world.notes, *said, *assumptions(recipe)]
    warnings = simulation_sentences(recipe, results)
    _say(console, "note", said)
    _show(console, [learner_table(spec, names), *simulation_tables(recipe, world, results)])
    _say(console, "warning", warnings)
    if options.output is not None:
        about = {
            "recipe": recipe.name,
            "seeds": [one.seed for one in results],
            "notes": said,
            "warnings": warnings,
            "rows": {name: world.sizes[name] for name in names},
            "learner": spec.model_dump(mode="json"),
            "stages": stage_rows(results),
        }
        _write(console, options.output, simulation_rows(results), about)
    return 0


def _replay(console: Console, recipe: Recipe, options: Options, run: Path) -> int:
    record = Record(run)
    window, missing = (
        options.window if options.window is not None else 10,
        options.missing or "skip",
    )
    name_environment(recipe)
    seed = record.recipe.seed
    with Doing(console) as doing:
        doing("reading rows")
        pools, notes = replay_pools(recipe, run)
        found = []
        for number in range(options.seeds or 1):
            doing(f"replaying {len(record.lines)} steps")
            found.append(replay(recipe, record, pools, window, missing, seed + number))  # type: ignore[arg-type]
    given = {"recipe": recipe.name, "run": str(run)}
    for number, one in enumerate(found):
        if len(found) > 1:
            _say(console, f"seed {seed + number}", ["the run's own" if not number else "another"])
        _show(console, replay_tables(one, given))
        _say(console, "note", [*notes, *replay_sentences(one, window, missing)])
    if options.output is not None:
        rows = [
            {"seed": seed + number, **row}
            for number, one in enumerate(found)
            for row in replay_rows(one)
        ]
        about = {
            **given,
            "window": window,
            "missing": missing,
            "identical": found[0].identical,
            "first_difference": found[0].first_difference,
            "notes": [*notes, *dict.fromkeys(note for one in found for note in one.notes)],
            "stages": [vars(stage) for stage in found[0].stages],
        }
        _write(console, options.output, rows, about)
    return 0


def graded_columns(recipe: Recipe) -> dict[str, str]:
    """The column by which a scorer of the recipe tells how hard rows are, by distribution."""
    return {
        name: str(part.args.get("column", "difficulty"))
        for stage in recipe.stages
        if isinstance(stage, RlStage)
        for part in stage.curriculum.scorer
        if part.name == "adarft"
        for name in stage.mixture
    }


def assumptions(recipe: Recipe) -> list[str]:
    """What a simulation leaves out of this recipe."""
    said = []
    stages = [one for one in recipe.stages if isinstance(one, RlStage)]
    if any(len(stage.rewards) > 1 for stage in stages):
        said.append(
            "rewards are correctness alone: what reads rewards sees no format, length or style"
        )
    others = [one.name for one in recipe.stages if one.kind in ("sft", "dpo", "rejection")]
    if others:
        said.append(
            f"stages that teach otherwise pass, their steps count, abilities stay: {', '.join(others)}"
        )
    if any(part.name == "pcl" for stage in stages for part in stage.curriculum.scorer):
        said.append("a predictor that knows the curves, with noise, stands in for the value model")
    return said


def _say(console: Console, head: str, sentences: Iterable[str]) -> None:
    for sentence in sentences:
        console.print(f"{head}: {sentence}", highlight=False, markup=False, soft_wrap=True)


def _show(console: Console, tables: Iterable[Table]) -> None:
    """Tables in a terminal; elsewhere columns without rules."""
    for one in tables:
        console.print(f"\n{one.title}", highlight=False, markup=False, soft_wrap=True)
        shown = RichTable(box=box.HEAVY_HEAD if console.is_terminal else None)
        for place, column in enumerate(one.columns):
            shown.add_column(Text(column), justify="right" if place else "left")
        for row in one.rows:
            shown.add_row(*map(Text, row))
        console.print(shown)


def _write(
    console: Console, file: Path, rows: Sequence[Mapping[str, Any]], about: Mapping[str, Any]
) -> None:
    """Every step as a row of CSV; as JSON all that is known."""
    text = io.StringIO()
    if file.suffix == ".csv":
        writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    else:
        text.write(json.dumps({**about, "steps": list(rows)}, indent=1) + "\n")
    try:
        file.write_text(text.getvalue(), encoding="utf-8")
    except OSError as error:
        raise ValueError(
            f"--output: {file} cannot be written: {error.strerror}. Name another file"
        ) from None
    _say(console, "wrote", [f"{len(rows)} rows to {file}"])
