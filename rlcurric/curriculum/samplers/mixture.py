"""The mixture as the recipe says it."""

from __future__ import annotations

from collections.abc import Mapping

from rlcurric.curriculum.parts import Stateless
from rlcurric.curriculum.samplers.base import shares
from rlcurric.registry import register
from rlcurric.schedules import Progress


@register("sampler", "uniform")
class Uniform(Stateless):
    """The stage's mixture, as it stands: uniform over prompts if shares are sizes. It has no floor."""

    def __init__(self, mixture: Mapping[str, float]) -> None:
        self._probabilities = dict(zip(mixture, shares("uniform", mixture).tolist(), strict=True))

    def probabilities(self, progress: Progress) -> dict[str, float]:
        return dict(self._probabilities)
