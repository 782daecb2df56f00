"""What parts share that take prompts out of the pool: a step's visits, and a list of what went out and came back.

`U` prompts visited in one step.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from rlcurric.types import GroupOutcome

ROUNDING = 1e-9  # rates and weights are sums of floats: this much below a threshold reaches it


class Excluded(NamedTuple):
    """How many prompts a part keeps out, of those that it knows (also of other stages, if it was carried over)."""

    prompts: int
    may_return: int  # of these, those that a later visit can bring back


@runtime_checkable
class Excluding(Protocol):
    """A gate or pool filter that says what it keeps out: for the decision log and the guards."""

    def changes(self) -> list[dict[str, Any]]:
        """`{"uid": 16 hex digits, "change": ..., "pass_rate": ...}` of the last `observe` or `begin_stage`."""
        ...

    def excluded(self) -> Excluded: ...


class Changes:
    """Prompts that went out or came back in one call."""

    def __init__(self) -> None:
        self._blocks: list[tuple[str, np.ndarray, np.ndarray]] = []

    def clear(self) -> None:
        self._blocks = []

    def add(self, change: str, uid_U: np.ndarray, pass_rate_U: np.ndarray) -> None:
        if len(uid_U):
            self._blocks.append((change, uid_U, pass_rate_U))

    def lines(self) -> list[dict[str, Any]]:
        """JSON values, in the order in which the changes were made and by uid within each kind."""
        return [
            {"uid": f"{uid:016x}", "change": change, "pass_rate": rate}
            for change, uid_U, pass_rate_U in self._blocks
            for uid, rate in sorted(zip(uid_U.tolist(), pass_rate_U.tolist(), strict=True))
        ]


@dataclass(frozen=True, slots=True)
class StepVisits:
    """Prompts of which samples were judged in one step, by uid; groups of the same prompt are one visit."""

    uid_U: np.ndarray  # uint64, rising
    judged_U: np.ndarray  # samples, each counted by the weight of its group
    solved_U: np.ndarray  # sum of their verified correctness, counted likewise
    trust_U: np.ndarray  # in (0, 1]: weight of the prompt's most trusted group
    step: int  # in which the groups ended

    @property
    def pass_rate_U(self) -> np.ndarray:
        return self.solved_U / self.judged_U

    @property
    def uids(self) -> list[int]:
        """The same prompts, as a table takes them."""
        uids: list[int] = self.uid_U.tolist()
        return uids


def step_visits(outcomes: Iterable[GroupOutcome]) -> StepVisits:
    """Add up the groups of one step; those of which nothing was judged, or of weight 0, are left out."""
    heard = sorted(
        (one for one in outcomes if one.correct and one.weight > 0), key=lambda one: one.group_id
    )
    rows: dict[int, tuple[float, float, float]] = {}
    for one in heard:
        judged, solved, trust = rows.get(one.group_id.uid, (0.0, 0.0, 0.0))
        rows[one.group_id.uid] = (
            judged + one.weight * len(one.correct),
            solved + one.weight * sum(one.correct),
            max(trust, min(1.0, one.weight)),
        )
    uids = sorted(rows)
    columns = np.array([rows[uid] for uid in uids], dtype=np.float64).reshape(len(uids), 3)
    judged_U, solved_U, trust_U = columns.T
    step = max((one.step for one in heard), default=0)
    return StepVisits(np.array(uids, dtype=np.uint64), judged_U, solved_U, trust_U, step)
