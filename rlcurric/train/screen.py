"""A screen stage: how often the weights it starts from solve every prompt of its mixture.

What was measured is cached over runs, by everything that it depends on: the weights, the prompt with its row, how it is
sampled, and what grades it. The samples' seeds depend on the prompt alone, so that a result from the cache is the one
that sampling would give.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from rlcurric import seeds
from rlcurric.curriculum.measured import measured_line, outcome_of_line
from rlcurric.recipe.stages import ScreenStage
from rlcurric.schedules import Progress, value_at
from rlcurric.train.models import named_tensors
from rlcurric.train.portions import Portions
from rlcurric.train.run import RunContext, RunState
from rlcurric.train.rundir import read_jsonl, screened_name, write_atomic
from rlcurric.train.sampler import Parts, Sampled, SamplingLeader, in_rounds, run_sampling
from rlcurric.train.screening import outcome_of
from rlcurric.train.worker import RlWorker
from rlcurric.types import GroupOutcome, Prompt
from rlcurric.version import __version__


def run_screen(run: RunContext, stage: ScreenStage, state: RunState) -> tuple[str, RunState]:
    """Measure the stage's prompts: ("done" | "stopped", where the run then stands)."""

    def leader(portions: Portions, worker: RlWorker) -> _Leader:
        run.reporter.phase("hashing the weights")
        cache = Cache(run, stage, state, hash_of_weights(worker.learner))
        return _Leader(run, stage, state, portions, cache)

    return run_sampling(run, stage, state, screened_name(stage.name), "screened", leader)


class _Leader(SamplingLeader[ScreenStage]):
    """Takes from the cache what is known, and keeps there what is measured."""

    doing, with_text = "screening", False

    def __init__(
        self,
        run: RunContext,
        stage: ScreenStage,
        state: RunState,
        portions: Portions,
        cache: Cache,
    ) -> None:
        super().__init__(run, stage, state, portions)
        self.cache = cache

    def begin(self, prompts: Sequence[Prompt]) -> tuple[Parts, list[list[Prompt]]]:
        parts = self.portions.parts()
        if not parts:  # what the cache knows now: no more is taken from it later
            parts = [self._part(self.cache.known(prompts))]
            self.portions.add(parts[0])
        found = set(parts[0]["uids"])
        left = [one for one in prompts if f"{one.uid:016x}" not in found]
        return parts, in_rounds(left, self.stage.samples)[len(parts) - 1 :]

    def seed(self, prompt: Prompt) -> int:
        return self.cache.seed(prompt)

    def part(self, prompts: Sequence[Prompt], sampled: Sampled) -> dict[str, Any]:
        by_uid = {item.group_id.uid: outcome_of(item) for item in sampled[0]}
        outcomes = [by_uid[prompt.uid] for prompt in prompts]
        self.cache.add(prompts, outcomes)
        return self._part(outcomes)

    @staticmethod
    def _part(outcomes: Sequence[GroupOutcome]) -> dict[str, Any]:
        return {
            "uids": [f"{one.group_id.uid:016x}" for one in outcomes],
            "lines": "".join(map(measured_line, outcomes)),
            "tokens": sum(sum(one.lengths) for one in outcomes),
        }

    def write(self, n_prompts: int, parts: Parts) -> dict[str, Any]:
        """The first part is what came from the cache.

        Its tokens count as if they were sampled now, so that what goes by the run's tokens does not depend on the cache.
        """
        lines = sorted(line for part in parts for line in part["lines"].splitlines(keepends=True))
        outcomes = [outcome_of_line(json.loads(line)) for line in lines]
        rates = [one.pass_rate for one in outcomes if one.pass_rate is not None]
        counts = {
            "prompts": n_prompts,
            "samples": self.stage.samples,
            "measured": n_prompts - len(parts[0]["uids"]),
            "from_cache": len(parts[0]["uids"]),
            "never_solved": sum(rate == 0 for rate in rates),
            "always_solved": sum(rate == 1 for rate in rates),
            "tokens": sum(part["tokens"] for part in parts),
            "tokens_from_cache": parts[0]["tokens"],
        }
        summary = self.portions.finish("".join(lines), counts)
        self.run.reporter.message(
            f"stage {self.stage.name} screened {n_prompts} prompts, {self.stage.samples} samples each "
            f"({counts['from_cache']} known from the cache): {counts['never_solved']} never solved, "
            f"{counts['always_solved']} always"
        )
        return summary


