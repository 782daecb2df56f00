"""Progress in a terminal: a live view where there is one, plain lines where there is not."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from rlcurric.cli.clock import clock
from rlcurric.cli.view import (
    Look,
    View,
    evaluation_line,
    rates_line,
    stage_line,
    step_line,
)
from rlcurric.recipe.schema import Recipe
from rlcurric.report.following import Follower
from rlcurric.report.standing import Standing

REFRESH = 1  # times a second that a view is drawn: 10 to 20 ms each, in a thread
EVERY = 5.0  # seconds between plain lines on steps
LONG = 10.0  # seconds of one phase after which a plain line says what goes on; then after twice as many, and so on


class Every:
    """Calls `tell` every so many seconds, in a thread. Use as a context manager."""

    def __init__(self, seconds: float, tell: Callable[[], None]) -> None:
        self._seconds, self._tell = seconds, tell
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._repeat, name="progress", daemon=True)

    def __enter__(self) -> Every:
        self._thread.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._over.set()
        self._thread.join()

    def _repeat(self) -> None:
        while not self._over.wait(self._seconds):
            self._tell()


class Doing:
    """What a command does now and for how long: a spinner in a terminal, elsewhere a line every few seconds.

    Use as a context manager, and call it with what goes on.
    """

    def __init__(self, console: Console, every: float = 5.0) -> None:
        self.console = console
        self._every = Every(1.0 if console.is_terminal else every, self._show)
        self._status = console.status("") if console.is_terminal else None
        self._what, self._began = "", time.monotonic()

    def __call__(self, what: str) -> None:
        self._what = what
        if self._status is not None:
            self._show()

    def __enter__(self) -> Doing:
        if self._status is not None:
            self._status.__enter__()
        self._every.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._every.__exit__(*error)
        if self._status is not None:
            self._status.__exit__(None, None, None)

    def _show(self) -> None:
        line = f"{self._what}, {clock(time.monotonic() - self._began)} so far"
        if self._status is not None:
            self._status.update(Text(line))
        elif self._what:
            self.console.print(line, highlight=False, markup=False, soft_wrap=True)


class TerminalReporter:
    """Implements `train.reporter.Reporter` on a rich console. Use as a context manager.

    What the run tells is kept as it comes; a thread draws it once a second, so that no step waits for a terminal.
    """

    def __init__(self, console: Console, recipe: Recipe, run_dir: Path) -> None:
        self.console = console
        self.standing = Standing.of(recipe)
        self._run_dir = run_dir
        self._lock = (
            threading.Lock()
        )  # for those who change `standing`; who draws takes it as it is
        self._live: Live | None = None
        self._phase, self._since, self._due = "", time.monotonic(), LONG
        self._printed = 0.0
        self._plain = Every(1.0, self.tell_if_long)

    def __enter__(self) -> TerminalReporter:
        if not self.console.is_terminal:
            self._plain.__enter__()
        else:
            view = View(self.look)
            self._live = Live(
                view, console=self.console, refresh_per_second=REFRESH, transient=True
            )
            self._live.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if self._live is not None:
            self._live.__exit__(*error)
        else:
            self._plain.__exit__(*error)

    def tell_if_long(self) -> None:
        """One line on a phase that goes on and on."""
        phase, spent = self._phase, time.monotonic() - self._since
        if phase and spent >= self._due:
            self._due = 2 * spent
            self.message(f"{phase}, {clock(spent)} so far")

    def look(self) -> Look:
        """What is to be drawn now."""
        spent = clock(time.monotonic() - self._since)
        return Look(self.standing, f"{self._phase}, {spent}" if self._phase else "", going=True)

    def message(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def stage(
        self, name: str, kind: str, number: int, of: int, steps: int | None, done: int
    ) -> None:
        with self._lock:
            self.standing = self.standing.begun(name, kind, steps, done)
        self.message(stage_line(self.standing))

    def phase(self, name: str) -> None:
        if name.split(",")[0] != self._phase.split(",")[0]:
            self._since, self._due = time.monotonic(), LONG
        self._phase = name

    def event(self, row: Mapping[str, Any]) -> None:
        with self._lock:
            if row["event"] == "resumed":  # the logs are cut back by now, and tell what is left
                with Follower(self._run_dir) as log:
                    log.look()
                    self.standing = log.standing
            else:
                self.standing = self.standing.heard(row)

    def step(self, row: Mapping[str, Any]) -> None:
        with self._lock:
            self.standing = self.standing.stepped(row)
        self._phase = ""
        evaluated = evaluation_line(row)
        if evaluated:
            self.message(evaluated)
        stage = self.standing.stage
        last = stage is not None and stage.steps == stage.planned
        if self._live is None and (time.monotonic() - self._printed > EVERY or last):
            self._printed = time.monotonic()
            for line in filter(None, (step_line(self.standing), rates_line(self.standing))):
                self.message(line)
