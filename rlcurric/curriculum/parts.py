"""What the controller composes: the protocol of every kind of part, and the records that pass between them.

A part is an object with `state_dict`, `load_state_dict` and `metrics`. Its state changes in `observe` alone (and in
`begin_stage`): asking it for probabilities, scores, verdicts or weights leaves it as it was, so a step can be repeated.
Randomness comes in as a counter-based generator, never from the part. `rlcurric.testing` checks all of this, for parts
of this package and for yours.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from rlcurric.curriculum.evidence import PassRates
from rlcurric.schedules import Progress
from rlcurric.types import Candidate, GroupOutcome

Pick = Literal["top", "sample"]
State = dict[str, Any]  # JSON values and numpy arrays


class Part(Protocol):
    """What every part has."""

    def observe(self, outcomes: Sequence[GroupOutcome]) -> None:
        """Learn from groups that ended in a step, in group_id order: every group once, gated and failed ones too.

        A group with an empty `correct` says nothing of difficulty, and one of `weight` 0 is too late to say anything:
        neither may change an estimate. A weight below 1 discounts a late outcome.
        """
        ...

    def state_dict(self) -> State:
        """All that its next answers depend on: JSON values and numpy arrays."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...

    def metrics(self) -> dict[str, float]:
        """`curriculum/<part>/...`, finite numbers."""
        ...


class Stateless:
    """A part that learns nothing."""

    def observe(self, outcomes: Sequence[GroupOutcome]) -> None: ...

    def state_dict(self) -> State:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...

    def metrics(self) -> dict[str, float]:
        return {}


class Sampler(Part, Protocol):
    """Which distribution a prompt is drawn from. Its factory is given `mixture`: name -> share."""

    def probabilities(self, progress: Progress) -> dict[str, float]:
        """Probability of each distribution, in the mixture's order, summing to 1."""
        ...


@dataclass(frozen=True, slots=True)
class Decision:
    """What a scorer is told beside the candidates."""

    progress: Progress
    draw: np.random.Generator  # of this round alone
    predicted_C: np.ndarray | None = None  # pass rates by the value model, for scorers that ask


@dataclass(frozen=True, slots=True)
class Scores:
    """A scorer's answer, for C candidates."""

    score_C: np.ndarray  # float64. pick top: larger is better; sample: weights >= 0
    expected_C: np.ndarray | None = None  # the pass rates that it expects, where it has an opinion


class Scorer(Part, Protocol):
    """Which of the candidates are asked for. A score of -inf (top) or 0 (sample): by `explore`, or if nothing else is left.

    `ratio` candidates are drawn for every prompt wanted; of these, `explore` (a share) are chosen uniformly and the
    rest by score: the largest (`pick` top; ties in random order), or without replacement in proportion (`sample`).
    `scope` mixture: the best of all candidates; distribution: as many of each as the sampler drew.

    A scorer may also have `wanted(progress) -> list[tuple[str, int]]`: rows, by distribution and index, that it would
    see among the candidates whatever was drawn, most urgent first. They must be eligible, and are scored like the rest.
    """

    ratio: float
    pick: Pick
    explore: float
    scope: Literal["mixture", "distribution"]
    predicts: bool  # wants `Decision.predicted_C`

    def score(self, candidates: Sequence[Candidate], decision: Decision) -> Scores: ...


class PoolFilter(Part, Protocol):
    """Which prompts may be asked for at all."""

    def eligible(self, candidates: Sequence[Candidate], progress: Progress) -> np.ndarray:
        """bool (C,)."""
        ...

    def begin_stage(self, history: PassRates) -> None:
        """The stage begins (it is no resume): what is known of prompts from before it. The same again changes nothing."""
        ...


class Verdict(enum.Enum):
    """What becomes of a complete group. REFUSE wins over REPLACE, REPLACE over ADMIT."""

    ADMIT = 0
    REPLACE = 1  # it takes a place in the batch, which goes to a copy of an admitted group
    REFUSE = 2  # it is dropped and another group is asked for


class Gate(Part, Protocol):
    """Which groups are worth an update."""

    def eligible(self, candidates: Sequence[Candidate], progress: Progress) -> np.ndarray:
        """bool (C,): whether a prompt may be asked for; all, for a gate that looks at outcomes alone."""
        ...

    def judge(self, outcome: GroupOutcome) -> Verdict: ...


class Plan(Part, Protocol):
    """How the rollouts of a group are asked for, where not all at once (SPEED, LILO)."""

    def groups(self, missing: int) -> int:
        """Groups to open in a round in which `missing` are wanted."""
        ...

    def first(self, group_size: int) -> int:
        """Samples to ask for at first."""
        ...

    def then(
        self, probed: Sequence[GroupOutcome], missing: int, group_size: int
    ) -> Sequence[int | None]:
        """For each group that has its first samples: how many more it gets (0: it is complete), None: it is dropped.

        Called once a round, with all groups of the round in group_id order.
        """
        ...


class Selector(Part, Protocol):
    """Which rollouts of the final batch are trained.

    `signal` reward: it sees rewards, and advantages are those of the kept rollouts alone; advantage: it sees
    advantages, which stay as they are. A group of which nothing is kept leaves the batch.
    """

    signal: Literal["reward", "advantage"]

    def select(
        self, values: Sequence[Sequence[float]], progress: Progress
    ) -> Sequence[Sequence[int]]:
        """For each group, in order, the positions of the rollouts to keep, rising."""
        ...


class Weight(Part, Protocol):
    """A factor on a group's advantages."""

    def weight(self, outcome: GroupOutcome, progress: Progress) -> float:
        """Finite, not negative."""
        ...
