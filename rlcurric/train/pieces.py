"""A checkpoint's tensors as the ranks hold them: pieces of whole tensors."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of elements of a flattened tensor."""

    name: str
    shape: tuple[int, ...]  # of the whole tensor
    start: int
    part: torch.Tensor  # 1-D


class PieceReader:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._index = {}
        for file in sorted(folder.glob("state-*.safetensors")):
            with safe_open(file, "pt") as handle:
                for key, (name, start) in json.loads((handle.metadata() or {})["pieces"]).items():
                    self._index.setdefault(name, []).append((start, file, key))

    def names(self) -> list[str]:
        return sorted(self._index)

    def read(self, name: str, start: int, count: int) -> torch.Tensor:
        whole = None
        for first, file, key in sorted(self._index[name]):
            with safe_open(file, "pt") as handle:
                part = handle.get_tensor(key)
            if whole is None:
                whole = torch.zeros(start + count, dtype=part.dtype)
            end = min(start + count, first + len(part))
            if first < end:
                whole[first:end] = part[: end - first]
        return whole[start : start + count]


def save_pieces(pieces: Iterable[Piece], file: Path) -> None:
    pieces = list(pieces)
    save_file(
        {f"{k}": p.part.clone() for k, p in enumerate(pieces)},
        file,
        {"pieces": json.dumps({f"{k}": [p.name, p.start] for k, p in enumerate(pieces)})},
    )
