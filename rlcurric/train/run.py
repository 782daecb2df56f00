"""What the stages of one run share on one rank, and where the run stands."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlcurric.build import Parts, RunData
from rlcurric.recipe.ends import Best
from rlcurric.recipe.schema import Recipe
from rlcurric.recipe.stages import DpoStage, StageBase, TrainingStage
from rlcurric.rewards.budget import FailureBudget
from rlcurric.rollout.parity import ParityLimits
from rlcurric.schedules import Progress, value_at
from rlcurric.train.adapters import FOLDER
from rlcurric.train.checkpoint import Checkpoint, CheckpointStore
from rlcurric.train.coordinator import Coordinator
from rlcurric.train.ends import Cause, Ended, Watched
from rlcurric.train.engines import Engines
from rlcurric.train.learner import LearnerSettings
from rlcurric.train.reporter import Reporter
from rlcurric.train.rundir import METRICS, RunDirectory
from rlcurric.train.saving import Saver
from rlcurric.train.stop import StopRequest
from rlcurric.train.trackers import Trackers
from rlcurric.train.watchdog import Watchdog

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class RunState:
    """Where a run stands between two steps. Goes into every checkpoint."""

    stage: str
    step: int = 0  # steps done over the whole run
    stage_step: int = 0  # steps done in this stage
    stage_updates: int = 0  # optimizer updates done in this stage
    policy_version: int = 0  # rises once per weight sync after training
    generated_tokens: int = 0  # completion tokens sampled for training, over the whole run
    watched: Watched = field(default_factory=Watched)  # of this stage, for its end
    ended: tuple[Ended, ...] = ()  # stages that are over, this one too once it is

    @property
    def finished(self) -> bool:
        """Whether the stage is over."""
        return bool(self.ended) and self.ended[-1].stage == self.stage

    @property
    def is_best(self) -> bool:
        """Whether the step before is the best one of the stage so far."""
        return self.stage_step > 0 and self.watched.best_step == self.step

    def enter(self, stage: str) -> RunState:
        """The start of the next stage."""
        return dataclasses.replace(
            self, stage=stage, stage_step=0, stage_updates=0, watched=Watched()
        )

    def watch(
        self,
        stage: TrainingStage,
        row: Mapping[str, Any],
        *,
        tokens: int,
        rows: int,
        pool: int,
        seconds: float,
    ) -> RunState:
        """After a look at the row of the step that was done, for the stage's end."""
        seen = self.watched.after(
            stage.until, row, tokens=tokens, rows=rows, pool=pool, seconds=seconds
        )
        return dataclasses.replace(self, watched=seen)

    def closed(self, cause: Cause, best: Best | None = None) -> RunState:
        """The end of the stage; `best` says which of its checkpoints counts."""
        seen, last = self.watched, self.step
        rolls = best is not None and best.rollback and seen.best_step is not None
        over = Ended(
            stage=self.stage,
            first_step=last - self.stage_step + 1,
            last_step=last,
            reason=cause.reason,
            values=dict(cause.values),
            best_step=seen.best_step,
            best_value=seen.best_value,
            hands_over=seen.best_step if rolls and seen.best_step is not None else last,
        )
        return dataclasses.replace(self, ended=(*self.ended, over))

    def reopened(self) -> RunState:
        """As if it were not known whether the stage is over."""
        return dataclasses.replace(self, ended=self.ended[:-1]) if self.finished else self

    def stepped(self, generated_tokens: int = 0) -> RunState:
        return dataclasses.replace(
            self,
            step=self.step + 1,
            stage_step=self.stage_step + 1,
            generated_tokens=self.generated_tokens + generated_tokens,
        )

    def sampled(self, tokens: int) -> RunState:
        """After rollouts outside a step."""
        return dataclasses.replace(self, generated_tokens=self.generated_tokens + tokens)

    def updated(self, updates: int) -> RunState:
        """After a step's updates: new weights, so a new policy version."""
        return dataclasses.replace(
            self, stage_updates=self.stage_updates + updates, policy_version=self.policy_version + 1
        )

    def to_json(self, run: RunContext) -> dict[str, Any]:
        """The state that goes into a checkpoint: this, and what the run keeps over stages."""
        kept = {
            "curriculum": run.curriculum,
            "failures": run.failures.state_dict(),
            "written": run.written,
        }
        return {**dataclasses.asdict(self), **kept}

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> RunState:
        fields = {one.name: state[one.name] for one in dataclasses.fields(cls)}
        fields["watched"] = Watched(**fields["watched"])
        fields["ended"] = tuple(Ended(**one) for one in fields["ended"])
        return cls(**fields)


def kept_steps(state: Mapping[str, Any]) -> set[int]:
    """Steps of the checkpoints that stay beside the newest: every stage's last and best one, by a checkpoint's state.

    What a later `init: stage:NAME[:best]` and a fork `--from RUN:stage` start from.
    """
    over = state["ended"]
    kept = {one[key] for one in over for key in ("last_step", "best_step", "hands_over")}
    return {step for step in (*kept, state["watched"]["best_step"]) if step is not None}


def settled(
    run: RunContext,
    stage: TrainingStage,
    state: RunState,
    row: Mapping[str, Any],
    cause: Cause | None,
) -> RunState:
    """Rank 0: with the step as the stage's best where its row says so, and closed where there is a cause."""
    seen = state.watched.judged(stage.best, row, state.step)
    if seen.best_step == state.step and stage.best is not None:
        run.directory.event(
            "best",
            state.step,
            stage=stage.name,
            metric=stage.best.metric,
            value=seen.best_value,
        )
    state = dataclasses.replace(state, watched=seen)
    return state if cause is None else state.closed(cause, stage.best)


