"""Stages that only sample: a policy that nothing trains, and rounds of graded completions with it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from typing import Any, Generic, TypeVar, cast

import torch

from rlcurric.curriculum.draws import prompt_index
from rlcurric.recipe.stages import RejectionStage, ScreenStage
from rlcurric.rewards.budget import FailureBudget
from rlcurric.schedules import Progress
from rlcurric.train.coordinator import conduct
from rlcurric.train.directives import Directive, Fetch, Forget, Generate, Sync
from rlcurric.train.failures import explain_memory, tell_grader_failures
from rlcurric.train.learner import Learner
from rlcurric.train.models import load_policy, named_tensors
from rlcurric.train.portions import Portions, identity_of, tell_once
from rlcurric.train.restarts import Restarts
from rlcurric.train.run import RunContext, RunState
from rlcurric.train.screening import ROLLOUTS_PER_ROUND
from rlcurric.train.worker import Generated, Held, RlWorker
from rlcurric.types import Delivery, GroupId, Prompt, Request

Sampled = tuple[list[Delivery], Held]
SamplingStage = RejectionStage | ScreenStage
S = TypeVar("S", bound=SamplingStage)
Parts = list[dict[str, Any]]  # of a file that is worked out, in the order in which they were


class FrozenPolicy:
    """All that a worker asks of a learner where nothing is trained."""

    temperature = 1.0  # set by the worker, for a learner's own forward

    def __init__(self, model: Any) -> None:
        self.model = model

    def named_tensors(self) -> Any:
        return named_tensors(self.model)


def sampling_worker(run: RunContext, stage: SamplingStage) -> RlWorker:
    """This rank's side of the stage, with the weights that it starts from."""
    run.doing("loading the model")
    with explain_memory("loading the model", run.recipe, stage):
        model = load_policy(run, stage, resumed=False).eval()
        if torch.cuda.is_available():
            model = model.to(torch.device("cuda", torch.cuda.current_device()))
    run.doing("engine start")
    with explain_memory("engine start", run.recipe, stage):
        engine = run.engines.get(stage, model, run.tokenizer)
    return RlWorker(run, cast(Any, stage), cast(Learner, FrozenPolicy(model)), engine)


def chosen_prompts(run: RunContext, stage: SamplingStage) -> list[Prompt]:
    """The stage's training prompts, at most `prompts` of each distribution: always the same ones."""
    pool, seed = run.data.pool(stage), run.recipe.seed
    return [
        pool.prompt(name, index)
        for name, size in pool.sizes.items()
        for index in sorted(
            prompt_index(seed, stage.kind, name, 0, cursor, size)
            for cursor in range(min(stage.prompts or size, size))
        )
    ]


