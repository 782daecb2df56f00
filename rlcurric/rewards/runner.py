"""Runs rewards in killable workers with deadlines, and gives every call an honest status."""

from __future__ import annotations

import contextlib
import json
import math
import os
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rlcurric.errors import RunError
from rlcurric.rewards import wire
from rlcurric.rewards.protocol import Reward
from rlcurric.types import Score, Status

CHUNK = 16  # samples of a sample-scoped reward in one call
TRIES = 3  # calls of one sample whose worker died without a deadline passing
START_SECONDS = 60.0  # until a worker says that it is ready
GRACE_SECONDS = (
    30.0  # beyond a call's deadline, which the worker keeps, until the worker counts as broken
)


@dataclass
class Call:
    """One call of a reward, and where its scores go."""

    reward: str
    prompts: list[str]
    completions: list[str]
    columns: dict[str, Any]
    slots: list[int]  # places in the result
    splittable: bool  # the reward scores sample by sample, so a failed call is repeated that way
    tries: int = 0


@dataclass
class _Worker:
    """One worker process, seen from the trainer."""

    process: subprocess.Popen[bytes]
    born: float
    ready: bool = False  # it has loaded everything and closed itself off
    call: Call | None = None
    call_id: int = 0  # of that call; an answer under another id is none
    deadline: float = (
        math.inf
    )  # monotonic: the worker itself has failed if it has not answered by then
    buffer: bytearray = field(default_factory=bytearray)
    layers: tuple[str, ...] = ()


