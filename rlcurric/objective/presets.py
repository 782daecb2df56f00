"""Objectives by name, each a declaration. A recipe may change any piece beside the name (see `Objective`)."""

from __future__ import annotations

from rlcurric.objective import advantages, aggregation, credit, stabilisers, surrogates, weights
from rlcurric.objective.advantages import Normalise
from rlcurric.objective.declaration import Demonstrations, Objective
from rlcurric.objective.kl import Kl
from rlcurric.objective.pieces import Piece
from rlcurric.registry import register
from rlcurric.schedules import Schedule

GROUP = advantages.group_advantages
CENTRED = Piece(GROUP, {"normalise": "none"})
PER_ROW = Piece(stabilisers.truncated_importance, {"level": "geometric"})


def clipped(low: float, high: float, **more: float) -> Piece:
    """The clip at these bounds."""
    return Piece(surrogates.clip, {"low": low, "high": high, **more})


@register("objective", "pieces")
def pieces() -> Objective:
    """The defaults of every piece: for recipes that spell them out."""
    return Objective()


@register("objective", "grpo")
def grpo(
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    normalise: Normalise = "group",
    ddof: int = 1,
    eps: float = 1e-4,
) -> Objective:
    """GRPO (2402.03300): advantages by group, mean over a row's tokens, then over rows."""
    return Objective(
        advantage=Piece(GROUP, {"normalise": normalise, "ddof": ddof, "eps": eps}),
        surrogate=clipped(clip_low, clip_high),
    )


@register("objective", "bnpo")
def bnpo(clip_low: float = 0.2, clip_high: float = 0.2) -> Objective:
    """TRL's bnpo, for parity with it: the mean over a micro-batch's tokens, one micro-batch a window."""
    return Objective(
        surrogate=clipped(clip_low, clip_high),
        aggregation=Piece(aggregation.over_micro_batch),
    )


@register("objective", "dr_grpo")
def dr_grpo(clip_low: float = 0.2, clip_high: float = 0.2) -> Objective:
    """Dr. GRPO (2503.20783): no division by the std, a constant in place of the row's length."""
    return Objective(
        advantage=CENTRED,
        surrogate=clipped(clip_low, clip_high),
        aggregation=Piece(aggregation.over_constant),
    )


@register("objective", "dapo")
def dapo(
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    normalise: Normalise = "group",
    ddof: int = 1,
    eps: float = 1e-4,
) -> Objective:
    """DAPO (2503.14476): clip-higher and the mean over all tokens of the window. Its gate is `zero_variance`."""
    return Objective(
        advantage=Piece(GROUP, {"normalise": normalise, "ddof": ddof, "eps": eps}),
        surrogate=clipped(clip_low, clip_high),
        aggregation=Piece(aggregation.over_tokens),
    )


@register("objective", "rloo")
def rloo(
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    kl_coef: float = 0.0,
    normalise: bool = False,
) -> Objective:
    """RLOO (2402.14740): leave-one-out baseline, the row's product of ratios, KL in the reward (k1)."""
    return Objective(
        advantage=Piece(advantages.leave_one_out, {"normalise": normalise}),
        weight=Piece(weights.sequence_product_ratio),
        surrogate=clipped(clip_low, clip_high),
        stabilisers=(PER_ROW,),
        kl=Kl(kl_coef, "k1", "reward"),
    )


@register("objective", "reinforce_pp")
def reinforce_pp(
    clip_low: float = 0.2, clip_high: float = 0.2, kl_coef: float = 0.0, gamma: float = 1.0
) -> Objective:
    """REINFORCE++ (2501.03262): rewards and KL penalties as returns, whitened over the batch; the group is no baseline."""
    return Objective(
        advantage=Piece(advantages.reward_itself),
        credit=Piece(credit.whitened_returns, {"gamma": gamma}),
        surrogate=clipped(clip_low, clip_high),
        aggregation=Piece(aggregation.over_tokens),
        kl=Kl(kl_coef, "k1", "reward"),
    )


@register("objective", "reinforce_pp_baseline")
def reinforce_pp_baseline(
    clip_low: float = 0.2, clip_high: float = 0.2, kl_coef: float = 0.0
) -> Objective:
    """REINFORCE++-baseline (2501.03262): rewards less the group's mean, whitened over the batch; KL as loss (k2)."""
    return Objective(
        advantage=CENTRED,
        credit=Piece(credit.whitened_returns),
        surrogate=clipped(clip_low, clip_high),
        aggregation=Piece(aggregation.over_tokens),
        kl=Kl(kl_coef, "k2"),
    )


