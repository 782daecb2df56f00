"""Keeps both modes alive: the one that is too frequent in the batch is worth less."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import rlcurric
from rlcurric.rewards.modes import mode_of
from rlcurric.rewards.shaping import is_right
from rlcurric.rewards.spans import check_tags


def _check(
    target_think: float, slope: float, think_tag: str, no_think_tag: str, **others: Any
) -> None:
    check_tags("mode_balance", think_tag, no_think_tag)
    if not 0 <= target_think <= 1 or slope < 0:
        raise ValueError(
            f"mode_balance needs target_think between 0 and 1 and slope >= 0, got {target_think} and {slope}"
        )


@rlcurric.reward("mode_balance", scope="batch", where="inline", validate=_check)
def mode_balance(
    prompts: list[str],
    completions: list[str],
    rewards: Sequence[float] = (),
    correct: Sequence[float | None] = (),
    target_think: float = 0.5,
    slope: float = 2.0,
    think_right: float = 0.0,
    think_wrong: float = -1.0,
    no_think_right: float = 1.0,
    no_think_wrong: float = -2.0,
    legacy_symmetric: bool = False,
    think_tag: str = "think",
    no_think_tag: str = "no_think",
    **columns: Any,
) -> list[float | None]:
    """Moves r towards the mode's low value by f: adds f (low - r), weight 1 (AutoThink, 2505.10832, stage 1).

    z is the share of completions that think in the final batch. f = clip(slope (z - target_think), 0, 1) for those,
    clip(slope ((1 - z) - (1 - target_think)), 0, 1) for the others. r is what the components before this one sum to.
    `legacy_symmetric` compares 1 - z with target_think, as the released code does: the same at 1/2 only. Completions
    that no grader could judge are not counted.
    """
    _check(target_think, slope, think_tag, no_think_tag)
    thinks = [mode_of(text, think_tag, no_think_tag) == "think" for text in completions]
    judged = [
        thinking for thinking, verdict in zip(thinks, correct, strict=True) if verdict is not None
    ]
    share = sum(judged) / len(judged) if judged else target_think
    share_allowed = target_think if legacy_symmetric else 1 - target_think
    excess = {
        True: clip(slope * (share - target_think)),
        False: clip(slope * ((1 - share) - share_allowed)),
    }
    low = {
        (True, True): think_right,
        (True, False): think_wrong,
        (False, True): no_think_right,
        (False, False): no_think_wrong,
    }
    return [
        None if verdict is None else excess[thinking] * (low[thinking, is_right(verdict)] - reward)
        for thinking, verdict, reward in zip(thinks, correct, rewards, strict=True)
    ]


def clip(value: float) -> float:
    """Into [0, 1]."""
    return min(1.0, max(0.0, value))
