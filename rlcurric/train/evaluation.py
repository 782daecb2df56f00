"""Accuracy on held-out prompts: greedy, and by sampling where the recipe asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rlcurric import seeds
from rlcurric.recipe.stages import StageBase, TrainingStage
from rlcurric.rollout.engine import Engine, SampleRequest, SamplingSpec
from rlcurric.schedules import Progress, value_at
from rlcurric.train.run import RunContext
from rlcurric.train.sampling import completions
from rlcurric.types import GroupId, Prompt

GREEDY = -1  # sample number of the greedy completion


@dataclass(frozen=True, slots=True)
class EvalSample:
    """The verdict on one completion of a held-out prompt."""

    distribution: str
    uid: int
    sample: int  # GREEDY, or 0, 1, ... for sampled ones
    correct: float | None  # None: no grader could judge it
    length: int  # tokens
    truncated: bool


def evaluate(
    run: RunContext, stage: StageBase, engine: Engine, progress: Progress | None = None
) -> list[EvalSample]:
    """This rank's share of the stage's held-out prompts, completed and judged. The engine has the weights.

    `progress`: where the run stands, for the temperature of sampled completions; default: the start of the stage.
    """
    prompts = run.engines.deal(stage).sampled(run.data.held_out(stage))
    assert isinstance(stage, TrainingStage)
    rollout, evaluation = stage.rollout, stage.evaluation
    eos = run.engines.eos_token_ids
    longest = evaluation.max_new_tokens or rollout.max_new_tokens
    samples = _judge(
        run, stage, engine, prompts, (GREEDY,), SamplingSpec(longest, 1.0, eos, greedy=True)
    )
    if evaluation.samples:
        numbers = tuple(range(evaluation.samples))
        start = Progress(0, 0, stage.planned_steps)
        temperature = value_at(rollout.temperature, progress or start)
        spec = SamplingSpec(longest, temperature, eos)
        samples += _judge(run, stage, engine, prompts, numbers, spec)
    return samples


def _judge(
    run: RunContext,
    stage: StageBase,
    engine: Engine,
    prompts: Sequence[Prompt],
    numbers: Sequence[int],
    spec: SamplingSpec,
) -> list[EvalSample]:
    deal = run.engines.deal(stage)
    requests = [
        SampleRequest(
            prompt.prompt_ids,
            seeds.sample_seed(seeds.hash64(run.recipe.seed, "held-out", prompt.uid), number),
        )
        for prompt in prompts
        for number in numbers
    ]
    owners = [
        (GroupId("held-out", prompt.uid, 0), number) if deal.keeps(place) else None
        for place, prompt in enumerate(prompts)
        for number in numbers
    ]
    prompts = [prompt for place, prompt in enumerate(prompts) if deal.keeps(place)]
    rollouts = completions(engine, run.tokenizer, requests, owners, spec)
    by_prompt = [
        (prompt, tuple(rollouts[start : start + len(numbers)]))
        for start, prompt in zip(range(0, len(rollouts), len(numbers)), prompts, strict=True)
    ]
    outcomes = run.parts.judge(stage, by_prompt)
    return [
        EvalSample(
            prompt.distribution, prompt.uid, one.sample, one.correct, one.length, one.truncated
        )
        for (prompt, _), group in zip(by_prompt, outcomes, strict=True)
        for one in group
    ]


def summarise(samples: Sequence[EvalSample]) -> dict[str, float]:
    """Metrics by distribution and their plain mean over distributions; lengths and truncation of greedy ones."""
    metrics: dict[str, float] = {}
    groups: dict[str, list[EvalSample]] = {}
    for sample in samples:
        groups.setdefault(sample.distribution, []).append(sample)
    for name, members in groups.items():
        greedy = [one for one in members if one.sample == GREEDY]
        sampled = [one for one in members if one.sample != GREEDY]
        _add(metrics, f"eval/accuracy/{name}", [one.correct for one in greedy])
        _add(metrics, f"eval/length/{name}", [float(one.length) for one in greedy])
        _add(metrics, f"eval/truncated/{name}", [float(one.truncated) for one in greedy])
        _add(metrics, f"eval/pass_rate/{name}", [one.correct for one in sampled])
    for kind in ("accuracy", "length", "truncated", "pass_rate"):
        values: list[Any] = [metrics.get(f"eval/{kind}/{name}") for name in groups]
        _add(metrics, f"eval/{kind}/mean", values)
    unjudged = sum(one.correct is None for one in samples)
    if unjudged:
        metrics["eval/unjudged/sum"] = unjudged
    return metrics


def _add(metrics: dict[str, float], key: str, values: Sequence[float | None]) -> None:
    known = [value for value in values if value is not None]
    if known:
        metrics[key] = sum(known) / len(known)
