"""reasoning-gym's own scorers, for its rows, but for two that cannot be trusted (of 0.1.25)."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

# Tasks whose scorers hand the answer to eval or to sympy's parse_expr, which evaluates it. Such an answer could award
# itself the score; one that is more than an expression or a list gets what the task gives to an empty answer.
EVALUATES = frozenset(
    {
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
)
_FUNCTIONS = re.compile(r"\b(?:a?(?:sin|cos|tan)h?|exp|log|ln|sqrt|Abs)\s*\(")
_RUNS = re.compile(r"__|[^\W\d]\w*\s*\(|[)\]}'\"]\s*\(|\blambda\b|[@`]|:=")


def _same_truth(given: str, entry: Mapping[str, Any]) -> float:
    """`game_of_life_halting`, whose own scorer takes any text that is not empty for True, and gold answers too."""
    return float(given.strip().rstrip(".").lower() == str(entry["answer"]).lower())


def _same_probability(given: str, entry: Mapping[str, Any]) -> float:
    """`coin_flip`, whose own scorer gives 1 to every beginning of the gold answer: "0" is right everywhere.

    Decimals and fractions; to one part in ten thousand.
    """
    try:
        answer = float(Fraction(given.replace(",", "").strip()))
    except (ValueError, ZeroDivisionError, OverflowError):
        return 0.0
    return float(math.isclose(answer, float(Fraction(entry["answer"])), rel_tol=1e-4))


_OURS: dict[str, Callable[[str, Mapping[str, Any]], float]] = {
    "coin_flip": _same_probability,
    "game_of_life_halting": _same_truth,
}


@functools.cache
def _scorer(task: str) -> Callable[..., float]:
    """The task's scorer; ValueError for a task that there is not. It builds a data set: half a second for `arc_agi`."""
    from reasoning_gym import get_score_answer_fn

    scorer: Callable[..., float] = get_score_answer_fn(task)
    return scorer


def task_score(given: str, row: Mapping[str, Any]) -> float:
    """What the row's task gives for an answer. What the answer makes the scorer raise is the answer's fault.

    Args:
        given: the answer, as extracted.
        row: the column `reasoning_gym` of the source of that name: `task` and `entry`, the data set's own item.
    """
    if row["task"] in _OURS:
        return _OURS[row["task"]](given, row["entry"])
    scorer = _scorer(row["task"])
    if row["task"] in EVALUATES and would_run(given):
        given = ""
    try:
        return float(scorer(given, row["entry"]))
    except Exception:
        return 0.0


def would_run(text: str) -> bool:
    """Whether evaluating the text could do more than arithmetic: it calls something that is no function of analysis."""
    return _RUNS.search(_FUNCTIONS.sub("(", text)) is not None
