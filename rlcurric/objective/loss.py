"""The policy loss of a micro-batch: ratio, surrogate, aggregation."""

from __future__ import annotations

import torch

from rlcurric.objective.aggregation import Counts, aggregate
from rlcurric.objective.presets import ObjectiveSpec
from rlcurric.objective.surrogates import clipped, token_ratio


def policy_loss(
    spec: ObjectiveSpec,
    logprobs_N: torch.Tensor,
    old_logprobs_N: torch.Tensor,
    advantages_B: torch.Tensor,
    row_N: torch.Tensor,
    loss_mask_N: torch.Tensor,
    counts: Counts,
    entropy_N: torch.Tensor | None = None,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """`(loss, metrics)`: this micro-batch's share of the window's loss, and of its metrics.

    Metrics are shares too: summed over micro-batches and ranks they are the window's means per token. The loss is
    times the number of ranks (see `aggregate`), the metrics are not.
    """
    assert logprobs_N.shape == old_logprobs_N.shape == row_N.shape == loss_mask_N.shape
    advantages_N = advantages_B.to(logprobs_N)[row_N]
    ratio_N = token_ratio(logprobs_N, old_logprobs_N)
    losses_N = clipped(ratio_N, advantages_N, spec.clip_low, spec.clip_high)
    loss = aggregate(losses_N, loss_mask_N, row_N, len(advantages_B), spec.aggregation, counts)
    with torch.no_grad():
        share_N = loss_mask_N.double() / max(counts.tokens, 1)
        log_ratio_N = (old_logprobs_N - logprobs_N).double()
        metrics = {
            "loss/policy/mean": loss.detach().double() / counts.world,
            "clip/low/mean": (((ratio_N < 1 - spec.clip_low) & (advantages_N < 0)) * share_N).sum(),
            "clip/high/mean": (
                ((ratio_N > 1 + spec.clip_high) & (advantages_N > 0)) * share_N
            ).sum(),
            "kl/old_policy_k3/mean": ((log_ratio_N.exp() - log_ratio_N - 1) * share_N).sum(),
        }
        if entropy_N is not None:
            metrics["entropy/policy/mean"] = (entropy_N.double() * share_N).sum()
    return loss, metrics
