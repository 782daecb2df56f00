"""Which groups are worth an update, and which prompts need no visit for a while.

Gates read verified correctness, unless told otherwise: under a shaped reward a length term makes every group look
informative. `C` candidates, `U` prompts visited in one step.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from rlcurric.curriculum.evidence import Visits, visits
from rlcurric.curriculum.exclusion import ROUNDING, Changes, Excluded
from rlcurric.curriculum.parts import Stateless, Verdict
from rlcurric.curriculum.signals import absolute_advantages
from rlcurric.curriculum.table import PromptTable
from rlcurric.registry import register
from rlcurric.schedules import Progress
from rlcurric.types import Candidate, GroupOutcome


def strongest(verdicts: Iterable[Verdict]) -> Verdict:
    """What several gates say together: REFUSE wins over REPLACE, REPLACE over ADMIT; without gates, ADMIT."""
    return max(verdicts, key=lambda verdict: verdict.value, default=Verdict.ADMIT)


class _OutcomeGate(Stateless):
    """A gate that looks at outcomes alone: any prompt may be asked for."""

    def eligible(self, candidates: Sequence[Candidate], progress: Progress) -> np.ndarray:
        return np.ones(len(candidates), dtype=bool)


@register("gate", "zero_variance")
class ZeroVariance(_OutcomeGate):
    """Refuses groups whose samples all score the same: their advantages are zero (dynamic sampling, DAPO 2503.14476).

    Args:
        metric: `correct`, verified correctness; `reward`, the shaped reward, under which a length term lets nearly
            every group pass.
    """

    def __init__(self, metric: Literal["correct", "reward"] = "correct") -> None:
        self._metric = metric

    def judge(self, outcome: GroupOutcome) -> Verdict:
        values = outcome.correct if self._metric == "correct" else outcome.rewards
        return Verdict.ADMIT if len(set(values)) > 1 else Verdict.REFUSE


@register("gate", "replace")
class Replace(_OutcomeGate):
    """Replaces groups of pass rate 0 or 1 by copies of the batch's other groups (the Polaris recipe).

    The batch stays full and nothing more is generated, at the price of weighing the groups that are left more. The
    controller reads `min_share`: a batch in which too few groups are left is skipped, since it would be made of copies.

    Args:
        min_share: a batch is trained if more than this share of its groups was admitted.
    """

    def __init__(self, min_share: float = 1 / 3) -> None:
        if not 0 <= min_share < 1:
            raise ValueError(f"gate replace needs a min_share in [0, 1), got {min_share}")
        self.min_share = min_share

    def judge(self, outcome: GroupOutcome) -> Verdict:
        return Verdict.REPLACE if outcome.pass_rate in (None, 0.0, 1.0) else Verdict.ADMIT


@register("gate", "pass_rate_range")
class PassRateRange(_OutcomeGate):
    """Refuses groups whose pass rate is out of a range. (0, 1), open, is `zero_variance` for 0/1 correctness.

    Args:
        low: lower end.
        high: upper end.
        open: whether the ends themselves are out of the range.
    """

    def __init__(self, low: float = 0.0, high: float = 1.0, open: bool = True) -> None:
        if not 0 <= low <= high <= 1 or (open and low == high):
            raise ValueError(
                f"gate pass_rate_range needs 0 <= low <= high <= 1, and low < high if open, got low={low}, high={high}, "
                f"open={open}"
            )
        self._low, self._high, self._open = low, high, open

    def judge(self, outcome: GroupOutcome) -> Verdict:
        return _inside(outcome.pass_rate, self._low, self._high, self._open)


@register("gate", "advantage_range")
class AdvantageRange(_OutcomeGate):
    """Refuses groups whose mean |advantage| is out of a closed range.

    The advantage is that of correctness under population std: for 0/1 values its mean is 2 sqrt(q (1 - q)) at pass
    rate q, 1 at most. 0.6 is reached by q = 0.1 and 0.9.

    Args:
        low: lower end; above 0 it refuses groups without variance.
        high: upper end.
    """

    def __init__(self, low: float, high: float = 1.0) -> None:
        if not 0 <= low <= high <= 1:
            raise ValueError(
                f"gate advantage_range needs 0 <= low <= high <= 1, got low={low}, high={high}"
            )
        self._low, self._high = low, high

    def judge(self, outcome: GroupOutcome) -> Verdict:
        values = absolute_advantages(outcome.correct)
        mean = sum(values) / len(values) if values else None
        return _inside(mean, self._low, self._high, open=False)


@register("gate", "retire")
class Retire:
    """Gives prompts that are solved a rest, and takes them back when they are not solved any more.

    After `visits` visits in a row with a pass rate of at least `threshold` a prompt is not asked for during `rest`
    steps. Then it may be drawn again: solved by one more visit, it rests twice as long as before, up to `longest`; not
    solved, it is back as if it had never gone. So a prompt that the policy forgets is found again, and no pool runs
    empty for good, which excluding solved prompts for ever risks. Every group is admitted.

    The groups of a prompt that end in one step are one visit. A late one counts by its weight toward a retirement, and
    in full against it.

    Args:
        visits: visits in a row that must be solved.
        threshold: pass rate, in (0, 1], from which a visit counts as solved.
        rest: steps of the first rest.
        longest: steps of the longest rest; eight times `rest` if not given.
    """

    def __init__(
        self,
        visits: int = 2,
        threshold: float = 1.0,
        rest: int = 100,
        longest: int | None = None,
    ) -> None:
        longest = 8 * rest if longest is None else longest
        if visits < 1 or not 0 < threshold <= 1 or not 1 <= rest <= longest:
            raise ValueError(
                "gate retire needs visits >= 1, a threshold in (0, 1] and 1 <= rest <= longest, got "
                f"visits={visits}, threshold={threshold}, rest={rest}, longest={longest}"
            )
        self._visits, self._threshold = visits, threshold
        self._rest, self._longest = rest, longest
        # streak: visits solved in a row since the last change; rest: steps of the last rest, 0 for a prompt in the pool;
        # until: first step in which it may be drawn again
        self._table = PromptTable(streak=0.0, rest=0.0, until=0.0)
        self._retired = self._returned = 0
        self._changes = Changes()

    def eligible(self, candidates: Sequence[Candidate], progress: Progress) -> np.ndarray:
        until_C = self._table.get([one.uid for one in candidates])["until"]
        eligible_C: np.ndarray = until_C <= progress.step
        return eligible_C

    def judge(self, outcome: GroupOutcome) -> Verdict:
        return Verdict.ADMIT

    def observe(self, outcomes: Sequence[GroupOutcome]) -> None:
        self._changes.clear()
        seen = visits(outcomes)
        known = self._table.get(seen.uids)
        solved_U = seen.pass_rate_U >= self._threshold - ROUNDING
        out_U = known["rest"] > 0
        # Solved during its rest (asked for before it): that is known already.
        heard_U = ~solved_U | (known["until"] <= seen.step)
        streak_U = np.where(solved_U, known["streak"] + seen.trust_U * heard_U, 0.0)
        needed_U = np.where(out_U, 1.0, float(self._visits))
        retire_U = solved_U & heard_U & (streak_U >= needed_U - ROUNDING)
        return_U = out_U & ~solved_U
        self._move(seen, retire_U, return_U, known, streak_U)

    def changes(self) -> list[dict[str, Any]]:
        """What went to rest (`retired`, also again) and what is back (`returned`) by the last `observe`."""
        return self._changes.lines()

    def excluded(self) -> Excluded:
        """Prompts that rest or wait for the visit after it: all may return."""
        return Excluded(self._retired, self._retired)

    def state_dict(self) -> dict[str, Any]:
        return {"prompts": self._table.state_dict(), "returned": self._returned}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._table.load_state_dict(state["prompts"])
        self._returned = int(state["returned"])
        self._retired = int(np.count_nonzero(state["prompts"]["rest"]))
        self._changes.clear()

    def metrics(self) -> dict[str, float]:
        """Prompts out now, and returns so far."""
        return {
            "curriculum/retire/retired": float(self._retired),
            "curriculum/retire/returned": float(self._returned),
        }

    def _move(
        self,
        seen: Visits,
        retire_U: np.ndarray,
        return_U: np.ndarray,
        known: Mapping[str, np.ndarray],
        streak_U: np.ndarray,
    ) -> None:
        longer_U = np.minimum(2 * known["rest"], self._longest)
        rest_U = np.where(known["rest"] > 0, longer_U, float(self._rest))
        moved_U = retire_U | return_U
        self._table.put(
            seen.uids,
            streak=np.where(moved_U, 0.0, streak_U),
            rest=np.where(retire_U, rest_U, np.where(return_U, 0.0, known["rest"])),
            until=np.where(
                retire_U, seen.step + 1 + rest_U, np.where(return_U, 0.0, known["until"])
            ),
        )
        self._changes.add("retired", seen.uid_U[retire_U], seen.pass_rate_U[retire_U])
        self._changes.add("returned", seen.uid_U[return_U], seen.pass_rate_U[return_U])
        self._returned += int(return_U.sum())
        self._retired += int((retire_U & (known["rest"] == 0)).sum()) - int(return_U.sum())


def _inside(value: float | None, low: float, high: float, open: bool) -> Verdict:
    """ADMIT for a value within the range; REFUSE for one that is unknown. Ends are compared up to rounding."""
    if value is None:
        return Verdict.REFUSE
    margin = ROUNDING if open else -ROUNDING
    return Verdict.ADMIT if low + margin <= value <= high - margin else Verdict.REFUSE
