"""A checkpoint's tensors as the ranks hold them: pieces of whole tensors, read back in any other pieces."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

_FILE = re.compile(r"state-(\d+)-of-(\d+)\.safetensors")
_KEY = "pieces"  # in the header of a file: key -> name, shape, start


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of elements of a flattened tensor."""

    name: str
    shape: tuple[int, ...]  # of the whole tensor
    start: int  # flat index of the first element held
    part: torch.Tensor  # 1-D


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a piece lies."""

    start: int
    count: int
    file: Path
    key: str


def pieces_file(rank: int, world: int) -> str:
    """The name of the file with a rank's pieces."""
    return f"state-{rank:05d}-of-{world:05d}.safetensors"


def pieces_header(pieces: Iterable[tuple[str, Piece]]) -> dict[str, str]:
    """The header's entry that tells a reader what the file's tensors are pieces of."""
    return {_KEY: json.dumps({key: [one.name, list(one.shape), one.start] for key, one in pieces})}


def keyed(pieces: Iterable[Piece]) -> list[tuple[str, Piece]]:
    """The pieces that hold anything, with their keys in a file: the name, and the place where it is a part of a tensor."""
    found = []
    for piece in pieces:
        assert piece.part.ndim == 1
        count, whole = piece.part.numel(), _size(piece.shape)
        if count:
            place = "" if count == whole else f"[{piece.start}:{piece.start + count}]"
            found.append((piece.name + place, piece))
    assert len({key for key, _ in found}) == len(found)
    return found


class PieceReader:
    """All pieces of a checkpoint, of however many ranks; nothing is read before it is asked for.

    ValueError for a folder whose files are of a whole that is not all there.
    """

    def __init__(self, folder: Path, names: Iterable[str] | None = None) -> None:
        """`names`: what the manifest lists; without it what is in the folder. ValueError if a listed file is not there."""
        self.folder = folder
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._places: dict[str, list[_Place]] = {}
        there = folder.glob("state-*") if names is None else [folder / name for name in names]
        files = sorted(file for file in there if _FILE.fullmatch(file.name))
        for file in files:
            if not file.is_file():
                raise ValueError(
                    f"{file} is listed in the manifest and not there: all hosts must share the run directory"
                )
        worlds = {int(_FILE.fullmatch(file.name)[2]) for file in files}  # type: ignore[index]
        if len(worlds) > 1:
            raise ValueError(
                f"{folder} holds the state of runs on {sorted(worlds)} ranks; one is required"
            )
        self._files = [
            folder / pieces_file(rank, world) for world in worlds for rank in range(world)
        ]
        self.missing = [file for file in self._files if file not in files]
        for file in files:
            self._index(file)
        for places in self._places.values():
            places.sort(key=lambda place: (place.start, -place.count))

    def names(self) -> list[str]:
        """Names of the whole tensors."""
        return sorted(self._shapes)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a whole tensor; ValueError if no file has a piece of it."""
        if name not in self._shapes:
            raise ValueError(f"{self.folder} has no tensor {name!r}{self._lost()}")
        return self._shapes[name]

    def read(self, name: str, start: int, count: int) -> torch.Tensor:
        """Elements `start` to `start + count` of the flattened tensor; ValueError if they are not all there."""
        size = _size(self.shape(name))
        if not 0 <= start <= start + count <= size:
            raise ValueError(
                f"{self.folder}: {name!r} has {size} elements; {start} to {start + count} were asked for"
            )
        parts, at, end = [], start, start + count
        for place in self._places[name]:
            if at < end and place.start <= at < place.start + place.count:
                stop = min(end, place.start + place.count)
                parts.append(_slice(place, at - place.start, stop - place.start))
                at = stop
        if at < end:
            raise ValueError(
                f"{self.folder}: elements {at} to {end} of {name!r} are in no file{self._lost()}"
            )
        if not parts:
            return _slice(self._places[name][0], 0, 0)
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _lost(self) -> str:
        return f"; {self.missing[0].name} is missing" if self.missing else ""

    def _index(self, file: Path) -> None:
        with ExitStack() as stack:
            opened: Any = stack.enter_context(safe_open(file, "pt"))
            table = json.loads((opened.metadata() or {}).get(_KEY, "{}"))
            for key, (name, shape, start) in table.items():
                count = opened.get_slice(key).get_shape()[0]
                known = self._shapes.setdefault(name, tuple(shape))
                if known != tuple(shape):
                    raise ValueError(f"{file}: {name!r} has shape {shape}, elsewhere {list(known)}")
                self._places.setdefault(name, []).append(_Place(start, count, file, key))


def _slice(place: _Place, first: int, last: int) -> torch.Tensor:
    with safe_open(place.file, "pt") as opened:
        part: torch.Tensor = opened.get_slice(place.key)[first:last]
    return part


def _size(shape: Iterable[int]) -> int:
    size = 1
    for one in shape:
        size *= one
    return size
