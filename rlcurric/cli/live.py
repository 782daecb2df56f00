"""Progress in a terminal: a live view where there is one, plain lines where there is not."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rlcurric.cli.clock import clock


def _by_distribution(row: Mapping[str, Any], prefix: str) -> dict[str, float]:
    return {key.removeprefix(prefix): value for key, value in row.items() if key.startswith(prefix)}


class Doing:
    """What a command does now and for how long: a spinner in a terminal, elsewhere a line every few seconds.

    Use as a context manager, and call it with what goes on.
    """

    def __init__(self, console: Console, every: float = 5.0) -> None:
        self.console = console
        self._every = 1.0 if console.is_terminal else every  # seconds
        self._status = console.status("") if console.is_terminal else None
        self._what, self._began = "", time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._repeat, name="progress", daemon=True)

    def __call__(self, what: str) -> None:
        self._what = what
        if self._status is not None:
            self._show()

    def __enter__(self) -> Doing:
        if self._status is not None:
            self._status.__enter__()
        self._thread.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._over.set()
        self._thread.join()
        if self._status is not None:
            self._status.__exit__(None, None, None)

    def _repeat(self) -> None:
        while not self._over.wait(self._every):
            self._show()

    def _show(self) -> None:
        line = f"{self._what}, {clock(time.monotonic() - self._began)} so far"
        if self._status is not None:
            self._status.update(Text(line))
        elif self._what:
            self.console.print(line, highlight=False, markup=False, soft_wrap=True)


class Pace:
    """Time left in a stage from the mean time of its steps so far; what comes before a first step is not among it."""

    def __init__(self, steps: int | None, done: int) -> None:
        self.steps, self.done = steps, done
        self._seconds, self._timed = 0.0, 0

    def step(self, done: int, seconds: float) -> None:
        """A step ended, which took so long."""
        self.done = done
        self._seconds += seconds
        self._timed += 1

    def left(self) -> str | None:
        """None where no step has ended yet, or where nobody knows how many there will be."""
        if not self._timed or self.steps is None:
            return None
        return clock(self._seconds / self._timed * (self.steps - self.done))


class TerminalReporter:
    """Implements `train.reporter.Reporter` on a rich console. Use as a context manager."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._live: Live | None = None
        self._stage = ""
        self._pace = Pace(0, 0)
        self._phase = ""
        self._row: Mapping[str, Any] = {}
        self._rates: dict[str, float] = {}  # each distribution's pass rate when it was last sampled
        self._printed = 0.0

    def __enter__(self) -> TerminalReporter:
        if self.console.is_terminal:
            self._live = Live(console=self.console, refresh_per_second=4, transient=True)
            self._live.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if self._live is not None:
            self._live.__exit__(*error)

    def message(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def stage(
        self, name: str, kind: str, number: int, of: int, steps: int | None, done: int
    ) -> None:
        self._stage = f"stage {number}/{of} {name} ({kind})"
        self._pace, self._row, self._rates = Pace(steps, done), {}, {}
        planned = ([f"{steps} steps"] if steps is not None else []) + (
            [f"{done} steps done" if steps is None else f"{done} done"] if done else []
        )
        self.message(": ".join(filter(None, (self._stage, ", ".join(planned)))))

    def phase(self, name: str) -> None:
        self._phase = name
        self._draw()

    def step(self, row: Mapping[str, Any]) -> None:
        self._row = row
        self._rates |= _by_distribution(row, "curriculum/pass_rate/")
        order = list(_by_distribution(row, "curriculum/probability/"))  # that of the recipe
        self._rates = {name: self._rates[name] for name in order if name in self._rates}
        self._pace.step(row["stage_step"], row["time/step/s"])
        if "eval/accuracy/mean" in row:
            self.message(
                f"step {row['step']}: held-out accuracy {row['eval/accuracy/mean']:.3f}, "
                f"mean length {row['eval/length/mean']:.1f} tokens"
            )
        last = self._pace.done == self._pace.steps
        if self._live is None and (time.monotonic() - self._printed > 5 or last):
            self._printed = time.monotonic()
            self.message(self._line())
            if self._rates:
                rates = "  ".join(f"{name} {rate:.2f}" for name, rate in self._rates.items())
                self.message(f"  pass rates: {rates}")
        self._draw()

    def _line(self) -> str:
        """One step in one line."""
        if not self._stage:
            return ""
        row = self._row
        of = "" if self._pace.steps is None else f"/{self._pace.steps}"
        parts = [f"{self._stage} step {self._pace.done}{of}"]
        for label, key, form in (
            ("loss", "loss/sft/mean", ".3f"),
            ("reward", "reward/total/mean", ".3f"),
            ("correct", "reward/correct/mean", ".3f"),
            ("length", "length/completion/mean", ".1f"),
            ("tokens/s", "throughput/generated/tokens_per_s", ".0f"),
        ):
            if row.get(key) is not None:
                parts.append(f"{label} {row[key]:{form}}")
        left = self._pace.left()
        if left is not None:
            parts.append(f"left {left}")
        return "  ".join(parts)

    def _draw(self) -> None:
        if self._live is None:
            return
        head = Text("  ".join(filter(None, (self._line(), f"[{self._phase}]"))))
        if not self._stage:  # nothing is known of steps yet
            self._live.update(head)
            return
        total = None if self._pace.steps is None else max(1, self._pace.steps)
        bar = ProgressBar(total=total, completed=self._pace.done, width=60, pulse=total is None)
        table = Table("distribution", "probability", "pass rate", box=None, pad_edge=False)
        for name, share in _by_distribution(self._row, "curriculum/probability/").items():
            rate = self._rates.get(name)
            table.add_row(name, f"{share:.2f}", "-" if rate is None else f"{rate:.2f}")
        self._live.update(Group(head, bar, table))
