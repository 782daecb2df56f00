r"""Equality of expressions by math-verify, kept from what would take all time or memory.

Importing this module loads sympy and works one comparison out, which fills the caches of the LaTeX parser: workers
import it before they fork, so that no call pays for it.
"""

from __future__ import annotations

import logging
import re
from typing import Any

from latex2sympy2_extended import NormalizationConfig
from math_verify import LatexExtractionConfig, parse, verify
from sympy import Expr, Float, Rational, nan, zoo

from rlcurric.rewards.latex import TRIGONOMETRY

logging.getLogger("math_verify").setLevel(logging.ERROR)  # that the time limit is off

_LONGEST = 400  # characters, unless the gold answer is as long
_SPELLING = NormalizationConfig(
    basic_latex=True,
    units=False,
    malformed_operators=True,
    nits=True,
    boxed="none",
    equations=False,
)
_CONFIG = [LatexExtractionConfig(boxed_match_priority=-1, normalization_config=_SPELLING)]
_DEGREES = re.compile(r"(\d+(?:\.\d+)?)\s*\^\\circ")
_POWER = re.compile(r"\^\s*(?:\{\s*-?\s*(\d+)\s*\}|(\d))")
_LARGEST_POWER = 20_000  # product of all numeric exponents: digits that sympy would write out
_LARGEST_ARGUMENT = 3_000  # of factorials and binomial coefficients


def equal(given: str, gold: str) -> bool:
    """Whether the given expression is the gold one. It has no time limit of its own: the runner's deadline covers it."""
    if len(given) > max(_LONGEST, 2 * len(gold)) or explodes(given):
        return False
    try:
        golds, answers = _parsed(gold), _parsed(given)
        if not golds or not answers:
            return False
        numbers = _numbers(answers[0], golds[0])
        if numbers is not None:
            return numbers
        return bool(verify(golds, answers, timeout_seconds=None, allow_set_relation_comp=True))
    except Exception:  # sympy on malformed input
        return False


def _numbers(given: Any, gold: Any) -> bool | None:
    """Whether two constants are equal; None where one is no constant.

    math-verify looks at the size of the difference only, so that all tiny numbers are equal to it (1/2^98 and 1/2^99).
    Here rational numbers are compared exactly and others by their ratio, to 40 digits where both are exact.
    """
    if not all(isinstance(one, Expr) and one.is_number for one in (given, gold)):
        return None
    given, gold = given.doit(), gold.doit()
    if given.has(zoo, nan) or gold.has(zoo, nan):
        return False  # divided by nothing
    if not (given.is_finite and gold.is_finite):
        return None
    if isinstance(given, Rational) and isinstance(gold, Rational):
        return bool(given == gold)
    rounded = given.has(Float) or gold.has(Float)
    left, right = given.evalf(60), gold.evalf(60)
    difference, size = abs(left - right), max(abs(left), abs(right))
    if rounded:
        return bool(difference < 1e-6 and difference <= 1e-5 * size)
    return bool(difference <= size * Rational(1, 10**40))


def _parsed(text: str) -> list[object]:
    if TRIGONOMETRY.search(text):
        text = _DEGREES.sub(r"{\\frac{\1\\pi}{180}}", text)
    found: list[object] = parse(f"${text}$", _CONFIG, "no_fallback", parsing_timeout=None)
    return found


def explodes(text: str) -> bool:
    """Whether working the text out could take all time or memory: towers of powers, huge factorials."""
    size = 1
    for braced, digit in _POWER.findall(text):
        exponent = braced or digit
        size *= max(1, int(exponent)) if len(exponent) < 6 else _LARGEST_POWER + 1
        if size > _LARGEST_POWER:
            return True
    if re.search(
        r"\^\s*\{[^{}]*\^|\^\s*\{[^{}]*\{[^{}]*\^|!\s*[)}\]]*\s*!|!\s*[)}]*\s*\^|\^[^!]*!", text
    ):
        return True
    if "!" in text or "\\binom" in text:
        return any(int(number[:9]) > _LARGEST_ARGUMENT for number in re.findall(r"\d+", text))
    return False


equal(r"\frac{x+1}{2}", r"\frac{x}{2}+\frac{1}{2}")  # see above
