"""What to train on next, as a recipe says."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from rlcurric.recipe.values import Closed, Number, Part, Parts


class ValueModel(Closed):
    """The model that predicts a prompt's pass rate, for scorers that ask (`pcl`; PCL 2510.01135).

    `backbone` is what reads the prompts. `policy`: the policy itself, adapter included; costs one forward pass over
    prompts. `base`, a folder or a hub id: a second language model with the policy's tokenizer, trained whole (the paper's
    form); costs its weights, gradients and two moments in memory.
    """

    backbone: Annotated[str, Field(min_length=1)] = "policy"
    """What reads the prompts: `policy`, `base`, a folder or a hub id."""
    learning_rate: PositiveFloat = 0.001
    """Of the head's layers at 128 inputs; a layer with n inputs gets 128 / n of it."""
    body_learning_rate: PositiveFloat = 1e-06
    """Of a second model; one of 1 M parameters wants 1e-4."""
    passes: PositiveInt | None = None
    """Updates a fit, each on all its prompts; none: 8, or 1 (the paper) for a second model."""
    window: PositiveInt | None = None
    """Steps whose prompts a fit goes over, read anew; none: 4, or 1 (the paper) for a second model."""
    hidden: PositiveInt | None = 64
    """Width of a layer in the head; none: a linear head, as in the paper."""
    tokens_per_microbatch: PositiveInt = 8192
    """Prompt tokens of one forward pass."""

    @property
    def reads_policy(self) -> bool:
        return self.backbone == "policy"

    @property
    def updates(self) -> int:
        """`passes`, or what stands for it."""
        return self.passes or (8 if self.reads_policy else 1)

    @property
    def steps(self) -> int:
        """`window`, or what stands for it."""
        return self.window or (4 if self.reads_policy else 1)


class Guards(Closed):
    """When the guard-rails warn: `curriculum.guards.GuardSettings`."""

    starvation_steps: PositiveInt = 50
    """Steps with draws in which a distribution was never drawn."""
    collapse_entropy: Annotated[float, Field(ge=0, le=1)] = 0.2
    """Of the sampling probabilities, 1 for equal ones."""
    collapse_steps: PositiveInt = 10
    """Steps in a row below `collapse_entropy`."""
    pool_share: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of the prompts that is kept out for good."""
    stale_steps: PositiveFloat = 100.0
    """Mean age of what prompts are scored by, in steps."""
    late_share: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of a step's groups that came too late to count."""
    window: Annotated[int, Field(ge=3)] = 10
    """Evaluations among which the best is looked for."""
    drop: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Fall of held-out accuracy since the best."""


class Curriculum(Closed):
    """What to train on next."""

    prompts_per_step: PositiveInt = 8
    """Groups a step."""
    group_size: PositiveInt = 8
    """Rollouts a group."""
    sampler: Part = Part(name="uniform")
    """Which distribution a prompt comes from."""
    scorer: Parts = ()
    """Which of the candidate prompts are asked for; several: a mix of their ranks, by `share`."""
    gate: Parts = ()
    """Which groups are worth an update, and which prompts rest; one or several."""
    pool: Parts = ()
    """Filters of the prompts that may be asked for; one or several."""
    plan: Part = Part(name="whole")
    """How the rollouts of a group are asked for."""
    selector: Part | None = None
    """Which rollouts of the batch are trained; default: all."""
    weight: Parts = ()
    """Factors on a group's advantages, one or several."""
    normalise_weights: bool = False
    """Weights are brought to a mean of 1 over the batch."""
    value: ValueModel = ValueModel()
    """The value model, for scorers that ask (`pcl`)."""
    warm_start: str | None = None
    """Statistics that every part observes before the first step: a file that `rlcurric preflight --output` wrote, or `stage:NAME`, an earlier stage of kind screen."""
    refill_rounds: NonNegativeInt = 3
    """Extra rounds of rollouts a step for groups that a gate refused."""
    refill_fallback: Literal["train_smaller", "train_gated"] = "train_smaller"
    """When refill is spent: train a smaller batch, or fill it with refused groups."""
    oversample: Annotated[float, Field(ge=1.0)] = 1.0
    """Groups asked for relative to those missing; surplus is carried to the next step."""
    max_empty_steps: PositiveInt = 5
    """Steps in a row without an admitted group before the run stops."""
    max_lag: NonNegativeInt = 4
    """Policy versions; a group that comes later teaches the parts nothing."""
    lag_discount: Annotated[float, Field(ge=0, le=1)] = 0.9
    """What a late group counts for, each version."""
    log_candidates: NonNegativeInt = 4096
    """Candidates a round that `decisions.jsonl` lists; of more it keeps a hash."""
    guards: Guards = Guards()
    """When the guard-rails warn."""
    token_fraction: Number = 1.0
    """Share of the tokens to train, for stabilisers that ask (`d3s_tokens`); above 0 and at most 1."""
