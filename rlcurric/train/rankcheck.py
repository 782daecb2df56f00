"""What several ranks need beside the trainer: that they reach each other, share a folder, and agree on the time.

Every function is called on all ranks in the same order. What goes wrong on one rank is gathered as text where it can be, so
that one report names all ranks that fail.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import socket
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import psutil
import torch

from rlcurric.errors import RunError
from rlcurric.train.coordinator import Coordinator
from rlcurric.version import __version__

CLOCK_LIMIT = 1.0  # seconds between the clocks of two hosts that are worth a warning
SHARED_WITHIN = 15.0  # seconds until a file of one host must be seen on another
_ROUNDS = 5
_MIB = 2**20
LOW_DISK, LOW_MEMORY = 10.0, 2.0  # GiB; memory: of each rank


@dataclass(frozen=True)
class RankFacts:
    """Where one rank runs and what it has there."""

    rank: int
    host: str
    pid: int
    device: str
    threads: int
    cores: int  # that this process may use
    memory_gib: float  # free, of the whole host
    disk_gib: float  # free where runs are written
    versions: tuple[str, ...]


@dataclass(frozen=True)
class AllReduce:
    """A sum over ranks that was timed and compared with what it must be."""

    backend: str
    bytes: int
    seconds: float  # the best of a few
    wrong: list[int]  # ranks that got another sum


def device_of_rank() -> torch.device:
    """The GPU of this rank, or the CPU where there is none."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def survey(ranks: Coordinator, folder: Path) -> list[RankFacts]:
    """What every rank has, in rank order."""
    device = device_of_rank()
    gpu = f" {torch.cuda.get_device_name(device)}" if device.type == "cuda" else ""
    facts = RankFacts(
        rank=ranks.rank,
        host=socket.gethostname(),
        pid=os.getpid(),
        device=f"{device}{gpu}",
        threads=torch.get_num_threads(),
        cores=len(os.sched_getaffinity(0)),
        memory_gib=psutil.virtual_memory().available / 2**30,
        disk_gib=shutil.disk_usage(_existing(folder)).free / 2**30,
        versions=(
            f"python {platform.python_version()}",
            *(f"{name} {version(name)}" for name in ("torch", "transformers")),
            f"rlcurric {__version__}",
        ),
    )
    return ranks.gather(facts)


def cautions(facts: Sequence[RankFacts]) -> list[str]:
    """What is worth a warning in what the ranks have."""
    found = []
    by_host = {host: [one for one in facts if one.host == host] for host in {f.host for f in facts}}
    for host, here in sorted(by_host.items()):
        threads, cores = sum(one.threads for one in here), max(one.cores for one in here)
        if threads > cores and here[0].device == "cpu":
            found.append(
                f"{host}: {len(here)} ranks have {threads} threads on {cores} cores: lower OMP_NUM_THREADS"
            )
        memory, disk = min(o.memory_gib for o in here), min(o.disk_gib for o in here)
        if memory < LOW_MEMORY * len(here):
            found.append(f"{host}: {memory:.1f} GiB of memory are free for {len(here)} ranks")
        if disk < LOW_DISK:
            found.append(f"{host}: {disk:.1f} GiB of disk are free where runs are written")
    usual, _ = Counter(one.versions for one in facts).most_common(1)[0]
    for one in facts:
        for mine, theirs in zip(one.versions, usual, strict=True):
            if mine != theirs:
                found.append(f"rank {one.rank} on {one.host} has {mine}, others {theirs}")
    return found


def check_sum(ranks: Coordinator, mib: int) -> AllReduce:
    """Sum a tensor over the ranks, of which every element is known."""
    import torch.distributed as dist

    device = device_of_rank()
    pattern = torch.arange(mib * _MIB // 4, device=device) % 7
    mine = (pattern * (ranks.rank + 1)).float()
    best = float("inf")
    for _ in range(3):
        ranks.barrier()
        began = time.perf_counter()
        total = ranks.sum(mine)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - began)
    expected = (pattern * (ranks.world * (ranks.world + 1) // 2)).float()
    right = ranks.gather(bool(torch.equal(total, expected)))
    seconds = max(ranks.gather(best))
    wrong = [rank for rank, good in enumerate(right) if not good]
    return AllReduce(str(dist.get_backend()), mib * _MIB, seconds, wrong)


def clock_offsets(ranks: Coordinator) -> list[float]:
    """How far each rank's clock is ahead of rank 0's, in seconds. A slow message counts as an offset: the least counts."""
    rounds = []
    for _ in range(_ROUNDS):
        ranks.barrier()
        now = ranks.gather(time.time())
        rounds.append([one - now[0] for one in now])
    return [min(offsets, key=abs) for offsets in zip(*rounds, strict=True)]


def check_storage(ranks: Coordinator, folder: Path, within: float = SHARED_WITHIN) -> list[str]:
    """What is wrong with the folder as one that all ranks share: empty if rank 0 and the others see each other's files."""
    token = ranks.broadcast(uuid.uuid4().hex if ranks.is_main else None)
    probe = folder / f".doctor-{token[:12]}"
    made = [] if folder.exists() else [folder]
    problem = _attempt(lambda: _write(probe / "rank-0", token)) if ranks.is_main else ""
    written = ranks.broadcast((problem,))[0]
    if not written:
        if not ranks.is_main:
            problem = _seen(probe / "rank-0", token, within)
            problem = problem or _attempt(lambda: _write(probe / f"rank-{ranks.rank}", token))
        found = [_named(rank, one) for rank, one in enumerate(ranks.gather(problem)) if one]
        if not found and ranks.is_main:
            for rank in range(ranks.world):
                missing = _seen(probe / f"rank-{rank}", token, within)
                if missing:
                    found.append(f"rank 0 does not see what rank {rank} wrote: {missing}")
        found = ranks.broadcast((found,))[0]
    else:
        found = [_named(0, written)]
    if ranks.is_main:
        shutil.rmtree(probe, ignore_errors=True)
        for path in made:
            with contextlib.suppress(OSError):
                path.rmdir()
    return found


@contextlib.contextmanager
def naming_rank(ranks: Coordinator) -> Iterator[None]:
    """For what may wait for the other ranks within: its failure ends this rank, and the launcher then the others."""
    try:
        yield
    except Exception as error:
        if ranks.world == 1:
            raise
        plain = isinstance(error, ValueError | RunError)
        what = str(error) if plain else f"{type(error).__name__}: {error}"
        raise RunError(f"on {socket.gethostname()} (rank {ranks.rank}): {what}") from error


def _named(rank: int, problem: str) -> str:
    return f"rank {rank}: {problem}"


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", encoding="utf-8") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())


def _attempt(write: Callable[[], None]) -> str:
    try:
        write()
    except OSError as error:
        return f"cannot write: {error}"
    return ""


def _seen(file: Path, text: str, within: float) -> str:
    """Wait for a file of another rank; what is wrong, or nothing."""
    until = time.monotonic() + within
    while True:
        with contextlib.suppress(OSError):
            if file.read_text(encoding="utf-8") == text:
                return ""
        if time.monotonic() > until:
            return f"{file} on {socket.gethostname()} does not appear within {within:.0f} s"
        time.sleep(0.1)


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return folder
