"""Surrogates: the loss of each token, to be minimised, from its importance weight and its advantage."""

from __future__ import annotations

import math

import torch

from rlcurric.objective.pieces import with_metrics
from rlcurric.objective.rows import row_mean, row_sum
from rlcurric.objective.weights import MAX_LOG_RATIO, log_ratio
from rlcurric.registry import register


def _clip_metrics(
    weight_N: torch.Tensor, advantages_N: torch.Tensor, low: float = 0.2, high: float = 0.2
) -> dict[str, torch.Tensor]:
    return {
        "clip/low/mean": (weight_N < 1 - low) & (advantages_N < 0),
        "clip/high/mean": (weight_N > 1 + high) & (advantages_N > 0),
    }


@register("surrogate", "clip")
@with_metrics(_clip_metrics)
def clip(
    weight_N: torch.Tensor,
    advantages_N: torch.Tensor,
    low: float = 0.2,
    high: float = 0.2,
    delta: float | None = None,
    dual: float | None = None,
) -> torch.Tensor:
    """-min(w A, clip(w, 1 - low, 1 + high) A) (PPO 1707.06347; asymmetric in DAPO 2503.14476).

    `delta` bounds w in the first term from above (two-sided clipping, INTELLECT-2 2505.07291). `dual` bounds the loss
    of a negative advantage by dual * |A| (dual-clip PPO 1912.09729).
    """
    assert weight_N.ndim == 1 and weight_N.shape == advantages_N.shape
    if not 0 <= low <= 1 or high < 0:
        raise ValueError(
            f"The surrogate clip needs low in [0, 1] and high >= 0, got {low} and {high}"
        )
    if delta is not None and delta <= 1 + high:
        raise ValueError(
            f"delta must be above 1 + high, or gains of good tokens vanish; got delta {delta} for high {high}"
        )
    if dual is not None and dual <= 1:
        raise ValueError(f"dual must be above 1, got {dual}")
    advantages_N = advantages_N.detach()
    first_N = weight_N if delta is None else weight_N.clamp(max=delta)
    gain_N = torch.minimum(first_N * advantages_N, weight_N.clamp(1 - low, 1 + high) * advantages_N)
    if dual is not None:
        gain_N = torch.where(advantages_N < 0, torch.maximum(gain_N, dual * advantages_N), gain_N)
    return -gain_N


@register("surrogate", "reinforce")
def reinforce(logprobs_N: torch.Tensor, advantages_N: torch.Tensor) -> torch.Tensor:
    """-A log pi: the plain policy gradient."""
    return -advantages_N.detach() * logprobs_N


@register("surrogate", "linear")
def linear(weight_N: torch.Tensor, advantages_N: torch.Tensor) -> torch.Tensor:
    """-w A: no bounds."""
    return -weight_N * advantages_N.detach()


def _cispo_metrics(
    weight_N: torch.Tensor,
    advantages_N: torch.Tensor,
    cap_low: float = 0.0,
    cap_high: float = 5.0,
) -> dict[str, torch.Tensor]:
    return {
        "clip/low/mean": weight_N < cap_low,
        "clip/high/mean": weight_N > cap_high,
        "surrogate/gain/mean": weight_N.detach().clamp(cap_low, cap_high) * advantages_N,
    }


@register("surrogate", "cispo")
@with_metrics(_cispo_metrics)
def cispo(
    logprobs_N: torch.Tensor,
    weight_N: torch.Tensor,
    advantages_N: torch.Tensor,
    cap_low: float = 0.0,
    cap_high: float = 5.0,
) -> torch.Tensor:
    """-sg(clamp(w, cap_low, cap_high)) A log pi (CISPO, MiniMax-M1 2506.13585; cap 5 as in ScaleRL 2510.13786).

    Caps are absolute numbers. Every token keeps a gradient. The value holds raw log-probs: look at
    `surrogate/gain/mean` instead.
    """
    if not 0 <= cap_low <= 1 <= cap_high:
        raise ValueError(
            f"cispo needs 0 <= cap_low <= 1 <= cap_high (absolute caps of the ratio), got {cap_low} and {cap_high}"
        )
    return -weight_N.detach().clamp(cap_low, cap_high) * advantages_N.detach() * logprobs_N


