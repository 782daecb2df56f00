"""`rlcurric watch`: a run that another process has, by its directory."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.live import Live

from rlcurric.cli.clock import clock
from rlcurric.cli.console import make_console
from rlcurric.cli.live import REFRESH
from rlcurric.cli.view import (
    WARNINGS,
    Look,
    View,
    draw,
    evaluation_line,
    rates_line,
    stage_line,
    step_line,
    warning_line,
)
from rlcurric.ending import STOPPED
from rlcurric.report.following import Follower, News, follow
from rlcurric.report.recorded import Condition
from rlcurric.report.standing import Standing

POLL = 1.0  # seconds between looks at the logs
SILENT = 600.0  # seconds without a line after which a run on another host is perhaps dead
PACES = 5.0  # and so many times what its steps take


WHOLE = 10_000  # lines: nothing is cut


def run_watch(run_dir: Path, once: bool) -> int:
    """Show a run until it ends. The exit code is that of the run; 0 after one look, or where Ctrl-C ended it."""
    console = make_console()
    with follow(run_dir) as run:
        try:
            if once:
                console.print(draw(seen(run)[0], WHOLE))
                return 0
            return _show(run, console) if console.is_terminal else _tell(run, console)
        except KeyboardInterrupt:
            return 0


def seen(run: Follower) -> tuple[Look, News]:
    """Read on: what is to be drawn now, and what of it is new."""
    alive = run.condition == "running"  # asked first: what a run wrote before its end is read then
    news = run.look()
    condition = run.condition
    going = alive or condition in ("running", "unknown")
    return Look(run.standing, _in_words(run, "running" if alive else condition), going), news


def _show(run: Follower, console: Console) -> int:
    """The view, drawn until the run ends, and left as it was then."""
    look, _ = seen(run)
    live = Live(
        View(lambda: look), console=console, refresh_per_second=REFRESH, vertical_overflow="crop"
    )
    old = signal.signal(signal.SIGTERM, signal.default_int_handler)  # else the cursor stays hidden
    try:
        live.start(refresh=True)
        while look.going:
            time.sleep(POLL)
            look, _ = seen(run)
    finally:  # also of an interrupt within the start
        live.stop()
        signal.signal(signal.SIGTERM, old)
    return _exit_code(run.condition)


def _tell(run: Follower, console: Console) -> int:
    """Plain lines: where the run stands, then every step as it comes, and how it ended."""
    while True:
        before = run.standing
        look, news = seen(run)
        lines = _present(look.standing) if news.anew else _since(before, news)
        for line in filter(None, lines):
            console.print(line, highlight=False, markup=False, soft_wrap=True)
        if news.anew and run.condition == "unknown":  # else a pipe would wait without a word
            console.print(look.doing, highlight=False, markup=False, soft_wrap=True)
        if not look.going:
            console.print(look.doing, highlight=False, markup=False, soft_wrap=True)
            return _exit_code(run.condition)
        time.sleep(POLL)


def _present(standing: Standing) -> Iterator[str]:
    """Where a run stands, in lines."""
    yield stage_line(standing)
    if standing.row:
        yield step_line(standing)
        yield rates_line(standing)
    yield from (f"warning: {warning_line(one)}" for one in standing.warnings[-WARNINGS:])


def _since(standing: Standing, news: News) -> Iterator[str]:
    """What is new, in lines: a step's before the events that follow it."""
    found = [*((row, False) for row in news.rows), *((row, True) for row in news.events)]
    for row, is_event in sorted(found, key=lambda one: one[0]["step"]):
        if is_event:
            known, standing = standing.warnings, standing.heard(row)
            if row.get("event") == "stage_started":
                yield stage_line(standing)
            elif standing.warnings is not known:
                yield f"warning: {warning_line(standing.warnings[-1])}"
        else:
            standing = standing.stepped(row)
            yield step_line(standing)
            yield rates_line(standing)
            yield evaluation_line(row)


def _in_words(run: Follower, condition: Condition) -> str:
    """What the run does now, and since when nothing was written."""
    mark, quiet = run.standing.mark or {}, run.quiet
    ago = "" if quiet is None else f", last line {clock(quiet)} ago"
    host = run.holder.get("host", "another host")
    match condition:
        case "running" if run.stop_asked:
            return f"stopping, as the file stop asks{ago}"
        case "running":
            return f"running, pid {run.holder.get('pid')}{ago}"
        case "finished":
            return "finished"
        case "stopped":
            return f"stopped after step {mark.get('step')}: {mark.get('reason')}"
        case "failed":
            return (
                f"failed after step {run.standing.step}: {mark.get('reason') or mark.get('phase')}"
            )
        case "ended":
            return f"dead: its process is gone without a word{ago}"
        case "unknown":
            return f"not on this machine but on {host}{ago}{_doubt(run.standing, quiet)}"


def _doubt(standing: Standing, quiet: float | None) -> str:
    pace = standing.stage.pace if standing.stage else None
    limit = max(SILENT, PACES * (pace or 0.0))
    return ", perhaps dead" if quiet is not None and quiet > limit else ""


def _exit_code(condition: Condition) -> int:
    return {"finished": 0, "stopped": STOPPED}.get(condition, 1)
