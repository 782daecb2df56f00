"""Every group from the request to its end: the one place that knows what is in flight."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from rlcurric.curriculum.table import PromptTable
from rlcurric.types import Delivery, GroupId, Prompt, Request, SampleOutcome, Status

_TIMES = ("1", "2-3", "4-7", "8-15", "16-31", "32 and more")


class GroupState(enum.StrEnum):
    """Where a group stands. A group that ended is forgotten once it was observed; only counts remain."""

    REQUESTED = "requested"  # samples are outstanding
    PARTIAL = "partial"  # some of them have come
    PROBED = (
        "probed"  # all that were asked for have come, and the plan has not said yet what follows
    )
    CONTINUED = "continued"  # more samples are to be asked for
    ADMITTED = "admitted"
    REPLACED = "replaced"  # complete; its place in the batch goes to a copy of another group
    DROPPED = "dropped"
    TRAINED = "trained"


@dataclass(slots=True)
class Entry:
    """One group that has not ended, or ended in this step."""

    prompt: Prompt
    wanted: int  # samples asked for
    step: int  # step of the first request
    state: GroupState = GroupState.REQUESTED
    samples: tuple[SampleOutcome, ...] = ()
    phase: int = 0  # requests before the latest one
    index: int = 0  # of the prompt within its distribution
    expected: float | None = None  # pass rate that the scorer expected
    version: int = 0  # of the policy when the group was opened


class Ledger:
    """Groups in flight, visits to every prompt, and counts that must balance."""

    def __init__(self) -> None:
        self.entries: dict[GroupId, Entry] = {}
        self.visits = PromptTable(visits=0.0)
        self.counts = {"requested": 0, "trained": 0, "dropped": 0}
        self.seen: dict[str, int] = {}  # distribution -> prompts of it that were visited
        self.visited_times = dict.fromkeys(_TIMES, 0)  # prompts by how often they were visited
        self._mark: tuple[dict[GroupId, Entry], dict[str, int]] = ({}, {})
        self._known = 0  # prompts visited before the mark
        self._opened: list[tuple[int, str]] = []  # uids and distributions, since the mark

    def open(
        self,
        stage: str,
        prompt: Prompt,
        wanted: int,
        step: int,
        index: int = 0,
        expected: float | None = None,
        version: int = 0,
    ) -> GroupId:
        """A new group; its visit number is the next one of its prompt."""
        visit = self.visited(prompt.uid)
        self._visit(prompt.uid, prompt.distribution, visit, 1)
        group_id = GroupId(stage, prompt.uid, visit)
        assert group_id not in self.entries
        self.entries[group_id] = Entry(
            prompt, wanted, step, index=index, expected=expected, version=version
        )
        self.counts["requested"] += 1
        self._opened.append((prompt.uid, prompt.distribution))
        return group_id

    def _visit(self, uid: int, distribution: str, before: int, change: int) -> None:
        """A prompt that was visited `before` times is visited once more, or once less."""
        after = before + change
        self.visits.put([uid], visits=[after])
        for times, step in ((before, -1), (after, 1)):
            if times:
                self.visited_times[_bucket(times)] += step
        if not before or not after:
            self.seen[distribution] = self.seen.get(distribution, 0) + change

    def visited(self, uid: int) -> int:
        """Groups that were opened for a prompt, over the whole run."""
        return int(self.visits.get([uid])["visits"][0])

    def mark(self) -> None:
        """Note where things stand, for `rollback`."""
        entries = {group_id: replace(entry) for group_id, entry in self.entries.items()}
        self._mark, self._opened = (entries, dict(self.counts)), []
        self._known = len(self.visits)

    def rollback(self) -> None:
        """Back to the mark: what was opened since was never asked for."""
        self.entries, self.counts = self._mark
        for uid, distribution in self._opened:
            self._visit(uid, distribution, self.visited(uid), -1)
        self.visits.truncate(self._known)
        self.mark()

    def ask_more(self, group_id: GroupId, samples: int) -> None:
        """A group gets more samples than were asked for so far."""
        entry = self.entries[group_id]
        assert entry.state == GroupState.PROBED and samples > 0
        entry.wanted += samples
        entry.phase += 1
        entry.state = GroupState.CONTINUED

    def deliver(self, delivery: Delivery) -> Entry:
        """Add samples to a group; the entry, complete or partial. ValueError for what was not asked for."""
        entry = self.entries.get(delivery.group_id)
        if entry is None:
            raise ValueError(f"Delivery for a group that is not in flight: {delivery.group_id}")
        if entry.state not in (GroupState.REQUESTED, GroupState.PARTIAL):
            raise ValueError(
                f"Delivery for a group that is {entry.state} already: {delivery.group_id}"
            )
        verdicts = {sample.sample: sample for sample in entry.samples}
        known = set(verdicts)
        for sample in delivery.samples:
            if sample.sample in known or not 0 <= sample.sample < entry.wanted:
                raise ValueError(
                    f"Sample {sample.sample} of {delivery.group_id} was delivered twice or never requested"
                )
            known.add(sample.sample)
        if not {sample.sample for sample in delivery.earlier} <= set(verdicts):
            raise ValueError(f"{delivery.group_id}: a new verdict on a sample that never came")
        verdicts |= {one.sample: one for one in (*delivery.earlier, *delivery.samples)}
        entry.samples = tuple(verdicts[number] for number in sorted(verdicts))
        whole = len(entry.samples) == entry.wanted
        entry.state = GroupState.PROBED if whole else GroupState.PARTIAL
        return entry

    def end(self, group_id: GroupId, state: GroupState) -> Entry:
        """Take a group out as trained or dropped."""
        assert state in (GroupState.TRAINED, GroupState.DROPPED)
        entry = self.entries.pop(group_id)
        self.counts[state.value] += 1
        return entry

    def of(self, *states: GroupState) -> list[GroupId]:
        """Groups in these states, in group_id order."""
        return sorted(group_id for group_id, entry in self.entries.items() if entry.state in states)

    def balance(self) -> None:
        """Every requested group is in flight, trained or dropped, and once."""
        ended = self.counts["trained"] + self.counts["dropped"]
        assert self.counts["requested"] == ended + len(self.entries), (
            self.counts,
            len(self.entries),
        )
        assert self.counts["requested"] == self.visits.total("visits")

    def metrics(self, sizes: Mapping[str, int]) -> dict[str, float]:
        """Share of the pool that was visited in this run, and prompts by how often they were."""
        seen = sum(min(size, self.seen.get(name, 0)) for name, size in sizes.items())
        return {
            "curriculum/coverage": seen / sum(sizes.values()),
            **{f"curriculum/visits/{times}": n for times, n in self.visited_times.items()},
        }

    def request(self, group_id: GroupId, seed_key: int) -> Request:
        """What an engine is asked for: the samples of the group that are outstanding."""
        entry = self.entries[group_id]
        samples = tuple(range(len(entry.samples), entry.wanted))
        entry.state = GroupState.PARTIAL if entry.samples else GroupState.REQUESTED
        return Request(group_id, entry.prompt, samples, seed_key, entry.phase)

    def state_dict(self) -> dict[str, Any]:
        """Between steps, when all that is left is admitted and carried over. JSON, but for the arrays of `visits`."""
        return {
            "visits": self.visits.state_dict(),
            "counts": dict(self.counts),
            "seen": {name: count for name, count in sorted(self.seen.items()) if count},
            "visited_times": dict(self.visited_times),
            "entries": [
                {
                    "group_id": list(group_id),
                    "prompt": _prompt_to_json(entry.prompt),
                    "wanted": entry.wanted,
                    "step": entry.step,
                    "state": entry.state.value,
                    "phase": entry.phase,
                    "index": entry.index,
                    "expected": entry.expected,
                    "version": entry.version,
                    "samples": [_sample_to_json(sample) for sample in entry.samples],
                }
                for group_id, entry in sorted(self.entries.items())
            ],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.visits.load_state_dict(state["visits"])
        self.counts = dict(state["counts"])
        self.seen = dict(state["seen"])
        self.visited_times = dict(state["visited_times"])
        self.entries = {GroupId(*item["group_id"]): _entry(item) for item in state["entries"]}
        self.mark()


def _entry(item: Mapping[str, Any]) -> Entry:
    prompt = {**item["prompt"], "prompt_ids": tuple(item["prompt"]["prompt_ids"])}
    return Entry(
        Prompt(**prompt),
        item["wanted"],
        item["step"],
        GroupState(item["state"]),
        tuple(
            SampleOutcome(**{**sample, "status": Status(sample["status"])})
            for sample in item["samples"]
        ),
        item["phase"],
        item["index"],
        item["expected"],
        item["version"],
    )


def _bucket(times: int) -> str:
    """The place of a number of visits in the histogram."""
    return _TIMES[min(times.bit_length(), len(_TIMES)) - 1]


def _prompt_to_json(prompt: Prompt) -> dict[str, Any]:
    return {name: _plain(getattr(prompt, name)) for name in prompt.__dataclass_fields__}


def _sample_to_json(sample: SampleOutcome) -> dict[str, Any]:
    return {name: _plain(getattr(sample, name)) for name in sample.__dataclass_fields__}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return dict(value) if isinstance(value, Mapping) else value
