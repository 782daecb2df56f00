"""An objective as data: which pieces it is made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from rlcurric.objective import advantages, aggregation, credit, stabilisers, surrogates, weights
from rlcurric.objective.entropy import Entropy
from rlcurric.objective.kl import Kl
from rlcurric.objective.pieces import ROW_VALUES, TOKEN_VALUES, Piece
from rlcurric.schedules import Schedule

_GROUP = Piece(advantages.group_advantages)
_BROADCAST = Piece(credit.broadcast)
_TOKEN = Piece(weights.token_ratio)
_CLIP = Piece(surrogates.clip)
_TRUNCATED = Piece(stabilisers.truncated_importance)
_ROWS = Piece(aggregation.over_rows)
_NO_KL, _NO_BONUS = Kl(), Entropy()


@dataclass(frozen=True)
class Demonstrations:
    """HPT (2509.04419): a question that the policy solves too rarely is trained on its demonstration instead.

    A group whose mean correctness is at most `gate` gives no rollouts to the update, but one demonstration, with loss
    coef * mean of -log pi over the window's demonstration tokens.
    """

    gate: float | Schedule = 0.0
    coef: float | Schedule = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.gate, Schedule) and not 0 <= self.gate < 1:
            raise ValueError(f"demonstrations.gate must be in [0, 1), got {self.gate}")
        if not isinstance(self.coef, Schedule) and self.coef < 0:
            raise ValueError(f"demonstrations.coef must be at least 0, got {self.coef}")


@dataclass(frozen=True)
class Objective:
    """What is optimised: five pieces, a penalty, a bonus and auxiliary terms. Defaults are GRPO's."""

    advantage: Piece = _GROUP
    credit: Piece = _BROADCAST  # from the advantage of a rollout to that of its tokens
    weight: Piece = _TOKEN
    surrogate: Piece = _CLIP
    stabilisers: tuple[Piece, ...] = (_TRUNCATED,)
    aggregation: Piece = _ROWS
    kl: Kl = _NO_KL
    entropy: Entropy = _NO_BONUS
    terms: tuple[Piece, ...] = ()
    demonstrations: Demonstrations | None = None
    ntp_coef: float | Schedule = (
        0.0  # next-token loss on the prompts (Reinforcement Mid-Training 2509.24375)
    )
    cluster_by: str = "distribution"  # or a column of the data: what advantages over clusters go by
    train_truncated: bool = (
        True  # False: completions cut at the budget have no loss (DAPO's overlong filtering)
    )

    def __post_init__(self) -> None:
        if not isinstance(self.ntp_coef, Schedule) and self.ntp_coef < 0:
            raise ValueError(f"ntp_coef must be at least 0, got {self.ntp_coef}")

    @property
    def entropy_has_gradient(self) -> bool:
        """Whether the loss differentiates entropies."""
        return self.entropy.on or any("entropy_N" in piece.needs for piece in self.terms)

    @property
    def scores_first(self) -> bool:
        """Whether advantages need log-probs: a KL penalty in the reward that is not charged token by token."""
        return (
            self.kl.on and self.kl.placement == "reward" and "kl_penalty_N" not in self.credit.needs
        )

    @cached_property
    def windowed(self) -> tuple[Piece, ...]:
        """Pieces that need numbers about the whole update window."""
        return tuple(
            piece for piece in (self.surrogate, *self.stabilisers, *self.terms) if piece.window
        )

    @cached_property
    def window_needs(self) -> frozenset[str]:
        """Token values that those numbers are made of."""
        return frozenset().union(*(piece.window_needs for piece in self.windowed))

    def window_numbers(self, values: Mapping[str, Any]) -> dict[int, Mapping[str, float]]:
        """What each of them asks, by its position, from the values of all rollouts of the window on all ranks."""
        return {k: piece.over_window(values) for k, piece in enumerate(self.windowed)}

    @property
    def needs_entropy_first(self) -> bool:
        """Whether a window's entropies must be known before its first gradient."""
        return "entropy_N" in self.window_needs

    @property
    def needs_scores_by_window(self) -> bool:
        """Whether a window must be scored under its own weights before its first gradient."""
        return bool(self.window_needs & {"logprobs_N", "entropy_N"})

    @property
    def needs_scores(self) -> bool:
        """Whether log-probs must be known before the step's first gradient."""
        charged = self.kl.on and self.kl.placement == "reward"
        return self.needs_scores_by_window or charged or "old_logprobs_N" in self.window_needs


