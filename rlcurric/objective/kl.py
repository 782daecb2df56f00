"""KL to the reference, estimated at the sampled tokens. x = log pi - log pi_ref, within +-20 nats.

| estimator | value           | gradient on log pi          |                                                       |
|-----------|-----------------|-----------------------------|-------------------------------------------------------|
| k1        | x               | 1, without meaning as a loss | in the reward only (RLOO, REINFORCE++)               |
| k2        | x^2 / 2         | x                           | the gradient of reverse KL, on-policy (2510.01555)    |
| k3        | exp(-x) + x - 1 | 1 - exp(-x)                 | GRPO 2402.03300; a first-order approximation          |
| r_k3      | r * k3          | x on-policy                 | unbiased, also off-policy (DeepSeek-V3.2 2512.02556)  |
| k3_k2     | k3              | x                           | k3 to read, k2 to train                               |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from rlcurric.objective.weights import MAX_LOG_RATIO, token_ratio
from rlcurric.schedules import Schedule

Estimator = Literal["k1", "k2", "k3", "r_k3", "k3_k2"]


@dataclass(frozen=True)
class Kl:
    """The penalty: none while `coef` is 0, and then no reference is kept."""

    coef: float | Schedule = 0.0
    estimator: Estimator = "k2"
    placement: Literal["loss", "reward"] = "loss"
    sync_every: int = 0  # steps after which the reference moves to the policy; 0: never
    sync_mix: float = 1.0  # reference <- mix * policy + (1 - mix) * reference (TR-DPO 2404.09656)

    def __post_init__(self) -> None:
        if not isinstance(self.coef, Schedule) and self.coef < 0:
            raise ValueError(f"kl.coef must be at least 0, got {self.coef}")
        if self.placement == "loss" and self.estimator == "k1":
            raise ValueError(
                "kl: k1 as a loss has a gradient of expectation 0. Use estimator k2, k3 or r_k3, or placement: reward"
            )
        if self.placement == "reward" and self.estimator != "k1":
            raise ValueError(
                f"kl: placement reward takes estimator k1 (it is a return, not a loss), got {self.estimator}"
            )
        if self.sync_every < 0 or not 0 < self.sync_mix <= 1:
            raise ValueError(
                f"kl needs sync_every >= 0 and sync_mix in (0, 1], got {self.sync_every} and {self.sync_mix}"
            )
        if self.sync_mix != 1 and not self.sync_every:
            raise ValueError("kl.sync_mix has no effect without kl.sync_every")

    @property
    def on(self) -> bool:
        return isinstance(self.coef, Schedule) or self.coef > 0


def kl_estimate(
    estimator: Estimator,
    logprobs_N: torch.Tensor,
    ref_logprobs_N: torch.Tensor,
    old_logprobs_N: torch.Tensor | None = None,
) -> torch.Tensor:
    """KL per token in nats, with the gradient of the table above; r_k3 needs the old log-probs."""
    assert logprobs_N.ndim == 1 and logprobs_N.shape == ref_logprobs_N.shape
    x_N = (logprobs_N - ref_logprobs_N.detach()).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    if estimator == "k1":
        return x_N
    if estimator == "k2":
        return x_N**2 / 2
    k3_N = (-x_N).exp() + x_N - 1
    if estimator == "k3":
        return k3_N
    if estimator == "k3_k2":
        k2_N = x_N**2 / 2
        return k3_N.detach() + k2_N - k2_N.detach()
    assert estimator == "r_k3" and old_logprobs_N is not None, estimator
    return token_ratio(logprobs_N, old_logprobs_N) * k3_N
