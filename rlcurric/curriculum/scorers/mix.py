"""Several scorers as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rlcurric.curriculum.parts import Decision, Scorer, Scores
from rlcurric.curriculum.scorers.base import ScorerBase, require
from rlcurric.schedules import Progress
from rlcurric.types import Candidate, GroupOutcome


class MixScorer(ScorerBase):
    """A convex mix of the ranks that several scorers give, so that their scales do not matter.

    A candidate that any part excludes (-inf under `top`, 0 under `sample`) is excluded; among the others each part's
    scores become ranks in [0, 1], equal scores sharing their mean rank, and the largest weighted mean wins. Ratio and
    explore are the largest of the parts', the scope is `distribution` if any part's is. The pass rate expected is the
    weighted mean over the parts that expect one.

    Args:
        parts: scorers with their weights, above 0.
    """

    def __init__(self, parts: Sequence[tuple[Scorer, float]]) -> None:
        require("mix", "parts", "of at least one scorer", list(parts), bool(parts))
        for _, weight in parts:
            require("mix", "weights", "above 0 and finite", weight, 0 < weight < float("inf"))
        self._scorers = [scorer for scorer, _ in parts]
        total = sum(weight for _, weight in parts)
        self._weights = [weight / total for _, weight in parts]
        super().__init__(
            "mix",
            max(one.ratio for one in self._scorers),
            "top",
            max(one.explore for one in self._scorers),
            "distribution"
            if any(one.scope == "distribution" for one in self._scorers)
            else "mixture",
        )
        self.predicts = any(one.predicts for one in self._scorers)

    def score(self, candidates: Sequence[Candidate], decision: Decision) -> Scores:
        answers = [one.score(candidates, decision) for one in self._scorers]
        open_C = np.ones(len(candidates), dtype=bool)
        for scorer, answer in zip(self._scorers, answers, strict=True):
            open_C &= answer.score_C > (-np.inf if scorer.pick == "top" else 0.0)
        score_C = np.where(open_C, 0.0, -np.inf)
        for weight, answer in zip(self._weights, answers, strict=True):
            score_C[open_C] += weight * ranks(answer.score_C[open_C])
        return Scores(score_C, self._expected(answers))

    def _expected(self, answers: Sequence[Scores]) -> np.ndarray | None:
        known = [
            (weight, one.expected_C)
            for weight, one in zip(self._weights, answers, strict=True)
            if one.expected_C is not None
        ]
        if not known:
            return None
        total = sum(weight for weight, _ in known)
        return np.sum([weight / total * expected_C for weight, expected_C in known], axis=0)

    def wanted(self, progress: Progress) -> list[tuple[str, int]]:
        """What the parts ask for, each prompt once."""
        asked: dict[tuple[str, int], None] = {}
        for one in self._scorers:
            wanted = getattr(one, "wanted", None)
            asked |= dict.fromkeys(wanted(progress) if wanted else ())
        return list(asked)

    def observe(self, outcomes: Sequence[GroupOutcome]) -> None:
        for one in self._scorers:
            one.observe(outcomes)

    def state_dict(self) -> dict[str, Any]:
        return {str(place): one.state_dict() for place, one in enumerate(self._scorers)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """ValueError for the state of another number of scorers."""
        if set(state) != {str(place) for place in range(len(self._scorers))}:
            raise ValueError(
                f"The saved mix has {len(state)} scorers, the recipe's has {len(self._scorers)}"
            )
        for place, one in enumerate(self._scorers):
            one.load_state_dict(state[str(place)])

    def metrics(self) -> dict[str, float]:
        return {key: value for one in self._scorers for key, value in one.metrics().items()}


def ranks(score_C: np.ndarray) -> np.ndarray:
    """Ranks in [0, 1], the largest score 1; equal scores share their mean rank, a score that is alone has 1/2."""
    assert score_C.ndim == 1
    if len(score_C) < 2:
        return np.full(len(score_C), 0.5)
    _, value_C, count_V = np.unique(score_C, return_inverse=True, return_counts=True)
    below_V = np.cumsum(count_V) - count_V
    return ((below_V + (count_V - 1) / 2) / (len(score_C) - 1))[value_C]
