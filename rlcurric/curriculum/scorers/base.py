"""What all scorers take, and how it is checked."""

from __future__ import annotations

from typing import Literal

from rlcurric.curriculum.parts import Pick
from rlcurric.schedules import Progress, Schedule, value_at

Scope = Literal["mixture", "distribution"]


class ScorerBase:
    """How many candidates a scorer sees and how its scores are read; see `Scorer` for what the settings mean."""

    predicts = False

    def __init__(self, name: str, ratio: float, pick: Pick, explore: float, scope: Scope) -> None:
        self.name = name
        require(name, "ratio", "of at least 1", ratio, ratio >= 1)
        require(name, "explore", "in [0, 1]", explore, 0 <= explore <= 1)
        require(name, "pick", "top or sample", pick, pick in ("top", "sample"))
        require(
            name, "scope", "mixture or distribution", scope, scope in ("mixture", "distribution")
        )
        self.ratio, self.explore = float(ratio), float(explore)
        self.pick: Pick = pick
        self.scope: Scope = scope


def require(part: str, setting: str, wanted: str, got: object, holds: bool) -> None:
    """ValueError that names a scorer's setting, unless it holds."""
    if not holds:
        raise ValueError(f"scorer {part} needs {setting} {wanted}, got {got!r}")


def require_rate(part: str, setting: str, number: float | Schedule) -> None:
    """A number in [0, 1], or a schedule, whose values are looked at when they are read."""
    if not isinstance(number, Schedule):
        require(part, setting, "in [0, 1]", number, 0 <= number <= 1)


def rate_at(part: str, setting: str, number: float | Schedule, progress: Progress) -> float:
    """Value of a pass rate, ValueError where a schedule leaves [0, 1]."""
    value = value_at(number, progress)
    require(part, setting, "in [0, 1]", value, 0 <= value <= 1)
    return value
