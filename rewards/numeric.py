"""A number, up to a tolerance."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import rlcurric
from rlcurric.rewards.extraction import extract_answer, only_number
from rlcurric.rewards.golds import NO_ANSWER, NO_GOLD, golds
from rlcurric.rewards.latex import clean, split_unit
from rlcurric.rewards.quantities import quantity
from rlcurric.types import Score, Status

_LONGEST = 400  # characters of a number and its unit


def _check(relative: float, absolute: float, **_: Any) -> None:
    if not (0 <= relative < 1 and 0 <= absolute < float("inf")):
        raise ValueError(
            f"numeric needs 0 <= relative < 1 and 0 <= absolute (finite), got relative {relative} and absolute {absolute}"
        )


@rlcurric.reward("numeric", where="inline", correctness=True, validate=_check)
def numeric(
    prompts: list[str],
    completions: list[str],
    answer: list[Any],
    relative: float = 1e-6,
    absolute: float = 0.0,
    numbers: bool = True,
    **columns: Any,
) -> list[Score]:
    """1 where |given - gold| <= max(absolute, relative * |gold|), else 0.

    Integers, decimals, thousands separators, powers of ten, fractions, mixed numbers and percent are read, exactly;
    units are passed over. The answer stands in the last `<answer>` tag, else the last `\\boxed{}`, else after the last
    `####`, else (with `numbers`) it is the last number. A row's `answer` may be a list of which any is right; one that is
    no number is an error, never a wrong answer.
    """
    _check(relative, absolute)

    def grade(completion: str, gold: Any) -> Score:
        accepted = [_value(one) for one in golds(gold)]
        if not accepted:
            return NO_GOLD
        if None in accepted:
            return Score(
                None, Status.ERROR, f"numeric needs a number as `answer`, got {gold!r:.80}"
            )
        said = extract_answer(completion, numbers)
        given = None if said is None else _value(said) or _value(only_number(said) or "")
        if given is None:
            return NO_ANSWER
        return Score(float(any(_near(given, one, relative, absolute) for one in accepted if one)))

    return [grade(text, gold) for text, gold in zip(completions, answer, strict=True)]


def _value(text: str) -> tuple[Fraction, bool] | None:
    """The number, and whether it is in percent."""
    if len(text) > _LONGEST:
        return None
    cleaned = clean(text)
    found = quantity(cleaned) or quantity(split_unit(cleaned.rpartition("=")[2].strip())[0])
    return (found.value, found.percent) if found else None


def _near(
    given: tuple[Fraction, bool], gold: tuple[Fraction, bool], relative: float, absolute: float
) -> bool:
    """Of "50%" and a bare number the latter may be 50 as well as 0.5."""
    (value, percent), (wanted, in_percent) = given, gold
    allowed = max(Fraction(absolute), Fraction(relative) * abs(wanted))
    candidates = {value}
    if percent != in_percent:
        candidates.add(value / 100 if percent else value * 100)
    return any(abs(candidate - wanted) <= allowed for candidate in candidates)
