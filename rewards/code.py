"""Python solutions, run on tests."""

from __future__ import annotations

import re
from typing import Any

import rlcurric
from rlcurric.rewards import sandbox
from rlcurric.rewards.programs import Limits, judge, read_tests
from rlcurric.rewards.sandbox import launcher
from rlcurric.types import Score, Status

_FENCE = re.compile(r"^[ \t]*```[ \t]*(\w*)[^\n]*\n(.*?)^[ \t]*```", re.DOTALL | re.MULTILINE)
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_PYTHON = ("python", "py", "python3", "")
_MARGIN = 1.0  # seconds that grading takes beside the tests
_LONGEST = 100_000  # characters of a program


def _check(seconds: float, budget: float, memory_mb: int, **_: Any) -> None:
    for name, value in (("seconds", seconds), ("budget", budget)):
        if not value > 0:
            raise ValueError(f"{name} must be above 0, got {value}")
    if budget < seconds:
        raise ValueError(
            f"budget, seconds for all tests of a solution, must be at least seconds, for one; got {budget} and {seconds}"
        )
    if memory_mb < 64:
        raise ValueError(
            f"memory_mb must be at least 64, which the interpreter needs; got {memory_mb}"
        )


@rlcurric.reward(
    "code",
    scope="group",
    separable=True,
    correctness=True,
    preload=(launcher.PRELOAD,),
    validate=_check,
)
def code(
    prompts: list[str],
    completions: list[str],
    tests: list[Any],
    seconds: float = 4.0,
    budget: float = 8.0,
    memory_mb: int = 1024,
    partial: bool = True,
    **columns: Any,
) -> list[Score]:
    """The fraction of its tests that a Python program passes; without `partial` 1 for all of them, else 0.

    The program is the last fenced block of Python behind the thought, inside `<answer>` where there is one, else the
    text of `<answer>`. `tests` are described in `rlcurric.rewards.programs`. Each has `seconds`, all of a solution
    `budget`, and each process of it `memory_mb`. A program that is stopped has failed; a sandbox that cannot be set up
    is an error.

    It is graded by groups since then a call's deadline is that of its samples together.
    """
    _check(seconds, budget, memory_mb)
    share = sandbox.time_left() / max(1, len(completions))
    if share < budget + _MARGIN:
        raise ValueError(
            f"grading.deadline must be at least {budget + _MARGIN:g} s for the reward code with budget {budget:g}, got "
            f"{share:.1f} s: raise it, or lower budget"
        )
    limits = Limits(sandbox.in_use(), seconds, budget, memory_mb << 20)
    return [
        _grade(completion, one, limits, partial)
        for completion, one in zip(completions, tests, strict=True)
    ]


@rlcurric.reward("code_bonus", where="inline")
def code_bonus(
    prompts: list[str], completions: list[str], correct: list[float | None], **columns: Any
) -> list[float | None]:
    """1 for a solution that passes all its tests, so that with `code` and weight 1 the reward is pass rate + 1[all].

    The reward of the Q language's authors (arXiv 2508.06813). A component of its own: correctness stays in [0, 1].
    """
    return [None if value is None else float(value == 1.0) for value in correct]


def find_program(completion: str) -> str | None:
    """The program in a completion; None if there is none."""
    statement = completion.rpartition("</think>")[2]
    answers = _ANSWER.findall(statement)
    text = answers[-1] if answers else statement
    blocks = [body for language, body in _FENCE.findall(text) if language.lower() in _PYTHON]
    if blocks:
        return str(blocks[-1])
    return str(text).strip() or None if answers and "```" not in text else None


def _grade(completion: str, raw: Any, limits: Limits, partial: bool) -> Score:
    tests = read_tests(raw)
    program = find_program(completion)
    if program is None:
        return Score(0.0, Status.UNPARSEABLE, "no program found")
    if len(program) > _LONGEST:
        return Score(0.0, detail=f"a program of more than {_LONGEST} characters")
    try:
        verdict = judge(program, tests, limits)
    except sandbox.SandboxError as error:
        return Score(None, Status.ERROR, str(error))
    whole = verdict.passed == verdict.total
    value = verdict.passed / verdict.total if partial else float(whole)
    return Score(value, detail=verdict.problem)
