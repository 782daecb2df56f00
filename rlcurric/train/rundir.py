"""The run directory: lock, logs that can be cut back, events that never are, and the stop file."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from rlcurric.errors import RunError

METRICS, DECISIONS, EVENTS = "metrics.jsonl", "decisions.jsonl", "events.jsonl"


def dataset_name(stage: str) -> str:
    """The file of the rows that a stage writes, in the run directory."""
    return f"datasets/{stage}.jsonl"


def screened_name(stage: str) -> str:
    """The file of the pass rates that a stage measures before it trains, in the run directory."""
    return f"screening/{stage}.jsonl"


def write_atomic(path: Path, text: str) -> None:
    """Replace a file in one step: a reader sees the old text or the new, also after a crash."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    fsync_path(path.parent)


def fsync_path(path: Path) -> None:
    """Make what a file holds durable; of a folder, the renames inside it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Every whole line of a log; a last line that a crash cut short is left out."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_bytes().split(b"\n")[:-1]:
        with contextlib.suppress(json.JSONDecodeError):
            rows.append(json.loads(line))
    return rows


class RunDirectory:
    """Paths and logs of one run. Only rank 0 makes one that writes."""

    def __init__(
        self, path: Path, heard: Callable[[Mapping[str, Any]], None] = lambda event: None
    ) -> None:
        self.path = path
        self._heard = heard  # called with every event that this process has written
        self.checkpoints = path / "checkpoints"
        self.rollouts = path / "rollouts"
        self.stop_file = path / "stop"
        self._locked = False

    @property
    def recipe_file(self) -> Path:
        return self.path / "recipe.yaml"

    def lock(self) -> None:
        """Take the run for this process; ValueError that names the holder if another live process has it."""
        import fcntl

        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(
                f"The run directory {self.path} cannot be made: {error.strerror}. Choose another --run-dir."
            ) from None
        file = self.path / "run.lock"
        try:
            self._lock_handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise ValueError(
                f"The run directory {self.path} cannot be written: {error.strerror}. Make it writable, or choose another "
                "--run-dir."
            ) from None
        try:
            fcntl.flock(self._lock_handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = file.read_text(encoding="utf-8").strip() or "unknown"
            os.close(self._lock_handle)
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            raise ValueError(
                f"The run directory {self.path} is in use by another process: {holder}. "
                f"Wait for it, stop it with `touch {self.stop_file}`, or choose another --run-dir."
            ) from None
        me = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "start": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }
        os.ftruncate(self._lock_handle, 0)
        os.pwrite(self._lock_handle, json.dumps(me).encode(), 0)
        self._locked = True

    def unlock(self) -> None:
        if self._locked:
            os.close(self._lock_handle)  # closing releases the lock
            self._locked = False

    def refuse_if_held(self) -> None:
        """ValueError that names the holder if a live process has the run; nothing is taken."""
        if (self.path / "run.lock").exists():
            self.lock()
            self.unlock()

    def append(self, log: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add whole lines to a log, written and flushed in one call."""
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        if not text:
            return
        try:
            with (self.path / log).open("a", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise RunError(
                f"{self.path / log} cannot be written: {error.strerror}. Free space, or make it writable; the same command then "
                "goes on from the newest good checkpoint."
            ) from None

    def event(self, kind: str, step: int, **detail: Any) -> None:
        """Append to events.jsonl, which is never cut."""
        row = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "event": kind, "step": step, **detail}
        self._mend_last_line(EVENTS)
        self.append(EVENTS, [row])
        self._heard(row)

    def report(self, kind: str, step: int, **detail: Any) -> None:
        """The same from any rank and thread, also beside rank 0's own lines: one write, at the end of the file."""
        row = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "event": kind, "step": step, **detail}
        path = self.path / EVENTS
        cut = path.exists() and not path.read_bytes().endswith(b"\n") and path.stat().st_size > 0
        text = ("\n" if cut else "") + json.dumps(row, ensure_ascii=False) + "\n"
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(handle, text.encode())
        finally:
            os.close(handle)
        self._heard(row)

    def cut_back(self, step: int) -> int:
        """Drop every per-step record after `step`; the number of steps dropped."""
        dropped = 0
        for log in (METRICS, DECISIONS):
            path = self.path / log
            if path.exists():
                rows = read_jsonl(path)
                kept = [row for row in rows if row["step"] <= step]
                dropped = max(dropped, len({row["step"] for row in rows if row["step"] > step}))
                write_atomic(
                    path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept)
                )
        for file in self.rollouts.glob("step-*.parquet*"):
            if file.suffix != ".parquet" or int(file.stem.removeprefix("step-")) > step:
                file.unlink()
        return dropped

    def _mend_last_line(self, log: str) -> None:
        """End a line that a crash cut short, so that the next one stands alone."""
        path = self.path / log
        if path.exists() and path.stat().st_size:
            with path.open("rb+") as file:
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    file.write(b"\n")
