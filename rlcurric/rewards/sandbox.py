"""Closing off a worker process: no network, no writable files, little memory, no process that outlives its call.

Best effort in layers, by what the kernel allows: `close_off` says which are in force. Linux only; elsewhere the limits
alone.
"""

from __future__ import annotations

import ctypes
import math
import os
import resource
import signal
import sys

_CLONE_NEWNS, _CLONE_NEWUSER, _CLONE_NEWNET, _CLONE_NEWIPC = (
    0x00020000,
    0x10000000,
    0x40000000,
    0x08000000,
)
_CLONE_NEWPID = 0x20000000
_MS_REC, _MS_PRIVATE = 0x4000, 1 << 18
_AT_FDCWD, _AT_RECURSIVE, _MOUNT_ATTR_RDONLY = -100, 0x8000, 1
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_SYS_CLONE3, _SYS_MOUNT_SETATTR, _SYS_LANDLOCK_CREATE, _SYS_LANDLOCK_RESTRICT = 435, 442, 444, 446
# Every right that creates or changes something in a file system (kernel ABI 1).
_LANDLOCK_WRITES = (1 << 1) | sum(1 << bit for bit in range(4, 13))

MEMORY_BYTES = 4 << 30
OPEN_FILES = 64


class _MountAttributes(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "userns_fd")]


class _CloneArguments(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_uint64)
        for name in "flags pidfd child_tid parent_tid exit_signal stack stack_size tls".split()
    ]


_own_processes = False  # whether `fork` gives a child its own process namespace


def fork() -> int:
    """`os.fork`, with a process namespace for the child where the kernel allows it: all it starts dies with it."""
    if not _own_processes:
        return os.fork()
    arguments = _CloneArguments(flags=_CLONE_NEWPID, exit_signal=signal.SIGCHLD)
    python, libc = ctypes.pythonapi, ctypes.PyDLL(None, use_errno=True)
    python.PyOS_BeforeFork()
    child: int = libc.syscall(_SYS_CLONE3, ctypes.byref(arguments), ctypes.sizeof(arguments))
    if child == 0:
        python.PyOS_AfterFork_Child()
        return 0
    python.PyOS_AfterFork_Parent()
    if child < 0:
        raise OSError(ctypes.get_errno(), "clone3")
    return child


def limit_cpu(seconds: float) -> None:
    """Let this process use no more processor time than that, rounded up, and a second."""
    limit = math.ceil(seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent dies, however that comes about."""
    if sys.platform == "linux":
        _libc().prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def close_off() -> list[str]:
    """Give up network, writing and privileges for good; the names of the layers that took effect."""
    layers = []
    if sys.platform == "linux":
        libc = _libc()
        user = 0 if os.geteuid() == 0 else _CLONE_NEWUSER
        if libc.unshare(user | _CLONE_NEWNET | _CLONE_NEWNS | _CLONE_NEWIPC) == 0:
            layers.append("network")
            read_only = _MountAttributes(_MOUNT_ATTR_RDONLY, 0, 0, 0)
            private = libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None) == 0
            size = ctypes.sizeof(read_only)
            arguments = (_AT_FDCWD, b"/", _AT_RECURSIVE, ctypes.byref(read_only), size)
            if private and libc.syscall(_SYS_MOUNT_SETATTR, *arguments) == 0:
                layers.append("read-only files")
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        if _landlock(libc):
            layers.append("landlock")
        if _try_own_processes():
            layers.append("processes")
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, OPEN_FILES))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    layers.append("limits")
    return layers


def _try_own_processes() -> bool:
    """Switch process namespaces on if a first child comes up in one."""
    global _own_processes
    _own_processes = True
    try:
        child = fork()
        if child == 0:
            os._exit(0 if os.getpid() == 1 else 1)
        _own_processes = os.waitpid(child, 0)[1] == 0
    except OSError:
        _own_processes = False
    return _own_processes


def _landlock(libc: ctypes.CDLL) -> bool:
    """Refuse every write to every file system: a ruleset that handles writes and allows none."""
    handled = ctypes.c_uint64(_LANDLOCK_WRITES)
    ruleset = libc.syscall(_SYS_LANDLOCK_CREATE, ctypes.byref(handled), ctypes.sizeof(handled), 0)
    if ruleset < 0:
        return False
    restricted: bool = libc.syscall(_SYS_LANDLOCK_RESTRICT, ruleset, 0) == 0
    os.close(ruleset)
    return restricted


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