class Cache:
    """What was measured of prompts with these weights, this sampling and this grading, by whatever run.

    A folder for each such combination; every round writes one file into it, at once, so that runs may share it.
    """

    def __init__(self, run: RunContext, stage: ScreenStage, state: RunState, weights: str) -> None:
        progress = Progress(state.step, 0, None, state.generated_tokens)
        component_weights, args = run.parts.reward_values(stage, progress)
        components = run.parts.rubric(stage).components
        self.key = {
            "weights": weights,
            "samples": stage.samples,
            "temperature": value_at(stage.rollout.temperature, progress),
            "max_new_tokens": stage.rollout.max_new_tokens,
            "modes": dict(stage.prompt.modes),
            "rewards": [
                {
                    "name": one.reference,
                    "weight": component_weights[one.name],
                    "args": args[one.name],
                    "version": _version(one.reward.file),
                }
                for one in components
            ],
            "correct": stage.correct,
        }
        self._stage, self._version = stage, state.policy_version
        named = hashlib.sha256(json.dumps(self.key, sort_keys=True, default=repr).encode())
        self.folder = _folder(run, stage) / named.hexdigest()[:32]

    def seed(self, prompt: Prompt) -> int:
        """Key of the seeds of a prompt's samples."""
        return seeds.hash64("screen", _key(prompt))

    def known(self, prompts: Sequence[Prompt]) -> list[GroupOutcome]:
        """What the cache has of these prompts, as if it were measured now."""
        lines = {
            line["prompt"]: line
            for file in sorted(self.folder.glob("*.jsonl"))
            for line in read_jsonl(file)
        }
        found = [(prompt, lines.get(_key(prompt))) for prompt in prompts]
        return [
            outcome_of_line(
                {
                    **line,
                    "uid": f"{prompt.uid:016x}",
                    "distribution": prompt.distribution,
                    "policy_version": self._version,
                }
            )
            for prompt, line in found
            if line is not None
        ]

    def add(self, prompts: Sequence[Prompt], outcomes: Sequence[GroupOutcome]) -> None:
        """Keep a round; samples that no grader could judge are not kept, so that they are graded again."""
        lines = [
            {**json.loads(measured_line(outcome)), "prompt": _key(prompt)}
            for prompt, outcome in zip(prompts, outcomes, strict=True)
            if not outcome.n_failed
        ]
        if not lines:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        about = self.folder / "key.json"
        if not about.exists():
            write_atomic(about, json.dumps(self.key, indent=1, sort_keys=True, default=repr) + "\n")
        name = f"{seeds.hash64(*(line['prompt'] for line in lines)):016x}.jsonl"
        write_atomic(self.folder / name, "".join(json.dumps(line) + "\n" for line in lines))


def hash_of_weights(policy: Any) -> str:
    """Of every parameter that an engine is given: name, shape, dtype and bits."""
    digest = hashlib.sha256()
    for name, tensor in named_tensors(policy.model):
        whole = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {tuple(whole.shape)} {whole.dtype}\n".encode())
        digest.update(whole.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _key(prompt: Prompt) -> str:
    """Of the tokens that are asked with and the row that it is graded by."""
    row = json.dumps(prompt.columns, sort_keys=True, default=repr)
    return f"{seeds.hash64(prompt.prompt_ids, prompt.prefill, row):016x}"


def _version(file: str) -> str:
    """Of a reward: this package's, with what its own file holds."""
    content = Path(file).read_bytes() if file and Path(file).is_file() else b""
    return f"{__version__} {hashlib.sha256(content).hexdigest()[:16]}"


def _folder(run: RunContext, stage: ScreenStage) -> Path:
    if stage.cache is not None:
        return Path(run.recipe.base_dir, stage.cache).expanduser()
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "rlcurric" / "screened"
