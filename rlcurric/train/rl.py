"""One RL stage: rank 0 leads with the loop below, every rank obeys.

The loop is all there is: select, generate, score, weigh, update, sync, observe, save. Refill, carried groups and
stops happen inside the four calls of the controller and nowhere else.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from rlcurric import seeds
from rlcurric.curriculum.controller import Controller
from rlcurric.objective.advantages import batch_advantages
from rlcurric.recipe.schema import RlStage
from rlcurric.schedules import Progress, value_at
from rlcurric.train.directives import (
    Directive,
    Evaluate,
    Fetch,
    Forget,
    Generate,
    Probe,
    Save,
    Sync,
    TrainSample,
    Update,
)
from rlcurric.train.metrics import batch_metrics, merge_evaluation
from rlcurric.train.rolloutlog import write_rollouts
from rlcurric.train.run import RunContext, RunState
from rlcurric.types import Batch, Delivery

Lead = Generator[Directive, list[Any], str]


class RlLeader:
    """Rank 0's side of one RL stage."""

    def __init__(
        self, run: RunContext, stage: RlStage, controller: Controller, state: RunState
    ) -> None:
        self.run = run
        self.stage = stage
        self.controller = controller
        self.state = state
        self.objective = run.parts.objective(stage)
        self._seconds: dict[str, float] = {}

    def lead(self) -> Lead:
        """Train until the stage ends or a stop is asked for; "done" or "stopped"."""
        yield Sync(self.state.policy_version)
        yield from self._probe()
        while self.state.stage_step < self.stage.until.steps:
            self._seconds, started = {}, time.perf_counter()
            progress = self._progress()
            self.controller.begin(self.state.step, progress)
            while not self.controller.ready():
                if self.run.stop.requested():
                    self.controller.abandon()
                    return (yield from self._stop())
                deliveries = yield from self._rollouts(progress)
                self.controller.deliver(deliveries)
            batch = self.controller.take()
            row = yield from self._train(batch, progress)
            self.state = self.state.stepped(row["tokens/generated/sum"])
            yield from self._finish_step(row, batch, started)
            if self.run.stop.requested(self.state.step):
                return (yield from self._stop())
        return "done"

    def _rollouts(self, progress: Progress) -> Generator[Directive, list[Any], list[Delivery]]:
        weights, args = self.run.parts.reward_values(self.stage, progress)
        with self._timed("rollout"):
            answers = yield Generate(tuple(self.controller.requests()), weights, args)
        deliveries = [delivery for answer in answers for delivery in answer.deliveries]
        self.run.failures.observe(deliveries)
        self._seconds["grade"] = self._seconds.get("grade", 0.0) + max(
            a.grade_seconds for a in answers
        )
        self._seconds["rollout"] -= max(a.grade_seconds for a in answers)
        return deliveries

    def _train(
        self, batch: Batch, progress: Progress
    ) -> Generator[Directive, list[Any], dict[str, Any]]:
        """Advantages, updates, sync; the step's line of metrics."""
        advantages = batch_advantages(self.objective.spec, batch)
        row = {
            "step": self.state.step + 1,
            "stage": self.stage.name,
            "stage_step": self.state.stage_step + 1,
            "policy_version": self.state.policy_version,
            **batch_metrics(batch),
            **self.controller.metrics(),
        }
        row["tokens/generated/sum"] = int(row.get("curriculum/generated_tokens", 0))
        minibatches = self._minibatches(batch, advantages)
        if minibatches:
            rates = self._learning_rates(progress, len(minibatches))
            with self._timed("update"):
                answers = yield Update(minibatches, rates, self.state.policy_version)
            row |= answers[0]
            row["optim/learning_rate"] = rates[-1]
            self.state = self.state.updated(len(minibatches))
            with self._timed("sync"):
                yield Sync(self.state.policy_version)
        else:
            self._warn("empty_step", "no group was admitted in this step; nothing was trained")
        return row

    def _minibatches(
        self, batch: Batch, advantages: dict[tuple[Any, int], float]
    ) -> tuple[tuple[TrainSample, ...], ...]:
        """The batch in windows: each epoch deals the groups anew, by a counter-based shuffle."""
        optim = self.stage.optim
        windows: list[tuple[TrainSample, ...]] = []
        for epoch in range(optim.epochs):
            order = np.arange(len(batch.groups))
            if optim.updates_per_step > 1:
                draw = seeds.philox(self.run.recipe.seed, "minibatches", self.state.step, epoch)
                order = draw.permutation(len(batch.groups))
            for part in np.array_split(order, optim.minibatches):
                samples = tuple(
                    TrainSample(
                        group.group_id, sample.sample, advantages[group.group_id, sample.sample]
                    )
                    for group in (batch.groups[index] for index in sorted(part.tolist()))
                    for sample in group.samples
                )
                if samples:
                    windows.append(samples)
        return tuple(windows)

    def _learning_rates(self, progress: Progress, updates: int) -> tuple[float, ...]:
        """Schedule by step, times a linear warm-up by update."""
        rate = value_at(self.stage.optim.learning_rate, progress)
        warmup = self.stage.optim.warmup_steps
        first = self.state.stage_updates
        return tuple(
            rate * min(1.0, (first + k + 1) / warmup) if warmup else rate for k in range(updates)
        )

    def _finish_step(
        self, row: dict[str, Any], batch: Batch, started: float
    ) -> Lead | Generator[Any, Any, None]:
        """Everything after the update: evaluation, logs, checkpoint."""
        step, evaluation = self.state.step, self.stage.evaluation
        last = self.state.stage_step == self.stage.until.steps
        if (evaluation.every and self.state.stage_step % evaluation.every == 0) or (
            last and evaluation.at_end
        ):
            with self._timed("evaluate"):
                answers = yield Evaluate(step, self.state.policy_version)
            row |= merge_evaluation(answers)
        yield from self._log(row, batch, started)
        yield Forget(tuple(self.controller.carried()))
        every = self.run.recipe.run.checkpoints.every
        if last or (every and step % every == 0):
            yield from self._save()

    def _log(self, row: dict[str, Any], batch: Batch, started: float) -> Generator[Any, Any, None]:
        log = self.run.recipe.run.rollouts
        if log.every and self.state.step % log.every == 0 and batch.groups:
            count = -(-log.max_per_step // max(1, len(batch.groups[0].samples)))
            groups = batch.groups[:count]
            answers = yield Fetch(tuple(group.group_id for group in groups))
            rollouts = {
                rollout_key: value for answer in answers for rollout_key, value in answer.items()
            }
            write_rollouts(self.run.directory, self.state.step, groups, rollouts, log)
        seconds = time.perf_counter() - started
        row |= {f"time/{name}/s": round(value, 4) for name, value in self._seconds.items()}
        row["time/step/s"] = round(seconds, 4)
        row["throughput/generated/tokens_per_s"] = round(
            row["tokens/generated/sum"] / max(seconds, 1e-9), 1
        )
        row["tokens/total/sum"] = self.state.generated_tokens
        self.run.directory.append("decisions.jsonl", self.controller.decisions())
        self.run.log_step(row)

    def _save(self) -> Generator[Any, Any, None]:
        self.run.reporter.phase("save")
        state = self.state.to_json(
            curriculum=self.controller.state_dict(), failures=self.run.failures.state_dict()
        )
        yield Save(state)

    def _stop(self) -> Generator[Any, Any, str]:
        if not self.run.saved(self.state.step):
            yield from self._save()
        return "stopped"

    def _probe(self) -> Generator[Any, Any, None]:
        """Parity before anything is trained: at the start of a stage and after every resume."""
        prompts = self.run.data.probe_prompts(self.stage)
        self.run.reporter.phase("parity probe")
        answers = yield Probe(prompts, self.state.policy_version)
        self.run.directory.event(
            "parity_probe", self.state.step, stage=self.stage.name, **answers[0]
        )

    def _progress(self) -> Progress:
        return Progress(self.state.step, self.state.stage_step, self.stage.until.steps)

    def _warn(self, kind: str, text: str) -> None:
        self.run.directory.event(kind, self.state.step + 1, message=text)
        self.run.reporter.message(f"step {self.state.step + 1}: {text}")

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        self.run.reporter.phase(phase)
        started = time.perf_counter()
        yield
        self._seconds[phase] = self._seconds.get(phase, 0.0) + time.perf_counter() - started
