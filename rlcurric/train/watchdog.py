"""A thread on every rank that looks at the clock, at the other ranks' notices and at the host's memory.

It ends the process where the main thread cannot: in a phase that lasts too long, or in a collective with a rank that
is gone. Stacks go to `stacks/rank-00000.txt` in the run directory.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import sys
import threading
import time
from typing import Any

from rlcurric.schedules import Progress
from rlcurric.train.board import Board, Notice
from rlcurric.train.hostmemory import ADVICE, HostMemory, read_host_memory
from rlcurric.train.reporter import Reporter
from rlcurric.train.rundir import RunDirectory
from rlcurric.train.stop import StopRequest

POLL = 1.0  # seconds between looks
BACKSTOP = 3.0  # beyond the limit, until the stacks are dumped without the interpreter
LAST_WORDS = 5.0  # for all ranks to dump their stacks
GRACE = 10.0  # for a rank to end by itself after another one did
TEARDOWN = 30.0  # for a rank that failed to close what it has open
MEMORY_EVERY = 5.0


class Watchdog:
    """Knows what the rank does and since when. `beat` at the start of every phase; use as a context manager."""

    def __init__(
        self,
        board: Board,
        reporter: Reporter,
        stop: StopRequest,
        limit: float = 0.0,
        min_memory: float = 0.0,
    ) -> None:
        self.board, self.phase, self.step = board, "start", 0
        self._reporter, self._stop = reporter, stop
        self._limit, self._min_memory = limit, min_memory
        self._directory: RunDirectory | None = None
        self._since = time.monotonic()
        self._memory: HostMemory | None = None
        self._memory_read, self._warned, self._stopping = 0.0, True, False
        self._told_low = False
        self._end_at: float | None = None
        self._notice: Notice | None = None
        self._over = threading.Event()
        self._failed = False  # to look, and said so
        self._recorded = False  # why the job ends
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        self._thread.start()
        self.beat("start")
        return self

    def __exit__(self, *_: object) -> None:
        if self._end_at is None or self.board.world == 1:  # else it sees to it that this rank ends
            self._over.set()
            self._thread.join()
        if self._limit:
            faulthandler.cancel_dump_traceback_later()

    def beat(self, phase: str, progress: Progress | None = None) -> None:
        """A phase begins; one that is over, whether or not it has the same name, starts the clock anew."""
        if progress is not None:
            self.step = progress.step
        self.phase, self._since = phase, time.monotonic()
        if self._limit and self._end_at is None and sys.__stderr__ is not None:
            faulthandler.dump_traceback_later(
                self._limit + BACKSTOP, exit=True, file=sys.__stderr__
            )

    def begin_stage(self, step: int) -> None:
        """A warning of low memory is given once a stage."""
        self._warned, self.step = False, step

    def owns(self, directory: RunDirectory) -> None:
        """The job has locked this run directory: stacks and events may go there."""
        self._directory = directory

    def memory(self) -> dict[str, int]:
        """Metrics of this rank's processes and host."""
        if self._memory is None:
            self._memory = read_host_memory()
        return self._memory.metrics()

    def report(self, kind: str, **detail: Any) -> None:
        """A line in events.jsonl from any rank and thread."""
        if self._directory is not None:
            self._directory.report(kind, self.step, rank=self.board.rank, **detail)

    def record(self, notice: Notice) -> None:
        """Why the job ends, once in events.jsonl; a mistake of the user's is told where the job was started alone."""
        if notice.code != 2 and not self._recorded:
            self._recorded = True
            with contextlib.suppress(OSError):  # a full disk: its own message matters more
                self.report(
                    "rank_failed", failed=notice.rank, phase=notice.phase, reason=notice.reason
                )

    def ends(self, notice: Notice) -> None:
        """This rank is on its way out: what keeps it longer than a while is cut off."""
        if self._notice is None or self._end_at is None:
            self._notice, self._end_at = notice, time.monotonic() + TEARDOWN
            if self._limit:
                faulthandler.cancel_dump_traceback_later()

    def _watch(self) -> None:
        while not self._over.wait(POLL):
            try:
                self._look()
            except (
                Exception
            ) as error:  # a full disk, a process that ended meanwhile: the watch goes on
                if not self._failed:
                    self._failed = True
                    _say(
                        self.board.rank,
                        f"the watchdog could not look: {type(error).__name__}: {error}",
                    )

    def _look(self) -> None:
        self._look_at_board()
        if self._end_at is not None:
            if self.board.world > 1 and time.monotonic() > self._end_at:
                assert self._notice is not None
                _leave(self._notice.code)
            return
        seconds = time.monotonic() - self._since
        if self._limit and seconds > self._limit:
            reason = (
                f"nothing has moved for {seconds:.0f} s in {self.phase!r} (run.watchdog is {self._limit:g}). "
                "If the phase may take so long, raise run.watchdog; the stacks tell where it stands"
            )
            self._hang(self.board.post(Notice("hang", self.board.rank, self.phase, reason)))
        if self._min_memory:
            self._look_at_memory()

    def _look_at_board(self) -> None:
        if self.board.world == 1:
            return
        if self.board.roll_is_called():
            self.board.answer_roll()
        notice = self.board.read()
        if notice is None or self._end_at is not None:
            return
        if notice.kind == "hang":
            self._hang(notice)
        elif notice.rank != self.board.rank:
            self._await_end(notice)

    def _await_end(self, notice: Notice) -> None:
        """Another rank failed: the main thread hears of it from a collective, or is ended here."""
        until = time.monotonic() + GRACE
        while time.monotonic() < until:
            if self._over.wait(0.1) or self._end_at is not None:
                return
        _say(self.board.rank, notice.as_peer())
        _leave(notice.code)

    def _hang(self, notice: Notice) -> None:
        """Stacks of all threads into the run directory, a line to stderr, an event; then the process ends."""
        faulthandler.cancel_dump_traceback_later()
        try:
            self._tell_hang(notice, time.monotonic() - self._since)
            time.sleep(LAST_WORDS if self.board.world > 1 else 0)
        finally:  # also where nothing can be written any more
            _leave(1)

    def _tell_hang(self, notice: Notice, seconds: float) -> None:
        where = "below"
        if self._directory is not None:
            file = self._directory.path / "stacks" / f"rank-{self.board.rank:05d}.txt"
            where = f"in {file}"
            file.parent.mkdir(exist_ok=True)
            with file.open("w", encoding="utf-8") as handle:
                handle.write(f"rank {self.board.rank}, {seconds:.0f} s in {self.phase!r}\n\n")
                handle.flush()
                faulthandler.dump_traceback(handle, all_threads=True)
        mine = (
            notice.reason
            if notice.rank == self.board.rank
            else f"{seconds:.0f} s in {self.phase!r}, {notice.as_peer()}"
        )
        _say(self.board.rank, f"{mine}. The stacks of this rank are {where}")
        if self._directory is None and sys.__stderr__ is not None:
            faulthandler.dump_traceback(sys.__stderr__, all_threads=True)
        self.report("hang", phase=self.phase, seconds=round(seconds, 1))

    def _look_at_memory(self) -> None:
        if time.monotonic() - self._memory_read < MEMORY_EVERY:
            return
        self._memory, self._memory_read = read_host_memory(), time.monotonic()
        mine = {
            "rank": self.board.rank,
            "fraction": self._memory.fraction,
            "text": str(self._memory),
        }
        if self.board.rank:
            low = self._memory.fraction < self._min_memory
            if low or self._told_low:  # also that it is over
                self.board.tell_memory(mine)
            self._told_low = low
            return
        worst: dict[str, Any] = mine
        told = self.board.memory() if self.board.world > 1 else None
        if told is not None and told["fraction"] < worst["fraction"]:
            worst = told
        if worst["fraction"] < self._min_memory:
            self._low(worst)

    def _low(self, worst: dict[str, Any]) -> None:
        text = f"the host of rank {worst['rank']} is short of memory: {worst['text']}"
        if worst["fraction"] < self._min_memory / 2:
            if not self._stopping:
                self._stopping = True
                self._stop.ask(f"{text}. {ADVICE}")
                self._reporter.message(f"the run stops with a checkpoint: {text}. {ADVICE}")
        elif not self._warned:
            self._warned = True
            self.report("low_memory", host_of=worst["rank"], fraction=worst["fraction"])
            self._reporter.message(f"warning: {text}. {ADVICE}")


def _leave(code: int) -> None:
    sys.stdout.flush()
    os._exit(code)


def _say(rank: int, text: str) -> None:
    print(f"rlcurric: rank {rank}: {text}", file=sys.stderr, flush=True)
