"""A bonus for the shortest right answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import rlcurric
from rlcurric.rewards.shaping import is_right


def _check(bonus: float, longer_than: int, **others: Any) -> None:
    if bonus < 0 or longer_than < 0:
        raise ValueError(
            f"shortest_bonus needs bonus >= 0 and longer_than >= 0, got {bonus} and {longer_than}"
        )


@rlcurric.reward("shortest_bonus", scope="group", where="inline", validate=_check)
def shortest_bonus(
    prompts: list[str],
    completions: list[str],
    lengths: Sequence[int] = (),
    correct: Sequence[float | None] = (),
    bonus: float = 0.2,
    longer_than: int = 100,
    **columns: Any,
) -> list[float | None]:
    """Pays `bonus` to the shortest right rollout of a group if it is long enough (Observe-R1, 2505.12432).

    Only if that one has more than `longer_than` tokens, so that answers do not shrink to nothing, and never in a group
    without a right rollout (verified correctness of 1). Of several that are equally short the first is paid.
    """
    _check(bonus, longer_than)
    paid: list[float | None] = [0.0] * len(completions)
    right = [k for k, value in enumerate(correct) if is_right(value)]
    if right:
        shortest = min(right, key=lambda k: lengths[k])
        if lengths[shortest] > longer_than:
            paid[shortest] = bonus
    return paid
