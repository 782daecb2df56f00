"""The entropy bonus: L <- L - coef * mean entropy of the window's trained tokens; coef fixed, scheduled or adaptive."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from rlcurric.schedules import Schedule


@dataclass(frozen=True)
class AdaptiveEntropy:
    """The controller of Skywork-OR1 (2505.22312, section 4.3): the bonus is on only while entropy is at or below target.

    The defaults are TRL's; the Skywork scripts have delta 1e-4 and high 5e-3 (`adaptive: skywork`).
    """

    target: float = 0.2  # nats
    delta: float = 0.005  # change of the coefficient an update
    low: float = 0.0
    high: float = 1.0
    initial: float = 0.0

    def __post_init__(self) -> None:
        if self.target <= 0 or self.delta <= 0 or not 0 <= self.low <= self.initial <= self.high:
            raise ValueError(
                "entropy.adaptive needs target > 0, delta > 0 and 0 <= low <= initial <= high, got "
                f"target {self.target}, delta {self.delta}, low {self.low}, initial {self.initial}, high {self.high}"
            )


ADAPTIVE = {"trl": AdaptiveEntropy(), "skywork": AdaptiveEntropy(delta=1e-4, high=5e-3)}


@dataclass(frozen=True)
class Entropy:
    """The bonus: none while `coef` is 0 and `adaptive` is not given."""

    coef: float | Schedule = 0.0
    adaptive: AdaptiveEntropy | None = None

    def __post_init__(self) -> None:
        if self.adaptive is not None and self.coef != 0.0:
            raise ValueError("entropy takes coef or adaptive, not both")

    @property
    def on(self) -> bool:
        return self.adaptive is not None or isinstance(self.coef, Schedule) or self.coef != 0


class EntropyController:
    """The coefficient of every update, from the entropies of those before it. Equal on all ranks."""

    def __init__(self, entropy: Entropy) -> None:
        self._entropy = entropy
        self._coef = entropy.adaptive.initial if entropy.adaptive else 0.0
        self._last = math.inf  # mean entropy of the last window; at first the bonus is off

    def coef(self, scheduled: float) -> float:
        """What this window's bonus is multiplied with; `scheduled` where the bonus is not adaptive."""
        adaptive = self._entropy.adaptive
        if adaptive is None:
            return scheduled
        return self._coef if self._last <= adaptive.target else 0.0

    def observe(self, mean_entropy: float) -> None:
        """The mean entropy of the window that was trained: takes effect with the next one."""
        adaptive = self._entropy.adaptive
        if adaptive is None:
            return
        up = mean_entropy <= adaptive.target
        moved = self._coef + (adaptive.delta if up else -adaptive.delta)
        self._coef = min(max(moved, adaptive.low), adaptive.high)
        self._last = mean_entropy

    def state_dict(self) -> dict[str, Any]:
        last = None if math.isinf(self._last) else self._last
        return {"coef": self._coef, "last": last}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._coef = state["coef"]
        self._last = math.inf if state["last"] is None else state["last"]
