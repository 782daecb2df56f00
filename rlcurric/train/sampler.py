"""Stages that only sample: a policy that nothing trains, and rounds of graded completions with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Sequence
from typing import Any, cast

import torch

from rlcurric.curriculum.draws import prompt_index
from rlcurric.recipe.stages import RejectionStage, ScreenStage
from rlcurric.rewards.budget import FailureBudget
from rlcurric.schedules import Progress
from rlcurric.train.directives import Directive, Fetch, Forget, Generate
from rlcurric.train.failures import explain_memory
from rlcurric.train.learner import Learner
from rlcurric.train.models import load_policy, named_tensors
from rlcurric.train.run import RunContext, RunState
from rlcurric.train.screening import ROLLOUTS_PER_ROUND
from rlcurric.train.worker import Generated, Held, RlWorker
from rlcurric.types import Delivery, GroupId, Prompt, Request

Sampled = tuple[list[Delivery], Held]
SamplingStage = RejectionStage | ScreenStage


class FrozenPolicy:
    """All that a worker asks of a learner where nothing is trained."""

    temperature = 1.0  # set by the worker, for a learner's own forward

    def __init__(self, model: Any) -> None:
        self.model = model

    def named_tensors(self) -> Any:
        return named_tensors(self.model)


def sampling_worker(run: RunContext, stage: SamplingStage) -> RlWorker:
    """This rank's side of the stage, with the weights that it starts from."""
    run.watchdog.beat("loading the model")
    with explain_memory("loading the model", run.recipe, stage):
        model = load_policy(run, stage, resumed=False).eval()
        if torch.cuda.is_available():
            model = model.to(torch.device("cuda", torch.cuda.current_device()))
    run.watchdog.beat("engine start")
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


class Failures:
    """Graders that fail in a stage that only samples: told, and beyond the stage's budget the end of it."""

    def __init__(self, run: RunContext, stage: SamplingStage, state: RunState) -> None:
        self._run, self._step = run, state.step
        self._budget = FailureBudget(stage.grading.max_failures, stage.grading.window)

    def observe(self, deliveries: Sequence[Delivery]) -> None:
        failed = [one for item in deliveries for one in item.samples if one.status.is_failure]
        if failed:
            causes = Counter(f"{one.status}: {one.detail}" for one in failed)
            self._run.directory.event(
                "grader_failures",
                self._step,
                samples=len(failed),
                causes=dict(causes.most_common(3)),
            )
        self._budget.observe(deliveries)


def refuse_batch_rewards(run: RunContext, stage: SamplingStage) -> None:
    """ValueError for rewards that compare the samples of a training batch: there is none."""
    batch = [one.name for one in run.parts.rubric(stage).components if one.reward.scope == "batch"]
    if batch:
        raise ValueError(
            f"stages.{stage.name}.rewards: {', '.join(batch)} compare a training batch, and a stage of kind {stage.kind} "
            "trains none; leave them out"
        )
