"""Which distribution a prompt is drawn from: fixed mixtures and bandits.

A sampler gives probabilities and learns from ended groups; the draw itself is the controller's, from a counter-based
generator, so a sampler holds no random state.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np

from rlcurric.registry import register
from rlcurric.schedules import Progress
from rlcurric.types import GroupOutcome


class Sampler(Protocol):
    """Chooses distributions. `mixture` (name -> share) is what the stage says of them."""

    def probabilities(self, progress: Progress) -> dict[str, float]:
        """Probability of each distribution, in the mixture's order, summing to 1."""
        ...

    def observe(self, outcomes: Sequence[GroupOutcome]) -> None:
        """Learn from groups that ended, in group_id order; every group once, gated and failed ones too."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...

    def metrics(self) -> dict[str, float]: ...


@register("sampler", "uniform")
class Uniform:
    """The stage's mixture, as it stands."""

    def __init__(self, mixture: Mapping[str, float]) -> None:
        total = sum(mixture.values())
        self._probabilities = {name: share / total for name, share in mixture.items()}

    def probabilities(self, progress: Progress) -> dict[str, float]:
        return dict(self._probabilities)

    def observe(self, outcomes: Sequence[GroupOutcome]) -> None:
        """A fixed mixture learns nothing."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...

    def metrics(self) -> dict[str, float]:
        return {}


@register("sampler", "ucb")
class Ucb:
    """DUMP (arXiv 2504.09710): softmax over mean |advantage| plus an upper-confidence bonus, with a floor.

    For each distribution the mean of the last `window` rollouts' |A|, plus
    coefficient * sqrt(2 ln(n_total + 1) / (n + 1)) with n counted in rollouts as the authors' code does; then
    P = (1 - floor) softmax(UCB / temperature) + floor / N. The floor is ours: a low |A| means mastered or out of
    reach, and a bandit without one cannot find out that it changed.

    Args:
        window: rollouts of a distribution that its mean looks back on.
        temperature: of the softmax; lower is greedier.
        coefficient: of the bonus.
        floor: probability mass shared equally.
        signal_from: `correct`, |A| of unshaped correctness under population std; `reward`, of the shaped reward (the
            paper's choice, in which a length term makes every group look informative).
    """

    def __init__(
        self,
        mixture: Mapping[str, float],
        window: int = 300,
        temperature: float = 0.1,
        coefficient: float = 1.0,
        floor: float = 0.05,
        signal_from: Literal["correct", "reward"] = "correct",
    ) -> None:
        if window < 1 or temperature <= 0 or coefficient < 0 or not 0 <= floor <= 1:
            raise ValueError(
                "sampler ucb needs window >= 1, temperature > 0, coefficient >= 0 and a floor in [0, 1], got "
                f"window={window}, temperature={temperature}, coefficient={coefficient}, floor={floor}"
            )
        self._temperature, self._coefficient, self._floor = temperature, coefficient, floor
        self._signal_from = signal_from
        self._recent = {name: deque[float](maxlen=window) for name in mixture}
        self._count = dict.fromkeys(mixture, 0)

    def probabilities(self, progress: Progress) -> dict[str, float]:
        scores = self._scores()
        top = max(scores.values())
        weights = {
            name: math.exp((score - top) / self._temperature) for name, score in scores.items()
        }
        total, share = sum(weights.values()), self._floor / len(weights)
        return {
            name: (1 - self._floor) * weight / total + share for name, weight in weights.items()
        }

    def observe(self, outcomes: Sequence[GroupOutcome]) -> None:
        for outcome in outcomes:
            values = outcome.correct if self._signal_from == "correct" else outcome.rewards
            self._recent[outcome.distribution].extend(absolute_advantages(values))
            self._count[outcome.distribution] += len(values)

    def state_dict(self) -> dict[str, Any]:
        return {
            "recent": {name: list(values) for name, values in self._recent.items()},
            "count": dict(self._count),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Statistics of distributions that this stage has; others are left where they are."""
        for name in self._recent:
            if name in state["recent"]:
                self._recent[name].clear()
                self._recent[name].extend(state["recent"][name])
                self._count[name] = state["count"][name]

    def metrics(self) -> dict[str, float]:
        return {f"curriculum/ucb/{name}": score for name, score in self._scores().items()}

    def _scores(self) -> dict[str, float]:
        total = sum(self._count.values())
        return {
            name: _mean(recent) + ucb_bonus(total, self._count[name], self._coefficient)
            for name, recent in self._recent.items()
        }


def ucb_bonus(total: int, count: int, coefficient: float = 1.0) -> float:
    """coefficient * sqrt(2 ln(total + 1) / (count + 1)); DUMP, equation of the UCB score."""
    return coefficient * math.sqrt(2 * math.log(total + 1) / (count + 1))


def absolute_advantages(values: Sequence[float]) -> list[float]:
    """|A| of one group under population std; zeros for a group without variance.

    For 0/1 values their mean is 2 sqrt(q (1 - q)) at pass rate q.
    """
    array = np.asarray(values, dtype=np.float64)
    if not len(array) or array.min() == array.max():
        return [0.0] * len(array)
    result: list[float] = (np.abs(array - array.mean()) / array.std()).tolist()
    return result


def _mean(values: Sequence[float] | deque[float]) -> float:
    return sum(values) / len(values) if values else 0.0
