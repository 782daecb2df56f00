"""A sampler that follows given shares, block by block."""

from __future__ import annotations

from collections.abc import Mapping

from rlcurric.curriculum.parts import Stateless
from rlcurric.schedules import Progress


class Allocated(Stateless):
    """`shares`: of each distribution, by block of `steps`."""

    def __init__(self, mixture: Mapping[str, float], shares: list[list[float]], steps: int) -> None:
        self._names, self._shares, self._steps = list(mixture), shares, steps

    def probabilities(self, progress: Progress) -> dict[str, float]:
        block = min(progress.stage_step // self._steps, len(self._shares) - 1)
        return dict(zip(self._names, self._shares[block], strict=True))
