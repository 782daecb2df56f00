"""Calls of the kernel that no solution needs, refused by a seccomp filter.

Without `socket` there is no network, in any tier; without System V's memory every page counts against a process' limit;
the others only make a way out shorter.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct

# Number of each call, and the kernel's name of the machine, in the filter's terms.
_MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_REFUSED = {
    "socket": (41, 198), "ptrace": (101, 117), "shmget": (29, 194), "semget": (64, 190), "msgget": (68, 186),
    "mq_open": (240, 180), "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "add_key": (248, 217), "request_key": (249, 218),
    "keyctl": (250, 219), "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282),
    "open_by_handle_at": (304, 265), "io_uring_setup": (425, 425), "pidfd_getfd": (438, 438),
    "memfd_secret": (447, 447),
}  # fmt: skip
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW, _ERROR, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_NUMBER, _MACHINE = 0, 4  # where they stand in what the filter sees
_X32 = 0x40000000  # from here on calls have a second set of numbers
_PR_SET_SECCOMP, _FILTER_MODE = 22, 2


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def known() -> bool:
    """Whether the numbers of the calls are known for this machine."""
    return platform.machine() in _MACHINES


def refusals() -> bytes:
    """The filter, as the kernel and bubblewrap read it; empty where the numbers are not known."""
    machine = platform.machine()
    if not known():
        return b""
    column = list(_MACHINES).index(machine)
    numbers = sorted(pair[column] for pair in _REFUSED.values())
    steps = [
        (_LOAD, 0, 0, _MACHINE),
        (_EQUAL, 1, 0, _MACHINES[machine]),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
        (_AT_LEAST, len(numbers) + 1, 0, _X32),
    ]
    steps += [(_EQUAL, len(numbers) - k, 0, number) for k, number in enumerate(numbers)]
    steps += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _ERROR | errno.EPERM)]
    return b"".join(struct.pack("HBBI", *step) for step in steps)


def refuse() -> None:
    """Refuse them to this process and all that it starts, for good. It must not be able to gain privileges."""
    program = refusals()
    if not program:
        return
    filter_ = _Program(len(program) // 8, program)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_SECCOMP, _FILTER_MODE, ctypes.byref(filter_), 0, 0) < 0:
        raise OSError(ctypes.get_errno(), "seccomp")
