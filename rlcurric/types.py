"""Frozen records that pass between the parts of a run.

A part is a function from one record to the next; nothing here holds a tensor, a config or a rank, and nothing here
is written to after it was made. Token arrays are numpy so that this module, and all that only decides, needs no
torch.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from rlcurric.schedules import Progress

FinishReason = Literal["stop", "length", "abort"]
Disposition = Literal["trained", "gated", "replaced", "probed", "failed", "surplus", "screened"]


class Status(enum.StrEnum):
    """What became of grading one completion. The last two say nothing about difficulty."""

    SCORED = "scored"
    UNPARSEABLE = "unparseable"
    TIMEOUT = "timeout"
    ERROR = "error"

    @property
    def is_failure(self) -> bool:
        """True where the grader failed, so that the sample must not count as a wrong answer."""
        return self in (Status.TIMEOUT, Status.ERROR)


@dataclass(frozen=True, slots=True)
class Score:
    """One reward component's verdict on one completion. `value` None: the component does not apply."""

    value: float | None
    status: Status = Status.SCORED
    detail: str = ""


class GroupId(NamedTuple):
    """Identity of one group of rollouts: `visit` counts the visits to `uid` over the whole run, never reset."""

    stage: str
    uid: int
    visit: int


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt, rendered and tokenised."""

    uid: int  # unsigned 64-bit hash of source and content
    distribution: str  # name of the distribution in the recipe
    prompt_ids: tuple[int, ...]  # token ids, the exact ones the engine is given
    text: str  # the same, as text
    columns: Mapping[
        str, Any
    ]  # the data row: question, answer, and whatever rewards ask for; JSON-like
    prefill: str = ""  # the end of the text, where the completion begins already: rewards see it
    hint: int = 0  # level of the hint that the text shows; 0: none


@dataclass(frozen=True, slots=True)
class Candidate:
    """A prompt that may be asked for next, by its row: not rendered, not tokenised."""

    uid: int
    distribution: str
    index: int  # within the distribution
    columns: Mapping[
        str, Any
    ]  # the data row: difficulty, easiness, seed and variant, where it has them


class PromptPool(Protocol):
    """Training prompts of one stage, addressed by (distribution, index). Curriculum parts see nothing else."""

    @property
    def sizes(self) -> Mapping[str, int]:
        """Number of training prompts for each distribution, in the recipe's order."""
        ...

    def prompt(
        self, distribution: str, index: int, progress: Progress | None = None, hint: int = 0
    ) -> Prompt:
        """One prompt as it reads at this point of the run (None: at the stage's start), with a hint of this level."""
        ...

    def candidate(self, distribution: str, index: int) -> Candidate:
        """The same prompt's row: cheap, whatever the size of the pool."""
        ...


@dataclass(frozen=True, slots=True)
class Request:
    """What the controller asks an engine for: rollouts `samples` of one group."""

    group_id: GroupId
    prompt: Prompt
    samples: tuple[int, ...]  # sample numbers within the group, e.g. (0, ..., G-1)
    seed_key: int  # hash of (run seed, group_id); a sample's seed is `seeds.sample_seed(seed_key, sample)`
    phase: int = 0  # 0: first request for this group; more: continuation


@dataclass(frozen=True, slots=True)
class Rollout:
    """One completion as the engine sampled it. Arrays have the length of the completion, T."""

    group_id: GroupId
    sample: int
    completion_ids_T: np.ndarray  # int64, with the end-of-sequence token if it was sampled
    rollout_logprobs_T: np.ndarray  # float32, log-probs of the sampled tokens at the sampling temperature, in nats; NaN for a forced mode's tokens
    policy_version_T: np.ndarray  # int64, version of the weights that gave each token
    finish_reason: FinishReason
    text: str = ""  # decoded, special tokens kept except end-of-sequence and padding
    loss_mask_T: np.ndarray | None = None  # bool; None: every token is trained
    temperature: float | None = None  # it was sampled at; None: the step's
    mode: str = ""  # name of the mode that was forced on it; empty: none

    @property
    def length(self) -> int:
        """Tokens, end-of-sequence included."""
        return len(self.completion_ids_T)

    @property
    def truncated(self) -> bool:
        return self.finish_reason != "stop"

    @property
    def n_forced(self) -> int:
        """Tokens at the beginning that were given, not sampled: those of a forced mode."""
        sampled = np.flatnonzero(~np.isnan(self.rollout_logprobs_T))
        return int(sampled[0]) if len(sampled) else 0


