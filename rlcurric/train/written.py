"""What a stage reads of earlier stages of its run: rows that one wrote, pass rates that one measured."""

from __future__ import annotations

from pathlib import Path

from rlcurric.recipe.stages import RlStage, StageBase
from rlcurric.train.portions import written_file
from rlcurric.train.run import RunContext, RunState
from rlcurric.train.rundir import dataset_name, screened_name


def prepare(run: RunContext, stage: StageBase, state: RunState) -> list[str]:
    """Read it, and check it as other data is checked before a run; a sentence for what is in vain. On every rank."""
    waiting = run.data.waits_for(stage)
    for name, writer in waiting.items():
        run.data.read_written(name, written_file(run, dataset_name(writer)))
    warm_start = stage.curriculum.warm_start if isinstance(stage, RlStage) else None
    if warm_start is not None and warm_start.startswith("stage:"):
        # In the middle of a stage a fork may begin its curriculum anew; all else goes on from the checkpoint's.
        if not state.stage_step or run.forked:
            written_file(run, screened_name(warm_start[6:]))
    return check_stage(run, stage) if waiting else []


def check_stage(run: RunContext, stage: StageBase) -> list[str]:
    """ValueError for data that the stage cannot be run on; a sentence for all that is doubtful or in vain."""
    run.data.check_prompts(
        stage,
        run.parts.columns(stage),
        run.parts.columns(stage, graded=True),
    )
    doubtful = run.data.doubts(stage)
    return doubtful + run.parts.try_curriculum(stage, run.data.pool(stage))


def warm_start_file(run: RunContext, stage: RlStage) -> Path | None:
    """What `curriculum.warm_start` names."""
    named = stage.curriculum.warm_start
    if named is None:
        return None
    if named.startswith("stage:"):
        return run.directory.path / screened_name(named[6:])
    return Path(run.recipe.base_dir, named)
