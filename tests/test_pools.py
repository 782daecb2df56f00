"""Pool filters: what is dropped and why, when it is visited again, and what brings it back."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlcurric.curriculum.evidence import PassRates
from rlcurric.curriculum.exclusion import Excluded, Excluding
from rlcurric.curriculum.parts import PoolFilter
from rlcurric.curriculum.pools import DropEasy, Screened
from rlcurric.registry import registry
from rlcurric.types import GroupOutcome
from tests.groups import eligible, group, right, runs, text, through_disk

Filter = Screened | DropEasy
BIG = 2**63 + 11


def screening(counts: dict[int, int], step: int = 0, of: int = 8) -> list[GroupOutcome]:
    """Groups of a screening: uid -> samples that were right."""
    return [
        group(uid, right(k, of), step, disposition="screened") for uid, k in sorted(counts.items())
    ]


def history_of(counts: dict[int, tuple[int, int]]) -> PassRates:
    """uid -> (samples, of them right)."""
    history = PassRates()
    history.observe([group(uid, right(k, of)) for uid, (of, k) in counts.items()])
    return history


def changed(part: Filter) -> list[tuple[int, str, float]]:
    return [(int(one["uid"], 16), one["change"], one["pass_rate"]) for one in part.changes()]


def test_filters_have_names_and_can_be_asked_what_they_keep_out() -> None:
    assert {"screened", "drop_easy"} <= set(registry("pool"))
    filters: list[PoolFilter] = [Screened(), DropEasy()]
    assert all(isinstance(part, Excluding) for part in filters)


@pytest.mark.parametrize(
    ("args", "stays"),
    [
        ({}, [False, True, True, True, True]),
        ({"min_correct": 3}, [False, False, False, True, True]),
        ({"drop_all_correct": True}, [False, True, True, True, False]),
        ({"min_correct": 2, "drop_all_correct": True}, [False, False, True, True, False]),
    ],
)
def test_screening_by_hand(args: dict[str, Any], stays: list[bool]) -> None:
    """Prompts with 0 to 4 of 4 right; one that was not screened stays."""
    part = Screened(samples=4, **args)
    part.observe(screening({k: k for k in range(5)}, of=4))
    assert eligible(part, range(6), step=1) == [*stays, True]
    out = stays.count(False)
    assert part.excluded() == Excluded(out, out)
    assert part.metrics() == {
        "curriculum/screened/dropped": out,
        "curriculum/screened/returned": 0,
    }
    assert [uid for uid, change, _ in changed(part)] == [k for k in range(5) if not stays[k]]


def test_a_dropped_prompt_is_visited_again_once_and_returns_when_solved() -> None:
    part = Screened(recheck_every=10)
    part.observe(screening({1: 0, 2: 0, BIG: 0, 4: 8}, step=3))
    assert changed(part) == [(1, "dropped", 0.0), (2, "dropped", 0.0), (BIG, "dropped", 0.0)]
    for step in range(4, 14):
        assert eligible(part, [1, 2, BIG, 4], step) == [False, False, False, True]
    assert eligible(part, [1, 2, BIG, 4], 14) == [True] * 4
    part.observe([group(1, right(0), 14), group(BIG, right(1), 14)])
    assert changed(part) == [(BIG, "returned", 1 / 8)]
    assert part.metrics()["curriculum/screened/returned"] == 1
    assert part.excluded() == Excluded(2, 2)
    for step in range(15, 25):  # 2 was not drawn and waits on, 1 waits anew
        assert eligible(part, [1, 2, BIG], step) == [False, True, True]
    assert eligible(part, [1, 2, BIG], 25) == [True, True, True]
    part.observe([group(BIG, right(0), 25), group(4, right(0), 25)])  # only a screening drops
    assert part.changes() == []
    assert eligible(part, [BIG, 4], 26) == [True, True]


def test_what_was_never_dropped_is_not_stored() -> None:
    part = Screened(samples=4, recheck_every=1)
    part.observe(screening({1: 0, 2: 4}, of=4))
    part.observe([group(1, right(2, 4), 5), group(2, right(0, 4), 5), group(3, right(0, 4), 5)])
    assert part.state_dict()["prompts"]["uid"].tolist() == [1]
    assert part.state_dict()["returned"] == 1


def test_without_recheck_what_is_dropped_stays_out() -> None:
    part = Screened(recheck_every=None)
    part.observe(screening({1: 0}))
    assert eligible(part, [1], 10**9) == [False]
    assert part.excluded() == Excluded(1, 0)


def test_a_prompt_that_was_too_easy_returns_when_it_is_not_any_more() -> None:
    part = Screened(samples=4, drop_all_correct=True, recheck_every=5)
    part.observe(screening({1: 4}, of=4))
    part.observe([group(1, right(4, 4), 6)])
    assert part.changes() == []
    assert eligible(part, [1], 11) == [False]
    part.observe([group(1, right(3, 4), 12)])
    assert changed(part) == [(1, "returned", 0.75)]


def test_a_new_screening_decides_anew() -> None:
    part = Screened()
    part.observe(screening({1: 0, 2: 8}))
    part.observe(screening({1: 2, 2: 0}, step=50))
    assert changed(part) == [(2, "dropped", 0.0), (1, "returned", 0.25)]


def test_too_few_judged_samples_drop_nothing_and_failures_are_not_wrong() -> None:
    part = Screened(samples=8, min_correct=4)

    def screened(uid: int, judged: int, k: int) -> GroupOutcome:
        return group(uid, right(k, judged), disposition="screened", failed=8 - judged)

    # 4 of 8 are needed: 2 of 4 when half of the samples could be judged, nothing known of 3
    part.observe(
        [screened(1, 4, 2), screened(2, 4, 1), screened(3, 3, 0), screened(4, 0, 0)],
    )
    assert changed(part) == [(2, "dropped", 0.25)]


def test_more_samples_than_asked_for_do_not_raise_the_bar() -> None:
    part = Screened(samples=8, min_correct=1)
    measured = [(1, right(1, 64)), (2, right(0, 64)), (3, right(0, 2))]
    part.observe([group(uid, correct, disposition="screened") for uid, correct in measured])
    assert changed(part) == [(2, "dropped", 0.0)]


def test_what_was_screened_before_a_step_waits_from_that_step() -> None:
    part = Screened(recheck_every=10)
    assert part.screens == 8
    begin = 300
    measured = [group(1, right(0), begin - 1, disposition="screened")]
    measured += [group(BIG, right(4), begin - 1, disposition="screened")]
    part.observe(measured)
    part.begin_stage(PassRates())
    away = [eligible(part, [1], step, begin)[0] for step in range(begin, begin + 12)]
    assert away == [False] * 10 + [True] * 2
    assert eligible(part, [BIG], begin, begin) == [True]


def test_drop_easy_by_hand() -> None:
    """More than 0.9 over at least 8 samples."""
    part = DropEasy()
    part.begin_stage(
        history_of({1: (10, 10), 2: (10, 9), 3: (20, 19), 4: (7, 7), 5: (8, 8), 6: (8, 0)})
    )
    assert changed(part) == [(1, "dropped", 1.0), (3, "dropped", 0.95), (5, "dropped", 1.0)]
    assert eligible(part, range(1, 8), 0) == [False, True, False, True, False, True, True]
    assert part.excluded() == Excluded(3, 0)
    assert part.metrics()["curriculum/drop_easy/dropped"] == 3
    assert eligible(part, [1], 10**9) == [False]


def test_an_easy_prompt_that_was_forgotten_returns_by_recheck() -> None:
    part = DropEasy(above=0.7, min_samples=4, recheck_every=10)
    part.begin_stage(history_of({1: (4, 4), 2: (4, 4)}))
    begin = 100
    assert [eligible(part, [1], step, begin)[0] for step in (100, 109, 110)] == [False, False, True]
    part.observe([group(1, right(8), 112), group(2, right(5), 112)])
    assert changed(part) == [(2, "returned", 0.625)]
    assert part.metrics()["curriculum/drop_easy/returned"] == 1
    assert [eligible(part, [1], step, begin)[0] for step in (113, 122, 123)] == [False, False, True]
    part.observe([group(2, right(8), 113)])  # only the beginning of a stage drops
    assert eligible(part, [2], 114, begin) == [True]


def test_each_stage_decides_anew() -> None:
    part = DropEasy(min_samples=4)
    part.begin_stage(history_of({1: (4, 4), 2: (4, 4), 3: (4, 0)}))
    later = DropEasy(min_samples=4)
    later.load_state_dict(through_disk(part.state_dict()))
    later.begin_stage(history_of({1: (3, 0), 2: (3, 3)}))  # too few samples to decide
    assert later.changes() == []
    later.begin_stage(history_of({1: (8, 5), 2: (8, 8), 3: (80, 76)}))
    assert changed(later) == [(3, "dropped", 0.95), (1, "returned", 0.625)]
    assert later.metrics() == {
        "curriculum/drop_easy/dropped": 2,
        "curriculum/drop_easy/returned": 1,
    }


@pytest.mark.parametrize(
    ("make", "args", "says"),
    [
        (Screened, {"samples": 0}, "samples=0"),
        (Screened, {"min_correct": 0}, "min_correct=0"),
        (Screened, {"min_correct": 9}, "min_correct=9, samples=8"),
        (Screened, {"samples": 1, "drop_all_correct": True}, "every prompt would go"),
        (Screened, {"recheck_every": 0}, "recheck_every >= 1"),
        (DropEasy, {"above": 1.0}, "above=1.0"),
        (DropEasy, {"min_samples": 0}, "min_samples=0"),
        (DropEasy, {"recheck_every": -1}, "got -1"),
    ],
)
def test_arguments_that_cannot_work_are_refused(make: Any, args: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make(**args)


def new_screened() -> Filter:
    return Screened(samples=4, drop_all_correct=True, recheck_every=1)


def new_drop_easy() -> Filter:
    part = DropEasy(above=0.5, min_samples=2, recheck_every=1)
    part.begin_stage(history_of({0: (4, 4), 1: (4, 3), 2: (4, 2), 3: (4, 4)}))
    return part


FILTERS = [new_screened, new_drop_easy]


@pytest.mark.parametrize("make", FILTERS)
def test_nothing_is_learnt_from_what_nobody_judged_or_came_too_late(
    make: Callable[[], Filter],
) -> None:
    part = make()
    part.observe(screening({0: 0}))
    before = text(part.state_dict())
    assert part.excluded().prompts > 0
    part.observe([])
    part.observe([group(0, (), 9, failed=4), group(1, (), 9, failed=4, disposition="screened")])
    part.observe([group(0, right(2, 4), 9, weight=0.0), group(3, right(2, 4), 9, weight=0.0)])
    part.observe([group(4, right(0, 4), 9, weight=0.0, disposition="screened")])
    assert text(part.state_dict()) == before
    assert part.changes() == []


@pytest.mark.parametrize("make", FILTERS)
@settings(max_examples=40, deadline=None)
@given(steps=runs(), cut=st.integers(0, 7), rng=st.randoms(use_true_random=False))
def test_filters_go_on_from_their_state_and_take_groups_in_any_order(
    make: Callable[[], Filter], steps: list[list[GroupOutcome]], cut: int, rng: random.Random
) -> None:
    straight, shuffled, resumed = make(), make(), make()
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
            for step in (number + 1, number + 2):
                assert eligible(other, range(6), step) == eligible(straight, range(6), step)
        assert straight.excluded().prompts == straight.state_dict()["prompts"]["dropped"].sum()
