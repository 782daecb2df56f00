"""Rewards that run in the trainer's own process: arithmetic (`inline`), and those that call a server (`service`)."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import threading
from collections import defaultdict
from collections.abc import Awaitable, Callable
from concurrent.futures import CancelledError, Future, InvalidStateError
from typing import Any, TypeVar

from rlcurric.errors import RunError
from rlcurric.rewards.calling import (
    ScoreCountError,
    TrainerState,
    Verdicts,
    described,
    finish,
    invoke,
)
from rlcurric.rewards.calls import Ask, Call, Job
from rlcurric.types import Score, Status

T = TypeVar("T")
GRACE_SECONDS = (
    5.0  # beyond its deadline, until a call that the event loop should have ended is given up
)


class ClosedError(RunError):
    """Nobody asks services any more: the run is at its end."""


class Host:
    """Calls them, from whichever thread asks.

    A sync function is called by one thread at a time. Async ones share one event loop, which serves several groups at
    once. A service that does not come back within its deadline is given up: its samples are timed out.
    """

    def __init__(self, deadline: float = 600.0) -> None:
        self._deadline = deadline  # seconds of one call of a service
        self._locks: dict[str, threading.Lock] = defaultdict(threading.Lock)
        self._guard = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: set[Future[Any]] = set()
        self._closed = False

    def close(self) -> None:
        """End the event loop. Whoever still waits for a service is told."""
        with self._guard:
            loop, self._loop, self._closed = self._loop, None, True
            waiting = list(self._waiting)
        for one in waiting:
            one.cancel()
        if loop is not None:
            asyncio.run_coroutine_threadsafe(_wind_up(), loop)

    def ask(self, asked: Ask) -> Verdicts:
        """Score every completion. What raises is an error of its call; a sample-scoped call is repeated one by one."""
        job = Job(asked)
        waiting = list(job.calls)
        while waiting:
            call = waiting.pop(0)
            found = self._judged(call)
            if found is None:
                waiting = [*call.split(), *waiting]
            else:
                job.enter(call, found)
        return job.verdicts()

    def _judged(self, call: Call) -> Verdicts | None:
        """The verdicts of one call; None where its samples are to be scored one by one."""
        try:
            return self._called(call)
        except TimeoutError as error:
            detail = str(error) or f"no answer within {self._deadline:g} s"
            status = Status.TIMEOUT
        except ClosedError:
            raise
        except (Exception, SystemExit) as error:
            if call.splittable and not isinstance(error, ScoreCountError):
                return None
            detail, status = described(error, call.job.asked.reward.source), Status.ERROR
        return Verdicts((Score(None, status, detail),) * len(call.slots))

    def _called(self, call: Call) -> Verdicts:
        asked, request = call.job.asked, call.request(0, "")
        state = TrainerState(**request["state"])
        handed = (asked.reward.function, request["prompts"], request["completions"])

        def run() -> Verdicts:
            return invoke(*handed, request["columns"], state, self._wait)

        if inspect.iscoroutinefunction(asked.reward.function):
            return run()
        with self._lock(asked.name):
            if asked.reward.where == "inline":
                return run()
            return self._result(_started(run), self._deadline)

    def _lock(self, name: str) -> threading.Lock:
        with self._guard:
            return self._locks[name]

    def _wait(self, result: Awaitable[Any]) -> Any:
        """What an awaitable gives, on the loop that all async rewards share.

        A function that blocks the loop instead of waiting for its server takes it along: the next one gets a new loop.
        """
        with self._guard:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(
                    target=_run, args=(self._loop,), name="async rewards", daemon=True
                ).start()
            loop = self._loop
        waiting = asyncio.wait_for(finish(result), self._deadline)
        future = asyncio.run_coroutine_threadsafe(waiting, loop)
        try:
            return self._result(future, self._deadline + GRACE_SECONDS)
        except TimeoutError:
            with self._guard:
                if not future.done() and self._loop is loop:
                    self._loop = None
            raise

    def _result(self, future: Future[T], seconds: float) -> T:
        """What the future gives within the time: else TimeoutError, or ClosedError where this is closed meanwhile."""
        with self._guard:
            if self._closed:
                future.cancel()
            self._waiting.add(future)
        try:
            return future.result(seconds)
        except CancelledError:
            if self._closed:
                raise ClosedError("the reward services were closed") from None
            raise
        finally:
            with self._guard:
                self._waiting.discard(future)


async def _wind_up() -> None:
    """Let every other task of this loop end, then the loop."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    asyncio.get_running_loop().stop()


def _run(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
    finally:
        loop.close()


def _started(run: Callable[[], T]) -> Future[T]:
    """What `run` will give, in a thread that is left behind if nobody waits for it any more."""
    future: Future[T] = Future()

    def work() -> None:
        try:
            found = run()
        except BaseException as error:
            with contextlib.suppress(InvalidStateError):
                future.set_exception(error)
        else:
            with contextlib.suppress(InvalidStateError):
                future.set_result(found)

    threading.Thread(target=work, name="reward service", daemon=True).start()
    return future
