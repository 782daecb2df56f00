"""Events of a run, told in words and sorted by how much they matter. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Severity = Literal["failure", "warning", "note"]

FATAL = ("rank_failed", "hang")  # the run ends with them
SHORT = "short_batch"  # a batch with fewer groups than were asked for
_FAILURES = {
    *FATAL,
    *("engine_lost", "save_failed", "checkpoint_damaged", "updates_skipped", "grader_failures"),
}
_WARNINGS = {
    *("guard", SHORT, "empty_step", "caution", "disk_space", "host_memory", "low_memory"),
    *("tracker_failed", "latest_corrected", "stopped", "recipe_changed", "rolled_back"),
}
_APART = ("time", "event", "step", "stage_step")
_DETAIL_LIMIT = 600  # characters


@dataclass(frozen=True)
class Event:
    """One line of events.jsonl."""

    time: str  # of the host's clock, to the second; "" where it has none
    step: int
    kind: str
    severity: Severity
    text: str  # what it says, in one line


def tell_events(rows: Iterable[Mapping[str, Any]]) -> tuple[Event, ...]:
    """All events in the order written."""
    return tuple(_event(row) for row in rows)


def severity_of(kind: str) -> Severity:
    if kind in _FAILURES or kind.endswith("_failed"):
        return "warning" if kind in _WARNINGS else "failure"
    return "warning" if kind in _WARNINGS else "note"


def _event(row: Mapping[str, Any]) -> Event:
    kind = str(row.get("event", ""))
    detail = {key: value for key, value in row.items() if key not in _APART}
    return Event(
        time=str(row.get("time", "")).replace("T", " ")[:19],
        step=int(row["step"]),
        kind=kind,
        severity=severity_of(kind),
        text=_told(kind, detail)[:_DETAIL_LIMIT],
    )


def _told(kind: str, detail: Mapping[str, Any]) -> str:
    if isinstance(detail.get("message"), str):
        named = detail.get("guard")
        return f"{named}: {detail['message']}" if named else str(detail["message"])
    if kind == "grader_failures" and isinstance(detail.get("causes"), dict):
        causes = "; ".join(f"{cause} ({count})" for cause, count in detail["causes"].items())
        return f"{detail.get('samples')} samples could not be judged: {causes}"
    if kind == "rank_failed":
        return (
            f"rank {detail.get('failed')} failed in {detail.get('phase')!r}: {detail.get('reason')}"
        )
    if kind == SHORT:
        return (
            f"the batch has {detail.get('groups')} of the {detail.get('asked')} groups that were asked for: "
            "a gate refused the others, or they failed"
        )
    if kind == "recipe_changed" and isinstance(detail.get("changes"), dict):
        return "; ".join(_change(key, pair) for key, pair in detail["changes"].items())
    if kind == "stage_ended":
        first, last = detail.get("first_step"), detail.get("last_step")
        took = isinstance(first, int) and isinstance(last, int) and first <= last
        steps = f"steps {first} to {last}" if took else "no steps"
        return f"stage {detail.get('stage')}: {steps}, ended by {detail.get('reason')}"
    return ", ".join(f"{key} {_value(value)}" for key, value in detail.items() if value is not None)


def _change(key: str, pair: Any) -> str:
    if not isinstance(pair, list) or len(pair) != 2:
        return f"{key} {_value(pair)}"
    return f"{key} from {_value(pair[0])} to {_value(pair[1])}"


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
