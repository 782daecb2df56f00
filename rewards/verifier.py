"""Verified correctness."""

from __future__ import annotations

import re
from typing import Any

import rlcurric
from rlcurric.rewards.extraction import extract_answer
from rlcurric.rewards.golds import NO_ANSWER
from rlcurric.rewards.mathematics import grade
from rlcurric.types import Score

# Tasks whose scorers hand the answer to eval or to sympy's parse_expr, which evaluates it. Such an answer could award
# itself the score; one that is more than an expression or a list gets what the task gives to an empty answer.
_EVALUATES = {
    "binary_matrix",
    "countdown",
    "intermediate_integration",
    "n_queens",
    "polynomial_multiplication",
    "puzzle24",
    "simple_integration",
    "spiral_matrix",
    "string_insertion",
}
_FUNCTIONS = re.compile(r"\b(?:a?(?:sin|cos|tan)h?|exp|log|ln|sqrt|Abs)\s*\(")
_RUNS = re.compile(r"__|[^\W\d]\w*\s*\(|[)\]}'\"]\s*\(|\blambda\b|[@`]|:=")


@rlcurric.reward(
    "verifier", correctness=True, preload=("rlcurric.rewards.symbolic", "reasoning_gym")
)
def verifier(
    prompts: list[str],
    completions: list[str],
    answer: list[Any],
    reasoning_gym: list[Any] | None = None,
    numbers: bool = True,
    **columns: Any,
) -> list[Score]:
    """1 for a right answer, 0 for a wrong one or none: the task's own scorer on rows of reasoning-gym, else `mathematics`.

    The answer is what stands in the last `<answer>` tag, else the last `\\boxed{}`, else after the last `####`, else
    (with `numbers`) the last number. The partial credit of reasoning-gym's tasks is kept.
    """
    entries = reasoning_gym or [None] * len(completions)
    return [
        _judge(completion, gold, entry, numbers)
        for completion, gold, entry in zip(completions, answer, entries, strict=True)
    ]


def _judge(completion: str, gold: Any, entry: Any, numbers: bool) -> Score:
    if not entry:
        return grade(completion, gold, numbers)
    given = extract_answer(completion, numbers)
    return Score(_by_task(given, entry)) if given else NO_ANSWER


def _by_task(given: str, row: dict[str, Any]) -> float:
    """reasoning-gym's scorer of the task. What its answer makes it raise is the answer's fault."""
    from reasoning_gym import get_score_answer_fn

    score = get_score_answer_fn(row["task"])
    if row["task"] in _EVALUATES and _would_run(given):
        given = ""
    try:
        return float(score(given, row["entry"]))
    except Exception:
        return 0.0


def _would_run(text: str) -> bool:
    """Whether evaluating the text could do more than arithmetic: it calls something that is no function of analysis."""
    return _RUNS.search(_FUNCTIONS.sub("(", text)) is not None
