"""Rows of any length in one line without padding: [1, N] tokens, positions restart at every row, no mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch


def pack(lengths: Sequence[int], tokens_per_microbatch: int) -> list[list[int]]:
    """Rows in bins of at most `tokens_per_microbatch` tokens: longest first, each into the first bin with room.

    A row longer than that has a bin of its own. The result depends on the lengths alone: ties go by index, bins are
    in the order they were opened, rows within a bin in theirs.
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    bins: list[list[int]] = []
    room: list[int] = []
    for index in order:
        place = next((k for k, left in enumerate(room) if lengths[index] <= left), None)
        if place is None:
            bins.append([index])
            room.append(tokens_per_microbatch - lengths[index])
        else:
            bins[place].append(index)
            room[place] -= lengths[index]
    return [sorted(members) for members in bins]


@dataclass(frozen=True)
class PackedRows:
    """A micro-batch. `L` tokens in the line, `N` completion tokens over all rows, in row order."""

    input_ids_1L: torch.Tensor  # int64
    position_ids_1L: torch.Tensor  # int64, from 0 in every row
    predict_N: torch.Tensor  # int64, places in the line whose output predicts a completion token
    targets_N: torch.Tensor  # int64, those completion tokens
    row_N: torch.Tensor  # int64, the row each belongs to
    loss_mask_N: torch.Tensor  # float32, 0 where a token is not trained
    n_rows: int  # rows that count; 0 for the line that only keeps a rank in step


Row = tuple[Sequence[int], np.ndarray, np.ndarray | None]


def to_packed(rows: Sequence[Row], device: torch.device | str = "cpu") -> PackedRows:
    """Pack (prompt ids, completion ids, loss mask or None) triples. No rows: a line of weight zero."""
    real = len(rows)
    if not rows:
        rows = [((0,), np.zeros(1, dtype=np.int64), np.zeros(1, dtype=bool))]
    ids, positions, predict, targets, owner, masks = [], [], [], [], [], []
    start = 0
    for index, (prompt_ids, completion_ids_T, mask_T) in enumerate(rows):
        assert len(prompt_ids) and len(completion_ids_T), "a row needs a prompt and a completion"
        length = len(prompt_ids) + len(completion_ids_T)
        ids.append(np.concatenate([np.asarray(prompt_ids, dtype=np.int64), completion_ids_T]))
        positions.append(np.arange(length))
        predict.append(start + np.arange(len(prompt_ids) - 1, length - 1))
        targets.append(completion_ids_T)
        owner.append(np.full(len(completion_ids_T), index))
        masks.append(np.ones(len(completion_ids_T)) if mask_T is None else mask_T)
        start += length

    def tensor(parts: list[np.ndarray], dtype: torch.dtype) -> torch.Tensor:
        return torch.as_tensor(np.concatenate(parts), dtype=dtype, device=device)

    return PackedRows(
        input_ids_1L=tensor(ids, torch.int64)[None],
        position_ids_1L=tensor(positions, torch.int64)[None],
        predict_N=tensor(predict, torch.int64),
        targets_N=tensor(targets, torch.int64),
        row_N=tensor(owner, torch.int64),
        loss_mask_N=tensor(masks, torch.float32),
        n_rows=real,
    )
