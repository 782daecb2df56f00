"""What an engine is: token ids in, token ids and log-probs out, the weights by version."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from rlcurric.types import FinishReason

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class SamplingSpec:
    """How completions are sampled: the full softmax at `temperature`, or its argmax."""

    max_new_tokens: int
    temperature: float
    eos_token_ids: tuple[int, ...]
    greedy: bool = False  # log-probs are then at temperature 1


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """One completion that is wanted."""

    prompt_ids: tuple[int, ...]
    seed: int  # in [0, 2**63); the completion is a function of prompt, seed and weights
    forced_ids: tuple[int, ...] = ()  # tokens that the completion begins with: given, not sampled


@dataclass(frozen=True, slots=True)
class Sample:
    """One completion. Arrays have its length, end-of-sequence included."""

    completion_ids_T: np.ndarray  # int64
    rollout_logprobs_T: (
        np.ndarray
    )  # float32, nats, at the sampling temperature; NaN for forced tokens
    finish_reason: FinishReason
    policy_version: int

    def behind(self, forced_ids: tuple[int, ...]) -> Sample:
        """The completion that begins with tokens that nobody sampled: they have no log-prob."""
        if not forced_ids:
            return self
        forced = np.array(forced_ids, dtype=np.int64)
        nan = np.full(len(forced), np.nan, dtype=np.float32)
        return replace(
            self,
            completion_ids_T=np.concatenate([forced, self.completion_ids_T]),
            rollout_logprobs_T=np.concatenate([nan, self.rollout_logprobs_T]),
        )


def in_order(samples: Iterable[tuple[int, Sample]], count: int) -> list[Sample]:
    """What an engine streams, in the order of the requests."""
    found = dict(samples)
    assert len(found) == count, f"{len(found)} samples for {count} requests"
    return [found[place] for place in range(count)]


class Engine(Protocol):
    """Samples completions from the weights it was last given."""

    @property
    def name(self) -> str: ...

    @property
    def samples(self) -> bool:
        """Whether it samples from the weights that it is given: a recording does not."""
        ...

    @property
    def version(self) -> int:
        """Policy version of the weights it holds; -1 before the first `sync`."""
        ...

    @property
    def needs_weights(self) -> bool:
        """Whether it has slept and lost its weights: only a `sync` makes it sample again."""
        ...

    def generate(self, requests: Sequence[SampleRequest], spec: SamplingSpec) -> list[Sample]:
        """The samples of `stream`, in the order of the requests."""
        ...

    def stream(
        self, requests: Sequence[SampleRequest], spec: SamplingSpec
    ) -> Iterator[tuple[int, Sample]]:
        """`(place, sample)` for each request, as they become ready. The same list gives the same bits."""
        ...

    def sync(self, named_tensors: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        """Take these weights, a tied output head by its own name included, as `version`.

        They may be gathered over the ranks one at a time: an engine consumes all of them, in order, or none.
        """
        ...

    def sleep(self) -> None:
        """Leave the device's memory to the learner, if it has some that can be given up; `sync` takes it back."""
        ...

    def close(self) -> None:
        """Free what the engine holds; another may then be made in this process."""
        ...
