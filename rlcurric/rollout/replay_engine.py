"""The replay engine: rollouts that another run recorded, for learners to be compared on equal data.

A recorded completion is found by its prompt and its seed. Seeds are functions of the run's seed, the stage, the prompt
and its visit, so a run replays another one if it asks for the same prompts in the same stages under the same seed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rlcurric import seeds
from rlcurric.rollout.engine import Sample, SampleRequest, SamplingSpec, in_order
from rlcurric.types import GroupId

if TYPE_CHECKING:
    import torch

_COLUMNS = [
    *("stage", "uid", "visit", "sample", "run_seed", "temperature", "prompt_ids"),
    *("completion_ids", "rollout_logprobs", "truncated"),
]


class ReplayEngine:
    """Gives back what was recorded. Its samples belong to no version of the weights, so no parity is measured."""

    name = "replay"
    samples = False
    needs_weights = False

    def __init__(self, path: Path) -> None:
        self.version = -1
        self._path = path
        self._recorded = dict(_read(path))

    def sync(self, named_tensors: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        """A recording has no weights; the version is noted."""
        self.version = version

    def sleep(self) -> None:
        """Nothing lies on the device."""

    def close(self) -> None:
        """Nothing is held but the record."""

    def generate(self, requests: Sequence[SampleRequest], spec: SamplingSpec) -> list[Sample]:
        """The samples of `stream`, in the order of the requests."""
        return in_order(self.stream(requests, spec), len(requests))

    def stream(
        self, requests: Sequence[SampleRequest], spec: SamplingSpec
    ) -> Iterator[tuple[int, Sample]]:
        """The recorded completion of every request; ValueError for one that was not recorded."""
        if spec.greedy:
            raise ValueError(
                "The replay engine has no greedy completions to evaluate. Set evaluation.at_end=false and "
                "evaluation.every=0 for stages with rollout.engine=replay"
            )
        for place, request in enumerate(requests):
            sample = self._recorded.get((request.prompt_ids, request.seed))
            if sample is None:
                raise ValueError(
                    f"{self._path} has no completion for the prompt of {len(request.prompt_ids)} tokens that was asked "
                    "for. The recording run needs the same seed, stages, data and curriculum, and "
                    "run.rollouts {every: 1, include: all, max_per_step and keep large enough}"
                )
            forced = request.forced_ids
            if tuple(sample[0].completion_ids_T[: len(forced)].tolist()) != forced:
                raise ValueError(
                    f"{self._path} has a completion that does not begin with its mode's tokens {list(forced)}: it was "
                    "recorded under other prompt.modes"
                )
            if sample[1] != spec.temperature:
                raise ValueError(
                    f"{self._path} was sampled at temperature {sample[1]}, and rollout.temperature is {spec.temperature}: "
                    "log-probs at the one say nothing about the other"
                )
            yield place, sample[0]


def _read(path: Path) -> Iterable[tuple[tuple[tuple[int, ...], int], tuple[Sample, float]]]:
    import pyarrow.parquet as pq

    folder = path / "rollouts" if (path / "rollouts").is_dir() else path
    files = sorted(folder.glob("step-*.parquet"))
    if not files:
        raise ValueError(
            f"rollout.replay.path: {path} has no recorded rollouts (step-*.parquet). Give a run directory whose "
            "run.rollouts.every was 1"
        )
    for file in files:
        table = pq.read_table(file)
        missing = [name for name in _COLUMNS if name not in table.column_names]
        if missing:
            raise ValueError(f"{file} has no column {missing[0]!r}: record the run again")
        for row in table.select(_COLUMNS).to_pylist():
            yield _key(row), (_sample(row), row["temperature"])


def _key(row: dict[str, Any]) -> tuple[tuple[int, ...], int]:
    group = GroupId(row["stage"], int(row["uid"], 16), row["visit"])
    seed_key = seeds.hash64(row["run_seed"], *group)
    return tuple(row["prompt_ids"]), seeds.sample_seed(seed_key, row["sample"])


def _sample(row: dict[str, Any]) -> Sample:
    return Sample(
        completion_ids_T=np.array(row["completion_ids"], dtype=np.int64),
        rollout_logprobs_T=np.array(row["rollout_logprobs"], dtype=np.float32),
        finish_reason="length" if row["truncated"] else "stop",
        policy_version=-1,
    )
