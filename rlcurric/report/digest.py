"""A run, digested: small frozen records that figures, tables and sentences draw from.

Nothing here draws, and nothing that draws reads files. A run of 1,000 steps and 100,000 rollouts is a few megabytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlcurric.recipe.schema import Recipe
from rlcurric.report.events import Event, tell_events
from rlcurric.report.outcomes import Outcomes, fold
from rlcurric.report.prompts import PromptStory, tell_prompts
from rlcurric.report.recorded import (
    Condition,
    Gap,
    Recorded,
    Row,
    number_of,
    read_lines,
    read_recorded,
)
from rlcurric.report.rollouts import GROUPS, RolloutSample, read_rollouts
from rlcurric.train.rundir import DECISIONS, METRICS

_NAMES = ("step", "stage_step", "policy_version")  # numbers of a row that measure nothing


@dataclass(frozen=True)
class StageSpan:
    """A stage of the recipe, and where in the run it was."""

    name: str
    kind: str  # "" where no recipe tells
    first: int | None  # step; None: it took none
    last: int | None
    reason: str  # the key of `until` that ended it; "" if it was not ended
    planned: int | None  # steps, where they are known


@dataclass(frozen=True)
class Series:
    """One metric where it was measured."""

    steps: np.ndarray  # int64, rising
    values: np.ndarray  # float64, no NaN
    starts: tuple[
        int, ...
    ] = ()  # first steps of stages: what is averaged stays on its side of them

    def __bool__(self) -> bool:
        return bool(len(self.steps))


@dataclass(frozen=True)
class Digest:
    """What a report, or a comparison, tells of a run."""

    name: str
    path: Path
    condition: Condition
    recipe: Recipe | None
    info: Mapping[str, Any]  # run.json
    stages: tuple[StageSpan, ...]
    stage_of: tuple[str, ...]  # of every step
    steps: np.ndarray  # int64, rising: steps that metrics tell of
    columns: Mapping[str, np.ndarray]  # metric -> a value a step, NaN where it was not measured
    distributions: tuple[str, ...]  # in the recipe's order, all that any record names
    outcomes: Outcomes
    prompts: tuple[PromptStory, ...]
    rollouts: RolloutSample
    events: tuple[Event, ...]
    gaps: tuple[Gap, ...]

    @property
    def starts(self) -> tuple[int, ...]:
        """First steps of the stages, rising."""
        return tuple(sorted(one.first for one in self.stages if one.first is not None))

    def series(self, key: str) -> Series:
        """A metric; empty where it was never measured."""
        column = self.columns.get(key)
        if column is None:
            return Series(np.zeros(0, np.int64), np.zeros(0), self.starts)
        known = ~np.isnan(column)
        return Series(self.steps[known], column[known], self.starts)

    def family(self, prefix: str) -> dict[str, Series]:
        """The metrics below a prefix, by the rest of their keys; those with a distribution's name in its order."""
        order = {name: at for at, name in enumerate(self.distributions)}
        rests = [key.removeprefix(prefix) for key in self.columns if key.startswith(prefix)]
        rests.sort(key=lambda rest: order.get(rest, len(order)))
        return {rest: self.series(prefix + rest) for rest in rests}

    def total(self, key: str) -> float:
        """The sum of a metric over the run."""
        return float(self.series(key).values.sum())

    def pass_rates(self, distribution: str) -> tuple[Series, np.ndarray]:
        """Share of a distribution's samples that passed, by step, and how many there were (1 where nobody knows)."""
        samples = self.outcomes.samples.get(distribution)
        if samples is None:
            series = self.series(f"curriculum/pass_rate/{distribution}")
            return series, np.ones(len(series.steps))
        known = samples > 0
        rates = self.outcomes.solved[distribution][known] / samples[known]
        return Series(self.outcomes.steps[known], rates, self.starts), samples[known]


