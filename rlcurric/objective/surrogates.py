"""Importance ratios and the clipped surrogate, per token."""

from __future__ import annotations

import torch

MAX_LOG_RATIO = 20.0


def token_ratio(logprobs_N: torch.Tensor, old_logprobs_N: torch.Tensor) -> torch.Tensor:
    """exp(log pi - log pi_old) per token, the difference clamped to +-20 nats; no gradient through the old."""
    return (logprobs_N - old_logprobs_N.detach()).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()


def clipped(
    ratio_N: torch.Tensor, advantages_N: torch.Tensor, clip_low: float, clip_high: float
) -> torch.Tensor:
    """-min(r A, clip(r, 1 - clip_low, 1 + clip_high) A) per token (PPO 1707.06347; asymmetric in DAPO 2503.14476)."""
    assert ratio_N.shape == advantages_N.shape
    advantages_N = advantages_N.detach()
    bounded_N = ratio_N.clamp(1 - clip_low, 1 + clip_high)
    return -torch.minimum(ratio_N * advantages_N, bounded_N * advantages_N)