_MICRO_BATCH = frozenset(TOKEN_VALUES) - {"losses_N", "mode_advantages_N", "kl_penalty_N"}
_WINDOW = _MICRO_BATCH - {"counts", "weight_N", "ref_logprobs_N"}
_CREDIT = frozenset(
    {"advantages_N", "mode_advantages_N", "kl_penalty_N", "mask_N", "row_N", "rows"}
)


def check(objective: Objective) -> None:
    """ValueError for pieces that need what there is not, or that do not go together."""
    allowed = {
        "advantage": (frozenset(ROW_VALUES), (objective.advantage,)),
        "credit": (_CREDIT, (objective.credit,)),
        "weight": (_MICRO_BATCH - {"weight_N"}, (objective.weight,)),
        "surrogate": (_MICRO_BATCH, (objective.surrogate,)),
        "stabilisers": (_MICRO_BATCH, objective.stabilisers),
        "terms": (_MICRO_BATCH, objective.terms),
        "aggregation": (_MICRO_BATCH | {"losses_N"}, (objective.aggregation,)),
    }
    for place, (values, pieces) in allowed.items():
        for piece in pieces:
            window = values if place == "credit" else _WINDOW
            for wanted, known in ((piece.function_needs, values), (piece.window_needs, window)):
                for name in sorted(wanted - known):
                    raise ValueError(
                        f"{place}: {piece.name} takes {name}, which there is not at its place. There are: "
                        f"{', '.join(sorted(known))}"
                    )
            if "ref_logprobs_N" in piece.needs and not objective.kl.on:
                raise ValueError(
                    f"{place}: {piece.name} takes ref_logprobs_N, and without a KL penalty no reference is kept; set kl.coef"
                )
    corrected = [
        piece.name
        for piece in objective.stabilisers
        if {"old_logprobs_N", "rollout_logprobs_N"} <= piece.needs
    ]
    if objective.surrogate.args.get("mismatch_high") is not None and corrected:
        raise ValueError(
            f"stabilisers: {objective.surrogate.name} has the mismatch of engine and trainer in its kernel, and {corrected[0]} "
            "would correct it again. Leave one of them out (surrogate: mismatch_high: null)"
        )
    if objective.cluster_by != "distribution" and "cluster_B" not in objective.advantage.needs:
        raise ValueError(
            f"cluster_by: the advantage {objective.advantage.name} does not look at clusters; rank_average does"
        )


PARTS: Mapping[str, str] = {
    "advantage": "advantage",
    "credit": "credit",
    "weight": "weight",
    "surrogate": "surrogate",
    "stabilisers": "stabiliser",
    "aggregation": "aggregation",
    "terms": "term",
}  # field of an Objective -> kind of piece that stands there
FIELDS = tuple(Objective.__dataclass_fields__)


def trial(objective: Objective, components: Iterable[str] = ()) -> None:
    """Run the objective once on two made-up rollouts: ValueError for arguments that a piece refuses."""
    import torch

    from rlcurric.objective.loss import TokenValues, policy_loss

    row_N = torch.tensor([0, 0, 1, 1])
    ones_N = torch.ones(4, dtype=torch.float64)
    logprobs_N = (-ones_N).requires_grad_()
    rewards_B = torch.tensor([1.0, 0.0], dtype=torch.float64)
    objective.advantage(
        {
            "rewards_B": rewards_B,
            "correct_B": rewards_B,
            "group_B": torch.zeros(2, dtype=torch.int64),
            "cluster_B": torch.zeros(2, dtype=torch.int64),
            "lengths_B": torch.full((2,), 2),
            "components_B": dict.fromkeys(components, rewards_B),
        }
    )
    counts = aggregation.Counts(tokens=4, rows=2, max_length=4)
    values = TokenValues(
        logprobs_N=logprobs_N,
        old_logprobs_N=-ones_N,
        rollout_logprobs_N=-ones_N,
        ref_logprobs_N=-ones_N,
        entropy_N=ones_N,
        advantages_N=torch.tensor([1.0, 1.0, -1.0, -1.0], dtype=torch.float64),
        mode_advantages_N=0 * ones_N,
        kl_penalty_N=0 * ones_N,
        mask_N=ones_N,
        row_N=row_N,
        rows=2,
    )
    named = values.named(counts, token_fraction=1.0)
    objective.credit(named, objective.credit.over_window(named))
    policy_loss(objective, values, counts, objective.window_numbers(named))
