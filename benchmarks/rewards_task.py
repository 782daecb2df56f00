"""The reward of benchmarks/rewards.py: math-verify on the last box, with nothing around it."""

from __future__ import annotations

import logging
from typing import Any

from math_verify import parse, verify

import rlcurric

logging.getLogger("math_verify").setLevel(logging.ERROR)  # that the time limit is off

# Comparisons of the kinds that answers are made of. Workers load this file before they fork, so that every call finds the
# caches of the LaTeX parser filled, as a loop in one process does after its first rounds.
_KINDS = [
    ("\\frac{1}{2}", "0.5"), ("3\\sqrt{2}", "\\sqrt{18}"), ("(1, 2)", "(1,-2)"), ("[0, \\infty)", "(0,\\infty)"),
    ("x^2 + 3x - 5", "3x-5+x^{2}"), ("\\frac{\\pi}{3}", "60^\\circ"), ("1,000", "1000"), ("2^{10}", "1024"),
    ("\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", "\\begin{pmatrix} 1 \\\\ 3 \\end{pmatrix}"), ("\\{1, 2\\}", "1, 2"),
    ("\\text{yes}", "no"), ("\\frac{a+b}{2}", "\\dfrac{b + a}2"), ("x = 5", "5"), ("50\\%", "0.5"), ("-7", "7"),
    ("\\sin x \\cos y", "\\log_2 8"), ("(-\\infty, 3) \\cup (5, 7]", "x < 3"), ("1 + 2i", "2i+1"),
]  # fmt: skip


def equal(given: str, gold: str) -> float:
    """1 where math-verify finds the given answer equal to the gold one."""
    golds = parse(f"\\boxed{{{gold}}}", parsing_timeout=None)
    answers = parse(given, parsing_timeout=None)
    return float(bool(verify(golds, answers, timeout_seconds=None)))


_ATOMS = ("x", "12", "\\pi", "\\frac{1}{2}", "\\sqrt{3}", "-2y", "0.5")
_SHAPES = ("%s+%s", "(%s, %s)", "\\frac{%s}{%s}", "{%s}^{%s}", "\\sqrt{%s} %s", "%s \\cdot %s")
_MIXED = [
    (shape % (left, right), right) for shape in _SHAPES for left in _ATOMS for right in _ATOMS
]
for _given, _gold in [*_KINDS, *_MIXED]:
    equal(f"\\boxed{{{_given}}}", _gold)


@rlcurric.reward("plain_math_verify", correctness=True, preload=("math_verify",))
def plain_math_verify(
    prompts: list[str], completions: list[str], answer: list[Any], **columns: Any
) -> list[float]:
    """What the bare loop does, sample by sample."""
    return [equal(text, str(gold)) for text, gold in zip(completions, answer, strict=True)]
