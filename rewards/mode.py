"""Whether a completion thinks, and what each mode is worth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import rlcurric
from rlcurric.rewards.modes import is_closed, marks_answer, mode_of, modes_of
from rlcurric.rewards.shaping import is_right
from rlcurric.rewards.spans import check_tags


def _check(think_tag: str, no_think_tag: str, **others: Any) -> None:
    check_tags("mode", think_tag, no_think_tag)


@rlcurric.reward("mode", where="inline", validate=_check)
def mode(
    prompts: list[str],
    completions: list[str],
    think_tag: str = "think",
    no_think_tag: str = "no_think",
    forced_mode: Sequence[str] = (),
    **columns: Any,
) -> list[float]:
    """1 for a completion that thinks, 0 for one that does not: with weight 0 the log's rate of thinking.

    It does not if it closes the think tag at once (AutoThink, 2505.10832) or begins with the no-think tag (LHRM,
    2505.14631). The advantage `hgpo` reads it.
    """
    _check(think_tag, no_think_tag)
    modes = modes_of(completions, forced_mode, think_tag, no_think_tag)
    return [float(mode == "think") for mode in modes]


@rlcurric.reward("mode_table", where="inline", validate=_check)
def mode_table(
    prompts: list[str],
    completions: list[str],
    correct: Sequence[float | None] = (),
    think_right: float = 1.0,
    think_wrong: float = 0.0,
    no_think_right: float = 2.0,
    no_think_wrong: float = -1.0,
    malformed: float = 0.0,
    think_tag: str = "think",
    no_think_tag: str = "no_think",
    **columns: Any,
) -> list[float | None]:
    r"""What an answer is worth by mode and verdict (AutoThink, 2505.10832). The correctness has weight 0.

    `malformed`: there is no closing tag, or a wrong completion marks no answer behind its thought (answer tag,
    `\boxed{`, `####`), in either mode, as in the released code.
    """
    _check(think_tag, no_think_tag)
    tags = (think_tag, no_think_tag)
    table = {
        ("think", True): think_right,
        ("think", False): think_wrong,
        ("no_think", True): no_think_right,
        ("no_think", False): no_think_wrong,
    }
    rewards: list[float | None] = []
    for text, verdict in zip(completions, correct, strict=True):
        right = is_right(verdict)
        if verdict is None:
            rewards.append(None)
        elif not is_closed(text, *tags) or not (right or marks_answer(text, *tags)):
            rewards.append(malformed)
        else:
            rewards.append(table[mode_of(text, *tags), right])
    return rewards
