"""Schedules: values by hand, the paper's table, and the clocks."""

from __future__ import annotations

import pytest

from rlcurric.schedules import Constant, Linear, Piecewise, Progress, StepExp, value_at


def at(step: int, steps: int | None = None, stage_step: int | None = None) -> Progress:
    return Progress(step, step if stage_step is None else stage_step, steps)


def test_step_exp_gives_the_budgets_of_train_long_think_short() -> None:
    budget = StepExp(start=256, gamma=0.7, every=150)
    steps = (0, 149, 150, 299, 300, 449, 450, 599)
    assert [budget.at(at(step)) for step in steps] == [256, 256, 179, 179, 125, 125, 87, 87]


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
        lambda: Piecewise(points=()),
        lambda: Piecewise(points=((1.0, 0.0), (0.5, 1.0))),
    ],
)
def test_senseless_schedules_are_refused(make: object) -> None:
    with pytest.raises(ValueError):
        make()  # type: ignore[operator]
