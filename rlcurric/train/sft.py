"""An SFT stage: TRL's SFTTrainer under the run's own steps, metrics and checkpoints.

The order of the data is the run's (counter-based), the trainer walks through it in sequence. Its own checkpoint
(optimizer, scheduler, random state) goes into the folder `trainer/` of ours.
"""

from __future__ import annotations

import math
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.optim.lr_scheduler import LambdaLR

from rlcurric import seeds
from rlcurric.errors import RunError
from rlcurric.recipe.schema import SftStage
from rlcurric.schedules import Progress
from rlcurric.train.evaluation import evaluate, summarise
from rlcurric.train.learner import adamw, learning_rate
from rlcurric.train.models import load_policy
from rlcurric.train.run import RunContext, RunState


def run_sft(run: RunContext, stage: SftStage, state: RunState) -> tuple[str, RunState]:
    """Train until the stage ends or a stop is asked for: ("done" | "stopped", where the run then stands)."""
    resumed = state.stage_step > 0
    assert run.origin is not None or not resumed
    model = load_policy(run, stage, resumed)
    follower = _Follower(run, stage, state, model)
    trainer = _make_trainer(run, stage, model, follower)
    resume_from = _trainer_checkpoint(run, trainer) if resumed else None
    trainer.train(resume_from_checkpoint=resume_from)
    shutil.rmtree(trainer.args.output_dir, ignore_errors=True)
    run.ranks.barrier()
    if follower.stopped:
        return "stopped", follower.state
    return "done", follower.state


def training_order(run: RunContext, stage: SftStage) -> np.ndarray:
    """Row of the stage's pool for every slot of every batch: distributions by share, rows without replacement."""
    pool = run.data.pool(stage)
    names = list(pool.sizes)
    offsets = np.cumsum([0, *pool.sizes.values()])
    shares = np.array([stage.mixture[name] for name in names], dtype=np.float64)
    slots = stage.until.steps * stage.batch_size
    draw = seeds.philox(run.recipe.seed, f"sft/{stage.name}", 0)
    chosen = draw.choice(len(names), size=slots, p=shares / shares.sum())
    order = np.empty(slots, dtype=np.int64)
    for number, name in enumerate(names):
        size = pool.sizes[name]
        where = np.flatnonzero(chosen == number)
        for visit, slot in enumerate(where):
            epoch, cursor = divmod(visit, size)
            key = seeds.hash64(run.recipe.seed, "sft", stage.name, name, epoch)
            order[slot] = offsets[number] + seeds.permuted_index(cursor, size, key)
    return order


def by_length(order: np.ndarray, lengths: np.ndarray, batch_size: int) -> np.ndarray:
    """The same batches with their rows from short to long, so that micro-batches hold rows alike and pad little."""
    batches = order.reshape(-1, batch_size)
    ranks = np.argsort(lengths[batches], axis=1, kind="stable")
    return np.take_along_axis(batches, ranks, axis=1).reshape(-1)


def _make_trainer(run: RunContext, stage: SftStage, model: Any, follower: _Follower) -> Any:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    world, parts = run.ranks.world, stage.micro_batches
    if stage.batch_size % (world * parts):
        raise ValueError(
            f"stages.{stage.name}.batch_size must be divisible by micro_batches times the number of ranks, "
            f"got {stage.batch_size} for {parts} times {world}"
        )
    rows = run.data.sft_examples(stage)
    lengths = np.array([len(row["input_ids"]) for row in rows])
    order = by_length(training_order(run, stage), lengths, stage.batch_size)
    examples = Dataset.from_list(rows).select(order)
    output = run.directory.path / f".trainer-{stage.name}"
    on_cuda = torch.cuda.is_available()
    config = SFTConfig(
        output_dir=str(output),
        per_device_train_batch_size=stage.batch_size // (world * parts),
        gradient_accumulation_steps=parts,
        max_steps=stage.until.steps,
        num_train_epochs=1,
        max_grad_norm=stage.optim.max_grad_norm,
        train_sampling_strategy="sequential",
        dataloader_drop_last=False,
        dataloader_pin_memory=on_cuda,
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
        gradient_checkpointing=run.recipe.model.gradient_checkpointing,
        bf16=on_cuda and run.recipe.model.dtype != "float32",
        use_cpu=not on_cuda,
        logging_strategy="steps",
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",  # the follower asks for saves
        report_to=[],
        disable_tqdm=True,
        seed=seeds.hash64(run.recipe.seed, "trainer") & 0x7FFFFFFF,
        eos_token=run.tokenizer.eos_token,
        log_level="error",
    )
    optimizer = adamw(model, stage.optim)
    scheduler = LambdaLR(
        optimizer,
        lambda update: learning_rate(
            stage.optim,
            Progress(follower.first_step + update, update, stage.until.steps),
            update,
        ),
    )
    trainer = SFTTrainer(
        model=model,
        args=config,
        train_dataset=examples,
        processing_class=run.tokenizer,
        optimizers=(optimizer, scheduler),
    )
    trainer.remove_callback(_printer())
    trainer.add_callback(follower.callback())
    follower.trainer = trainer
    return trainer


