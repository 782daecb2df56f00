"""Every rank's side of an RL stage: obeys directives, keeps the tokens of the rollouts it sampled."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlcurric import seeds
from rlcurric.errors import EngineLost
from rlcurric.recipe.stages import RlStage
from rlcurric.rewards.rubric import GradeRequest, Metrics, Terms
from rlcurric.rollout.engine import Engine, SampleRequest, SamplingSpec
from rlcurric.schedules import Progress, value_at
from rlcurric.train.checkpoint import StateFiles
from rlcurric.train.directives import (
    Directive,
    Evaluate,
    Fetch,
    FitValue,
    Forget,
    Generate,
    Lost,
    Predict,
    Probe,
    RestartEngine,
    Save,
    ScoreKl,
    Settle,
    Sync,
    TrainSample,
    Update,
)
from rlcurric.train.eval_metrics import EvalSample
from rlcurric.train.evaluation import evaluate
from rlcurric.train.failures import explain_memory, phase_of
from rlcurric.train.learner import Learner, Step
from rlcurric.train.prompt_value import PromptValue
from rlcurric.train.restarts import share_loss
from rlcurric.train.rolloutlog import known_logprobs
from rlcurric.train.rows import ImitationRow, Key, TrainRow, Window, prompt_rows
from rlcurric.train.run import RunContext
from rlcurric.train.sampling import completions, stream_completions
from rlcurric.train.saving import Begun, Extras, frozen_files, write_files
from rlcurric.types import Delivery, GroupId, Prompt, Request, Rollout


@dataclass(frozen=True, slots=True)
class Generated:
    """A rank's answer to Generate: scalars only."""

    deliveries: tuple[Delivery, ...]
    grade_seconds: float  # that graders took beyond the sampling
    metrics: Metrics = ()  # what rewards logged


CARRIED = "carried.json"
Held = dict[GroupId, tuple[Prompt, tuple[Rollout, ...]]]


