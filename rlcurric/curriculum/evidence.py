"""What the groups of one step say of prompts: added up before any estimate moves, so that their order says nothing.

`C` candidates or other prompts of one call, `U` prompts visited in one step.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlcurric.curriculum.table import PromptTable
from rlcurric.types import GroupOutcome

_NEVER = -2.0  # for the step of a visit; what was measured before a run's first step has -1
UNKNOWN_RATE = 0.5  # pass rate taken of a prompt of which nothing is known


@dataclass(frozen=True, slots=True)
class Visits:
    """The prompts of which a step judged samples, in the order of their groups."""

    uids: list[int]  # distinct
    samples_U: np.ndarray  # judged samples, each counted by its group's weight
    solved_U: np.ndarray  # their verified correctness, counted likewise
    trust_U: np.ndarray  # in (0, 1]: weight of the prompt's most trusted group
    step_U: np.ndarray  # latest step in which a group of it ended

    @property
    def pass_rate_U(self) -> np.ndarray:
        """Weighted mean of correctness, in [0, 1]."""
        return self.solved_U / self.samples_U

    @property
    def uid_U(self) -> np.ndarray:
        """The same prompts as an array, uint64."""
        return np.array(self.uids, dtype=np.uint64)

    @property
    def step(self) -> int:
        """The latest step; 0 without a prompt."""
        return int(self.step_U.max()) if len(self.step_U) else 0


def evidence(outcomes: Iterable[GroupOutcome]) -> list[GroupOutcome]:
    """The outcomes that say something, in group_id order: samples were judged, and it is not too late to listen."""
    heard = (one for one in outcomes if one.correct and one.weight > 0)
    return sorted(heard, key=lambda one: one.group_id)


def visits(outcomes: Iterable[GroupOutcome]) -> Visits:
    """The evidence of one step by prompt; groups of the same prompt are one visit."""
    rows: dict[int, tuple[float, float, float, int]] = {}
    for one in evidence(outcomes):
        samples, solved, trust, step = rows.get(one.group_id.uid, (0.0, 0.0, 0.0, 0))
        rows[one.group_id.uid] = (
            samples + one.weight * len(one.correct),
            solved + one.weight * sum(one.correct),
            max(trust, min(1.0, one.weight)),
            max(step, one.step),
        )
    columns = np.array(list(rows.values()), dtype=np.float64).reshape(len(rows), 4).T
    return Visits(list(rows), *columns)


def mean_correctness(outcomes: Iterable[GroupOutcome]) -> tuple[float, float] | None:
    """`(mean, trust)` over the judged samples of a step; None if there are none.

    The mean counts a sample by its group's weight, trust is the mean of these weights.
    """
    listened = evidence(outcomes)
    if not listened:
        return None
    samples = sum(len(one.correct) for one in listened)
    weight = sum(one.weight * len(one.correct) for one in listened)
    return sum(one.weight * sum(one.correct) for one in listened) / weight, weight / samples


class RunningRates:
    """Exponential moving average of every visited prompt's pass rate, a visit counting once whatever its samples.

    The average is over the visits there were: the first one stands for itself, and no start value is mixed in. A visit
    of trust w counts w and lets the past fade by keep^w.
    """

    def __init__(self, keep: float) -> None:
        self._keep = keep
        self._table = PromptTable(rate=0.0, visits=0.0)  # faded sums: of rates, and of ones

    def get(self, uids: Sequence[int]) -> np.ndarray:
        """float64 (C,); UNKNOWN_RATE for prompts that were never visited."""
        known = self._table.get(uids)
        seen_C = known["visits"] > 0
        count_C = np.where(seen_C, known["visits"], 1.0)
        return np.where(seen_C, known["rate"] / count_C, UNKNOWN_RATE)

    def observe(self, outcomes: Sequence[GroupOutcome]) -> None:
        """Add the groups of one step."""
        seen = visits(outcomes)
        if seen.uids:
            self._table.put(seen.uids, **self._after(seen))

    def preview(self, outcome: GroupOutcome) -> float:
        """What `get` would give of this prompt if the outcome had been observed."""
        seen = visits([outcome])
        if not seen.uids:
            return float(self.get([outcome.group_id.uid])[0])
        after = self._after(seen)
        return float(after["rate"][0] / after["visits"][0])

    def mean(self) -> float:
        """Over the prompts visited; UNKNOWN_RATE if there are none."""
        if not len(self._table):
            return UNKNOWN_RATE
        return float((self._table.column("rate") / self._table.column("visits")).mean())

    def state_dict(self) -> dict[str, Any]:
        return self._table.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._table.load_state_dict(state)

    def _after(self, seen: Visits) -> dict[str, np.ndarray]:
        known, fade_U = self._table.get(seen.uids), self._keep**seen.trust_U
        return {
            "rate": fade_U * known["rate"] + seen.trust_U * seen.pass_rate_U,
            "visits": fade_U * known["visits"] + seen.trust_U,
        }


class PassRates:
    """How often every visited prompt was solved, over the whole run: what pool filters look back on."""

    def __init__(self) -> None:
        self._table = PromptTable(samples=0.0, solved=0.0, step=_NEVER)

    def observe(self, outcomes: Sequence[GroupOutcome]) -> None:
        """Add the judged samples of ended groups, discounted by their weight."""
        seen = visits(outcomes)
        if not seen.uids:
            return
        known = self._table.get(seen.uids)
        self._table.put(
            seen.uids,
            samples=known["samples"] + seen.samples_U,
            solved=known["solved"] + seen.solved_U,
            step=np.maximum(known["step"], seen.step_U),
        )

    def lookup(self, uids: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """`(samples_C, pass_rate_C)`: samples judged, and the share that was correct (NaN where there are none)."""
        known = self._table.get(uids)
        with np.errstate(invalid="ignore"):
            return known["samples"], known["solved"] / known["samples"]

    def ages(self, uids: Sequence[int], step: int) -> np.ndarray:
        """Steps since each prompt was last observed; NaN for those that never were."""
        last_C = self._table.get(uids)["step"]
        return np.where(last_C == _NEVER, np.nan, step - last_C)

    def uids(self) -> np.ndarray:
        """uint64 (N,): every prompt of which a sample was judged, sorted."""
        return self._table.uids()

    def state_dict(self) -> dict[str, Any]:
        return self._table.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._table.load_state_dict(state)
