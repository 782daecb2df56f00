"""A stop is a request: signals and the file `stop` set a flag that rank 0 looks at between engine calls."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class StopRequest:
    """Collects requests to stop. A second Ctrl-C raises KeyboardInterrupt: the user wants out at once."""

    def __init__(self, stop_file: Path | None = None, stop_at: int | None = None) -> None:
        self.reason: str | None = None
        self._file = stop_file
        self._stop_at = stop_at
        self._old: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._old = {number: signal.signal(number, self._on_signal) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT and self.reason is not None:
            raise KeyboardInterrupt
        self.reason = signal.Signals(number).name

    def ask(self, reason: str) -> None:
        """A request from within the run."""
        self.reason = self.reason or reason

    def requested(self, step: int | None = None) -> str | None:
        """Why to stop, or None. `step`: steps done, where the run stands between two steps."""
        if (
            self.reason is None
            and step is not None
            and self._stop_at is not None
            and step >= self._stop_at
        ):
            self.reason = f"step {self._stop_at} was to be the last"
        if self.reason is None and self._file is not None and self._file.exists():
            self.reason = f"the file {self._file.name}"
        return self.reason