class RlWorker:
    """One rank of an RL stage."""

    def __init__(
        self,
        run: RunContext,
        stage: RlStage,
        learner: Learner,
        engine: Engine,
        value: PromptValue | None = None,
    ) -> None:
        self.run, self.stage, self.learner, self.engine = run, stage, learner, engine
        self.value = value
        self.held: Held = {}
        self._tokenizer_files: dict[str, bytes] | None = None  # the same in every checkpoint
        self._deal = run.engines.deal(stage)
        self._modes = run.data.modes(stage)
        self._spec = SamplingSpec(
            stage.rollout.max_new_tokens, learner.temperature, run.engines.eos_token_ids
        )

    def obey(self, directive: Directive) -> Any:
        """Do what rank 0 decided; the answer is gathered from all ranks. `Lost` where the engine died under it."""
        progress: Progress | None = getattr(directive, "progress", None)
        self.run.watchdog.beat(phase_of(directive), progress)
        if progress is not None:
            self._set_temperature(progress)
        try:
            with explain_memory(phase_of(directive), self.run.recipe, self.stage):
                return self._obey(directive)
        except EngineLost as error:
            return Lost(self.run.ranks.rank, str(error))

    def _obey(self, directive: Directive) -> Any:
        match directive:
            case Generate():
                return self._generate(directive)
            case Predict():
                assert self.value is not None
                return self.value.predict(
                    directive.prompts[self.run.ranks.rank :: self.run.ranks.world]
                )
            case FitValue():
                assert self.value is not None
                self.run.saver.before_update()
                self.engine.sleep()
                prompts, rates, weights = zip(*directive.examples, strict=True)
                return self.value.fit(prompts, rates, weights)
            case ScoreKl():
                return self._score_kl(directive)
            case Update():
                return self._update(directive)
            case Sync():
                return self._sync(directive.version)
            case RestartEngine():
                self.engine = self.run.engines.restart()
                return None
            case Probe():
                return self._probe(directive)
            case Fetch():
                return {
                    group: self.held[group] for group in directive.group_ids if group in self.held
                }
            case Forget():
                self.held = {
                    group: held for group, held in self.held.items() if group in set(directive.keep)
                }
                return None
            case Evaluate():
                return self._evaluate(directive.progress)
            case Save():
                return self._save(directive)
            case Settle():
                return self.run.saver.status(directive.wait)

    def _set_temperature(self, progress: Progress) -> None:
        """One temperature a step, of engine and learner alike."""
        value = value_at(self.stage.rollout.temperature, progress)
        self._spec = dataclasses.replace(self._spec, temperature=value)
        self.learner.temperature = value

    def _sync(self, version: int) -> None:
        self.run.engines.sync(self.engine, self.learner.named_tensors(), version)

    def _wake(self) -> None:
        """Weights again for an engine that slept since the last sync; the policy has not changed meanwhile."""
        if self.engine.needs_weights:
            self._sync(self.engine.version)

    def _share(self, requests: Sequence[Request]) -> tuple[list[Request], list[bool]]:
        """What this rank's engine samples, and which of it this rank keeps: a group that goes on stays where it is."""
        goes_on = [one for one in requests if one.phase]
        if goes_on and self._deal.width > 1:
            members = self.run.ranks.gather(set(self.held))
            known = set().union(*(members[rank] for rank in self._deal.members))
        else:
            known = set(self.held)
        goes_on = [one for one in goes_on if one.group_id in known]
        new = self._deal.sampled([one for one in requests if not one.phase])
        kept = [one.group_id in self.held for one in goes_on]
        return goes_on + new, kept + [self._deal.keeps(place) for place in range(len(new))]

    def _generate(self, directive: Generate) -> Generated:
        """Sample this rank's share; every group is judged as soon as the engine has all of it."""
        sampled, kept = self._share(directive.requests)
        self._wake()
        mine = [one for one, keeps in zip(sampled, kept, strict=True) if keeps]
        places = {request.group_id: place for place, request in enumerate(mine)}
        terms = Terms(directive.weights, directive.args, progress=directive.progress)
        with self.run.parts.rubric(self.stage).grading(terms) as grading:
            for request in self._sampled(sampled, kept):
                group = request.group_id
                grading.add(places[group], GradeRequest(group, request.prompt, self.held[group][1]))
            started = time.perf_counter()
            graded = grading.finish()
        deliveries = []
        for request, verdicts in zip(mine, graded, strict=True):
            parts = [
                tuple(one for one in verdicts.outcomes if (one.sample in request.samples) is new)
                for new in (True, False)
            ]
            deliveries.append(Delivery(request.group_id, request.prompt.distribution, *parts))
        metrics = tuple(metric for verdicts in graded for metric in verdicts.metrics)
        return Generated(tuple(deliveries), time.perf_counter() - started, metrics)

    def _sampled(self, requests: Sequence[Request], kept: Sequence[bool]) -> Iterator[Request]:
        """Sample the requests; those that are kept here come as their rollouts are complete and held.

        A continued group is held, and so graded, as a whole: rewards may compare its samples.
        """
        named = [(k, sample) for k, request in enumerate(requests) for sample in request.samples]
        found: list[dict[int, Rollout]] = [{} for _ in requests]
        rollouts = stream_completions(
            self.engine,
            self.run.tokenizer,
            [
                SampleRequest(
                    requests[k].prompt.prompt_ids,
                    seeds.sample_seed(requests[k].seed_key, sample),
                    self._modes.forced(sample),
                )
                for k, sample in named
            ],
            [(requests[k].group_id, sample) if kept[k] else None for k, sample in named],
            self._spec,
        )
        for place, rollout in rollouts:
            k, sample = named[place]
            request = requests[k]
            mode = self._modes.name(sample) or ""
            found[k][sample] = dataclasses.replace(rollout, mode=mode)
            if len(found[k]) == len(request.samples):
                _, earlier = self.held.get(request.group_id, (None, ()))
                members = tuple(found[k][sample] for sample in request.samples)
                self.held[request.group_id] = (request.prompt, earlier + members)
                yield request

    def _update(self, directive: Update) -> dict[str, float]:
        self.engine.sleep()
        windows = []
        for minibatch in directive.minibatches:
            rollouts = self._rows(minibatch.samples)
            imitations = [
                self._demonstration(group)
                for group in minibatch.demonstrations
                if group in self.held
            ]
            if self.learner.objective.ntp_coef:
                imitations += prompt_rows(rollouts)
            windows.append(Window(tuple(rollouts), tuple(imitations)))
        carried = set(directive.carried)
        waiting = [
            TrainRow(prompt.prompt_ids, rollout, 0.0)
            for group, (prompt, rollouts) in sorted(self.held.items(), key=lambda item: item[0])
            if group in carried
            for rollout in rollouts
        ]
        waiting = [row for row in waiting if row.version == directive.version]
        self.run.saver.before_update()
        return self.learner.update(
            Step(
                windows,
                directive.learning_rates,
                directive.version,
                directive.progress,
                waiting,
                directive.token_fraction,
                self._modes.names,
            )
        )

    def _score_kl(self, directive: ScoreKl) -> dict[Key, float]:
        self.run.saver.before_update()  # the reference takes the policy's place
        self.engine.sleep()
        return self.learner.kl_by_row(self._rows(directive.samples), directive.version)

    def _rows(self, samples: Sequence[TrainSample]) -> list[TrainRow]:
        """The samples that this rank holds, with their tokens."""
        rows = []
        for one in samples:
            if one.group_id not in self.held:
                continue
            prompt, rollouts = self.held[one.group_id]
            rollout = next(rollout for rollout in rollouts if rollout.sample == one.sample)
            masked = rollout.truncated and not self.learner.objective.train_truncated
            rows.append(
                TrainRow(
                    prompt.prompt_ids,
                    rollout,
                    one.advantage,
                    one.mode_advantage,
                    masked,
                )
            )
        return rows

    def _demonstration(self, group: GroupId) -> ImitationRow:
        prompt, _ = self.held[group]
        tokens = self.run.data.demonstration(self.stage, prompt)
        return ImitationRow(prompt.prompt_ids, np.asarray(tokens, dtype=np.int64), "demonstration")

    def _probe(self, directive: Probe) -> dict[str, float]:
        if not self.engine.samples:  # what was recorded has log-probs of other weights
            return {}
        self._wake()
        # Every rank measures at least one: the learner's forward may need all ranks.
        sampled = self._deal.sampled(directive.prompts) or list(directive.prompts[:1])
        whose = [self._deal.keeps(k) for k in range(len(sampled))]
        if not any(whose):
            whose[0] = True
        with share_loss(self.run.ranks):  # the comparison needs all ranks
            rollouts = completions(
                self.engine,
                self.run.tokenizer,
                [SampleRequest(p.prompt_ids, seeds.hash64("probe", p.uid) >> 1) for p in sampled],
                [
                    (GroupId("probe", one.uid, 0), 0) if whose[k] else None
                    for k, one in enumerate(sampled)
                ],
                self._spec,
            )
        mine = [one for k, one in enumerate(sampled) if whose[k]]
        rows = [
            TrainRow(p.prompt_ids, rollout, 0.0) for p, rollout in zip(mine, rollouts, strict=True)
        ]
        return self.learner.measure_parity(rows, directive.version)

    def _evaluate(self, progress: Progress) -> list[EvalSample]:
        self._wake()
        return evaluate(self.run, self.stage, self.engine, progress)

    def _save(self, directive: Save) -> Begun:
        shares = self.run.ranks.gather(self.held)  # after Forget: carried groups only
        extras = Extras()
        if self.run.ranks.is_main:
            carried = {group: held for share in shares for group, held in share.items()}
            extras = self._extras(directive.state, carried)
        return self.run.saver.begin(directive.state["step"], self.learner, extras)

    def _extras(self, state: Mapping[str, Any], carried: Held) -> Extras:
        """What rank 0 adds to a checkpoint: of this moment, or unchanging."""
        if self._tokenizer_files is None:
            self._tokenizer_files = frozen_files(self.run.tokenizer.save_pretrained)
        tokenizer, value = self._tokenizer_files, self.value
        writes: list[Callable[[Path], None]] = [
            StateFiles(state).write,
            lambda folder: write_files(folder / "model", tokenizer),
        ]
        if carried:
            writes.append(lambda folder: write_carried(folder, carried))
        if value is None:
            return Extras(writes=writes)
        return Extras(value.tensors(), [*writes, value.save_description])

    def load_carried(self, checkpoint: Path) -> None:
        """Rollouts of carried groups of a checkpoint of this stage; rank 0 takes them all."""
        file = checkpoint / CARRIED
        if self.run.ranks.is_main and file.exists():
            self.held = load_held(json.loads(file.read_text(encoding="utf-8")))


