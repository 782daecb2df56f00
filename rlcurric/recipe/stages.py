"""The kinds of stages."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from rlcurric.recipe.curricula import Curriculum
from rlcurric.recipe.ends import Best, Until
from rlcurric.recipe.prompts import Prompt
from rlcurric.recipe.settings import Evaluation, Grading, Optim, Rollouts
from rlcurric.recipe.values import KEY, Closed, Part, RewardComponent
from rlcurric.registry import nearest


class StageBase(Closed):
    """What every kind of stage has."""

    kind: str
    """What the stage does."""
    name: Annotated[str, Field(pattern=KEY)]
    """Names the stage in commands, events and metrics."""
    init: str = "previous"
    """Weights that it starts from: `previous`, `base`, `stage:NAME[:best|:last]`, or a path."""
    mixture: Annotated[dict[str, PositiveFloat], Field(min_length=1)]
    """Distribution to share; a list of names stands for equal shares."""
    prompt: Prompt = Prompt()
    """How a row becomes a prompt."""
    rollout: Rollouts = Rollouts()
    """How completions are sampled."""
    grading: Grading = Grading()
    """How rewards run."""
    rewards: Annotated[tuple[RewardComponent, ...], Field(min_length=1)] = (
        RewardComponent(name="verifier"),
    )
    """What a rollout's reward is the weighted sum of."""
    correct: str | None = None
    """Component whose unshaped value is verified correctness; default: the first verifier."""

    @property
    def planned_steps(self) -> int | None:
        """Most steps that the stage can have, where steps bound it."""
        return None

    @field_validator("mixture", mode="before")
    @classmethod
    def _accept_names(cls, value: Any) -> Any:
        if isinstance(value, list | tuple | dict) and not value:
            raise ValueError(f"at least one distribution is required, got {value!r}")
        if isinstance(value, dict):
            return value
        names = value if isinstance(value, list | tuple) else [None]
        for name in names:
            if not isinstance(name, str) or names.count(name) > 1:
                raise ValueError(
                    f"a list of names, each once, or a mapping from name to share is required, got {value!r}"
                )
        return dict.fromkeys(value, 1.0)

    @model_validator(mode="after")
    def _distinct_components(self) -> StageBase:
        names = [reward.component for reward in self.rewards]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(
                    f"Two rewards are called {name!r}; name one of them with `as: other_name`"
                )
        if self.correct is not None and self.correct not in names:
            raise ValueError(
                f"correct: unknown reward {self.correct!r}. {nearest(self.correct, names)}"
            )
        return self


class TrainingStage(StageBase):
    """A stage that changes the weights."""

    optim: Optim = Optim()
    """AdamW and the shape of an update."""
    evaluation: Evaluation = Evaluation()
    """What is measured on held-out prompts, and when."""
    until: Until
    """When the stage ends; a bare number is steps."""
    best: Best | None = None
    """Keep the stage's best checkpoint by a held-out metric."""

    @property
    def planned_steps(self) -> int | None:
        return self.until.planned_steps

    @property
    def evaluated_on(self) -> tuple[str, ...]:
        """Distributions whose held-out rows the stage is evaluated on."""
        return self.evaluation.distributions or tuple(self.mixture)

    @model_validator(mode="after")
    def _replay_has_nothing_to_evaluate(self) -> TrainingStage:
        asked = self.evaluation.at_end or self.evaluation.every
        if self.rollout.engine == "replay" and asked:
            raise ValueError(
                "rollout.engine replay has no greedy completions to evaluate; set evaluation.at_end=false and evaluation.every=0"
            )
        return self

    @model_validator(mode="after")
    def _evaluation_fits_the_prompt(self) -> TrainingStage:
        where = f"stages.{self.name}.evaluation"
        if self.evaluation.hybrid and not self.prompt.modes:
            raise ValueError(
                f"{where}.hybrid needs prompt.modes, each mode with its token, e.g. {{think: <think>, no_think: "
                "<no_think>}"
            )
        for name in self.evaluation.vars:
            if name not in self.prompt.vars:
                raise ValueError(
                    f"{where}.vars: unknown variable {name!r}; it stands in place of one of prompt.vars. "
                    f"{nearest(name, self.prompt.vars)}"
                )
        return self

    @model_validator(mode="after")
    def _ends(self) -> TrainingStage:
        if not self.until.is_bounded():
            raise ValueError(
                f"stages.{self.name}.until may never come: add steps, tokens or epochs, e.g. until: {{steps: 1000, "
                "plateau: {...}}"
            )
        return self


