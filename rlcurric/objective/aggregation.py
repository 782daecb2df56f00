"""From per-token losses to one number, with denominators that come from the counts of the update window."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

Rule = Literal["tokens", "rows", "constant"]


@dataclass(frozen=True)
class Counts:
    """What one update window holds, over all its micro-batches and all ranks."""

    tokens: int  # tokens with loss
    rows: int
    max_length: int  # the generation budget, in tokens
    world: int = 1  # ranks whose gradients are averaged


def aggregate(
    losses_N: torch.Tensor,
    loss_mask_N: torch.Tensor,
    row_N: torch.Tensor,
    n_rows: int,
    rule: Rule,
    counts: Counts,
) -> torch.Tensor:
    """This micro-batch's share of the window's loss; the shares of all micro-batches and ranks add up to the whole.

    tokens: sum over tokens / tokens of the window (DAPO 2503.14476). rows: mean over a row's tokens, then over rows
    (GRPO 2402.03300). constant: sum over tokens / (rows * max_length) (Dr. GRPO 2503.20783). Times the number of
    ranks, since data parallelism averages gradients.
    """
    assert losses_N.ndim == 1 and losses_N.shape == loss_mask_N.shape == row_N.shape
    masked_N = losses_N * loss_mask_N
    if rule == "tokens":
        return masked_N.sum() * counts.world / max(counts.tokens, 1)
    if rule == "constant":
        return masked_N.sum() * counts.world / max(counts.rows * counts.max_length, 1)
    assert rule == "rows", rule
    size = max(n_rows, 1)
    sums_B = masked_N.new_zeros(size).index_add(0, row_N, masked_N)
    tokens_B = loss_mask_N.new_zeros(size).index_add(0, row_N, loss_mask_N)
    return (sums_B / tokens_B.clamp(min=1)).sum() * counts.world / max(counts.rows, 1)
