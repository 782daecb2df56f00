"""How a launch ended: what to say first, and the exit code."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlcurric.ending import STOPPED, Ending, endings
from rlcurric.train.checkpoint import CheckpointStore
from rlcurric.train.rundir import EVENTS
from rlcurric.train.spawn import Failure, Spawned, read_spawned

PATIENCE = (
    20.0  # seconds until what rank 0 wrote on another machine is seen through a shared file system
)
_MARKS = ("started", "resumed", "stopped", "done")
_OWN_DEATH = (signal.SIGKILL, signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE)
_LIKELY = {
    signal.SIGKILL: "by hand, by a job manager, or by the kernel because host memory ran out (dmesg tells)",
    signal.SIGSEGV: "a crash inside a library",
    signal.SIGBUS: "often shared memory that is full (/dev/shm)",
    signal.SIGABRT: "a library gave up: its last words are above",
}
_SHOWN = 3  # later failures that are named beside the first


@dataclass(frozen=True)
class Mark:
    """The events of a run before a launch, so that those of this launch are known."""

    run_dir: Path
    offset: int  # bytes of events.jsonl

    @classmethod
    def of(cls, run_dir: Path) -> Mark:
        file = run_dir / EVENTS
        return cls(run_dir, file.stat().st_size if file.exists() else 0)

    def status(self) -> str | None:
        """What the run directory says of this launch: "done", "stopped" (with a checkpoint of that step), or None."""
        file = self.run_dir / EVENTS
        if not file.exists():
            return None
        with file.open("rb") as handle:
            handle.seek(self.offset)
            lines = handle.read().split(b"\n")[:-1]
        known = [event for event in map(_event, lines) if event.get("event") in _MARKS]
        if not known or known[-1]["event"] not in ("stopped", "done"):
            return None
        if known[-1]["event"] == "done":
            return "done"
        return "stopped" if self.step() == known[-1]["step"] else None

    def step(self) -> int | None:
        """Of the newest checkpoint."""
        checkpoints = CheckpointStore(self.run_dir / "checkpoints", 1).all()
        return checkpoints[-1].step if checkpoints else None


def _event(line: bytes) -> dict[str, Any]:
    try:
        event = json.loads(line)
    except ValueError:  # a line that a crash cut short
        return {}
    return event if isinstance(event, dict) else {}


def verdict(
    status_file: Path, mark: Mark | None, ended: str | None, say: Callable[[str], None]
) -> int:
    """Say what went wrong, the first cause first; the exit code.

    `mark`: of a training run. `ended`: how the launcher ended the ranks, if it did.
    """
    spawned, told = read_spawned(status_file), endings(status_file)
    status = _status(mark, told)
    failed = spawned is None or spawned != Spawned()
    code = 1
    if status == "stopped":
        code = STOPPED
    elif status == "done" or (not failed and ended is None and not _stopped(told)):
        code = 0
    if not failed and code != 1:
        return code
    cause = _tell(spawned, told, ended, say)
    if code == STOPPED:
        say("the run had stopped with a checkpoint before that")
    elif code == 0:
        say("the run was done before that")
    else:
        code = cause
        step = mark.step() if mark is not None else None
        if code != 2 and step is not None:
            say(f"the same command goes on from the checkpoint of step {step}")
    return code


def _status(mark: Mark | None, told: list[Ending]) -> str | None:
    """As the run directory says; where a rank here says that it stopped, the directory gets time to show it."""
    if mark is None:
        return None
    until = time.monotonic() + (PATIENCE if _stopped(told) else 0.0)
    while (status := mark.status()) is None and time.monotonic() < until:
        time.sleep(0.5)
    return status


def _stopped(told: list[Ending]) -> bool:
    return any(ending.code == STOPPED for ending in told)


def _tell(
    spawned: Spawned | None, told: list[Ending], ended: str | None, say: Callable[[str], None]
) -> int:
    """Why the ranks ended, and the exit code that follows from it."""
    if ended is not None:
        say(f"the ranks were ended: {ended}")
        return 1
    if spawned is None:
        say("the process that starts the ranks was killed, and the ranks with it")
        return 1
    if spawned.mistake or spawned.error:
        say(spawned.mistake or spawned.error)
        return 2 if spawned.mistake else 1
    killed = [one for one in spawned.failures if _signal(one) in _OWN_DEATH]
    wrong = [ending for ending in told if ending.code not in (0, STOPPED)]
    if killed:
        for one in killed:
            say(_obituary(one))
        _tell_rest(wrong, say)
        return 1
    if wrong:
        first, *rest = wrong
        if not first.told:
            alone = not any(one.rank == 0 and one.message == first.message for one in wrong)
            _tell_first(first, alone, say)
        _tell_rest([one for one in rest if one.message != first.message], say)
        return first.code
    for one in spawned.failures:
        say(_obituary(one))
    if not spawned.failures:
        say(
            "the run stopped, but its directory does not hold a checkpoint of the step at which it did"
        )
    return 2 if any(one.exitcode == 2 for one in spawned.failures) else 1


def _tell_first(ending: Ending, alone: bool, say: Callable[[str], None]) -> None:
    where = f"rank {ending.rank}: " if alone else ""
    say(f"{where}{ending.message}")
    if ending.detail:
        say(f"where it failed on rank {ending.rank}:\n{ending.detail.rstrip()}")


def _tell_rest(rest: list[Ending], say: Callable[[str], None]) -> None:
    for ending in rest[:_SHOWN]:
        if not ending.told:
            line = ending.message.strip().partition("\n")[0][:300]
            say(f"rank {ending.rank} ended after it: {line}")
    if len(rest) > _SHOWN:
        say(f"and {len(rest) - _SHOWN} more")


def _obituary(failure: Failure) -> str:
    pid = f" (pid {failure.pid})" if failure.pid is not None else ""
    number = _signal(failure)
    if number is None:
        return f"rank {failure.rank}{pid} ended with exit code {failure.exitcode}"
    likely = f": {_LIKELY[number]}" if number in _LIKELY else ""
    return f"rank {failure.rank}{pid} was killed by {number.name}{likely}"


def _signal(failure: Failure) -> signal.Signals | None:
    known = {int(one) for one in signal.Signals}
    number = -failure.exitcode
    return signal.Signals(number) if number in known else None
