"""Selectors: the scan finds what looking at every subset finds, and each keeps what its paper says."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlcurric.build.binding import validated
from rlcurric.curriculum.parts import Selector
from rlcurric.curriculum.selectors import D3s, Pods, TopReward, kept_of, max_variance_subset
from rlcurric.registry import registry
from rlcurric.schedules import Linear, Progress

NOW = Progress(0, 0, 100)
values_lists = st.lists(
    st.one_of(st.sampled_from([0.0, 0.1, 1.0, 1.1]), st.floats(-3, 3, width=32)),
    min_size=1,
    max_size=10,
)


@given(values_lists, st.data())
def test_the_scan_equals_brute_force(values: list[float], data: st.DataObject) -> None:
    m = data.draw(st.integers(1, len(values)))
    kept = max_variance_subset(values, m)
    assert kept == sorted(set(kept)) and len(kept) == m
    best = max(np.var(subset) for subset in itertools.combinations(values, m))
    assert np.var([values[k] for k in kept]) == pytest.approx(best, rel=1e-9, abs=1e-11)
    assert max_variance_subset(values, m) == kept


@pytest.mark.parametrize(
    ("values", "m", "kept"),
    [
        ([0, 1, 0, 1, 0, 0], 4, [0, 1, 2, 3]),  # half of each, and the top finds it first
        ([0, 0, 1, 0, 0, 0], 4, [0, 1, 2, 3]),  # all of the rarer
        ([1, 0, 1, 1], 2, [0, 1]),
        ([1, 1, 1, 1], 2, [0, 1]),  # no variance anywhere: the first split, the top
        ([0, 1, 1], 3, [0, 1, 2]),
        ([0, 1, 0, 1, 1], 3, [1, 2, 3]),  # 2 + 1 and 1 + 2 tie: the larger top is looked at first
        ([0.1, 1.1, 0.1, 1.1, 1.1], 3, [1, 2, 3]),  # a tie that rounding must not break
        ([5, -1, 0, 1], 2, [0, 1]),
        ([3, 2], 1, [0]),
        ([3, 2], 0, []),
    ],
)
def test_ties_and_small_cases(values: list[float], m: int, kept: list[int]) -> None:
    assert max_variance_subset(values, m) == kept
    shifted = [value + 1000.1 for value in values]
    assert max_variance_subset(shifted, m) == kept


def test_how_many_are_kept() -> None:
    assert [kept_of(keep, 8) for keep in (2, 16, 0.25, 0.1, 1.0, 0.3125)] == [2, 8, 2, 2, 8, 3]
    assert kept_of(4, 1) == 1 and kept_of(0.5, 0) == 0


def test_pods_and_its_baseline_look_at_each_group() -> None:
    groups: list[list[float]] = [[0, 1, 0, 0, 0, 0, 0, 1], [0, 0.5, 1, 0.6], [1.0], []]
    assert Pods(keep=4).select(groups, NOW) == [[0, 1, 2, 7], [0, 1, 2, 3], [0], []]
    assert Pods(keep=0.5).select(groups, NOW)[1] == [0, 2]
    assert TopReward(keep=2).select(groups, NOW) == [[1, 7], [2, 3], [0], []]
    assert Pods.signal == TopReward.signal == "reward" and D3s.signal == "advantage"


def test_d3s_takes_the_extremes_of_the_batch() -> None:
    groups = [[2.0, -0.5, -0.5, -1.0], [0.0, 0.0, 0.0, 0.0], [1.0, 1.0, -1.0, -1.5]]
    assert D3s().select(groups, NOW) == [[0], [], [2, 3]]  # 3 of 12
    assert D3s().select(groups, Progress(100, 100, 100)) == [[0, 3], [], [0, 1, 2, 3]]
    assert D3s(keep=1.0).select(groups, NOW) == [[0, 1, 2, 3]] * 3
    assert D3s(keep=0.01).select(groups, NOW) == [[0], [], [3]]  # never fewer than two


def test_d3s_may_thin_groups_first_and_keep_both_signs() -> None:
    groups = [[2.0, -0.5, -0.5, -1.0], [0.0, 0.0, 0.0, 0.0], [1.0, 1.0, -1.0, -1.5]]
    assert D3s(keep=1.0, in_group=0.5).select(groups, NOW) == [[0, 3], [0, 1], [0, 3]]
    assert D3s(keep=0.25, in_group=0.5).select(groups, NOW) == [[0, 3], [], [3]]
    both = D3s(keep=0.25, both_signs=True)
    assert both.select(groups, NOW) == [[0, 3], [], [0, 2, 3]]
    assert both.select([[1.0, 1.0], [-1.0, -1.0]], NOW) == [[0], [1]]  # a sign that is not there


@given(st.lists(st.lists(st.floats(-2, 2), max_size=6), max_size=5), st.booleans())
def test_every_selector_keeps_rising_positions(groups: list[list[float]], both: bool) -> None:
    selectors: list[Selector] = [
        Pods(keep=3),
        TopReward(keep=0.5),
        D3s(both_signs=both),
        D3s(keep=0.4, in_group=0.6, both_signs=both),
    ]
    for selector in selectors:
        kept = selector.select(groups, NOW)
        assert len(kept) == len(groups)
        for group, positions in zip(groups, kept, strict=True):
            assert list(positions) == sorted(set(positions))
            assert all(0 <= k < len(group) for k in positions)
        assert selector.state_dict() == {} == selector.metrics()
        if both and isinstance(selector, D3s):
            for group, positions in zip(groups, kept, strict=True):
                signs = {np.sign(group[k]) for k in positions} - {0}
                assert not positions or signs == {np.sign(value) for value in group} - {0}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Pods(keep=1), "pods needs keep as a whole number of at least 2"),
        (lambda: TopReward(keep=1.5), "top_reward needs keep as .* share in"),
        (lambda: D3s(keep=0.0), "d3s needs keep in"),
        (lambda: D3s(in_group=2.0), "d3s needs in_group in"),
        (lambda: D3s(keep=Linear(0.0, 1.0)).select([[1.0]], NOW), "d3s needs keep in .* got 0.0"),
        (lambda: D3s().select([[1.0]], Progress(0, 0)), "needs a stage with until"),
    ],
)
def test_settings_are_checked(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_recipes_reach_selectors_by_name() -> None:
    pods = registry("selector").get("pods")
    for keep, kept in ((4, [0, 1, 2, 3]), (0.5, [0, 2])):
        made = pods(**validated(pods, {"keep": keep}, "pods"))
        assert made.select([[0, 0.5, 1, 0.6]], NOW) == [kept]
    assert registry("selector").get("d3s")(keep=Linear(0.25, 1.0)).signal == "advantage"
