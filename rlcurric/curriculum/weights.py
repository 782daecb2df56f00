"""Factors on a group's advantages, from how hard its prompt is. A group of which no sample was judged has the factor 1."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from rlcurric.curriculum.evidence import RunningRates
from rlcurric.curriculum.parts import Stateless
from rlcurric.registry import register
from rlcurric.schedules import Progress
from rlcurric.types import GroupOutcome

OdswStage = Literal["easy", "medium", "hard", "h1", "h2", "h3"]
_ODSW_STAGES = ("easy", "medium", "hard", "h1", "h2", "h3")
_HARD_UNSOLVED = 0.25  # ODSW's weight of a group without a correct sample in the stage hard


@register("group_weight", "odsw")
class Odsw(Stateless):
    """ODSW of VL-Cogito's PCuRL (arXiv 2507.22607): weights by pass rate that move from easy to hard prompts.

    With s(a) = sin(pi a) of the pass rate a: easy is s(a) up to 1/2 and 1 above, medium is s(a), hard is 1 up to 1/2 and
    s(a) above, and 0.25 where nothing was solved (which acts only if other rewards tell samples apart); the others
    are 0 there. h1, h2, h3 are the paper's binary forms, 1 on (0, 1/2], [1/4, 3/4] and [1/2, 1]. The values
    are those of the authors' code.

    Args:
        stage: easy, medium or hard; h1, h2 or h3.
    """

    def __init__(self, stage: OdswStage = "medium") -> None:
        if stage not in _ODSW_STAGES:
            raise ValueError(
                f"group_weight odsw needs a stage of {', '.join(_ODSW_STAGES)}, got {stage!r}"
            )
        self._stage: OdswStage = stage

    def weight(self, outcome: GroupOutcome, progress: Progress) -> float:
        pass_rate = outcome.pass_rate
        return 1.0 if pass_rate is None else odsw(pass_rate, self._stage)


def odsw(pass_rate: float, stage: OdswStage) -> float:
    """The weight of a pass rate in [0, 1]; see `Odsw`."""
    if pass_rate == 0:
        return _HARD_UNSOLVED if stage == "hard" else 0.0
    bell = math.sin(math.pi * min(pass_rate, 1 - pass_rate))  # exactly 0 at 1
    lower = pass_rate <= 0.5
    return {
        "easy": bell if lower else 1.0,
        "medium": bell,
        "hard": 1.0 if lower else bell,
        "h1": float(lower),
        "h2": float(0.25 <= pass_rate <= 0.75),
        "h3": float(pass_rate >= 0.5),
    }[stage]


@register("group_weight", "observe_r1")
class ObserveR1(Stateless):
    """Observe-R1 (arXiv 2505.12432): 4 sigma d (1 - d) of the pass rate d.

    At d = 1/2 it is sigma, at 0 and 1 it is 0, so that it also takes out groups without contrast.

    Args:
        sigma: weight of a group solved half the time.
    """

    def __init__(self, sigma: float = 1.8) -> None:
        if sigma <= 0:
            raise ValueError(f"group_weight observe_r1 needs sigma > 0, got {sigma}")
        self._sigma = sigma

    def weight(self, outcome: GroupOutcome, progress: Progress) -> float:
        d = outcome.pass_rate
        return 1.0 if d is None else 4 * self._sigma * d * (1 - d)


@register("group_weight", "annealed_easiness")
class AnnealedEasiness:
    """Training curricula by annealed easiness (answer re-ranking, arXiv 2004.14269): w = e (1 - t/m) + t/m, then 1.

    t runs over the stage, m is the share `over` of it. There easiness e came from an unsupervised ranker; here it
    is p, or 4 p (1 - p), of a moving average p of the prompt's pass rate over its visits, this one included. A
    stage without planned steps cannot say t/m: a ValueError.

    Args:
        form: `easy`, e = p; `middle`, e = 4 p (1 - p).
        anti: 1 - e in place of e.
        over: share of the stage after which all weights are 1, above 0.
        keep: share of the past in the moving average, a visit.
    """

    def __init__(
        self,
        form: Literal["easy", "middle"] = "easy",
        anti: bool = False,
        over: float = 0.3,
        keep: float = 0.7,
    ) -> None:
        if form not in ("easy", "middle") or not 0 < over <= 1 or not 0 <= keep < 1:
            raise ValueError(
                "group_weight annealed_easiness needs a form of easy or middle, over in (0, 1] and keep in [0, 1), got "
                f"form={form!r}, over={over}, keep={keep}"
            )
        self._form, self._anti, self._over = form, anti, over
        self._rates = RunningRates(keep)

    def weight(self, outcome: GroupOutcome, progress: Progress) -> float:
        if not outcome.correct:
            return 1.0
        p = self._rates.preview(outcome)
        easiness = p if self._form == "easy" else 4 * p * (1 - p)
        if self._anti:
            easiness = 1 - easiness
        annealed = min(1.0, progress.on("progress") / self._over)
        return easiness * (1 - annealed) + annealed

    def observe(self, outcomes: Sequence[GroupOutcome]) -> None:
        self._rates.observe(outcomes)

    def state_dict(self) -> dict[str, Any]:
        return self._rates.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._rates.load_state_dict(state)

    def metrics(self) -> dict[str, float]:
        return {"curriculum/annealed_easiness/pass_rate": self._rates.mean()}
