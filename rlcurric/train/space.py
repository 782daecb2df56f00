"""Room for checkpoints, on the disk and in the host's memory: estimated before the first step, asked before every save."""

from __future__ import annotations

import os
from typing import Any

from rlcurric.train import room
from rlcurric.train.adapters import is_adapted
from rlcurric.train.checkpoint import CheckpointStore
from rlcurric.train.hostmemory import read_room
from rlcurric.train.room import checkpoint_size, free_bytes, gigabytes, most_checkpoints
from rlcurric.train.run import RunContext


def checkpoint_bytes(model: Any, reference: bool, value_bytes: int = 0) -> int:
    """What a checkpoint of a model in training takes, over all ranks: nothing has to be trained yet."""
    parameters = list(model.parameters())
    trained = sum(_bytes(one) for one in parameters if one.requires_grad)
    adapter = trained if is_adapted(model) else 0
    merged = sum(map(_bytes, parameters)) - adapter
    return checkpoint_size(merged, trained, adapter, reference, value_bytes)


def check_space(run: RunContext, needed: int) -> None:
    """On every rank: ValueError where not one checkpoint fits on the disk; a warning where not all that are kept do."""
    run.saver.expected = needed
    problem = run.ranks.broadcast((_look(run, needed) if run.ranks.is_main else None,))[0]
    if problem is not None:
        raise ValueError(problem)


def shortage(store: CheckpointStore, needed: int) -> str | None:
    """Why a checkpoint of so many bytes cannot be written; None if it can."""
    store.finish()  # what is being removed is room
    free = free_bytes(store.folder)
    if needed + room.SLACK <= free:
        return None
    return f"no space: {gigabytes(needed + room.SLACK)} are needed in {store.folder}, {gigabytes(free)} are free"


def _look(run: RunContext, needed: int) -> str | None:
    store, recipe = run.store, run.recipe
    free = free_bytes(store.folder)
    problem = room.too_large(needed, free, store.folder, recipe.model.lora is not None)
    if problem is not None:
        return problem
    most, ends = most_checkpoints(recipe)
    more, keep = max(most - len(store.all()), 1), recipe.run.checkpoints.keep_last
    warning = room.too_many(needed, more, ends, free, store.folder, keep)
    if warning is not None:
        _warn(run, "disk_space", warning)
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    copies, memory = needed * here // run.ranks.world, read_room()[0]
    if copies > memory:
        _warn(
            run,
            "host_memory",
            f"copies of what is saved take about {gigabytes(copies)} of host memory, and {gigabytes(memory)} are left: saves "
            "will fail unless this machine has more memory, or the run is spread over more machines",
        )
    return None


def _warn(run: RunContext, kind: str, text: str) -> None:
    run.directory.event(kind, run.store.last_step(), message=text)
    run.reporter.message(f"warning: {text}")


def _bytes(parameter: Any) -> int:
    """Over all ranks."""
    return int(getattr(parameter, "ds_numel", parameter.numel())) * int(parameter.element_size())
