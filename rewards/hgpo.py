"""HGPO's scores: the better mode of a prompt, and the best completion of a mode (LHRM, 2505.14631)."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any, Literal

import rlcurric
from rlcurric.rewards.modes import modes_of
from rlcurric.rewards.spans import check_tags

Scores = Literal["correct", "reward"]
_SLACK = 1e-9  # a difference of means that is no more than rounding


def _check(think_tag: str, no_think_tag: str, **others: Any) -> None:
    check_tags("hgpo", think_tag, no_think_tag)


@rlcurric.reward("hgpo_inter", scope="group", where="inline", validate=_check)
def hgpo_inter(
    prompts: list[str],
    completions: list[str],
    correct: Sequence[float | None] = (),
    rewards: Sequence[float] = (),
    delta: float = 0.2,
    scores: Scores = "correct",
    think_tag: str = "think",
    no_think_tag: str = "no_think",
    forced_mode: Sequence[str] = (),
    **columns: Any,
) -> list[float | None]:
    """1 for every completion of the better mode of its group, else 0 (LHRM, 2505.14631).

    Thinking is better if its mean score exceeds the other's by more than `delta`; a draw goes to not thinking. 0 for
    all where only one mode is there. `scores: reward` compares what the components before this one sum to: a reward
    model's score where there is no answer to check.
    """
    raw, thinks = _known(
        completions, correct, rewards, scores, think_tag, no_think_tag, forced_mode
    )
    thinking_scores, other_scores = (
        [value for value, own in zip(raw, thinks, strict=True) if value is not None and own is side]
        for side in (True, False)
    )
    if not thinking_scores or not other_scores:
        return [None if value is None else 0.0 for value in raw]
    lead = statistics.fmean(thinking_scores) - statistics.fmean(other_scores)
    better = lead - delta > _SLACK
    return [
        None if value is None else float(thinking is better)
        for value, thinking in zip(raw, thinks, strict=True)
    ]


@rlcurric.reward("hgpo_intra", scope="group", where="inline", validate=_check)
def hgpo_intra(
    prompts: list[str],
    completions: list[str],
    correct: Sequence[float | None] = (),
    rewards: Sequence[float] = (),
    scores: Scores = "correct",
    think_tag: str = "think",
    no_think_tag: str = "no_think",
    forced_mode: Sequence[str] = (),
    **columns: Any,
) -> list[float | None]:
    """1 for the best completion of its mode in the group, else 0 (LHRM, 2505.14631).

    Several that share the best score are all best, so that none is favoured by its place; where a whole mode scores
    the same there is no best one. `scores` as for `hgpo_inter`.
    """
    raw, thinks = _known(
        completions, correct, rewards, scores, think_tag, no_think_tag, forced_mode
    )
    best: dict[bool, float] = {}
    worst: dict[bool, float] = {}
    for value, thinking in zip(raw, thinks, strict=True):
        if value is not None:
            best[thinking] = max(value, best.get(thinking, value))
            worst[thinking] = min(value, worst.get(thinking, value))
    return [
        None if value is None else float(value == best[thinking] > worst[thinking])
        for value, thinking in zip(raw, thinks, strict=True)
    ]


def _known(
    completions: Sequence[str],
    correct: Sequence[float | None],
    rewards: Sequence[float],
    scores: Scores,
    think_tag: str,
    no_think_tag: str,
    forced: Sequence[str],
) -> tuple[list[float | None], list[bool]]:
    """Raw scores, None for what no grader could judge, and which completions think."""
    _check(think_tag, no_think_tag)
    modes = modes_of(completions, forced, think_tag, no_think_tag)
    thinks = [mode == "think" for mode in modes]
    if scores == "correct":
        return list(correct), thinks
    return [
        None if verdict is None else float(value)
        for value, verdict in zip(rewards, correct, strict=True)
    ], thinks
