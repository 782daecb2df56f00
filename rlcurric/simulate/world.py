"""The prompts of a recipe without a tokenizer: rows that are on this machine, and stand-ins for those that are not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from rlcurric import seeds
from rlcurric.build import distribution_specs
from rlcurric.data import DistributionSpec, Row, load_available, load_later
from rlcurric.data.sources import StageSource
from rlcurric.recipe.schema import Recipe
from rlcurric.recipe.stages import RlStage, ScreenStage, StageBase
from rlcurric.recipe.written import writer_of
from rlcurric.registry import nearest
from rlcurric.schedules import Progress
from rlcurric.simulate.learner import Learner
from rlcurric.train.named import hub_datasets
from rlcurric.train.rundir import dataset_name
from rlcurric.types import Candidate, Prompt

ROWS = 1000  # of a distribution that is not on this machine, where nothing is said
GRADED = "difficulty"  # column of a stand-in


@dataclass(frozen=True)
class Rows:
    """The training rows of one distribution."""

    name: str
    size: int
    rows: tuple[Row, ...] | None = None  # None: stand-ins
    missing: str = ""  # why they are stand-ins

    def uid(self, index: int) -> int:
        if self.rows is None:
            return seeds.hash64("simulate", self.name, index)
        return self.rows[index].uid


@dataclass(frozen=True)
class World:
    """Rows of every distribution that a stage samples."""

    distributions: Mapping[str, Rows]
    notes: tuple[str, ...] = ()  # what is assumed of them

    @property
    def sizes(self) -> dict[str, int]:
        return {name: one.size for name, one in self.distributions.items()}

    def ranks(self, columns: Mapping[str, str | None]) -> dict[str, np.ndarray]:
        """Where every row stands from easy to hard by a column, in (0, 1); stand-ins have none. ValueError for a row without."""
        found = {}
        for name, column in columns.items():
            one = self.distributions.get(name)
            if column is None or one is None or one.rows is None:
                continue
            for row in one.rows:
                value = row.columns.get(column)
                if isinstance(value, bool) or not isinstance(value, int | float):
                    raise ValueError(
                        f"distribution {name!r}, {row.place}: a number is required in the column {column!r}, by which the "
                        f"learner orders its prompts, got {value!r}. {nearest(column, row.columns)}"
                    )
            value_N = np.array([row.columns[column] for row in one.rows], dtype=np.float64)
            _, place_N, count_M = np.unique(value_N, return_inverse=True, return_counts=True)
            middle_M = np.cumsum(count_M) - count_M / 2  # rows of one value share a place
            found[name] = middle_M[place_N] / len(value_N)
        return found

    def pool(self, stage: StageBase, learner: Learner | None = None) -> WorldPool:
        """The prompts of a stage; without a learner stand-ins have no column."""
        return WorldPool({name: self.distributions[name] for name in stage.mixture}, learner)


@dataclass
class WorldPool:
    """`types.PromptPool`; a prompt's text is empty, and its one token the row's index.

    A stand-in's only column says how hard it is: 100 times the chance of not being solved at the start.
    """

    rows: Mapping[str, Rows]
    learner: Learner | None = None
    _grades: dict[str, np.ndarray] = field(default_factory=dict)

    @cached_property
    def sizes(self) -> Mapping[str, int]:
        return {name: one.size for name, one in self.rows.items()}

    def candidate(self, distribution: str, index: int) -> Candidate:
        one = self.rows[distribution]
        columns: Mapping[str, Any] = (
            self._stand_in(distribution, index) if one.rows is None else one.rows[index].columns
        )
        return Candidate(one.uid(index), distribution, index, columns)

    def prompt(
        self, distribution: str, index: int, progress: Progress | None = None, hint: int = 0
    ) -> Prompt:
        one = self.rows[distribution]
        return Prompt(one.uid(index), distribution, (index,), "", {}, hint=hint)

    def _stand_in(self, distribution: str, index: int) -> dict[str, float]:
        if self.learner is None:
            return {}
        if distribution not in self._grades:
            self._grades[distribution] = 100 * (1 - self.learner.start_rates(distribution))
        return {GRADED: float(self._grades[distribution][index])}


def sampled_by(recipe: Recipe) -> list[str]:
    """Distributions that RL and screen stages sample, in the recipe's order."""
    used = {
        name
        for stage in recipe.stages
        if isinstance(stage, RlStage | ScreenStage)
        for name in stage.mixture
    }
    return [name for name in recipe.distributions if name in used]


