"""Stabilisers: factors on the surrogate's loss of each token, never with a gradient.

They multiply the surrogate and nothing else: KL and auxiliary terms stay as they are, and so do the denominators,
unless a docstring says otherwise. Quantiles and counts are over the update window, so that micro-batches and ranks
change nothing.
"""

from __future__ import annotations

from typing import Literal

import torch

from rlcurric.objective.pieces import over_window, selects_tokens
from rlcurric.objective.rows import row_mean, row_sum
from rlcurric.objective.weights import MAX_LOG_RATIO
from rlcurric.registry import register

Level = Literal["token", "sequence", "geometric"]


def mismatch_ratio(
    old_logprobs_N: torch.Tensor,
    rollout_logprobs_N: torch.Tensor,
    mask_N: torch.Tensor,
    row_N: torch.Tensor,
    rows: int,
    level: Level = "token",
) -> torch.Tensor:
    """q = pi_old / mu, the trainer's over the engine's probability: per token, per row, or its geometric mean.

    A token without an engine's log-prob (NaN) counts as equal. Log-ratios are clamped to +-20 nats.
    """
    assert old_logprobs_N.shape == rollout_logprobs_N.shape == mask_N.shape == row_N.shape
    error_N = (old_logprobs_N - rollout_logprobs_N).detach().nan_to_num(0.0) * mask_N
    if level == "sequence":
        error_N = row_sum(error_N, row_N, rows)[row_N]
    elif level == "geometric":
        error_N = row_mean(error_N, mask_N, row_N, rows)[row_N]
    else:
        assert level == "token", level
    return error_N.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()


def _check_bounds(name: str, low: float | None, high: float | None) -> None:
    if not (low is None or 0 <= low <= 1) or not (high is None or high >= 1):
        raise ValueError(f"{name} needs low in [0, 1] and high >= 1, got {low} and {high}")


@register("stabiliser", "truncated_importance")
def truncated_importance(
    old_logprobs_N: torch.Tensor,
    rollout_logprobs_N: torch.Tensor,
    mask_N: torch.Tensor,
    row_N: torch.Tensor,
    rows: int,
    level: Level = "token",
    low: float | None = None,
    high: float = 2.0,
) -> torch.Tensor:
    """clamp(q, low, high) (TIS, Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy RL")."""
    _check_bounds("truncated_importance", low, high)
    q_N = mismatch_ratio(old_logprobs_N, rollout_logprobs_N, mask_N, row_N, rows, level)
    return q_N.clamp(min=low, max=high)


@register("stabiliser", "masked_importance")
def masked_importance(
    old_logprobs_N: torch.Tensor,
    rollout_logprobs_N: torch.Tensor,
    mask_N: torch.Tensor,
    row_N: torch.Tensor,
    rows: int,
    level: Level = "sequence",
    low: float | None = None,
    high: float = 3.0,
) -> torch.Tensor:
    """q where it lies in [low, high], else 0 (MIS; TRL's default at level sequence)."""
    _check_bounds("masked_importance", low, high)
    q_N = mismatch_ratio(old_logprobs_N, rollout_logprobs_N, mask_N, row_N, rows, level)
    inside_N = q_N <= high
    if low is not None:
        inside_N &= q_N >= low
    return q_N * inside_N


@register("stabiliser", "icepop")
def icepop(
    old_logprobs_N: torch.Tensor,
    rollout_logprobs_N: torch.Tensor,
    mask_N: torch.Tensor,
    row_N: torch.Tensor,
    rows: int,
    low: float = 0.5,
    high: float = 5.0,
) -> torch.Tensor:
    """q per token where it lies in [low, high], else 0 (IcePop, Ring-1T 2510.18855)."""
    return masked_importance(
        old_logprobs_N, rollout_logprobs_N, mask_N, row_N, rows, "token", low, high
    )


