"""How many samples graders may fail for before a run stops."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from typing import Any

from rlcurric.errors import RunError
from rlcurric.types import Delivery


class RewardFailureError(RunError):
    """Graders failed for more samples than the recipe allows."""


class FailureBudget:
    """Stops a run whose graders fail too often, with the causes. Failures are never difficulty, so they must be few."""

    def __init__(self, max_fraction: float, window: int) -> None:
        self._max_fraction, self._window = max_fraction, window
        self._recent: deque[str] = deque(
            maxlen=window
        )  # "" for a judged sample, else what went wrong

    def configure(self, max_fraction: float, window: int) -> None:
        """The limits of another stage; what was seen stays."""
        self._max_fraction, self._window = max_fraction, window
        self._recent = deque(self._recent, maxlen=window)

    def observe(self, deliveries: Iterable[Delivery]) -> None:
        """Count; RewardFailureError when more than `max_fraction` of the last `window` samples failed."""
        for delivery in sorted(deliveries, key=lambda delivery: delivery.group_id):
            for sample in delivery.samples:
                self._recent.append(
                    f"{sample.status}: {sample.detail}" if sample.status.is_failure else ""
                )
        causes = Counter(cause for cause in self._recent if cause)
        failed = sum(causes.values())
        if failed > self._max_fraction * self._window:
            listed = "\n".join(f"  {count} x {cause}" for cause, count in causes.most_common(5))
            raise RewardFailureError(
                f"graders failed for {failed} of the last {len(self._recent)} samples; grading.max_failures allows "
                f"{self._max_fraction:g} of {self._window}. The causes:\n{listed}"
            )

    def state_dict(self) -> dict[str, Any]:
        return {"recent": list(self._recent)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._recent.clear()
        self._recent.extend(state["recent"])
