"""Which prompts may be asked for at all, and how those that may not come back.

`C` candidates, `N` prompts of a call, `U` prompts visited in one step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rlcurric.curriculum.evidence import PassRates, Visits, visits
from rlcurric.curriculum.exclusion import ROUNDING, Changes, Excluded
from rlcurric.curriculum.table import PromptTable
from rlcurric.registry import register
from rlcurric.schedules import Progress
from rlcurric.types import Candidate, GroupOutcome

_STAGE_BEGIN = (
    -1.0
)  # for the step of a drop: that before the stage's first, which is known when one is asked


class _Filter:
    """Prompts that were dropped, each with the step from which it waits for its next visit.

    `recheck_every` steps after it was dropped a prompt may be drawn again, until a visit to it has ended. A visit that
    gives no reason to drop it brings it back, any other starts its wait again. None: it waits for ever.
    """

    def __init__(self, name: str, recheck_every: int | None) -> None:
        if recheck_every is not None and recheck_every < 1:
            raise ValueError(
                f"pool {name} needs recheck_every >= 1, or none for prompts that stay out, got {recheck_every}"
            )
        self._name = name
        self._wait = math.inf if recheck_every is None else recheck_every
        self._table = PromptTable(dropped=0.0, since=0.0)  # dropped: 0 or 1
        self._dropped = self._returned = 0
        self._changes = Changes()

    def eligible(self, candidates: Sequence[Candidate], progress: Progress) -> np.ndarray:
        known = self._table.get([one.uid for one in candidates])
        begin = progress.step - progress.stage_step - 1
        since_C = np.where(known["since"] == _STAGE_BEGIN, begin, known["since"])
        eligible_C: np.ndarray = (known["dropped"] == 0) | (progress.step - since_C > self._wait)
        return eligible_C

    def changes(self) -> list[dict[str, Any]]:
        """What was `dropped` and `returned` since the last call of `observe` or `begin_stage` began."""
        return self._changes.lines()

    def excluded(self) -> Excluded:
        """Prompts that are dropped, those that wait for a recheck included."""
        return Excluded(self._dropped, self._dropped if self._wait < math.inf else 0)

    def state_dict(self) -> dict[str, Any]:
        return {"prompts": self._table.state_dict(), "returned": self._returned}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._table.load_state_dict(state["prompts"])
        self._returned = int(state["returned"])
        self._dropped = int(np.count_nonzero(state["prompts"]["dropped"]))
        self._changes.clear()

    def metrics(self) -> dict[str, float]:
        """Prompts out now, and returns so far."""
        return {
            f"curriculum/{self._name}/dropped": float(self._dropped),
            f"curriculum/{self._name}/returned": float(self._returned),
        }

    def _decide(
        self,
        uid_N: np.ndarray,
        pass_rate_N: np.ndarray,
        drop_N: np.ndarray,
        keep_N: np.ndarray,
        since: float,
    ) -> None:
        """Drop and bring back; a prompt that is out already waits on. Neither drop nor keep: it stays as it is."""
        out_N = self._table.get(uid_N.tolist())["dropped"] > 0
        drop_N, back_N = drop_N & ~out_N, keep_N & out_N
        for moved_N, dropped, waits_from in ((drop_N, 1.0, since), (back_N, 0.0, 0.0)):
            count = int(moved_N.sum())
            self._table.put(
                uid_N[moved_N].tolist(),
                dropped=np.full(count, dropped),
                since=np.full(count, waits_from),
            )
        self._changes.add("dropped", uid_N[drop_N], pass_rate_N[drop_N])
        self._changes.add("returned", uid_N[back_N], pass_rate_N[back_N])
        self._dropped += int(drop_N.sum()) - int(back_N.sum())
        self._returned += int(back_N.sum())

    def _recheck(self, seen: Visits, keep_U: np.ndarray) -> None:
        """Visits of a step, of which only those to dropped prompts matter."""
        never_U = np.zeros_like(keep_U)
        waits_U = ~keep_U & (self._table.get(seen.uids)["dropped"] > 0)
        self._decide(seen.uid_U, seen.pass_rate_U, never_U, keep_U, seen.step)
        self._table.put(
            seen.uid_U[waits_U].tolist(), since=np.full(int(waits_U.sum()), float(seen.step))
        )


@register("pool", "screened")
class Screened(_Filter):
    """Drops prompts that the policy cannot solve at the stage's start (RIF-RFT, arXiv 2507.05386).

    Every prompt is rolled out `samples` times, once, before the first step; prompts of which the file of
    `curriculum.warm_start` tells as many samples are not rolled out again. A prompt stays if `min_correct` of them are correct. The rule of one in
    eight is a re-implementation's: the paper's own threshold was not to be found. A prompt that was not screened stays.

    A small `samples` drops prompts that are only hard: at a pass rate p all fail with probability (1 - p)^samples,
    which is 66 % at p = 0.05 with 8 samples, 43 % at 0.1, and 19 % at 0.05 with 32. `recheck_every` is there to find
    those again, and prompts that came into reach by training on others.

    Samples that could not be judged are left out and `min_correct` shrinks with them; with fewer than half of `samples`
    judged nothing is dropped.

    Args:
        samples: rollouts of each prompt.
        min_correct: of these, those that must be correct.
        drop_all_correct: drop prompts with nothing but correct samples too: they give no advantage either.
        recheck_every: steps after which a dropped prompt may be drawn again, once; it returns if that visit meets the
            same rule. None: what is dropped stays out.
    """

    def __init__(
        self,
        samples: int = 8,
        min_correct: int = 1,
        drop_all_correct: bool = False,
        recheck_every: int | None = 200,
    ) -> None:
        if not 1 <= min_correct <= samples:
            raise ValueError(
                f"pool screened needs 1 <= min_correct <= samples, got min_correct={min_correct}, samples={samples}"
            )
        if drop_all_correct and samples < 2:
            raise ValueError(
                f"pool screened with drop_all_correct needs samples >= 2, got samples={samples}: every prompt would go"
            )
        super().__init__("screened", recheck_every)
        self.screens = samples  # of every prompt, before the first step
        self._min_correct, self._drop_all_correct = min_correct, drop_all_correct

    def begin_stage(self, history: PassRates) -> None:
        """What counts is the policy as it is now, which the history does not tell."""
        self._changes.clear()

    def observe(self, outcomes: Sequence[GroupOutcome]) -> None:
        """Groups that were `screened` decide; of all others, those of dropped prompts are rechecks."""
        self._changes.clear()
        probes = visits(one for one in outcomes if one.disposition == "screened")
        self._screen(probes.uid_U, probes.samples_U, probes.solved_U, since=probes.step)
        seen = visits(one for one in outcomes if one.disposition != "screened")
        self._recheck(seen, self._stays(seen.samples_U, seen.solved_U))

    def _screen(
        self, uid_N: np.ndarray, judged_N: np.ndarray, solved_N: np.ndarray, since: float
    ) -> None:
        stays_N = self._stays(judged_N, solved_N)
        drop_N = ~stays_N & (2 * judged_N >= self.screens - ROUNDING)
        self._decide(uid_N, solved_N / np.maximum(judged_N, ROUNDING), drop_N, stays_N, since)

    def _stays(self, judged_N: np.ndarray, solved_N: np.ndarray) -> np.ndarray:
        needed_N = self._min_correct * np.minimum(1.0, judged_N / self.screens)
        stays_N: np.ndarray = (judged_N > 0) & (solved_N >= needed_N - ROUNDING)
        if self._drop_all_correct:
            stays_N &= solved_N < judged_N - ROUNDING
        return stays_N


@register("pool", "drop_easy")
class DropEasy(_Filter):
    """Drops, when a stage begins, the prompts that were solved nearly always so far (the Polaris recipe).

    The pass rate is the mean over all samples of the run, which lags behind a prompt that was learnt only lately. Where
    statistics are carried over, each stage decides anew: what is not easy any more comes back.

    Args:
        above: mean pass rate beyond which a prompt is dropped.
        min_samples: judged samples that it takes; prompts with fewer stay.
        recheck_every: steps after which a dropped prompt may be drawn again, once; it returns if that visit's pass rate
            is not beyond `above`. None: only the next stage may bring it back.
    """

    def __init__(
        self, above: float = 0.9, min_samples: int = 8, recheck_every: int | None = None
    ) -> None:
        if not 0 <= above < 1 or min_samples < 1:
            raise ValueError(
                "pool drop_easy needs above in [0, 1) and min_samples >= 1, got "
                f"above={above}, min_samples={min_samples}"
            )
        super().__init__("drop_easy", recheck_every)
        self._above, self._min_samples = above, min_samples

    def begin_stage(self, history: PassRates) -> None:
        self._changes.clear()
        uid_N = history.uids()
        judged_N, pass_rate_N = history.lookup(uid_N.tolist())
        enough_N = judged_N >= self._min_samples - ROUNDING
        easy_N = np.nan_to_num(pass_rate_N) > self._above + ROUNDING
        self._decide(uid_N, pass_rate_N, enough_N & easy_N, enough_N & ~easy_N, _STAGE_BEGIN)

    def observe(self, outcomes: Sequence[GroupOutcome]) -> None:
        """Visits to dropped prompts are rechecks; nothing else changes anything."""
        self._changes.clear()
        seen = visits(outcomes)
        self._recheck(seen, seen.pass_rate_U <= self._above + ROUNDING)
