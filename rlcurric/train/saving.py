"""One rank's side of a checkpoint: copies at once, files in the background.

Training goes on as soon as the copies are made, and changes no copy. A thread writes them, flushes them and reads them
back; what it says goes to rank 0, which alone commits (`saves.py`). The model is written in Hugging Face format by as many
ranks as it fills files, the rest of the state by every rank as the pieces that it holds.
"""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError

from rlcurric.train.checkpoint import CheckpointStore, seal
from rlcurric.train.pieces import Piece, keyed, pieces_file, pieces_header
from rlcurric.train.staging import HostBuffers
from rlcurric.train.tensorfile import Cancelled, digest_of, write_safetensors

FILE_BYTES = (
    2 << 30
)  # a file of the model is full at this size, as long as there are ranks for more
INDEX = "model/model.safetensors.index.json"
WRITE_ERRORS = (OSError, SafetensorError)  # a disk that is full, read-only or broken


class Source(Protocol):
    """What a checkpoint is of: the learner. All ranks ask it the same, in the same order."""

    def model_tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Whole tensors of the model, one after the other."""
        ...

    def pieces(self) -> list[Piece]:
        """This rank's part of everything else."""
        ...

    def small_files(self) -> Callable[[Path], None]:
        """What is small, as it is now; written by one rank."""
        ...


@dataclass(frozen=True)
class Extras:
    """What rank 0 adds to a checkpoint."""

    tensors: Mapping[str, Mapping[str, torch.Tensor]] = field(default_factory=dict)  # by file
    writes: Sequence[Callable[[Path], None]] = ()  # of values that do not change any more


@dataclass(frozen=True, slots=True)
class Begun:
    """A rank's answer to Save."""

    bytes: int
    copy_seconds: float


@dataclass(frozen=True, slots=True)
class Written:
    """A rank's answer to Settle, once it is done."""

    files: Mapping[str, str]  # digests
    error: str | None  # why the save failed here
    seconds: float  # since its beginning


@dataclass(frozen=True, slots=True)
class _File:
    """A file of tensors on the host."""

    path: str
    tensors: Mapping[str, torch.Tensor]
    metadata: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Job:
    """What a rank's thread writes."""

    folder: Path
    files: Sequence[_File]
    writes: Sequence[Callable[[Path], None]]
    of_tensors: frozenset[str]  # files of tensors of all ranks
    started: float


