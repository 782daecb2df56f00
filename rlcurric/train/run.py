"""What the stages of one run share on one rank, and where the run stands."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlcurric.build import Parts, RunData
from rlcurric.recipe.schema import Recipe
from rlcurric.recipe.stages import DpoStage, StageBase
from rlcurric.rewards.budget import FailureBudget
from rlcurric.rollout.parity import ParityLimits
from rlcurric.schedules import Progress, value_at
from rlcurric.train.adapters import FOLDER
from rlcurric.train.checkpoint import Checkpoint, CheckpointStore
from rlcurric.train.coordinator import Coordinator
from rlcurric.train.engines import Engines
from rlcurric.train.learner import LearnerSettings
from rlcurric.train.reporter import Reporter
from rlcurric.train.rundir import METRICS, RunDirectory
from rlcurric.train.saving import Saver
from rlcurric.train.stop import StopRequest
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

    def enter(self, stage: str) -> RunState:
        """The start of the next stage."""
        return dataclasses.replace(self, stage=stage, stage_step=0, stage_updates=0)

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
        kept = {"curriculum": run.curriculum, "failures": run.failures.state_dict()}
        return {**dataclasses.asdict(self), **kept}

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> RunState:
        return cls(**{field.name: state[field.name] for field in dataclasses.fields(cls)})


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
    origin: Checkpoint | None = None  # the checkpoint that the current stage goes on from
    forked: bool = False  # `origin` belongs to another run, under another recipe
    ancestor: CheckpointStore | None = None  # of the run that this one was forked from
    curriculum: dict[str, Any] | None = (
        None  # the latest state of an RL stage's curriculum: kept through SFT stages
    )

    def log_step(self, row: dict[str, Any]) -> None:
        """One line of metrics.jsonl, also for whoever watches."""
        row = {**row, **self.watchdog.memory()}
        self.directory.append(METRICS, [row])
        self.reporter.step(row)

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

    def kept_steps(self) -> set[int]:
        """The last step of every stage: what a later `init: stage:NAME` and a fork `--from RUN:stage` start from."""
        return {self.recipe.stage_steps_before(k + 1) for k in range(len(self.recipe.stages))}

    def stage_index(self, name: str) -> int:
        return [stage.name for stage in self.recipe.stages].index(name)

    def reference_weights(self, stage: DpoStage) -> Path | str | None:
        """The folder that a DPO stage's reference comes from; None: the recipe's base model."""
        if stage.reference == "init":
            return self.initial_weights(stage)
        return self.initial_weights(stage.model_copy(update={"init": stage.reference}))

    def adapter_origin(
        self, stage: StageBase, resumed: bool
    ) -> tuple[Path | str | None, Path | None]:
        """`(base, adapter)` of a stage under LoRA: folder of the base model (None: the recipe's), of a saved adapter.

        A stage that goes on from another goes on with its adapter, on the base that the other stood on.
        """
        chain, adapter = stage, None
        if resumed and self.origin is not None:
            adapter = self.origin.path / FOLDER
        while (index := self._source_index(chain)) is not None:
            if adapter is None:
                weights = self.initial_weights(chain)
                assert isinstance(weights, Path)
                adapter = weights.parent / FOLDER
            chain = self.recipe.stages[index]
        return self.initial_weights(chain), adapter

    def _source_index(self, stage: StageBase) -> int | None:
        """The stage whose weights this one goes on from; None if it starts from a model."""
        if stage.init.startswith("stage:"):
            return self.stage_index(stage.init[6:])
        index = self.stage_index(stage.name)
        return index - 1 if stage.init == "previous" and index > 0 else None

    def initial_weights(self, stage: StageBase) -> Path | str | None:
        """The folder that a stage's weights come from; None: the recipe's base model."""
        source = self._source_index(stage)
        if source is None:
            from rlcurric.train.named import local_path

            if stage.init in ("base", "previous"):
                return None
            return local_path(stage.init, self.recipe.base_dir) or stage.init
        if stage.init == "previous" and self.origin is not None:
            return self.origin.model
        step = self.recipe.stage_steps_before(source + 1)
        known = {checkpoint.step for checkpoint in self.store.all()}
        store = self.store if step in known or self.ancestor is None else self.ancestor
        return store.at(step).model