@dataclass(frozen=True, slots=True)
class SampleOutcome:
    """The scalars of one scored rollout: all that rank 0, the curriculum and the logs need of it."""

    sample: int
    reward: float  # weighted sum of the components that apply; 0.0 where status is a failure
    correct: float | None  # verified correctness in [0, 1], unshaped; None where unknown
    status: Status
    length: int  # tokens
    truncated: bool
    policy_version: int  # lowest version over the tokens
    breakdown: Mapping[str, float | None] = field(
        default_factory=dict
    )  # component -> unweighted value
    detail: str = ""  # first failure's message
    notes: Mapping[str, float | int | str | bool | None] = field(
        default_factory=dict
    )  # what rewards log of this sample beside its score


def judged(samples: Iterable[SampleOutcome]) -> tuple[SampleOutcome, ...]:
    """The samples that a grader could judge."""
    return tuple(one for one in samples if not one.status.is_failure)


@dataclass(frozen=True, slots=True)
class Delivery:
    """Scored rollouts of one group, by their scalars; the tokens stay with the rank that sampled them."""

    group_id: GroupId
    distribution: str
    samples: tuple[SampleOutcome, ...]
    earlier: tuple[SampleOutcome, ...] = ()  # new verdicts on samples of an earlier phase


@dataclass(frozen=True, slots=True)
class GroupOutcome:
    """How one group ended: what samplers, scorers and statistics learn from. Failed samples are left out."""

    group_id: GroupId
    distribution: str
    step: int
    rewards: tuple[float, ...]  # shaped rewards of the scored samples
    correct: tuple[float, ...]  # verified correctness, of those samples where it is known
    lengths: tuple[int, ...]  # tokens of the same samples
    n_failed: int  # samples that no grader could judge
    policy_version: int  # lowest over the samples
    disposition: Disposition
    weight: float = 1.0  # of the evidence: below 1 for a late outcome, 0 for one that came too late or showed a hint
    expected: float | None = None  # pass rate that the scorer expected when it chose the prompt
    hint: int = 0  # level of the hint that its prompt showed; such a group has weight 0

    @classmethod
    def of(
        cls,
        group_id: GroupId,
        distribution: str,
        samples: Sequence[SampleOutcome],
        *,
        step: int,
        policy_version: int,
        disposition: Disposition,
        weight: float = 1.0,
        expected: float | None = None,
        hint: int = 0,
    ) -> GroupOutcome:
        """What the samples of a group say: failed ones are counted, and nothing else."""
        known = judged(samples)
        return cls(
            group_id=group_id,
            distribution=distribution,
            step=step,
            rewards=tuple(one.reward for one in known),
            correct=tuple(one.correct for one in known if one.correct is not None),
            lengths=tuple(one.length for one in known),
            n_failed=len(samples) - len(known),
            policy_version=policy_version,
            disposition=disposition,
            weight=weight,
            expected=expected,
            hint=hint,
        )

    @property
    def is_late(self) -> bool:
        """Whether it came too late to teach anything."""
        return self.weight == 0 and not self.hint

    @property
    def pass_rate(self) -> float | None:
        """Mean verified correctness; None if no sample was judged."""
        return sum(self.correct) / len(self.correct) if self.correct else None


@dataclass(frozen=True, slots=True)
class AdmittedGroup:
    """One group of the final batch of a step."""

    group_id: GroupId
    prompt: Prompt
    samples: tuple[SampleOutcome, ...]  # failures removed
    weight: float = 1.0  # factor on the advantages of this group
    copies: int = 1  # times that it stands in the batch (Polaris replaces refused groups by copies)

    @property
    def distribution(self) -> str:
        return self.prompt.distribution

    def keeping(self, places: Sequence[int]) -> AdmittedGroup:
        """The group with the samples at these places alone."""
        return replace(self, samples=tuple(self.samples[place] for place in places))

    @property
    def pass_rate(self) -> float | None:
        """Mean verified correctness; None where it is unknown of every sample."""
        known = [sample.correct for sample in self.samples if sample.correct is not None]
        return sum(known) / len(known) if known else None


@dataclass(frozen=True, slots=True)
class Batch:
    """The complete, admitted groups that one step trains on, in group_id order."""

    step: int
    groups: tuple[AdmittedGroup, ...]