@register("stabiliser", "geometric_rejection")
def geometric_rejection(
    old_logprobs_N: torch.Tensor,
    rollout_logprobs_N: torch.Tensor,
    mask_N: torch.Tensor,
    row_N: torch.Tensor,
    rows: int,
    low: float = 0.999,
    high: float = 1.001,
) -> torch.Tensor:
    """1 for rows whose geometric mean of q lies in [low, high], else 0 (verl's seq_mean_k1 rejection)."""
    _check_bounds("geometric_rejection", low, high)
    q_N = mismatch_ratio(old_logprobs_N, rollout_logprobs_N, mask_N, row_N, rows, "geometric")
    return ((q_N >= low) & (q_N <= high)).to(q_N)


@register("stabiliser", "off_policy_mask")
def off_policy_mask(
    logprobs_N: torch.Tensor,
    rollout_logprobs_N: torch.Tensor,
    advantages_N: torch.Tensor,
    mask_N: torch.Tensor,
    row_N: torch.Tensor,
    rows: int,
    delta: float = 0.5,
) -> torch.Tensor:
    """0 for rows with A < 0 whose mean of log mu - log pi is above `delta` nats (DeepSeek-V3.2 2512.02556, eq. 9)."""
    if not delta > 0:
        raise ValueError(f"off_policy_mask needs delta > 0, got {delta}")
    drift_N = (rollout_logprobs_N - logprobs_N).detach().nan_to_num(0.0)
    drift_B = row_mean(drift_N, mask_N, row_N, rows)
    return ((advantages_N >= 0) | (drift_B[row_N] <= delta)).to(mask_N)


def _fraction(name: str, fraction: float) -> None:
    if not 0 < fraction <= 1:
        raise ValueError(f"{name} needs a fraction in (0, 1], got {fraction}")


def _entropy_threshold(
    entropy_N: torch.Tensor, mask_N: torch.Tensor, fraction: float = 0.2
) -> dict[str, float]:
    _fraction("top_entropy", fraction)
    values = entropy_N[mask_N > 0]
    threshold = _quantile(values, 1 - fraction)
    return {"threshold": threshold, "kept": float((values >= threshold).sum())}


def _quantile(values: torch.Tensor, q: float) -> float:
    """Linearly interpolated quantile of any number of values; -inf of none."""
    if not len(values):
        return float("-inf")
    ordered = values.detach().sort().values
    place = q * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return float(ordered[below] + (ordered[above] - ordered[below]) * (place - below))


@register("stabiliser", "top_entropy")
@over_window(_entropy_threshold, "threshold", "kept")
@selects_tokens
def top_entropy(entropy_N: torch.Tensor, threshold: float) -> torch.Tensor:
    """1 for the window's tokens of highest entropy, the share `fraction` of them (Beyond the 80/20 Rule 2506.01939).

    The threshold is the interpolated quantile; denominators keep all tokens, as in TRL. An entropy bonus acts on the same
    tokens, and is their mean.
    """
    return (entropy_N.detach() >= threshold).to(entropy_N)


def _score_threshold(
    entropy_N: torch.Tensor,
    advantages_N: torch.Tensor,
    mask_N: torch.Tensor,
    token_fraction: float,
) -> dict[str, float]:
    _fraction("d3s_tokens: curriculum.token_fraction", token_fraction)
    scores = (advantages_N.abs() * entropy_N)[mask_N > 0]
    threshold = _quantile(scores, 1 - token_fraction)
    kept = int((scores >= threshold).sum())
    return {"threshold": threshold, "correction": len(scores) / max(kept, 1)}


@register("stabiliser", "d3s_tokens")
@over_window(_score_threshold, "threshold", "correction")
def d3s_tokens(
    entropy_N: torch.Tensor, advantages_N: torch.Tensor, threshold: float, correction: float
) -> torch.Tensor:
    """The window's tokens of highest |A| * entropy (D3S 2509.22115), a share that `curriculum.token_fraction` sets.

    The factor is tokens / kept tokens, so that with aggregation by tokens the denominator is the kept ones.
    """
    scores_N = (advantages_N.abs() * entropy_N).detach()
    return (scores_N >= threshold).to(scores_N) * correction
