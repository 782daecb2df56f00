"""What parts share that take prompts out of the pool: how many, and a list of what went out and came back."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

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
