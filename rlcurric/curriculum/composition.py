"""What a controller is made of: the parts of one stage's curriculum, and how much a step asks for."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from rlcurric.curriculum import answers
from rlcurric.curriculum.guards import GuardSettings
from rlcurric.curriculum.hints import HintLevels
from rlcurric.curriculum.parts import (
    Gate,
    Part,
    Plan,
    PoolFilter,
    Sampler,
    Scorer,
    Selector,
    Weight,
)
from rlcurric.curriculum.plans import Whole
from rlcurric.schedules import Progress
from rlcurric.types import GroupOutcome


@dataclass(frozen=True)
class ControllerSettings:
    """How much a step asks for, and what becomes of what comes late."""

    prompts_per_step: int
    group_size: int
    refill_rounds: int = 3  # extra rounds for groups that a gate refused or that failed
    refill_fallback: Literal["train_smaller", "train_gated"] = "train_smaller"
    oversample: float = 1.0  # groups asked for, relative to those missing
    max_empty_steps: int = 5  # steps in a row without an admitted group before the run stops
    lag_discount: float = 0.9  # weight of an outcome for each policy version that it is late
    max_lag: int = 4  # versions; what is later teaches the parts nothing
    normalise_weights: bool = False  # group weights of a batch to mean 1
    log_candidates: int = (
        4096  # candidates a round that the decision log lists; of more it keeps a hash
    )
    guards: GuardSettings = field(default_factory=GuardSettings)

    def __post_init__(self) -> None:
        if (
            self.prompts_per_step < 1
            or self.group_size < 2
            or self.refill_rounds < 0
            or self.oversample < 1
            or not 0 <= self.lag_discount <= 1
            or self.max_lag < 0
        ):
            raise ValueError(
                "A curriculum needs prompts_per_step >= 1, group_size >= 2, refill_rounds >= 0, oversample >= 1, "
                f"lag_discount in [0, 1] and max_lag >= 0, got {self}"
            )


@dataclass(frozen=True)
class Composition:
    """The parts of one stage's curriculum."""

    sampler: Sampler
    scorer: Scorer | None = None
    gates: tuple[Gate, ...] = ()
    pool_filters: tuple[PoolFilter, ...] = ()
    plan: Plan = field(default_factory=Whole)
    selector: Selector | None = None
    weights: tuple[Weight, ...] = ()
    hints: HintLevels | None = None

    @property
    def predicts(self) -> bool:
        """Whether the scorer asks for the pass rates of a value model."""
        return self.scorer is not None and self.scorer.predicts

    def weight(self, outcome: GroupOutcome, progress: Progress) -> float:
        """Factor on a group's advantages, before it is normalised: the product over the weight parts."""
        return math.prod(
            answers.weight(part, part.weight(outcome, progress)) for part in self.weights
        )

    @property
    def filters(self) -> tuple[Gate | PoolFilter, ...]:
        """Everything that says which prompts may be asked for."""
        return (*self.gates, *self.pool_filters)

    def named(self) -> dict[str, Part]:
        """Every part, by its place in the recipe."""
        parts: dict[str, Part | None] = {
            "sampler": self.sampler,
            "scorer": self.scorer,
            "plan": self.plan,
            "selector": self.selector,
            "hints": self.hints,
        }
        for kind, several in (
            ("gate", self.gates),
            ("pool", self.pool_filters),
            ("weight", self.weights),
        ):
            parts |= {f"{kind}.{number}": part for number, part in enumerate(several)}
        return {name: part for name, part in parts.items() if part is not None}
