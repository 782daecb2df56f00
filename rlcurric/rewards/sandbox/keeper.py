"""One sandbox: set up by tier, watched, and emptied at its end. What runs in it is `inside`."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlcurric.rewards.sandbox import calls, inside, kernel, tiers
from rlcurric.rewards.sandbox.users import spare_user

INNER_USER = 65534  # what a solution is called where it has a user namespace of its own
_SHIELD = kernel.NEW_NET | kernel.NEW_MOUNTS | kernel.NEW_IPC | kernel.NEW_UTS


def keep(request: dict[str, Any], given: int, taken: int, said: int) -> None:
    """Run the sandbox of one request; its end goes to the socket `said` as JSON: {"exit"}, {"timeout"} or {"error"}."""
    asker = socket.socket(fileno=said)
    ends = time.monotonic() + request["seconds"]
    kernel.adopt_orphans()
    user = spare_user(os.getpid())
    try:
        child = _start(request["tier"], user, given, taken, said)
    except OSError as error:
        asker.send(json.dumps({"error": str(error)}).encode())
        return
    os.close(given)
    os.close(taken)
    try:
        verdict = _watch(child, asker, ends)
    finally:
        _empty(user if request["tier"] == "limits" else None)
    with contextlib.suppress(OSError):
        asker.send(json.dumps(verdict).encode())


def user_inside(tier: str) -> int | None:
    """Whom `inside` itself must become: under bubblewrap started by root. Elsewhere that is done before it starts."""
    return spare_user(os.getpid()) if tier == "bubblewrap" else None


def process_limit(tier: str) -> int:
    """Limit on processes and threads of the solution's user, for `inside` to set."""
    if tier != "limits" or spare_user(0) is not None:
        return PROCESSES
    # Under the caller's own user everything that this user runs counts.
    return PROCESSES + sum(_threads_of(os.geteuid()))


PROCESSES = 8


def _threads_of(user: int) -> Iterator[int]:
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):
            if folder.stat().st_uid == user:
                yield sum(1 for _ in (folder / "task").iterdir())


