"""Inside of a rank: knows the phases that it is in, and kills at the planned moment of one.

Nothing of the run is changed: functions are wrapped, so that their beginning and end are known. A kill is a real signal,
sent by a thread of the rank or between two lines of the phase itself, since from outside nobody can aim at a millisecond.
"""

from __future__ import annotations

import functools
import json
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import psutil

from tests.chaos.plan import STEPPED, VARIABLE, Plan, Strike

DIRECTIVES = {
    "Generate": "rollout",
    "Update": "update",
    "Sync": "sync",
    "Evaluate": "evaluate",
    "Save": "save: copy",
}
_ENGINE = ("rollout", "evaluate", "sync")


class _Lines:
    """A tracer: calls `strike` at the nth line that this thread executes."""

    def __init__(self, line: int | None, strike: Callable[[], None]) -> None:
        self.count = 0
        self._line, self._strike = line, strike

    def __call__(self, frame: FrameType, event: str, _: Any) -> Any:
        if frame.f_code.co_filename == __file__:
            return None
        if event == "line":
            self.count += 1
            if self.count == self._line:
                self._strike()
        return self


class Inside:
    """The phases of this rank, and what is to strike in them."""

    def __init__(self, plan: Plan, rank: int) -> None:
        self._plan, self._rank = plan, rank
        self._waiting = [one for one in plan.strikes if one.rank == rank]
        self._active: list[str] = []  # of all threads
        self._entries: Counter[str] = Counter()
        self._looks: Counter[str] = Counter()
        self._lock = threading.RLock()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """What runs inside is this phase."""
        due = self._enter(name)
        lined = next((one for one in due if one.line is not None), None)
        for strike in due:
            if strike is not lined:
                self._later(strike)
        tracer, before = None, sys.gettrace()
        if lined is not None or (self._plan.measure and name in STEPPED):
            line = None if lined is None else lined.line
            tracer = _Lines(line, lambda: self._fire(lined) if lined else None)
            sys.settrace(tracer)
        started = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - started
            if tracer is not None:
                sys.settrace(before)
            with self._lock:
                self._active.remove(name)
                if lined is not None and tracer is not None and tracer.count < (lined.line or 0):
                    again = 1 + ((lined.line or 1) - 1) % max(tracer.count, 1)
                    self._waiting.append(replace(lined, line=again))
            if self._plan.measure:
                lines = tracer.count if tracer else None
                self._write({"phase": name, "seconds": seconds, "lines": lines})

    def _enter(self, name: str) -> list[Strike]:
        with self._lock:
            self._active.append(name)
            self._entries[name] += 1
            due = [
                one
                for one in self._waiting
                if one.phase == name
                and one.kind not in ("engine", "worker")
                and one.entry <= self._entries[name]
            ]
            self._waiting = [one for one in self._waiting if one not in due]
        return due

    def _later(self, strike: Strike) -> None:
        def wait() -> None:
            assert strike.delay is not None
            time.sleep(strike.delay)
            with self._lock:
                if strike.phase not in self._active:  # it was shorter: the next one
                    self._waiting.append(replace(strike, delay=strike.delay / 2))
                    return
                self._fire(strike)

        threading.Thread(target=wait, name="chaos", daemon=True).start()

    def dies(self) -> bool:
        """Asked before every call and after every sample of the engine: whether it is to die now."""
        with self._lock:
            phase = next((one for one in reversed(self._active) if one in _ENGINE), "probe")
            self._looks[phase] += 1
            due = [
                one
                for one in self._waiting
                if one.kind == "engine"
                and one.phase == phase
                and (one.line or 0) <= self._looks[phase]
            ]
            if due:
                self._waiting.remove(due[0])
                self._tell(due[0])
        return bool(due)

    def judging(self, worker: Any) -> None:
        """A worker was given a call."""
        with self._lock:
            self._entries["judging"] += 1
            due = [
                one
                for one in self._waiting
                if one.kind == "worker" and one.entry <= self._entries["judging"]
            ]
            if not due:
                return
            self._waiting.remove(due[0])
        call = worker.call

        def wait() -> None:
            assert due[0].delay is not None
            time.sleep(due[0].delay)
            if worker.call is not call:  # it was through with it: the next one
                with self._lock:
                    self._waiting.append(replace(due[0], delay=due[0].delay / 2))
                return
            process = psutil.Process(worker.process.pid)
            victims = [process, *process.children(recursive=True)]
            self._tell(due[0])
            random.Random(due[0].delay).choice(victims).kill()

        threading.Thread(target=wait, name="chaos", daemon=True).start()

    def _fire(self, strike: Strike) -> None:
        me = psutil.Process()
        above = me.parents()
        driver = next(k for k, one in enumerate(above) if one.pid == self._plan.driver)
        root = above[driver - 1] if driver else me
        victims = [root, *root.children(recursive=True)] if strike.kind == "all" else []
        self._tell(strike)
        if strike.kind == "rank":
            os.kill(me.pid, signal.SIGKILL)
        for victim in victims:
            if victim != me:
                victim.kill()
        if strike.kind == "all":
            os.kill(me.pid, signal.SIGKILL)
        if strike.kind == "launcher":
            os.kill(root.pid, signal.SIGKILL)
        if strike.kind == "sigterm":
            os.kill(root.pid, signal.SIGTERM)
        if strike.kind == "sigterm_rank":
            os.kill(me.pid, signal.SIGTERM)
        if strike.kind == "stop":
            Path(self._plan.run_dir, "stop").touch()

    def _tell(self, strike: Strike) -> None:
        words = {"kind": strike.kind, "phase": strike.phase, "rank": self._rank}
        self._write({"strike": {**words, "active": list(self._active)}})

    def _write(self, words: dict[str, Any]) -> None:
        handle = os.open(self._plan.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.write(handle, (json.dumps(words) + "\n").encode())
        os.close(handle)


@functools.cache
def install() -> None:
    """Wrap what the phases are."""
    inside = Inside(Plan.read(Path(os.environ[VARIABLE])), int(os.environ.get("RANK", "0")))
    _wrap_steps(inside)
    _wrap_saves(inside)
    _wrap_workers(inside)
    _wrap_engines(inside)


def _within(inside: Inside, owner: Any, name: str, phase: str | Callable[..., str | None]) -> None:
    """Calls of `owner.name` are the phase; a function of the arguments may say which, or none."""
    original = getattr(owner, name)

    @functools.wraps(original)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        which = phase if isinstance(phase, str) else phase(*args, **kwargs)
        if which is None:
            return original(*args, **kwargs)
        with inside.phase(which):
            return original(*args, **kwargs)

    setattr(owner, name, wrapped)


def _wrap_steps(inside: Inside) -> None:
    from rlcurric.rewards.grading import Grading
    from rlcurric.train import session, stages
    from rlcurric.train.worker import RlWorker

    _within(inside, session._Session, "_open", "resume")
    _within(inside, RlWorker, "_obey", lambda _, said: DIRECTIVES.get(type(said).__name__))
    _within(inside, Grading, "finish", "grade")
    run_rl, conduct = stages.run_rl, stages.conduct
    changing: list[Any] = []

    def begun(run: Any, stage: Any, state: Any) -> Any:
        if state.step and not state.stage_step:
            changing.append(inside.phase("stage change"))
            changing[0].__enter__()
        return run_rl(run, stage, state)

    def led(*args: Any) -> Any:
        if changing:
            changing.pop().__exit__(None, None, None)
        return conduct(*args)

    stages.run_rl, stages.conduct = begun, led


def _wrap_saves(inside: Inside) -> None:
    from rlcurric.train import checkpoint, saving
    from rlcurric.train.checkpoint import CheckpointStore

    _within(inside, saving, "write_safetensors", "save: write")
    _within(inside, saving, "digest_of", "save: verify")
    _within(inside, CheckpointStore, "commit", "save: commit")
    _within(inside, CheckpointStore, "_prune", "save: prune")
    _within(inside, checkpoint, "_remove", "save: prune")


def _wrap_workers(inside: Inside) -> None:
    from rlcurric.rewards.process import WorkerProcess

    send = WorkerProcess.send

    def sent(self: Any, message: bytes) -> None:
        send(self, message)
        if self.ready:
            inside.judging(self)

    WorkerProcess.send = sent  # type: ignore[method-assign]


def _wrap_engines(inside: Inside) -> None:
    from rlcurric.errors import EngineLost
    from rlcurric.rollout.torch_engine import TorchEngine
    from rlcurric.rollout.vllm_engine import VllmEngine
    from rlcurric.train.engines import Engines

    dead: list[Any] = []
    restart = Engines.restart

    def look(engine: Any) -> None:
        """The torch engine is part of the rank: all that it can do is to say so. vLLM's core is shut down under it."""
        if inside.dies():
            if isinstance(engine, VllmEngine):
                engine._llm.llm_engine.engine_core.shutdown()
            else:
                dead.append(engine)
        if engine in dead:
            raise EngineLost("it was killed")

    def restarted(self: Any) -> Any:
        dead.clear()
        return restart(self)

    for kind, stream in ((TorchEngine, "stream"), (VllmEngine, "_stream")):
        _looked_at(kind, stream, look)
    Engines.restart = restarted  # type: ignore[method-assign]


def _looked_at(kind: Any, stream: str, look: Callable[[Any], None]) -> None:
    sync, original = kind.sync, getattr(kind, stream)

    def synced(self: Any, *args: Any) -> None:
        look(self)
        sync(self, *args)

    def streamed(self: Any, *args: Any) -> Iterator[Any]:
        for found in original(self, *args):
            look(self)
            yield found

    kind.sync = synced
    setattr(kind, stream, streamed)
