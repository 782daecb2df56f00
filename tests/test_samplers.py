"""Samplers: what holds for every one of them, and bandits by hand."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlcurric.build.binding import validated
from rlcurric.curriculum.parts import Sampler
from rlcurric.curriculum.samplers import (
    Cyclical,
    E2h,
    EasyToHard,
    LearningProgress,
    ProCurl,
    Sec,
    Ucb,
    Uniform,
    softmax_with_floor,
    ucb_bonus,
)
from rlcurric.curriculum.signals import (
    variance,
)
from rlcurric.curriculum.state import as_json
from rlcurric.schedules import Linear, Progress
from rlcurric.testing import MIXTURE, check_part
from rlcurric.types import GroupOutcome
from tests.outcomes import DISTRIBUTIONS, of, solved, steps_of_outcomes

START = Progress(0, 0, 100)
PAIR = {"a": 1.0, "b": 1.0}
Make = Callable[[dict[str, float]], Sampler]
SAMPLERS: dict[str, tuple[Make, float]] = {  # with the floor that each has
    "ucb": (Ucb, 0.05),
    "ucb discount": (lambda mixture: Ucb(mixture, discount=0.9, window=20, floor=0.2), 0.2),
    "ucb reward": (
        lambda mixture: Ucb(mixture, signal="abs_deviation", signal_from="reward"),
        0.05,
    ),
    "sec": (Sec, 0.05),
    "sec decay": (lambda mixture: Sec(mixture, absent="decay", signal="learnability"), 0.05),
    "procurl": (ProCurl, 0.05),
    "learning_progress": (LearningProgress, 0.05),
    "e2h": (E2h, 0.0),
    "e2h cosine": (lambda mixture: E2h(mixture, "cosine", floor=0.1), 0.1),
    "e2h classic": (lambda mixture: E2h(mixture, "classic"), 0.0),
    "e2h balanced": (lambda mixture: E2h(mixture, "balanced"), 0.0),
    "cyclical": (lambda mixture: Cyclical(mixture, cycle_steps=3), 0.05),
    "easy_to_hard": (EasyToHard, 0.05),
}
every_sampler = pytest.mark.parametrize(
    ("make", "floor"), SAMPLERS.values(), ids=list(SAMPLERS.keys())
)


def at(time: float) -> Progress:
    return Progress(round(1000 * time), round(1000 * time), 1000)


# --- what holds for all -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [make for make, _ in SAMPLERS.values()], ids=list(SAMPLERS))
def test_samplers_keep_the_contract(make: Make) -> None:
    check_part("sampler", lambda: make(dict(MIXTURE)))


def test_the_mixture_keeps_the_contract() -> None:
    check_part("sampler", lambda: Uniform(MIXTURE))


@every_sampler
@settings(max_examples=10, deadline=None)
@given(steps=steps_of_outcomes(), shares=st.tuples(*[st.floats(0.01, 100)] * 2))
def test_chances_sum_to_1_and_keep_the_floor(
    make: Make, floor: float, steps: list[list[GroupOutcome]], shares: tuple[float, float]
) -> None:
    sampler = make(dict(zip(DISTRIBUTIONS, shares, strict=True)))
    for step, outcomes in enumerate(steps):
        chances = sampler.probabilities(Progress(step, step, 5))
        assert list(chances) == list(DISTRIBUTIONS)
        assert math.fsum(chances.values()) == pytest.approx(1, abs=1e-12)
        assert min(chances.values()) >= floor / 2
        sampler.observe(outcomes)
        assert all(math.isfinite(value) for value in sampler.metrics().values())


@every_sampler
@settings(max_examples=10, deadline=None)
@given(steps=steps_of_outcomes(), data=st.data())
def test_the_order_within_a_step_changes_nothing(
    make: Make, floor: float, steps: list[list[GroupOutcome]], data: st.DataObject
) -> None:
    one, other = (make(dict.fromkeys(DISTRIBUTIONS, 1.0)) for _ in range(2))
    for outcomes in steps:
        one.observe(outcomes)
        other.observe(data.draw(st.permutations(outcomes)))
    assert as_json(one.state_dict()) == as_json(other.state_dict())


@every_sampler
@settings(max_examples=10, deadline=None)
@given(steps=steps_of_outcomes())
def test_failed_and_too_late_groups_are_not_seen(
    make: Make, floor: float, steps: list[list[GroupOutcome]]
) -> None:
    """Not even by a step that holds nothing else, nor are groups of distributions that the stage does not have."""
    sampler, twin = (make(dict.fromkeys(DISTRIBUTIONS, 1.0)) for _ in range(2))
    for step, outcomes in enumerate(steps):
        sampler.observe([one for one in outcomes if one.correct and one.weight])
        twin.observe(outcomes)
        twin.observe([of("sums", 1, 0, uid=97, step=step + 3, weight=0.0)])
        twin.observe([of("algebra", uid=98, step=step + 3)])
        twin.observe([of("elsewhere", 1, 0, uid=99, step=step)])
    assert as_json(sampler.state_dict()) == as_json(twin.state_dict())


@pytest.mark.parametrize("temperature", [1e-6, 1e6])
@pytest.mark.parametrize(
    "make",
    [
        lambda heat: Ucb(PAIR, temperature=heat, signal="variance", signal_from="reward"),
        lambda heat: Sec(PAIR, temperature=heat, signal="pass_rate", signal_from="reward"),
        lambda heat: Sec(PAIR, temperature=heat, signal="abs_deviation", signal_from="reward"),
        lambda heat: ProCurl(PAIR, temperature=heat),
        lambda heat: LearningProgress(PAIR, temperature=heat),
        lambda heat: E2h(PAIR, sigma=heat, mu_exp=heat, floor=0.05),
        lambda heat: EasyToHard(PAIR, jitter=min(heat, 1.0)),
    ],
)
def test_extreme_numbers_stay_finite(make: Callable[[float], Sampler], temperature: float) -> None:
    sampler = make(temperature)
    for step in range(5):
        shaped = replace(of("a", 1, 0, 0, 1, step=step), rewards=(1e6, -1e6, 2e6, 2e6))
        sampler.observe([shaped, of("b", 0, 0, uid=2, step=step)])
        chances = sampler.probabilities(Progress(step, step, 5))
        assert math.fsum(chances.values()) == pytest.approx(1, abs=1e-12)
        assert all(0.025 <= chance <= 1 for chance in chances.values())
        assert all(math.isfinite(value) for value in sampler.metrics().values())


@every_sampler
def test_another_stage_takes_what_is_known_of_the_distributions_that_both_have(
    make: Make, floor: float
) -> None:
    """What it knows of the shared ones it goes on from; the new ones are as at the start."""
    first = make({"a": 1, "b": 1})
    for step in range(6):
        low, high = (solved(uid, k, step=step) for uid, k in ((1, 1), (2, 7 - step % 2)))
        first.observe([replace(low, distribution="a"), replace(high, distribution="b")])
    second, fresh = make({"new": 1, "b": 1}), make({"new": 1, "b": 1})
    second.load_state_dict(first.state_dict())
    before, after, start = first.metrics(), second.metrics(), fresh.metrics()
    assert set(after) == set(start)
    for key in after:
        if key.endswith("/b") and "ucb" not in key:  # its bonus depends on all counts
            assert after[key] == before[key] != start[key]
        if key.endswith("/new") and "ucb" not in key:
            assert after[key] == start[key]
    assert sum(second.probabilities(START).values()) == pytest.approx(1)


def test_ucb_brings_counts_and_windows_to_another_stage() -> None:
    first, second = Ucb(PAIR), Ucb({"new": 1, "b": 1})
    first.observe([of("a", 1, 0), of("b", 1, 1, 1, 0, uid=2)])
    second.load_state_dict(first.state_dict())
    expected = {
        "new": ucb_bonus(4, 0),
        "b": 2 * math.sqrt(0.75 * 0.25) + ucb_bonus(4, 4),
    }
    assert second.scores() == pytest.approx(expected)


BAD: list[tuple[Any, dict[str, Any], str]] = [
    (Ucb, {"window": 0}, "a window >= 1"),
    (Ucb, {"temperature": 0.0}, "a temperature > 0"),
    (Ucb, {"coefficient": -1.0}, "a coefficient >= 0"),
    (Ucb, {"discount": 0.0}, r"a discount in \(0, 1\]"),
    (Ucb, {"floor": 1.5}, r"a floor in \[0, 1\]"),
    (Ucb, {"signal": "abs_advantages"}, "Did you mean 'abs_advantage'"),
    (Ucb, {"signal_from": "length"}, "correct or reward"),
    (Sec, {"alpha": 0.0}, r"alpha in \(0, 1\]"),
    (Sec, {"absent": "forget"}, "hold or decay"),
    (Sec, {"initial": math.inf}, "finite"),
    (Sec, {"signal_from": "length"}, "correct or reward"),
    (ProCurl, {"alpha": 1.5}, r"alpha in \(0, 1\]"),
    (ProCurl, {"initial": -0.1}, r"an initial rate in \[0, 1\]"),
    (LearningProgress, {"slow": 0.3}, "slow < fast"),
    (E2h, {"schedule": "linear"}, "classic, balanced"),
    (E2h, {"p_min": 0.6}, r"p_min in \[0, 1/2\]"),
    (E2h, {"sigma": 0.0}, "sigma > 0"),
    (E2h, {"mu_exp": 0.0}, "mu_exp > 0"),
    (E2h, {"floor": -0.1}, "a floor"),
    (EasyToHard, {"order": ["a", "c"]}, "each distribution once"),
    (EasyToHard, {"jitter": 0.0}, r"a jitter in \(0, 1\]"),
    (Cyclical, {"cycle_steps": 0}, "cycle_steps >= 1"),
    (Cyclical, {"cycle_steps": 9, "start": 0.0}, "0 < start <= end <= 1"),
    (Cyclical, {"cycle_steps": 9, "end": 1.2}, "0 < start <= end <= 1"),
    (Cyclical, {"cycle_steps": 9, "alpha": 1.0}, r"alpha in \(0, 1\)"),
    (Cyclical, {"cycle_steps": 9, "smoothing": 0.0}, "smoothing"),
]


@pytest.mark.parametrize(("sampler", "arguments", "says"), BAD)
def test_settings_out_of_range_are_refused(
    sampler: Any, arguments: dict[str, Any], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        sampler(PAIR, **arguments)


@pytest.mark.parametrize("sampler", [Uniform, EasyToHard])
@pytest.mark.parametrize("mixture", [{}, {"a": 0.0}, {"a": 1.0, "b": -0.5}])
def test_mixtures_that_say_nothing_are_refused(sampler: Any, mixture: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="a mixture of shares >= 0, not all 0"):
        sampler(mixture)


def test_arguments_are_checked_as_a_recipe_writes_them() -> None:
    """Signals by name or as a function, temperatures as numbers or schedules."""
    given_ = {"temperature": Linear(1.0, 0.1), "signal": "variance", "floor": 0}
    assert validated(Sec, given_, "sampler", given=("mixture",)) == given_
    checked = validated(Ucb, {"signal": variance}, "sampler", given=("mixture",))
    assert checked["signal"] is variance
    with pytest.raises(ValueError, match=r"sampler\.absent"):
        validated(Sec, {"absent": "forget"}, "sampler", given=("mixture",))


def test_a_temperature_may_be_a_schedule() -> None:
    sampler = Sec(PAIR, temperature=Linear(1.0, 0.25), floor=0.0)
    sampler.observe([of("a", 1, 0)])
    for time, temperature in ((0.0, 1.0), (1.0, 0.25)):
        odds = math.exp(0.5 / temperature)
        assert sampler.probabilities(at(time))["a"] == pytest.approx(odds / (1 + odds))
    falling = Sec(PAIR, temperature=Linear(1.0, 0.0))
    with pytest.raises(ValueError, match="a temperature > 0, got 0"):
        falling.probabilities(at(1.0))


# --- softmax ----------------------------------------------------------------------------------------------------------


def test_softmax_by_hand() -> None:
    found = softmax_with_floor([0.0, math.log(3)], temperature=1.0, floor=0.2)
    assert found.tolist() == pytest.approx([0.8 * 0.25 + 0.1, 0.8 * 0.75 + 0.1])
    assert softmax_with_floor([5.0, 5.0], 1e-9).tolist() == [0.5, 0.5]


@settings(deadline=None)
@given(
    scores=st.lists(st.floats(-1e300, 1e300), min_size=1, max_size=6),
    temperature=st.floats(1e-300, 1e300),
    floor=st.floats(0, 1),
)
def test_softmax_is_stable(scores: list[float], temperature: float, floor: float) -> None:
    found = softmax_with_floor(scores, temperature, floor)
    assert math.fsum(found.tolist()) == pytest.approx(1, abs=1e-12)
    assert found.min() >= floor / len(scores)
    assert found[int(np.argmax(scores))] == found.max()


# --- bandits ----------------------------------------------------------------------------------------------------------


def test_ucb_counts_a_late_rollout_by_its_weight() -> None:
    """Window 2, 2 and 0, 0 of weight 1 and 1/2: mean 2 / 3; count 2 + 1."""
    sampler = Ucb(PAIR, window=4)
    sampler.observe([of("a", 1, 0), of("a", 1, 1, uid=2, weight=0.5)])
    state = sampler.state_dict()
    assert state["count"] == {"a": 3.0, "b": 0.0}
    assert sampler.scores()["a"] == pytest.approx(2 / 3 + math.sqrt(2 * math.log(4) / 4))
    sampler.observe([of("a", 1, 1, uid=3)])  # pushes the first group out
    assert sampler.scores()["a"] == pytest.approx(0 + math.sqrt(2 * math.log(6) / 6))


def test_ucb_with_a_discount_gives_the_bonus_back() -> None:
    """Counts 4, 0 halve before 2 more of b."""
    sampler = Ucb(PAIR, discount=0.5)
    sampler.observe([of("a", 1, 1, 0, 0)])
    sampler.observe([of("b", 1, 1)])
    assert sampler.state_dict()["count"] == {"a": 2.0, "b": 2.0}
    expected = {"a": 1 + math.sqrt(2 * math.log(5) / 3), "b": math.sqrt(2 * math.log(5) / 3)}
    assert sampler.scores() == pytest.approx(expected)


def test_sec_by_hand() -> None:
    """rho is over rollouts: two of |A| = 1 and four of sqrt(3) / 2."""
    sampler = Sec(PAIR, temperature=0.5, floor=0.1)
    sampler.observe([of("a", 1, 0), of("a", 1, 0, 0, 0, uid=2), of("b", 1, 1, uid=3)])
    value = 0.5 * (2 * 1 + 4 * math.sqrt(3) / 2) / 6
    assert sampler.scores() == {"a": pytest.approx(value), "b": 0.0}
    odds = math.exp(value / 0.5)
    found = sampler.probabilities(START)
    assert found["a"] == pytest.approx(0.9 * odds / (1 + odds) + 0.05)
    sampler.observe([of("a", 1, 0, uid=4)])
    assert sampler.scores()["a"] == pytest.approx(0.5 * value + 0.5)
    assert sampler.metrics()["curriculum/sec/a"] == sampler.scores()["a"]


@pytest.mark.parametrize(("absent", "after"), [("hold", 0.5), ("decay", 0.5 * 0.25)])
def test_sec_on_what_was_not_drawn(absent: Any, after: float) -> None:
    """Two steps without `a`; a step without any evidence is none."""
    sampler = Sec(PAIR, absent=absent)
    sampler.observe([of("a", 1, 0)])
    for uid in (2, 3):
        sampler.observe([of("b", 1, 0, uid=uid)])
        sampler.observe([])
    assert sampler.scores() == {"a": after, "b": 0.75}


def test_sec_discounts_late_evidence() -> None:
    """One fresh group of |A| = 1, one of 0 and weight 1/2: mean 2 / 3, trusted by 3 / 4."""
    sampler = Sec(PAIR, alpha=0.4, initial=1.0)
    sampler.observe([of("a", 1, 0), of("a", 1, 1, uid=2, weight=0.5)])
    assert sampler.scores()["a"] == pytest.approx(1 + 0.4 * 0.75 * (2 / 3 - 1))


def test_procurl_by_hand() -> None:
    """`a` goes to 3/4: scores 3/16 and 1/4, a temperature of 0.1."""
    sampler = ProCurl(PAIR, floor=0.0)
    sampler.observe([of("a", 1, 1)])
    assert sampler.scores() == {"a": 0.1875, "b": 0.25}
    expected = 1 / (1 + math.exp(0.625))
    assert sampler.probabilities(START)["a"] == pytest.approx(expected)
    assert expected == pytest.approx(0.34865, abs=5e-6)
    sampler.observe([of("a", 0, 0, 0, 0), of("a", 1, 1, uid=2), of("a", 1, 1, uid=3, weight=0.5)])
    mean, trust = (2 + 1) / (4 + 2 + 1), (4 + 2 + 1) / 8
    rate = 0.75 + 0.5 * trust * (mean - 0.75)
    assert sampler.scores()["a"] == pytest.approx(rate * (1 - rate))


def test_learning_progress_by_hand() -> None:
    """Up and down alike; a first visit is no progress."""
    sampler = LearningProgress(PAIR, fast=0.5, slow=0.1, temperature=0.5, floor=0.0)
    sampler.observe([of("a", 0, 0), of("b", 1, 1, uid=2)])
    assert sampler.scores() == {"a": 0.0, "b": 0.0}
    sampler.observe([of("a", 1, 1)])
    assert sampler.scores() == pytest.approx({"a": 0.4, "b": 0.0})
    odds = math.exp(0.4 / 0.5)
    assert sampler.probabilities(START)["a"] == pytest.approx(odds / (1 + odds))
    sampler.observe([of("b", 0, 0, uid=2)])
    assert sampler.scores() == pytest.approx({"a": 0.4, "b": 0.4})
    sampler.observe([of("b", 0, 0, uid=2, weight=0.5)])  # 0.5 -> 0.375, 0.9 -> 0.855
    assert sampler.scores()["b"] == pytest.approx(0.48)


@given(rates=st.lists(st.integers(0, 8), min_size=1, max_size=12), slow=st.sampled_from([0.1, 0.5]))
def test_learning_progress_is_the_running_reward_delta_at_fast_1(
    rates: list[int], slow: float
) -> None:
    """(1 - slow) / slow times the moving average of changes, in absolute value."""
    sampler = LearningProgress(PAIR, fast=1.0, slow=slow)
    delta = 0.0
    for last, k in itertools.pairwise([rates[0], *rates]):
        sampler.observe([solved(1, k, distribution="a")])
        delta += slow * ((k - last) / 8 - delta)
    assert sampler.scores()["a"] == pytest.approx((1 - slow) / slow * abs(delta), abs=1e-12)