def _start(tier: str, user: int | None, given: int, taken: int, said: int) -> int:
    """The outermost process of a new sandbox; OSError where it cannot be set up."""
    source = Path(inside.__file__).read_text(encoding="utf-8")
    tiers.readable()  # looked up before the child has no file system to look at
    note, tell = os.pipe()  # what failed before the interpreter started; closed when it does
    ask, mapped = os.pipe()
    flags = kernel.NEW_PROCESSES | (_SHIELD if user is not None else _SHIELD | kernel.NEW_USER)
    child = kernel.clone(flags) if tier == "namespaces" else os.fork()
    if child == 0:
        try:
            kernel.die_with_parent()
            os.close(mapped)
            os.close(note)
            for file, stream in ((given, 0), (taken, 1)):
                os.dup2(file, stream)
            for file in (given, taken, said):
                os.close(file)
            os.setsid()
            if tier == "namespaces":
                _enter_namespaces(user, tell, ask)
            elif tier == "limits":
                _enter_limits(user)
            line = tiers.command(source)
            if tier == "bubblewrap":
                line = tiers.bubblewrap(user is not None) + line
            if tier == "namespaces":
                _run_below(line, tell)
            kernel.die_with_parent()  # again: a change of user clears it
            os.set_inheritable(tell, False)
            os.execve(line[0], line, tiers.ENVIRONMENT)
        except BaseException as error:
            os.write(tell, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(70)
    os.close(tell)
    os.close(ask)
    with open(note, "rb", buffering=0) as notes, contextlib.ExitStack() as stack:
        stack.callback(os.close, mapped)
        problem = notes.read(4096)
        if problem == b"map":
            _map_user(child, user)
            os.write(mapped, b"x")
            problem = notes.read(4096)
    if problem:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise OSError(problem.decode(errors="replace"))
    return child


def _map_user(child: int, user: int | None) -> None:
    """Let the child's user namespace know one user: an id that has no rights outside, as far as we may choose it."""
    outside, group = (user, user) if user is not None else (os.geteuid(), os.getegid())
    folder = Path(f"/proc/{child}")
    if user is None:
        (folder / "setgroups").write_text("deny")
    (folder / "uid_map").write_text(f"{INNER_USER} {outside} 1")
    (folder / "gid_map").write_text(f"{INNER_USER} {group} 1")


def _enter_namespaces(user: int | None, tell: int, ask: int) -> None:
    """As process 1 of a new process namespace: a small read-only root, no network, a user without rights."""

    def be_mapped() -> None:
        os.write(tell, b"map")
        if not os.read(ask, 1):
            os._exit(70)

    with contextlib.suppress(OSError):  # else shared memory is bounded by that of a process
        Path("/proc/sys/kernel/shmall").write_text("0")
    if user is None:
        be_mapped()
        kernel.small_root(tiers.readable())
    else:  # real root: it mounts what no other user could, and then has nothing to say about it
        kernel.small_root(tiers.readable())
        os.setgroups([])
        kernel.unshare(kernel.NEW_USER)
        be_mapped()
    os.setresgid(INNER_USER, INNER_USER, INNER_USER)
    os.setresuid(INNER_USER, INNER_USER, INNER_USER)
    kernel.set_capabilities(())
    kernel.no_new_privileges()
    calls.refuse()
    kernel.keep_out()
    kernel.die_with_parent()


def _run_below(line: list[str], tell: int) -> None:
    """As process 1: start the program as another process, wait for it, and end as it did: all others end with us."""
    child = os.fork()
    if child == 0:
        os.set_inheritable(tell, False)
        os.execve(line[0], line, tiers.ENVIRONMENT)
    os.close(tell)
    null = os.open("/", os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(null, 1)
    while True:
        found, status = os.waitpid(-1, 0)
        if found == child:
            os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def _enter_limits(user: int | None) -> None:
    """Another user, if we are root, and Landlock, if the kernel has it; `inside` sets the limits themselves."""
    kernel.no_new_privileges()
    calls.refuse()
    if kernel.landlock_version() > 0:
        kernel.landlock(tiers.readable(), connections=False)
    if user is not None:
        kernel.become(user, keep=[] if tiers.open_to_all() else [kernel.CAP_READ_ALL])


def _watch(child: int, asker: socket.socket, ends: float) -> dict[str, Any]:
    """Wait for the child's end, for that of the time, or until nobody wants to know."""
    watched = os.pidfd_open(child)
    poll = select.poll()
    poll.register(watched, select.POLLIN)
    poll.register(asker, select.POLLIN | select.POLLHUP)
    try:
        events = poll.poll(max(0.0, ends - time.monotonic()) * 1000)
    finally:
        os.close(watched)
    if any(file == watched for file, _ in events):
        _, status = os.waitpid(child, os.WNOHANG)
        return {"exit": os.waitstatus_to_exitcode(status)}
    os.kill(child, signal.SIGKILL)
    return {"timeout": True} if not events else {"exit": -signal.SIGKILL}


def _empty(user: int | None) -> None:
    """Kill all that is left of the sandbox. Orphans are our children by now, so the end is when there are none."""
    while True:
        if user is not None:
            _kill_all_of(user)
        else:
            _kill_below()
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _kill_all_of(user: int) -> None:
    """Every process of a user of ours, at once: as that user, so that nobody else can be meant."""
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        kernel.become(user)
        with contextlib.suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL)
        os._exit(0)
    os.waitpid(child, 0)


def _kill_below() -> None:
    """All our descendants: stopped first, so that none starts another while we look for it."""
    stopped: set[int] = set()
    while new := _descendants() - stopped:
        for process in new:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(process, signal.SIGSTOP)
        stopped |= new
    for process in stopped:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(process, signal.SIGKILL)


def _descendants() -> set[int]:
    parents = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(file.parent.name)] = int(file.read_text().rpartition(")")[2].split()[1])
    found: set[int] = set()
    level = {os.getpid()}
    while level:
        level = {child for child, parent in parents.items() if parent in level} - found
        found |= level
    return found