def in_rounds(prompts: Sequence[Prompt], samples: int) -> list[list[Prompt]]:
    """The prompts as they are sampled together."""
    size = max(1, ROLLOUTS_PER_ROUND // samples)
    return [list(prompts[start : start + size]) for start in range(0, len(prompts), size)]


def sample_round(
    run: RunContext,
    stage: SamplingStage,
    state: RunState,
    keyed: Sequence[tuple[Prompt, int]],
    with_text: bool,
) -> Generator[Directive, list[Any], Sampled]:
    """Sample and grade these prompts, each with the key of its samples' seeds; with their rollouts where asked for."""
    progress = Progress(state.step, 0, None, state.generated_tokens)
    requests = tuple(
        Request(GroupId(stage.name, prompt.uid, 0), prompt, tuple(range(stage.samples)), key)
        for prompt, key in keyed
    )
    values = run.parts.reward_values(stage, progress)
    answers: list[Generated] = yield Generate(requests, *values, progress)
    held: Held = {}
    if with_text:
        shares = yield Fetch(tuple(request.group_id for request in requests))
        held = {group: one for share in shares for group, one in share.items()}
    yield Forget(())
    return [delivery for answer in answers for delivery in answer.deliveries], held


class SamplingLeader(ABC, Generic[S]):
    """Rank 0's side of a stage that samples round by round; each round becomes a part of the file that it works out."""

    doing: str  # for whoever watches
    with_text: bool  # whether rollouts come with what was graded

    def __init__(self, run: RunContext, stage: S, state: RunState, portions: Portions) -> None:
        self.run, self.stage, self.state, self.portions = run, stage, state, portions

    @abstractmethod
    def begin(self, prompts: Sequence[Prompt]) -> tuple[Parts, list[list[Prompt]]]:
        """The parts that are done, and the rounds that are left."""

    @abstractmethod
    def seed(self, prompt: Prompt) -> int:
        """Key of the seeds of a prompt's samples."""

    @abstractmethod
    def part(self, prompts: Sequence[Prompt], sampled: Sampled) -> dict[str, Any]:
        """What is kept of a round."""

    @abstractmethod
    def write(self, n_prompts: int, parts: Parts) -> dict[str, Any]:
        """The file, from all of its parts, and its summary."""

    def lead(self) -> Generator[Directive, list[Any], dict[str, Any]]:
        """Round by round; the summary of the file, empty where a stop was asked for."""
        run, stage, state = self.run, self.stage, self.state
        restarts = Restarts(run, stage.rollout.max_restarts)
        failures = Failures(run, stage, state)
        place = state.step, state.policy_version
        prompts = chosen_prompts(run, stage)
        parts, rounds = self.begin(prompts)
        done = len(prompts) - sum(map(len, rounds))
        if rounds:
            yield from restarts.ask(Sync(state.policy_version), *place)
        for chunk in rounds:
            if run.stop.requested() is not None:
                return {}
            run.reporter.phase(f"{self.doing}, {done} of {len(prompts)} prompts")
            keyed = [(prompt, self.seed(prompt)) for prompt in chunk]
            round_ = sample_round(run, stage, state, keyed, self.with_text)
            sampled = yield from restarts.drive(round_, *place)
            restarts.step_done()
            failures.observe(sampled[0])
            part = self.part(chunk, sampled)
            self.portions.add(part)
            parts.append(part)
            done += len(chunk)
        return self.write(len(prompts), parts)


def run_sampling(
    run: RunContext,
    stage: SamplingStage,
    state: RunState,
    name: str,
    kind: str,
    leader: Callable[[Portions, RlWorker], SamplingLeader[Any]],
) -> tuple[str, RunState]:
    """Work out the stage's file `name`: ("done" | "stopped", where the run then stands). What is done of it already stays.

    `kind`: of the event that tells of the file.
    """
    refuse_batch_rewards(run, stage)
    portions = Portions(run.directory.path / name, identity_of(run, stage, state))
    summary = run.ranks.broadcast((portions.summary() if run.ranks.is_main else None,))[0]
    if summary is None:
        worker = sampling_worker(run, stage)
        leading = leader(portions, worker) if run.ranks.is_main else None

        def lead() -> Generator[Directive, list[Any], dict[str, Any]]:
            assert leading is not None
            return (yield from leading.lead())

        summary = conduct(run.ranks, lead, worker.obey, run.watchdog.beat)
        worker.engine.sleep()
        run.engines.leave()
        if not summary:
            return "stopped", state
    run.written[name] = summary["sha256"]
    told = {key: value for key, value in summary.items() if key != "identity"}
    tell_once(run, kind, state, stage=stage.name, file=name, **told)
    return "done", state.sampled(summary["tokens"])


class Failures:
    """Graders that fail in a stage that only samples: told, and beyond the stage's budget the end of it."""

    def __init__(self, run: RunContext, stage: SamplingStage, state: RunState) -> None:
        self._run, self._step = run, state.step
        self._budget = FailureBudget(stage.grading.max_failures, stage.grading.window)

    def observe(self, deliveries: Sequence[Delivery]) -> None:
        tell_grader_failures(self._run.directory, self._step, deliveries)
        self._budget.observe(deliveries)


def refuse_batch_rewards(run: RunContext, stage: SamplingStage) -> None:
    """ValueError for rewards that compare the samples of a training batch: there is none."""
    batch = [one.name for one in run.parts.rubric(stage).components if one.reward.scope == "batch"]
    if batch:
        raise ValueError(
            f"stages.{stage.name}.rewards: {', '.join(batch)} compare a training batch, and a stage of kind {stage.kind} "
            "trains none; leave them out"
        )
