"""Runs rewards in killable workers with deadlines, and gives every call an honest status.

A thread of the trainer keeps the workers busy: it hands out calls, hears answers, and replaces workers that died. Any
other thread may ask, and waits for its own answer alone, so groups are scored while the engine samples others. A
deadline starts when a worker starts on a call; what a call waits before that counts for nothing.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from rlcurric.errors import RunError
from rlcurric.rewards import wire
from rlcurric.rewards.calling import Verdicts, plain
from rlcurric.rewards.calls import Ask, Call, Job
from rlcurric.rewards.process import WorkerProcess
from rlcurric.rewards.protocol import Reward
from rlcurric.rewards.sandbox import Setting, settle
from rlcurric.types import Score, Status

TRIES = 3  # calls whose worker died without a deadline passing, before it is an error
START_SECONDS = 120.0  # until a worker says that it is ready
GRACE_SECONDS = 30.0  # beyond a call's deadline, which the worker keeps, until it counts as broken
CLOSED = "the reward workers were closed"


class RewardRunner:
    """A pool of reward workers. Works off the main thread too: it uses no signals of its own.

    The scores do not depend on the number of workers: calls are cut the same way whoever runs them.
    """

    def __init__(
        self,
        rewards: Sequence[Reward],
        workers: int,
        base_dir: str = ".",
        sandbox: Setting = "auto",
    ) -> None:
        self._files = sorted({reward.file for reward in rewards if reward.file})
        self._preload = frozenset(module for reward in rewards for module in reward.preload)
        self._n_workers, self._base_dir = workers, base_dir
        self._sandbox = sandbox
        self._workers: list[WorkerProcess] = []
        self._changed = threading.Condition()  # guards what follows
        self._waiting: deque[Call] = deque()
        self._failure: RunError | None = None
        self._closing = False
        self._thread: threading.Thread | None = None

    def __enter__(self) -> RewardRunner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start the workers, without waiting for them. ValueError where the sandbox that is asked for does not work."""
        self._tier = settle(self._sandbox)
        with self._changed:
            if self._thread is None:
                self._closing, self._failure = False, None
                self._wake_read, self._wake_write = os.pipe()
                os.set_blocking(self._wake_write, False)
                self._thread = threading.Thread(target=self._serve, name="rewards", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """End every worker. Whoever still waits for scores is told."""
        with self._changed:
            thread, self._closing = self._thread, True
            if thread is None and self._failure is None:
                self._failure = RunError(CLOSED)
        if thread is not None:
            self._wake()
            thread.join()
            os.close(self._wake_read)
            os.close(self._wake_write)
            self._thread = None

    def layers(self) -> tuple[str, ...]:
        """Which layers of the sandbox are in force, as a worker reports them."""
        self.start()
        with self._changed:
            self._changed.wait_for(lambda: self._failure or any(w.ready for w in self._workers))
            self._refuse()
            return next(worker.layers for worker in self._workers if worker.ready)

    def pids(self) -> list[int]:
        """Processes of the pool, for tests that none is left."""
        return [worker.process.pid for worker in self._workers]

    def run(
        self,
        reward: Reward,
        prompts: Sequence[str],
        completions: Sequence[str],
        columns: Mapping[str, Sequence[Any]],
        arguments: dict[str, Any],
        groups: Sequence[Sequence[int]],
        name: str,
        deadline: float,
    ) -> list[Score]:
        """The scores alone of `ask`."""
        asked = Ask(reward, name, prompts, completions, columns, arguments, groups, deadline)
        return list(self.ask(asked).scores)

    def ask(self, asked: Ask) -> Verdicts:
        """Score every completion; waits until all are. Starts the workers, unless they were closed."""
        if not self._closing:
            self.start()
        job = Job(asked)
        with self._changed:
            self._refuse()
            self._preload |= asked.reward.modules(asked.columns)
            self._waiting.extend(job.calls)
        self._wake()
        with self._changed:
            self._changed.wait_for(lambda: job.missing == 0 or self._failure)
            if job.missing:
                self._refuse()
        return job.verdicts()

    def _refuse(self) -> None:
        if self._failure is not None:
            raise RunError(str(self._failure))

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError, OSError):  # full: it wakes anyhow
            os.write(self._wake_write, b"!")

    # --- the thread ---------------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        failure: BaseException | None = None
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        try:
            for _ in range(self._n_workers):
                self._spawn()
            while not self._closing:
                self._hand_out()
                self._poll(0.5)
        except BaseException as error:
            failure = error
        finally:
            for worker in self._workers:
                worker.end()
            self._selector.close()
            with self._changed:
                known = isinstance(failure, RunError)
                text = f"{failure}" if known else f"{type(failure).__name__}: {failure}"
                self._failure = RunError(CLOSED if failure is None else text)
                self._workers = []
                self._waiting.clear()
                self._changed.notify_all()

    def _hand_out(self) -> None:
        for worker in list(self._workers):
            if worker.call is not None:
                continue
            if not self._preload <= worker.preload:
                self._retire(worker)
                self._spawn()
                continue
            if not worker.ready:
                continue
            with self._changed:
                fits = self._preload <= worker.preload
                call = self._waiting.popleft() if self._waiting and fits else None
            if call is None:
                return
            worker.call = call
            worker.call_id += 1
            worker.deadline = time.monotonic() + call.deadline + GRACE_SECONDS
            worker.send(wire.dumps(call.request(worker.call_id, self._base_dir)))

    def _poll(self, seconds: float) -> None:
        """Read what workers say; notice those that died or stopped answering."""
        for key, _ in self._selector.select(seconds):
            if key.data is None:
                os.read(self._wake_read, 1 << 12)
                continue
            worker: WorkerProcess = key.data
            messages = worker.hear()
            if messages is None:
                self._replace(worker)
                continue
            for message in messages:
                self._answered(worker, message)
        now = time.monotonic()
        for worker in list(self._workers):
            if not worker.ready and now - worker.born > START_SECONDS:
                raise RunError(
                    f"a reward worker did not start within {START_SECONDS:.0f} s; files: {self._files}"
                )
            if now > worker.deadline:
                self._replace(worker)

    def _answered(self, worker: WorkerProcess, message: dict[str, Any]) -> None:
        with self._changed:
            if "ready" in message:
                worker.ready, worker.layers = True, tuple(message["layers"])
                self._changed.notify_all()
                return
            call: Call | None = worker.call
            if call is None or message.get("id") != worker.call_id:
                return
            worker.call, worker.deadline = None, float("inf")
            self._settle(call, message)

    def _settle(self, call: Call, message: Mapping[str, Any]) -> None:
        """Enter a call's verdict, or ask again."""
        if "scores" in message:
            try:
                call.job.enter(call, _verdicts(message, len(call.slots)))
                return self._tell(call.job)
            except (TypeError, ValueError) as error:
                message = {"error": f"{type(error).__name__}: {error}"}
        # A list of the wrong length is not repeated sample by sample: a constant one would then look right.
        if call.splittable and not message.get("final"):
            self._waiting.extend(call.split())
            return None
        if "error" in message:
            score = Score(None, Status.ERROR, str(message["error"])[: wire.LONGEST_DETAIL])
        elif "timeout" in message:
            score = Score(None, Status.TIMEOUT, f"no answer within {call.deadline:g} s")
        elif call.tries + 1 < TRIES:  # the process that had this call died over it
            self._waiting.append(call.again())
            return None
        else:
            over = "this sample" if len(call.slots) == 1 else f"these {len(call.slots)} samples"
            score = Score(None, Status.ERROR, f"the worker died {TRIES} times over {over}")
        call.job.enter(call, Verdicts((score,) * len(call.slots)))
        return self._tell(call.job)

    def _tell(self, job: Job) -> None:
        if job.missing == 0:
            self._changed.notify_all()

    def _replace(self, worker: WorkerProcess) -> None:
        """The whole worker is gone: a new one takes its place."""
        complaint = worker.complaint()
        self._retire(worker)
        if not worker.ready:
            raise RunError(f"a reward worker could not start:\n{complaint}")
        self._spawn()
        if worker.call is not None:
            with self._changed:
                self._settle(worker.call, {"died": True})

    def _retire(self, worker: WorkerProcess) -> None:
        self._selector.unregister(worker.fileno)
        self._workers.remove(worker)
        worker.end()

    def _spawn(self) -> None:
        worker = WorkerProcess.spawn(self._files, self._preload, self._tier)
        self._selector.register(worker.fileno, selectors.EVENT_READ, worker)
        self._workers.append(worker)


def _verdicts(message: Mapping[str, Any], count: int) -> Verdicts:
    """A worker's answer, checked: it is relayed from the process that ran the model's text."""
    scores = tuple(wire.unpack_score(packed) for packed in message["scores"])
    if len(scores) != count:
        raise ValueError(
            f"the answer is longer or shorter than the samples: {len(scores)} scores for {count}"
        )
    metrics = tuple((str(name), wire.finite(value)) for name, value in message.get("metrics", ()))
    noted = message.get("notes", {})
    if not isinstance(noted, Mapping):
        raise TypeError(f"logged columns must have names, got {type(noted).__name__}")
    notes = {str(name): tuple(map(plain, values)) for name, values in noted.items()}
    if any(len(values) != count for values in notes.values()):
        raise ValueError("a logged column is longer or shorter than the samples")
    return Verdicts(scores, metrics, notes)
