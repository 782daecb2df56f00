"""Stages on rows that were written before (sft, dpo): a trainer of TRL's under the run's own steps, metrics and checkpoints.

The order of the data is the run's (counter-based), the trainer walks through it in sequence. Its own checkpoint
(optimizer, scheduler, random state) goes into the folder `trainer/` of ours. What differs between the kinds is a `Task`.
"""

from __future__ import annotations

import functools
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.optim.lr_scheduler import LambdaLR

from rlcurric import seeds
from rlcurric.errors import EngineLost, RunError
from rlcurric.recipe.ends import Until
from rlcurric.recipe.stages import SupervisedStage
from rlcurric.schedules import Progress
from rlcurric.train.adapters import FOLDER as ADAPTER_FOLDER
from rlcurric.train.adapters import is_adapted, save_model
from rlcurric.train.directives import Lost
from rlcurric.train.ends import cause_of
from rlcurric.train.evaluation import evaluate
from rlcurric.train.failures import explain_memory
from rlcurric.train.learner import adamw, learning_rate
from rlcurric.train.metrics import merge_evaluation
from rlcurric.train.models import load_policy, named_tensors
from rlcurric.train.restarts import Restarts, share_loss
from rlcurric.train.run import RunContext, RunState, kept_steps, settled
from rlcurric.train.saves import newest_good, tell_failure
from rlcurric.train.saving import WRITE_ERRORS, told
from rlcurric.train.sharding import asked, plain_data_parallelism
from rlcurric.train.space import check_space, checkpoint_bytes, shortage


@dataclass(frozen=True)
class Task:
    """What a kind of stage trains, and how."""

    examples: Sequence[
        Mapping[str, Any]
    ]  # features of the stage's training rows, in the order of its pool
    lengths: np.ndarray  # tokens of each, by which rows go into micro-batches
    make: Callable[
        [dict[str, Any], dict[str, Any]], Any
    ]  # the trainer, from settings and arguments
    metrics: Callable[[Mapping[str, float]], dict[str, Any]]  # a step's, from what the trainer logs
    trained: np.ndarray  # tokens of each that have a loss
    write: Callable[[Path], None] = lambda folder: (
        None
    )  # what else goes into a checkpoint's `trainer/`


def run_supervised(
    run: RunContext,
    stage: SupervisedStage,
    state: RunState,
    task_of: Callable[[Any], Task],
) -> tuple[str, RunState]:
    """Train until the stage ends or a stop is asked for: ("done" | "stopped", where the run then stands)."""
    resumed = state.stage_step > 0
    assert run.origin is not None or not resumed
    run.doing("loading the model")
    with explain_memory("loading the model", run.recipe, stage):
        model = load_policy(run, stage, resumed)
    _check_batches(run, stage)
    check_space(run, checkpoint_bytes(model, reference=False))
    _tell_plain(run, stage, state)
    with plain_data_parallelism(), explain_memory("update", run.recipe, stage):
        task = task_of(model)
        follower = _Follower(run, stage, state, model, task)
        trainer = _make_trainer(run, stage, model, follower, task)
        resume_from = _trainer_checkpoint(run, trainer) if resumed else None
        trainer.train(resume_from_checkpoint=resume_from)
    run.engines.leave()
    run.ranks.barrier()  # a trainer looks into its folder until it returns, on every rank
    if run.ranks.is_main:
        shutil.rmtree(trainer.args.output_dir, ignore_errors=True)
    run.ranks.barrier()
    if follower.stopped:
        return "stopped", follower.state
    return "done", follower.state


def _tell_plain(run: RunContext, stage: SupervisedStage, state: RunState) -> None:
    """The launch configuration's sharding is the RL stages': said where a stage leaves it aside."""
    kind = asked(run.ranks.world)
    if run.ranks.is_main and kind not in ("none", "ddp"):
        text = (
            f"stage {stage.name} ({stage.kind}) is trained with plain data parallelism: every rank holds weights, gradients and "
            f"optimizer state whole; {kind} is for RL stages"
        )
        run.directory.event("caution", state.step, stage=stage.name, message=text)
        run.reporter.message(f"warning: {text}")


