"""Signals: what one group says, by hand and in expectation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlcurric.curriculum.samplers import Sec, Ucb
from rlcurric.curriculum.signals import (
    abs_advantage,
    abs_deviation,
    absolute_advantages,
    learnability,
    pass_rate,
    rollout_signals,
    variance,
)
from rlcurric.registry import registry
from tests.outcomes import of

PAIR = {"a": 1.0, "b": 1.0}


@pytest.mark.parametrize(
    ("values", "expected"),
    [  # |A|, |deviation|, variance, unbiased variance, mean
        ([1, 0, 0, 0], (math.sqrt(3) / 2, 0.375, 0.1875, 0.25, 0.25)),
        ([1, 1, 0, 0], (1.0, 0.5, 0.25, 1 / 3, 0.5)),
        ([2, 0], (1.0, 1.0, 1.0, 2.0, 1.0)),
        ([0.1, 0.1, 0.1], (0.0, 0.0, 0.0, 0.0, 0.1)),
        ([0.7], (0.0, 0.0, 0.0, 0.0, 0.7)),
        ([], (0.0,) * 5),
    ],
)
def test_signals_by_hand(values: list[float], expected: tuple[float, ...]) -> None:
    signals = (abs_advantage, abs_deviation, variance, learnability, pass_rate)
    assert [signal(values) for signal in signals] == pytest.approx(list(expected))
    assert [registry("signal").get(signal.__name__) for signal in signals] == list(signals)


@pytest.mark.parametrize(("p", "mean"), [(0.02, 0.101), (0.1, 0.419), (0.3, 0.824), (0.5, 0.928)])
def test_the_std_of_a_group_is_the_population_one(p: float, mean: float) -> None:
    """Expected |A| of groups of 8; under Bessel's std it would be 0.094, 0.392, 0.771, 0.868."""
    expected = binomial_mean(lambda k: abs_advantage([1.0] * k + [0.0] * (8 - k)), p)
    assert expected == pytest.approx(mean, abs=5e-4)


@given(p=st.floats(0, 1))
def test_learnability_is_unbiased(p: float) -> None:
    expected = binomial_mean(lambda k: learnability([1.0] * k + [0.0] * (8 - k)), p)
    assert expected == pytest.approx(p * (1 - p), abs=1e-12)


def binomial_mean(value: Callable[[int], float], p: float, n: int = 8) -> float:
    return sum(math.comb(n, k) * p**k * (1 - p) ** (n - k) * value(k) for k in range(n + 1))


@given(
    values=st.lists(st.integers(-5, 5).map(float), min_size=2, max_size=16),
    power=st.integers(-100, 100),
)
def test_advantages_do_not_depend_on_the_scale(values: list[float], power: int) -> None:
    scaled = [value * 2.0**power for value in values]
    assert absolute_advantages(scaled) == pytest.approx(absolute_advantages(values), abs=1e-12)
    assert abs_advantage(values) <= 1 + 1e-12


def test_a_group_counts_as_many_times_as_it_has_rollouts() -> None:
    shaped = replace(of("a", 1, 0, 0, 0), rewards=(2.0, 0.0, 0.0, 2.0))
    assert rollout_signals(shaped, variance) == [0.1875] * 4
    assert rollout_signals(shaped, variance, "reward") == [1.0] * 4


def test_a_signal_of_your_own() -> None:
    """A function of the values; one that gives no number is named."""

    def most(values: Sequence[float]) -> float:
        return max(values)

    sampler = Sec(PAIR, signal=most, signal_from="reward")
    sampler.observe([replace(of("a", 1, 0), rewards=(0.25, 4.0))])
    assert sampler.scores() == {"a": 2.0, "b": 0.0}
    broken = Ucb(PAIR, signal=lambda values: math.nan)
    with pytest.raises(ValueError, match=r"must be a finite number, got nan for the values \[1"):
        broken.observe([of("a", 1, 0)])
