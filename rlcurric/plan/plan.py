"""A recipe's plan: counts, memory, disk and time of every stage, put together from what is known of model, rows and device."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rlcurric.plan import fits
from rlcurric.plan.counts import Assumed, StageCounts, count
from rlcurric.plan.measured import Measured, Pace, stated
from rlcurric.plan.phases import Device, Phase, Setup, phases_of
from rlcurric.plan.rows import StageRows
from rlcurric.plan.shapes import Shape
from rlcurric.recipe.schema import Recipe
from rlcurric.recipe.stages import RlStage, SftStage, StageBase, TrainingStage
from rlcurric.train.room import (
    checkpoint_size,
    free_bytes,
    most_checkpoints,
    too_large,
    too_many,
)


@dataclass(frozen=True)
class Given:
    """What the command line says of what cannot be known."""

    device: Device
    run_dir: Path
    completion: float | None = None  # mean tokens of a completion
    admitted: float | None = None  # share of groups
    throughput: float | None = None  # tokens a second
    measured: Measured | None = None


@dataclass(frozen=True)
class Known:
    """What was read: the model's shape, rows by stage, and of every RL stage what its objective keeps."""

    shape: Shape
    rows: Mapping[str, StageRows]
    reference: Mapping[str, bool]  # whether the stage keeps one
    rescored: Mapping[str, bool]  # whether log-probs are computed before the update
    value_model: Mapping[str, int]  # parameters of a value model of its own


@dataclass(frozen=True)
class Seconds:
    """Of a stage, by phase."""

    sampling: float
    training: float
    evaluation: float
    other: float
    source: str

    @property
    def total(self) -> float:
        return self.sampling + self.training + self.evaluation + self.other


@dataclass(frozen=True)
class StagePlan:
    """One stage."""

    counts: StageCounts
    rows: StageRows
    engine: str
    phases: tuple[Phase, ...]
    checkpoint: int  # bytes; 0: the stage writes none
    seconds: Seconds | None

    @property
    def peak(self) -> Phase:
        return fits.peak(list(self.phases))


@dataclass(frozen=True)
class Disk:
    """Checkpoints against what is free."""

    folder: Path
    checkpoint: int  # bytes of the largest
    most: int  # that may lie there at a time
    free: int

    @property
    def total(self) -> int:
        return self.most * self.checkpoint


@dataclass(frozen=True)
class Plan:
    """What a run of a recipe takes."""

    recipe: str
    shape: Shape
    trained: int
    device: Device
    stages: tuple[StagePlan, ...]
    disk: Disk
    problems: tuple[str, ...]  # each says which setting to change; empty: it fits
    cautions: tuple[str, ...]


def make_plan(recipe: Recipe, known: Known, given: Given) -> Plan:
    """The plan; ValueError where a number that it needs is not known."""
    lora = recipe.model.lora
    trained = known.shape.n if lora is None else known.shape.adapter(lora)
    stages: list[StagePlan] = []
    problems: list[str] = []
    cautions: list[str] = []
    for stage in recipe.stages:
        rows = known.rows[stage.name]
        pace = _pace(stage, given)
        seconds = partial(pace.of_ranks, given.device.world) if pace is not None else None
        counts = count(stage, rows, _assumed(recipe, stage, rows, given), recipe.base_dir, seconds)
        setup = Setup(
            shape=known.shape,
            trained=trained,
            model=recipe.model,
            device=given.device,
            rows=rows,
            counts=counts,
            engine=_engine(stage, given.device),
            reference=known.reference.get(stage.name, False),
            rescored=known.rescored.get(stage.name, False),
            value_model=known.value_model.get(stage.name, 0),
            copied=_copied(recipe, stages, stage, counts),
        )
        problems += fits.problems(stage, setup)
        cautions += fits.cautions(stage, setup)
        stages.append(
            StagePlan(
                counts,
                rows,
                setup.engine,
                tuple(phases_of(stage, setup)),
                _checkpoint(stage, setup) if isinstance(stage, TrainingStage) else 0,
                _seconds(counts, pace),
            )
        )
    disk = _disk(recipe, given.run_dir, max(one.checkpoint for one in stages))
    if disk.checkpoint:
        problem = too_large(disk.checkpoint, disk.free, disk.folder, lora is not None)
        problems += [problem] if problem else []
        keep, ends = recipe.run.checkpoints.keep_last, most_checkpoints(recipe)[1]
        caution = too_many(disk.checkpoint, disk.most, ends, disk.free, disk.folder, keep)
        cautions += [caution] if caution and not problem else []
    return Plan(
        *(recipe.name, known.shape, trained, given.device, tuple(stages), disk),
        *(tuple(problems), tuple(cautions)),
    )


