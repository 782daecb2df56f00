"""How often the policy solves each prompt of a pool, before a stage trains on it."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from rlcurric import seeds
from rlcurric.curriculum.measured import STAGE
from rlcurric.train.directives import Directive, Forget, Generate
from rlcurric.train.worker import Generated
from rlcurric.types import Delivery, GroupId, GroupOutcome, Prompt, Request

ROLLOUTS_PER_ROUND = 2048


def measure(
    prompts: Iterable[Prompt],
    samples: int,
    run_seed: int,
    stage: str,
    values: tuple[Mapping[str, float], Mapping[str, Mapping[str, Any]]],
) -> Iterator[Generator[Directive, list[Any], list[Delivery]]]:
    """Rounds of rollouts over the prompts; each yields directives and returns the deliveries of its prompts.

    A sample's seed depends on the run's seed, the stage and the prompt alone, so a prompt that is measured again gives
    the same completions under the same weights.
    """
    rest = iter(prompts)
    while chunk := list(islice(rest, max(1, ROLLOUTS_PER_ROUND // samples))):
        yield _round(chunk, samples, run_seed, stage, values)


def _round(
    prompts: Sequence[Prompt],
    samples: int,
    run_seed: int,
    stage: str,
    values: tuple[Mapping[str, float], Mapping[str, Mapping[str, Any]]],
) -> Generator[Directive, list[Any], list[Delivery]]:
    requests = tuple(
        Request(
            GroupId(STAGE, prompt.uid, 0),
            prompt,
            tuple(range(samples)),
            seeds.hash64(run_seed, STAGE, stage, prompt.uid),
        )
        for prompt in sorted(prompts, key=lambda prompt: prompt.uid)
    )
    answers: list[Generated] = yield Generate(requests, *values)
    yield Forget(())
    return [delivery for answer in answers for delivery in answer.deliveries]


def outcome_of(delivery: Delivery) -> GroupOutcome:
    """A measured prompt as the curriculum's parts observe it."""
    return GroupOutcome.of(
        delivery.group_id,
        delivery.distribution,
        delivery.samples,
        step=0,
        policy_version=min(one.policy_version for one in delivery.samples),
        disposition="screened",
    )
