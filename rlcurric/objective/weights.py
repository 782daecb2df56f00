"""Importance weights: pi over pi_old, per token or per row. `N` tokens; a row's weight stands at each of its tokens.

Log-ratios are clamped to +-20 nats. The old log-probs never get a gradient.
"""

from __future__ import annotations

import torch

from rlcurric.objective.rows import row_mean, row_sum
from rlcurric.registry import register

MAX_LOG_RATIO = 20.0


def log_ratio(logprobs_N: torch.Tensor, old_logprobs_N: torch.Tensor) -> torch.Tensor:
    """log pi - log pi_old, within +-20 nats."""
    assert logprobs_N.ndim == 1 and logprobs_N.shape == old_logprobs_N.shape
    return (logprobs_N - old_logprobs_N.detach()).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)


@register("weight", "token")
def token_ratio(logprobs_N: torch.Tensor, old_logprobs_N: torch.Tensor) -> torch.Tensor:
    """exp(log pi - log pi_old) per token (PPO 1707.06347, GRPO 2402.03300)."""
    return log_ratio(logprobs_N, old_logprobs_N).exp()


@register("weight", "sequence")
def sequence_ratio(
    logprobs_N: torch.Tensor,
    old_logprobs_N: torch.Tensor,
    mask_N: torch.Tensor,
    row_N: torch.Tensor,
    rows: int,
) -> torch.Tensor:
    """The row's geometric mean of token ratios (GSPO 2507.18071), with the gradient through the mean."""
    return row_mean(log_ratio(logprobs_N, old_logprobs_N), mask_N, row_N, rows).exp()[row_N]


@register("weight", "sequence_token")
def sequence_token_ratio(
    logprobs_N: torch.Tensor,
    old_logprobs_N: torch.Tensor,
    mask_N: torch.Tensor,
    row_N: torch.Tensor,
    rows: int,
) -> torch.Tensor:
    """The row's geometric mean in value, each token's own gradient (GSPO-token, 2507.18071 section 4.3)."""
    mean_B = row_mean(log_ratio(logprobs_N, old_logprobs_N).detach(), mask_N, row_N, rows)
    return (logprobs_N - logprobs_N.detach() + mean_B[row_N]).exp()


@register("weight", "sequence_product")
def sequence_product_ratio(
    logprobs_N: torch.Tensor,
    old_logprobs_N: torch.Tensor,
    mask_N: torch.Tensor,
    row_N: torch.Tensor,
    rows: int,
) -> torch.Tensor:
    """The row's product of token ratios (RLOO 2402.14740); leaves a clip range after little drift on long rows."""
    d_N = log_ratio(logprobs_N, old_logprobs_N) * mask_N
    return row_sum(d_N, row_N, rows).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()[row_N]


@register("weight", "none")
def no_ratio(logprobs_N: torch.Tensor) -> torch.Tensor:
    """1: plain policy gradient, with a surrogate on log-probs."""
    return torch.ones_like(logprobs_N).detach()
