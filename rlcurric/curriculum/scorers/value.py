"""Prompts chosen by what a value model expects of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rlcurric.curriculum.parts import Decision, Pick, Scores, Stateless
from rlcurric.curriculum.scorers.base import Scope, ScorerBase, rate_at, require, require_rate
from rlcurric.registry import register
from rlcurric.schedules import Schedule
from rlcurric.types import Candidate


@register("scorer", "pcl")
class Pcl(ScorerBase, Stateless):
    """Prompt Curriculum Learning (arXiv 2510.01135): prompts whose predicted pass rate is nearest to the target.

    `top` scores -|V - target|, the paper's choice; `sample` draws in proportion to exp(-(V - target)^2 / (2 width^2)),
    ours, since the nearest alone narrow the topics. In the first `warmup_steps` of a stage, in which the model has seen
    next to nothing, all prompts are equal.

    The model itself, its size and its optimizer are a section of the recipe of their own.

    Args:
        target: predicted pass rate that is worth most.
        width: of the bell in which `sample` draws.
        pick: `top` or `sample`.
        warmup_steps: of the stage, in which predictions are not yet listened to.
        ratio: candidates for every prompt wanted.
        explore: share of prompts chosen uniformly.
        scope: `mixture`, the best of all candidates; `distribution`, as many of each as the sampler drew.
    """

    predicts = True

    def __init__(
        self,
        target: float | Schedule = 0.5,
        width: float = 0.15,
        pick: Pick = "top",
        warmup_steps: int = 10,
        ratio: float = 4.0,
        explore: float = 0.05,
        scope: Scope = "mixture",
    ) -> None:
        super().__init__("pcl", ratio, pick, explore, scope)
        require_rate(self.name, "target", target)
        require(self.name, "width", "above 0", width, width > 0)
        require(self.name, "warmup_steps", "of at least 0", warmup_steps, warmup_steps >= 0)
        self._target, self._width, self._warmup_steps = target, width, warmup_steps

    def score(self, candidates: Sequence[Candidate], decision: Decision) -> Scores:
        if decision.progress.stage_step < self._warmup_steps:
            return Scores(np.ones(len(candidates)))
        value_C = decision.predicted_C
        assert value_C is not None and value_C.shape == (len(candidates),), "no predictions"
        distance_C = np.abs(value_C - rate_at(self.name, "target", self._target, decision.progress))
        if self.pick == "top":
            return Scores(-distance_C, value_C)
        return Scores(np.exp(-((distance_C / self._width) ** 2) / 2), value_C)
