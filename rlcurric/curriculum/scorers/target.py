"""A target on a scale of difficulty that the data brings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rlcurric.curriculum.evidence import mean_correctness
from rlcurric.curriculum.parts import Decision, Scores
from rlcurric.curriculum.scorers.base import Scope, ScorerBase, require
from rlcurric.registry import nearest, register
from rlcurric.types import Candidate, GroupOutcome


@register("scorer", "adarft")
class AdaRft(ScorerBase):
    """AdaRFT (arXiv 2504.05520): prompts whose difficulty is nearest to a target, which moves with the mean reward.

    After each step T <- clip(T + eta tanh(alpha (R - beta)), d_min, d_max), R the mean verified correctness of the
    step's samples; the score is -|d - T|. `eta` turns an error of a pass rate into units of difficulty, so it goes with
    the scale of the column. The authors' code may choose the same prompts again and again; here candidates come
    without replacement. A step whose outcomes have a mean weight w moves T by w of that.

    Args:
        column: of the data rows, a number: how difficult the prompt is.
        start: target of the first step.
        alpha: slope of the reaction to the error.
        beta: mean correctness at which the target stays.
        eta: largest move in one step, in units of difficulty.
        d_min: lowest target.
        d_max: highest target.
        ratio: candidates for every prompt wanted.
        explore: share of prompts chosen uniformly.
        scope: `mixture`, the best of all candidates; `distribution`, as many of each as the sampler drew.
    """

    def __init__(
        self,
        column: str = "difficulty",
        start: float = 0.0,
        alpha: float = 2.0,
        beta: float = 0.5,
        eta: float = 50.0,
        d_min: float = 0.0,
        d_max: float = 100.0,
        ratio: float = 8.0,
        explore: float = 0.05,
        scope: Scope = "mixture",
    ) -> None:
        super().__init__("adarft", ratio, "top", explore, scope)
        require(self.name, "alpha", "above 0", alpha, alpha > 0)
        require(self.name, "eta", "of at least 0", eta, eta >= 0)
        require(self.name, "beta", "in [0, 1]", beta, 0 <= beta <= 1)
        inside = d_min <= start <= d_max
        require(self.name, "d_min <= start <= d_max", "to hold", (d_min, start, d_max), inside)
        self._column, self._alpha, self._beta, self._eta = column, alpha, beta, eta
        self._lowest, self._highest = d_min, d_max
        self.target = start

    def score(self, candidates: Sequence[Candidate], decision: Decision) -> Scores:
        """ValueError for a row without a difficulty."""
        difficulty_C = np.array([self._difficulty(one) for one in candidates], dtype=np.float64)
        return Scores(-np.abs(difficulty_C - self.target))

    def _difficulty(self, candidate: Candidate) -> float:
        value = candidate.columns.get(self._column)
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
        ):
            known = nearest(self._column, candidate.columns)
            raise ValueError(
                f"scorer adarft needs a number in the column {self._column!r} of every row, got {value!r} in row "
                f"{candidate.index} of the distribution {candidate.distribution!r}"
                f"{'' if self._column in candidate.columns else f'. Name a column with `column:`. {known}'}"
            )
        return float(value)

    def observe(self, outcomes: Sequence[GroupOutcome]) -> None:
        found = mean_correctness(outcomes)
        if found is None:
            return
        mean, trust = found
        moved = self.target + trust * self._eta * math.tanh(self._alpha * (mean - self._beta))
        self.target = min(self._highest, max(self._lowest, moved))

    def state_dict(self) -> dict[str, Any]:
        return {"target": self.target}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.target = min(self._highest, max(self._lowest, state["target"]))

    def metrics(self) -> dict[str, float]:
        return {"curriculum/adarft/target": self.target}
