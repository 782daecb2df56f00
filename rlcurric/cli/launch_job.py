"""Watches the ranks of one machine: passes a request to stop on, waits, ends what does not end, says what happened."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import psutil

from rlcurric.ending import VARIABLE
from rlcurric.rewards.sandbox.kernel import adopt_orphans

KILL_AFTER = 30.0  # seconds between SIGTERM and SIGKILL; torchrun's own, too
LEFTOVERS = 3.0  # seconds for what ranks leave behind to end by itself
KILLED = 10.0  # seconds for a process to be gone after SIGKILL
_POLL = 0.1
_REAP_EVERY = 5.0
_STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


def say(text: str) -> None:
    """A line of the launcher's own, beside what the ranks print."""
    print(f"rlcurric: {text}", file=sys.stderr, flush=True)


@dataclass
class Requests:
    """Signals that came in."""

    stop: str | None = None  # name of the first
    kill: bool = False  # Ctrl-C a second time: out at once

    def receive(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT and self.stop is not None:
            self.kill = True
        self.stop = self.stop or signal.Signals(number).name


@contextlib.contextmanager
def listening() -> Iterator[Requests]:
    """Signals of a stop are collected, not obeyed."""
    requests = Requests()
    old: dict[int, Any] = {number: signal.signal(number, requests.receive) for number in _STOPS}
    try:
        yield requests
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


class Job:
    """The ranks of this machine. They are in sessions of their own: a signal of the terminal does not reach them."""

    def __init__(
        self,
        arguments: Sequence[str],
        env: dict[str, str],
        gpus: int,
        status_file: Path,
        lock: int,
    ) -> None:
        """`lock`: handle of the lock on the folder of `status_file`; what starts the ranks holds it too."""
        self._arguments, self._env, self._lock = arguments, env, lock
        self._gpus, self.status_file = gpus, status_file
        self._stop_file: Path | None = None
        self._reaped = time.monotonic()
        self._refused = False
        self._touched = False  # the stop file
        self._others = set(psutil.Process().children())  # not of this job

    def run(self, requests: Requests, stop_file: Path | None, grace: float) -> str | None:
        """Start, watch, clear up. None if the ranks ended by themselves, else how the launcher ended them.

        A request to stop becomes `stop_file`, which is there until the ranks have ended; without one (nothing to save)
        they are ended at once.
        """
        adopt_orphans()  # also what a rank that was killed leaves behind is then found among our children
        self._stop_file = stop_file
        program = [sys.executable, "-m", "rlcurric.train.spawn", str(self.status_file)]
        self._process = subprocess.Popen(
            [*program, str(self._gpus), *self._arguments],
            env={**os.environ, **self._env, VARIABLE: str(self.status_file)},
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=(self._lock,),
        )
        try:
            return self._watch(requests, grace)
        finally:
            self._clear()
            if stop_file is not None and self._touched:
                stop_file.unlink(missing_ok=True)

    def _watch(self, requests: Requests, grace: float) -> str | None:
        told = False
        deadline = float("inf")
        while self._runs():
            if requests.kill:
                say("interrupted twice: the ranks are killed")
                return "interrupted"
            if requests.stop is not None:
                if not told:
                    told, deadline = True, time.monotonic() + self._asked(requests.stop, grace)
                self._keep_stop_file()
            if time.monotonic() > deadline:
                return self._terminate(requests)
        return None

    def _asked(self, name: str, grace: float) -> float:
        """Say what a request leads to; the seconds that are left."""
        if self._stop_file is None:
            say(f"{name}: the ranks are ended")
            return 0.0
        say(
            f"{name}: asked the run to stop ({self._stop_file}); it ends its step and writes a checkpoint. Waiting at most "
            f"{grace:.0f} s (--stop-grace). Ctrl-C again kills it."
        )
        return grace

    def _keep_stop_file(self) -> None:
        """Kept fresh: a run that begins removes one that is older than itself."""
        if self._stop_file is None or not self._stop_file.parent.is_dir():
            return
        try:
            self._stop_file.touch()
            self._touched = True
        except OSError as error:
            if not self._refused:
                say(
                    f"{self._stop_file} cannot be written ({error.strerror}): the run does not hear of the stop"
                )
            self._refused = True

    def _terminate(self, requests: Requests) -> str:
        """SIGTERM to torchrun, which passes it on to the ranks; what does not end is killed afterwards."""
        if self._stop_file is not None:
            say(f"the run has not stopped in time: SIGTERM, and SIGKILL {KILL_AFTER:.0f} s later")
        self._process.terminate()
        until = time.monotonic() + KILL_AFTER
        while time.monotonic() < until and not requests.kill:
            if not self._runs():
                break
        return "it did not stop in time"

    def _runs(self) -> bool:
        """Wait a moment."""
        if time.monotonic() - self._reaped > _REAP_EVERY:
            self._reap()
        try:
            self._process.wait(_POLL)
        except subprocess.TimeoutExpired:
            return True
        return False

    def _reap(self) -> None:
        """Bury orphans that ended: for as long as the job runs there is nobody else to do it."""
        self._reaped = time.monotonic()
        for child in psutil.Process().children():
            with contextlib.suppress(psutil.NoSuchProcess, ChildProcessError):
                if child.pid == self._process.pid or child in self._others:
                    continue
                if child.status() == psutil.STATUS_ZOMBIE:
                    os.waitpid(child.pid, os.WNOHANG)

    def _clear(self) -> None:
        """End whatever is left of the job: ranks, engines, reward workers."""
        patience = 0.0 if self._process.poll() is None else LEFTOVERS
        until = time.monotonic() + patience
        while (left := self._left()) and time.monotonic() < until:
            time.sleep(_POLL)
        until = time.monotonic() + KILLED
        while left and time.monotonic() < until:
            for child in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()
            time.sleep(_POLL)
            left = self._left()
        if left:
            say(f"these processes do not die: {', '.join(str(child.pid) for child in left)}")

    def _left(self) -> list[psutil.Process]:
        self._process.poll()
        self._reap()
        return [
            child
            for child in psutil.Process().children(recursive=True)
            if child not in self._others and _status(child) != psutil.STATUS_ZOMBIE
        ]


def _status(process: psutil.Process) -> str:
    try:
        status: str = process.status()
    except psutil.NoSuchProcess:
        return str(psutil.STATUS_ZOMBIE)
    return status
