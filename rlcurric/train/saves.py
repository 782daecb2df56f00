"""Rank 0's side of checkpoints: begun, committed once every rank has written its part, given up loudly where one could not."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping
from typing import Any

from rlcurric.errors import RunError
from rlcurric.train.checkpoint import CheckpointStore
from rlcurric.train.directives import Directive, Save, Settle
from rlcurric.train.run import RunContext, kept_steps
from rlcurric.train.saving import WRITE_ERRORS, Begun, Written, told
from rlcurric.train.space import shortage

Turn = Generator[Directive, list[Any], None]
Told = Generator[Directive, list[Any], str | None]
TRIES = 2  # for a save that the run cannot go on from without


class Saves:
    """Saves of one stage. At most one is in flight, and it is settled between two steps."""

    def __init__(self, run: RunContext) -> None:
        self._run = run
        self._in_flight: Mapping[str, Any] | None = None  # the state that is being written
        self._metrics: dict[str, float] = {}
        self._then = ""  # what is said after a failure

    def begin(self, state: Mapping[str, Any]) -> Turn:
        """Begin to save a state; the one before it is settled first. A failure is told and ends nothing."""
        yield from self.settle(wait=True)
        self._then = "Training goes on; the next due save tries again."
        yield from self._begin(state)

    def finish(self, state: Mapping[str, Any]) -> Turn:
        """Save a state that the run is to go on from, and wait for it. RunError where it cannot be written."""
        yield from self.settle(wait=True)
        problem: str | None = None
        for attempt in range(TRIES):
            self._then = "It is tried again." if attempt + 1 < TRIES else ""
            problem = (yield from self._begin(state)) or (yield from self.settle(wait=True))
            if problem is None:
                self._run.store.finish()
                return
        raise RunError(
            f"the checkpoint of step {state['step']} could not be written, {TRIES} times: {problem}. {newest_good(self._run.store)} "
            f"Make room in {self._run.store.folder}, or make it writable; then the same command goes on from there."
        )

    def settle(self, wait: bool) -> Told:
        """Commit the save in flight if all ranks have written it; why it failed, if it did."""
        if self._in_flight is None:
            return None
        started = time.perf_counter()
        if wait:
            self._run.reporter.phase("save")
        answers: list[Written | None] = yield Settle(wait)
        written = [answer for answer in answers if answer is not None]
        problem = None
        if len(written) == len(answers):
            problem = self._commit(self._in_flight, written)
            self._in_flight = None
        self._count("checkpoint/wait/s", time.perf_counter() - started)
        return problem

    def metrics(self) -> dict[str, float]:
        """What happened since this was asked last."""
        metrics, self._metrics = self._metrics, {}
        return metrics

    def _begin(self, state: Mapping[str, Any]) -> Told:
        started = time.perf_counter()
        self._run.reporter.phase("save")
        store, step = self._run.store, state["step"]
        problem = shortage(store, self._run.saver.expected)
        if problem is not None:
            self._failed(step, 0, problem)
            return problem
        store.clear(step)
        self._in_flight = state
        answers: list[Begun] = yield Save(state)
        copied = sum(answer.bytes for answer in answers)
        self._run.saver.expected = max(self._run.saver.expected, copied)
        self._count("checkpoint/wait/s", time.perf_counter() - started)
        self._metrics["checkpoint/copy/s"] = max(answer.copy_seconds for answer in answers)
        self._metrics["checkpoint/bytes/sum"] = copied
        return None

    def _commit(self, state: Mapping[str, Any], written: list[Written]) -> str | None:
        store, step = self._run.store, state["step"]
        problem = next(((r, one.error) for r, one in enumerate(written) if one.error), None)
        if problem is None:
            files = {name: digest for one in written for name, digest in one.files.items()}
            try:
                store.commit(step, state, files, kept_steps(state))
            except WRITE_ERRORS as error:
                problem = (0, told(error))
        if problem is not None:
            self._failed(step, *problem)
            return problem[1]
        self._count("checkpoint/failed/sum", 0.0)
        self._metrics["checkpoint/write/s"] = max(one.seconds for one in written)
        return None

    def _failed(self, step: int, rank: int, reason: str) -> None:
        self._run.store.clear(step)
        self._count("checkpoint/failed/sum", 1.0)
        tell_failure(self._run, step, rank, reason, self._then)

    def _count(self, key: str, value: float) -> None:
        self._metrics[key] = self._metrics.get(key, 0.0) + value


def tell_failure(run: RunContext, step: int, rank: int, reason: str, then: str) -> None:
    """A save that failed, in events.jsonl and to whoever watches; `then` says how it goes on."""
    newest = run.store.last()
    run.directory.event(
        "save_failed", step, rank=rank, reason=reason, newest=newest.step if newest else None
    )
    run.reporter.message(
        f"warning: the checkpoint of step {step} could not be written (rank {rank}: {reason}). "
        f"{newest_good(run.store)} {then}".rstrip()
    )


def newest_good(store: CheckpointStore) -> str:
    """A sentence on what a resume would go on from."""
    newest = store.last()
    if newest is None:
        return "There is no checkpoint yet."
    return f"The newest good checkpoint is of step {newest.step}."
