"""From the advantage of a rollout to that of its tokens. `N` tokens, `row_N` the row of each.

Statistics are those of the step's whole batch, over all updates and ranks.
"""

from __future__ import annotations

import torch

from rlcurric.objective.pieces import over_window
from rlcurric.registry import register


@register("credit", "broadcast")
def broadcast(advantages_N: torch.Tensor) -> torch.Tensor:
    """Every token has its rollout's advantage."""
    return advantages_N


def discounted_returns(
    last_N: torch.Tensor,
    penalty_N: torch.Tensor,
    mask_N: torch.Tensor,
    row_N: torch.Tensor,
    rows: int,
    gamma: float = 1.0,
) -> torch.Tensor:
    """g_t = r_t + gamma g_{t+1} over the trained tokens of a row: r_t = -penalty_t, and last_t more on the last one.

    Tokens that are not trained are passed over: they neither add nor discount, and carry the g of the next one.
    """
    assert last_N.ndim == 1 and last_N.shape == penalty_N.shape == mask_N.shape == row_N.shape
    returns_N = torch.zeros_like(last_N)
    length_B = torch.bincount(row_N, minlength=max(rows, 1))
    first_B = length_B.cumsum(0) - length_B
    carried_B = last_N.new_zeros(max(rows, 1))
    started_B = torch.zeros(max(rows, 1), dtype=torch.bool, device=last_N.device)
    for back in range(1, int(length_B.max()) + 1 if len(row_N) else 1):
        inside_B = length_B >= back
        place_B = (first_B + length_B - back).clamp(min=0, max=len(row_N) - 1)
        trained_B = inside_B & (mask_N[place_B] > 0)
        final = torch.where(started_B, 0.0, last_N[place_B])
        next_B = final - penalty_N[place_B] + gamma * carried_B
        carried_B = torch.where(trained_B, next_B, carried_B)
        started_B |= trained_B
        returns_N[place_B[inside_B]] = carried_B[inside_B]
    return returns_N


def _moments(
    advantages_N: torch.Tensor,
    kl_penalty_N: torch.Tensor,
    mask_N: torch.Tensor,
    row_N: torch.Tensor,
    rows: int,
    gamma: float = 1.0,
    ddof: int = 1,
) -> dict[str, float]:
    returns_N = discounted_returns(advantages_N, kl_penalty_N, mask_N, row_N, rows, gamma)
    n = float(mask_N.sum())
    mean = float((returns_N * mask_N).sum()) / max(n, 1.0)
    variance = float((((returns_N - mean) ** 2) * mask_N).sum()) / max(n - ddof, 1.0)
    return {"mean": mean, "variance": variance}


@register("credit", "whitened_returns")
@over_window(_moments, "mean", "variance")
def whitened_returns(
    advantages_N: torch.Tensor,
    kl_penalty_N: torch.Tensor,
    mask_N: torch.Tensor,
    row_N: torch.Tensor,
    rows: int,
    mean: float,
    variance: float,
    gamma: float = 1.0,
) -> torch.Tensor:
    """REINFORCE++ (2501.03262): returns of the reward on the last token less the KL penalties, whitened by token.

    (g - mean) / sqrt(variance + 1e-8) over all trained tokens of the batch. Long rows weigh more in both.
    """
    returns_N = discounted_returns(advantages_N, kl_penalty_N, mask_N, row_N, rows, gamma)
    return (returns_N - mean) * (variance + 1e-8) ** -0.5


@register("credit", "mode_token")
def mode_token(advantages_N: torch.Tensor, mode_advantages_N: torch.Tensor) -> torch.Tensor:
    """The rollout's advantage, and on the tokens that name its mode that of the mode more (HGPO 2505.14631)."""
    return advantages_N + mode_advantages_N
