"""Samplers and signals: the papers' numbers by hand, and what holds for every one of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlcurric import seeds
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
    ccl_sizes,
    e2h_balanced,
    e2h_classic,
    e2h_cosine,
    e2h_gaussian,
    inclusion,
    interval_masses,
    softmax_with_floor,
    ucb_bonus,
)
from rlcurric.curriculum.signals import (
    abs_advantage,
    abs_deviation,
    absolute_advantages,
    learnability,
    pass_rate,
    rollout_signals,
    variance,
)
from rlcurric.curriculum.state import as_json
from rlcurric.registry import registry
from rlcurric.schedules import Linear, Progress
from rlcurric.testing import MIXTURE, check_part
from rlcurric.types import GroupOutcome
from tests.outcomes import DISTRIBUTIONS, ended, solved, steps_of_outcomes

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


def of(distribution: str, *correct: float, **more: Any) -> GroupOutcome:
    """A group of one distribution."""
    return ended(more.pop("uid", 1), correct, distribution=distribution, **more)


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


# --- signals ----------------------------------------------------------------------------------------------------------


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


# --- schedules --------------------------------------------------------------------------------------------------------

GAUSSIAN = {
    0.0: (0.628, 0.172, 0.1, 0.1),
    0.25: (0.105, 0.395, 0.395, 0.105),
    0.5: (0.1, 0.138, 0.56, 0.201),
    1.0: (0.1, 0.1, 0.172, 0.628),
}
COSINE = {
    0.0: (0.4, 0.3, 0.2, 0.1),
    0.25: (0.356, 0.285, 0.215, 0.144),
    0.5: (0.25, 0.25, 0.25, 0.25),
    1.0: (0.1, 0.2, 0.3, 0.4),
}
LEVELS = {"w": 9.0, "x": 1.0, "y": 1.0, "z": 1.0}  # the shares say nothing


@pytest.mark.parametrize("time", GAUSSIAN)
def test_e2h_at_the_published_values(time: float) -> None:
    for schedule, table in (("gaussian", GAUSSIAN), ("cosine", COSINE)):
        sampler = E2h(LEVELS, schedule)  # type: ignore[arg-type]
        found = tuple(sampler.probabilities(at(time)).values())
        assert found == pytest.approx(table[time], abs=5e-4)


def test_e2h_classic_goes_through_the_levels_one_after_the_other() -> None:
    sampler = E2h(LEVELS, "classic")
    order = [
        max(chances, key=chances.__getitem__)
        for step in range(8)
        for chances in [sampler.probabilities(Progress(step, step, 8))]
    ]
    assert order == list("wwxxyyzz")
    assert sampler.probabilities(at(1.0))["z"] == 1.0
    thirds = [int(np.argmax(e2h_classic(3, step / 9))) for step in range(9)]
    assert thirds == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert e2h_balanced(4).tolist() == [0.25] * 4
    assert set(E2h(LEVELS, "balanced").probabilities(Progress(3, 3, None)).values()) == {0.25}


def test_e2h_p_min_holds_rare_levels_up() -> None:
    """Cosine at the start of 3 levels: weights 3/6, 2/6, 1/6, the last held up to 1/3."""
    assert e2h_cosine(3, 0.0, 1 / 3).tolist() == pytest.approx([3 / 7, 2 / 7, 2 / 7])
    assert e2h_gaussian(3, 1.0, 0.5, 1e-9, 0.0).tolist() == [0.0, 0.0, 1.0]
    assert e2h_gaussian(2, 0.25, 1.0, 1e-200, 0.2).tolist() == pytest.approx([0.8, 0.2])
    assert E2h({"only": 1.0}).probabilities(at(0.3)) == {"only": 1.0}
    tiny = E2h(LEVELS, p_min=0.0, sigma=0.01).probabilities(at(0.0))
    assert list(tiny.values()) == pytest.approx([1, 0, 0, 0], abs=1e-12)


@pytest.mark.parametrize("sampler", [E2h(PAIR), E2h(PAIR, "classic"), EasyToHard(PAIR)])
def test_schedules_need_a_planned_number_of_steps(sampler: Sampler) -> None:
    with pytest.raises(ValueError, match=r"until\.steps"):
        sampler.probabilities(Progress(3, 3, None))


def test_easy_to_hard_by_hand() -> None:
    """A normal of sd 1/2 around 0, cut to [0, 1]: erf(0.5 / (0.5 sqrt 2)) of erf(1 / (0.5 sqrt 2)) lies below 1/2."""
    sampler = EasyToHard({"a": 2.0, "b": 2.0}, jitter=0.5, floor=0.0)
    assert sampler.probabilities(at(0.0))["a"] == pytest.approx(0.682689 / 0.954500, abs=1e-6)
    assert sampler.probabilities(at(0.5))["a"] == pytest.approx(0.5)
    floored = EasyToHard({"a": 3.0, "b": 1.0}, order=["b", "a"], jitter=1e-6, floor=0.1)
    assert floored.probabilities(at(0.2)) == pytest.approx({"a": 0.05, "b": 0.95})
    assert floored.probabilities(at(0.3)) == pytest.approx({"a": 0.95, "b": 0.05})
    assert list(floored.probabilities(at(0.3))) == ["a", "b"]


def test_easy_to_hard_draws_each_distribution_about_by_its_share() -> None:
    share_D = np.array([0.5, 0.2, 0.0, 0.3])
    times = (np.arange(400) + 0.5) / 400
    drawn_D = np.mean([interval_masses(share_D, time, 0.05) for time in times], axis=0)
    assert drawn_D == pytest.approx(share_D, abs=0.01)


# --- cyclical ---------------------------------------------------------------------------------------------------------


def test_sizes_of_pseudo_epochs() -> None:
    seven = list(itertools.islice(itertools.cycle(ccl_sizes()), 7))
    assert seven == [0.25, 0.5, 1.0, 0.5, 0.25, 0.5, 1.0]
    assert ccl_sizes(0.3, 1.0, 0.5) == [0.3, 0.6, 1.0, 0.5]
    assert ccl_sizes(0.5, 0.5) == [0.5]
    assert ccl_sizes(0.2, 0.9, 0.1) == [0.2, 0.9]


def test_inclusion_by_hand() -> None:
    """At time ln 2, 1/2 of easiness 1 and 3/4 of easiness 2 have been drawn: 5/8 of all."""
    found = inclusion(np.array([0.5, 0.5]), np.array([1.0, 2.0]), 0.625)
    assert found.tolist() == pytest.approx([0.4, 0.6])
    share_D = np.array([0.7, 0.3])
    assert inclusion(share_D, np.array([0.05, 1.05]), 1.0).tolist() == [0.7, 0.3]
    assert inclusion(share_D, np.array([0.4, 0.4]), 0.25).tolist() == pytest.approx([0.7, 0.3])
    first = inclusion(share_D, np.array([0.05, 1.05]), 1e-9)  # one draw: share times easiness
    assert first[1] == pytest.approx(0.3 * 1.05 / (0.3 * 1.05 + 0.7 * 0.05))


@pytest.mark.parametrize("size", [0.1, 0.25, 0.5, 0.9])
def test_inclusion_is_what_drawing_without_replacement_gives(size: float) -> None:
    share_D, easiness_D = np.array([0.5, 0.3, 0.2]), np.array([0.05, 0.4, 1.05])
    pool = np.repeat([0, 1, 2], (share_D * 20_000).astype(int))
    draw = seeds.philox(0, "test/inclusion")
    keys = np.log(draw.random(len(pool))) / easiness_D[pool]
    drawn = pool[np.argsort(-keys)[: round(size * len(pool))]]
    expected = np.bincount(drawn, minlength=3) / len(drawn)
    assert inclusion(share_D, easiness_D, size) == pytest.approx(expected, abs=0.015)


def test_cyclical_goes_from_easy_to_all_and_learns_between_cycles() -> None:
    """Sizes last 1, 2, 4 and 2 steps; what a cycle sees counts from the next one on."""
    sampler = Cyclical({"a": 1.0, "b": 3.0}, cycle_steps=4, smoothing=1.0, floor=0.0)
    sizes = [sampler.size(Progress(step, step, None)) for step in range(12)]
    assert sizes == [0.25, 0.5, 0.5, 1, 1, 1, 1, 0.5, 0.5, 0.25, 0.5, 0.5]
    found = []
    for step in range(12):
        found.append(sampler.probabilities(Progress(step, step, None)))
        rate = 1.0 if step < 9 else 0.0
        sampler.observe([of("a", rate, rate, step=step), of("b", 0, 0, uid=2, step=step)])
    assert all(chances == pytest.approx({"a": 0.25, "b": 0.75}) for chances in found[:9])
    share_D, easiness_D = np.array([0.25, 0.75]), np.array([1.05, 0.05])
    for step in (9, 10, 11):
        expected = inclusion(share_D, easiness_D, sizes[step])
        assert list(found[step].values()) == pytest.approx(expected.tolist())
    assert found[9]["a"] > found[10]["a"] > 0.25
    assert sampler.metrics()["curriculum/cyclical/a"] == 0.0


def test_cyclical_counts_cycles_from_the_start_of_the_stage() -> None:
    """Run step 100 is the stage's first; pass rates of before it count in its first cycle, as do measured ones."""
    sampler = Cyclical(PAIR, cycle_steps=4, smoothing=1.0)
    sampler.observe([of("a", 1, 1, step=99)])
    sampler.observe([replace(of("b", 0, 0, uid=2, step=100), disposition="screened")])
    begin, expected = (
        sampler.probabilities(Progress(100, 0, None)),
        0.95 * inclusion(np.array([0.5, 0.5]), np.array([1.05, 0.05]), 0.25) + 0.025,
    )
    assert list(begin.values()) == pytest.approx(expected.tolist())
    sampler.observe([of("b", 1, 1, uid=2, step=100)])
    assert sampler.probabilities(Progress(100, 0, None)) == begin
    later = sampler.probabilities(Progress(109, 9, None))
    assert list(later.values()) == pytest.approx([0.5, 0.5])


def test_cyclical_remembers_no_more_than_a_cycle() -> None:
    sampler = Cyclical(PAIR, cycle_steps=4)
    for step in range(60):
        sampler.observe([of("a", 1, 0, step=step)])
        kept = sampler.state_dict()["step"]
        assert len(kept) <= 10
        assert kept[0] <= max(0, step - 9)