def parse_rows(given: Sequence[str], names: Sequence[str]) -> tuple[int | None, dict[str, int]]:
    """`--rows`: a size for all that are not here, and sizes of named ones; ValueError for what is neither."""
    every: int | None = None
    named: dict[str, int] = {}
    for text in given:
        name, equals, number = text.rpartition("=")
        if not number.isdigit() or int(number) < 1:
            raise ValueError(f"--rows: N or NAME=N is required, N at least 1, got {text!r}")
        if not equals:
            every = int(number)
        elif name not in names:
            raise ValueError(f"--rows: unknown distribution {name!r}. {nearest(name, names)}")
        else:
            named[name] = int(number)
    return every, named


def read_world(
    recipe: Recipe,
    names: Sequence[str],
    given: Sequence[str] = (),
    remote: bool = False,
    written: Path | None = None,
) -> World:
    """Rows of these distributions: read where they are on this machine, else as many stand-ins as `given` says.

    `given`: what `--rows` says. `remote`: also read data sets of the hub. `written`: a run directory, whose stages may
    have written rows.
    """
    every, named = parse_rows(given, names)
    hub = {} if remote else hub_datasets(recipe)
    missing = {name: f"{hub[name]} is on the hub" for name in names if name in hub}
    for name in names:
        writer = writer_of(recipe, name)
        if writer is not None:
            missing[name] = f"the stage {writer.name} writes them"
    left_out = {*missing, *named, *hub}
    found, failed = load_available(
        [one for one in distribution_specs(recipe) if one.name not in left_out]
    )
    for name in [name for name in missing if writer_of(recipe, name) is not None]:
        file = None if written is None else written_rows(recipe, name, written)
        if file is not None and file.is_file():
            source = StageSource(file.stem, str(file))
            spec = DistributionSpec(name, source, 0, recipe.distributions[name].max_rows)
            found[name] = load_later(spec, found.values())
            del missing[name]
    missing |= {name: why for name, why in failed.items() if name in names}
    missing |= dict.fromkeys(named, "--rows says so")
    distributions, notes = {}, []
    for name in names:
        if name in missing:
            most = recipe.distributions[name].max_rows
            size = named.get(name) or min(every or ROWS, most or every or ROWS)
            distributions[name] = Rows(name, size, None, missing[name])
            continue
        rows = found[name].train
        if not rows:
            raise ValueError(
                f"distributions.{name}: no row is left to train on; {found[name].counts}"
            )
        distributions[name] = Rows(name, len(rows), rows)
        if recipe.distributions[name].overlong == "drop":
            notes.append(
                f"rows of {name} that are too long for the context are not left out (overlong: drop): that takes the tokenizer"
            )
    return World(distributions, (*_told(distributions), *notes))


def written_rows(recipe: Recipe, name: str, run: Path) -> Path:
    """The file of the rows that a stage of a run has written for a distribution."""
    writer = writer_of(recipe, name)
    assert writer is not None
    return run / dataset_name(writer.name)


def _told(distributions: Mapping[str, Rows]) -> list[str]:
    """A sentence for the distributions that stand-ins stand for, by reason."""
    reasons: dict[str, list[str]] = {}
    for name, one in distributions.items():
        if one.rows is None:
            reasons.setdefault(one.missing, []).append(f"{name} {one.size}")
    return [f"rows assumed, since {why}: {', '.join(said)}" for why, said in reasons.items()]
