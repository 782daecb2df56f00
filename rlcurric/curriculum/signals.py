"""What one group of rollouts says of its distribution: pure functions of the group's values.

Values are verified correctness, or rewards where a sampler is told so. The convention for the standard deviation of a
group is here and nowhere else: population, so that for 0/1 values of pass rate q the mean |A| is 2 sqrt(q (1 - q)).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from rlcurric.registry import register, registry
from rlcurric.types import GroupOutcome

Signal = Callable[[Sequence[float]], float]
SignalFrom = Literal["correct", "reward"]
SIGNAL_SOURCES = ("correct", "reward")


@register("signal", "abs_advantage")
def abs_advantage(values: Sequence[float]) -> float:
    """Mean |A| under population std: 2 sqrt(q (1 - q)) for 0/1 values, whatever the scale of the values.

    What DUMP (arXiv 2504.09710) and SEC (arXiv 2505.14970) learn from.
    """
    return _mean(absolute_advantages(values))


@register("signal", "abs_deviation")
def abs_deviation(values: Sequence[float]) -> float:
    """Mean |r - mean|: the advantage without a std (Dr. GRPO, arXiv 2503.20783; PCL, arXiv 2510.01135).

    2 q (1 - q) for 0/1 values. It has the scale of the values, so a temperature has to be chosen for it.
    """
    return _mean(np.abs(_deviations(values)))


@register("signal", "variance")
def variance(values: Sequence[float]) -> float:
    """Population variance: q (1 - q) for 0/1 values."""
    return _mean(_deviations(values) ** 2)


@register("signal", "learnability")
def learnability(values: Sequence[float]) -> float:
    """Sample variance, the unbiased estimate of p (1 - p): k (n - k) / (n (n - 1)) for k of n right; 0 for one value.

    LILO (arXiv 2502.12272) ranks prompts by p (1 - p).
    """
    return variance(values) * len(values) / (len(values) - 1) if len(values) > 1 else 0.0


@register("signal", "pass_rate")
def pass_rate(values: Sequence[float]) -> float:
    """The mean."""
    return _mean(values)


def absolute_advantages(values: Sequence[float]) -> list[float]:
    """|A| of one group under population std; zeros for a group without variance.

    For 0/1 values their mean is 2 sqrt(q (1 - q)) at pass rate q.
    """
    size = np.abs(_deviations(values))
    if not len(size) or size.max() == 0:
        return [0.0] * len(size)
    relative = size / size.max()  # so that squares neither vanish nor overflow
    result: list[float] = (relative / np.sqrt(np.mean(relative**2))).tolist()
    return result


def signal_called(signal: str | Signal) -> Signal:
    """The registered signal of that name, or the function itself; ValueError for an unknown name."""
    if isinstance(signal, str):
        found: Signal = registry("signal").get(signal)
        return found
    return signal


def group_signal(
    outcome: GroupOutcome, signal: Signal = pass_rate, signal_from: SignalFrom = "correct"
) -> tuple[float, int]:
    """`(value, n)`: the signal of one group and the rollouts that it is of; ValueError unless it is finite."""
    values = outcome.correct if signal_from == "correct" else outcome.rewards
    value = float(signal(values))
    if not math.isfinite(value):
        name = getattr(signal, "__name__", repr(signal))
        raise ValueError(
            f"The signal {name} must be a finite number, got {value} for the values {list(values)}"
        )
    return value, len(values)


def rollout_signals(
    outcome: GroupOutcome, signal: Signal = pass_rate, signal_from: SignalFrom = "correct"
) -> list[float]:
    """The signal of a group once for each of its rollouts, for statistics that count rollouts."""
    value, n = group_signal(outcome, signal, signal_from)
    return [value] * n


def _deviations(values: Sequence[float]) -> np.ndarray:
    """Values minus their mean, float64; exactly 0 for values that are all the same."""
    array = np.asarray(values, dtype=np.float64)
    if not len(array) or array.min() == array.max():
        return np.zeros(len(array))
    centred: np.ndarray = array - array.mean()
    return centred


def _mean(values: Sequence[float] | np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else 0.0