def _assumed(recipe: Recipe, stage: StageBase, rows: StageRows, given: Given) -> Assumed:
    """Lengths and admitted groups: as stated, as measured, as the rows show what an earlier stage imitates, or at most."""
    most = float(stage.rollout.max_new_tokens)
    completion, source = most, "at most: rollout.max_new_tokens"
    if rows.imitated is not None:
        shown = min(most, rows.imitated.mean / (2 if stage.kind == "dpo" else 1))
        trained = [
            one
            for one in recipe.stages[: recipe.stages.index(stage) + 1]
            if isinstance(one, TrainingStage)
        ]
        if trained and isinstance(trained[-1], SftStage):
            completion, source = (
                shown,
                "as long as the rows' demonstrations, which an sft stage imitates",
            )
        else:
            completion = math.sqrt(shown * most)
            source = (
                "between as long as the rows' demonstrations and rollout.max_new_tokens: the geometric mean, off by a factor of "
                f"{math.sqrt(most / shown):.1f} at most"
            )
    admitted: tuple[float | None, str] | None = None
    if given.measured is not None:
        found = given.measured.completion(stage)
        completion, source = found or (completion, source)
        admitted = given.measured.admitted(stage)
    if given.completion is not None:
        completion, source = given.completion, "stated"
    if given.admitted is not None and isinstance(stage, RlStage):
        admitted = given.admitted, "stated"
    return Assumed(completion, source, *(admitted or ()))


def _pace(stage: StageBase, given: Given) -> Pace | None:
    if given.measured is not None and (found := given.measured.pace(stage)) is not None:
        return found
    return stated(given.throughput, stage) if given.throughput is not None else None


def _seconds(counts: StageCounts, pace: Pace | None) -> Seconds | None:
    if pace is None:
        return None
    return Seconds(
        sampling=pace.sampled * (counts.generated + counts.screened),
        training=pace.trained * counts.trained,
        evaluation=pace.evaluated * counts.evaluated_at_most,
        other=pace.other * (counts.steps or 0),
        source=pace.source,
    )


def _copied(
    recipe: Recipe, before: Sequence[StagePlan], stage: StageBase, counts: StageCounts
) -> bool:
    """Whether a save has copied a checkpoint before the last step of the stage is done: a due one, or one of the best so far."""
    if any(one.counts.kind == "rl" for one in before):
        return True
    if (
        isinstance(stage, RlStage)
        and stage.best is not None  # the first evaluation is the best so far
        and 0 < stage.evaluation.every < (counts.steps or math.inf)
    ):
        return True
    every, first = recipe.run.checkpoints.every, sum(one.counts.steps or 0 for one in before)
    last = first + (counts.steps or 0)
    return bool(every) and (last - 1) // every > first // every


def _engine(stage: StageBase, device: Device) -> str:
    """`auto` as it will be on the planned device."""
    if stage.rollout.engine != "auto":
        return stage.rollout.engine
    return "vllm" if device.gpus else "torch"


def _checkpoint(stage: TrainingStage, setup: Setup) -> int:
    """As the run estimates it before the stage's first step."""
    width, lora = setup.numbers.width, setup.model.lora is not None
    trained = width * setup.trained
    return checkpoint_size(
        width * setup.shape.n,
        trained,
        trained if lora else 0,
        setup.reference and isinstance(stage, RlStage),
        3 * width * setup.value_model,
    )


def _disk(recipe: Recipe, run_dir: Path, checkpoint: int) -> Disk:
    folder = run_dir.absolute()
    most, _ = most_checkpoints(recipe)
    return Disk(folder, checkpoint, most, free_bytes(folder))
