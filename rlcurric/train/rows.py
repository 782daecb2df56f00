"""What an update is made of: rollouts to reinforce, demonstrations and prompts to imitate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from rlcurric.types import GroupId, Rollout

Key = tuple[GroupId, int]
Imitation = Literal["demonstration", "prompt"]


@dataclass(frozen=True, slots=True)
class TrainRow:
    """One rollout to train on, behind its prompt."""

    prompt_ids: tuple[int, ...]
    rollout: Rollout
    advantage: float
    mode_advantage: float = 0.0  # on the token that names the mode (HGPO)
    masked: bool = False  # counts as a row, but has no loss (DAPO's overlong filtering)

    @property
    def key(self) -> Key:
        return self.rollout.group_id, self.rollout.sample

    @property
    def tokens(self) -> np.ndarray:
        return self.rollout.completion_ids_T

    @property
    def loss_mask_T(self) -> np.ndarray | None:
        return np.zeros(len(self.tokens), dtype=bool) if self.masked else self.rollout.loss_mask_T

    @property
    def version(self) -> int:
        return int(self.rollout.policy_version_T.min())


@dataclass(frozen=True, slots=True)
class ImitationRow:
    """Tokens to make more likely, behind what stands before them."""

    prompt_ids: tuple[int, ...]
    tokens: np.ndarray  # int64
    kind: Imitation
    loss_mask_T: np.ndarray | None = None


AnyRow = TrainRow | ImitationRow


@dataclass(frozen=True, slots=True)
class Window:
    """What one optimizer update trains on, of one rank."""

    rollouts: tuple[TrainRow, ...]
    imitations: tuple[ImitationRow, ...] = ()

    @property
    def rows(self) -> tuple[AnyRow, ...]:
        return (*self.rollouts, *self.imitations)


def distinct(rows: Sequence[TrainRow]) -> list[TrainRow]:
    """Every rollout once, in the order of first appearance (epochs train the same ones again)."""
    return list({row.key: row for row in rows}.values())


def prompt_rows(rollouts: Sequence[TrainRow]) -> tuple[ImitationRow, ...]:
    """The prompt of every group once, its tokens after the first as targets."""
    prompts = {row.rollout.group_id: row.prompt_ids for row in rollouts}
    return tuple(
        ImitationRow(ids[:1], np.asarray(ids[1:], dtype=np.int64), "prompt")
        for ids in prompts.values()
        if len(ids) > 1
    )
