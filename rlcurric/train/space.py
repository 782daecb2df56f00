"""Room for checkpoints, on the disk and in the host's memory: estimated before the first step, asked before every save."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from rlcurric.recipe.stages import TrainingStage
from rlcurric.train.adapters import is_adapted
from rlcurric.train.checkpoint import CheckpointStore
from rlcurric.train.hostmemory import read_room
from rlcurric.train.run import RunContext

SLACK = (
    16 << 20
)  # bytes of a checkpoint beside its tensors, and what the run's logs may take meanwhile
MOMENTS = 2  # tensors of AdamW's state for each that is trained


def checkpoint_bytes(model: Any, reference: bool, value_bytes: int = 0) -> int:
    """What a checkpoint of a model in training takes, over all ranks: nothing has to be trained yet."""
    parameters = list(model.parameters())
    trained = sum(_bytes(one) for one in parameters if one.requires_grad)
    adapter = trained if is_adapted(model) else 0
    merged = sum(map(_bytes, parameters)) - adapter
    return merged + adapter + MOMENTS * trained + (trained if reference else 0) + value_bytes


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
    if needed + SLACK <= free:
        return None
    return f"no space: {gigabytes(needed + SLACK)} are needed in {store.folder}, {gigabytes(free)} are free"


def free_bytes(folder: Path) -> int:
    """Free space where a folder is, or would be made."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def gigabytes(count: int) -> str:
    return f"{count / 1e9:.3g} GB" if count >= 1e8 else f"{count / 1e6:.3g} MB"


def _look(run: RunContext, needed: int) -> str | None:
    store, keep = run.store, run.recipe.run.checkpoints.keep_last
    free = free_bytes(store.folder)
    if needed + SLACK > free:
        return (
            f"A checkpoint of this run takes about {gigabytes(needed + SLACK)}, and {gigabytes(free)} are free in "
            f"{store.folder}. Free space there, or choose a --run-dir on a larger disk"
            f"{'' if run.recipe.model.lora else '; under model.lora a checkpoint is smaller'}."
        )
    stages = [one for one in run.recipe.stages if isinstance(one, TrainingStage)]
    ends = len(stages) + sum(one.best is not None for one in stages)
    most = max(keep + 1 + ends - len(store.all()), 1)
    if most * needed + SLACK > free:
        _warn(
            run,
            "disk_space",
            f"up to {most} more checkpoints of about {gigabytes(needed)} will lie in {store.folder} "
            f"(run.checkpoints.keep_last={keep}, one being written, {ends} ends of stages and best ones), and {gigabytes(free)} are free: "
            "saves will fail unless you free space or lower run.checkpoints.keep_last",
        )
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