def _printer() -> type:
    from transformers import PrinterCallback

    return PrinterCallback


def _trainer_checkpoint(run: RunContext, trainer: Any) -> str:
    """The trainer's own layout again, from ours: its state beside the model's files."""
    assert run.origin is not None
    step = run.origin.state()["stage_step"]
    folder = Path(trainer.args.output_dir) / f"checkpoint-{step}"
    if run.ranks.is_main:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for file in [*run.origin.model.iterdir(), *(run.origin.path / "trainer").iterdir()]:
            shutil.copyfile(file, folder / file.name)
    run.ranks.barrier()
    return str(folder)


class _Follower:
    """Turns the trainer's steps into the run's: a line of metrics, a look at the stop flag, our checkpoints."""

    def __init__(self, run: RunContext, stage: SftStage, state: RunState, model: Any) -> None:
        self.run, self.stage, self.state, self.model = run, stage, state, model
        self.first_step = state.step - state.stage_step
        self.stopped = False
        self.trainer: Any = None
        self._tokens = 0
        self._started = time.perf_counter()

    def callback(self) -> Any:
        from transformers import TrainerCallback

        follower = self

        class Follow(TrainerCallback):
            def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                follower._started = time.perf_counter()

            def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                follower.step_end(state.global_step, control)

            def on_log(
                self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any
            ) -> None:
                if logs and "loss" in logs:
                    follower.log(logs)

            def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                follower.save(state.global_step)

        return Follow()

    def step_end(self, stage_step: int, control: Any) -> None:
        self.state = self.state.stepped().updated(1)
        assert self.state.stage_step == stage_step
        every = self.run.recipe.run.checkpoints.every
        last = stage_step == self.stage.until.steps
        reason = self.run.ranks.broadcast((self.run.stop.requested(self.state.step),))[0]
        self.stopped = reason is not None and not last
        control.should_training_stop = self.stopped or last
        control.should_save = last or self.stopped or bool(every and self.state.step % every == 0)
        control.should_log = True

    def log(self, logs: dict[str, float]) -> None:
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
            "loss/sft/mean": logs["loss"],
            "grad/norm": norm,
            "optim/learning_rate": logs.get("learning_rate"),
            "time/update/s": round(seconds, 4),
        }
        evaluation, step = self.stage.evaluation, self.state.stage_step
        last = step == self.stage.until.steps
        if (evaluation.every and step % evaluation.every == 0) or (last and evaluation.at_end):
            self.run.reporter.phase("evaluate")
            row |= self._evaluate()
            row["time/evaluate/s"] = round(time.perf_counter() - self._started - seconds, 4)
        row["time/step/s"] = round(time.perf_counter() - self._started, 4)
        if self.run.ranks.is_main:
            self.run.log_step(row)

    def _evaluate(self) -> dict[str, float]:
        was_training = self.model.training
        engine = self.run.engines.get(self.stage, self.model, self.run.tokenizer)
        self.run.engines.sync(engine, self.model, self.state.policy_version)
        samples = evaluate(self.run, self.stage, engine)
        self.model.train(was_training)
        return summarise([sample for share in self.run.ranks.gather(samples) for sample in share])

    def save(self, stage_step: int) -> None:
        """The trainer has written `checkpoint-N`: commit it as ours."""
        if self.run.ranks.is_main:
            self.run.reporter.phase("save")
            written = Path(self.trainer.args.output_dir) / f"checkpoint-{stage_step}"
            self.run.store.save(
                self.state.step,
                self.state.to_json(self.run),
                lambda folder: _adopt(written, folder),
                self.run.kept_steps(),
            )
            shutil.rmtree(written, ignore_errors=True)
        self.run.ranks.barrier()


_MODEL_FILES = ("config.json", "generation_config.json", "chat_template.jinja")
_MODEL_PREFIXES = ("model", "tokenizer", "special_tokens", "added_tokens", "vocab", "merges")


def _adopt(written: Path, folder: Path) -> None:
    """Move the trainer's files into `model/` and `trainer/`."""
    (folder / "model").mkdir()
    (folder / "trainer").mkdir()
    for file in written.iterdir():
        if file.name == "training_args.bin":  # a pickle, and the recipe says it all
            continue
        is_model = file.name in _MODEL_FILES or file.name.startswith(_MODEL_PREFIXES)
        shutil.move(file, folder / ("model" if is_model else "trainer") / file.name)
