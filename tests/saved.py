"""A learner's checkpoint without a run."""

from __future__ import annotations

import shutil
from pathlib import Path

from rlcurric.train.checkpoint import CheckpointStore
from rlcurric.train.coordinator import Coordinator, SingleProcess
from rlcurric.train.saving import Saver, Source


def write_checkpoint(source: Source, folder: Path, ranks: Coordinator | None = None) -> None:
    """What a run's saver writes of a learner, into the folder itself; on all ranks."""
    ranks = ranks or SingleProcess()
    store = CheckpointStore(folder / "written", keep_last=1)
    saver = Saver(store, ranks.rank, ranks.world)
    saver.begin(1, source)
    written = saver.status(wait=True)
    assert written is not None and written.error is None, written
    saver.close()
    ranks.barrier()
    if not ranks.is_main:
        return
    shutil.copytree(store.temporary(1), folder, dirs_exist_ok=True)
    shutil.rmtree(store.folder)
