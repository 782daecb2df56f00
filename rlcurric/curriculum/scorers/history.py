"""What a prompt's own past says: a tracked success rate, and runs of visits that taught nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rlcurric.curriculum.evidence import RunningRates, evidence, visits
from rlcurric.curriculum.parts import Decision, Scores
from rlcurric.curriculum.scorers.base import Scope, ScorerBase, require
from rlcurric.curriculum.table import PromptTable
from rlcurric.registry import register
from rlcurric.types import Candidate, GroupOutcome

_LOWEST, _HIGHEST = 0.05, 0.95  # GRESO's exploration probabilities stay between these


@register("scorer", "kimi")
class Kimi(ScorerBase):
    """Kimi k1.5 (arXiv 2501.12599): prompts in proportion to 1 - s, s their tracked success rate.

    The paper does not say how s is tracked. Here it is a moving average over visits, the first of which stands for
    itself; a prompt that was never visited has s = 0.5. Easy-to-hard by labels, the paper's other half, is a sampler.

    Args:
        keep: share of the past in the moving average, a visit.
        floor: least weight, of prompts that are always solved.
        ratio: candidates for every prompt wanted.
        explore: share of prompts chosen uniformly.
        scope: `mixture`, of all candidates; `distribution`, as many of each as the sampler drew.
    """

    def __init__(
        self,
        keep: float = 0.7,
        floor: float = 0.05,
        ratio: float = 4.0,
        explore: float = 0.05,
        scope: Scope = "mixture",
    ) -> None:
        super().__init__("kimi", ratio, "sample", explore, scope)
        require(self.name, "keep", "in [0, 1)", keep, 0 <= keep < 1)
        require(self.name, "floor", "in [0, 1]", floor, 0 <= floor <= 1)
        self._floor = floor
        self._rates = RunningRates(keep)

    def score(self, candidates: Sequence[Candidate], decision: Decision) -> Scores:
        rate_C = self._rates.get([one.uid for one in candidates])
        return Scores(np.maximum(1 - rate_C, self._floor), rate_C)

    def observe(self, outcomes: Sequence[GroupOutcome]) -> None:
        self._rates.observe(outcomes)

    def state_dict(self) -> dict[str, Any]:
        return self._rates.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._rates.load_state_dict(state)

    def metrics(self) -> dict[str, float]:
        return {"curriculum/kimi/success_rate": self._rates.mean()}


@register("scorer", "greso")
class Greso(ScorerBase):
    """GRESO (arXiv 2506.02177): a prompt whose latest z visits all taught nothing is skipped with 1 - max(p^z, floor).

    z counts trailing visits of one kind: easy, a pass rate of at least `easy`, or hard, one of at most `hard`; p is
    p_easy or p_hard. After a step in which prompts came back that had been visited before, p_easy falls by `step` if
    the share of easy groups has reached `target_easy`, and rises by it otherwise; p_hard likewise; both stay within
    [0.05, 0.95]. A prompt that is not skipped scores 1, one that is 0. Nothing can be skipped before a second visit.

    Thresholds and kinds are those of the authors' code, read here on verified correctness: their rewards are 0.1 for a
    form without a right answer, so that correctness at most 0.11 of a group is theirs for "all wrong". An outcome of
    weight w counts w of a visit, and undoes w of a run of the other kind.

    Args:
        easy: least mean correctness of an easy visit.
        hard: largest mean correctness of a hard visit.
        p_easy: exploration probability of easy prompts at the start.
        p_hard: of hard prompts.
        target_easy: share of groups that may be easy.
        target_hard: share of groups that may be hard.
        step: by which the probabilities move.
        floor: least probability that a prompt is kept.
        ratio: candidates for every prompt wanted.
        explore: share of prompts chosen uniformly.
        scope: `mixture`, of all candidates; `distribution`, as many of each as the sampler drew.
    """

    def __init__(
        self,
        easy: float = 0.98,
        hard: float = 0.11,
        p_easy: float = 0.5,
        p_hard: float = 0.5,
        target_easy: float = 1 / 12,
        target_hard: float = 1 / 6,
        step: float = 0.01,
        floor: float = 0.01,
        ratio: float = 2.0,
        explore: float = 0.05,
        scope: Scope = "mixture",
    ) -> None:
        super().__init__("greso", ratio, "sample", explore, scope)
        require(
            self.name,
            "hard and easy",
            "in 0 <= hard < easy <= 1",
            (hard, easy),
            0 <= hard < easy <= 1,
        )
        for setting, value in (("p_easy", p_easy), ("p_hard", p_hard)):
            require(self.name, setting, "in [0.05, 0.95]", value, _LOWEST <= value <= _HIGHEST)
        for setting, value in (
            ("target_easy", target_easy),
            ("target_hard", target_hard),
            ("step", step),
            ("floor", floor),
        ):
            require(self.name, setting, "in [0, 1]", value, 0 <= value <= 1)
        self._easy, self._hard, self._step, self._floor = easy, hard, step, floor
        self._target_easy, self._target_hard = target_easy, target_hard
        self._p_easy, self._p_hard = p_easy, p_hard
        self._table = PromptTable(run=0.0)  # z; below 0 where the run is of hard visits

    def skip(self, candidates: Sequence[Candidate]) -> np.ndarray:
        """Probability that each candidate is skipped, (C,)."""
        run_C = self._table.get([one.uid for one in candidates])["run"]
        return skip_probability(
            np.abs(run_C), np.where(run_C > 0, self._p_easy, self._p_hard), self._floor
        )

    def score(self, candidates: Sequence[Candidate], decision: Decision) -> Scores:
        kept_C = decision.draw.random(len(candidates)) >= self.skip(candidates)
        return Scores(kept_C.astype(np.float64))

    def observe(self, outcomes: Sequence[GroupOutcome]) -> None:
        seen = visits(outcomes)
        if not seen.uids:
            return
        kind_U = self._kind(seen.pass_rate_U)
        before_U = self._table.get(seen.uids)["run"]
        goes_on_U = before_U * kind_U > 0
        undone_U = (1 - seen.trust_U) * before_U
        after_U = np.where(goes_on_U, before_U, undone_U) + seen.trust_U * kind_U
        self._table.put(seen.uids, run=after_U)
        self._adapt(evidence(outcomes))

    def _kind(self, pass_rate: np.ndarray) -> np.ndarray:
        """1 easy, -1 hard, 0 neither."""
        return (pass_rate >= self._easy).astype(np.float64) - (pass_rate <= self._hard)

    def _adapt(self, outcomes: Sequence[GroupOutcome]) -> None:
        if all(one.group_id.visit == 0 for one in outcomes):
            return
        rate_B = np.array([one.pass_rate for one in outcomes], dtype=np.float64)
        weight_B = np.array([min(1.0, one.weight) for one in outcomes])
        easy = float((rate_B >= self._easy) @ weight_B / weight_B.sum())
        hard = float((rate_B <= self._hard) @ weight_B / weight_B.sum())
        move = self._step * float(weight_B.max())
        self._p_easy = _moved(self._p_easy, move, down=easy >= self._target_easy)
        self._p_hard = _moved(self._p_hard, move, down=hard >= self._target_hard)

    def state_dict(self) -> dict[str, Any]:
        return {
            "prompts": self._table.state_dict(),
            "p_easy": self._p_easy,
            "p_hard": self._p_hard,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._table.load_state_dict(state["prompts"])
        self._p_easy, self._p_hard = state["p_easy"], state["p_hard"]

    def metrics(self) -> dict[str, float]:
        return {"curriculum/greso/p_easy": self._p_easy, "curriculum/greso/p_hard": self._p_hard}


def skip_probability(
    run: np.ndarray | float, p: np.ndarray | float, floor: float = 0.01
) -> np.ndarray:
    """1 - max(p^run, floor), and 0 where there is no run (GRESO, arXiv 2506.02177)."""
    return 1 - np.maximum(np.power(p, run), floor)


def _moved(p: float, by: float, down: bool) -> float:
    return min(_HIGHEST, max(_LOWEST, p - by if down else p + by))
