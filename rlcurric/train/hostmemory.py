"""Memory of the machine, or of the control group that the run is confined to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
_UNLIMITED = 1 << 60  # control groups of version 1 say so with a number near 2**63

ADVICE = (
    "Lower grading.workers, rollout.vllm.cpu_kv_cache_gib and run.checkpoints.keep_last where checkpoints lie in "
    "memory (tmpfs), start fewer ranks on a host, or give the job more memory"
)


@dataclass(frozen=True)
class HostMemory:
    """In bytes."""

    rss: int  # of this process and all below it; pages that they share count for each
    available: int  # until the kernel or the control group refuses more
    total: int

    @property
    def fraction(self) -> float:
        return self.available / self.total

    def metrics(self) -> dict[str, int]:
        return {"memory/host/rss_bytes": self.rss, "memory/host/available_bytes": self.available}

    def __str__(self) -> str:
        gib = [f"{value / 2**30:.1f} GiB" for value in (self.available, self.total, self.rss)]
        return f"{gib[0]} of {gib[1]} are left ({self.fraction:.1%}); this rank's processes hold {gib[2]}"


def read_host_memory() -> HostMemory:
    """As it is now; milliseconds, the more the more processes the machine has."""
    import psutil

    available, total = read_room()
    me = psutil.Process()
    rss = 0
    for process in (me, *me.children(recursive=True)):
        try:
            rss += process.memory_info().rss
        except psutil.Error:  # ended meanwhile
            continue
    return HostMemory(rss, available, total)


def read_room() -> tuple[int, int]:
    """Bytes that are available, and of how many: of the machine, or of the control group that has the least left."""
    import psutil

    machine = psutil.virtual_memory()
    rooms = [(int(machine.available), int(machine.total)), *_groups()]
    available, total = min(rooms, key=lambda room: room[0] / room[1])
    return max(0, available), total


def _groups() -> list[tuple[int, int]]:
    """(available, limit) of every control group that this process is in and that has a limit."""
    rooms = []
    for line in MEMBERSHIP.read_text(encoding="utf-8").splitlines() if MEMBERSHIP.exists() else []:
        number, controllers, path = line.split(":", 2)
        if number == "0":
            root, limit, usage, idle = CGROUPS, "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            root, limit = CGROUPS / "memory", "memory.limit_in_bytes"
            usage, idle = "memory.usage_in_bytes", "total_inactive_file"
        else:
            continue
        folder = root / path.lstrip("/")
        while folder == root or root in folder.parents:
            room = _room(folder, limit, usage, idle)
            if room is not None:
                rooms.append(room)
            folder = folder.parent
    return rooms


def _room(folder: Path, limit: str, usage: str, idle: str) -> tuple[int, int] | None:
    try:
        most = (folder / limit).read_text(encoding="utf-8").strip()
        used = int((folder / usage).read_text(encoding="utf-8"))
        statistics = (folder / "memory.stat").read_text(encoding="utf-8")
    except (
        OSError,
        ValueError,
    ):  # not there: the root group has none, a container sees its own only
        return None
    if most == "max" or int(most) >= _UNLIMITED or int(most) <= 0:
        return None
    cached = next(
        (int(line.split()[1]) for line in statistics.splitlines() if line.split()[0] == idle), 0
    )
    return int(most) - max(0, used - cached), int(most)