def training_order(run: RunContext, stage: SupervisedStage, steps: int) -> np.ndarray:
    """Row of the stage's pool for every slot of so many batches: distributions by share, rows without replacement.

    More steps go on where fewer end.
    """
    pool = run.data.pool(stage)
    names = list(pool.sizes)
    offsets = np.cumsum([0, *pool.sizes.values()])
    shares = np.array([stage.mixture[name] for name in names], dtype=np.float64)
    slots = steps * stage.batch_size
    draw = seeds.philox(run.recipe.seed, f"{stage.kind}/{stage.name}", 0)
    chosen = draw.choice(len(names), size=slots, p=shares / shares.sum())
    order = np.empty(slots, dtype=np.int64)
    for number, name in enumerate(names):
        size = pool.sizes[name]
        where = np.flatnonzero(chosen == number)
        for visit, slot in enumerate(where):
            epoch, cursor = divmod(visit, size)
            key = seeds.hash64(run.recipe.seed, stage.kind, stage.name, name, epoch)
            order[slot] = offsets[number] + seeds.permuted_index(cursor, size, key)
    return order


def by_length(order: np.ndarray, lengths: np.ndarray, batch_size: int) -> np.ndarray:
    """The same batches with their rows from short to long, so that micro-batches hold rows alike and pad little."""
    batches = order.reshape(-1, batch_size)
    ranks = np.argsort(lengths[batches], axis=1, kind="stable")
    return np.take_along_axis(batches, ranks, axis=1).reshape(-1)


def steps_at_most(until: Until, run: RunContext, stage: SupervisedStage, task: Task) -> int:
    """Steps after which the stage is over for certain: what bounds it in steps, epochs or tokens, counted out."""
    steps = _bound(until, run, stage, task)
    assert steps is not None, until  # the recipe was checked
    return steps


def _bound(until: Until, run: RunContext, stage: SupervisedStage, task: Task) -> int | None:
    bounds = [until.steps]
    if until.epochs is not None:
        rows = until.epochs * sum(run.data.pool(stage).sizes.values())
        bounds.append(max(1, math.ceil(rows / stage.batch_size - 1e-9)))
    bounds += [_bound(one, run, stage, task) for one in until.any]
    together = [_bound(one, run, stage, task) for one in until.all]
    if together and None not in together:
        bounds.append(max(one for one in together if one is not None))
    known = min((one for one in bounds if one is not None), default=None)
    if until.tokens is None:
        return known
    steps = 64  # rows are laid out no further than something else bounds the stage
    while True:
        steps = steps if known is None else min(steps, known)
        seen = np.cumsum(_trained_tokens(run, stage, task, steps))
        if seen[-1] >= until.tokens:
            return int(np.searchsorted(seen, until.tokens)) + 1
        if steps == known:
            return known
        steps *= 2


def _trained_tokens(run: RunContext, stage: SupervisedStage, task: Task, steps: int) -> np.ndarray:
    """Tokens with a loss in each of the stage's first steps, over all ranks."""
    order = training_order(run, stage, steps)
    tokens: np.ndarray = task.trained[order].reshape(steps, -1).sum(axis=1)
    return tokens


def _check_batches(run: RunContext, stage: SupervisedStage) -> None:
    world, parts = run.ranks.world, stage.micro_batches
    if stage.batch_size % (world * parts):
        raise ValueError(
            f"stages.{stage.name}.batch_size must be divisible by micro_batches times the number of ranks, "
            f"got {stage.batch_size} for {parts} times {world}"
        )


