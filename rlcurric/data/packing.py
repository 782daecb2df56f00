"""Rows of any length in one line without padding: [1, L] tokens, positions restart at every row, no mask.

A line is a sequence of *segments*: neighbouring rows of equal length, which attention can take as one batch. With a
shared prefix a group's prompt stands once, as a segment of its own, and its completions behind it continue its
positions and see it. A completion's last token predicts nothing, so it is not part of the line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch


def pack(
    lengths: Sequence[int],
    tokens_per_microbatch: int,
    prefixes: Sequence[tuple[object, int]] | None = None,
) -> list[list[int]]:
    """Rows in bins of at most `tokens_per_microbatch` tokens: longest first, each into the first bin with room.

    `prefixes` gives for each row the identity and length of its prompt where bins hold a prompt once; `lengths` are
    then those of the completions. A row longer than a bin has one of its own. The result depends on these numbers
    alone: ties go by index; bins are in the order they were opened, rows within a bin by prompt and length.
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    if (
        prefixes is not None
    ):  # the completions of a prompt one after the other, so that they meet in a bin
        first = {key: k for k, (key, _) in reversed(list(enumerate(prefixes)))}
        order.sort(key=lambda index: first[prefixes[index][0]])
    bins: list[list[int]] = []
    room: list[int] = []
    held: list[set[object]] = []
    for index in order:
        key, extra = prefixes[index] if prefixes is not None else (None, 0)
        place, need = len(bins), lengths[index] + extra
        for k, left in enumerate(room):
            here = lengths[index] + (0 if key in held[k] else extra)
            if here <= left:
                place, need = k, here
                break
        if place == len(bins):
            bins.append([])
            room.append(tokens_per_microbatch)
            held.append(set())
        bins[place].append(index)
        room[place] -= need
        held[place].add(key)
    if prefixes is None:
        return [sorted(members, key=lambda i: (lengths[i], i)) for members in bins]
    return [
        sorted(members, key=lambda i: (first[prefixes[i][0]], lengths[i], i)) for members in bins
    ]


class Segment(NamedTuple):
    """Neighbouring rows of equal length in a line."""

    start: int  # of the first row, in tokens
    rows: int
    length: int  # of each, in tokens
    prefix: tuple[int, int] | None = (
        None  # start and end of the prompt that they see, if it stands apart
    )


@dataclass(frozen=True)
class PackedRows:
    """A micro-batch. `L` tokens in the line, `N` completion tokens over all rows, in row order."""

    input_ids_1L: torch.Tensor  # int64
    position_ids_1L: torch.Tensor  # int64, from 0 in every row, or from the length of a prefix
    segments: tuple[Segment, ...]  # which tokens see which
    predict_N: torch.Tensor  # int64, places in the line whose output predicts a completion token
    targets_N: torch.Tensor  # int64, those completion tokens
    row_N: torch.Tensor  # int64, the row each belongs to
    loss_mask_N: torch.Tensor  # float32, 0 where a token is not trained
    n_rows: int  # rows that count; 0 for the line that only keeps a rank in step


Row = tuple[Sequence[int], np.ndarray, np.ndarray | None]


class _Line:
    """A line under construction."""

    def __init__(self) -> None:
        self.ids: list[np.ndarray] = []
        self.positions: list[np.ndarray] = []
        self.segments: list[Segment] = []
        self.length = 0

    def add(
        self, ids: np.ndarray, prefix: tuple[int, int] | None = None, alone: bool = False
    ) -> int:
        """Append a row, into the last segment if it is alike and not to stand `alone`; where it starts."""
        start, n = self.length, len(ids)
        if n:
            offset = prefix[1] - prefix[0] if prefix else 0
            self.ids.append(ids)
            self.positions.append(offset + np.arange(n))
            last = self.segments[-1] if self.segments else None
            if last and (last.length, last.prefix) == (n, prefix) and not alone:
                self.segments[-1] = last._replace(rows=last.rows + 1)
            else:
                self.segments.append(Segment(start, 1, n, prefix))
            self.length += n
        return start


def to_packed(
    rows: Sequence[Row], device: torch.device | str = "cpu", shared_prefix: bool = False
) -> PackedRows:
    """Pack (prompt ids, completion ids, loss mask or None) triples. No rows: a line of weight zero.

    `shared_prefix`: neighbouring rows of one prompt share it.
    """
    real = len(rows)
    if not rows:
        rows = [((0,), np.zeros(1, dtype=np.int64), np.zeros(1, dtype=bool))]
    line = _Line()
    predict, targets, owner, masks = [], [], [], []
    shared: tuple[Sequence[int], tuple[int, int]] | None = None
    for index, (prompt_ids, completion_ids_T, mask_T) in enumerate(rows):
        assert len(prompt_ids) and len(completion_ids_T), "a row needs a prompt and a completion"
        seen = completion_ids_T[:-1]
        n = len(prompt_ids)
        if shared_prefix:
            if shared is None or shared[0] != prompt_ids:
                start = line.add(np.asarray(prompt_ids, dtype=np.int64), alone=True)
                shared = (prompt_ids, (start, start + n))
            start = line.add(seen, shared[1])
            places = start - 1 + np.arange(len(completion_ids_T))
            places[0] = shared[1][1] - 1
        else:
            start = line.add(np.concatenate([np.asarray(prompt_ids, dtype=np.int64), seen]))
            places = start + n - 1 + np.arange(len(completion_ids_T))
        predict.append(places)
        targets.append(completion_ids_T)
        owner.append(np.full(len(completion_ids_T), index))
        masks.append(np.ones(len(completion_ids_T)) if mask_T is None else mask_T)

    def tensor(parts: list[np.ndarray], dtype: torch.dtype) -> torch.Tensor:
        return torch.as_tensor(np.concatenate(parts), dtype=dtype, device=device)

    return PackedRows(
        input_ids_1L=tensor(line.ids, torch.int64)[None],
        position_ids_1L=tensor(line.positions, torch.int64)[None],
        segments=tuple(line.segments),
        predict_N=tensor(predict, torch.int64),
        targets_N=tensor(targets, torch.int64),
        row_N=tensor(owner, torch.int64),
        loss_mask_N=tensor(masks, torch.float32),
        n_rows=real,
    )
