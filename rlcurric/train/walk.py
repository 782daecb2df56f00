"""The walk through a recipe's stages: from where the run stands to the end, or to a stop."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Mapping, Sequence
from typing import Any, Literal, assert_never

from rlcurric.recipe.stages import (
    DpoStage,
    RejectionStage,
    RlStage,
    ScreenStage,
    SftStage,
    Stage,
    TrainingStage,
)
from rlcurric.train.ends import Cause, Ended, cause_of
from rlcurric.train.run import RunContext, RunState
from rlcurric.train.rundir import EVENTS, read_jsonl
from rlcurric.train.written import prepare

Status = Literal["done", "stopped"]


def walk(
    run: RunContext, state: RunState, cautions: Mapping[str, Sequence[str]]
) -> tuple[Status, RunState]:
    """Go through the stages from `state` on; `cautions`: what to say when a stage begins.

    A stage is left when it is over: its end is in the state of its last checkpoint, in an event, and the checkpoint that
    it hands over is `run.origin`.
    """
    stages = run.recipe.stages
    index = run.stage_index(state.stage)
    state = looked_at_again(stages[index], state)
    while True:
        stage = stages[index]
        run.ended, over = state.ended, state.finished
        if not over:
            _announce(run, stage, state, index, cautions.get(stage.name, ()))
            status, state = run_stage(run, stage, state)
            _free_memory()
            if status == "stopped":
                _event(run, "stopped", state, reason=run.stop.reason)
                return "stopped", state
            if not state.finished:  # a kind that ends when its work is done
                state = state.closed(Cause("done"))
        run.ended = state.ended
        told = over and _was_told(run, state.ended[-1])
        if not told:
            _tell_end(run, state.ended[-1])
        if isinstance(stage, TrainingStage):
            _hand_over(run, state, told)
        run.forked = False
        index += 1
        if index == len(stages):
            break
        # Rank 0 decides: a signal or the stop file may have reached some ranks only.
        if run.ranks.broadcast((run.stop.requested(state.step),))[0]:
            _event(run, "stopped", state, reason=run.stop.reason)
            return "stopped", state
        state = state.enter(stages[index].name)
    _event(run, "done", state)
    return "done", state


def _free_memory() -> None:
    """What a stage leaves in reference cycles, such as a trainer's model and moments, before the next one loads its own."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def run_stage(run: RunContext, stage: Stage, state: RunState) -> tuple[str, RunState]:
    """Run one stage, of whatever kind, from where it stands: ("done" | "stopped", where the run then stands)."""
    _caution(run, stage, state, prepare(run, stage, state))
    match stage:
        case RlStage():
            from rlcurric.train.stages import run_rl

            return run_rl(run, stage, state)
        case SftStage():
            from rlcurric.train.sft import run_sft

            return run_sft(run, stage, state)
        case DpoStage():
            from rlcurric.train.dpo import run_dpo

            return run_dpo(run, stage, state)
        case RejectionStage():
            from rlcurric.train.rejection import run_rejection

            return run_rejection(run, stage, state)
        case ScreenStage():
            from rlcurric.train.screen import run_screen

            return run_screen(run, stage, state)
        case _:
            assert_never(stage)


def looked_at_again(stage: Stage, state: RunState) -> RunState:
    """Whether the stage is over by what the recipe says now: `until` and `best` may have changed since it was saved."""
    if not isinstance(stage, TrainingStage):
        return state
    state = state.reopened()
    cause = cause_of(stage.until, state.watched)
    return state if cause is None else state.closed(cause, stage.best)


def _announce(
    run: RunContext, stage: Stage, state: RunState, index: int, cautions: Sequence[str]
) -> None:
    run.reporter.stage(
        stage.name,
        stage.kind,
        index + 1,
        len(run.recipe.stages),
        stage.planned_steps,
        state.stage_step,
    )
    run.watchdog.begin_stage(state.step)
    run.failures.configure(stage.grading.max_failures, stage.grading.window)
    _event(run, "stage_started", state, stage=stage.name, stage_step=state.stage_step)
    _caution(run, stage, state, cautions)


def _caution(run: RunContext, stage: Stage, state: RunState, sentences: Sequence[str]) -> None:
    for sentence in sentences:
        _event(run, "caution", state, stage=stage.name, message=sentence)
        run.reporter.message(f"warning: {sentence}")


def _was_told(run: RunContext, over: Ended) -> bool:
    """Whether the events have the end of a stage that was over at the start of this launch.

    They lack it where the run was killed right behind the checkpoint that says so. What ended in the run that this one was
    forked from is no event of this one.
    """
    if not run.ranks.is_main or run.forked:
        return True
    ended = dataclasses.asdict(over)
    return any(
        row["event"] == "stage_ended" and {key: row.get(key) for key in ended} == ended
        for row in read_jsonl(run.directory.path / EVENTS)
    )


def _tell_end(run: RunContext, over: Ended) -> None:
    if not run.ranks.is_main:
        return
    run.directory.event("stage_ended", over.last_step, **dataclasses.asdict(over))
    if over.reason not in ("steps", "done"):
        seen = ", ".join(f"{key} {value:.6g}" for key, value in over.values.items())
        run.reporter.message(f"stage {over.stage} ended at step {over.last_step}: {seen}")


def _hand_over(run: RunContext, state: RunState, told: bool) -> None:
    """Later stages go on from the stage's last checkpoint, or from its best: weights and optimizer, and what its
    curriculum had learned; what the run has seen since (visits, pass rates, steps, tokens) stays seen."""
    over = state.ended[-1]
    rolls = over.hands_over != over.last_step
    found = None
    if run.ranks.is_main:
        found = run.checkpoint(over.hands_over) if rolls else run.store.last()
    origin = run.ranks.broadcast((found,))[0]
    run.origin = origin or run.origin
    if not rolls or origin is None:
        return
    best = origin.state()["curriculum"]
    if run.curriculum is not None and best is not None:
        run.curriculum = {**run.curriculum, "parts": best["parts"]}
    if told:
        return
    detail: dict[str, Any] = {"stage": over.stage, "to": over.hands_over, "value": over.best_value}
    _event(run, "rolled_back", state, **detail)
    run.reporter.message(
        f"stage {over.stage} hands over its best checkpoint, of step {over.hands_over} ({over.best_value:.4g})"
    )


def _event(run: RunContext, kind: str, state: RunState, **detail: Any) -> None:
    if run.ranks.is_main:
        run.directory.event(kind, state.step, **detail)
