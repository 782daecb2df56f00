"""Run directories of any size without a model: a made-up learner, written by the writers of real runs.

Distributions differ in how early they are learned. Every distribution's first prompt has a wrong answer, so that no
sample of it ever passes. Completions grow longer, and so do the steps. All of it follows from the seed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlcurric import seeds
from rlcurric.curriculum.decisions import outcome_line
from rlcurric.recipe.load import dump_yaml, load_recipe
from rlcurric.recipe.schema import Recipe
from rlcurric.recipe.settings import RolloutLog
from rlcurric.train.metrics import batch_metrics
from rlcurric.train.rolloutlog import write_rollouts
from rlcurric.train.rundir import DECISIONS, METRICS, RunDirectory, write_atomic
from rlcurric.types import (
    AdmittedGroup,
    Batch,
    GroupId,
    GroupOutcome,
    Prompt,
    Rollout,
    SampleOutcome,
    Status,
)

Text = Callable[[int, str, int], str]  # step, distribution, tokens -> what a completion reads


@dataclass(frozen=True)
class Made:
    """How large a run is."""

    warm: int = 10  # steps of SFT
    steps: int = 40  # of RL, after them
    groups: int = 6  # a step
    group_size: int = 4
    distributions: int = 3
    prompts: int = 12  # of each distribution
    tokens: int = 12  # of a completion at first; twice as many at last
    evaluate: int = 10  # steps between held-out evaluations
    seed: int = 0


def a_text(step: int, distribution: str, tokens: int) -> str:
    return f"<think>{'1+2=3; ' * (tokens // 4)}</think><answer>{step % 10}</answer>"


def write_run(path: Path, made: Made | None = None, text: Text = a_text) -> Path:
    """Write a finished run to this folder, which is made."""
    made = made or Made()
    writer = _Writer(path, made, text)
    writer.begin()
    for step in range(1, made.warm + 1):
        writer.warm_step(step)
    writer.event("stage_ended", made.warm, stage="cold", first_step=1, last_step=made.warm)
    writer.event("stage_started", made.warm, stage="rl")
    for step in range(made.warm + 1, made.warm + made.steps + 1):
        writer.rl_step(step)
    writer.end()
    return path


def recipe_of(made: Made) -> Recipe:
    names = [f"level-{k}" for k in range(made.distributions)]
    per_step = made.groups * made.group_size
    return load_recipe(
        {
            "name": "made-up",
            "seed": made.seed,
            "base_dir": ".",
            "model": {"path": "made-up"},
            "distributions": {
                name: {"source": {"name": "file", "path": f"{name}.jsonl"}} for name in names
            },
            "stages": [
                {"name": "cold", "kind": "sft", "mixture": names, "until": {"steps": made.warm}},
                {
                    "name": "rl",
                    "mixture": names,
                    "curriculum": {"prompts_per_step": made.groups, "group_size": made.group_size},
                    "rewards": ["verifier"],
                    "until": {"steps": made.steps},
                },
            ],
            "run": {
                "rollouts": {"every": 1, "max_per_step": per_step, "keep": made.steps},
            },
        }
    )


class _Writer:
    def __init__(self, path: Path, made: Made, text: Text) -> None:
        self.made, self.text = made, text
        path.mkdir(parents=True)
        self.directory = RunDirectory(path)
        self.recipe = recipe_of(made)
        self.names = list(self.recipe.distributions)
        self.visits: dict[int, int] = {}
        self.total = 0  # tokens

    def event(self, kind: str, step: int, **detail: Any) -> None:
        self.directory.event(kind, step, **detail)

    def begin(self) -> None:
        write_atomic(self.directory.recipe_file, dump_yaml(self.recipe))
        launch = {"time": "2026-01-01T00:00:00+0000", "versions": {"rlcurric": "0.1.0"}, "cpus": 2}
        info = {"name": "made-up", "seed": self.made.seed, "origin": None, "launches": [launch]}
        write_atomic(self.directory.path / "run.json", json.dumps(info))
        self.event("started", 0)
        self.event("stage_started", 0, stage="cold")

    def warm_step(self, step: int) -> None:
        row: dict[str, Any] = {"step": step, "stage": "cold", "stage_step": step}
        row |= {"loss/sft/mean": 2.0 / step, "grad/norm": 1.0, "optim/learning_rate": 1e-3}
        row |= {"tokens/trained/sum": 400, "time/update/s": 0.1, "time/step/s": 0.1}
        if step == self.made.warm:
            row |= self._evaluation(0.0)
        self.directory.append(METRICS, [row])

    def rl_step(self, step: int) -> None:
        done = (step - self.made.warm) / self.made.steps  # in (0, 1]
        draw = seeds.philox(self.made.seed, "made", step, 0)
        shares = self._probabilities(done)
        chosen = draw.choice(len(self.names), self.made.groups, p=shares)
        groups, rollouts = [], {}
        for name in sorted(chosen.tolist()):
            group, members, prompt = self._group(step, name, done, draw)
            groups.append(group)
            rollouts[group.group_id] = (prompt, members)
        groups.sort(key=lambda group: group.group_id)
        self._log(step, done, groups, rollouts, shares)

    def end(self) -> None:
        last = self.made.warm + self.made.steps
        self.event(
            "stage_ended",
            last,
            stage="rl",
            first_step=self.made.warm + 1,
            last_step=last,
            reason="steps",
        )
        self.event("done", last)

    def _probabilities(self, done: float) -> np.ndarray:
        """Highest for what is just being learned."""
        peaks = np.linspace(0, 1, len(self.names))
        weights = 0.1 + np.exp(-(((peaks - done) / 0.25) ** 2))
        return weights / weights.sum()

    def _rate(self, name: int, done: float) -> float:
        """Pass rate of a distribution: the later ones are learned later."""
        return float(1 / (1 + np.exp(-12 * (done - name / len(self.names)))))

    def _group(
        self, step: int, name: int, done: float, draw: np.random.Generator
    ) -> tuple[AdmittedGroup, list[Rollout], Prompt]:
        index = int(draw.integers(self.made.prompts))
        uid = seeds.hash64(self.names[name], index)
        visit = self.visits.get(uid, -1) + 1
        self.visits[uid] = visit
        group_id = GroupId("rl", uid, visit)
        prompt = Prompt(uid, self.names[name], (1, 2), f"level {name}, question {index}: ", {})
        rate = 0.0 if index == 0 else self._rate(name, done)
        samples, members = [], []
        for number in range(self.made.group_size):
            tokens = int(self.made.tokens * (1 + done) * draw.uniform(0.5, 1.5)) + 1
            cut = bool(draw.random() < 0.03)
            right = float(draw.random() < rate and not cut)
            parts = {"verifier": right, "format": float(not cut)}
            samples.append(
                SampleOutcome(
                    *(number, right + 0.1 * (not cut), right, Status.SCORED, tokens, cut, step - 1),
                    breakdown=parts,
                )
            )
            members.append(
                Rollout(
                    group_id=group_id,
                    sample=number,
                    completion_ids_T=draw.integers(3, 99, tokens),
                    rollout_logprobs_T=np.full(tokens, -0.5, "f4"),
                    policy_version_T=np.full(tokens, step - 1),
                    finish_reason="length" if cut else "stop",
                    text=self.text(step, self.names[name], tokens),
                )
            )
        return AdmittedGroup(group_id, prompt, tuple(samples)), members, prompt

    def _log(
        self,
        step: int,
        done: float,
        groups: list[AdmittedGroup],
        rollouts: dict[GroupId, Any],
        shares: np.ndarray,
    ) -> None:
        generated = sum(one.length for group in groups for one in group.samples)
        self.total += generated
        outcomes = [
            GroupOutcome.of(
                *(group.group_id, group.distribution, group.samples),
                step=step - 1,
                policy_version=step - 1,
                disposition="gated" if group.pass_rate in (0.0, 1.0) else "trained",
            )
            for group in groups
        ]
        line = {"kind": "outcomes", "step": step, "stage": "rl", "progress": [step - 1, 0, None, 0]}
        self.directory.append(DECISIONS, [{**line, "groups": list(map(outcome_line, outcomes))}])
        probabilities = dict(zip(self.names, shares.tolist(), strict=True))
        seconds = generated * 1e-3
        row: dict[str, Any] = {"step": step, "stage": "rl", "stage_step": step - self.made.warm}
        row |= batch_metrics(Batch(step, tuple(groups)))
        row |= {f"curriculum/probability/{name}": p for name, p in probabilities.items()}
        for name in dict.fromkeys(one.distribution for one in groups):
            rates = [one.pass_rate for one in groups if one.distribution == name]
            row[f"curriculum/pass_rate/{name}"] = sum(filter(None, rates)) / len(rates)
        row |= {"tokens/generated/sum": generated, "tokens/total/sum": self.total}
        row |= {"parity/tokens/sum": generated // 2, "grad/norm": 0.5, "entropy/policy/mean": 0.3}
        row |= {"mismatch/abs/mean": 1e-6, "mismatch/k3/mean": 1e-9, "kl/ref_k3/mean": 0.01 * done}
        row |= {"clip/low/mean": 0.01, "clip/high/mean": 0.02, "loss/policy/mean": 0.0}
        row |= {"time/rollout/s": seconds, "time/update/s": 0.1, "time/step/s": seconds + 0.12}
        if (step - self.made.warm) % self.made.evaluate == 0:
            row |= self._evaluation(done)
        self.directory.append(METRICS, [row])
        samples = {
            (g.group_id, one.sample): (one.reward - 0.5, 0.0) for g in groups for one in g.samples
        }
        log: RolloutLog = self.recipe.run.rollouts
        write_rollouts(self.directory, step, groups, rollouts, samples, log, self.made.seed)

    def _evaluation(self, done: float) -> dict[str, float]:
        rates = {name: round(self._rate(k, done), 3) for k, name in enumerate(self.names)}
        row = {f"eval/accuracy/{name}": rate for name, rate in rates.items()}
        return {**row, "eval/accuracy/mean": sum(rates.values()) / len(rates)}
