"""Numbers that change over a run: pure functions of where the run stands, so a resume needs no schedule state.

A recipe may write any of these where a number stands. `on` names the clock: `step` and `tokens` (generated) count over
the whole run, `stage_step` within the stage, `progress` is stage_step over the stage's planned steps, in [0, 1].
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Clock = Literal["step", "stage_step", "tokens", "progress"]
Rounding = Literal["floor", "nearest", "none"]
# pydantic: an unknown key in a recipe's schedule is an error, and so is a number that is not finite
_CLOSED = {"extra": "forbid", "allow_inf_nan": False}


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands at the start of a step."""

    step: int  # steps done before this one, over the whole run
    stage_step: int  # the same within the stage
    stage_steps: int | None = None  # planned steps of the stage, if `until` says
    tokens: int = 0  # generated before this step, over the whole run

    def on(self, clock: Clock) -> float:
        """Value of one clock; ValueError where the stage has no planned number of steps."""
        if clock == "step":
            return self.step
        if clock == "stage_step":
            return self.stage_step
        if clock == "tokens":
            return self.tokens
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
class _Ramp:
    """From `start` to `end` over `over` units of the clock (1.0 for progress), then `end`."""

    start: float
    end: float
    over: float = 1.0
    on: Clock = "progress"
    schedule: str = ""
    __pydantic_config__ = _CLOSED

    def __post_init__(self) -> None:
        _require_over(self.schedule, self.over)

    def _fraction(self, progress: Progress) -> float:
        return min(1.0, progress.on(self.on) / self.over)


@dataclass(frozen=True)
class Linear(_Ramp):
    """From `start` to `end` over `over` units of the clock (1.0 for progress), then `end`."""

    schedule: Literal["linear"] = "linear"

    def at(self, progress: Progress) -> float:
        return self.start + (self.end - self.start) * self._fraction(progress)


@dataclass(frozen=True)
class Cosine(_Ramp):
    """From `start` to `end` along half a cosine over `over` units of the clock, then `end` (1608.03983)."""

    schedule: Literal["cosine"] = "cosine"

    def at(self, progress: Progress) -> float:
        bend = (1 + math.cos(math.pi * self._fraction(progress))) / 2
        return self.end + (self.start - self.end) * bend


@dataclass(frozen=True)
class Exponential:
    """start * gamma ** (t / over), not below `floor`, rounded as asked (Reinforcement Mid-Training, 2509.24375)."""

    start: float
    gamma: float
    over: float = 1.0
    floor: float = 0.0
    round: Rounding = "none"
    on: Clock = "progress"
    schedule: Literal["exponential"] = "exponential"
    __pydantic_config__ = _CLOSED

    def __post_init__(self) -> None:
        _require_over("exponential", self.over)
        _require_decay("exponential", self.start, self.gamma, self.floor)
        _require_whole("exponential", self.round, self.start)

    def at(self, progress: Progress) -> float:
        value = self.start * self.gamma ** (progress.on(self.on) / self.over)
        return _rounded(max(self.floor, value), self.round)


@dataclass(frozen=True)
class StepExp:
    """start * gamma ** floor(t / every), not below `floor`, rounded as asked (Train Long, Think Short, 2508.08940)."""

    start: float
    gamma: float
    every: float
    floor: float = 1.0
    round: Rounding = "floor"
    on: Clock = "step"
    schedule: Literal["step_exp"] = "step_exp"
    __pydantic_config__ = _CLOSED

    def __post_init__(self) -> None:
        if self.every <= 0:
            raise ValueError(f"step_exp needs every > 0, got {self.every:g}")
        _require_decay("step_exp", self.start, self.gamma, self.floor)
        _require_whole("step_exp", self.round, self.start)

    def at(self, progress: Progress) -> float:
        drops = _drops_done(progress.on(self.on), self.every)
        return _rounded(max(self.floor, self.start * self.gamma**drops), self.round)


@dataclass(frozen=True)
class _Drops:
    """From `start` to `end` in `drops` drops, one at every total / (drops + 1) of the clock (2508.08940)."""

    start: float
    end: float
    drops: int
    total: float
    round: Rounding = "nearest"
    on: Clock = "step"
    schedule: str = ""
    __pydantic_config__ = _CLOSED

    def __post_init__(self) -> None:
        _require_drops(self.schedule, self.drops, self.total)
        _require_whole(self.schedule, self.round, self.start, self.end)

    def _done(self, progress: Progress) -> int:
        interval = self.total / (self.drops + 1)
        return min(self.drops, _drops_done(progress.on(self.on), interval))


