"""What came of every simulated step, distribution by distribution, and of every stage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rlcurric.types import Delivery


@dataclass(frozen=True, slots=True)
class StepShare:
    """One distribution in one step of one seed."""

    seed: int
    stage: str
    step: int  # of the run
    stage_step: int
    distribution: str
    probability: float  # with which it was drawn
    asked: int  # groups opened
    trained: int  # groups of the batch
    refused: int  # groups that ended without being trained
    rollouts: int
    tokens: int  # generated
    pass_rate: float | None  # of what was sampled without a hint
    solve_rate: float  # expected over all its prompts, after the step

    def to_row(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Said:
    """A warning of a guard-rail."""

    step: int
    guard: str
    message: str


@dataclass(frozen=True)
class StageEnd:
    """One stage of one seed."""

    seed: int
    stage: str
    kind: str
    steps: int
    last_step: int  # of the run
    reason: str  # key below `until`; "stopped" where the run would end
    values: Mapping[str, Any]  # what it was seen by
    tokens: int = 0  # generated, screening included
    before: Mapping[str, float] = field(default_factory=dict)  # expected solve rates
    after: Mapping[str, float] = field(default_factory=dict)
    visited: Mapping[str, int] = field(default_factory=dict)  # different prompts, of the stage
    warnings: Sequence[Said] = ()


class StepCount:
    """Counts of one step, by distribution."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self.rollouts: Counter[str] = Counter()
        self.tokens: Counter[str] = Counter()
        self.drawn = 0  # prompts sampled

    def add(self, deliveries: Sequence[Delivery], opened: int) -> None:
        """A round of rollouts, of which `opened` groups are new."""
        self.drawn += opened
        for one in deliveries:
            self.rollouts[one.distribution] += len(one.samples)
            self.tokens[one.distribution] += sum(sample.length for sample in one.samples)

    def shares(
        self,
        lines: Sequence[Mapping[str, Any]],
        row: Mapping[str, Any],
        solve_rates: Mapping[str, float],
        place: Mapping[str, Any],
    ) -> list[StepShare]:
        """What the step's lines of the decision log and its metrics say of each distribution.

        `place`: seed, stage, step and stage_step.
        """
        asked = Counter(
            group["distribution"]
            for line in lines
            if line["kind"] == "draw"
            for group in line["groups"]
        )
        ended = [group for line in lines if line["kind"] == "outcomes" for group in line["groups"]]
        by_end = Counter((one["distribution"], one["disposition"] == "trained") for one in ended)
        return [
            StepShare(
                **place,
                distribution=name,
                probability=row.get(f"curriculum/probability/{name}", 0.0),
                asked=asked[name],
                trained=by_end[name, True],
                refused=by_end[name, False],
                rollouts=self.rollouts[name],
                tokens=self.tokens[name],
                pass_rate=row.get(f"sampled/correct/{name}"),
                solve_rate=solve_rates[name],
            )
            for name in self._names
        ]
