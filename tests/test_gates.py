"""Gates: verdicts at their ends by hand, and the reversible life of a retired prompt."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlcurric.curriculum.exclusion import Excluded, Excluding
from rlcurric.curriculum.gates import (
    AdvantageRange,
    PassRateRange,
    Replace,
    Retire,
    ZeroVariance,
    strongest,
)
from rlcurric.curriculum.parts import Gate, Verdict
from rlcurric.registry import registry
from rlcurric.types import GroupOutcome
from tests.groups import eligible, group, right, runs, text, through_disk

ADMIT, REPLACE, REFUSE = Verdict.ADMIT, Verdict.REPLACE, Verdict.REFUSE
OUTCOME_GATES: list[Gate] = [ZeroVariance(), Replace(), PassRateRange(), AdvantageRange(0.1)]
BIG = 2**63 + 11  # uids are unsigned


def verdicts(gate: Gate, of: int = 8) -> list[int]:
    """Numbers of right samples that a gate admits."""
    return [k for k in range(of + 1) if gate.judge(group(1, right(k, of))) is ADMIT]


def test_gates_have_names() -> None:
    known = {"zero_variance", "replace", "pass_rate_range", "advantage_range", "retire"}
    assert known <= set(registry("gate"))


def test_refusing_wins_over_replacing_and_replacing_over_admitting() -> None:
    assert strongest([]) is ADMIT
    assert strongest([ADMIT, ADMIT]) is ADMIT
    assert strongest([ADMIT, REPLACE, ADMIT]) is REPLACE
    assert strongest([REFUSE, REPLACE, ADMIT]) is REFUSE


def test_zero_variance_reads_correctness_unless_told_otherwise() -> None:
    assert verdicts(ZeroVariance()) == [1, 2, 3, 4, 5, 6, 7]
    assert ZeroVariance().judge(group(1, right(8))) is REFUSE
    assert ZeroVariance("reward").judge(group(1, right(8))) is ADMIT  # the length term differs
    assert ZeroVariance("reward").judge(group(1, (1, 0), rewards=(0.5, 0.5))) is REFUSE


def test_replace_asks_for_copies_in_place_of_what_is_all_right_or_all_wrong() -> None:
    answers = [Replace().judge(group(1, right(k, 4))) for k in range(5)]
    assert answers == [REPLACE, ADMIT, ADMIT, ADMIT, REPLACE]
    assert Replace().judge(group(1, (0.5, 0.5))) is ADMIT  # partly right is no pass rate of 0 or 1
    assert Replace().min_share == 1 / 3
    assert Replace(min_share=0.0).min_share == 0.0


@pytest.mark.parametrize(
    ("gate", "admitted"),
    [
        (PassRateRange(), [1, 2, 3, 4, 5, 6, 7]),
        (PassRateRange(open=False), list(range(9))),
        (PassRateRange(0.25, 0.75), [3, 4, 5]),
        (PassRateRange(0.25, 0.75, open=False), [2, 3, 4, 5, 6]),
        (PassRateRange(0.5, 0.5, open=False), [4]),
        # mean |A| of k of 8: 0, 0.661, 0.866, 0.968, 1
        (AdvantageRange(0.0), list(range(9))),
        (AdvantageRange(0.01), [1, 2, 3, 4, 5, 6, 7]),
        (AdvantageRange(0.7), [2, 3, 4, 5, 6]),
        (AdvantageRange(0.9, 0.99), [3, 5]),
        (AdvantageRange(1.0), [4]),
    ],
)
def test_ranges_by_hand(gate: Gate, admitted: list[int]) -> None:
    assert verdicts(gate) == admitted


@given(st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=16))
def test_the_open_range_is_zero_variance_for_binary_correctness(correct: list[float]) -> None:
    ended = group(1, correct)
    expected = ZeroVariance().judge(ended)
    assert PassRateRange().judge(ended) is expected
    assert AdvantageRange(1e-6).judge(ended) is expected


@given(st.integers(1, 64))
def test_ends_are_reached_whatever_the_group_size(half: int) -> None:
    """Half of the samples right: mean |A| is 1 and the pass rate 1/2, up to rounding."""
    ended = group(1, right(half, 2 * half))
    assert AdvantageRange(1.0).judge(ended) is ADMIT
    assert PassRateRange(0.5, 0.5, open=False).judge(ended) is ADMIT
    assert PassRateRange(0.5, 0.9).judge(ended) is REFUSE


@pytest.mark.parametrize("gate", OUTCOME_GATES)
def test_gates_on_outcomes_keep_nothing_out_and_pass_no_group_that_nobody_judged(
    gate: Gate,
) -> None:
    assert gate.judge(group(1, (), failed=4)) is not ADMIT
    gate.observe([group(1, right(0))])
    assert eligible(gate, [1, 2], step=5) == [True, True]
    assert gate.state_dict() == {}
    assert gate.metrics() == {}


@pytest.mark.parametrize(
    ("gate", "args", "says"),
    [
        (Replace, {"min_share": 1.0}, r"min_share in \[0, 1\), got 1.0"),
        (PassRateRange, {"low": 0.6, "high": 0.4}, "low=0.6, high=0.4"),
        (PassRateRange, {"low": 0.5, "high": 0.5}, "low < high if open"),
        (PassRateRange, {"high": 1.5}, "high=1.5"),
        (AdvantageRange, {"low": 0.5, "high": 0.4}, "low=0.5, high=0.4"),
        (AdvantageRange, {"low": float("nan")}, "low=nan"),
        (Retire, {"visits": 0}, "visits=0"),
        (Retire, {"threshold": 0.0}, "threshold=0.0"),
        (Retire, {"rest": 0}, "rest=0"),
        (Retire, {"rest": 10, "longest": 9}, "longest=9"),
    ],
)
def test_arguments_that_cannot_work_are_refused(gate: Any, args: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        gate(**args)


def seen(gate: Retire, step: int, *outcomes: GroupOutcome) -> list[tuple[int, str]]:
    """Observe a step; what changed."""
    gate.observe(outcomes)
    return [(int(line["uid"], 16), line["change"]) for line in gate.changes()]


def first_step(gate: Retire, uid: int, after: int) -> int:
    """Steps after `after` in which a prompt is not eligible, then it is."""
    answers = [eligible(gate, [uid], step)[0] for step in range(after + 1, after + 100)]
    away = answers.index(True)
    assert all(answers[away:])
    return away


def test_a_solved_prompt_rests_returns_and_is_forgotten() -> None:
    """Its life: two solved visits, a rest of 5, still solved, 10, still solved, 12 at most, not solved: back."""
    gate = Retire(visits=2, rest=5, longest=12)
    assert seen(gate, 0, group(BIG, right(8), 0)) == []
    assert eligible(gate, [BIG, 4], 1) == [True, True]
    assert seen(gate, 1, group(BIG, right(8), 1, visit=1)) == [(BIG, "retired")]
    assert gate.changes() == [{"uid": f"{BIG:016x}", "change": "retired", "pass_rate": 1.0}]
    assert first_step(gate, BIG, after=1) == 5
    assert eligible(gate, [4, BIG], 3) == [True, False]
    assert gate.excluded() == Excluded(1, 1)
    assert seen(gate, 7, group(BIG, right(8), 7)) == [(BIG, "retired")]
    assert first_step(gate, BIG, after=7) == 10
    assert seen(gate, 18, group(BIG, right(8), 18)) == [(BIG, "retired")]
    assert first_step(gate, BIG, after=18) == 12
    assert gate.metrics()["curriculum/retire/retired"] == 1
    assert seen(gate, 40, group(BIG, right(7), 40)) == [(BIG, "returned")]
    assert gate.changes()[0]["pass_rate"] == 7 / 8
    assert gate.metrics() == {"curriculum/retire/retired": 0, "curriculum/retire/returned": 1}
    assert seen(gate, 41, group(BIG, right(8), 41)) == []  # one visit is not two
    assert seen(gate, 42, group(BIG, right(8), 42)) == [(BIG, "retired")]
    assert first_step(gate, BIG, after=42) == 5  # and the first rest is short again


def test_a_failed_visit_between_begins_the_count_anew() -> None:
    gate = Retire(visits=3)
    for step, k in enumerate([8, 8, 7, 8, 8]):
        assert seen(gate, step, group(1, right(k), step)) == []
    assert seen(gate, 5, group(1, right(8), 5)) == [(1, "retired")]


def test_the_threshold_is_a_pass_rate() -> None:
    gate = Retire(visits=1, threshold=0.75)
    changed = seen(gate, 0, *(group(k, right(k), 0) for k in range(9)))
    assert changed == [(6, "retired"), (7, "retired"), (8, "retired")]


def test_groups_of_a_prompt_in_one_step_are_one_visit() -> None:
    gate = Retire(visits=2)
    assert seen(gate, 0, group(1, right(8), 0), group(1, right(8), 0, visit=1)) == []
    assert seen(gate, 1, group(1, right(8), 1, visit=2), group(1, right(3), 1, visit=3)) == []
    assert seen(gate, 2, group(1, right(8), 2, visit=4)) == []
    assert seen(gate, 3, group(1, right(8), 3, visit=5)) == [(1, "retired")]


def test_a_group_asked_for_before_the_rest_may_end_it_but_not_prolong_it() -> None:
    gate = Retire(visits=1, rest=5)
    gate.observe([group(1, right(8), 0), group(2, right(8), 0)])
    changed = seen(gate, 2, group(1, right(8), 2, visit=1), group(2, right(2), 2, visit=1))
    assert changed == [(2, "returned")]
    assert first_step(gate, 1, after=0) == 5
    assert eligible(gate, [2], 3) == [True]
    assert seen(gate, 6, group(1, right(8), 6, visit=2, weight=0.5)) == []  # nor counts after it


def test_late_visits_count_less_toward_a_rest() -> None:
    gate = Retire(visits=1, rest=5)
    assert seen(gate, 0, group(1, right(8), 0, weight=0.5)) == []
    assert seen(gate, 1, group(1, right(8), 1, weight=0.5)) == [(1, "retired")]
    assert seen(gate, 7, group(1, right(8), 7, weight=0.5)) == []
    assert seen(gate, 8, group(1, right(7), 8, weight=0.1)) == [(1, "returned")]


def test_a_visit_is_trusted_as_its_most_trusted_group() -> None:
    gate = Retire(visits=1)
    mixed = (group(1, right(8), weight=1.0), group(1, right(8), weight=0.5, visit=1))
    assert seen(gate, 0, *mixed) == [(1, "retired")]


def test_it_admits_every_group() -> None:
    assert verdicts(Retire(visits=1)) == list(range(9))
    assert isinstance(Retire(), Excluding)


def test_nothing_is_learnt_from_what_nobody_judged_or_came_too_late() -> None:
    gate = Retire(visits=1, rest=5)
    gate.observe([group(1, right(8), 0)])
    before = text(gate.state_dict())
    gate.observe([])
    gate.observe([group(1, (), 9, failed=8), group(2, right(8), 9, weight=0.0)])
    gate.observe([group(1, right(0), 9, weight=0.0)])
    assert text(gate.state_dict()) == before
    assert gate.changes() == []


@settings(max_examples=60, deadline=None)
@given(runs(), st.integers(0, 7), st.randoms(use_true_random=False))
def test_retirement_goes_on_from_its_state_and_takes_groups_in_any_order(
    steps: list[list[GroupOutcome]], cut: int, rng: random.Random
) -> None:
    def fresh() -> Retire:
        return Retire(visits=1, threshold=0.5, rest=1, longest=3)

    straight, shuffled, resumed = fresh(), fresh(), fresh()
    for number, outcomes in enumerate(steps):
        if number == cut:
            resumed.load_state_dict(through_disk(straight.state_dict()))
        straight.observe(outcomes)
        shuffled.observe(rng.sample(outcomes, len(outcomes)))
        if number >= cut:
            resumed.observe(outcomes)
        for other in (shuffled, *([resumed] if number >= cut else [])):
            assert text(other.state_dict()) == text(straight.state_dict())
            assert other.changes() == straight.changes()
            assert other.metrics() == straight.metrics()
            assert eligible(other, range(6), number + 1) == eligible(straight, range(6), number + 1)
        known = straight.state_dict()["prompts"]
        assert straight.excluded().prompts == (known["rest"] > 0).sum()
