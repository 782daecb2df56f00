"""One RL stage: rank 0 leads with the loop below, every rank obeys.

The loop is all there is: select, generate, score, weigh, update, sync, observe, save. Refill, carried groups and
stops happen inside the four calls of the controller and nowhere else.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from rlcurric import seeds
from rlcurric.curriculum.controller import Controller
from rlcurric.curriculum.measured import append_measured, read_measured
from rlcurric.errors import EngineLost
from rlcurric.objective.declaration import Objective
from rlcurric.objective.pieces import resolved
from rlcurric.recipe.stages import RlStage
from rlcurric.rewards.budget import FailureBudget
from rlcurric.rewards.rubric import Terms
from rlcurric.schedules import Progress, value_at
from rlcurric.train.advantages import Advantages, batch_advantages, imitated
from rlcurric.train.directives import (
    Directive,
    Evaluate,
    Fetch,
    FitValue,
    Forget,
    Generate,
    Minibatch,
    Predict,
    Probe,
    ScoreKl,
    Sync,
    TrainSample,
    Update,
)
from rlcurric.train.ends import cause_of
from rlcurric.train.failures import tell_grader_failures
from rlcurric.train.learner import learning_rate
from rlcurric.train.metrics import VerdictLog, batch_metrics, merge_evaluation
from rlcurric.train.modes import mode_metrics
from rlcurric.train.portions import identity_of
from rlcurric.train.restarts import Restarts
from rlcurric.train.rolloutlog import write_rollouts
from rlcurric.train.run import RunContext, RunState, settled
from rlcurric.train.rundir import DECISIONS, screened_name, write_atomic
from rlcurric.train.saves import Saves
from rlcurric.train.screening import measure, outcome_of
from rlcurric.train.worker import Generated
from rlcurric.train.written import warm_start_file
from rlcurric.types import AdmittedGroup, Batch, Delivery, GroupId, GroupOutcome

Lead = Generator[Directive, list[Any], str]
Turn = Generator[Directive, list[Any], None]


class RlLeader:
    """Rank 0's side of one RL stage."""

    def __init__(
        self, run: RunContext, stage: RlStage, controller: Controller, state: RunState
    ) -> None:
        self.run = run
        self.stage = stage
        self.controller = controller
        self.state = state
        self._entered = state
        self.objective: Objective = run.parts.objective(stage)
        self._seconds: dict[str, float] = {}
        self._generated = 0  # tokens sampled in this step
        self._drawn = 0  # prompts sampled in this step
        self._value_metrics: dict[str, float] = {}
        self._modes = run.data.modes(stage)
        self._verdicts = VerdictLog()
        self._saves = Saves(run)
        self._restarts = Restarts(run, stage.rollout.max_restarts)

    def lead(self) -> Lead:
        """Train until the stage ends or a stop is asked for; "done" or "stopped"."""
        yield from self._of_engine(Sync(self.state.policy_version))
        yield from self._probe()
        if not (yield from self._screen()):
            return (yield from self._stop())
        while not self.state.finished:
            self._seconds, self._generated, self._drawn = {}, 0, 0
            started = time.perf_counter()
            self._verdicts = VerdictLog()
            progress = self._progress()
            try:
                batch = yield from self._sample(progress)
            except EngineLost:  # it is back, with the weights it had: the step begins again
                continue
            if batch is None:
                return (yield from self._stop())
            self._tell_shortage(batch)
            yield from self._fit_value_model()
            batch = yield from self._shape(batch, progress)
            batch, advantages = yield from self._weigh(batch, progress)
            row = yield from self._train(batch, advantages, progress)
            self.state = self.state.stepped(self._generated)
            yield from self._close(row, progress, started)
            self._watch(row)
            yield from self._saves.settle(wait=False)
            row |= self._saves.metrics()
            yield from self._log(row, batch, advantages, started)
            self._restarts.step_done()
            yield from self._save_if_due()
            if self.run.stop.requested(self.state.step) and not self.state.finished:
                return (yield from self._stop())
        return "done"

    def _sample(self, progress: Progress) -> Generator[Directive, list[Any], Batch | None]:
        """The step's batch; None if a stop was asked for. Without a batch the step has not begun.

        Raises EngineLost where an engine died and was restarted.
        """
        self.controller.begin(self.state.step, progress, self.state.policy_version)
        failures = self.run.failures.state_dict()
        while not self.controller.ready():
            stopped, deliveries = self.run.stop.requested() is not None, None
            if not stopped:
                deliveries = yield from self._rollouts(progress)
            if deliveries is None:
                self.controller.abandon()
                self.run.failures.load_state_dict(failures)
                yield Forget(tuple(self.controller.carried()))
                if stopped:
                    return None
                raise EngineLost
            self.controller.deliver(deliveries)
        return self.controller.take()

    def _of_engine(self, directive: Directive) -> Generator[Directive, list[Any], list[Any]]:
        """The answers to what engines do outside a step's rollouts, asked again where one died."""
        return self._restarts.ask(directive, self.state.step + 1, self.state.policy_version)

    def _screen(self) -> Generator[Directive, list[Any], bool]:
        """Measure the pool before the first step, where a pool filter asks for it; False if a stop was asked for.

        What was measured lies in the run directory, so that a stage that was stopped meanwhile goes on from there.
        """
        samples = self.controller.screening
        if not samples:
            return True
        file = self._measured_file()
        known = read_measured(file) if file.exists() else []
        done = {one.group_id.uid for one in [*known, *self._warm_start(samples)]}
        pool = self.run.data.pool(self.stage)
        total = sum(pool.sizes.values())
        values = self.run.parts.reward_values(self.stage, self._progress())
        prompts = pool.at(self._progress())
        rest = (prompt for prompt in prompts if prompt.uid not in done)
        place = (self.run.recipe.seed, self.stage.name)
        grading = (
            self.stage.grading
        )  # what fails here is no part of the run's state: it may be measured in pieces
        failures = FailureBudget(grading.max_failures, grading.window)
        for round_ in measure(rest, samples, *place, values):
            if self.run.stop.requested():
                return False
            self.run.reporter.phase(f"screening, {len(done)} of {total} prompts")
            deliveries = yield from self._restarts.drive(
                round_, self.state.step + 1, self.state.policy_version
            )
            tell_grader_failures(self.run.directory, self.state.step + 1, deliveries)
            failures.observe(deliveries)
            found = [outcome_of(delivery) for delivery in deliveries]
            append_measured(file, found)
            known += found
            done |= {one.group_id.uid for one in found}
        known.sort(key=lambda one: one.group_id)
        self.controller.learn_measured(
            [dataclasses.replace(one, step=self.state.step - 1) for one in known]
        )
        tokens = sum(sum(one.lengths) for one in known)
        self.state = self.state.sampled(tokens)
        rates = [one.pass_rate for one in known if one.pass_rate is not None]
        never, always = sum(rate == 0 for rate in rates), sum(rate == 1 for rate in rates)
        self.run.directory.event(
            "screened",
            self.state.step,
            stage=self.stage.name,
            prompts=len(known),
            samples=samples,
            tokens=tokens,
            never_solved=never,
            always_solved=always,
        )
        self.run.reporter.message(
            f"screened {len(known)} prompts, {samples} samples each: {never} never solved, {always} always"
        )
        return True

    def _measured_file(self) -> Path:
        """Where the screening keeps what it measured; of other weights or keys of the stage it is dropped.

        Until the stage has done a step its keys may change, and the stage before it may go on.
        """
        file = self.run.directory.path / screened_name(self.stage.name)
        mark, identity = (
            file.with_suffix(".identity"),
            identity_of(self.run, self.stage, self._entered),
        )
        if not mark.exists() or mark.read_text(encoding="utf-8") != identity:
            file.unlink(missing_ok=True)
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(mark, identity)
        return file

    def _warm_start(self, samples: int) -> list[GroupOutcome]:
        """What the file of `curriculum.warm_start` tells of prompts by so many samples: the controller has learned it."""
        file = warm_start_file(self.run, self.stage)
        if file is None:
            return []
        found = read_measured(file)
        return [one for one in found if len(one.correct) >= samples]

    def _rollouts(
        self, progress: Progress
    ) -> Generator[Directive, list[Any], list[Delivery] | None]:
        """One round of requests, sampled and graded by all ranks; None if an engine died, and was restarted."""
        weights, args = self.run.parts.reward_values(self.stage, progress)
        predicted = yield from self._predict()
        started = time.perf_counter()
        self.run.reporter.phase("rollout")
        requests = tuple(self.controller.requests(predicted))
        answers: list[Generated] = yield Generate(requests, weights, args, progress)
        if (
            yield from self._restarts.after(answers, self.state.step + 1, self.state.policy_version)
        ):
            return None
        grading = max(answer.grade_seconds for answer in answers)
        self._add_time("rollout", time.perf_counter() - started - grading)
        self._add_time("grade", grading)
        deliveries = [delivery for answer in answers for delivery in answer.deliveries]
        self._generated += sum(one.length for delivery in deliveries for one in delivery.samples)
        self._drawn += sum(not delivery.earlier for delivery in deliveries)
        hinted = {request.group_id for request in requests if request.prompt.hint}
        for answer in answers:
            self._verdicts.add(answer.deliveries, answer.metrics, hinted)
        tell_grader_failures(self.run.directory, self.state.step + 1, deliveries)
        self.run.failures.observe(deliveries)
        return deliveries

    def _shape(self, batch: Batch, progress: Progress) -> Generator[Directive, list[Any], Batch]:
        """The final batch after the rewards that must see all of it, here with the scalars of every rank."""
        rubric = self.run.parts.rubric(self.stage)
        if not rubric.shapes_batches or not batch.groups:
            return batch
        answers = yield Fetch(tuple(group.group_id for group in batch.groups))
        held = {group: one for answer in answers for group, one in answer.items()}
        weights, args = self.run.parts.reward_values(self.stage, progress)
        with self._timed("grade"):
            terms = Terms(weights, args, progress=progress)
            shaped = rubric.shape(batch, held, terms)
        failed = [Delivery(g.group_id, g.distribution, (one,)) for g, one in shaped.failed]
        self._verdicts.shaped(shaped)
        tell_grader_failures(self.run.directory, self.state.step + 1, failed)
        self.run.failures.observe(failed)
        return shaped.batch

    def _tell_shortage(self, batch: Batch) -> None:
        """A batch that is smaller than asked for, after every round of refill."""
        asked = self.stage.curriculum.prompts_per_step
        if len(batch.groups) < asked:
            self.run.directory.event(
                "short_batch", self.state.step + 1, groups=len(batch.groups), asked=asked
            )

    def _predict(self) -> Generator[Directive, list[Any], list[float]]:
        """Pass rates of the next round's candidates by the value model, where the scorer asks for them."""
        prompts = self.controller.to_predict()
        if not prompts:
            return []
        with self._timed("predict"):
            answers = yield Predict(prompts)
        shares = [iter(answer) for answer in answers]
        return [next(shares[place % len(shares)]) for place in range(len(prompts))]

    def _fit_value_model(self) -> Turn:
        """Show the value model how often the prompts that ended were solved."""
        self._value_metrics = {}
        examples = self.controller.to_fit()
        if examples:
            with self._timed("predict"):
                answers = yield FitValue(examples)
            self._value_metrics = answers[0]

    def _weigh(
        self, batch: Batch, progress: Progress
    ) -> Generator[Directive, list[Any], tuple[Batch, Advantages]]:
        """The rollouts to train, and their advantages: selected by reward before, or by advantage after."""
        if self.controller.selects == "reward":
            rewards = {
                (group.group_id, one.sample): one.reward
                for group in batch.groups
                for one in group.samples
            }
            batch = self.controller.select(batch, rewards)
        advantages = yield from self._advantages(batch, progress)
        if self.controller.selects == "advantage":
            batch = self.controller.select(
                batch, {key: rollout for key, (rollout, _) in advantages.items()}
            )
        return batch, advantages

    def _advantages(
        self, batch: Batch, progress: Progress
    ) -> Generator[Directive, list[Any], Advantages]:
        """The advantage of every sample; the KL penalty is part of the reward where the objective says so."""
        objective = resolved(self.objective, progress)
        kl: dict[tuple[GroupId, int], float] = {}
        if objective.scores_first and batch.groups:
            samples = tuple(
                TrainSample(group.group_id, one.sample, 0.0)
                for group in batch.groups
                for one in group.samples
            )
            answers = yield ScoreKl(samples, self.state.policy_version, progress)
            kl = {key: value for answer in answers for key, value in answer.items()}
        return batch_advantages(objective, batch, kl)

    def _train(
        self, batch: Batch, advantages: Advantages, progress: Progress
    ) -> Generator[Directive, list[Any], dict[str, Any]]:
        """Updates and sync; the step's line of metrics."""
        row: dict[str, Any] = {
            "step": self.state.step + 1,
            "stage": self.stage.name,
            "stage_step": self.state.stage_step + 1,
            "policy_version": self.state.policy_version,
            **batch_metrics(batch),
            **mode_metrics((one for group in batch.groups for one in group.samples), self._modes),
            **self._verdicts.metrics(),
            **self.controller.metrics(),
            **self._value_metrics,
            **self._imitation_metrics(batch, progress),
            "tokens/generated/sum": self._generated,
            "tokens/total/sum": self.state.generated_tokens + self._generated,
        }
        minibatches = self._minibatches(batch, advantages, progress)
        if not minibatches:
            self._warn("empty_step", "no group was admitted in this step; nothing was trained")
            return row
        rates = self._learning_rates(progress, len(minibatches))
        with self._timed("update"):
            carried = tuple(self.controller.carried())
            answers = yield Update(
                minibatches,
                rates,
                self.state.policy_version,
                carried,
                progress,
                value_at(self.stage.curriculum.token_fraction, progress),
            )
        row |= answers[0]
        if row.get("optim/skipped/sum"):
            self._warn(
                "updates_skipped",
                f"{row['optim/skipped/sum']} of {len(minibatches)} updates were left out: loss or gradient was not finite",
            )
        row["optim/learning_rate"] = rates[-1]
        self.state = self.state.updated(len(minibatches))
        with self._timed("sync"):
            yield from self._of_engine(Sync(self.state.policy_version))
        return row

    def _imitation_metrics(self, batch: Batch, progress: Progress) -> dict[str, float]:
        rule = resolved(self.objective.demonstrations, progress)
        if rule is None:
            return {}
        return {"batch/demonstrations/sum": sum(imitated(rule, one) for one in batch.groups)}

    def _minibatches(
        self, batch: Batch, advantages: Advantages, progress: Progress
    ) -> tuple[Minibatch, ...]:
        """The batch in windows: each epoch deals the groups anew, by a counter-based shuffle."""
        optim = self.stage.optim
        rule = resolved(self.objective.demonstrations, progress)
        windows: list[Minibatch] = []
        for epoch in range(optim.epochs):
            order = np.arange(len(batch.groups))
            if optim.updates_per_step > 1:
                part = f"minibatches/{self.stage.name}"
                draw = seeds.philox(self.run.recipe.seed, part, self.state.step, epoch)
                order = draw.permutation(len(batch.groups))
            for chosen in np.array_split(order, optim.minibatches):
                groups = [batch.groups[index] for index in sorted(chosen.tolist())]
                window = Minibatch(
                    tuple(
                        TrainSample(
                            group.group_id, one.sample, *advantages[group.group_id, one.sample]
                        )
                        for group in groups
                        if not imitated(rule, group)
                        for _ in range(group.copies)
                        for one in group.samples
                    ),
                    tuple(group.group_id for group in groups if imitated(rule, group)),
                )
                if window.samples or window.demonstrations:
                    windows.append(window)
        return tuple(windows)

    def _learning_rates(self, progress: Progress, updates: int) -> tuple[float, ...]:
        """Schedule by step, times a linear warm-up by update."""
        first = self.state.stage_updates
        return tuple(
            learning_rate(self.stage.optim, progress, first + number) for number in range(updates)
        )

    def _close(self, row: dict[str, Any], progress: Progress, started: float) -> Turn:
        """Evaluate where that is due, as the step that was done read and sampled, and see whether the stage is over."""
        asked, stage = self.stage.evaluation, self.stage
        due = bool(asked.every) and self.state.stage_step % asked.every == 0
        if due:
            yield from self._evaluate(row, progress)
        pool = sum(self.run.data.pool(stage).sizes.values())
        seconds = (time.perf_counter() - started) * self.run.ranks.world
        self.state = self.state.watch(
            stage, row, tokens=self._generated, rows=self._drawn, pool=pool, seconds=seconds
        )
        row["data/epochs/sum"] = self.state.watched.epochs
        cause = cause_of(stage.until, self.state.watched)
        if cause is not None and asked.at_end and not due:
            yield from self._evaluate(row, progress)
        self.state = settled(self.run, stage, self.state, row, cause)

    def _evaluate(self, row: dict[str, Any], progress: Progress) -> Turn:
        with self._timed("evaluate"):
            answers = yield from self._of_engine(Evaluate(progress))
        row |= merge_evaluation(answers, self.stage)

    def _watch(self, row: dict[str, Any]) -> None:
        """The guard-rails' warnings, and what they measure."""
        for warning in self.controller.watch(row.get("eval/accuracy/mean")):
            self.run.directory.event("guard", self.state.step, **dataclasses.asdict(warning))
            self.run.reporter.message(f"warning: step {self.state.step}: {warning.message}")
        row |= self.controller.metrics()

    def _log(
        self, row: dict[str, Any], batch: Batch, advantages: Advantages, started: float
    ) -> Turn:
        """The step's lines in every log, and its rollouts where they are due."""
        log = self.run.recipe.run.rollouts
        if log.every and self.state.step % log.every == 0:
            groups = batch.groups if log.include == "trained" else self._all_groups(batch)
            groups = groups[: -(-log.max_per_step // self.stage.curriculum.group_size)]
            answers = yield Fetch(tuple(group.group_id for group in groups))
            rollouts = {group: held for answer in answers for group, held in answer.items()}
            write_rollouts(
                *(self.run.directory, self.state.step, groups, rollouts, advantages, log),
                self.run.recipe.seed,
            )
        seconds = time.perf_counter() - started
        row |= {f"time/{name}/s": round(value, 4) for name, value in self._seconds.items()}
        row["time/step/s"] = round(seconds, 4)
        row["throughput/generated/tokens_per_s"] = round(self._generated / seconds, 1)
        self.run.directory.append(DECISIONS, self.controller.decisions())
        self.run.log_step(row)
        yield Forget(tuple(self.controller.carried()))

    def _all_groups(self, batch: Batch) -> tuple[AdmittedGroup, ...]:
        """Every group that was sampled or trained in this step."""
        known = {group.group_id: group for group in (*batch.groups, *self.controller.delivered())}
        return tuple(self._verdicts.final(known[group_id]) for group_id in sorted(known))

    def _save_if_due(self) -> Turn:
        every = self.run.recipe.run.checkpoints.every
        if self.state.finished or self.state.is_best:
            yield from self._saves.finish(self._saved_state())
        elif every and self.state.step % every == 0:
            yield from self._saves.begin(self._saved_state())

    def _saved_state(self) -> dict[str, Any]:
        self.run.curriculum = self.controller.state_dict()
        return self.state.to_json(self.run)

    def _stop(self) -> Lead:
        yield from self._saves.settle(wait=True)
        if not self.run.saved(self.state.step):
            if self.state.stage_step:
                yield from self._saves.finish(self._saved_state())
            else:  # nothing was trained in this stage: it begins anew, with what was measured before it
                yield from self._saves.finish(self._entered.to_json(self.run))
        return "stopped"

    def _probe(self) -> Turn:
        """Parity before anything is trained: at the start of a stage and after every resume."""
        prompts = self.run.data.probe_prompts(self.stage)
        self.run.reporter.phase("parity probe")
        answers = yield from self._of_engine(
            Probe(prompts, self.state.policy_version, self._progress())
        )
        self.run.directory.event(
            "parity_probe", self.state.step, stage=self.stage.name, **answers[0]
        )

    def _progress(self) -> Progress:
        state = self.state
        return Progress(
            state.step, state.stage_step, self.stage.planned_steps, state.generated_tokens
        )

    def _warn(self, kind: str, text: str) -> None:
        self.run.directory.event(kind, self.state.step + 1, message=text)
        self.run.reporter.message(f"step {self.state.step + 1}: {text}")

    def _add_time(self, phase: str, seconds: float) -> None:
        self._seconds[phase] = self._seconds.get(phase, 0.0) + seconds

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        self.run.reporter.phase(phase)
        started = time.perf_counter()
        yield
        self._add_time(phase, time.perf_counter() - started)