@dataclass(frozen=True)
class StepExpN(_Drops):
    """From `start` to `end` in `drops` equal ratios, at every total / (drops + 1) of the clock (2508.08940)."""

    schedule: Literal["step_exp_n"] = "step_exp_n"

    def __post_init__(self) -> None:
        if self.start <= 0 or self.end <= 0:
            raise ValueError(
                f"step_exp_n needs start and end above 0, got {self.start:g} and {self.end:g}; use step_linear"
            )
        super().__post_init__()

    def at(self, progress: Progress) -> float:
        share = self._done(progress) / self.drops
        return _rounded(self.start * (self.end / self.start) ** share, self.round)


@dataclass(frozen=True)
class StepLinear(_Drops):
    """From `start` to `end` in `drops` equal steps, at every total / (drops + 1) of the clock (2508.08940)."""

    schedule: Literal["step_linear"] = "step_linear"

    def at(self, progress: Progress) -> float:
        fallen = (self.end - self.start) * self._done(progress) / self.drops
        return _rounded(self.start + fallen, self.round)


@dataclass(frozen=True)
class PowerBase:
    """start + (end - start) * (base**x - 1) / (base - 1) with x = t / over up to 1 (ZeroSearch, 2505.04588)."""

    start: float
    end: float
    base: float = 4.0
    over: float = 1.0
    on: Clock = "progress"
    schedule: Literal["power_base"] = "power_base"
    __pydantic_config__ = _CLOSED

    def __post_init__(self) -> None:
        _require_over("power_base", self.over)
        if self.base <= 0 or self.base == 1:
            raise ValueError(
                f"power_base needs a base above 0 that is not 1 (use linear), got {self.base:g}"
            )

    def at(self, progress: Progress) -> float:
        fraction = min(1.0, progress.on(self.on) / self.over)
        share = (self.base**fraction - 1) / (self.base - 1)
        return self.start + (self.end - self.start) * share


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


Schedule = (
    Constant
    | Linear
    | Cosine
    | Exponential
    | StepExp
    | StepExpN
    | StepLinear
    | PowerBase
    | Piecewise
)
SCHEDULES: dict[str, type[Schedule]] = {
    "constant": Constant,
    "linear": Linear,
    "cosine": Cosine,
    "exponential": Exponential,
    "step_exp": StepExp,
    "step_exp_n": StepExpN,
    "step_linear": StepLinear,
    "power_base": PowerBase,
    "piecewise": Piecewise,
}


def value_at(number: float | Schedule, progress: Progress) -> float:
    """The value of a number or schedule at this point of the run."""
    return number.at(progress) if isinstance(number, Schedule) else number


def clock_of(number: float | Schedule) -> Clock | None:
    """The clock that a schedule goes by; None where nothing changes."""
    return None if not isinstance(number, Schedule) or isinstance(number, Constant) else number.on


def span_of(schedule: Schedule) -> float | None:
    """Where on its clock a schedule has reached its last value; None where it has no end of its own."""
    if isinstance(schedule, StepExpN | StepLinear):
        return schedule.total
    if isinstance(schedule, Piecewise):
        return schedule.points[-1][0]
    if isinstance(schedule, Linear | Cosine | PowerBase):
        return schedule.over
    return None


def _drops_done(clock: float, interval: float) -> int:
    return math.floor(clock / interval + 1e-9)


def _rounded(value: float, how: Rounding) -> float:
    if how == "none":
        return value
    return float(math.floor(value + 1e-9) if how == "floor" else math.floor(value + 0.5))


def _require_over(kind: str, over: float) -> None:
    if over <= 0:
        raise ValueError(f"A {kind} schedule needs over > 0, got {over:g}")


def _require_decay(kind: str, start: float, gamma: float, floor: float) -> None:
    if gamma <= 0:
        raise ValueError(f"{kind} needs gamma > 0, got {gamma:g}")
    if start < floor:
        raise ValueError(
            f"{kind} starts at {start:g}, below its floor {floor:g}, and would stay there; set floor: 0"
        )


def _require_drops(kind: str, drops: int, total: float) -> None:
    if drops < 1 or total <= 0:
        raise ValueError(
            f"{kind} needs drops of at least 1 and total > 0, got drops={drops}, total={total:g}"
        )


def _require_whole(kind: str, how: Rounding, *values: float) -> None:
    """ValueError where rounding would leave nothing of a number between 0 and 1."""
    if how != "none" and 0 < max(map(abs, values)) < 1:
        raise ValueError(
            f"{kind} rounds to whole numbers and {max(values, key=abs):g} is below 1; set round: none"
        )