class EntropySft(Closed):
    """Cross-entropy over the tokens of an update that teach the most (Entropy-SFT, Light-IF 2508.03178)."""

    name: Literal["entropy_sft"] = "entropy_sft"
    """The loss."""
    ratio: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Share of the tokens that are kept."""
    kappa: NonNegativeFloat = 0.8
    """A token's score is its cross-entropy minus `kappa` times its entropy."""


class SupervisedStage(TrainingStage):
    """A stage on rows that were written before it: TRL's trainers."""

    batch_size: PositiveInt = 32
    """Rows an update, over all ranks."""
    micro_batches: PositiveInt = 1
    """Forward passes an update; rows go into them by length."""

    @model_validator(mode="after")
    def _is_counted(self) -> SupervisedStage:
        if not self.until.is_bounded(("steps", "tokens", "epochs")):
            raise ValueError(
                f"stages.{self.name}.until needs steps, tokens or epochs in a stage of kind {self.kind}: the order of its rows "
                "is made for that many"
            )
        return self

    @model_validator(mode="after")
    def _divisible(self) -> SupervisedStage:
        if self.batch_size % self.micro_batches:
            raise ValueError(
                f"stages.{self.name}.batch_size must be divisible by micro_batches, "
                f"got {self.batch_size} for {self.micro_batches}"
            )
        return self


class SftStage(SupervisedStage):
    """Supervised fine-tuning on the rows' demonstrations."""

    kind: Literal["sft"] = "sft"
    """Supervised fine-tuning on demonstrations."""
    loss: Annotated[
        EntropySft | None,
        BeforeValidator(
            lambda value: {"name": value} if isinstance(value, str) else value,
            json_schema_input_type=EntropySft | Literal["entropy_sft"] | None,
        ),
    ] = None
    """Default: cross-entropy over all tokens of a demonstration."""


class DpoStage(SupervisedStage):
    """Direct preference optimization (2305.18290) on the rows' `chosen` and `rejected` completions."""

    kind: Literal["dpo"] = "dpo"
    """Direct preference optimization."""
    beta: PositiveFloat = 0.1
    """Factor on the difference of log-ratios."""
    length_normalised: bool = False
    """Log-ratios a token (Tulu 3 2411.15124), for which `beta` is 5."""
    nll_coef: NonNegativeFloat = 0.0
    """Times the cross-entropy of the chosen completion (SPECS 2510.25801)."""
    reference: str = "init"
    """What log-ratios are against: `init` (the weights the stage starts from), `base`, or `stage:NAME[:best|:last]`."""


class RejectionStage(StageBase):
    """Rejection sampling: complete the rows with a stage's model, keep by reward, write rows for a later stage.

    A distribution whose source is `{name: stage, stage: NAME}` reads what was written.
    """

    kind: Literal["rejection"] = "rejection"
    """Rejection sampling."""
    prompts: PositiveInt | None = None
    """Prompts of each distribution, at most; default: all."""
    samples: PositiveInt = 8
    """Completions a prompt."""
    keep: PositiveInt = 1
    """Completions kept of a prompt, at most, those of the highest reward."""
    min_reward: float | None = None
    """Keep those with at least this reward; default: only correct ones."""
    shortest: bool = False
    """Of equal rewards the shortest first, in place of the sample's number."""
    write: Literal["demonstrations", "pairs"] = "demonstrations"
    """`demonstrations`: what was kept. `pairs`: kept ones as `chosen`, with something `rejected`."""
    rejected: Literal["worst", "corrupted"] = "worst"
    """`worst`: the worst of the same prompt. `corrupted`: the chosen text with its format broken, a tag left out, doubled or moved (SPECS 2510.25801)."""

    @model_validator(mode="after")
    def _keeps_of_its_samples(self) -> RejectionStage:
        if self.keep > self.samples:
            raise ValueError(
                f"stages.{self.name}.keep must be at most its samples, got {self.keep} of {self.samples}; raise samples"
            )
        return self


