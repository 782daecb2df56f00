"""A solution under way in a sandbox, seen from the process that knows the right answers."""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from rlcurric.rewards.sandbox import inside, launcher
from rlcurric.rewards.sandbox.keeper import process_limit, user_inside
from rlcurric.rewards.sandbox.tiers import SandboxError, Tier

OUTPUT_BYTES = 1 << 20
MEMORY_BYTES = 1 << 30
START_SECONDS = (
    20.0  # until the interpreter in a sandbox is ready: beyond it the machine is at fault
)


@dataclass(frozen=True)
class Ended:
    """How a solution ended that ran on one input."""

    output: bytes
    problem: str  # why it failed: time, output, an exit status; empty where it ended well


class Stopped(Exception):
    """The solution gives no more answers: it ended, hung or said something that is no answer."""


class Raised(Exception):
    """The solution's function raised; the text says what. The solution can be called again."""


class Program:
    """A solution in a sandbox of its own, until the block ends. SandboxError where it cannot be set up.

    `mode` "run": it is run as a program on one input. "call": it is loaded, and its functions are called.
    """

    def __init__(
        self,
        tier: Tier,
        source: str,
        mode: str,
        seconds: float,
        memory: int = MEMORY_BYTES,
        output: int = OUTPUT_BYTES,
        lifetime: float | None = None,  # seconds of all its calls; None: of one
    ) -> None:
        self._seconds, self._output = seconds, output
        self._lifetime = lifetime or seconds
        header = {
            "source": source,
            "mode": mode,
            "seconds": self._lifetime,
            "memory": memory,
            "processes": process_limit(tier),
            "user": user_inside(tier),
        }
        self._tier, self._header = tier, json.dumps(header).encode()
        self._buffer = b""

    def __enter__(self) -> Program:
        their_input, self._input = os.pipe()
        self._answers, their_output = os.pipe()
        self._end, their_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        request = {"tier": self._tier, "seconds": START_SECONDS + self._lifetime}
        files = [their_input, their_output, their_end.fileno()]
        try:
            launcher.ask(request, files)
        finally:
            os.close(their_input)
            os.close(their_output)
            their_end.close()
        os.set_blocking(self._input, False)
        try:
            self._get_ready()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for file in (self._input, self._answers):
            if file >= 0:
                os.close(file)
        self._input = self._answers = -1
        # The keeper hears that nobody listens, empties the sandbox, and then lets go of the socket.
        with contextlib.suppress(OSError):
            self._end.shutdown(socket.SHUT_WR)
            self._end.settimeout(START_SECONDS)
            while self._end.recv(4096):
                pass
        self._end.close()

    def run(self, text: bytes) -> Ended:
        """The whole output on one input."""
        ends = time.monotonic() + self._seconds
        output, rest, problem = self._buffer, text, ""
        try:
            while True:
                part, rest = self._exchange(rest, ends, close=True)
                if not part:
                    break
                output += part
                if len(output) > self._output:
                    return Ended(output, f"more than {self._output} bytes of output")
        except TimeoutError:
            return Ended(output, f"no end within {self._seconds:g} s")
        try:
            self._end.settimeout(max(0.01, ends - time.monotonic()))
            verdict = json.loads(self._end.recv(1 << 16) or b"{}")
        except TimeoutError:
            return Ended(output, f"no end within {self._seconds:g} s")
        if verdict.get("exit") != 0:
            problem = f"it ended with status {verdict.get('exit')}"
        return Ended(output, problem)

    def call(
        self, function: str, args: list[Any], kwargs: dict[str, Any], seconds: float | None = None
    ) -> Any:
        """What a function of the solution answers: a plain value. Stopped where there is no answer, Raised where it raised.

        ValueError or TypeError for an argument that is no plain value.
        """
        seconds = self._seconds if seconds is None else seconds
        ends = time.monotonic() + seconds
        packed = {
            "function": function,
            "args": [inside.encode(item) for item in args],
            "kwargs": {key: inside.encode(item) for key, item in kwargs.items()},
        }
        rest = json.dumps(packed).encode() + b"\n"
        try:
            while b"\n" not in self._buffer:
                part, rest = self._exchange(rest, ends, close=False)
                self._buffer += part
                if not part:
                    raise Stopped("it ended before it answered")
                if len(self._buffer) > self._output:
                    raise Stopped(f"an answer of more than {self._output} bytes")
        except TimeoutError:
            raise Stopped(f"no answer within {seconds:g} s") from None
        line, _, self._buffer = self._buffer.partition(b"\n")
        return _answer(line)

    def _get_ready(self) -> None:
        """Send the header, and wait until all limits are in force."""
        ends = time.monotonic() + START_SECONDS
        rest = len(self._header).to_bytes(8, "little") + self._header
        ready, part = b"", b"x"
        try:
            while b"\n" not in ready and part:
                part, rest = self._exchange(rest, ends, close=False)
                ready += part
        except TimeoutError:
            raise SandboxError(f"{self._tier}: not ready within {START_SECONDS:g} s") from None
        if not ready.startswith(inside.READY):
            reason = ready.decode(errors="replace").strip()
            with contextlib.suppress(OSError, ValueError):
                self._end.settimeout(5.0)
                verdict = json.loads(self._end.recv(1 << 16))
                reason = reason or verdict.get("error") or f"it ended with {verdict}"
            raise SandboxError(f"the sandbox could not be set up: {self._tier}: {reason}")
        self._buffer = ready[len(inside.READY) :]

    def _exchange(self, rest: bytes, ends: float, close: bool) -> tuple[bytes, bytes]:
        """Write what can be written, until something can be read: that, and what is left to write.

        TimeoutError at the end of the time. With `close` the input is closed when all is written.
        """
        while True:
            if not rest and close and self._input >= 0:
                os.close(self._input)
                self._input = -1
            writers = [self._input] if rest and self._input >= 0 else []
            left = ends - time.monotonic()
            if left <= 0:
                raise TimeoutError
            readers, able, _ = select.select([self._answers], writers, [], left)
            if able:
                try:
                    rest = rest[os.write(self._input, rest[: 1 << 16]) :]
                except BrokenPipeError:
                    rest = b""  # it does not read its input: its affair
            if readers:
                return os.read(self._answers, 1 << 16), rest


def _answer(line: bytes) -> Any:
    try:
        said = json.loads(line)
        if "raised" in said:
            raise Raised(str(said["raised"])[:200])
        return inside.decode(said["value"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise Stopped(f"what it sent is no answer: {type(error).__name__}") from None


def try_tier(tier: Tier) -> None:
    """Run a program in a tier; SandboxError with the reason where that does not work."""
    with Program(tier, "print(input())", "run", START_SECONDS) as program:
        ended = program.run(b"works\n")
    if ended.problem or ended.output != b"works\n":
        raise SandboxError(
            f"{tier}: a program in it did not run: {ended.problem or ended.output!r}"
        )
