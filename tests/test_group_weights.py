"""Group weights against the papers' numbers, and the bonus that goes with one of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlcurric.build.binding import validated
from rlcurric.curriculum.parts import Weight
from rlcurric.curriculum.weights import AnnealedEasiness, ObserveR1, Odsw
from rlcurric.registry import registry
from rlcurric.rewards.protocol import Reward, discover_builtin
from rlcurric.schedules import Progress
from rlcurric.types import GroupOutcome
from tests.outcomes import ended, plain, solved, steps_of_outcomes

START, MIDDLE, LATE = Progress(0, 0, 100), Progress(15, 15, 100), Progress(40, 40, 100)
ROOT = math.sqrt(0.5)
WEIGHTS: dict[str, Callable[[], Weight]] = {
    "odsw medium": Odsw,
    "odsw hard": lambda: Odsw("hard"),
    "odsw h3": lambda: Odsw("h3"),
    "observe_r1": ObserveR1,
    "annealed": AnnealedEasiness,
    "annealed anti": lambda: AnnealedEasiness("middle", anti=True),
}


def at_rates(part: Weight, progress: Progress = START) -> list[float]:
    """Weights of fresh prompts with pass rates 0, 1/4, 1/2, 3/4, 1."""
    return [part.weight(solved(k, k, 4), progress) for k in range(5)]


@pytest.mark.parametrize(
    ("stage", "weights"),
    [
        ("easy", [0, ROOT, 1, 1, 1]),
        ("medium", [0, ROOT, 1, ROOT, 0]),
        ("hard", [0.25, 1, 1, ROOT, 0]),
        ("h1", [0, 1, 1, 0, 0]),
        ("h2", [0, 1, 1, 1, 0]),
        ("h3", [0, 0, 1, 1, 1]),
    ],
)
def test_odsw_weighs_as_its_stage_says(stage: Any, weights: list[float]) -> None:
    assert at_rates(Odsw(stage)) == pytest.approx(weights)
    assert [w == 0 for w in at_rates(Odsw(stage))] == [w == 0 for w in weights]  # exactly


def test_observe_r1_peaks_in_the_middle() -> None:
    assert at_rates(ObserveR1()) == pytest.approx([0, 1.35, 1.8, 1.35, 0])
    assert at_rates(ObserveR1(sigma=1.0)) == pytest.approx([0, 0.75, 1, 0.75, 0])


def test_easiness_is_annealed_away() -> None:
    """m is 30 of 100 steps: at step 15 halfway to 1, from 30 on all weights are 1."""
    assert at_rates(AnnealedEasiness()) == [0, 0.25, 0.5, 0.75, 1]
    assert at_rates(AnnealedEasiness("middle")) == [0, 0.75, 1, 0.75, 0]
    assert at_rates(AnnealedEasiness(anti=True)) == [1, 0.75, 0.5, 0.25, 0]
    assert at_rates(AnnealedEasiness(), MIDDLE) == [0.5, 0.625, 0.75, 0.875, 1]
    assert at_rates(AnnealedEasiness(), LATE) == [1] * 5
    with pytest.raises(ValueError, match="needs a stage with until"):
        AnnealedEasiness().weight(solved(1, 1), Progress(0, 0))


def test_easiness_remembers_earlier_visits() -> None:
    part = AnnealedEasiness(keep=0.5)
    part.observe([solved(1, 8)])
    again = solved(1, 0, visit=1)
    assert part.weight(again, START) == pytest.approx(0.5 / 1.5)
    assert part.weight(again, START) == pytest.approx(0.5 / 1.5)  # asking is not observing
    part.observe([again])
    assert part.weight(solved(1, 8, visit=2), START) == pytest.approx(1.25 / 1.75)
    assert part.weight(solved(2, 8), START) == 1


@pytest.mark.parametrize("make", WEIGHTS.values(), ids=WEIGHTS.keys())
@settings(max_examples=30, deadline=None)
@given(steps=steps_of_outcomes(), data=st.data())
def test_a_weight_keeps_its_contract(
    make: Callable[[], Weight], steps: list[list[GroupOutcome]], data: st.DataObject
) -> None:
    part, shuffled, heard = make(), make(), make()
    for outcomes in steps:
        for one in outcomes:
            weight = part.weight(one, MIDDLE)
            assert math.isfinite(weight) and weight >= 0
            assert one.correct or weight == 1
        part.observe(outcomes)
        shuffled.observe(data.draw(st.permutations(outcomes)))
        heard.observe([one for one in outcomes if one.correct and one.weight])
    state = plain(part.state_dict())
    assert plain(shuffled.state_dict()) == state == plain(heard.state_dict())
    other = make()
    other.load_state_dict(part.state_dict())
    probes = [solved(uid, 3, visit=99) for uid in range(6)]
    assert [other.weight(p, START) for p in probes] == [part.weight(p, START) for p in probes]
    assert plain(other.state_dict()) == state and other.metrics() == part.metrics()


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("odsw", {"stage": "late"}, "odsw.stage"),
        ("observe_r1", {"sigma": 0.0}, "sigma > 0, got 0.0"),
        ("annealed_easiness", {"over": 0.0}, r"over in \(0, 1\]"),
        ("annealed_easiness", {"keep": 1.0}, r"keep in \[0, 1\)"),
    ],
)
def test_settings_are_checked(name: str, args: dict[str, Any], message: str) -> None:
    factory = registry("group_weight").get(name)
    with pytest.raises(ValueError, match=message):
        factory(**validated(factory, args, name))
    assert factory().weight(ended(1, []), START) == 1.0


# --- the shortest right answer ----------------------------------------------------------------------------------------


def bonus(lengths: list[int], correct: list[float | None], **args: Any) -> list[float | None]:
    discover_builtin()
    reward: Reward = registry("reward").get("shortest_bonus")
    assert reward.scope == "group" and set(reward.arguments) == {"bonus", "longer_than"}
    texts = [""] * len(lengths)
    paid = reward.function(texts, texts, lengths=lengths, correct=correct, **args)
    return list(paid)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("lengths", "correct", "paid"),
    [
        ([300, 150, 120, 200], [1.0, 1.0, 0.0, 1.0], [0, 0.2, 0, 0]),
        ([300, 100, 120, 200], [1.0, 1.0, 1.0, 1.0], [0, 0, 0, 0]),  # the shortest is not above 100
        ([150, 120, 120, 200], [1.0, 1.0, 1.0, None], [0, 0.2, 0, 0]),  # the first of equals
        ([150, 120, 130, 200], [0.0, 0.0, None, 0.0], [0, 0, 0, 0]),  # nobody is right
        ([150, 120, 130], [0.5, None, 1.0], [0, 0, 0.2]),  # half right is not right
        ([], [], []),
    ],
)
def test_the_shortest_right_answer_is_paid(
    lengths: list[int], correct: list[float | None], paid: list[float]
) -> None:
    assert bonus(lengths, correct) == paid


def test_the_bonus_has_its_settings() -> None:
    assert bonus([5, 9], [1.0, 1.0], bonus=0.5, longer_than=4) == [0.5, 0]
    with pytest.raises(ValueError, match="bonus >= 0"):
        bonus([5], [1.0], bonus=-1.0)
