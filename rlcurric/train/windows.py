"""What an objective has to know beyond one micro-batch: advantages of tokens, and numbers about a whole window."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from rlcurric.objective.declaration import Objective
from rlcurric.objective.pieces import plain
from rlcurric.train.coordinator import Coordinator
from rlcurric.train.rows import Key, TrainRow
from rlcurric.train.scoring import RowScores

TokenAdvantages = Mapping[Key, torch.Tensor]  # (T,) of every rollout, float64
Scores = Mapping[Key, RowScores]


def token_advantages(
    objective: Objective,
    rollouts: Sequence[TrainRow],
    old: Scores,
    ref: Scores,
    ranks: Coordinator,
    device: torch.device,
) -> TokenAdvantages:
    """The advantage of every token of the step's rollouts; statistics over all ranks."""
    kl = objective.kl
    charged = kl.on and kl.placement == "reward" and "kl_penalty_N" in objective.credit.needs

    def penalty(row: TrainRow) -> torch.Tensor:
        if not charged:
            return torch.zeros(len(row.tokens), device=device)
        return plain(kl.coef) * (old[row.key].logprobs_T - ref[row.key].logprobs_T)

    columns: dict[str, Callable[[TrainRow], torch.Tensor]] = {
        "advantages_N": lambda row: torch.full((len(row.tokens),), row.advantage, device=device),
        "mode_advantages_N": lambda row: _on_mode(row, device),
        "kl_penalty_N": penalty,
        "mask_N": lambda row: _mask(row, device),
    }
    mine = _flat(rollouts, columns, device)
    numbers = (
        objective.credit.over_window(_gathered(mine, ranks)) if objective.credit.window else {}
    )
    if not rollouts:
        return {}
    lengths = [len(row.tokens) for row in rollouts]
    parts = objective.credit(mine, numbers).split(lengths)
    return {row.key: part for row, part in zip(rollouts, parts, strict=True)}


def gather_values(
    rollouts: Sequence[TrainRow],
    old: Scores,
    now: Scores,
    advantages: TokenAdvantages,
    ranks: Coordinator,
    device: torch.device,
    needs: frozenset[str],
) -> dict[str, Any]:
    """The values in `needs` over all rollouts of a window on all ranks, in rank order."""
    columns: dict[str, Callable[[TrainRow], torch.Tensor]] = {
        "logprobs_N": lambda row: now[row.key].logprobs_T,
        "entropy_N": lambda row: now[row.key].entropy_T,
        "old_logprobs_N": lambda row: old[row.key].logprobs_T,
        "rollout_logprobs_N": lambda row: torch.as_tensor(
            row.rollout.rollout_logprobs_T, device=device
        ),
        "advantages_N": lambda row: advantages[row.key],
        "mask_N": lambda row: _mask(row, device),
    }
    wanted = {name: of for name, of in columns.items() if name in needs}
    return _gathered(_flat(rollouts, wanted, device), ranks)


def _on_mode(row: TrainRow, device: torch.device) -> torch.Tensor:
    """The mode's advantage on the tokens that name it: those that were forced, else the first one."""
    advantage_T = torch.zeros(len(row.tokens), device=device)
    advantage_T[: row.rollout.n_forced or 1] = row.mode_advantage
    return advantage_T


def _mask(row: TrainRow, device: torch.device) -> torch.Tensor:
    mask_T = row.loss_mask_T
    if mask_T is None:
        return torch.ones(len(row.tokens), device=device)
    return torch.as_tensor(mask_T, dtype=torch.float32, device=device)


def _flat(
    rollouts: Sequence[TrainRow],
    columns: Mapping[str, Callable[[TrainRow], torch.Tensor]],
    device: torch.device,
) -> dict[str, Any]:
    lengths = torch.tensor([len(row.tokens) for row in rollouts], dtype=torch.int64, device=device)
    values: dict[str, Any] = {
        name: torch.cat([of(row).double() for row in rollouts]).detach()
        if rollouts
        else torch.zeros(0, dtype=torch.float64, device=device)
        for name, of in columns.items()
    }
    values["row_N"] = torch.repeat_interleave(torch.arange(len(rollouts), device=device), lengths)
    values["rows"] = len(rollouts)
    return values


def _gathered(mine: Mapping[str, Any], ranks: Coordinator) -> dict[str, Any]:
    """The values of all ranks, one rank after the other, rows numbered on; float64."""
    if ranks.world == 1:
        return dict(mine)
    shares = ranks.gather(
        {
            name: value.cpu() if isinstance(value, torch.Tensor) else value
            for name, value in mine.items()
        }
    )
    firsts = [sum(share["rows"] for share in shares[:rank]) for rank in range(len(shares))]
    result: dict[str, Any] = {
        "rows": sum(share["rows"] for share in shares),
        "row_N": torch.cat([s["row_N"] + first for s, first in zip(shares, firsts, strict=True)]),
    }
    columns = [name for name in mine if name not in result]
    for name in columns:
        result[name] = torch.cat([share[name] for share in shares])
    return result
