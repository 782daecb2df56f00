"""The embedded engine: transformers' generate on the learner's own module."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rlcurric.rollout.engine import Sample, SampleRequest, SamplingSpec, in_order
from rlcurric.rollout.gumbel import gumbel_noise

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class _GumbelMax:
    """Logits processor: adds each sample's own noise, so that the argmax is a draw from the softmax.

    Keeps the log-probs of every position before the noise. Gumbel-max needs no generator, global or other.
    """

    def __init__(self, seeds_B: torch.Tensor, spec: SamplingSpec) -> None:
        self._seeds_B, self._spec = seeds_B, spec
        self.logprobs: list[torch.Tensor] = []  # one (B, V) a position

    def __call__(self, input_ids: torch.Tensor, scores_BV: torch.Tensor) -> torch.Tensor:
        temperature = 1.0 if self._spec.greedy else self._spec.temperature
        logprobs_BV = (scores_BV.float() / temperature).log_softmax(-1)
        position = len(self.logprobs)
        self.logprobs.append(logprobs_BV)
        if self._spec.greedy:
            return logprobs_BV
        return logprobs_BV + gumbel_noise(self._seeds_B, position, scores_BV.shape[-1])


class TorchEngine:
    """Samples with the module that is being trained, whose syncs only name the version, or with one of its own.

    A module of its own is what a learner needs whose parameters lie in shards over the ranks.
    """

    name = "torch"
    samples = True
    needs_weights = False

    def __init__(
        self, model: PreTrainedModel, pad_token_id: int, max_batch: int = 64, owned: bool = False
    ) -> None:
        if max_batch < 1:
            raise ValueError(f"rollout.torch.max_batch must be at least 1, got {max_batch}")
        self.version = -1
        self._model, self._pad, self._max_batch = model, pad_token_id, max_batch
        self._owned = owned

    def sync(self, named_tensors: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        """Copy every tensor into a module of its own; where the weights are the learner's, only note the version."""
        if self._owned:
            self._copy(named_tensors)
        self.version = version

    @torch.no_grad()
    def _copy(self, named_tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        mine = dict(self._model.named_parameters(remove_duplicate=False))
        waiting = {name for name, _ in self._model.named_parameters()}
        unknown = []
        for name, tensor in named_tensors:
            if name not in mine:
                unknown.append(name)
            elif mine[name].shape != tensor.shape:
                raise RuntimeError(
                    f"The torch engine was given {name} as {tuple(tensor.shape)} and has it as {tuple(mine[name].shape)}"
                )
            else:
                mine[name].copy_(tensor)
                waiting.discard(name)
        if waiting or unknown:
            wrong = f"was not given {min(waiting)}" if waiting else f"has no {min(unknown)}"
            raise RuntimeError(f"The torch engine {wrong}: the weights sent are not its model's")

    def sleep(self) -> None:
        """It keeps nothing on the device but weights."""

    def close(self) -> None:
        """Nothing is held beside the learner's module."""

    def generate(self, requests: Sequence[SampleRequest], spec: SamplingSpec) -> list[Sample]:
        """The samples of `stream`, in the order of the requests."""
        return in_order(self.stream(requests, spec), len(requests))

    def stream(
        self, requests: Sequence[SampleRequest], spec: SamplingSpec
    ) -> Iterator[tuple[int, Sample]]:
        """Batches of `max_batch`, by prompt length so that little is padded."""
        order = sorted(range(len(requests)), key=lambda place: (_width(requests[place]), place))
        was_training = self._model.training
        for start in range(0, len(order), self._max_batch):
            chosen = order[start : start + self._max_batch]
            self._model.eval()
            try:
                samples = self._batch([requests[i] for i in chosen], spec)
            finally:
                self._model.train(was_training)
            yield from zip(chosen, samples, strict=True)

    @torch.no_grad()
    def _batch(self, requests: Sequence[SampleRequest], spec: SamplingSpec) -> list[Sample]:
        from transformers import GenerationConfig, LogitsProcessorList

        device = self._model.device
        longest = max(_width(request) for request in requests)
        ids_BT = torch.full((len(requests), longest), self._pad, dtype=torch.int64)
        mask_BT = torch.zeros_like(ids_BT)
        for row, request in enumerate(requests):
            begun = (*request.prompt_ids, *request.forced_ids)
            ids_BT[row, longest - len(begun) :] = torch.tensor(begun)
            mask_BT[row, longest - len(begun) :] = 1
        noise = _GumbelMax(
            torch.tensor([r.seed for r in requests], dtype=torch.int64, device=device), spec
        )
        config = GenerationConfig(
            max_new_tokens=spec.max_new_tokens - min(len(one.forced_ids) for one in requests),
            do_sample=False,
            eos_token_id=list(spec.eos_token_ids),
            pad_token_id=self._pad,
            use_cache=True,
        )
        # What the model's own settings say (a repetition penalty, top-k) would fill in what `config` leaves open.
        own, self._model.generation_config = self._model.generation_config, config
        try:
            output: Any = self._model.generate(
                input_ids=ids_BT.to(device),
                attention_mask=mask_BT.to(device),
                generation_config=config,
                logits_processor=LogitsProcessorList([noise]),
            )
        finally:
            self._model.generation_config = own
        completions_BT = output[:, longest:]
        logprobs_BT = torch.stack(
            [
                row_BV.gather(-1, ids_B[:, None])[:, 0]
                for row_BV, ids_B in zip(noise.logprobs, completions_BT.T, strict=True)
            ],
            dim=1,
        )
        return [
            _sample(ids_T, logprobs_T, request.forced_ids, spec, self.version)
            for request, ids_T, logprobs_T in zip(
                requests, completions_BT.cpu().numpy(), logprobs_BT.cpu().numpy(), strict=True
            )
        ]


def _width(request: SampleRequest) -> int:
    """Tokens that stand before the first sampled one."""
    return len(request.prompt_ids) + len(request.forced_ids)


def _sample(
    ids_T: np.ndarray,
    logprobs_T: np.ndarray,
    forced_ids: tuple[int, ...],
    spec: SamplingSpec,
    version: int,
) -> Sample:
    """Cut a row of the batch at its end-of-sequence token, and where its own room ends."""
    room = spec.max_new_tokens - len(forced_ids)
    ids_T, logprobs_T = ids_T[:room], logprobs_T[:room]
    ends = np.flatnonzero(np.isin(ids_T, spec.eos_token_ids))
    length = int(ends[0]) + 1 if len(ends) else len(ids_T)
    return Sample(
        completion_ids_T=ids_T[:length].astype(np.int64),
        rollout_logprobs_T=logprobs_T[:length].astype(np.float32),
        finish_reason="stop" if len(ends) else "length",
        policy_version=version,
    ).behind(forced_ids)
