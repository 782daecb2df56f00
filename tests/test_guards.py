"""Guard-rails: each speaks when it should, names what to turn, is silent while all is well, and does not nag."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlcurric.curriculum.exclusion import Excluded
from rlcurric.curriculum.guards import (
    Guards,
    GuardSettings,
    GuardWarning,
    StepView,
    sampling_entropy,
)
from tests.groups import group, right, text, through_disk

EVEN = {"a": 0.5, "b": 0.5}
LATE = (group(1, right(1), weight=0.0), group(2, right(1), weight=0.0), group(3, right(1)))
SMALL = GuardSettings(starvation_steps=3, collapse_steps=2, window=4)


def view(step: int, **changes: Any) -> StepView:
    """A healthy step."""
    healthy = StepView(
        step=step,
        probabilities=EVEN,
        drawn={"a": 4, "b": 4},
        outcomes=(group(1, right(3), step), group(2, right(5), step)),
        pool=100,
        excluded={"gate.retire": Excluded(10, 10)},
        statistics_age=5.0,
    )
    return replace(healthy, **changes)


def heard(guards: Guards, views: Iterable[StepView]) -> list[tuple[int, str, str, str]]:
    """Every warning with the step in which it was given."""
    return [
        (one.step, warning.guard, warning.part, warning.setting)
        for one in views
        for warning in guards.observe(one)
    ]


def test_a_healthy_run_is_left_alone() -> None:
    guards = Guards(SMALL)
    accuracy = [0.3, 0.35, 0.34, 0.4, 0.41, 0.4]
    views = [
        view(step, held_out=accuracy[step // 5] if step % 5 == 4 else None) for step in range(30)
    ]
    assert heard(guards, views) == []
    assert guards.metrics() == {
        "curriculum/guards/sampling_entropy": pytest.approx(1.0),
        "curriculum/guards/starved": 0,
        "curriculum/guards/excluded_share": 0.1,
        "curriculum/guards/statistics_age": 5,
        "curriculum/guards/late_share": 0,
        "curriculum/guards/warnings": 0,
    }


def test_what_is_unknown_has_no_metric() -> None:
    guards = Guards(GuardSettings())
    assert guards.metrics() == {"curriculum/guards/warnings": 0}
    assert guards.observe(StepView(0, {"a": 1.0}, {}, ())) == []
    assert guards.metrics() == {
        "curriculum/guards/sampling_entropy": 1,
        "curriculum/guards/starved": 0,
        "curriculum/guards/warnings": 0,
    }


def test_starvation_speaks_of_each_distribution_once_until_it_was_drawn() -> None:
    guards = Guards(SMALL)
    starving = [view(step, drawn={"a": 8}) for step in range(6)]
    assert heard(guards, starving) == [(2, "starvation", "sampler", "floor")]
    assert guards.metrics()["curriculum/guards/starved"] == 1
    assert heard(guards, [view(6)]) == []
    assert guards.metrics()["curriculum/guards/starved"] == 0
    again = [view(step, drawn={"b": 8}) for step in range(7, 12)]
    assert heard(guards, again) == [(9, "starvation", "sampler", "floor")]
    assert guards.metrics()["curriculum/guards/warnings"] == 2


def test_starvation_names_the_distribution() -> None:
    guards = Guards(SMALL)
    spoken = [one for step in range(3) for one in guards.observe(view(step, drawn={"b": 1}))]
    assert len(spoken) == 1
    assert "Nothing was drawn from a in 3 steps" in spoken[0].message


def test_a_step_that_draws_nothing_starves_nobody() -> None:
    """Groups of earlier steps filled it."""
    guards = Guards(SMALL)
    views = [view(step, drawn={"a": 8, "b": 0} if step % 2 else {}) for step in range(8)]
    assert heard(guards, views) == [(5, "starvation", "sampler", "floor")]


def test_a_distribution_that_left_the_mixture_is_forgotten() -> None:
    guards = Guards(SMALL)
    heard(guards, [view(step, drawn={"a": 8}) for step in range(4)])
    assert guards.observe(view(4, probabilities={"a": 1.0}, drawn={"a": 8})) == []
    assert guards.metrics()["curriculum/guards/starved"] == 0


def test_collapse_speaks_after_some_steps_in_a_row() -> None:
    narrow = {"a": 0.99, "b": 0.01}  # normalised entropy 0.081
    guards = Guards(SMALL)
    assert heard(guards, [view(0, probabilities=narrow), view(1)]) == []
    spoken = heard(guards, [view(step, probabilities=narrow) for step in range(2, 6)])
    assert spoken == [(3, "collapse", "sampler", "temperature, floor")]
    assert guards.metrics()["curriculum/guards/sampling_entropy"] == pytest.approx(0.0808, abs=1e-4)
    guards.observe(view(6))
    assert len(heard(guards, [view(step, probabilities=narrow) for step in (7, 8, 9)])) == 1


def test_sampling_entropy_by_hand() -> None:
    assert sampling_entropy({"a": 0.25, "b": 0.25, "c": 0.5}) == pytest.approx(
        1.5 * math.log(2) / math.log(3)
    )
    assert sampling_entropy({"a": 1.0, "b": 0.0}) == 0
    assert sampling_entropy({"a": 1.0}) == sampling_entropy({}) == 1


def test_one_way_pool_names_the_part_that_keeps_most_out() -> None:
    guards = Guards(SMALL)
    out = {"pool.drop_easy": Excluded(40, 0), "pool.screened": Excluded(11, 0)}
    spoken = guards.observe(view(0, excluded=out))
    assert [(one.guard, one.part, one.setting) for one in spoken] == [
        ("one_way_pool", "pool.drop_easy", "recheck_every")
    ]
    assert "51% of the 100 training prompts" in spoken[0].message
    assert guards.observe(view(1, excluded=out)) == []
    assert guards.metrics()["curriculum/guards/excluded_share"] == pytest.approx(0.51)


@pytest.mark.parametrize(
    "out",
    [
        {"pool.drop_easy": Excluded(50, 0)},
        {"gate.retire": Excluded(90, 90)},
        {"pool.drop_easy": Excluded(50, 0), "gate.retire": Excluded(20, 20)},
        {"pool.drop_easy": Excluded(90, 40)},
        {},
    ],
)
def test_a_pool_that_is_small_or_can_grow_again_is_no_one_way(out: dict[str, Excluded]) -> None:
    assert Guards(SMALL).observe(view(0, excluded=out)) == []


def test_prompts_that_may_return_do_not_hide_those_that_may_not() -> None:
    out = {"pool.drop_easy": Excluded(60, 0), "gate.retire": Excluded(90, 90)}
    (spoken,) = Guards(SMALL).observe(view(0, excluded=out))
    assert (spoken.part, spoken.setting) == ("pool.drop_easy", "recheck_every")
    assert "60% of the 100 training prompts" in spoken.message


def test_stale_statistics_speak_once_while_they_stay_old_and_unknown_ages_change_nothing() -> None:
    guards = Guards(SMALL)
    ages = [100.0, 101.0, 150.0, None, 120.0, 99.0, 130.0]
    spoken = heard(guards, [view(step, statistics_age=age) for step, age in enumerate(ages)])
    assert spoken == [(1, "stale", "scorer", "period"), (6, "stale", "scorer", "period")]


def test_groups_that_come_too_late_name_the_lag() -> None:
    guards = Guards(SMALL)
    views = [view(0), *(view(1 + k, outcomes=one) for k, one in enumerate([LATE, LATE, ()]))]
    assert heard(guards, views) == [(1, "stale", "curriculum", "max_lag")]
    assert guards.metrics()["curriculum/guards/late_share"] == pytest.approx(2 / 3)
    assert heard(guards, [view(4), view(5, outcomes=LATE)]) == [
        (5, "stale", "curriculum", "max_lag")
    ]
    half = (LATE[0], LATE[2])
    assert Guards(SMALL).observe(view(0, outcomes=half)) == []


def evaluated(points: Sequence[tuple[float | None, float]]) -> list[StepView]:
    """Two steps of a mean reward, then an evaluation, for each (reward or None for no step before, accuracy)."""
    views: list[StepView] = []
    for reward, accuracy in points:
        trained = group(1, right(1), rewards=(reward or 0.0,) * 8)
        ended = () if reward is None else (trained,)
        for held_out in (None, accuracy):
            views.append(view(len(views), outcomes=ended, held_out=held_out))
    return views


HACKED = [(0.2, 0.40), (0.3, 0.50), (0.4, 0.44), (0.5, 0.43)]


def test_reward_hacking_speaks_when_the_reward_rises_and_accuracy_falls() -> None:
    guards = Guards(SMALL)
    spoken: list[GuardWarning] = []
    for number, one in enumerate(evaluated(HACKED)):
        new = guards.observe(one)
        assert not new or number == 7
        spoken += new
    assert [(one.guard, one.part, one.setting) for one in spoken] == [
        ("reward_hacking", "rewards", "weight")
    ]
    assert "rose from 0.300 to 0.450" in spoken[0].message
    assert "fell from 0.500 to 0.430" in spoken[0].message
    assert heard(guards, evaluated([(0.6, 0.42)])) == []  # said already
    assert heard(guards, evaluated([(0.6, 0.52)])) == []
    assert len(heard(guards, evaluated([(0.7, 0.45), (0.8, 0.46)]))) == 1


@pytest.mark.parametrize(
    "points",
    [
        HACKED[:3],  # one evaluation below the best is noise
        [(0.2, 0.40), (0.3, 0.50), (0.4, 0.44), (0.5, 0.46)],  # the last is near the best
        [(0.2, 0.40), (0.3, 0.50), (0.4, 0.46), (0.5, 0.43)],  # the one before is
        [(0.2, 0.40), (0.5, 0.50), (0.4, 0.44), (0.3, 0.43)],  # the reward falls too
        [(0.3, 0.50), (0.3, 0.40), (0.3, 0.40)],  # it stays
        [(None, 0.50), (0.3, 0.40), (0.3, 0.40)],  # nothing is known of it before
        [(0.2, 0.50), (0.5, 0.50), (0.4, 0.44), (0.4, 0.43)],  # it fell since the last of the best
        [(0.2, 0.45), (0.3, 0.50), (0.4, 0.45), (0.5, 0.45)],  # 0.05 is not more than 0.05
    ],
)
def test_other_courses_are_no_reward_hacking(points: list[tuple[float | None, float]]) -> None:
    assert heard(Guards(SMALL), evaluated(points)) == []


def test_an_evaluation_before_the_first_step_can_be_the_best() -> None:
    points = [(None, 0.5), (0.3, 0.44), (0.4, 0.40)]
    assert [one[1] for one in heard(Guards(SMALL), evaluated(points))] == ["reward_hacking"]


def test_a_best_that_left_the_window_is_forgotten() -> None:
    points = [*HACKED, (0.6, 0.42), (0.7, 0.42)]
    guards = Guards(SMALL)
    assert len(heard(guards, evaluated(points))) == 1
    assert guards.state_dict()["active"] == []
    assert len(guards.state_dict()["evaluations"]) == 4


def test_only_trained_groups_tell_of_the_reward() -> None:
    guards = Guards(SMALL)
    gated = group(2, right(8), disposition="gated", rewards=(5.0,) * 8)
    trained = group(1, right(1), rewards=(0.25,) * 8)
    guards.observe(view(0, outcomes=(trained, gated)))
    guards.observe(view(1, outcomes=(gated,)))
    assert guards.state_dict()["since"] == [0.25, 1]


@pytest.mark.parametrize(
    "silent",
    [
        {"starvation_steps": 10**9},
        {"collapse_entropy": 0.0},
        {"pool_share": 1.0},
        {"stale_steps": math.inf},
        {"late_share": 1.0},
        {"drop": 1.0},
    ],
)
def test_each_guard_can_be_silenced_alone(silent: dict[str, float]) -> None:
    """Where all goes wrong, six warnings; five with one of the thresholds out of reach."""

    def spoken(settings: GuardSettings) -> int:
        views = [
            replace(
                one,
                probabilities={"a": 0.99, "b": 0.01},
                drawn={"a": 1},
                statistics_age=1000.0,
                excluded={"pool.screened": Excluded(90, 0)},
                outcomes=(*one.outcomes, *LATE[:2]),
            )
            for one in evaluated(HACKED)
        ]
        return len(heard(Guards(settings), views))

    assert spoken(SMALL) == 6
    changed: Any = silent
    assert spoken(replace(SMALL, **changed)) == 5


@pytest.mark.parametrize(
    "bad",
    [
        {"starvation_steps": 0},
        {"collapse_steps": 0},
        {"window": 2},
        {"collapse_entropy": 1.1},
        {"pool_share": -0.1},
        {"late_share": float("nan")},
        {"drop": 2.0},
        {"stale_steps": 0.0},
    ],
)
def test_settings_that_cannot_work_are_refused(bad: dict[str, Any]) -> None:
    (name,) = bad
    with pytest.raises(ValueError, match=f"guards need {name}"):
        GuardSettings(**bad)


VIEWS = st.builds(
    view,
    step=st.just(0),
    probabilities=st.sampled_from([EVEN, {"a": 0.99, "b": 0.01}, {"a": 1.0}]),
    drawn=st.sampled_from([{"a": 4, "b": 4}, {"a": 1}, {"b": 1}, {}]),
    outcomes=st.sampled_from([LATE, (), (group(1, right(4)),), (group(1, right(8)),)]),
    excluded=st.sampled_from([{}, {"x": Excluded(80, 0)}, {"x": Excluded(80, 1)}]),
    statistics_age=st.sampled_from([None, 1.0, 500.0]),
    held_out=st.sampled_from([None, 0.1, 0.5, 0.6, 0.9]),
)


@settings(max_examples=80, deadline=None)
@given(st.lists(VIEWS, max_size=16), st.integers(0, 15))
def test_guards_go_on_from_their_state(views: list[StepView], cut: int) -> None:
    """Through JSON into a fresh object: no warning twice, none lost."""
    straight, resumed = Guards(SMALL), Guards(SMALL)
    for number, one in enumerate(views):
        if number == cut:
            resumed.load_state_dict(through_disk(straight.state_dict()))
        new = straight.observe(one)
        if number >= cut:
            assert resumed.observe(one) == new
            assert text(resumed.state_dict()) == text(straight.state_dict())
            assert resumed.metrics() == straight.metrics()
        assert all(math.isfinite(value) for value in straight.metrics().values())
