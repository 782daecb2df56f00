"""Sums and means over the tokens of each row of a flat line. `B` rows, `N` tokens, `row_N` the row of each."""

from __future__ import annotations

import torch


def row_sum(values_N: torch.Tensor, row_N: torch.Tensor, rows: int) -> torch.Tensor:
    """Sum over each row's tokens, (B,)."""
    assert values_N.ndim == 1 and values_N.shape == row_N.shape
    return values_N.new_zeros(max(rows, 1)).index_add(0, row_N, values_N)


def row_mean(
    values_N: torch.Tensor, mask_N: torch.Tensor, row_N: torch.Tensor, rows: int
) -> torch.Tensor:
    """Mean over each row's tokens where the mask is 1, (B,); 0 for a row without any."""
    return row_sum(values_N * mask_N, row_N, rows) / row_sum(mask_N, row_N, rows).clamp(min=1)
