"""Verified correctness."""

from __future__ import annotations

from typing import Any

import rlcurric
from rlcurric.rewards.extraction import extract_answer, plain_number
from rlcurric.rewards.gym import task_score
from rlcurric.types import Score, Status


@rlcurric.reward("verifier", correctness=True, preload=("math_verify", "reasoning_gym"))
def verifier(
    prompts: list[str],
    completions: list[str],
    answer: list[Any],
    reasoning_gym: list[Any] | None = None,
    numbers: bool = True,
    **columns: Any,
) -> list[Score]:
    """1 for a right answer, 0 for a wrong one or none: the task's own scorer, else numbers, else math-verify.

    The answer is what stands in the last `<answer>` tag, else the last `\\boxed{}`, else after the last `####`, else
    (with `numbers`) the last number. A row of reasoning-gym is scored by its task, whose partial credit is kept.
    """
    entries = reasoning_gym or [None] * len(completions)
    return [
        _judge(completion, gold, entry, numbers)
        for completion, gold, entry in zip(completions, answer, entries, strict=True)
    ]


def _judge(completion: str, gold: Any, entry: Any, numbers: bool) -> Score:
    given = extract_answer(completion, numbers)
    if not given:
        return Score(0.0, Status.UNPARSEABLE, "no answer found")
    return Score(task_score(given, entry) if entry else _by_mathematics(given, str(gold)))


def _by_mathematics(given: str, gold: str) -> float:
    """Equality of plain numbers by their digits; of everything else by math-verify."""
    left, right = plain_number(given), plain_number(gold)
    if left is not None and right is not None:
        return float(left == right)
    if given == gold:
        return 1.0
    from math_verify import parse, verify

    # Its own time-outs use signals and the main thread; the runner's deadline covers both.
    try:
        golds = parse(_as_latex(gold), parsing_timeout=None)
        answers = parse(_as_latex(given), parsing_timeout=None)
        return float(bool(golds) and bool(answers) and verify(golds, answers, timeout_seconds=None))
    except Exception:  # sympy on malformed input
        return 0.0


def _as_latex(text: str) -> str:
    return text if "$" in text or "\\boxed" in text else f"${text}$"
