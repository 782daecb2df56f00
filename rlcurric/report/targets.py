"""When a measured curve reaches a target, and what many such times come to. Pure.

A curve reaches a target where the straight line between two evaluations crosses it, if the evaluation behind the
crossing and the next one are both at or above it: one lucky evaluation does not count. A run that never does is
censored: in medians it is later than all that do.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence


def crossing(values: Sequence[float], target: float) -> float | None:
    """Place in the curve, counted in evaluations from 0, where it reaches the target; None: it never does."""
    for place, (value, following) in enumerate(itertools.pairwise(values)):
        if min(value, following) >= target:
            if place == 0:
                return 0.0
            before = values[place - 1]
            return place - 1 + (target - before) / (value - before)
    return None


def held(values: Sequence[float]) -> float | None:
    """The highest target that the curve reaches; None with fewer than two evaluations."""
    return max(map(min, itertools.pairwise(values)), default=None)


def between(positions: Sequence[float], place: float) -> float:
    """A position on the straight line between two evaluations, by a place in the curve."""
    left = math.floor(place)
    if left == place:
        return float(positions[left])
    return float(positions[left] + (place - left) * (positions[left + 1] - positions[left]))


def median_time(values: Sequence[float | None]) -> float | None:
    """The median with censored values (None) as later than all others; None where it is censored itself.

    Of an even number the upper middle one, so that it never is the mean of a number and a censored one.
    """
    ranked = sorted(math.inf if value is None else value for value in values)
    middle = ranked[len(ranked) // 2]
    return None if math.isinf(middle) else middle
