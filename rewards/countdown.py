"""Arithmetic from given numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, Literal

import rlcurric
from rlcurric.rewards.expressions import ExpressionError, parse_equation
from rlcurric.rewards.extraction import extract_answer
from rlcurric.types import Score, Status


def _check(operators: str, **_: Any) -> None:
    if not operators or set(operators) - set("+-*/"):
        raise ValueError(f"countdown needs operators out of '+-*/', got {operators!r}")


@rlcurric.reward("countdown", correctness=True, validate=_check)
def countdown(
    prompts: list[str],
    completions: list[str],
    nums: list[Any],
    target: list[Any],
    use: Literal["all", "some"] = "all",
    operators: str = "+-*/",
    **columns: Any,
) -> list[Score]:
    """1 for an expression of the row's numbers that comes to its target, exactly (the numbers game of 2503.01307).

    Columns: `nums` (a list of numbers that are not negative) and `target`. The expression stands where an answer stands
    (`<answer>`, `\\boxed{}`, `####`), alone or with `= target`. `use: all` asks for every number exactly once, `some`
    for each at most once. `operators` lists those that are allowed; a sign counts as its operator.
    """
    _check(operators)
    if use not in ("all", "some"):
        raise ValueError(f"countdown needs use: all or some, got {use!r}")
    return [
        _judge(completion, _numbers(given), _number(goal, "target"), use, operators)
        for completion, given, goal in zip(completions, nums, target, strict=True)
    ]


def _judge(
    completion: str, given: Sequence[Fraction], goal: Fraction, use: str, operators: str
) -> Score:
    text = extract_answer(completion, numbers=False)
    if not text:
        return Score(0.0, Status.UNPARSEABLE, "no answer found")
    try:
        expression, claim = parse_equation(text)
    except ExpressionError as error:
        return Score(0.0, Status.UNPARSEABLE, f"no expression: {error}")
    used, allowed = Counter(expression.numbers), Counter(given)
    if used != allowed if use == "all" else used > allowed or used - allowed:
        return Score(0.0, detail="other numbers than the given ones")
    if not expression.operators <= set(operators):
        return Score(0.0, detail=f"other operators than {operators}")
    if expression.value is None:
        return Score(0.0, detail="division by zero")
    if claim is not None and claim.value != expression.value:
        return Score(0.0, detail="the equation is wrong")
    return Score(float(expression.value == goal))


def _numbers(given: Any) -> list[Fraction]:
    if not isinstance(given, list | tuple) or not given:
        raise ValueError(f"countdown needs a list of numbers in the column 'nums', got {given!r}")
    numbers = [_number(one, "nums") for one in given]
    if min(numbers) < 0:
        raise ValueError(f"countdown needs nums that are not negative, got {given!r}")
    return numbers


def _number(value: Any, column: str) -> Fraction:
    try:
        return Fraction(str(value).strip())
    except (ValueError, ZeroDivisionError):
        raise ValueError(
            f"countdown needs numbers in the column {column!r}, got {value!r}"
        ) from None
