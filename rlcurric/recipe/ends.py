"""When a stage ends, and which of its checkpoints counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from rlcurric.recipe.values import Closed

COMES_FOR_CERTAIN = ("steps", "tokens", "epochs", "gpu_hours")


class Plateau(Closed):
    """No better value of a metric for `patience` rows that have it."""

    metric: str = "eval/accuracy/mean"
    """Key of `metrics.jsonl`."""
    patience: PositiveInt = 3
    """Rows that have the metric without a better value."""
    min_delta: NonNegativeFloat = 0.0
    """What counts as better."""
    mode: Literal["max", "min"] = "max"
    """Whether more or less is better."""


class PassRateBand(Closed):
    """The pass rate of what was sampled, mean over `window` steps, lies in [low, high]."""

    low: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Lower bound, included."""
    high: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Upper bound, included."""
    distribution: str | None = None
    """Whose pass rate; default: of all."""
    window: PositiveInt = 10
    """Steps that the mean goes over."""

    @model_validator(mode="after")
    def _is_a_band(self) -> PassRateBand:
        if self.low > self.high or (self.low, self.high) == (0.0, 1.0):
            raise ValueError(
                f"until.pass_rate needs low and high with low <= high, and not the whole of [0, 1]; got [{self.low}, {self.high}]"
            )
        return self


class TruncationRate(Closed):
    """The share of sampled completions that were cut off, mean over `window` steps, is above `above`."""

    above: Annotated[float, Field(ge=0, lt=1)]
    """The share beyond which the stage ends."""
    window: PositiveInt = 10
    """Steps that the mean goes over."""


class Until(Closed):
    """When a stage ends. Keys side by side: whichever comes first; `any` and `all` combine.

    It must be known that the stage ends: `steps`, `tokens`, `epochs` or `gpu_hours` stands in it, on every way. Where
    `steps` bounds the stage, schedules on `progress` go by it.
    """

    steps: PositiveInt | None = None
    """Steps of the stage."""
    tokens: PositiveInt | None = None
    """Tokens generated in the stage (sft, dpo: trained on)."""
    epochs: PositiveFloat | None = None
    """Passes over the stage's training rows, such as 1.5."""
    plateau: Plateau | None = None
    """No better value of a metric for a while."""
    pass_rate: PassRateBand | None = None
    """The pass rate of what was sampled lies in a band."""
    truncated: TruncationRate | None = None
    """Too many completions are cut off."""
    gpu_hours: PositiveFloat | None = None
    """Hours times ranks, by the clock: not reproducible."""
    any: tuple[Until, ...] = ()
    """Whichever of these comes first, each again an `until`."""
    all: tuple[Until, ...] = ()
    """All of these together, each again an `until`."""

    @property
    def alternatives(self) -> tuple[Any, ...]:
        """What ends the stage when it holds, each alone: (key, value)."""
        own = [(key, getattr(self, key)) for key in UNTIL_LEAVES]
        found = [(key, value) for key, value in own if value is not None]
        found += [("until", one) for one in self.any]
        return (*found, *([("all", self.all)] if self.all else []))

    @property
    def planned_steps(self) -> int | None:
        """Most steps that the stage can have, where steps bound it."""
        bounds = [self.steps] if self.steps is not None else []
        bounds += [bound for one in self.any if (bound := one.planned_steps) is not None]
        together = [one.planned_steps for one in self.all]
        if together and None not in together:
            bounds.append(max(bound for bound in together if bound is not None))
        return min(bounds, default=None)

    def is_bounded(self, by: Sequence[str] = COMES_FOR_CERTAIN) -> bool:
        """Whether something in it comes for certain: one of these keys, on every way."""
        return (
            any(getattr(self, key) is not None for key in by)
            or any(one.is_bounded(by) for one in self.any)
            or (bool(self.all) and all(one.is_bounded(by) for one in self.all))
        )

    def levels(self, place: str = "") -> list[tuple[str, Until]]:
        """It and all that stand in it, each with its place: "", any.0., any.0.all.1."""
        found = [(place, self)]
        for name in ("any", "all"):
            for number, one in enumerate(getattr(self, name)):
                found += one.levels(f"{place}{name}.{number}.")
        return found

    @model_validator(mode="before")
    @classmethod
    def _accept_steps(cls, data: Any) -> Any:
        return {"steps": data} if isinstance(data, int) and not isinstance(data, bool) else data

    @model_validator(mode="after")
    def _says_something(self) -> Until:
        if not self.alternatives:
            raise ValueError(
                f"until needs at least one of {', '.join(UNTIL_LEAVES)}, any, all; e.g. until: {{steps: 100}}"
            )
        return self


UNTIL_LEAVES = ("steps", "tokens", "epochs", "plateau", "pass_rate", "truncated", "gpu_hours")


class Best(Closed):
    """The stage's best checkpoint by a held-out metric, kept beside the last one (`init: stage:NAME:best`)."""

    metric: str = "eval/accuracy/mean"
    """Metric of the evaluation."""
    mode: Literal["max", "min"] = "max"
    """Whether more or less is better."""
    rollback: bool = False
    """The stage hands over its best checkpoint in place of its last."""
