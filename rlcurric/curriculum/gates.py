"""Which groups are worth an update."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol

from rlcurric.registry import register
from rlcurric.types import GroupOutcome


class Gate(Protocol):
    """Admits or refuses a group whose rollouts are all judged."""

    def admits(self, outcome: GroupOutcome) -> bool: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...

    def metrics(self) -> dict[str, float]: ...


@register("gate", "zero_variance")
class ZeroVariance:
    """Refuses groups whose samples all score the same: their advantages are zero (dynamic sampling, DAPO 2503.14476).

    Args:
        metric: `correct`, verified correctness; `reward`, the shaped reward, under which a length term lets nearly
            every group pass.
    """

    def __init__(self, metric: Literal["correct", "reward"] = "correct") -> None:
        self._metric = metric

    def admits(self, outcome: GroupOutcome) -> bool:
        values = outcome.correct if self._metric == "correct" else outcome.rewards
        return len(set(values)) > 1

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...

    def metrics(self) -> dict[str, float]:
        return {}
