"""Schedules: values by hand, the paper's table, and the clocks."""

from __future__ import annotations

import itertools

import pytest

from rlcurric.schedules import (
    SCHEDULES,
    Constant,
    Cosine,
    Exponential,
    Linear,
    Piecewise,
    PowerBase,
    Progress,
    StepExp,
    StepExpN,
    StepLinear,
    clock_of,
    span_of,
    value_at,
)


def at(step: int, steps: int | None = None, stage_step: int | None = None) -> Progress:
    return Progress(step, step if stage_step is None else stage_step, steps)


def test_step_exp_gives_the_budgets_of_train_long_think_short() -> None:
    budget = StepExp(start=256, gamma=0.7, every=150)
    steps = (0, 149, 150, 299, 300, 449, 450, 599)
    assert [budget.at(at(step)) for step in steps] == [256, 256, 179, 179, 125, 125, 87, 87]


@pytest.mark.parametrize(
    ("drops", "ratio"), [(1, 0.3398), (3, 0.6978), (7, 0.8571)], ids=lambda one: str(one)
)
def test_step_exp_n_drops_by_the_ratios_of_train_long_think_short(drops: int, ratio: float) -> None:
    budget = StepExpN(start=256, end=87, drops=drops, total=600, round="none")
    interval = 600 // (drops + 1)
    values = [budget.at(at(step)) for step in range(0, 600, interval)]
    assert len(values) == drops + 1
    assert [right / left for left, right in itertools.pairwise(values)] == pytest.approx(
        [ratio] * drops, abs=5e-5
    )
    assert (values[0], values[-1]) == pytest.approx((256, 87))
    assert budget.at(at(interval - 1)) == 256 and budget.at(at(5000)) == pytest.approx(87)


def test_step_exp_n_rounds_to_the_nearest_unless_told_otherwise() -> None:
    steps = (0, 149, 150, 300, 450, 599, 600, 900)
    near = StepExpN(start=256, end=87, drops=3, total=600)
    assert [near.at(at(step)) for step in steps] == [256, 256, 179, 125, 87, 87, 87, 87]
    low = StepExpN(start=256, end=87, drops=3, total=600, round="floor")
    assert [low.at(at(step)) for step in steps[2:5]] == [178, 124, 87]


def test_step_linear_drops_by_equal_amounts() -> None:
    budget = StepLinear(start=256, end=87, drops=3, total=600)
    assert [budget.at(at(step)) for step in (0, 149, 150, 300, 450, 700)] == [
        256,
        256,
        200,
        143,
        87,
        87,
    ]
    exact = StepLinear(start=1.0, end=0.0, drops=4, total=1.0, round="none", on="progress")
    assert [exact.at(at(step, steps=10)) for step in (1, 2, 4, 6, 8, 10)] == [
        1,
        0.75,
        0.5,
        0.25,
        0,
        0,
    ]


def test_exponential_gives_the_budgets_of_reinforcement_mid_training() -> None:
    budget = Exponential(start=800, gamma=0.2, floor=1, round="floor")
    assert [budget.at(at(step, steps=100)) for step in (0, 50, 100)] == [800, 357, 160]
    rate = Exponential(start=1.0, gamma=0.5, over=10, on="stage_step", floor=0.2)
    assert [rate.at(at(step)) for step in (0, 10, 20, 30)] == [1.0, 0.5, 0.25, 0.2]


def test_power_base_gives_the_noise_of_zerosearch() -> None:
    noise = PowerBase(start=0, end=0.5)
    values = [noise.at(at(step, steps=4)) for step in (0, 1, 2, 3, 4)]
    assert values == pytest.approx([0, 0.069, 0.1667, 0.305, 0.5], abs=5e-4)
    assert PowerBase(0, 0.5, over=100, on="step").at(at(1000)) == 0.5


def test_cosine_is_half_a_wave_and_stays_at_its_end() -> None:
    rate = Cosine(start=1.0, end=0.2, over=12, on="step")
    assert [rate.at(at(step)) for step in (0, 4, 6, 8, 12, 40)] == pytest.approx(
        [1.0, 0.8, 0.6, 0.4, 0.2, 0.2]
    )