def digest_run(run_dir: str | Path, groups: int = GROUPS, *, metrics_only: bool = False) -> Digest:
    """Digest a run directory in whatever state; `groups` of rollouts at most keep their texts.

    With `metrics_only` decisions and rollouts are not looked at: no outcomes, no prompts, no texts.
    ValueError if it is no run directory.
    """
    recorded = read_recorded(run_dir)
    gaps = list(recorded.gaps)
    if metrics_only:
        (outcomes, _), rollouts = fold([]), RolloutSample()
    else:
        outcomes = _outcomes(recorded, gaps)
        rollouts = read_rollouts(recorded.path, recorded.recipe, recorded.metrics, gaps, groups)
    columns = _columns(recorded.metrics, gaps)
    recipe = recorded.recipe
    return Digest(
        name=recipe.name if recipe else str(recorded.info.get("name", recorded.path.name)),
        path=recorded.path,
        condition=recorded.condition,
        recipe=recipe,
        info=recorded.info,
        stages=_stages(recorded),
        stage_of=tuple(str(row.get("stage", "")) for row in recorded.metrics),
        steps=np.array([row["step"] for row in recorded.metrics], dtype=np.int64),
        columns=columns,
        distributions=_distributions(recipe, columns, outcomes),
        outcomes=outcomes,
        prompts=tuple(tell_prompts(outcomes.histories, _rate_at(outcomes))),
        rollouts=rollouts,
        events=tell_events(recorded.events),
        gaps=tuple(gaps),
    )


def _outcomes(recorded: Recorded, gaps: list[Gap]) -> Outcomes:
    expected = gaps if _decides(recorded) else []
    outcomes, unreadable = fold(read_lines(recorded.path, DECISIONS, expected, _NO_DECISIONS))
    if unreadable:
        gaps.append(Gap(DECISIONS, f"{unreadable} groups cannot be read and are left out"))
    return outcomes


_NO_DECISIONS = "pass rates by prompt, and what became of groups"


def _decides(recorded: Recorded) -> bool:
    """Whether there should be decisions: a step of RL was taken, or nobody can tell."""
    if recorded.recipe is None or not recorded.metrics:
        return True
    rl = {stage.name for stage in recorded.recipe.stages if stage.kind == "rl"}
    return any(row.get("stage") in rl for row in recorded.metrics)


def _columns(rows: Sequence[Row], gaps: list[Gap]) -> dict[str, np.ndarray]:
    """Every key that is a number in some row, as a column over all of them; infinite ones and NaN become a gap."""
    found: dict[str, np.ndarray] = {}
    lost, first = 0, ""
    for at, row in enumerate(rows):
        for key, value in row.items():
            if key in _NAMES or not isinstance(value, int | float):
                continue
            if key not in found:
                found[key] = np.full(len(rows), np.nan)
            number = found[key][at] = number_of(value)
            if np.isnan(number):
                lost, first = lost + 1, first or f"{key} at step {row['step']}"
    if lost:
        what = "value that is" if lost == 1 else "values that are"
        where = first if lost == 1 else f"the first is {first}"
        gaps.append(
            Gap(METRICS, f"has {lost:,} {what} infinite, NaN or beyond float32, left out: {where}")
        )
    return found


def _stages(recorded: Recorded) -> tuple[StageSpan, ...]:
    """Stages of the recipe in its order, or those that the metrics name."""
    spans: dict[str, list[int]] = {}
    for row in recorded.metrics:
        spans.setdefault(str(row.get("stage", "")), []).append(row["step"])
    ends = {
        row["stage"]: str(row.get("reason", ""))
        for row in recorded.events
        if row.get("event") == "stage_ended" and isinstance(row.get("stage"), str)
    }
    known: dict[str, tuple[str, int | None]] = {}
    if recorded.recipe is not None:
        for one in recorded.recipe.stages:
            known[one.name] = (one.kind, one.planned_steps)
    else:
        for name in spans:
            known[name] = ("", None)
    return tuple(
        StageSpan(
            name=name,
            kind=kind,
            first=min(spans[name]) if name in spans else None,
            last=max(spans[name]) if name in spans else None,
            reason=ends.get(name, ""),
            planned=planned,
        )
        for name, (kind, planned) in known.items()
    )


def _distributions(
    recipe: Recipe | None, columns: Iterable[str], outcomes: Outcomes
) -> tuple[str, ...]:
    """Names in the recipe's order, then others that records name; those that nothing was measured of are left out."""
    pattern = re.compile(r"(?:curriculum/(?:probability|pass_rate)|eval/accuracy)/(?!mean$)(.+)")
    seen = [match[1] for key in columns if (match := pattern.fullmatch(key))]
    seen += outcomes.distributions
    order = [name for name in recipe.distributions if name in seen] if recipe else []
    return tuple(dict.fromkeys([*order, *seen]))


def _rate_at(outcomes: Outcomes) -> dict[str, dict[int, float]]:
    """Pass rates by distribution and step."""
    return {
        name: {
            int(step): solved / samples
            for step, solved, samples in zip(
                outcomes.steps, outcomes.solved[name], outcomes.samples[name], strict=True
            )
            if samples
        }
        for name in outcomes.samples
    }
