"""A reward worker: loads what it needs, closes itself off, then forks a child for every call.

The outer process never runs model text and is the only one that speaks to the trainer: it hands the call to a child,
waits for its answer until the deadline, kills it with all its descendants, and relays one verdict under the call's id.
Whatever a graded text does to its child, no later call sees. Messages on standard input (with their length in front)
and lines on standard output:

    worker -> trainer   {"ready": true, "layers": [...]}       once
    trainer -> worker   {"id", "deadline", "reward", "base_dir", "prompts", "completions", "columns", "state"}
    worker -> trainer   {"id", "scores": [...], "metrics": [...], "notes": {...}}, {"id", "error": "..."}, {"id", "timeout": true} or {"id", "died": true};
                        with "final": true an error that no call of fewer samples may hide
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import time
from typing import Any, BinaryIO

from rlcurric.rewards import sandbox, wire
from rlcurric.rewards.calling import ScoreCountError, TrainerState, described, invoke
from rlcurric.rewards.protocol import discover_builtin, get_reward, load_reward_files
from rlcurric.rewards.sandbox import launcher

_SAID = ("scores", "metrics", "notes", "error", "final")
LONGEST_ANSWER = 64 << 20  # bytes


def main() -> None:
    """Entry point of the process: the first message is {"files", "preload", "sandbox"} on standard input."""
    sandbox.die_with_parent()
    requests = os.fdopen(os.dup(0), "rb", buffering=0)
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1):  # what a grader prints or reads is not our protocol
        os.dup2(null, stream)
    setup = json.loads(_receive(requests))
    sandbox.use(**setup["sandbox"])
    discover_builtin()
    load_reward_files(setup["files"])
    for part in setup["preload"]:
        module, _, function = part.partition(":")
        loaded = importlib.import_module(module)
        if function:
            getattr(loaded, function)()
    layers = sandbox.close_off()
    gc.collect()
    gc.freeze()  # the children share these pages
    gc.set_threshold(50_000)  # and live too briefly for the garbage of hundreds
    os.dup2(null, 2)  # a full pipe of warnings would stop the worker
    answers.write(wire.dumps({"ready": True, "layers": layers}))
    while message := _receive(requests):
        request = wire.loads(message)
        verdict = _in_child(request, (requests, answers))
        answers.write(wire.dumps({**verdict, "id": request["id"]}))


def _in_child(request: dict[str, Any], ours: tuple[BinaryIO, BinaryIO]) -> dict[str, Any]:
    """The verdict of a child on one call. The child has neither the trainer's requests nor its answers."""
    read, write = os.pipe()
    child = sandbox.fork()
    if child == 0:
        sandbox.die_with_parent()
        for stream in ours:
            stream.close()
        os.close(read)
        sandbox.limit_cpu(request["deadline"])
        answer = _grade(request)
        with open(write, "wb") as pipe:
            pipe.write(len(answer).to_bytes(8, "little") + answer)
        os._exit(0)
    os.close(write)
    try:
        return _verdict(read, time.monotonic() + request["deadline"])
    finally:
        os.close(read)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _verdict(pipe: int, deadline: float) -> dict[str, Any]:
    """What the child says, if it says something whole in time."""
    answer = bytearray()
    while len(answer) < 8 or len(answer) < 8 + int.from_bytes(answer[:8], "little"):
        ready, _, _ = select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return {"timeout": True}
        part = os.read(pipe, 1 << 20)
        answer += part
        if not part or len(answer) > LONGEST_ANSWER:
            return {"died": True}
    try:
        said = json.loads(answer[8:])
        return {key: said[key] for key in _SAID if key in said}
    except (ValueError, TypeError, RecursionError):
        return {"died": True}


def _grade(request: dict[str, Any]) -> bytes:
    file = ""
    try:
        entry = get_reward(request["reward"], request["base_dir"])
        if launcher.PRELOAD not in entry.preload:
            launcher.leave()
        file = entry.source
        found = invoke(
            entry.function,
            request["prompts"],
            request["completions"],
            request["columns"],
            TrainerState(**request["state"]),
        )
        scores = [wire.pack_score(score) for score in found.scores]
        answer = {"scores": scores, "metrics": found.metrics, "notes": dict(found.notes)}
        return json.dumps(answer).encode()
    except MemoryError:
        os._exit(70)  # what is left of this process is not to be trusted
    except BaseException as error:
        verdict: dict[str, Any] = {"error": described(error, file)}
        if isinstance(error, ScoreCountError):
            verdict["final"] = True
        return json.dumps(verdict).encode()


def _receive(stream: BinaryIO) -> bytes:
    """One message: eight bytes of length, then that many. Empty where the trainer closed our input."""
    header = _exactly(stream, 8)
    return _exactly(stream, int.from_bytes(header, "little")) if header else b""


def _exactly(stream: BinaryIO, size: int) -> bytes:
    parts: list[bytes] = []
    while size:
        part = stream.read(size)
        if not part:
            return b""
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


if __name__ == "__main__":
    main()
