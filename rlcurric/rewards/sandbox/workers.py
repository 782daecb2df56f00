"""Closing off a worker process: no network, no writable files, little memory, no process that outlives its call.

Every layer that the kernel allows is put in force, and `close_off` says which are: `network`, `read-only files` and
`processes` together are the tier `namespaces`. Linux only; elsewhere the limits alone.
"""

from __future__ import annotations

import contextlib
import math
import os
import resource
import sys
import time

from rlcurric.rewards.sandbox import kernel
from rlcurric.rewards.sandbox.users import spare_user

MEMORY_BYTES = 4 << 30
OPEN_FILES = 64
PROCESSES = 64  # of one call

_own_processes = False  # whether `fork` gives a child its own process namespace
_user: int | None = None  # whom a child becomes; None: it stays who it is
_ends = math.inf  # monotonic: the deadline of this process


def fork() -> int:
    """`os.fork`; the child has, as far as `close_off` could see to it, a process namespace and a powerless user.

    With a process namespace all that the child starts dies with it. The user matters where the worker is root, which no
    limit on processes binds and which may look into every other process; the child can read what root can.
    """
    child = kernel.clone(kernel.NEW_PROCESSES) if _own_processes else os.fork()
    if child == 0 and _user is not None:
        kernel.become(_user, keep=[kernel.CAP_READ_ALL])
        resource.setrlimit(resource.RLIMIT_NPROC, (PROCESSES, PROCESSES))
    return child


def limit_cpu(seconds: float) -> None:
    """Let this process use no more processor time than that, rounded up, and a second."""
    global _ends
    _ends = time.monotonic() + seconds
    limit = math.ceil(seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))


def time_left() -> float:
    """Seconds until the deadline of the call that this process serves; infinite outside a worker."""
    return _ends - time.monotonic()


def close_off() -> list[str]:
    """Give up network, writing and privileges for good; the names of the layers that took effect."""
    layers: list[str] = []
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            _leave_namespaces(layers)
        kernel.no_new_privileges()
        with contextlib.suppress(OSError):
            kernel.landlock()
            layers.append("landlock")
        _try_own_processes(layers)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, OPEN_FILES))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    layers.append("limits")
    return layers


def _leave_namespaces(layers: list[str]) -> None:
    user = 0 if os.geteuid() == 0 else kernel.NEW_USER
    kernel.unshare(user | kernel.NEW_NET | kernel.NEW_MOUNTS | kernel.NEW_IPC)
    layers.append("network")
    kernel.private_mounts()
    kernel.read_only("/")
    layers.append("read-only files")


def _try_own_processes(layers: list[str]) -> None:
    """Switch process namespaces, and another user, on if a first child comes up with them."""
    global _own_processes, _user
    candidate = spare_user(os.getpid())
    for own, user in ((True, candidate), (True, None), (False, candidate)):
        _own_processes, _user = own, user
        with contextlib.suppress(OSError):
            child = fork()
            if child == 0:
                as_wanted = (os.getpid() == 1 or not own) and user in (None, os.geteuid())
                os._exit(0 if as_wanted else 1)
            if os.waitpid(child, 0)[1] == 0:
                layers += ["processes"] * own + ["user"] * (user is not None)
                return
    _own_processes, _user = False, None