class Saver:
    """Saves of one rank, one at a time.

    Args:
        store: the folder of the checkpoints, the same on all ranks.
        rank, world: this rank, and how many write.
        file_bytes: size at which a file of the model is full.
    """

    def __init__(
        self, store: CheckpointStore, rank: int = 0, world: int = 1, file_bytes: int = FILE_BYTES
    ) -> None:
        self.expected = 0  # bytes of a checkpoint over all ranks, as far as known
        self._store, self._rank, self._world = store, rank, world
        self._file_bytes = file_bytes
        self._buffers = HostBuffers()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._cancelled = threading.Event()
        self._future: Future[Written] | None = None

    def begin(self, step: int, source: Source, extras: Extras = Extras()) -> Begun:
        """Copy what the checkpoint of this step is of; start to write it. What fails is told by `status`."""
        assert self._future is None or self._future.done(), "one save at a time"
        started = time.perf_counter()
        folder = self._store.temporary(step)
        self._buffers.begin()
        copies = _Copies(self._buffers)
        files, of_tensors, index = self._copied(source, extras, copies)
        self._buffers.end()
        copied = time.perf_counter() - started
        problem = copies.problem
        write_small = source.small_files()  # all ranks together, whatever happens on one
        try:
            if self._rank == 0:
                (folder / "model").mkdir(parents=True, exist_ok=True)
                write_small(folder)
        except WRITE_ERRORS as error:
            problem = problem or told(error)
        writes = [*extras.writes, *index] if self._rank == 0 else []
        if problem is None:
            job = _Job(folder, files, writes, of_tensors, started)
            self._future = self._thread.submit(self._write, job)
        else:
            self._future = Future()
            self._future.set_result(Written({}, problem, time.perf_counter() - started))
        return Begun(self._buffers.bytes, copied)

    def before_update(self) -> None:
        """Return once every copy is whole: parameters may change from then on."""
        self._buffers.wait()

    def status(self, wait: bool) -> Written | None:
        """What became of the last save; None while it is being written."""
        assert self._future is not None, "no save was begun"
        return self._future.result() if wait or self._future.done() else None

    def close(self) -> None:
        """Give up the save in flight, if there is one."""
        self._cancelled.set()
        self._thread.shutdown()

    def _copied(
        self, source: Source, extras: Extras, copies: _Copies
    ) -> tuple[list[_File], frozenset[str], list[Callable[[Path], None]]]:
        """Copies of this rank's share, by file; the files of tensors of all ranks; what writes the model's index."""
        sizes = [0] * self._world
        owners: dict[str, int] = {}
        mine: dict[str, torch.Tensor] = {}
        for name, tensor in source.model_tensors():
            owner = _owner(sizes, self._file_bytes)
            sizes[owner] += tensor.nbytes
            owners[name] = owner
            if owner == self._rank:
                copies.add(mine, "model", name, tensor)
        shards = _model_files(sum(size > 0 for size in sizes))
        held = keyed(source.pieces())
        parts: dict[str, torch.Tensor] = {}
        for key, piece in held:
            copies.add(parts, "piece", key, piece.part)
        files = [_File(pieces_file(self._rank, self._world), parts, pieces_header(held))]
        if mine:
            files.append(_File(shards[self._rank], mine, {"format": "pt"}))
        others = {pieces_file(rank, self._world) for rank in range(self._world)}
        if self._rank == 0:
            for path, tensors in extras.tensors.items():
                copied: dict[str, torch.Tensor] = {}
                for name, tensor in tensors.items():
                    copies.add(copied, path, name, tensor)
                files.append(_File(path, copied, {"format": "pt"}))
        index = []
        if len(shards) > 1:
            weight_map = {name: Path(shards[owner]).name for name, owner in owners.items()}
            table = {"metadata": {"total_size": sum(sizes)}, "weight_map": weight_map}
            text = json.dumps(table, indent=1).encode()
            index.append(lambda folder: write_files(folder, {INDEX: text}))
        return files, frozenset({*others, *shards, *extras.tensors}), index

    def _write(self, job: _Job) -> Written:
        """In the thread: every file of this rank on the disk, and read back."""
        try:
            files = self._written(job)
            error = None
        except WRITE_ERRORS as failed:
            files, error = {}, told(failed)
        except Cancelled:
            files, error = {}, "it was given up"
        return Written(files, error, time.perf_counter() - job.started)

    def _written(self, job: _Job) -> dict[str, str]:
        self._buffers.wait()
        digests = {
            file.path: write_safetensors(
                job.folder / file.path, file.tensors, file.metadata, self._cancelled.is_set
            )
            for file in job.files
        }
        if self._rank == 0:
            for write in job.writes:
                write(job.folder)
            for path in sorted(one for one in job.folder.rglob("*") if one.is_file()):
                name = str(path.relative_to(job.folder))
                if name not in job.of_tensors:
                    digests[name] = seal(path)
        for name, digest in digests.items():
            if digest_of(job.folder / name, self._cancelled.is_set) != digest:
                raise OSError(f"{job.folder / name} does not read back as it was written")
        return digests


class _Copies:
    """Copies into the kept buffers; after the first that failed no more are made, but collectives go on."""

    def __init__(self, buffers: HostBuffers) -> None:
        self.problem: str | None = None
        self._buffers = buffers

    def add(
        self, into: dict[str, torch.Tensor], place: str, name: str, tensor: torch.Tensor
    ) -> None:
        if self.problem is not None:
            return
        try:
            into[name] = self._buffers.stage(f"{place}/{name}", tensor)
        except (MemoryError, RuntimeError) as error:  # pinned memory: the latter
            self.problem = str(error).splitlines()[0]


def frozen_files(write: Callable[[Path], object]) -> dict[str, bytes]:
    """The files that `write` puts into a folder, in memory."""
    with tempfile.TemporaryDirectory(prefix="rlcurric-") as folder:
        write(Path(folder))
        return {
            str(file.relative_to(folder)): file.read_bytes()
            for file in Path(folder).rglob("*")
            if file.is_file()
        }


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """The inverse of `frozen_files`."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def _owner(sizes: Sequence[int], file_bytes: int) -> int:
    """The rank whose file takes the next tensor: the first that is not full, else the emptiest."""
    free = [rank for rank, size in enumerate(sizes) if size < file_bytes]
    return free[0] if free else min(range(len(sizes)), key=lambda rank: sizes[rank])


def _model_files(count: int) -> list[str]:
    if count <= 1:
        return ["model/model.safetensors"]
    return [f"model/model-{k + 1:05d}-of-{count:05d}.safetensors" for k in range(count)]


def told(error: Exception) -> str:
    """One line: what, and where if that is known."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror} ({error.filename})" if error.filename else error.strerror
    return str(error).splitlines()[0] if str(error) else type(error).__name__
