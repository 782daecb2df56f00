"""Agreement of trainer and engine on the log-probs of the tokens that were sampled."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class ParityLimits:
    """Largest differences allowed, in nats; None: not checked."""

    max_abs: float | None
    mean_abs: float | None

    @classmethod
    def of(
        cls, dtype: str, max_abs: float | None = None, mean_abs: float | None = None
    ) -> ParityLimits:
        """The limits asked for, and by dtype those that are not: at most 1e-3 and 1e-5 on average in float32; 0.05 on average in bfloat16.

        In float32 healthy runs differ by 3e-7 on average and by up to 9e-5 on the worst of 600,000 tokens, so the limit
        on the maximum leaves a factor of ten; a real fault moves the mean as well. In bfloat16 single tokens of low
        probability differ by whole nats, and the maximum says nothing.
        """
        usual = cls(1e-3, 1e-5) if dtype == "float32" else cls(None, 0.05)
        return cls(
            usual.max_abs if max_abs is None else max_abs,
            usual.mean_abs if mean_abs is None else mean_abs,
        )


@dataclass(frozen=True, slots=True)
class ParityStats:
    """Differences trainer minus engine over `n` tokens."""

    n: int = 0
    max_abs: float = 0.0
    sum_abs: float = 0.0
    sum_k3: float = (
        0.0  # of exp(d) - d - 1, an estimate of KL(engine || trainer) (J. Schulman, 2020)
    )

    def add(self, trainer_N: np.ndarray, engine_N: np.ndarray) -> ParityStats:
        """These statistics and those of more tokens. NaN anywhere makes `max_abs` NaN."""
        assert trainer_N.shape == engine_N.shape, (trainer_N.shape, engine_N.shape)
        if not len(trainer_N):
            return self
        difference_N = trainer_N.astype(np.float64) - engine_N.astype(np.float64)
        k3_N = np.exp(np.clip(difference_N, -20, 20)) - difference_N - 1
        return ParityStats(
            self.n + len(difference_N),
            float(np.maximum(self.max_abs, np.abs(difference_N).max())),
            self.sum_abs + float(np.abs(difference_N).sum()),
            self.sum_k3 + float(k3_N.sum()),
        )

    @classmethod
    def merge(cls, parts: Iterable[ParityStats]) -> ParityStats:
        """Statistics over the tokens of all ranks."""
        parts = list(parts)
        return cls(
            sum(part.n for part in parts),
            float(np.max([part.max_abs for part in parts], initial=0.0)),
            sum(part.sum_abs for part in parts),
            sum(part.sum_k3 for part in parts),
        )

    @property
    def mean_abs(self) -> float:
        return self.sum_abs / max(1, self.n)

    def metrics(self) -> dict[str, float]:
        """`parity/logprob/...` in nats; nothing where no token was measured."""
        if not self.n:
            return {}
        return {
            "parity/logprob/max_abs": self.max_abs,
            "parity/logprob/mean_abs": self.mean_abs,
            "parity/logprob/k3": self.sum_k3 / self.n,
            "parity/tokens/sum": self.n,
        }

    def problem(self, limits: ParityLimits) -> str | None:
        """What is wrong, with the numbers and the likely causes; None within the limits."""
        for what, value, limit in (
            ("max", self.max_abs, limits.max_abs),
            ("mean", self.mean_abs, limits.mean_abs),
        ):
            if limit is not None and not value <= limit:
                return (
                    f"trainer and engine disagree on the log-probs of sampled tokens: max |difference| {self.max_abs:.3g} "
                    f"nat, mean {self.mean_abs:.3g}, over {self.n} tokens; the limit on the {what} is {limit:g}. Likely "
                    "causes: weights that did not reach the engine, another dtype or attention kernel, a temperature or "
                    "top-p that differs. The limits are rollout.parity.max_abs and rollout.parity.mean_abs."
                )
        return None
