"""reasoning-gym's own scorers, for its rows."""

from __future__ import annotations

import re
from collections.abc import Mapping
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


def task_score(given: str, row: Mapping[str, Any]) -> float:
    """What the row's task gives for an answer. What the answer makes the scorer raise is the answer's fault.

    Args:
        given: the answer, as extracted.
        row: the column `reasoning_gym` of the source of that name: `task` and `entry`, the data set's own item.
    """
    from reasoning_gym import get_score_answer_fn

    score = get_score_answer_fn(row["task"])
    if row["task"] in EVALUATES and would_run(given):
        given = ""
    try:
        return float(score(given, row["entry"]))
    except Exception:
        return 0.0


def would_run(text: str) -> bool:
    """Whether evaluating the text could do more than arithmetic: it calls something that is no function of analysis."""
    return _RUNS.search(_FUNCTIONS.sub("(", text)) is not None
