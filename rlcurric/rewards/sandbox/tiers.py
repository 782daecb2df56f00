"""The tiers of the sandbox: what each guarantees, which of them this machine has, which a recipe gets."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from rlcurric.rewards.sandbox import calls, kernel
from rlcurric.rewards.sandbox.users import spare_user

Tier = Literal["bubblewrap", "namespaces", "limits"]
Setting = Literal["auto", "bubblewrap", "namespaces", "limits"]
TIERS: tuple[Tier, ...] = get_args(Tier)

# What a solution cannot do, in the order in which `doctor` lists them.
GUARANTEES = {
    "time": "run on beyond its time",
    "memory": "take more memory than its limit, in each of at most 8 processes",
    "output": "fill a disk, or send more than its limit",
    "processes": "start more processes than its limit",
    "daemons": "leave a process behind",
    "answers": "see the expected answers, or the process that compares with them",
    "environment": "read the environment of another process",
    "parent": "send a signal to a process outside",
    "reading": "read files outside the Python installation and system libraries",
    "writing": "write, create or remove a file",
    "network": "reach a network",
}
_ALWAYS = frozenset({"time", "memory", "output", "processes", "daemons", "answers"})


class SandboxError(Exception):
    """A sandbox could not be set up: an outage, which says nothing about what was to run in it."""


@dataclass(frozen=True)
class Found:
    """A tier on this machine."""

    tier: Tier
    guarantees: frozenset[str]  # keys of GUARANTEES
    missing: str = ""  # why it cannot be used; empty where it can


def guarantees(tier: Tier) -> frozenset[str]:
    """What a tier guarantees here: `limits` depends on the kernel's Landlock and on being root.

    Where the numbers of the kernel's calls are not known, memory that the processes of a user share is not counted.
    """
    if tier == "namespaces":
        return frozenset(GUARANTEES)
    if tier == "bubblewrap":
        return frozenset(GUARANTEES) - (set() if calls.known() else {"memory"})
    landlock, other_user = kernel.landlock_version(), spare_user(0) is not None
    held = set(_ALWAYS) | {"network"} if calls.known() else set(_ALWAYS) - {"memory"}
    if landlock >= 1:
        held |= {"reading", "writing", "environment"}
    if landlock >= 6:
        held.add("parent")
    if other_user:
        held |= {"environment", "parent"}
    return frozenset(held)


@functools.cache
def find(tier: Tier) -> Found:
    """Try a tier: a program is run in it, by a process that does nothing else."""
    held = guarantees(tier)
    if tier == "bubblewrap" and bwrap_path() is None:
        return Found(tier, held, "the program bwrap is not installed")
    program = (
        "import sys; sys.path[:] = sys.argv[2:]\n"
        "from rlcurric.rewards.sandbox.program import try_tier\ntry_tier(sys.argv[1])"
    )
    line = [sys.executable, "-c", program, tier, *filter(None, sys.path), os.getcwd()]
    ended = subprocess.run(line, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if ended.returncode == 0:
        return Found(tier, held)
    said = ended.stderr.strip().splitlines() or [f"it ended with status {ended.returncode}"]
    return Found(tier, held, said[-1].partition("SandboxError: ")[2] or said[-1])


_in_use: Tier | None = None
_bwrap: str | None = None  # where bubblewrap is, in a process that was told


def use(tier: Tier, bwrap: str | None = None) -> None:
    """Make it the tier of the solutions that this process has run; `bwrap` is that program's path."""
    global _in_use, _bwrap
    _in_use, _bwrap = tier, bwrap


def bwrap_path() -> str | None:
    """Where the program bwrap is; None if it is not installed."""
    return _bwrap or shutil.which("bwrap")


def in_use() -> Tier:
    """That tier; in a process that was not told, what `settle` finds for `auto`."""
    return _in_use or settle("auto")


def settle(setting: Setting, where: str = "grading.sandbox") -> Tier:
    """The tier that a recipe's setting means on this machine.

    `auto` is the first of bubblewrap and namespaces that works; never limits alone, which a recipe must ask for by name.
    ValueError where there is none, or where the tier that is asked for does not work. Reward workers close themselves
    off by namespaces, so these must work unless the setting is `limits`.
    """
    if setting not in get_args(Setting):
        raise ValueError(f"{where} must be one of {', '.join(get_args(Setting))}; got {setting!r}")
    tried = [find(tier) for tier in TIERS if setting in ("auto", tier)]
    usable = [one.tier for one in tried if not one.missing]
    if setting == "auto":
        usable = [tier for tier in usable if tier != "limits"]
    if usable:
        if setting != "limits" and (missing := find("namespaces").missing):
            raise ValueError(
                f"{where}: {usable[0]} works here, but reward workers close themselves off by namespaces, which do not: "
                f"{missing}. Allow user namespaces; or accept limits alone with {where}=limits."
            )
        return usable[0]
    reasons = "\n".join(f"  {one.tier}: {one.missing}" for one in tried if one.missing)
    if setting != "auto":
        raise ValueError(f"{where}: {setting} does not work here:\n{reasons}")
    open_ = ", ".join(what for key, what in GUARANTEES.items() if key not in guarantees("limits"))
    raise ValueError(
        f"{where}: neither bubblewrap nor namespaces work here, so model text would run under limits alone and could "
        f"{open_}:\n{reasons}\nInstall bubblewrap or allow user namespaces; or accept it with {where}=limits."
    )