@dataclass
class RunContext:
    """The run on one rank."""

    recipe: Recipe
    ranks: Coordinator
    directory: RunDirectory  # written by rank 0 only
    store: CheckpointStore
    saver: Saver
    reporter: Reporter
    stop: StopRequest
    tokenizer: PreTrainedTokenizerBase
    data: RunData
    parts: Parts
    engines: Engines
    failures: FailureBudget
    watchdog: Watchdog
    trackers: Trackers | None = None  # of a run with a directory, on rank 0
    origin: Checkpoint | None = None  # the checkpoint that the current stage goes on from
    forked: bool = False  # `origin` belongs to another run, under another recipe
    ancestor: CheckpointStore | None = None  # of the run that this one was forked from
    ended: tuple[Ended, ...] = ()  # stages that are over
    # What stages wrote for later ones: file in the run directory -> its SHA-256.
    written: dict[str, str] = field(default_factory=dict)
    curriculum: dict[str, Any] | None = (
        None  # the latest state of an RL stage's curriculum: kept through SFT stages
    )

    def doing(self, phase: str, progress: Progress | None = None) -> None:
        """A phase begins: the watchdog's clock starts anew, and whoever watches is told."""
        self.watchdog.beat(phase, progress)
        self.reporter.phase(phase)

    def log_step(self, row: dict[str, Any]) -> None:
        """One line of metrics.jsonl, also for whoever watches."""
        row = {**row, **self.watchdog.memory()}
        self.directory.append(METRICS, [row])
        self.reporter.step(row)
        if self.trackers is not None:
            self.trackers.log(row)

    def saved(self, step: int) -> bool:
        """Whether the newest checkpoint is of this step."""
        newest = self.store.last()
        return newest is not None and newest.step == step

    def learner_settings(self, stage: StageBase) -> LearnerSettings:
        """What the learner needs of a stage beside its optimizer."""
        import torch

        bf16 = torch.cuda.is_available() and self.recipe.model.autocasts
        parity = stage.rollout.parity
        return LearnerSettings(
            temperature=value_at(stage.rollout.temperature, Progress(0, 0, stage.planned_steps)),
            max_new_tokens=stage.rollout.max_new_tokens,
            mixed_precision="bf16" if bf16 else "no",
            fp32_head=self.recipe.model.fp32_head,
            parity=ParityLimits.of(
                "bfloat16" if bf16 else "float32", parity.max_abs, parity.mean_abs
            ),
        )

    def stage_index(self, name: str) -> int:
        return [stage.name for stage in self.recipe.stages].index(name)

    def reference_weights(self, stage: DpoStage) -> Path | str | None:
        """The folder that a DPO stage's reference comes from; None: the recipe's base model."""
        init = stage.init if stage.reference == "init" else stage.reference
        source = self._source(stage.model_copy(update={"init": init}))
        if source is not None:  # `origin` may be of this stage
            return self.checkpoint_of(source).model
        return self.initial_weights(stage.model_copy(update={"init": init}))

    def adapter_origin(
        self, stage: StageBase, resumed: bool
    ) -> tuple[Path | str | None, Path | None]:
        """`(base, adapter)` of a stage under LoRA: folder of the base model (None: the recipe's), of a saved adapter.

        A stage that goes on from another goes on with its adapter, on the base that the other stood on.
        """
        chain, adapter = stage, None
        if resumed and self.origin is not None:
            adapter = self.origin.path / FOLDER
        while (source := self._source(chain)) is not None:
            if adapter is None:
                weights = self.initial_weights(chain)
                assert isinstance(weights, Path)
                adapter = weights.parent / FOLDER
            chain = self.recipe.stages[self.stage_index(source.partition(":")[0])]
        return self.initial_weights(chain), adapter

    def checkpoint(self, step: int) -> Checkpoint:
        """The verified checkpoint of a step, of this run or of the one that it was forked from."""
        known = {checkpoint.step for checkpoint in self.store.all()}
        store = self.store if step in known or self.ancestor is None else self.ancestor
        return store.at(step)

    def checkpoint_of(self, spec: str) -> Checkpoint:
        """What `NAME[:best|:last]` names, of a stage that is over; without a suffix, what it handed over."""
        name, _, which = spec.partition(":")
        over = next((one for one in self.ended if one.stage == name), None)
        if over is None:
            raise ValueError(
                f"the stage {name!r} has not ended in this run, so that it has no weights to give; those that have: "
                f"{', '.join(one.stage for one in self.ended) or 'none'}"
            )
        step = {"": over.hands_over, "last": over.last_step, "best": over.best_step}[which]
        if step is None:
            raise ValueError(
                f"stage:{spec}: the stage {name!r} was never evaluated by stages.{name}.best.metric, so that none of its "
                "checkpoints is the best"
            )
        return self.checkpoint(step)

    def _source(self, stage: StageBase) -> str | None:
        """`NAME[:best|:last]` of the stage whose weights this one goes on from; None if it starts from a model."""
        if stage.init.startswith("stage:"):
            return stage.init[6:]
        before = self.recipe.stages[: self.stage_index(stage.name)]
        trained = [one.name for one in before if isinstance(one, TrainingStage)]
        return trained[-1] if stage.init == "previous" and trained else None

    def initial_weights(self, stage: StageBase) -> Path | str | None:
        """The folder that a stage's weights come from; None: the recipe's base model."""
        source = self._source(stage)
        if source is None:
            from rlcurric.train.named import local_path

            if stage.init in ("base", "previous"):
                return None
            return local_path(stage.init, self.recipe.base_dir) or stage.init
        if stage.init == "previous" and self.origin is not None:
            return self.origin.model
        return self.checkpoint_of(source).model
