"""Rollout plans: how many groups are opened, and which go on after their first samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlcurric.curriculum.parts import Plan
from rlcurric.curriculum.plans import Lilo, Speed, Whole
from rlcurric.registry import registry
from rlcurric.types import GroupOutcome
from tests.groups import group, right

PLANS: list[Plan] = [Whole(), Speed(), Lilo()]


def probes(counts: Sequence[int], of: int) -> list[GroupOutcome]:
    return [group(uid, right(k, of), disposition="probed") for uid, k in enumerate(counts)]


def test_plans_have_names() -> None:
    assert {"whole", "speed", "lilo"} <= set(registry("plan"))


@pytest.mark.parametrize("plan", PLANS)
def test_plans_learn_nothing(plan: Plan) -> None:
    plan.observe(probes([1, 2], 8))
    assert plan.state_dict() == {}
    assert plan.metrics() == {}


def test_whole_asks_for_everything_at_once() -> None:
    plan = Whole()
    assert plan.groups(7) == 7
    assert plan.first(16) == 16
    failed = group(9, (), failed=16)
    assert plan.then([*probes([0, 5, 16], 16), failed], 2, 16) == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("plan", "missing", "opened"),
    [
        (Speed(oversample=1.0), 5, 5),
        (Speed(oversample=1.1), 10, 11),
        (Speed(oversample=1.1), 11, 13),
        (Speed(), 16, 32),
        (Lilo(), 16, 64),
        (Lilo(pool=1.5), 3, 5),
        (Lilo(), 0, 0),
    ],
)
def test_groups_opened(plan: Plan, missing: int, opened: int) -> None:
    assert plan.groups(missing) == opened


def test_speed_goes_on_where_the_first_samples_differ() -> None:
    plan = Speed(initial=4)
    assert plan.first(24) == 4
    # all that pass, also more than are missing: the surplus waits for the next step
    assert plan.then(probes([0, 1, 2, 3, 4], 4), 1, 24) == [None, 20, 20, 20, None]
    assert plan.then(probes([0, 4], 4), 2, 24) == [None, None]
    assert plan.then(probes([2], 4), 1, 4) == [0]
    assert plan.then([group(1, (0.5, 0.5, 0.5, 0.75))], 1, 24) == [20]


def test_speed_drops_a_probe_of_which_too_little_could_be_judged() -> None:
    """A group that goes on is asked for the samples it still lacks, not for those that failed."""
    judged = [(), (1.0,), (1.0, 1.0), (1.0, 0.0), (1.0, 0.0, 0.0)]
    probed = [group(uid, one, failed=4 - len(one)) for uid, one in enumerate(judged)]
    assert Speed(initial=4).then(probed, 5, 12) == [None, None, None, 8, 8]


def test_lilo_keeps_the_most_learnable() -> None:
    plan = Lilo(probe=8)
    assert plan.first(16) == 8
    probed = probes([0, 8, 1, 4, 3, 7, 5], 8)
    assert plan.then(probed, 1, 16) == [None, None, None, 8, None, None, None]
    assert plan.then(probed, 2, 16) == [None, None, None, 8, 8, None, None]  # 3 and 5 tie
    assert plan.then(probed, 4, 16) == [None, None, 8, 8, 8, None, 8]  # so do 1 and 7
    assert plan.then(probed, 9, 8) == [0] * 7
    assert plan.then(probed, 0, 8) == [None] * 7


def test_lilo_ties_up_to_rounding() -> None:
    """3/10 and 7/10 are equally learnable, and so are 2/10 and 8/10, whatever floating point makes of them."""
    assert 0.3 * (1 - 0.3) < 0.7 * (1 - 0.7) and 0.2 * (1 - 0.2) > 0.8 * (1 - 0.8)
    for counts in ([3, 7], [7, 3], [2, 8], [8, 2]):
        assert Lilo(probe=10).then(probes(counts, 10), 1, 10) == [0, None]


def test_lilo_drops_a_probe_of_which_too_little_could_be_judged() -> None:
    """Failed samples are not wrong ones: 1 of 2 judged is more learnable than 1 of 8."""
    probed = [
        group(0, (), failed=8),
        group(1, (1.0,), failed=7),
        group(2, right(1, 8)),
        group(3, right(1, 2), failed=6),
    ]
    assert Lilo().then(probed, 1, 8) == [None, None, None, 0]
    assert Lilo().then(probed, 4, 8) == [None, None, 0, 0]


@given(st.lists(st.integers(0, 8), max_size=12), st.integers(0, 12), st.integers(0, 8))
def test_lilo_keeps_as_many_as_are_missing_and_none_worse_than_one_it_drops(
    counts: list[int], missing: int, more: int
) -> None:
    answers = Lilo().then(probes(counts, 8), missing, 8 + more)
    kept = [k * (8 - k) for k, answer in zip(counts, answers, strict=True) if answer is not None]
    lost = [k * (8 - k) for k, answer in zip(counts, answers, strict=True) if answer is None]
    assert len(kept) == min(missing, len(counts))
    assert min(kept, default=99) >= max(lost, default=-1)
    assert {answer for answer in answers if answer is not None} <= {more}


@pytest.mark.parametrize(("plan", "setting"), [(Speed(initial=9), "initial"), (Lilo(), "probe")])
def test_a_probe_larger_than_the_group_is_refused(plan: Plan, setting: str) -> None:
    with pytest.raises(ValueError, match=f"needs {setting} <= group_size, got .*group_size=7"):
        plan.first(7)


@pytest.mark.parametrize(
    ("make", "args", "says"),
    [
        (Speed, {"initial": 1}, "initial=1"),
        (Speed, {"oversample": 0.9}, "oversample=0.9"),
        (Speed, {"oversample": float("inf")}, "oversample=inf"),
        (Lilo, {"pool": 0.5}, "pool=0.5"),
        (Lilo, {"probe": 1}, "probe=1"),
    ],
)
def test_arguments_that_cannot_work_are_refused(make: Any, args: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make(**args)
