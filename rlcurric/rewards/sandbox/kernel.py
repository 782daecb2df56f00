"""The kernel's calls that the sandbox is made of, by ctypes. Linux only; every call raises OSError when refused."""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

NEW_MOUNTS, NEW_USER, NEW_NET, NEW_IPC, NEW_UTS, NEW_PROCESSES = (
    0x00020000,
    0x10000000,
    0x40000000,
    0x08000000,
    0x04000000,
    0x20000000,
)
_MS_BIND, _MS_REC, _MS_PRIVATE, _MNT_DETACH = 0x1000, 0x4000, 1 << 18, 2
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_RDONLY, _NOSUID, _NODEV = 1, 2, 4
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_KEEPCAPS = 1, 4, 8
_PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 36, 38, 47
_AMBIENT_RAISE = 2
CAP_READ_ALL = 2  # CAP_DAC_READ_SEARCH: reads whatever the modes of files say
_CAPABILITY_VERSION = 0x20080522
# The newer calls have one number everywhere; this one does not.
_SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41, "riscv64": 41, "ppc64le": 203, "s390x": 217}
_SYS_CAPSET = {"x86_64": 126, "aarch64": 91, "riscv64": 91, "ppc64le": 184, "s390x": 185}
_SYS_CLONE3, _SYS_MOUNT_SETATTR = 435, 442
_SYS_LANDLOCK_CREATE, _SYS_LANDLOCK_ADD, _SYS_LANDLOCK_RESTRICT = 444, 445, 446
# Rights of Landlock, kernel ABI 1: everything that creates or changes something; reading; running.
_WRITES = (1 << 1) | sum(1 << bit for bit in range(4, 13))
_READS = (1 << 0) | (1 << 2) | (1 << 3)
_TCP = 3  # bind and connect, ABI 4
_SCOPES = 3  # abstract sockets and signals, ABI 6


class _MountAttributes(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "userns_fd")]


class _CloneArguments(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_uint64)
        for name in "flags pidfd child_tid parent_tid exit_signal stack stack_size tls".split()
    ]


class _Ruleset(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("files", "net", "scoped")]


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32)]


class _CapabilityHeader(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _CapabilityData(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint32) for name in ("effective", "permitted", "inheritable")]


def unshare(flags: int) -> None:
    """Leave the namespaces that `flags` name for new ones."""
    _checked(_libc().unshare(flags), "unshare")


def clone(flags: int) -> int:
    """`os.fork` with new namespaces for the child."""
    arguments = _CloneArguments(flags=flags, exit_signal=signal.SIGCHLD)
    python, libc = ctypes.pythonapi, ctypes.PyDLL(None, use_errno=True)
    python.PyOS_BeforeFork()
    child: int = libc.syscall(_SYS_CLONE3, ctypes.byref(arguments), ctypes.sizeof(arguments))
    if child == 0:
        python.PyOS_AfterFork_Child()
        return 0
    python.PyOS_AfterFork_Parent()
    return _checked(child, "clone3")


def die_with_parent(by: signal.Signals = signal.SIGKILL) -> None:
    """Ask the kernel for a signal to this process when its parent dies, however that comes about."""
    if sys.platform == "linux":
        _libc().prctl(_PR_SET_PDEATHSIG, by, 0, 0, 0)


def no_new_privileges() -> None:
    _checked(_libc().prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")


def keep_out() -> None:
    """No process of the same user may look into this one."""
    _checked(_libc().prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0), "dumpable")


def adopt_orphans() -> None:
    """Whatever a descendant leaves behind becomes a child of this process."""
    _checked(_libc().prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "subreaper")


def become(user: int, keep: Sequence[int] = ()) -> None:
    """Be another user, for good, with no capability but those kept, which also outlive an exec."""
    libc = _libc()
    _checked(libc.prctl(_PR_SET_KEEPCAPS, 1 if keep else 0, 0, 0, 0), "keepcaps")
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    if keep:
        set_capabilities(keep)
        for capability in keep:
            ambient = (_PR_CAP_AMBIENT, _AMBIENT_RAISE, capability, 0, 0)
            _checked(libc.prctl(*ambient), "ambient capability")