class ScreenStage(StageBase):
    """Pass rates of every prompt of the mixture, for warm starts of later stages and to leave prompts out.

    What was measured is cached by model, prompt, sampling and verifier, and taken from there the next time.
    """

    kind: Literal["screen"] = "screen"
    """Measures how often every prompt is solved."""
    samples: PositiveInt = 8
    """Completions a prompt."""
    prompts: PositiveInt | None = None
    """Prompts of each distribution, at most; default: all."""
    cache: str | None = None
    """Folder; default: `$XDG_CACHE_HOME/rlcurric/screened`."""


class RlStage(TrainingStage):
    """Reinforcement learning on prompts that the curriculum chooses."""

    kind: Literal["rl"] = "rl"
    """Reinforcement learning."""
    curriculum: Curriculum = Curriculum()
    """What to train on next."""
    objective: Part = Part(name="grpo")
    """A preset by name, its arguments, and any piece in place of its own."""
    carry: tuple[Literal["optimizer", "statistics", "reference"], ...] = ()
    """What is kept from the RL stage before this one."""
    reference: str = "init"
    """What a KL penalty is against: `init` (the weights the stage starts from), `base`, or `stage:NAME[:best|:last]`."""

    @field_validator("objective", mode="before")
    @classmethod
    def _grpo_unless_named(cls, value: Any) -> Any:
        return {"name": "grpo", **value} if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _one_reference(self) -> RlStage:
        if "reference" in self.carry and self.reference != "init":
            raise ValueError(
                f"stages.{self.name}: carry has the reference of the RL stage before, and reference is {self.reference!r}; "
                "leave one of them out"
            )
        return self

    @model_validator(mode="after")
    def _group_has_baseline(self) -> RlStage:
        if self.curriculum.group_size < 2:
            raise ValueError(
                f"curriculum.group_size must be at least 2 (the group is the baseline), "
                f"got {self.curriculum.group_size}"
            )
        return self

    @model_validator(mode="after")
    def _groups_hold_modes(self) -> RlStage:
        modes, chosen = self.prompt.modes, self.curriculum
        if modes and chosen.group_size % len(modes):
            raise ValueError(
                f"curriculum.group_size must be divisible by the number of prompt.modes, so that every mode has as many samples "
                f"of a group; got {chosen.group_size} for {len(modes)} ({', '.join(modes)})"
            )
        if modes and chosen.plan.name != "whole":
            raise ValueError(
                f"curriculum.plan {chosen.plan.name} judges a prompt by its first samples, and prompt.modes compares the modes of "
                "a whole group; leave one of them out"
            )
        if modes and chosen.selector is not None:
            raise ValueError(
                f"curriculum.selector {chosen.selector.name} would leave a group with unequal modes, which prompt.modes "
                "compares; leave one of them out"
            )
        return self

    @model_validator(mode="after")
    def _hints_can_be_shown(self) -> RlStage:
        hints, chosen = self.prompt.hints, self.curriculum
        if hints is None:
            return self
        if hints.max_share * chosen.prompts_per_step < 1:
            raise ValueError(
                f"prompt.hints.max_share {hints.max_share:g} of curriculum.prompts_per_step {chosen.prompts_per_step} is less than "
                f"one prompt, so that no hint would ever be shown; raise max_share to {1 / chosen.prompts_per_step:.3g} or more"
            )
        if "variants" in [part.name for part in chosen.scorer]:
            raise ValueError(
                "curriculum.scorer variants walks on when a prompt was solved, and what is solved with a hint does not count; "
                "leave prompt.hints or the scorer out"
            )
        return self


Stage = Annotated[
    SftStage | DpoStage | RlStage | RejectionStage | ScreenStage, Field(discriminator="kind")
]


STAGE_KINDS: dict[str, type[StageBase]] = {
    "sft": SftStage,
    "dpo": DpoStage,
    "rl": RlStage,
    "rejection": RejectionStage,
    "screen": ScreenStage,
}
