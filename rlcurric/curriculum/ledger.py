"""Every group from the request to its end: the one place that knows what is in flight."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlcurric.types import Delivery, GroupId, Prompt, Request, SampleOutcome, Status


class GroupState(enum.StrEnum):
    """Where a group stands. A group that ended is forgotten once it was observed; only counts remain."""

    REQUESTED = "requested"
    PARTIAL = "partial"
    ADMITTED = "admitted"
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


class Ledger:
    """Groups in flight, visits to every prompt, and counts that must balance."""

    def __init__(self) -> None:
        self.entries: dict[GroupId, Entry] = {}
        self.visits: dict[int, int] = {}
        self.counts = {"requested": 0, "trained": 0, "dropped": 0}

    def open(self, stage: str, prompt: Prompt, wanted: int, step: int) -> GroupId:
        """A new group; its visit number is the next one of its prompt."""
        visit = self.visits.get(prompt.uid, 0)
        self.visits[prompt.uid] = visit + 1
        group_id = GroupId(stage, prompt.uid, visit)
        assert group_id not in self.entries
        self.entries[group_id] = Entry(prompt, wanted, step)
        self.counts["requested"] += 1
        return group_id

    def deliver(self, delivery: Delivery) -> Entry:
        """Add samples to a group; the entry, complete or partial. ValueError for what was not asked for."""
        entry = self.entries.get(delivery.group_id)
        if entry is None:
            raise ValueError(f"Delivery for a group that is not in flight: {delivery.group_id}")
        if entry.state not in (GroupState.REQUESTED, GroupState.PARTIAL):
            raise ValueError(
                f"Delivery for a group that is {entry.state} already: {delivery.group_id}"
            )
        known = {sample.sample for sample in entry.samples}
        for sample in delivery.samples:
            if sample.sample in known or not 0 <= sample.sample < entry.wanted:
                raise ValueError(
                    f"Sample {sample.sample} of {delivery.group_id} was delivered twice or never requested"
                )
            known.add(sample.sample)
        entry.samples = tuple(
            sorted(entry.samples + delivery.samples, key=lambda sample: sample.sample)
        )
        entry.state = GroupState.PARTIAL
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
        assert self.counts["requested"] == sum(self.visits.values())

    def request(self, group_id: GroupId, seed_key: int) -> Request:
        """What an engine is asked for."""
        entry = self.entries[group_id]
        return Request(group_id, entry.prompt, tuple(range(entry.wanted)), seed_key)

    def state_dict(self) -> dict[str, Any]:
        """JSON; entries only between steps, when all that is left is admitted and carried over."""
        return {
            "visits": {f"{uid:016x}": count for uid, count in sorted(self.visits.items())},
            "counts": dict(self.counts),
            "entries": [
                {
                    "group_id": list(group_id),
                    "prompt": _prompt_to_json(entry.prompt),
                    "wanted": entry.wanted,
                    "step": entry.step,
                    "state": entry.state.value,
                    "samples": [_sample_to_json(sample) for sample in entry.samples],
                }
                for group_id, entry in sorted(self.entries.items())
            ],
        }

    def load_state_dict(self, state: Mapping[str, Any], with_entries: bool = True) -> None:
        self.visits = {int(uid, 16): count for uid, count in state["visits"].items()}
        self.counts = dict(state["counts"])
        self.entries = {}
        for item in state["entries"]:
            if with_entries:
                self.entries[GroupId(*item["group_id"])] = Entry(
                    Prompt(**{**item["prompt"], "prompt_ids": tuple(item["prompt"]["prompt_ids"])}),
                    item["wanted"],
                    item["step"],
                    GroupState(item["state"]),
                    tuple(
                        SampleOutcome(**{**sample, "status": Status(sample["status"])})
                        for sample in item["samples"]
                    ),
                )
            else:
                self.counts["dropped"] += 1


def _prompt_to_json(prompt: Prompt) -> dict[str, Any]:
    return {name: _plain(getattr(prompt, name)) for name in prompt.__dataclass_fields__}


def _sample_to_json(sample: SampleOutcome) -> dict[str, Any]:
    return {name: _plain(getattr(sample, name)) for name in sample.__dataclass_fields__}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return dict(value) if isinstance(value, Mapping) else value