def test_the_clock_of_tokens_counts_over_the_run() -> None:
    share = Linear(start=1.0, end=0.0, over=1000, on="tokens")
    assert [share.at(Progress(9, 2, 5, tokens)) for tokens in (0, 250, 2000)] == [1.0, 0.75, 0.0]


def test_a_schedule_says_its_clock_and_where_it_ends() -> None:
    assert set(SCHEDULES) == {kind().schedule for kind in _SAMPLES}
    spans = [span_of(kind()) for kind in _SAMPLES]
    assert spans == [None, 1, 1, None, None, 60, 60, 1, 7]
    assert clock_of(3.0) is None and clock_of(Constant(1.0)) is None
    assert clock_of(StepExp(8, 0.5, 1)) == "step" and clock_of(Cosine(1, 0)) == "progress"


_SAMPLES = (
    lambda: Constant(1.0),
    lambda: Linear(1, 0),
    lambda: Cosine(1, 0),
    lambda: Exponential(8, 0.5),
    lambda: StepExp(8, 0.5, 1),
    lambda: StepExpN(8, 2, 2, 60),
    lambda: StepLinear(8, 2, 2, 60),
    lambda: PowerBase(0, 1),
    lambda: Piecewise(((0, 1), (7, 2))),
)


def test_step_exp_does_not_fall_below_its_floor_and_counts_on_the_run() -> None:
    budget = StepExp(start=100, gamma=0.1, every=1, floor=5)
    assert budget.at(at(3)) == 5
    assert budget.at(Progress(step=1, stage_step=0)) == 10


def test_linear_reaches_its_end_and_stays() -> None:
    rate = Linear(start=1.0, end=0.0, over=10, on="stage_step")
    assert [rate.at(at(step)) for step in (0, 5, 10, 20)] == [1.0, 0.5, 0.0, 0.0]
    assert Linear(2.0, 4.0).at(at(5, steps=10)) == 3.0


def test_piecewise_is_linear_between_points_and_flat_outside() -> None:
    curve = Piecewise(points=((0.2, 1.0), (0.4, 3.0), (1.0, 0.0)), on="progress")
    values = [curve.at(at(step, steps=10)) for step in (0, 2, 3, 4, 7, 10)]
    assert values == pytest.approx([1.0, 1.0, 2.0, 3.0, 1.5, 0.0])


def test_numbers_and_constants_do_not_change() -> None:
    assert value_at(3.5, at(7)) == value_at(Constant(3.5), at(9)) == 3.5


def test_progress_needs_planned_steps() -> None:
    with pytest.raises(ValueError, match=r"until\.steps"):
        Linear(1.0, 0.0).at(at(1))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Linear(0.0, 1.0, over=0),
        lambda: StepExp(1, 0.5, every=0),
        lambda: StepExp(1, -0.5, every=1),
        lambda: StepExp(1e-6, 0.5, every=10),  # below its floor: it would never be 1e-6
        lambda: StepExp(0.5, 0.5, every=10, floor=0),  # rounds to nothing
        lambda: StepExpN(8, 2, drops=0, total=9),
        lambda: StepExpN(8, 0, drops=2, total=9),
        lambda: StepExpN(0.8, 0.2, drops=2, total=9),
        lambda: StepLinear(8, 2, drops=2, total=0),
        lambda: Exponential(1, -1),
        lambda: Exponential(1, 0.5, over=0),
        lambda: Cosine(1, 0, over=-1),
        lambda: PowerBase(0, 1, base=1),
        lambda: PowerBase(0, 1, over=0),
        lambda: Piecewise(points=()),
        lambda: Piecewise(points=((1.0, 0.0), (0.5, 1.0))),
    ],
)
def test_senseless_schedules_are_refused(make: object) -> None:
    with pytest.raises(ValueError):
        make()  # type: ignore[operator]
