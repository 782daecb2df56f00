"""A reward worker: loads what it needs, closes itself off, then forks a child that grades until it is killed.

The outer process never touches model text. It forks a child, waits for it, and forks the next when one was killed or
died, so that a fresh worker costs milliseconds and no imports. Messages on standard
input (with their length in front) and lines on standard output:

    child -> trainer   {"hello": pid, "layers": [...]}       once, when it is ready
    trainer -> child   {"reward", "file", "prompts", "completions", "columns"}
    child -> trainer   {"start": true}                       the deadline runs from here
    child -> trainer   {"scores": [...]} or {"error": "..."}
"""

from __future__ import annotations

import importlib
import json
import os
from typing import Any, BinaryIO

from rlcurric.rewards import sandbox, wire
from rlcurric.rewards.protocol import call, discover_builtin, get_reward, load_reward_files


def main() -> None:
    """Entry point of the process: the first message is {"files": [...], "preload": [...]} on standard input."""
    sandbox.die_with_parent()
    requests = os.fdopen(os.dup(0), "rb", buffering=0)
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1):  # what a grader prints or reads is not our protocol
        os.dup2(null, stream)
    setup = json.loads(_receive(requests))
    for module in setup["preload"]:
        importlib.import_module(module)
    discover_builtin()
    load_reward_files(setup["files"])
    layers = sandbox.close_off()
    os.dup2(null, 2)  # a full pipe of warnings would stop the worker
    while True:
        child = os.fork()
        if child == 0:
            sandbox.die_with_parent()
            _serve(requests, answers, layers)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0:
            return  # the trainer closed our input


def _serve(requests: BinaryIO, answers: BinaryIO, layers: list[str]) -> None:
    # The newline ends whatever a killed predecessor had half written.
    answers.write(b"\n" + wire.dumps({"hello": os.getpid(), "layers": layers}))
    while message := _receive(requests):
        request = wire.loads(message)
        answers.write(wire.dumps({"start": True}))
        answers.write(wire.dumps(_grade(request)))


def _grade(request: dict[str, Any]) -> dict[str, Any]:
    try:
        entry = get_reward(request["reward"], request["base_dir"])
        scores = call(
            entry.function, request["prompts"], request["completions"], request["columns"]
        )
        return {"scores": [wire.pack_score(score) for score in scores]}
    except MemoryError:
        os._exit(70)  # what is left of this process is not to be trusted
    except BaseException as error:
        return {"error": f"{type(error).__name__}: {error}"[:500]}


def _receive(stream: BinaryIO) -> bytes:
    """One message: eight bytes of length, then that many. Empty where the trainer closed our input.

    Read without a buffer, so that nothing of the next request is lost when this child is killed.
    """
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
