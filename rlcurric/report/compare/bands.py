"""Means over runs with intervals: the percentile bootstrap over runs. Pure.

R runs, X places of a grid, B resamples. An interval is taken from the resampled statistics themselves, never from
between two of them. With two or three runs it spans the lowest and the highest of them: each comes by itself alone in
more than 2.5 % of the resamples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from rlcurric import seeds
from rlcurric.report.targets import median_time

LEVEL = 0.95
RESAMPLES = 1000
SEED = 0
Line = tuple[np.ndarray, np.ndarray]  # x rising, y


@dataclass(frozen=True)
class Band:
    """A mean over runs and its interval."""

    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


@cache
def _drawn(runs: int) -> np.ndarray:
    """Which runs every resample has: B x R, the same for every metric."""
    return seeds.philox(SEED, "bootstrap", runs).integers(runs, size=(RESAMPLES, runs))


def mean_interval(values_RX: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper end of the interval of the mean over R, for each of X."""
    R = len(values_RX)
    counts_BR = np.stack([(_drawn(R) == run).sum(axis=1) for run in range(R)], axis=1)
    return _ends(values_RX.T @ counts_BR.T / R)


def median_interval(times: Sequence[float | None]) -> tuple[float | None, float | None]:
    """Interval of `median_time`; None where an end is of resamples that never reach it."""
    values = np.array([math.inf if one is None else one for one in times])
    ranked = np.sort(values[_drawn(len(values))], axis=1)
    low, high = _ends(ranked[:, len(values) // 2])
    return median_time([float(low)]), median_time([float(high)])


def _ends(resampled_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The smallest values that 2.5 % and 97.5 % of the resamples (the last dimension) do not exceed."""
    tail = (1 - LEVEL) / 2
    low, high = (math.ceil(round(share * RESAMPLES, 9)) - 1 for share in (tail, 1 - tail))
    ranked = np.partition(resampled_B, [low, high], axis=-1)
    return ranked[..., low], ranked[..., high]


def band_of(lines: Sequence[Line], points: int) -> Band | None:
    """The mean of several lines where all of them are, on their own places or at most `points` even ones."""
    low, high = max(x[0] for x, _ in lines), min(x[-1] for x, _ in lines)
    if low > high:
        return None
    every = np.unique(np.concatenate([x for x, _ in lines]))
    grid = every[(every >= low) & (every <= high)]
    if len(grid) > points:
        grid = np.linspace(low, high, points)
    values_RX = np.stack([np.interp(grid, x, y) for x, y in lines])
    return Band(grid, values_RX.mean(axis=0), *mean_interval(values_RX))