@register("surrogate", "sapo")
def sapo(
    weight_N: torch.Tensor,
    advantages_N: torch.Tensor,
    temperature_positive: float = 1.0,
    temperature_negative: float = 1.05,
) -> torch.Tensor:
    """-(4 / tau) sigmoid(tau (w - 1)) A, tau by the sign of A (SAPO 2511.20347). At w = 1 the value is 2 A / tau."""
    assert weight_N.shape == advantages_N.shape
    if temperature_positive <= 0 or temperature_negative <= 0:
        raise ValueError(
            f"sapo needs temperatures above 0, got {temperature_positive} and {temperature_negative}"
        )
    advantages_N = advantages_N.detach()
    tau_N = _by_sign(advantages_N > 0, temperature_positive, temperature_negative, weight_N)
    return -(4 / tau_N) * torch.sigmoid(tau_N * (weight_N - 1)) * advantages_N


def _by_sign(
    positive_N: torch.Tensor, one: float, other: float, like: torch.Tensor
) -> torch.Tensor:
    """One number where true, the other elsewhere, in the precision of `like`."""
    return torch.where(positive_N, like.new_tensor(one), like.new_tensor(other))


@register("surrogate", "gmpo")
def gmpo(
    logprobs_N: torch.Tensor,
    old_logprobs_N: torch.Tensor,
    advantages_N: torch.Tensor,
    mask_N: torch.Tensor,
    row_N: torch.Tensor,
    rows: int,
    bound: float = 0.4,
) -> torch.Tensor:
    """-exp(mean of one-sidedly clipped log-ratios) A, at every token of the row (GMPO 2507.20673).

    A token's log-ratio is bounded from above by `bound` where A > 0, else from below by -bound.
    """
    if not bound > 0:
        raise ValueError(f"gmpo needs bound > 0, got {bound}")
    advantages_N = advantages_N.detach()
    d_N = log_ratio(logprobs_N, old_logprobs_N)
    bounded_N = torch.where(advantages_N > 0, d_N.clamp(max=bound), d_N.clamp(min=-bound))
    return -row_mean(bounded_N, mask_N, row_N, rows).exp()[row_N] * advantages_N


@register("surrogate", "vespo")
def vespo(
    logprobs_N: torch.Tensor,
    old_logprobs_N: torch.Tensor,
    rollout_logprobs_N: torch.Tensor,
    advantages_N: torch.Tensor,
    mask_N: torch.Tensor,
    row_N: torch.Tensor,
    rows: int,
    k_positive: float = 2.0,
    lambda_positive: float = 3.0,
    k_negative: float = 3.0,
    lambda_negative: float = 2.0,
    mismatch_high: float | None = 3.0,
) -> torch.Tensor:
    """-sg(phi(W)) A log pi, phi(W) = W^k exp(lambda (1 - W)), W the row's product of ratios (VESPO 2602.10693).

    `k` and `lambda` by the sign of A, 0 counting as positive. The mismatch of engine and trainer is part of W, as
    ratios per token of at most `mismatch_high` (None: left out), so no stabiliser should correct it again.
    """
    if mismatch_high is not None and mismatch_high < 1:
        raise ValueError(f"vespo needs mismatch_high of at least 1, got {mismatch_high}")
    advantages_N = advantages_N.detach()
    lowest = math.log(1e-8)
    log_w_B = row_sum(log_ratio(logprobs_N.detach(), old_logprobs_N) * mask_N, row_N, rows)
    if mismatch_high is not None:
        error_N = (old_logprobs_N - rollout_logprobs_N).detach().nan_to_num(0.0)
        bounded_N = error_N.clamp(lowest, min(math.log(mismatch_high), MAX_LOG_RATIO))
        log_w_B = log_w_B + row_sum(bounded_N * mask_N, row_N, rows)
    log_w_N = log_w_B.clamp(lowest, MAX_LOG_RATIO)[row_N]
    positive_N = advantages_N >= 0
    k_N = _by_sign(positive_N, k_positive, k_negative, log_w_N)
    lambda_N = _by_sign(positive_N, lambda_positive, lambda_negative, log_w_N).clamp(min=1e-4)
    phi_N = (lambda_N + k_N * log_w_N - lambda_N * log_w_N.exp()).exp()
    return -phi_N.nan_to_num(0.0, 0.0, 0.0) * advantages_N * logprobs_N
