"""From an engine's samples to rollouts: names, text, versions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from rlcurric.rollout.engine import Engine, SampleRequest, SamplingSpec
from rlcurric.types import GroupId, Rollout

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def completions(
    engine: Engine,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[SampleRequest],
    owners: Sequence[tuple[GroupId, int] | None],
    spec: SamplingSpec,
) -> list[Rollout]:
    """Sample every request and name the results after their owners, in the order given; those without are left out."""
    found = dict(stream_completions(engine, tokenizer, requests, owners, spec))
    return [found[place] for place, owner in enumerate(owners) if owner is not None]


def stream_completions(
    engine: Engine,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[SampleRequest],
    owners: Sequence[tuple[GroupId, int] | None],
    spec: SamplingSpec,
) -> Iterator[tuple[int, Rollout]]:
    """`(place, rollout)` of every request that has an owner here, as the engine has them.

    The others belong to another rank of the same engine, which samples them together with this one.
    """
    if not requests:  # a rank may have none
        return
    for place, sample in engine.stream(requests, spec):
        owner = owners[place]
        if owner is None:
            continue
        group_id, number = owner
        text = tokenizer.decode(
            _without_end(sample.completion_ids_T, spec.eos_token_ids),
            skip_special_tokens=False,
            clean_up_tokenization_spaces=False,
        )
        assert isinstance(text, str)
        length = len(sample.completion_ids_T)
        yield (
            place,
            Rollout(
                group_id=group_id,
                sample=number,
                completion_ids_T=sample.completion_ids_T,
                rollout_logprobs_T=sample.rollout_logprobs_T,
                policy_version_T=np.full(length, sample.policy_version, dtype=np.int64),
                finish_reason=sample.finish_reason,
                text=text,
                temperature=spec.temperature,
            ),
        )


def _without_end(ids_T: np.ndarray, eos_token_ids: tuple[int, ...]) -> list[int]:
    ids: list[int] = ids_T.tolist()
    return ids[:-1] if ids and ids[-1] in eos_token_ids else ids
