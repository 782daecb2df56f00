"""How far every run and group came: what it took to reach a target of a held-out metric, and where it ended. Pure."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rlcurric.registry import nearest
from rlcurric.report.compare.bands import mean_interval, median_interval
from rlcurric.report.compare.groups import Group
from rlcurric.report.compare.runs import AXES, Run
from rlcurric.report.targets import between, crossing, held, median_time

DEFAULT = "eval/accuracy/mean"
Interval = tuple[float | None, float | None]


@dataclass(frozen=True)
class Target:
    """A level of a metric."""

    metric: str
    level: float
    rising: bool = True  # at least; else at most
    chosen: bool = (
        False  # by this program, as the highest level that every group reaches on average
    )

    def __str__(self) -> str:
        return f"{self.metric} {'≥' if self.rising else '≤'} {self.level:.6g}"


@dataclass(frozen=True)
class RunReach:
    """What became of the target in one run."""

    run: Run
    at: dict[str, float]  # axis -> where it was reached; empty where it was not
    best: float | None  # value; None where it was never measured
    final: float | None

    @property
    def reached(self) -> bool:
        return bool(self.at)


@dataclass(frozen=True)
class GroupReach:
    """The same of a group: medians over its runs."""

    group: Group
    runs: tuple[RunReach, ...]
    at: dict[
        str, tuple[float | None, Interval]
    ]  # axis -> median and its interval; None: not reached
    best: float | None  # of all its runs
    final: tuple[float, Interval] | None  # mean of the last values

    @property
    def reached(self) -> int:
        return sum(one.reached for one in self.runs)


def parse_target(text: str, runs: Sequence[Run]) -> Target:
    """`METRIC>=VALUE` or `METRIC<=VALUE`; ValueError for anything else, and for a metric that no run measured."""
    match = re.fullmatch(r"\s*(\S+?)\s*([<>])=\s*([^\s=]+)\s*", text)
    try:
        level = float(match[3]) if match else math.nan
    except ValueError:
        level = math.nan
    if match is None or not math.isfinite(level):
        raise ValueError(f"--target is written METRIC>=VALUE, such as {DEFAULT}>=0.8, got {text!r}")
    metric = match[1]
    known = {key for run in runs for key in run.digest.columns if run.digest.series(key)}
    if metric not in known:
        held_out = {key for key in known if key.startswith("eval/")}
        raise ValueError(
            f"--target: no run measured {metric!r}. {nearest(metric, held_out or known)}"
        )
    return Target(metric, level, rising=match[2] == ">")


def default_target(groups: Sequence[Group]) -> Target | None:
    """The highest mean held-out accuracy that every group reaches, the mean over its runs, in steps of 0.001; None where one has none."""
    levels = []
    for group in groups:
        every = [held(run.digest.series(DEFAULT).values.tolist()) for run in group.runs]
        known = [level for level in every if level is not None]
        if not known:
            return None
        levels.append(statistics.fmean(known))
    level = math.floor(min(levels) * 1000 + 1e-9) / 1000
    return Target(DEFAULT, level, chosen=True)


def reach(groups: Sequence[Group], target: Target) -> tuple[GroupReach, ...]:
    return tuple(_group(group, target) for group in groups)


def _group(group: Group, target: Target) -> GroupReach:
    runs = tuple(_run(run, target) for run in group.runs)
    measured = [one for one in runs if one.final is not None]
    at = {}
    for axis in AXES:
        if measured and all(axis in one.run.axes for one in measured):
            times = [one.at.get(axis) for one in measured]
            at[axis] = (median_time(times), median_interval(times))
    bests = [one.best for one in measured if one.best is not None]
    finals = [one.final for one in measured if one.final is not None]
    pick = max if target.rising else min
    return GroupReach(group, runs, at, pick(bests, default=None), mean_of(finals))


def _run(run: Run, target: Target) -> RunReach:
    series = run.digest.series(target.metric)
    if not series:
        return RunReach(run, {}, None, None)
    sign = 1.0 if target.rising else -1.0
    place = crossing((sign * series.values).tolist(), sign * target.level)
    at = {}
    if place is not None:
        at = {axis: between(run.positions(series.steps, axis).tolist(), place) for axis in run.axes}
    best = float(sign * np.max(sign * series.values))
    return RunReach(run, at, best, float(series.values[-1]))


def mean_of(values: Sequence[float]) -> tuple[float, Interval] | None:
    """Mean and interval; without one for a single value, None for none."""
    if not values:
        return None
    if len(values) == 1:
        return values[0], (None, None)
    low, high = mean_interval(np.array(values)[:, None])
    return statistics.fmean(values), (float(low[0]), float(high[0]))