class RewardRunner:
    """A pool of reward workers. Works off the main thread too: it uses no signals of its own.

    The scores do not depend on the number of workers: calls are cut the same way whoever runs them.
    """

    def __init__(self, rewards: Sequence[Reward], workers: int, base_dir: str = ".") -> None:
        self._files = sorted({reward.file for reward in rewards if reward.file})
        self._preload = sorted({module for reward in rewards for module in reward.preload})
        self._n_workers, self._base_dir = workers, base_dir
        self._deadline = 0.0  # seconds, of the calls under way
        self._workers: list[_Worker] = []
        self._selector = selectors.DefaultSelector()

    def __enter__(self) -> RewardRunner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start the workers, without waiting for them."""
        while len(self._workers) < self._n_workers:
            self._spawn()

    def close(self) -> None:
        """End every worker."""
        for worker in self._workers:
            self._end(worker)
        self._workers = []

    def layers(self) -> tuple[str, ...]:
        """Which layers of the sandbox are in force, as a worker reports them."""
        self.start()
        while not self._workers[0].ready:
            self._poll(deque(), [], 0.1)
        return self._workers[0].layers

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
        """Score every completion.

        `groups` are the indices of each group's samples, `name` is how a recipe names the reward, and `deadline` the
        seconds that one call may take, from when a worker starts on it.
        """
        self.start()
        self._deadline = deadline
        parts = _cut(reward, groups, len(completions))
        waiting = deque(
            Call(
                name,
                [prompts[i] for i in part],
                [completions[i] for i in part],
                {
                    **{key: [values[i] for i in part] for key, values in columns.items()},
                    **arguments,
                },
                list(part),
                splittable=reward.scope == "sample",
            )
            for part in parts
        )
        self._listed = set(columns)
        results: list[Score | None] = [None] * len(completions)
        while waiting or any(worker.call for worker in self._workers):
            self._hand_out(waiting)
            self._poll(waiting, results, 0.05)
        assert all(score is not None for score in results)
        return [score for score in results if score is not None]

    def _hand_out(self, waiting: deque[Call]) -> None:
        for worker in self._workers:
            if waiting and worker.call is None and worker.ready:
                call = worker.call = waiting.popleft()
                worker.call_id += 1
                worker.deadline = time.monotonic() + self._deadline + GRACE_SECONDS
                request = {
                    "id": worker.call_id,
                    "deadline": self._deadline,
                    "reward": call.reward,
                    "base_dir": self._base_dir,
                    "prompts": call.prompts,
                    "completions": call.completions,
                    "columns": call.columns,
                }
                with contextlib.suppress(BrokenPipeError):  # noticed as a death below
                    _send(worker.process, wire.dumps(request))

    def _poll(self, waiting: deque[Call], results: list[Score | None], seconds: float) -> None:
        """Read what workers say; notice those that died or stopped answering."""
        for key, _ in self._selector.select(seconds):
            worker: _Worker = key.data
            data = os.read(key.fd, 1 << 20)
            if not data:
                self._replace(worker, waiting, results)
                continue
            worker.buffer += data
            *lines, rest = bytes(worker.buffer).split(b"\n")
            worker.buffer = bytearray(rest)
            for line in lines:
                self._hear(worker, wire.loads(line), waiting, results)
        now = time.monotonic()
        for worker in list(self._workers):
            if not worker.ready and now - worker.born > START_SECONDS:
                raise RunError(
                    f"a reward worker did not start within {START_SECONDS:.0f} s; files: {self._files}"
                )
            if now > worker.deadline:
                self._replace(worker, waiting, results)

    def _hear(
        self,
        worker: _Worker,
        message: dict[str, Any],
        waiting: deque[Call],
        results: list[Score | None],
    ) -> None:
        if "ready" in message:
            worker.ready, worker.layers = True, tuple(message["layers"])
            return
        call = worker.call
        if call is None or message.get("id") != worker.call_id:
            return
        worker.call, worker.deadline = None, math.inf
        if "scores" in message:
            try:
                scores = [wire.unpack_score(packed) for packed in message["scores"]]
                for slot, score in zip(call.slots, scores, strict=True):
                    results[slot] = score
                return
            except (TypeError, ValueError) as error:
                message = {"error": f"{type(error).__name__}: {error}"}
        # A list of the wrong length is not repeated sample by sample: a constant one would then look right.
        if call.splittable and len(call.slots) > 1 and not message.get("final"):
            waiting.extend(_split(call, self._listed))
        elif "error" in message:
            _fill(results, call, Score(None, Status.ERROR, str(message["error"])))
        elif "timeout" in message:
            detail = f"no answer within {self._deadline:g} s"
            _fill(results, call, Score(None, Status.TIMEOUT, detail))
        else:
            self._again(call, waiting, results)

    def _again(self, call: Call, waiting: deque[Call], results: list[Score | None]) -> None:
        """The process that had this call died over it: another one gets it, a few times."""
        call.tries += 1
        if call.tries < TRIES:
            waiting.append(call)
        else:
            detail = f"the worker died {TRIES} times over this sample"
            _fill(results, call, Score(None, Status.ERROR, detail))

    def _replace(self, worker: _Worker, waiting: deque[Call], results: list[Score | None]) -> None:
        """The whole worker is gone: a new one takes its place."""
        self._end(worker)
        self._workers.remove(worker)
        if not worker.ready:
            stderr = (
                worker.process.stderr.read().decode(errors="replace")
                if worker.process.stderr
                else ""
            )
            raise RunError(f"a reward worker could not start:\n{stderr.strip()[-1500:]}")
        if worker.call is not None:
            self._again(worker.call, waiting, results)
        self._spawn()

    def _spawn(self) -> None:
        program = "import sys; sys.path[:] = sys.argv[1:]; from rlcurric.rewards.worker import main; main()"
        process = subprocess.Popen(
            [sys.executable, "-c", program, *filter(None, sys.path), os.getcwd()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "PATH": "", "LANG": "C.UTF-8"},
            start_new_session=True,  # Ctrl-C is for the trainer to handle
        )
        worker = _Worker(process, time.monotonic())
        self._workers.append(worker)
        assert process.stdout is not None
        self._selector.register(process.stdout, selectors.EVENT_READ, worker)
        _send(process, json.dumps({"files": self._files, "preload": self._preload}).encode())

    def _end(self, worker: _Worker) -> None:
        process = worker.process
        assert process.stdin is not None and process.stdout is not None
        self._selector.unregister(process.stdout)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # the child too
        process.wait()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        process.stdout.close()


def _cut(reward: Reward, groups: Sequence[Sequence[int]], count: int) -> list[Sequence[int]]:
    """Calls by scope."""
    if reward.scope == "batch":
        return [range(count)] if count else []
    if reward.scope == "group":
        return [group for group in groups if group]
    return [range(start, min(count, start + CHUNK)) for start in range(0, count, CHUNK)]


def _split(call: Call, listed: set[str]) -> list[Call]:
    """The same call, one sample at a time: those that can be judged are."""
    return [
        Call(
            call.reward,
            [call.prompts[k]],
            [call.completions[k]],
            {key: [value[k]] if key in listed else value for key, value in call.columns.items()},
            [slot],
            splittable=True,
        )
        for k, slot in enumerate(call.slots)
    ]


def _fill(results: list[Score | None], call: Call, score: Score) -> None:
    for slot in call.slots:
        results[slot] = score


def _send(process: subprocess.Popen[bytes], message: bytes) -> None:
    assert process.stdin is not None
    process.stdin.write(len(message).to_bytes(8, "little") + message)
    process.stdin.flush()
