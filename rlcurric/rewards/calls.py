"""Completions that are to be scored by one reward, cut into calls, and the verdicts put together again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rlcurric.rewards.calling import Verdicts
from rlcurric.rewards.protocol import Reward
from rlcurric.types import Score

CHUNK = 32  # samples of a sample-scoped reward in one call


@dataclass(frozen=True)
class Ask:
    """Completions to be scored by one reward."""

    reward: Reward
    name: str  # how a recipe names the reward
    prompts: Sequence[str]
    completions: Sequence[str]
    columns: Mapping[str, Sequence[Any]]  # one value a completion
    arguments: Mapping[str, Any]
    groups: Sequence[Sequence[int]]  # places of each group's samples
    deadline: float  # seconds for one sample, from when a worker starts on it
    state: Mapping[str, int] = field(default_factory=dict)  # what `trainer_state` tells


@dataclass(frozen=True, eq=False)
class Call:
    """Samples of a job that one worker scores at once."""

    job: Job
    slots: tuple[int, ...]  # places of its samples in the job
    deadline: float  # seconds
    tries: int = 0

    @property
    def splittable(self) -> bool:
        """Whether its samples may be scored one by one instead."""
        reward = self.job.asked.reward
        alone = reward.scope == "sample" or (reward.scope == "group" and reward.separable)
        return alone and len(self.slots) > 1

    def split(self) -> list[Call]:
        """The same, one sample at a time: those that can be judged are."""
        return [Call(self.job, (slot,), self.job.asked.deadline) for slot in self.slots]

    def again(self) -> Call:
        return Call(self.job, self.slots, self.deadline, self.tries + 1)

    def request(self, number: int, base_dir: str) -> dict[str, Any]:
        """What the worker is sent."""
        asked = self.job.asked
        columns = {
            name: [values[slot] for slot in self.slots] for name, values in asked.columns.items()
        }
        return {
            "id": number,
            "deadline": self.deadline,
            "reward": asked.name,
            "base_dir": base_dir,
            "prompts": [asked.prompts[slot] for slot in self.slots],
            "completions": [asked.completions[slot] for slot in self.slots],
            "columns": {**columns, **asked.arguments},
            "state": dict(asked.state),
        }


class Job:
    """What one `ask` waits for."""

    def __init__(self, asked: Ask) -> None:
        self.asked = asked
        self.missing = len(asked.completions)
        self._scores: list[Score | None] = [None] * self.missing
        self._logged: dict[int, tuple[tuple[int, ...], Verdicts]] = {}  # by first place
        self.calls = [Call(self, tuple(part), seconds) for part, seconds in cut(asked)]

    def enter(self, call: Call, found: Verdicts) -> None:
        for slot, score in zip(call.slots, found.scores, strict=True):
            self._scores[slot] = score
        self.missing -= len(call.slots)
        if found.metrics or found.notes:
            self._logged[call.slots[0]] = (call.slots, found)

    def verdicts(self) -> Verdicts:
        """All of it, in the order of the samples whoever answered first."""
        scores = [score for score in self._scores if score is not None]
        assert len(scores) == len(self._scores)
        logged = [self._logged[place] for place in sorted(self._logged)]
        names = sorted({name for _, found in logged for name in found.notes})
        notes: dict[str, list[Any]] = {name: [None] * len(scores) for name in names}
        for slots, found in logged:
            for name, values in found.notes.items():
                for slot, value in zip(slots, values, strict=True):
                    notes[name][slot] = value
        return Verdicts(
            tuple(scores),
            tuple(metric for _, found in logged for metric in found.metrics),
            {name: tuple(values) for name, values in notes.items()},
        )


def cut(asked: Ask) -> list[tuple[Sequence[int], float]]:
    """Calls by scope, with their deadlines: a call that must see `n` samples at once has `n` times a sample's.

    A call of a sample-scoped reward has one sample's deadline, whatever it holds: if it does not keep it, every sample
    gets a call and a deadline of its own.
    """
    count, seconds = len(asked.completions), asked.deadline
    if asked.reward.scope == "batch":
        return [(range(count), count * seconds)] if count else []
    if asked.reward.scope == "group":
        return [(group, len(group) * seconds) for group in asked.groups if group]
    starts = range(0, count, CHUNK)
    return [(range(start, min(count, start + CHUNK)), seconds) for start in starts]