def set_capabilities(keep: Iterable[int]) -> None:
    """Keep these of this process' capabilities, all below 32, and no other."""
    number = _number(_SYS_CAPSET)
    mask = sum(1 << capability for capability in keep)
    data = (_CapabilityData * 2)(_CapabilityData(mask, mask, mask))
    header = _CapabilityHeader(_CAPABILITY_VERSION, 0)
    _checked(_libc().syscall(number, ctypes.byref(header), data), "capset")


def private_mounts() -> None:
    """What is mounted here is seen nowhere else."""
    _checked(_libc().mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None), "private mounts")


def read_only(path: str, strip: bool = False) -> None:
    """Everything mounted below `path` becomes read-only; with `strip` without devices and set-user-id files."""
    wanted = _RDONLY | (_NOSUID | _NODEV if strip else 0)
    attributes = _MountAttributes(wanted, 0, 0, 0)
    size = ctypes.sizeof(attributes)
    arguments = (_AT_FDCWD, os.fsencode(path), _AT_RECURSIVE, ctypes.byref(attributes), size)
    _checked(_libc().syscall(_SYS_MOUNT_SETATTR, *arguments), "mount_setattr")


def small_root(paths: Sequence[str]) -> None:
    """Make a file system with nothing but these paths, read-only, the root of this mount namespace."""
    libc = _libc()
    private_mounts()
    base = next(
        place
        for place in ("/sys", "/mnt", "/tmp", "/var")
        if os.path.isdir(place) and not any(path.startswith(place + "/") for path in paths)
    )
    _checked(libc.mount(b"none", base.encode(), b"tmpfs", 0, b"size=1m,mode=755"), "mount tmpfs")
    for path in paths:
        target = base + path
        if os.path.islink(path):
            Path(target).parent.mkdir(parents=True, exist_ok=True)
            os.symlink(os.readlink(path), target)
            continue
        if os.path.isdir(path):
            os.makedirs(target, exist_ok=True)
        else:
            Path(target).parent.mkdir(parents=True, exist_ok=True)
            Path(target).touch()
        arguments = (os.fsencode(path), os.fsencode(target), None, _MS_BIND | _MS_REC, None)
        _checked(libc.mount(*arguments), f"bind {path}")
    read_only(base, strip=True)
    os.chdir(base)
    _checked(libc.syscall(_number(_SYS_PIVOT_ROOT), b".", b"."), "pivot_root")
    _checked(libc.umount2(b".", _MNT_DETACH), "umount")
    os.chdir("/")


def landlock_version() -> int:
    """ABI version of the kernel's Landlock; 0 where there is none."""
    if sys.platform != "linux":
        return 0
    return max(0, int(_libc().syscall(_SYS_LANDLOCK_CREATE, None, ctypes.c_size_t(0), 1)))


def landlock(readable: Sequence[str] | None = None, connections: bool = True) -> None:
    """Refuse every write; with `readable` also every read elsewhere; without `connections` TCP and signals outwards."""
    libc, version = _libc(), landlock_version()
    files = _WRITES | (_READS if readable is not None else 0)
    net = _TCP if not connections and version >= 4 else 0
    scoped = _SCOPES if not connections and version >= 6 else 0
    rules = _Ruleset(files, net, scoped)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = libc.syscall(_SYS_LANDLOCK_CREATE, ctypes.byref(rules), ctypes.c_size_t(size), 0)
    _checked(ruleset, "landlock")
    try:
        for path in readable or ():
            beneath = os.open(path, os.O_PATH)
            rights = _READS if os.path.isdir(path) else _READS & ~(1 << 3)
            rule = _PathBeneath(rights, beneath)
            try:
                arguments = (_SYS_LANDLOCK_ADD, ruleset, 1, ctypes.byref(rule), 0)
                _checked(libc.syscall(*arguments), f"landlock {path}")
            finally:
                os.close(beneath)
        _checked(libc.syscall(_SYS_LANDLOCK_RESTRICT, ruleset, 0), "landlock")
    finally:
        os.close(ruleset)


def _number(numbers: dict[str, int]) -> int:
    machine = platform.machine()
    if machine not in numbers:
        raise OSError(f"no call numbers are known for {machine}")
    return numbers[machine]


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
