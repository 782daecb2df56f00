"""What a run tells whoever watches it. The command line draws it; tests and libraries may leave it silent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class Reporter(Protocol):
    """Receives progress on rank 0."""

    def message(self, text: str) -> None:
        """One line worth reading: a choice that was made, a warning."""
        ...

    def stage(
        self, name: str, kind: str, number: int, of: int, steps: int | None, done: int
    ) -> None:
        """A stage begins, or goes on with `done` of its `steps`; None where no number of steps bounds it."""
        ...

    def phase(self, name: str) -> None:
        """What the run is doing now: rollout, grade, update, sync, evaluate, save."""
        ...

    def step(self, row: Mapping[str, Any]) -> None:
        """A step ended; `row` is its line of metrics.jsonl."""
        ...

    def event(self, row: Mapping[str, Any]) -> None:
        """A line of events.jsonl was written; from any thread."""
        ...


class Silent:
    """Tells nobody."""

    def message(self, text: str) -> None: ...

    def stage(
        self, name: str, kind: str, number: int, of: int, steps: int | None, done: int
    ) -> None: ...

    def phase(self, name: str) -> None: ...

    def step(self, row: Mapping[str, Any]) -> None: ...

    def event(self, row: Mapping[str, Any]) -> None: ...