@register("objective", "gspo")
def gspo(clip_low: float = 3e-4, clip_high: float = 4e-4) -> Objective:
    """GSPO (2507.18071): the row's geometric mean of ratios, clipped three orders tighter than tokens' ratios."""
    return Objective(
        weight=Piece(weights.sequence_ratio),
        surrogate=clipped(clip_low, clip_high),
        stabilisers=(PER_ROW,),
    )


@register("objective", "gspo_token")
def gspo_token(clip_low: float = 3e-4, clip_high: float = 4e-4) -> Objective:
    """GSPO-token (2507.18071): the same value, each token's own gradient, so that advantages may differ by token."""
    return Objective(
        weight=Piece(weights.sequence_token_ratio),
        surrogate=clipped(clip_low, clip_high),
        stabilisers=(PER_ROW,),
    )


@register("objective", "cispo")
def cispo(cap_high: float = 5.0, normalise: Normalise = "batch") -> Objective:
    """CISPO (2506.13585) as in ScaleRL (2510.13786): capped weights on log-probs, mean over the window's tokens."""
    return Objective(
        advantage=Piece(GROUP, {"normalise": normalise}),
        surrogate=Piece(surrogates.cispo, {"cap_high": cap_high}),
        aggregation=Piece(aggregation.over_tokens),
    )


@register("objective", "sapo")
def sapo(temperature_positive: float = 1.0, temperature_negative: float = 1.05) -> Objective:
    """SAPO (2511.20347): a soft gate in place of the clip."""
    temperatures = {
        "temperature_positive": temperature_positive,
        "temperature_negative": temperature_negative,
    }
    return Objective(surrogate=Piece(surrogates.sapo, temperatures))


@register("objective", "luspo")
def luspo(clip_low: float = 2e-3, clip_high: float = 2.5e-3) -> Objective:
    """LUSPO (2602.05261): GSPO's surrogate times the row's length."""
    return Objective(
        weight=Piece(weights.sequence_ratio),
        surrogate=clipped(clip_low, clip_high),
        stabilisers=(PER_ROW,),
        aggregation=Piece(aggregation.over_row_sums),
    )


@register("objective", "gmpo")
def gmpo(bound: float = 0.4) -> Objective:
    """GMPO (2507.20673): the geometric mean of one-sidedly clipped ratios."""
    return Objective(surrogate=Piece(surrogates.gmpo, {"bound": bound}), stabilisers=(PER_ROW,))


@register("objective", "vespo")
def vespo(mismatch_high: float | None = 3.0) -> Objective:
    """VESPO (2602.10693): a smooth kernel of the row's product of ratios, the engine's mismatch part of it."""
    return Objective(
        surrogate=Piece(surrogates.vespo, {"mismatch_high": mismatch_high}),
        stabilisers=(),
        aggregation=Piece(aggregation.over_tokens),
    )


@register("objective", "two_sided")
def two_sided(
    clip_low: float = 0.2, clip_high: float = 0.2, delta: float = 4.0, kl_coef: float = 0.001
) -> Objective:
    """INTELLECT-2 (2505.07291): GRPO by tokens with ratios bounded by delta where the advantage is negative too."""
    return Objective(
        surrogate=clipped(clip_low, clip_high, delta=delta),
        aggregation=Piece(aggregation.over_tokens),
        kl=Kl(kl_coef, "k3"),
    )


@register("objective", "dual_clip")
def dual_clip(clip_low: float = 0.2, clip_high: float = 0.2, dual: float = 3.0) -> Objective:
    """Dual-clip PPO (1912.09729) on GRPO's advantages: the loss of a negative advantage is at most dual * |A|."""
    return Objective(surrogate=clipped(clip_low, clip_high, dual=dual))


@register("objective", "hpt")
def hpt(gate: float | Schedule = 0.0, coef: float | Schedule = 1.0) -> Objective:
    """HPT (2509.04419): centred rewards without a clip, and demonstrations for questions solved too rarely."""
    return Objective(
        advantage=CENTRED,
        surrogate=Piece(surrogates.linear),
        aggregation=Piece(aggregation.over_tokens),
        demonstrations=Demonstrations(gate, coef),
    )


@register("objective", "hgpo")
def hgpo(
    alpha: float = 1.0, clip_low: float = 0.5, clip_high: float = 0.5, kl_coef: float = 0.001
) -> Objective:
    """HGPO (LHRM 2505.14631): advantages within a mode, and between modes for the token that names it."""
    return Objective(
        advantage=Piece(advantages.hgpo, {"alpha": alpha}),
        credit=Piece(credit.mode_token),
        surrogate=clipped(clip_low, clip_high),
        kl=Kl(kl_coef, "k3"),
    )
