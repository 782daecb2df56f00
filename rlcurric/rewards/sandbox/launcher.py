"""The process that starts solutions: forked by a reward worker before it closes itself off, so that it still may.

It runs no model text itself. It is asked over a socket: a message names the tier and the limits, and brings the two
pipes of the solution and a socket for what became of it. For each it forks a keeper, which sets the sandbox up, waits,
and kills everything in it when the time is over or whoever asked is gone. A keeper outlives the launcher for that.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
from typing import Any

from rlcurric.rewards.sandbox import kernel
from rlcurric.rewards.sandbox.keeper import keep

PRELOAD = f"{__name__}:start"  # of rewards that run programs

_control: socket.socket | None = None
_starting = threading.Lock()


def start() -> None:
    """Fork the launcher, once; it ends with this process."""
    global _control
    with _starting:
        if _control is None:
            _control = _fork()


def _fork() -> socket.socket:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    owner = os.getpid()
    if os.fork() == 0:
        kernel.die_with_parent()
        if os.getppid() != owner:
            os._exit(1)
        ours.close()
        _leave_streams(theirs)
        try:
            _serve(theirs)
        finally:
            os._exit(1)
    theirs.close()
    return ours


def ask(request: dict[str, Any], files: list[int]) -> None:
    """Have a sandbox started with these files as its input, output and the socket for its end."""
    start()
    assert _control is not None
    socket.send_fds(_control, [json.dumps(request).encode()], files)


def leave() -> None:
    """Give up the way to the launcher, in a process that starts no solutions but may run foreign code."""
    global _control
    if _control is not None:
        _control.close()
        _control = None


def _leave_streams(control: socket.socket) -> None:
    """Keep the control socket and no other file: an open end of a pipe would hide that the other one was closed."""
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    own = control.fileno()
    os.closerange(3, own)
    os.closerange(own + 1, 65536)


def _serve(control: socket.socket) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    while True:
        message, files, _, _ = socket.recv_fds(control, 1 << 16, 3)
        _reap()
        if not message:
            sys.exit(0)
        if os.fork() == 0:
            status = 1
            try:
                os.setsid()  # whoever ends the worker's group must leave us time to empty the sandbox
                control.close()
                keep(json.loads(message), *files)
                status = 0
            finally:
                os._exit(status)
        for file in files:
            os.close(file)


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
