"""What samplers share: floors, the softmax, checks of settings, and a step's evidence by distribution.

`D` distributions, in the mixture's order.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from rlcurric.curriculum.evidence import evidence
from rlcurric.curriculum.signals import Signal, SignalFrom, group_signal, pass_rate
from rlcurric.schedules import Progress, Schedule, value_at
from rlcurric.types import GroupOutcome


def require(part: str, setting: str, wanted: str, got: object, holds: bool) -> None:
    """ValueError that names a sampler's setting, unless it holds."""
    if not holds:
        raise ValueError(f"sampler {part} needs {setting} {wanted}, got {got!r}")


def shares(part: str, mixture: Mapping[str, float]) -> np.ndarray:
    """The mixture's shares (D,), summing to 1."""
    share_D = np.array(list(mixture.values()), dtype=np.float64)
    holds = bool(len(share_D) and (share_D >= 0).all() and share_D.sum() > 0)
    require(part, "a mixture", "of shares >= 0, not all 0", dict(mixture), holds)
    normalised: np.ndarray = share_D / share_D.sum()
    return normalised


def with_floor(probability_D: np.ndarray, floor: float) -> np.ndarray:
    """(1 - floor) P + floor / D: no distribution below floor / D."""
    mixed: np.ndarray = (1 - floor) * probability_D + floor / len(probability_D)
    return mixed


def softmax_with_floor(
    score_D: Sequence[float] | np.ndarray, temperature: float, floor: float = 0.0
) -> np.ndarray:
    """(1 - floor) softmax(score / temperature) + floor / D; finite for any finite scores and temperature > 0."""
    score = np.asarray(score_D, dtype=np.float64)
    with np.errstate(over="ignore", under="ignore"):
        weight_D = np.exp((score - score.max()) / temperature)
    return with_floor(weight_D / weight_D.sum(), floor)


class StepMean(NamedTuple):
    """What one step says of one distribution."""

    mean: float  # of the signal over rollouts, each counted by its group's weight
    trust: float  # in (0, 1]: mean weight of the rollouts


def step_means(
    outcomes: Iterable[GroupOutcome],
    known: Iterable[str],
    signal: Signal = pass_rate,
    signal_from: SignalFrom = "correct",
) -> dict[str, StepMean]:
    """The evidence of one step by distribution, for those in `known` that have some."""
    sums: dict[str, tuple[float, float, int]] = {}
    names = set(known)
    for one in evidence(outcomes):
        if one.distribution in names:
            value, n = group_signal(one, signal, signal_from)
            total, weight, rollouts = sums.get(one.distribution, (0.0, 0.0, 0))
            weighed = min(1.0, one.weight) * n
            sums[one.distribution] = (total + weighed * value, weight + weighed, rollouts + n)
    return {
        name: StepMean(total / weight, weight / rollouts)
        for name, (total, weight, rollouts) in sums.items()
    }


class Bandit(ABC):
    """A sampler that scores every distribution and draws by a softmax of the scores with a floor.

    Shares of the mixture say nothing here but which distributions there are.
    """

    name: str  # as registered

    def __init__(
        self, mixture: Mapping[str, float], temperature: float | Schedule, floor: float
    ) -> None:
        require(self.name, "a mixture", "that is not empty", dict(mixture), len(mixture) > 0)
        require(self.name, "a floor", "in [0, 1]", floor, 0 <= floor <= 1)
        if not isinstance(temperature, Schedule):
            require(self.name, "a temperature", "> 0", temperature, temperature > 0)
        self._names = tuple(mixture)
        self._temperature, self._floor = temperature, floor

    @abstractmethod
    def scores(self) -> dict[str, float]:
        """Score of each distribution, in the mixture's order; finite."""

    def probabilities(self, progress: Progress) -> dict[str, float]:
        temperature = value_at(self._temperature, progress)
        require(self.name, "a temperature", "> 0", temperature, temperature > 0)
        scores = self.scores()
        chances_D = softmax_with_floor(list(scores.values()), temperature, self._floor)
        return dict(zip(scores, chances_D.tolist(), strict=True))

    def metrics(self) -> dict[str, float]:
        """The scores."""
        return {f"curriculum/{self.name}/{name}": score for name, score in self.scores().items()}


def overwrite(mine: dict[str, float], saved: Mapping[str, float]) -> None:
    """Take what is known of the distributions that both have."""
    mine.update({name: float(saved[name]) for name in mine if name in saved})
