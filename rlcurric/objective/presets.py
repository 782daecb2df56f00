"""Objectives by name, each a declaration."""

from __future__ import annotations

from dataclasses import dataclass

from rlcurric.objective.advantages import Normalise
from rlcurric.objective.aggregation import Rule
from rlcurric.registry import register


@dataclass(frozen=True)
class ObjectiveSpec:
    """What is optimised, as the choices that make it."""

    normalise: Normalise = (
        "group"  # advantages over the std of the group, of the batch, or as they are
    )
    ddof: int = 1  # of that std
    eps: float = 1e-4  # added to that std
    clip_low: float = 0.2
    clip_high: float = 0.2
    aggregation: Rule = "rows"

    def __post_init__(self) -> None:
        if self.clip_low < 0 or self.clip_high < 0 or self.eps <= 0 or self.ddof not in (0, 1):
            raise ValueError(
                f"An objective needs clip_low >= 0, clip_high >= 0, eps > 0 and ddof 0 or 1, got {self}"
            )


@register("objective", "grpo")
def grpo(
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    normalise: Normalise = "group",
    ddof: int = 1,
    eps: float = 1e-4,
    aggregation: Rule = "rows",
) -> ObjectiveSpec:
    """GRPO (2402.03300): advantages by group, mean over a row's tokens, then over rows."""
    return ObjectiveSpec(normalise, ddof, eps, clip_low, clip_high, aggregation)


@register("objective", "dr_grpo")
def dr_grpo(clip_low: float = 0.2, clip_high: float = 0.2) -> ObjectiveSpec:
    """Dr. GRPO (2503.20783): no division by the std, a constant in place of the row's length."""
    return ObjectiveSpec("none", 1, 1e-4, clip_low, clip_high, "constant")


@register("objective", "dapo")
def dapo(
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    normalise: Normalise = "group",
    ddof: int = 1,
    eps: float = 1e-4,
) -> ObjectiveSpec:
    """DAPO (2503.14476): clip-higher and the mean over all tokens of the window. Its gate is `zero_variance`."""
    return ObjectiveSpec(normalise, ddof, eps, clip_low, clip_high, "tokens")