def write_carried(folder: Path, carried: Held) -> None:
    (folder / CARRIED).write_text(json.dumps(dump_held(carried)), encoding="utf-8")


def dump_held(held: Held) -> list[dict[str, Any]]:
    """Carried groups with their tokens as JSON; float32 log-probs survive the trip exactly."""
    return [
        {
            "group_id": list(group),
            "prompt": dataclasses.asdict(prompt),
            "rollouts": [
                {
                    "sample": rollout.sample,
                    "ids": rollout.completion_ids_T.tolist(),
                    "logprobs": known_logprobs(rollout),
                    "versions": rollout.policy_version_T.tolist(),
                    "finish_reason": rollout.finish_reason,
                    "text": rollout.text,
                    "temperature": rollout.temperature,
                    "mode": rollout.mode,
                }
                for rollout in rollouts
            ],
        }
        for group, (prompt, rollouts) in sorted(held.items(), key=lambda item: item[0])
    ]


def load_held(saved: list[dict[str, Any]]) -> Held:
    """The inverse of `dump_held`."""
    held: Held = {}
    for item in saved:
        group = GroupId(*item["group_id"])
        prompt = Prompt(**{**item["prompt"], "prompt_ids": tuple(item["prompt"]["prompt_ids"])})
        held[group] = (
            prompt,
            tuple(
                Rollout(
                    group_id=group,
                    sample=one["sample"],
                    completion_ids_T=np.array(one["ids"], dtype=np.int64),
                    rollout_logprobs_T=np.array(one["logprobs"], dtype=np.float32),
                    policy_version_T=np.array(one["versions"], dtype=np.int64),
                    finish_reason=one["finish_reason"],
                    text=one["text"],
                    temperature=one["temperature"],
                    mode=one["mode"],
                )
                for one in item["rollouts"]
            ),
        )
    return held
