"""The logs of a run as they grow: only what is new is read, nothing is written and no lock is taken."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from types import TracebackType

from rlcurric.recipe.load import load_recipe
from rlcurric.recipe.schema import Recipe
from rlcurric.report.recorded import Condition, Row, condition_of, row_of
from rlcurric.report.standing import Standing
from rlcurric.train.rundir import EVENTS, METRICS

LOCK, RECIPE = "run.lock", "recipe.yaml"


class LogTail:
    """The whole lines of a log that were written since the last look.

    The file stays open, so that one that took its place is never taken for it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle: BufferedReader | None = None
        self._rest = b""  # of a line whose end is not there yet

    def read(self) -> list[Row] | None:
        """What is new; None where the log was cut back, so that all of it must be read again: the next look begins anew."""
        if self._handle is not None and self._was_cut(self._handle):
            self.close()
            return None
        if self._handle is None:
            try:
                self._handle = self.path.open("rb")
            except FileNotFoundError:
                return []
            except OSError as error:
                raise ValueError(f"{self.path} cannot be read: {error.strerror}") from None
        *lines, self._rest = (self._rest + self._handle.read()).split(b"\n")
        return [row for line in lines if (row := row_of(line)) is not None]

    def close(self) -> None:
        if self._handle is not None:
            self._handle.close()
        self._handle, self._rest = None, b""

    def _was_cut(self, handle: BufferedReader) -> bool:
        """Whether the log is gone, another file by now, or shorter than what was read of it."""
        mine = os.fstat(handle.fileno())
        try:
            there = self.path.stat()
        except FileNotFoundError:
            return True
        same = (mine.st_ino, mine.st_dev) == (there.st_ino, there.st_dev)
        return not same or mine.st_size < handle.tell()


@dataclass(frozen=True)
class News:
    """What a look at the logs found."""

    events: list[Row]
    rows: list[Row]  # steps
    anew: bool  # these are all there are, since the logs were cut back, or it was the first look


class Follower:
    """Follows a run by its directory. Use as a context manager."""

    def __init__(self, run_dir: Path) -> None:
        self.path = run_dir
        self.standing = Standing()
        self._logs = LogTail(run_dir / EVENTS), LogTail(run_dir / METRICS)
        self._written: int | None = -1  # when the recipe was that `standing` began with

    def __enter__(self) -> Follower:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for log in self._logs:
            log.close()

    def look(self) -> News:
        """Read on; `standing` is then up to date."""
        events, rows = self._read()
        written = self._recipe_written()
        launched = any(one.get("event") in ("started", "resumed") for one in events or ())
        anew = events is None or rows is None or launched or written != self._written
        if anew:
            for log in self._logs:
                log.close()
            events, rows = self._read()
            self._written = written
            self.standing = Standing.of(self._recipe())
        news = News(events or [], rows or [], anew)
        for row in news.events:
            self.standing = self.standing.heard(row)
        for row in news.rows:
            self.standing = self.standing.stepped(row)
        return news

    @property
    def condition(self) -> Condition:
        """What the run does now, as far as its lock and its events tell."""
        mark = self.standing.mark
        return condition_of(self.path, [dict(mark)] if mark else [])

    @property
    def holder(self) -> Row:
        """What run.lock says: host, pid and start of the process that has the run or had it last."""
        try:
            found = json.loads((self.path / LOCK).read_bytes())
        except (ValueError, OSError):
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def quiet(self) -> float | None:
        """Seconds since a line was written; None where there is none."""
        times = [log.path.stat().st_mtime for log in self._logs if log.path.exists()]
        return max(0.0, time.time() - max(times)) if times else None

    @property
    def stop_asked(self) -> bool:
        """Whether somebody asked the run to stop by its file."""
        return (self.path / "stop").exists()

    def _read(self) -> tuple[list[Row] | None, list[Row] | None]:
        events, metrics = self._logs
        return events.read(), metrics.read()

    def _recipe_written(self) -> int | None:
        try:
            return (self.path / RECIPE).stat().st_mtime_ns
        except OSError:
            return None

    def _recipe(self) -> Recipe | None:
        try:
            return load_recipe(self.path / RECIPE)
        except (ValueError, OSError):
            return None


def follow(run_dir: str | Path) -> Follower:
    """Follow a run in whatever state; ValueError if the folder is no run directory."""
    path = Path(run_dir)
    known = (LOCK, RECIPE, METRICS, EVENTS)
    if not any((path / name).exists() for name in known):
        raise ValueError(
            f"{path} is no run directory: a folder with {', '.join(known[:-1])} or {EVENTS} is required, such as runs/NAME. "
            "A run makes its own soon after its start"
        )
    return Follower(path)