def describe() -> list[str]:
    """What `doctor` says: a line for each tier, then what the active one guarantees."""
    found = [find(tier) for tier in TIERS]
    active = next((one for one in found if not one.missing), None)
    lines = []
    for one in found:
        state = one.missing or ("active" if one is active else "works")
        lines.append(f"sandbox tier {one.tier}: {state}")
    if active is None:
        return [*lines, "no sandbox works here: the code reward cannot run"]
    held = [what for key, what in GUARANTEES.items() if key in active.guarantees]
    lines.append(f"a solution cannot: {'; '.join(held)}")
    rest = [what for key, what in GUARANTEES.items() if key not in active.guarantees]
    if rest:
        lines.append(f"NOT guaranteed, a solution might: {'; '.join(rest)}")
    if active.tier == "limits":
        lines.append("limits alone are used only where a recipe says grading.sandbox: limits")
    return lines


@functools.cache
def interpreter() -> str:
    """The Python that solutions run in: this one, without a virtual environment's packages."""
    return os.path.realpath(sys.executable)


@functools.cache
def readable() -> tuple[str, ...]:
    """What a solution must be able to read: the interpreter, its standard library, the system's libraries."""
    prefix = os.path.realpath(sys.base_prefix)
    base = {"base": sys.base_prefix, "platbase": sys.base_exec_prefix}  # of no virtual environment
    base |= {"installed_base": sys.base_prefix, "installed_platbase": sys.base_exec_prefix}
    wanted = [
        interpreter(),
        *(
            os.path.realpath(sysconfig.get_path(name, vars=base))
            for name in ("stdlib", "platstdlib")
        ),
        *([] if prefix in ("/", "/usr") else [f"{prefix}/lib"]),
        *("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache"),
    ]
    there = sorted({path for path in wanted if os.path.exists(path)})
    return tuple(
        path
        for path in there
        if not any(path.startswith(f"{other}/") for other in there if not os.path.islink(other))
    )


@functools.cache
def open_to_all() -> bool:
    """Whether any user may read the interpreter and its library."""
    paths = [Path(path) for path in readable()]
    places = {place for path in paths for place in (path, *path.parents)}
    return all(place.stat().st_mode & 0o005 == 0o005 for place in places)


def bubblewrap(as_root: bool) -> list[str]:
    """The bwrap command in front of the interpreter's. As root the program inside changes the user, see `inside`."""
    command = bwrap_path()
    if command is None:
        raise SandboxError("the program bwrap is not installed")
    line = [command, "--die-with-parent", "--new-session", "--clearenv", "--cap-drop", "ALL"]
    line += ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts"]
    line += (
        ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
        if as_root
        else ["--unshare-user", "--uid", "65534", "--gid", "65534"]
    )
    for name, value in ENVIRONMENT.items():
        line += ["--setenv", name, value]
    parents = {
        str(place) for path in readable() for place in Path(path).parents if str(place) != "/"
    }
    for place in sorted(parents):  # else they have the modes of those outside
        line += ["--perms", "0755", "--dir", place]
    for path in readable():
        line += (
            ["--symlink", os.readlink(path), path]
            if os.path.islink(path)
            else ["--ro-bind", path, path]
        )
    if calls.known():
        line += ["--seccomp", str(_filter_file())]
    return [*line, "--remount-ro", "/", "--chdir", "/", "--"]


def _filter_file() -> int:
    """A file, open and to be inherited, with the filter of calls that bubblewrap puts in force."""
    file = os.memfd_create("calls", 0)
    os.write(file, calls.refusals())
    os.lseek(file, 0, os.SEEK_SET)
    return file


ENVIRONMENT = {"PYTHONHASHSEED": "0", "LANG": "C.UTF-8", "PATH": ""}


def command(source: str) -> list[str]:
    """Start the interpreter on a program text, with the standard library alone."""
    return [interpreter(), "-S", "-s", "-P", "-B", "-X", "utf8", "-c", source]
