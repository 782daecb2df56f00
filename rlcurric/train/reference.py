"""The reference policy of a KL penalty: the weights that training began with, or a copy that follows the policy.

It is the trained weights alone that differ, the adapter's under LoRA, so these are kept a second time, as each rank holds
them, and put into the policy's place while the reference scores: no second model, and one way under every sharding.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from rlcurric.train.adapters import is_adapted
from rlcurric.train.coordinator import Coordinator
from rlcurric.train.moments import dealt, trained, whole_shape, whole_size
from rlcurric.train.pieces import Piece, PieceReader
from rlcurric.train.sharding.base import Sharding

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PREFIX = "reference::"


class Reference:
    """Frozen weights to score with."""

    def __init__(self, model: PreTrainedModel, sharding: Sharding, ranks: Coordinator) -> None:
        self._model, self._sharding, self._ranks = model, sharding, ranks
        self._held: dict[str, torch.Tensor] | None = None  # by parameter: this rank's elements

    def start(self) -> None:
        """Make the policy as it is now the reference, unless one was loaded."""
        if self._held is None:
            self._held = {name: values.clone() for name, values, _ in self._parts()}

    @contextmanager
    def scoring(self) -> Iterator[None]:
        """The policy's forward is the reference's; the policy is itself again afterwards."""
        self.start()
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def follow(self, mix: float) -> None:
        """Reference <- mix * policy + (1 - mix) * reference (TR-DPO 2404.09656, eq. 4)."""
        if is_adapted(self._model) and mix != 1.0:
            raise ValueError(
                f"kl.sync_mix must be 1 under LoRA (adapters' factors cannot be averaged one by one), got {mix}"
            )
        self.start()
        assert self._held is not None
        for name, values, _ in self._parts():
            self._held[name].lerp_(values, mix)

    def pieces(self) -> list[Piece]:
        """What this rank writes of it."""
        self.start()
        assert self._held is not None
        named = trained(self._model)
        mine = dealt([whole_size(p) for _, p in named], self._ranks)
        return [
            Piece(PREFIX + name, whole_shape(parameter), start, self._held[name])
            for (name, parameter), (_, _, start), own in zip(
                named, self._parts(), mine, strict=True
            )
            if own or not self._sharding.replicated
        ]

    def load(self, reader: PieceReader, folder: Path) -> None:
        """As `pieces` gave it; ValueError if it is of other weights."""
        kept = {name.removeprefix(PREFIX) for name in reader.names() if name.startswith(PREFIX)}
        wanted = {name for name, _ in trained(self._model)}
        if kept != wanted:
            odd = sorted(kept ^ wanted)[0]
            raise ValueError(
                f"The reference of {folder} does not fit what is trained here: only one of them has {odd!r} (model.lora is "
                "another, or the model). Leave `reference` out of `carry`"
            )
        self._held = {
            name: reader.read(PREFIX + name, start, values.numel()).to(values)
            for name, values, start in self._parts()
        }

    @torch.no_grad()
    def take(self, model: PreTrainedModel) -> None:
        """Make another model of the same kind the reference; it may lie on any device, whole on every rank."""
        given = dict(trained(model))
        parts = self._parts()
        self._held = {
            name: given[name]
            .detach()
            .reshape(-1)[start : start + values.numel()]
            .to(values, copy=True)
            for name, values, start in parts
        }

    @torch.no_grad()
    def _exchange(self) -> None:
        assert self._held is not None
        for name, values, _ in self._parts():
            mine = values.clone()
            values.copy_(self._held[name])
            self._held[name].copy_(mine)

    def _parts(self) -> list[tuple[str, torch.Tensor, int]]:
        self._sharding.settle()
        parts = [(name, self._sharding.weights(one)) for name, one in trained(self._model)]
        return [(name, part.values, part.start) for name, part in parts]
