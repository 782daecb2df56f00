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
    learning_rate: PositiveFloat = (
        1e-3  # of the head's layers at 128 inputs; a layer with n inputs gets 128 / n of it
    )
    body_learning_rate: PositiveFloat = 1e-6  # of a second model; one of 1 M parameters wants 1e-4
    passes: PositiveInt | None = (
        None  # updates a fit, each on all its prompts; null: 8, or 1 (the paper) for a second model
    )
    window: PositiveInt | None = (
        None  # steps whose prompts a fit goes over, read anew; null: 4, or 1 (the paper) likewise
    )
    hidden: PositiveInt | None = (
        64  # width of a layer in the head; null: a linear head, as in the paper
    )
    tokens_per_microbatch: PositiveInt = 8192  # prompt tokens of one forward pass

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

    starvation_steps: PositiveInt = 50  # in which a distribution was never drawn
    collapse_entropy: Annotated[float, Field(ge=0, le=1)] = (
        0.2  # of the sampling probabilities, 1 for equal ones
    )
    collapse_steps: PositiveInt = 10  # in a row
    pool_share: Annotated[float, Field(ge=0, le=1)] = 0.5  # of the prompts, kept out for good
    stale_steps: PositiveFloat = 100.0  # mean age of what prompts are scored by
    late_share: Annotated[float, Field(ge=0, le=1)] = 0.5  # of a step's groups that came too late
    window: Annotated[int, Field(ge=3)] = 10  # evaluations among which the best is looked for
    drop: Annotated[float, Field(ge=0, le=1)] = 0.05  # of held-out accuracy since the best


class Curriculum(Closed):
    """What to train on next."""

    prompts_per_step: PositiveInt = 8
    group_size: PositiveInt = 8
    sampler: Part = Part(name="uniform")
    scorer: Parts = ()  # of prompts; several: a mix of their ranks, by `share`
    gate: Parts = ()
    pool: Parts = ()  # filters of the prompts that may be asked for
    plan: Part = Part(name="whole")  # how the rollouts of a group are asked for
    selector: Part | None = None  # of the rollouts that are trained
    weight: Parts = ()  # factors on a group's advantages
    normalise_weights: bool = False  # to a mean of 1 over the batch
    value: ValueModel = ValueModel()
    # Statistics that `rlcurric preflight --output` wrote, or `stage:NAME`, an earlier stage of kind screen.
    warm_start: str | None = None
    refill_rounds: NonNegativeInt = (
        3  # extra rounds of rollouts a step for groups that a gate refused
    )
    refill_fallback: Literal["train_smaller", "train_gated"] = "train_smaller"
    oversample: Annotated[float, Field(ge=1.0)] = 1.0
    max_empty_steps: PositiveInt = 5
    max_lag: NonNegativeInt = 4  # policy versions; what comes later teaches the parts nothing
    lag_discount: Annotated[float, Field(ge=0, le=1)] = 0.9  # for each version of a late outcome
    log_candidates: NonNegativeInt = 4096  # candidates a round that decisions.jsonl lists
    guards: Guards = Guards()
    token_fraction: Number = (
        1.0  # share of the tokens to train, for stabilisers that ask (d3s_tokens)
    )
