"""Bytes that checkpoints take and disks have, without torch: `space` asks while a run goes on, `rlcurric plan` before it."""

from __future__ import annotations

import shutil
from pathlib import Path

from rlcurric.recipe.schema import Recipe
from rlcurric.recipe.stages import TrainingStage

SLACK = (
    16 << 20
)  # bytes of a checkpoint beside its tensors, and what the run's logs may take meanwhile
MOMENTS = 2  # tensors of AdamW's state for each that is trained


def checkpoint_size(model: int, trained: int, adapter: int, reference: bool, value: int) -> int:
    """Bytes of a checkpoint over all ranks, from those of the merged model, of what is trained, of the adapter and a value model."""
    return model + adapter + MOMENTS * trained + (trained if reference else 0) + value


def most_checkpoints(recipe: Recipe) -> tuple[int, int]:
    """That may lie on the disk at a time, one being written among them; and how many of these are ends of stages and best ones."""
    stages = [one for one in recipe.stages if isinstance(one, TrainingStage)]
    ends = len(stages) + sum(one.best is not None for one in stages)
    return recipe.run.checkpoints.keep_last + 1 + ends, ends


def too_large(needed: int, free: int, folder: Path, lora: bool) -> str | None:
    """Why not one checkpoint of so many bytes fits; None if it does."""
    if needed + SLACK <= free:
        return None
    return (
        f"A checkpoint of this run takes about {gigabytes(needed + SLACK)}, and {gigabytes(free)} are free in "
        f"{folder}. Free space there, or choose a --run-dir on a larger disk"
        f"{'' if lora else '; under model.lora a checkpoint is smaller'}."
    )


def too_many(needed: int, more: int, ends: int, free: int, folder: Path, keep: int) -> str | None:
    """Why not all checkpoints that may lie there at a time fit; None if they do."""
    if more * needed + SLACK <= free:
        return None
    return (
        f"up to {more} more checkpoints of about {gigabytes(needed)} will lie in {folder} "
        f"(run.checkpoints.keep_last={keep}, one being written, {ends} ends of stages and best ones), and {gigabytes(free)} are free: "
        "saves will fail unless you free space or lower run.checkpoints.keep_last"
    )


def free_bytes(folder: Path) -> int:
    """Free space where a folder is, or would be made."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def gigabytes(count: float) -> str:
    return f"{count / 1e9:.3g} GB" if count >= 1e8 else f"{count / 1e6:.3g} MB"
