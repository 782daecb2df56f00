"""Auxiliary terms of the loss: shares of a micro-batch, each with a denominator of its own from the window.

A term returns its loss per token, already over its denominator, so that the sum over all micro-batches and ranks is
the whole; the assembly multiplies by the number of ranks, as data parallelism averages gradients.
"""

from __future__ import annotations

from typing import Literal

import torch

from rlcurric.objective.aggregation import Counts
from rlcurric.objective.pieces import over_window
from rlcurric.objective.rows import row_sum
from rlcurric.registry import register


def _preserved(
    advantages_N: torch.Tensor,
    mask_N: torch.Tensor,
    denominator: Literal["preserved", "all"] = "preserved",
) -> dict[str, float]:
    tokens_N = mask_N * (advantages_N >= 0) if denominator == "preserved" else mask_N
    return {"tokens": float(tokens_N.sum())}


@register("term", "llds")
@over_window(_preserved, "tokens")
def llds(
    logprobs_N: torch.Tensor,
    old_logprobs_N: torch.Tensor,
    advantages_N: torch.Tensor,
    mask_N: torch.Tensor,
    row_N: torch.Tensor,
    rows: int,
    tokens: float,
    coef: float = 0.2,
    gate: Literal["action", "response", "token"] = "action",
) -> torch.Tensor:
    """coef * max(0, log pi_old - log pi) on rows with A >= 0 (LLDS 2512.04220): what was right must not grow unlikely.

    `gate`: a span counts only if its log-probs fell in sum: every run of trained tokens (action), the whole row
    (response), or each token by itself. Over the tokens of preserved rows (or of all: `denominator`). With one update
    a step pi is pi_old and the term is exactly 0.
    """
    if coef < 0:
        raise ValueError(f"llds needs coef >= 0, got {coef}")
    fall_N = old_logprobs_N.detach() - logprobs_N
    kept_N = mask_N * (advantages_N >= 0)
    if gate == "token":
        gate_N = torch.ones_like(kept_N)
    else:
        span_N = row_N if gate == "response" else action_spans(mask_N, row_N)
        spans = int(span_N.max()) + 1 if len(span_N) else 1
        gate_N = (row_sum(fall_N.detach() * kept_N, span_N, spans) > 0)[span_N].to(kept_N)
    return coef * fall_N.clamp(min=0) * gate_N * kept_N / max(tokens, 1.0)


def action_spans(mask_N: torch.Tensor, row_N: torch.Tensor) -> torch.Tensor:
    """A number for every run of trained tokens within a row; tokens that are not trained share that of the run before."""
    before_N = torch.cat([mask_N.new_zeros(1), mask_N[:-1]])
    new_row_N = torch.ones_like(row_N, dtype=torch.bool)
    new_row_N[1:] = row_N[1:] != row_N[:-1]
    starts_N = ((mask_N > 0) & (before_N == 0)) | new_row_N
    return starts_N.long().cumsum(0) - 1


def _centres(
    logprobs_N: torch.Tensor, advantages_N: torch.Tensor, mask_N: torch.Tensor
) -> dict[str, float]:
    n = max(float(mask_N.sum()), 1.0)
    return {
        "mean_advantage": float((advantages_N.detach() * mask_N).sum()) / n,
        "mean_logprob": float((logprobs_N.detach() * mask_N).sum()) / n,
    }


@register("term", "tea_rl")
@over_window(_centres, "mean_advantage", "mean_logprob")
def tea_rl(
    logprobs_N: torch.Tensor,
    entropy_N: torch.Tensor,
    advantages_N: torch.Tensor,
    mask_N: torch.Tensor,
    row_N: torch.Tensor,
    rows: int,
    counts: Counts,
    mean_advantage: float,
    mean_logprob: float,
    alpha: float = 10.0,
    bound: float = 5.0,
) -> torch.Tensor:
    """-c_t H_t over all tokens, c = clamp(alpha softmax_t(cov), 0, bound) within a row (Light-IF 2508.03178, TEA-RL).

    cov_t = (A_t - mean A)(log pi_t - mean log pi), means over the window; no gradient through c. A row's softmax sums
    to 1, so the average c is about alpha over its length.
    """
    centred_N = (advantages_N - mean_advantage) * (logprobs_N - mean_logprob)
    cov_N = torch.where(mask_N > 0, centred_N, -torch.inf).detach()
    high_B = cov_N.new_full((max(rows, 1),), -torch.inf).scatter_reduce(0, row_N, cov_N, "amax")
    e_N = (cov_N - high_B.nan_to_num(neginf=0.0)[row_N]).exp()
    c_N = alpha * e_N / row_sum(e_N, row_N, rows).clamp(min=1e-30)[row_N]
    return -c_N.clamp(0, bound) * entropy_N * mask_N / max(counts.tokens, 1)


def entropy_sft_threshold(score_N: torch.Tensor, ratio: float) -> float:
    """The score that the best max(floor(ratio * n), 1) tokens reach (Light-IF 2508.03178, Entropy-SFT)."""
    assert score_N.ndim == 1 and len(score_N)
    keep = max(int(ratio * len(score_N)), 1)
    return float(torch.topk(score_N, keep).values[-1])


def entropy_sft_score(
    logprobs_N: torch.Tensor, entropy_N: torch.Tensor, kappa: float
) -> torch.Tensor:
    """s = cross-entropy - kappa * entropy, without gradient: which tokens of a demonstration teach the most."""
    assert logprobs_N.shape == entropy_N.shape
    return (-logprobs_N - kappa * entropy_N).detach()
