"""From per-token losses to one number, with denominators that come from the counts of the update window.

Each rule gives this micro-batch's share of the window's loss; the shares of all micro-batches and ranks add up to the
whole. They are times the number of ranks, since data parallelism averages gradients.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from rlcurric.objective.rows import row_mean
from rlcurric.registry import register


@dataclass(frozen=True)
class Counts:
    """What one update window holds, over all its micro-batches and all ranks."""

    tokens: int  # tokens of rollouts with loss
    rows: int  # rollouts
    max_length: int  # the generation budget, in tokens
    world: int = 1  # ranks whose gradients are averaged
    micro_batches: int = 1  # of a rank


@register("aggregation", "tokens")
def over_tokens(
    losses_N: torch.Tensor, mask_N: torch.Tensor, row_N: torch.Tensor, rows: int, counts: Counts
) -> torch.Tensor:
    """Sum over tokens / tokens of the window (DAPO 2503.14476)."""
    return (losses_N * mask_N).sum() * counts.world / max(counts.tokens, 1)


@register("aggregation", "rows")
def over_rows(
    losses_N: torch.Tensor, mask_N: torch.Tensor, row_N: torch.Tensor, rows: int, counts: Counts
) -> torch.Tensor:
    """Mean over a row's tokens, then over rows (GRPO 2402.03300)."""
    means_B = row_mean(losses_N, mask_N, row_N, rows)
    return means_B.sum() * counts.world / max(counts.rows, 1)


@register("aggregation", "row_sums")
def over_row_sums(
    losses_N: torch.Tensor, mask_N: torch.Tensor, row_N: torch.Tensor, rows: int, counts: Counts
) -> torch.Tensor:
    """Sum over a row's tokens, then the mean over rows (LUSPO 2602.05261)."""
    return (losses_N * mask_N).sum() * counts.world / max(counts.rows, 1)


@register("aggregation", "constant")
def over_constant(
    losses_N: torch.Tensor, mask_N: torch.Tensor, row_N: torch.Tensor, rows: int, counts: Counts
) -> torch.Tensor:
    """Sum over tokens / (rows * generation budget) (Dr. GRPO 2503.20783)."""
    return (losses_N * mask_N).sum() * counts.world / max(counts.rows * counts.max_length, 1)


@register("aggregation", "micro_batch")
def over_micro_batch(
    losses_N: torch.Tensor, mask_N: torch.Tensor, row_N: torch.Tensor, rows: int, counts: Counts
) -> torch.Tensor:
    """Sum over tokens / tokens of the micro-batch: for parity with TRL's bnpo only, and with one micro-batch a window."""
    if counts.micro_batches > 1 or counts.world > 1:
        raise ValueError(
            "The aggregation micro_batch (preset bnpo) depends on how a window is cut, so it takes one micro-batch on one "
            f"rank; this window has {counts.micro_batches} on {counts.world}. Raise optim.tokens_per_microbatch, or use dapo"
        )
    return (losses_N * mask_N).sum() / max(float(mask_N.sum()), 1.0)
