"""The optimizer's state as pieces of whole tensors, so that any number of ranks under any sharding can go on from it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from rlcurric.train.coordinator import Coordinator
from rlcurric.train.pieces import Piece, PieceReader
from rlcurric.train.sharding.base import MOMENTS, Part, Sharding

STEP = "step"  # beside MOMENTS: how many updates a parameter has had


def moment_pieces(sharding: Sharding, model: Any, ranks: Coordinator) -> list[Piece]:
    """What this rank writes: its own parts of what is split, its share of what every rank has."""
    named = trained(model)
    mine = dealt([whole_size(p) for _, p in named], ranks)
    pieces = []
    for (name, parameter), own in zip(named, mine, strict=True):
        parts = sharding.moments(parameter)
        if own and updated(sharding, parameter, parts):
            step = torch.tensor([sharding.updates(parameter)])
            pieces.append(Piece(f"{name}::{STEP}", (1,), 0, step))
        if own or sharding.split_optimizer:
            for kind, part in parts.items():
                pieces.append(
                    Piece(f"{name}::{kind}", whole_shape(parameter), part.start, part.values)
                )
    return pieces


def load_moments(sharding: Sharding, model: Any, reader: PieceReader) -> None:
    """Fill the optimizer's state from a checkpoint; ValueError if it is of another model."""
    named = dict(trained(model))
    split = [name.rpartition("::") for name in reader.names()]
    kept = [(name, kind) for name, _, kind in split if kind in (STEP, *MOMENTS)]
    for name, _ in kept:
        if name not in named:
            raise ValueError(
                f"{reader.folder} holds the optimizer of another model: this one has no parameter {name!r}"
            )
    updates = {
        named[name]: float(reader.read(f"{name}::{STEP}", 0, 1))
        for name, kind in kept
        if kind == STEP
    }
    if not updates:  # of an SFT stage
        return
    sharding.make_moments(updates)
    for name, parameter in named.items():
        if parameter not in updates:
            continue
        for kind, part in sharding.moments(parameter).items():
            count = part.values.numel()
            part.values.copy_(reader.read(f"{name}::{kind}", part.start, count))


def updated(sharding: Sharding, parameter: Any, parts: dict[str, Part]) -> bool:
    """Whether a parameter has been updated: known also where another rank holds its moments."""
    return bool(parts) if not sharding.split_optimizer else sharding.updates(parameter) > 0


def trained(model: Any) -> list[tuple[str, Any]]:
    """The parameters that are trained, by the model's names."""
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]


def whole_size(parameter: Any) -> int:
    """Elements of a parameter over all ranks."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))


def whole_shape(parameter: Any) -> tuple[int, ...]:
    """Shape of a parameter over all ranks."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def dealt(sizes: Sequence[int], ranks: Coordinator) -> Iterator[bool]:
    """Of tensors that every rank has: whether this one is for this rank to write, by running size."""
    total, before = max(sum(sizes), 1), 0
    for size in sizes:
        yield before * ranks.world // total == ranks.rank
        before += size
