"""The outcomes of groups in the decision log, folded line by line into sums by step and histories by prompt."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rlcurric.report.recorded import number_of

OUTCOMES = ("outcomes", "surplus", "measured")  # kinds of lines that tell how groups ended
_LENGTHS = ("correct", "wrong")
TRAINED = "trained"  # the fate of a group that was trained on; all others were sampled for less


def fate_of(disposition: str, correct: Sequence[float]) -> str:
    """What became of a group, refused ones by why: a gate that wants signal refuses all right and all wrong ones."""
    if disposition != "gated" or not correct:
        return disposition
    ends = {1.0: "gated, all right", 0.0: "gated, all wrong"}
    return ends.get(correct[0], "gated, mixed") if len(set(correct)) == 1 else "gated, mixed"


@dataclass(frozen=True)
class Visit:
    """One group of a prompt."""

    step: int
    pass_rate: float  # NaN where no sample was judged
    samples: int  # judged ones
    failed: int  # that no grader could judge


@dataclass(frozen=True)
class History:
    """All visits of a prompt, in the order of the run."""

    uid: str
    distribution: str
    visits: tuple[Visit, ...]


@dataclass(frozen=True)
class Outcomes:
    """What ended in each step. Arrays are aligned to `steps`; a sum is 0 where nothing was."""

    steps: np.ndarray  # int64, rising: steps in which a group ended
    solved: Mapping[str, np.ndarray]  # by distribution: sum of verified correctness
    samples: Mapping[str, np.ndarray]  # by distribution: judged samples
    dispositions: Mapping[str, np.ndarray]  # trained, gated, ...: groups
    trained: Mapping[str, np.ndarray]  # by distribution: groups that were trained
    length_sum: Mapping[str, np.ndarray]  # `correct` and `wrong`: tokens
    length_count: Mapping[str, np.ndarray]  # `correct` and `wrong`: samples
    fates: Mapping[str, np.ndarray]  # trained, gated and why, ...: groups
    spent: Mapping[str, Mapping[str, float]]  # by distribution, then fate: tokens of judged samples
    tokens: Mapping[str, np.ndarray]  # by distribution: tokens of judged samples
    histories: tuple[History, ...]

    @property
    def distributions(self) -> tuple[str, ...]:
        return tuple(self.samples)


@dataclass
class _Sums:
    """Sums by name and step, while lines come in."""

    cells: dict[str, dict[int, float]] = field(default_factory=dict)

    def add(self, name: str, step: int, value: float) -> None:
        row = self.cells.setdefault(name, {})
        row[step] = row.get(step, 0.0) + value

    def arrays(self, steps: list[int]) -> dict[str, np.ndarray]:
        return {
            name: np.array([row.get(step, 0.0) for step in steps])
            for name, row in self.cells.items()
        }


class _Fold:
    """Everything that is summed or listed, while lines come in."""

    def __init__(self) -> None:
        self.solved, self.samples, self.trained = _Sums(), _Sums(), _Sums()
        self.dispositions, self.length_sum, self.length_count = _Sums(), _Sums(), _Sums()
        self.fates, self.tokens = _Sums(), _Sums()
        self.spent: dict[str, dict[str, float]] = {}
        self.visits: dict[str, list[Visit]] = {}
        self.distribution: dict[str, str] = {}

    def group(self, step: int, group: Mapping[str, Any], measured: bool) -> None:
        name, correct = str(group["distribution"]), [number_of(one) for one in group["correct"]]
        disposition, lengths = str(group["disposition"]), list(group["lengths"])
        failed = int(group.get("failed", 0))
        uid = str(group["uid"])
        tokens = sum(map(number_of, lengths))
        if any(map(math.isnan, (*correct, tokens))):
            raise ValueError("a verdict or a length is no number")
        rate = sum(correct) / len(correct) if correct else float("nan")
        self.visits.setdefault(uid, []).append(Visit(step, rate, len(correct), failed))
        self.distribution[uid] = name
        if measured:  # before the step, by another policy or for nothing but to know
            return
        self.solved.add(name, step, sum(correct))
        self.samples.add(name, step, len(correct))
        self.dispositions.add(disposition, step, 1)
        if disposition == "trained":
            self.trained.add(name, step, 1)
        fate = fate_of(disposition, correct)
        self.fates.add(fate, step, 1)
        self.tokens.add(name, step, tokens)
        fates = self.spent.setdefault(name, {})
        fates[fate] = fates.get(fate, 0.0) + tokens
        if len(lengths) == len(correct):  # else some have no verdict, and nobody knows which
            for value, length in zip(correct, lengths, strict=True):
                which = _LENGTHS[value < 1]
                self.length_sum.add(which, step, number_of(length))
                self.length_count.add(which, step, 1)


def fold(lines: Iterable[Mapping[str, Any]]) -> tuple[Outcomes, int]:
    """Sums and histories of all lines that tell outcomes, and how many groups could not be read."""
    found, unreadable = _Fold(), 0
    for line in lines:
        if line.get("kind") not in OUTCOMES:
            continue
        groups = line.get("groups")
        for group in groups if isinstance(groups, list) else ():
            try:
                found.group(line["step"], group, line["kind"] == "measured")
            except (KeyError, TypeError, ValueError, AttributeError):
                unreadable += 1
    sums = (found.samples, found.dispositions)
    steps = sorted({step for one in sums for row in one.cells.values() for step in row})
    histories = tuple(
        History(uid, found.distribution[uid], tuple(visits)) for uid, visits in found.visits.items()
    )
    outcomes = Outcomes(
        steps=np.array(steps, dtype=np.int64),
        solved=found.solved.arrays(steps),
        samples=found.samples.arrays(steps),
        dispositions=found.dispositions.arrays(steps),
        trained=found.trained.arrays(steps),
        length_sum=found.length_sum.arrays(steps),
        length_count=found.length_count.arrays(steps),
        fates=found.fates.arrays(steps),
        spent=found.spent,
        tokens=found.tokens.arrays(steps),
        histories=histories,
    )
    return outcomes, unreadable