def _make_trainer(
    run: RunContext, stage: SupervisedStage, model: Any, follower: _Follower, task: Task
) -> Any:
    from datasets import Dataset

    world, parts, steps = run.ranks.world, stage.micro_batches, follower.most_steps
    order = by_length(training_order(run, stage, steps), task.lengths, stage.batch_size)
    on_cuda = torch.cuda.is_available()
    settings = {
        "output_dir": str(run.directory.path / f".trainer-{stage.name}"),
        "per_device_train_batch_size": stage.batch_size // (world * parts),
        "gradient_accumulation_steps": parts,
        "max_steps": steps,
        "num_train_epochs": 1,
        "max_grad_norm": stage.optim.max_grad_norm,
        "train_sampling_strategy": "sequential",
        "dataloader_drop_last": False,
        "dataloader_pin_memory": on_cuda,
        "max_length": None,
        "gradient_checkpointing": run.recipe.model.gradient_checkpointing,
        "bf16": on_cuda and run.recipe.model.autocasts,
        "ddp_find_unused_parameters": False,
        "use_cpu": not on_cuda,
        "logging_strategy": "steps",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "no",  # the follower asks for saves
        "report_to": [],
        "disable_tqdm": True,
        "seed": seeds.hash64(run.recipe.seed, "trainer") & 0x7FFFFFFF,
        "log_level": "error",
    }
    optimizer = adamw(model, stage.optim)
    scheduler = LambdaLR(
        optimizer,
        lambda update: learning_rate(stage.optim, follower.progress(update), update),
    )
    trainer = task.make(
        settings,
        {
            "model": model,
            "train_dataset": Dataset.from_list(list(task.examples)).select(order),
            "processing_class": run.tokenizer,
            "optimizers": (optimizer, scheduler),
        },
    )
    trainer.remove_callback(_printer())
    trainer.add_callback(follower.callback())
    follower.watch(trainer)
    return trainer


def _printer() -> type:
    from transformers import PrinterCallback

    return PrinterCallback


def _trainer_checkpoint(run: RunContext, trainer: Any) -> str:
    """The trainer's own layout again, from ours: its state beside the model's files."""
    assert run.origin is not None
    _name_cpu_ranks()
    step = run.origin.state()["stage_step"]
    folder = Path(trainer.args.output_dir) / f"checkpoint-{step}"
    if run.ranks.is_main:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        weights = (
            run.origin.model if run.recipe.model.lora is None else run.origin.path / ADAPTER_FOLDER
        )
        for file in [*weights.iterdir(), *(run.origin.path / "trainer").iterdir()]:
            shutil.copyfile(file, folder / file.name)
    run.ranks.barrier()
    return str(folder)


@functools.cache
def _name_cpu_ranks() -> None:
    """On CPU ranks the trainer loads its optimizer to the device `cpu:0`, which torch does not know by that name.

    Once in a process: torch sorts what is registered, and functions have no order.
    """
    torch.serialization.register_package(
        0, lambda storage: None, lambda storage, place: storage if place == "cpu:0" else None
    )


