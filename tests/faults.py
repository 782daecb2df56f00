"""`rlcurric` with a fault: python -m tests.faults FAULT:DIRECTIVE:NUMBER:RANK ARGUMENTS...

The rank raises, kills itself, or stands still (in Python, or in C with the interpreter held) as it obeys the
NUMBERth directive of that name. `leader` raises between directives, on rank 0.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from typing import Any

from rlcurric.cli import main
from rlcurric.errors import RunError
from rlcurric.train.rl import RlLeader
from rlcurric.train.worker import RlWorker

FOREVER = 600


def strike(fault: str) -> None:
    if fault == "raise":
        raise KeyError("a bug of this rank")
    if fault == "run_error":
        raise RunError("this rank gives up\nwith a second line")
    if fault == "value":
        raise ValueError("a mistake of the user's")
    if fault == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "sleep":
        time.sleep(FOREVER)
    if fault == "hold":
        ctypes.PyDLL(None).sleep(FOREVER)
    raise AssertionError(fault)


def arrange(spec: str) -> None:
    fault, directive, number, rank = spec.split(":")
    left = [int(number)]
    target: Any = RlWorker
    name = "_obey"
    if directive == "leader":
        target, name = RlLeader, "_rollouts"
    original = getattr(target, name)

    def struck(self: Any, *args: Any) -> Any:
        if directive in ("leader", type(args[0]).__name__) and int(
            os.environ.get("RANK", 0)
        ) == int(rank):
            left[0] -= 1
            if left[0] == 0:
                strike(fault)
        return original(self, *args)

    setattr(target, name, struck)


if __name__ == "__main__":
    arrange(sys.argv[1])
    main(sys.argv[2:])
