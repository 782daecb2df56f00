"""Rewards that run in the trainer's own process: arithmetic (`inline`), and those that call a server (`service`)."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from rlcurric.rewards.calling import ScoreCountError, TrainerState, Verdicts, invoke
from rlcurric.rewards.calls import Ask, Call, Job
from rlcurric.types import Score, Status

T = TypeVar("T")


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

    def close(self) -> None:
        """End the event loop."""
        with self._guard:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._loop.stop)
            self._loop = None

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
        except Exception as error:
            if call.splittable and not isinstance(error, ScoreCountError):
                return None
            detail, status = f"{type(error).__name__}: {error}"[:500], Status.ERROR
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
            return run() if asked.reward.where == "inline" else within(run, self._deadline)

    def _lock(self, name: str) -> threading.Lock:
        with self._guard:
            return self._locks[name]

    def _wait(self, result: Awaitable[Any]) -> Any:
        """What an awaitable gives, on the loop that all async rewards share."""
        with self._guard:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                target = self._loop.run_forever
                threading.Thread(target=target, name="async rewards", daemon=True).start()
            loop = self._loop
        waiting = asyncio.wait_for(_finish(result), self._deadline)
        return asyncio.run_coroutine_threadsafe(waiting, loop).result()


async def _finish(result: Awaitable[T]) -> T:
    return await result


def within(run: Callable[[], T], seconds: float) -> T:
    """What `run` returns, in a thread that is left behind if it takes longer: TimeoutError."""
    found: list[T] = []
    raised: list[BaseException] = []

    def work() -> None:
        try:
            found.append(run())
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=work, name="reward service", daemon=True)
    thread.start()
    thread.join(seconds)
    if raised:
        raise raised[0]
    if not found:
        raise TimeoutError(f"no answer within {seconds:g} s")
    return found[0]
