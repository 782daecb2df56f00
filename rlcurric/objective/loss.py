"""The loss of a micro-batch from the pieces of an objective.

`N` completion tokens of all rows one after the other, `row_N` the row of each. Everything is this micro-batch's share:
shares of all micro-batches and ranks add up to the window's loss and metrics.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from rlcurric.objective.aggregation import Counts
from rlcurric.objective.declaration import Objective
from rlcurric.objective.kl import kl_estimate
from rlcurric.objective.pieces import Piece, plain
from rlcurric.objective.stabilisers import mismatch_ratio

Window = Mapping[int, Mapping[str, float]]  # position of a piece in `windowed` -> its numbers


@dataclass(frozen=True)
class TokenValues:
    """What pieces may ask for; see `pieces.TOKEN_VALUES`. Only `logprobs_N` and `entropy_N` carry gradients."""

    logprobs_N: torch.Tensor
    old_logprobs_N: torch.Tensor
    rollout_logprobs_N: torch.Tensor
    advantages_N: torch.Tensor
    mask_N: torch.Tensor
    row_N: torch.Tensor
    rows: int
    entropy_N: torch.Tensor | None = None
    ref_logprobs_N: torch.Tensor | None = None
    mode_advantages_N: torch.Tensor | None = None
    kl_penalty_N: torch.Tensor | None = None
    supervised_N: torch.Tensor | None = None  # weight of -log pi: of demonstrations and prompts

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            assert value is None or field.name == "rows" or value.shape == self.row_N.shape, (
                field.name
            )

    def named(self, counts: Counts | None, token_fraction: float = 1.0) -> dict[str, Any]:
        """The values by the names that pieces know."""
        names = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del names["supervised_N"]
        return {**names, "counts": counts, "token_fraction": token_fraction}


def policy_loss(
    objective: Objective,
    values: TokenValues,
    counts: Counts,
    window: Window | None = None,
    entropy_coef: float = 0.0,
    token_fraction: float = 1.0,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """`(loss, metrics)`: this micro-batch's share of the window's loss, and of its metrics.

    Metrics are shares too: summed over micro-batches and ranks they are the window's means per trained token. The loss
    is times the number of ranks (see `aggregation`), the metrics are not. A key that ends in `/max` is a maximum.
    """
    numbers = {id(piece): (window or {}).get(k, {}) for k, piece in enumerate(objective.windowed)}

    named = values.named(counts, token_fraction)

    def call(piece: Piece) -> torch.Tensor:
        result: torch.Tensor = piece(named, numbers.get(id(piece)))
        return result

    named["weight_N"] = objective.weight(named)
    losses_N = call(objective.surrogate)
    assert losses_N.shape == values.row_N.shape, objective.surrogate.name
    factors: dict[str, torch.Tensor] = {}
    bonus_N, bonus_tokens = values.mask_N, float(counts.tokens)
    for name, piece in _numbered(objective.stabilisers):
        factors[name] = factor_N = call(piece).detach()
        assert factor_N.shape == values.row_N.shape, name
        losses_N = losses_N * factor_N
        if piece.selects:
            bonus_N, bonus_tokens = bonus_N * factor_N, numbers[id(piece)]["kept"]
    kl_N = None
    if objective.kl.on:
        assert values.ref_logprobs_N is not None
        kl_N = kl_estimate(
            objective.kl.estimator, values.logprobs_N, values.ref_logprobs_N, values.old_logprobs_N
        )
        if objective.kl.placement == "loss":
            losses_N = losses_N + plain(objective.kl.coef) * kl_N
    policy = objective.aggregation({**named, "losses_N": losses_N})
    loss = policy
    extra: dict[str, torch.Tensor] = {}
    for name, piece in _numbered(objective.terms):
        share = call(piece).sum()
        extra[f"loss/{name}/mean"] = share
        loss = loss + share * counts.world
    if values.supervised_N is not None:
        share = -(values.logprobs_N * values.supervised_N).sum()
        extra["loss/supervised/mean"] = share
        loss = loss + share * counts.world
    if values.entropy_N is not None:
        bonus = (values.entropy_N * bonus_N).sum() / max(bonus_tokens, 1.0)
        extra["entropy/bonus/mean"] = bonus
        if entropy_coef:
            loss = loss - entropy_coef * bonus * counts.world
    with torch.no_grad():
        metrics = {"loss/policy/mean": policy.detach() / counts.world, **extra}
        measured = dict(objective.surrogate.metrics(named))
        measured |= {f"stabiliser/{name}/mean": factor for name, factor in factors.items()}
        measured |= {f"stabiliser/{name}/kept": factor != 0 for name, factor in factors.items()}
        if kl_N is not None:
            measured[f"kl/ref_{objective.kl.estimator}/mean"] = kl_N
        metrics |= _token_means(values, measured, counts)
    return loss, {key: value.detach().double() for key, value in metrics.items()}


def _numbered(pieces: Sequence[Piece]) -> list[tuple[str, Piece]]:
    """Every piece with a name of its own: the second of a name is `name_2`."""
    seen: Counter[str] = Counter()
    named = []
    for piece in pieces:
        seen[piece.name] += 1
        count = seen[piece.name]
        named.append((piece.name if count == 1 else f"{piece.name}_{count}", piece))
    return named


def _token_means(
    values: TokenValues, measured: Mapping[str, torch.Tensor], counts: Counts
) -> dict[str, torch.Tensor]:
    """Means per trained token, as shares; and what every run watches."""
    share_N = values.mask_N.double() / max(counts.tokens, 1)
    drift_N = (values.old_logprobs_N - values.logprobs_N).double()
    q_N = mismatch_ratio(
        values.old_logprobs_N,
        values.rollout_logprobs_N,
        values.mask_N,
        values.row_N,
        values.rows,
    ).double()
    error_N = q_N.log()
    per_token = {
        **measured,
        "kl/old_policy_k3/mean": drift_N.exp() - drift_N - 1,
        "mismatch/abs/mean": error_N.abs(),
        "mismatch/k3/mean": q_N - 1 - error_N,
        "mismatch/ratio/mean": q_N,
        "mismatch/ratio_squared/mean": q_N**2,
    }
    if values.entropy_N is not None:
        per_token["entropy/policy/mean"] = values.entropy_N
    keys = list(per_token)
    stacked = torch.stack([per_token[key].double() for key in keys]) @ share_N
    means = dict(zip(keys, stacked.unbind(), strict=True))
    means["mismatch/abs/max"] = error_N.abs().max() if len(error_N) else error_N.new_zeros(())
    return means
