"""A worker process as the trainer sees it: started, spoken to, ended."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import IO, Any

from rlcurric.rewards import wire
from rlcurric.rewards.sandbox import Tier, bwrap_path

_PROGRAM = (
    "import sys; sys.path[:] = sys.argv[1:]; from rlcurric.rewards.worker import main; main()"
)
_ENVIRONMENT = {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "PATH": "", "LANG": "C.UTF-8"}


@dataclass(eq=False)
class WorkerProcess:
    """One worker. `deadline` and `born` are monotonic seconds."""

    process: subprocess.Popen[bytes]
    preload: frozenset[str]  # modules that it imports first
    errors: IO[bytes]  # what it says before it is ready, in a file without a name
    born: float = field(default_factory=time.monotonic)
    ready: bool = False  # it has loaded everything and closed itself off
    call: Any = None  # the `runner.Call` that it works on
    call_id: int = 0  # of that call; an answer under another id is none
    deadline: float = math.inf  # the worker itself has failed if it has not answered by then
    layers: tuple[str, ...] = ()
    _heard: bytearray = field(default_factory=bytearray)

    @classmethod
    def spawn(cls, files: Sequence[str], preload: frozenset[str], tier: Tier) -> WorkerProcess:
        """Start one. It dies with the thread that starts it."""
        errors = tempfile.TemporaryFile()
        process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, *filter(None, sys.path), os.getcwd()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=_ENVIRONMENT,
            start_new_session=True,  # Ctrl-C is for the trainer to handle
        )
        worker = cls(process, preload, errors)
        own = {"tier": tier, "bwrap": bwrap_path()}
        setup = {"files": list(files), "preload": sorted(preload), "sandbox": own}
        worker.send(json.dumps(setup).encode())
        return worker

    @property
    def fileno(self) -> int:
        """Where its answers come from."""
        assert self.process.stdout is not None
        return self.process.stdout.fileno()

    def send(self, message: bytes) -> None:
        """One message; that the process is gone is noticed where its answers are read."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(len(message).to_bytes(8, "little") + message)
            self.process.stdin.flush()

    def hear(self) -> list[dict[str, Any]] | None:
        """The whole messages among what has come; None if the process is gone."""
        data = os.read(self.fileno, 1 << 20)
        if not data:
            return None
        self._heard += data
        if b"\n" not in data:
            return []
        *lines, rest = bytes(self._heard).split(b"\n")
        self._heard = bytearray(rest)
        return [wire.loads(line) for line in lines]

    def complaint(self) -> str:
        """The end of what it wrote to standard error."""
        self.errors.seek(0)
        return self.errors.read().decode(errors="replace").strip()[-1500:]

    def end(self) -> None:
        """Kill it with the child that it may have, and free what the trainer holds of it."""
        assert self.process.stdin is not None and self.process.stdout is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.stdout.close()
        self.errors.close()