class _Follower:
    """Turns the trainer's steps into the run's: a line of metrics, a look at the stop flag, our checkpoints."""

    def __init__(
        self, run: RunContext, stage: SupervisedStage, state: RunState, model: Any, task: Task
    ) -> None:
        self.run, self.stage, self.state, self.model = run, stage, state, model
        self.task = task
        self.first_step = state.step - state.stage_step
        self.most_steps = steps_at_most(stage.until, run, stage, task)
        self._tokens = _trained_tokens(run, stage, task, self.most_steps)
        self._rows = sum(run.data.pool(stage).sizes.values())
        self.stopped = False
        self.trainer: Any = None
        self._write: Any = None  # the trainer's own save
        self._problem: str | None = None  # why it failed on this rank
        self._started = time.perf_counter()

    def callback(self) -> Any:
        from transformers import TrainerCallback

        follower = self

        class Follow(TrainerCallback):
            def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                follower._started = time.perf_counter()
                follower.run.doing("update")

            def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                follower.step_end(state.global_step, control)

            def on_log(
                self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any
            ) -> None:
                if logs and "loss" in logs:
                    follower.log(logs, control)

            def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                follower.save(state.global_step)

        return Follow()

    def watch(self, trainer: Any) -> None:
        """Follow this trainer; that its disk is full is no end of it."""
        self.trainer, self._write = trainer, trainer._save_checkpoint
        trainer._save_checkpoint = self._guarded

    def _guarded(self, *args: Any) -> None:
        ranks, store, needed = self.run.ranks, self.run.store, self.run.saver.expected
        self._problem = ranks.broadcast((shortage(store, needed) if ranks.is_main else None,))[0]
        if self._problem is not None:
            return
        try:
            self._write(*args)
        except (*WRITE_ERRORS, RuntimeError) as error:  # torch.save: the latter
            self._problem = told(error)

    def progress(self, update: int) -> Progress:
        """Where the run stands at the start of an update of the stage."""
        return Progress(
            self.first_step + update,
            update,
            self.stage.planned_steps,
            self.state.generated_tokens,
        )

    def step_end(self, stage_step: int, control: Any) -> None:
        self.state = self.state.stepped().updated(1)
        assert self.state.stage_step == stage_step
        control.should_log = True  # how it goes on is known from the step's row

    def log(self, logs: dict[str, float], control: Any) -> None:
        """The step's row; then whether the stage is over, and whether to save."""
        seconds = time.perf_counter() - self._started
        norm = float(logs.get("grad_norm", 0.0))
        if not (math.isfinite(logs["loss"]) and math.isfinite(norm)):
            raise RunError(
                f"the loss ({logs['loss']}) or the gradient norm ({norm}) of step {self.state.step} is not finite. Likely "
                "causes: a learning rate that is too high, bfloat16 overflow, or broken weights. The last checkpoint is "
                "from before this step."
            )
        row: dict[str, Any] = {
            "step": self.state.step,
            "stage": self.stage.name,
            "stage_step": self.state.stage_step,
            "policy_version": self.state.policy_version,
            **self.task.metrics(logs),
            "grad/norm": norm,
            "optim/learning_rate": logs.get("learning_rate"),
            "time/update/s": round(seconds, 4),
        }
        self._close(row)
        row["time/step/s"] = round(time.perf_counter() - self._started, 4)
        if self.run.ranks.is_main:
            self.run.log_step(row)
        every, step = self.run.recipe.run.checkpoints.every, self.state.step
        reason = self.run.ranks.broadcast((self.run.stop.requested(step),))[0]
        over = self.state.finished
        self.stopped = reason is not None and not over
        control.should_training_stop = self.stopped or over
        due = bool(every and step % every == 0)
        control.should_save = over or self.stopped or self.state.is_best or due

    def _close(self, row: dict[str, Any]) -> None:
        """Evaluate where that is due, and see whether the stage is over: rank 0 looks, and tells the others."""
        ranks, stage, asked = self.run.ranks, self.stage, self.stage.evaluation
        tokens = int(self._tokens[self.state.stage_step - 1])
        row["tokens/trained/sum"] = tokens
        due = bool(asked.every) and self.state.stage_step % asked.every == 0
        if due:
            self._evaluate(row)
        seconds = (time.perf_counter() - self._started) * ranks.world
        seen = self.state.watch(
            stage,
            row,
            tokens=tokens,
            rows=stage.batch_size,
            pool=self._rows,
            seconds=seconds,
        )
        self.state = ranks.broadcast((seen,))[0]
        row["data/epochs/sum"] = self.state.watched.epochs
        cause = cause_of(stage.until, self.state.watched)
        if cause is not None and asked.at_end and not due:
            self._evaluate(row)
        if ranks.is_main:
            self.state = settled(self.run, stage, self.state, row, cause)
        self.state = ranks.broadcast((self.state,))[0]

    def _evaluate(self, row: dict[str, Any]) -> None:
        started = time.perf_counter()
        self.run.doing("evaluate", Progress(self.state.step, self.state.stage_step))
        row |= self._evaluated()
        row["time/evaluate/s"] = round(time.perf_counter() - started, 4)

    def _evaluated(self) -> dict[str, float]:
        was_training = self.model.training
        version = self.state.policy_version
        restarts = Restarts(self.run, self.stage.rollout.max_restarts)
        samples, again = None, False
        while samples is None:
            lost: list[Lost] = []
            try:
                with (
                    share_loss(self.run.ranks) as lost,
                    explain_memory("evaluate", self.run.recipe, self.stage),
                ):
                    engine = (
                        self.run.engines.restart()
                        if again
                        else self.run.engines.get(self.stage, self.model, self.run.tokenizer)
                    )
                    self.run.engines.sync(engine, named_tensors(self.model), version)
                    samples = evaluate(
                        self.run, self.stage, engine, self.progress(self.state.stage_step - 1)
                    )
                    engine.sleep()
            except EngineLost:
                restarts.note(lost, self.state.step)
                samples, again = None, True
        self.model.train(was_training)
        return merge_evaluation(self.run.ranks.gather(samples), self.stage)

    def save(self, stage_step: int) -> None:
        """The trainer has written `checkpoint-N`: commit it as ours, at once.

        A failure is told and ends nothing, but a save that the run is to go on from is tried again, then RunError.
        """
        self.run.watchdog.beat("save")
        if self.run.ranks.is_main:
            self.run.reporter.phase("save")
        final = self.stopped or self.state.finished or self.state.is_best
        problem = self._commit(stage_step, "It is tried again." if final else _GOES_ON)
        if problem is not None and final:
            self._guarded(self.trainer.model, None)
            problem = self._commit(stage_step, "")
            if problem is not None:
                raise RunError(
                    f"the checkpoint of step {self.state.step} could not be written, 2 times: {problem}. "
                    f"{newest_good(self.run.store)} Make room in {self.run.store.folder}, or make it writable; then the same "
                    "command goes on from there."
                )

    def _commit(self, stage_step: int, then: str) -> str | None:
        """The same on every rank: why it failed, if it did on any."""
        problems = self.run.ranks.gather(self._problem)
        written = Path(self.trainer.args.output_dir) / f"checkpoint-{stage_step}"
        problem = next(((r, one) for r, one in enumerate(problems) if one is not None), None)
        if self.run.ranks.is_main:
            problem = problem or self._adopted(written)
            shutil.rmtree(written, ignore_errors=True)
            if problem is not None:
                self.run.store.clear(self.state.step)
                tell_failure(self.run, self.state.step, *problem, then)
        found: tuple[tuple[int, str] | None] = self.run.ranks.broadcast((problem,))
        return found[0][1] if found[0] is not None else None

    def _adopted(self, written: Path) -> tuple[int, str] | None:
        try:
            self.run.store.save(
                self.state.step,
                self.state.to_json(self.run),
                lambda folder: self._fill(written, folder),
                kept_steps(self.state.to_json(self.run)),
            )
        except WRITE_ERRORS as error:
            return (0, told(error))
        return None

    def _fill(self, written: Path, folder: Path) -> None:
        _adopt(written, folder, self.model)
        self.task.write(folder / "trainer")


_GOES_ON = "Training goes on; the next due save tries again."
_MODEL_FILES = ("config.json", "generation_config.json", "chat_template.jinja")
_MODEL_PREFIXES = ("model", "tokenizer", "special_tokens", "added_tokens", "vocab", "merges")


def _adopt(written: Path, folder: Path, model: Any) -> None:
    """Move the trainer's files into `model/`, `trainer/` and, under LoRA, `adapter/`; the model is then the merged one."""
    for file in written.iterdir():
        if file.name in ("training_args.bin", "README.md"):  # a pickle; what peft says of itself
            continue
        if file.name in _MODEL_FILES or file.name.startswith(_MODEL_PREFIXES):
            place = folder / "model"
        else:
            place = folder / (ADAPTER_FOLDER if file.name.startswith("adapter_") else "trainer")
        place.mkdir(exist_ok=True)
        shutil.move(file, place / file.name)
    if is_adapted(model):
        save_model(model, folder / "model")
