"""Numbers that change over a run: pure functions of where the run stands, so a resume needs no schedule state.

A recipe may write any of these where a number stands. `on` names the clock: `step` counts over the whole run,
`stage_step` within the stage, `progress` is stage_step over the stage's planned steps, in [0, 1].
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Clock = Literal["step", "stage_step", "progress"]
# pydantic: an unknown key in a recipe's schedule is an error, and so is a number that is not finite
_CLOSED = {"extra": "forbid", "allow_inf_nan": False}


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands at the start of a step."""

    step: int  # steps done before this one, over the whole run
    stage_step: int  # the same within the stage
    stage_steps: int | None = None  # planned steps of the stage, if `until` says

    def on(self, clock: Clock) -> float:
        """Value of one clock; ValueError where the stage has no planned number of steps."""
        if clock == "step":
            return self.step
        if clock == "stage_step":
            return self.stage_step
        if self.stage_steps is None:
            raise ValueError(
                "A schedule on 'progress' needs a stage with until.steps; set until.steps or use on: step"
            )
        return min(1.0, self.stage_step / max(1, self.stage_steps))


@dataclass(frozen=True)
class Constant:
    """The same value throughout."""

    value: float
    schedule: Literal["constant"] = "constant"
    __pydantic_config__ = _CLOSED

    def at(self, progress: Progress) -> float:
        return self.value


@dataclass(frozen=True)
class Linear:
    """From `start` to `end` over `over` units of the clock (1.0 for progress), then `end`."""

    start: float
    end: float
    over: float = 1.0
    on: Clock = "progress"
    schedule: Literal["linear"] = "linear"
    __pydantic_config__ = _CLOSED

    def __post_init__(self) -> None:
        if self.over <= 0:
            raise ValueError(f"A linear schedule needs over > 0, got {self.over}")

    def at(self, progress: Progress) -> float:
        fraction = min(1.0, progress.on(self.on) / self.over)
        return self.start + (self.end - self.start) * fraction


@dataclass(frozen=True)
class StepExp:
    """start * gamma ** floor(t / every), not below `floor`, rounded as asked (Train Long, Think Short, 2508.08940)."""

    start: float
    gamma: float
    every: float
    floor: float = 1.0
    round: Literal["floor", "nearest", "none"] = "floor"
    on: Clock = "step"
    schedule: Literal["step_exp"] = "step_exp"
    __pydantic_config__ = _CLOSED

    def __post_init__(self) -> None:
        if self.every <= 0 or self.gamma <= 0:
            raise ValueError(
                f"step_exp needs every > 0 and gamma > 0, got every={self.every}, gamma={self.gamma}"
            )

    def at(self, progress: Progress) -> float:
        drops = math.floor(progress.on(self.on) / self.every + 1e-9)
        value = max(self.floor, self.start * self.gamma**drops)
        if self.round == "none":
            return value
        return float(math.floor(value + 1e-9) if self.round == "floor" else math.floor(value + 0.5))


@dataclass(frozen=True)
class Piecewise:
    """Linear between the points [[clock, value], ...], flat before the first and after the last."""

    points: tuple[tuple[float, float], ...]
    on: Clock = "progress"
    schedule: Literal["piecewise"] = "piecewise"
    __pydantic_config__ = _CLOSED

    def __post_init__(self) -> None:
        clocks = [point[0] for point in self.points]
        if not clocks or clocks != sorted(set(clocks)):
            raise ValueError(
                f"piecewise needs points with rising clocks, got {[list(p) for p in self.points]}"
            )

    def at(self, progress: Progress) -> float:
        clock = progress.on(self.on)
        if clock <= self.points[0][0]:
            return self.points[0][1]
        for (left, low), (right, high) in zip(self.points, self.points[1:], strict=False):
            if clock <= right:
                return low + (high - low) * (clock - left) / (right - left)
        return self.points[-1][1]


Schedule = Constant | Linear | StepExp | Piecewise
SCHEDULES: dict[str, type[Constant] | type[Linear] | type[StepExp] | type[Piecewise]] = {
    "constant": Constant,
    "linear": Linear,
    "step_exp": StepExp,
    "piecewise": Piecewise,
}


def value_at(number: float | Schedule, progress: Progress) -> float:
    """The value of a number or schedule at this point of the run."""
    return number.at(progress) if isinstance(number, Schedule) else number
