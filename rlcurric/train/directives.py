"""The frozen messages with which rank 0 leads. Every rank obeys every one of them, in the same order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rlcurric.schedules import Progress
from rlcurric.types import GroupId, Prompt, Request


@dataclass(frozen=True, slots=True)
class Generate:
    """Sample and grade these groups; each rank takes its share and answers with its deliveries."""

    requests: tuple[Request, ...]
    weights: Mapping[str, float]  # reward component -> weight at this step
    args: Mapping[str, Mapping[str, Any]]  # reward component -> arguments at this step
    progress: Progress = field(default_factory=lambda: Progress(0, 0))


@dataclass(frozen=True, slots=True)
class Predict:
    """Each rank answers with the pass rates that the value model expects of its share of these prompts."""

    prompts: tuple[Prompt, ...]


@dataclass(frozen=True, slots=True)
class FitValue:
    """Train the value model, on every rank alike; answer with its metrics."""

    examples: tuple[tuple[Prompt, float, float], ...]  # prompt, pass rate, weight of the evidence


@dataclass(frozen=True, slots=True)
class TrainSample:
    """One rollout of the final batch, by name, with the advantage it is trained with."""

    group_id: GroupId
    sample: int
    advantage: float
    mode_advantage: float = 0.0  # on the token that names the mode


@dataclass(frozen=True, slots=True)
class Minibatch:
    """What one optimizer step trains on."""

    samples: tuple[TrainSample, ...]
    demonstrations: tuple[GroupId, ...] = ()  # groups that give a demonstration, not rollouts


@dataclass(frozen=True, slots=True)
class ScoreKl:
    """Answer with the sum of log pi - log pi_ref over each of these rollouts."""

    samples: tuple[TrainSample, ...]
    version: int
    progress: Progress


@dataclass(frozen=True, slots=True)
class Update:
    """Train on the batch: one window of counts and one optimizer step for each minibatch."""

    minibatches: tuple[Minibatch, ...]
    learning_rates: tuple[float, ...]  # for each minibatch
    version: int  # policy version of the weights before the update
    carried: tuple[GroupId, ...]  # admitted groups that wait for a later step
    progress: Progress
    token_fraction: float


@dataclass(frozen=True, slots=True)
class Sync:
    """Give the engine the learner's weights as this policy version."""

    version: int


@dataclass(frozen=True, slots=True)
class RestartEngine:
    """Close the engine and make it anew, on every rank; it has no weights until the next sync."""


@dataclass(frozen=True, slots=True)
class Lost:
    """A rank's answer to a directive under which its engine died."""

    rank: int
    reason: str


@dataclass(frozen=True, slots=True)
class Probe:
    """Sample a few completions and compare the log-probs of engine and learner."""

    prompts: tuple[Prompt, ...]
    version: int
    progress: Progress


@dataclass(frozen=True, slots=True)
class Fetch:
    """Answer with the rollouts of these groups, tokens included (for logs and for carried groups)."""

    group_ids: tuple[GroupId, ...]


@dataclass(frozen=True, slots=True)
class Forget:
    """Drop the tokens of every group but these."""

    keep: tuple[GroupId, ...]


@dataclass(frozen=True, slots=True)
class Evaluate:
    """Complete and judge the held-out prompts of the stage, as it samples and prompts at this point of the run."""

    progress: Progress


@dataclass(frozen=True, slots=True)
class Save:
    """Begin a checkpoint of this state; answer what was copied for it."""

    state: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Settle:
    """Answer what became of the checkpoint in flight: nothing while it is being written, unless told to wait."""

    wait: bool


Directive = (
    Generate
    | Predict
    | FitValue
    | ScoreKl
    | Update
    | Sync
    | RestartEngine
    | Probe
    | Fetch
    | Forget
    | Evaluate
    | Save
    | Settle
)
