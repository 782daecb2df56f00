r"""Whether two mathematical answers are the same.

What most answers are is settled here, exactly and without sympy: equal text, numbers, lists, sets, intervals, matrices,
numerals of other bases, words. What is left, one expression against another, goes to math-verify. It is not symmetric:
the gold answer says what form is asked for (whether order counts, whether an equation is wanted).
"""

from __future__ import annotations

import re
from typing import Any

from rlcurric.rewards.extraction import extract_answer, only_number
from rlcurric.rewards.golds import NO_ANSWER, NO_GOLD, golds
from rlcurric.rewards.latex import Items, clean, items, matrix, split_top, split_unit, squeezed
from rlcurric.rewards.quantities import quantity, unit_of
from rlcurric.types import Score

_PROSE = re.compile(r"[A-Za-z]{2,}")
_LONGEST = 2_000  # characters of an answer
_DEEPEST = 6  # lists in lists
_NAME = re.compile(
    r"\([A-Za-z](?:\s*,\s*[A-Za-z])+\s*\)|(?:\\text\{[^{}]*\}|\\(?:angle|triangle|overline|measuredangle|[a-zA-Z]+)\s*(?:\{[A-Za-z]{1,4}\})?\s*[A-Za-z]{0,4}|[A-Za-z]{1,4})"
    r"(?:_\{?\w+\}?|\^\{?-1\}?|')*\s*(?:\(\s*[A-Za-z](?:\s*,\s*[A-Za-z])*\s*\))?"
)
_EQUALS = re.compile(r"\s*=\s*")
_ARITHMETIC = re.compile(r"(?:[\d\s.,+*/()^%-]|\\cdot|\\frac|[{}])+")
_NEARLY = re.compile(r"\s*\\approx(?![a-zA-Z])\s*")
_MEMBER = re.compile(r"[A-Za-z]\s*\\in(?![a-zA-Z])\s*")
_NUMERAL = re.compile(r"(?P<digits>-?[0-9A-Z]+)_(?:\{\s*(?P<braced>\d+)\s*\}|(?P<base>\d+))")
_CLOCK = re.compile(r"\d{1,9}(?:\s*:\s*\d{1,9})+")
_TEXT = re.compile(r"\\text\{([^{}]*)\}")
_COMMANDS = re.compile(r"\\[a-zA-Z]+|\b(?:arc|a)?(?:sin|cos|tan|cot|sec|csc)h?\b")
_LONG_WORD = re.compile(r"[a-zA-Z]{4,}")
_NUMBER_WORDS = {
    word: str(number)
    for number, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
        "eighteen nineteen twenty".split()
    )
}


def grade(completion: str, answer: Any, numbers: bool = True) -> Score:
    """1 where the completion's answer is (one of) the row's, 0 where it is another or none."""
    accepted = golds(answer)
    if not accepted:
        return NO_GOLD
    given = extract_answer(completion, numbers)
    if not given:
        return NO_ANSWER
    return Score(float(any(same(given, gold) or _in_prose(given, gold) for gold in accepted)))


def _in_prose(given: str, gold: str) -> bool:
    """Whether the one number of a sentence ("She makes 18 dollars a day") is the number that is asked for."""
    if "\\" in given or len(_PROSE.findall(given)) < 2:
        return False
    number = only_number(given)
    return number is not None and quantity(clean(gold)) is not None and same(number, gold)


def same(given: str, gold: str) -> bool:
    """Whether the given answer is the gold one."""
    if given == gold:
        return bool(gold.strip())
    if max(len(given), len(gold)) > _LONGEST:
        return False
    given, gold = clean(given), clean(gold)
    if not given or not gold:
        return False
    alternatives = split_top(gold, _NEARLY)
    said = next((one for one in split_top(given, _NEARLY) if one), "")
    return any(_same(said, one, 0) for one in alternatives if one)


def _same(given: str, gold: str, depth: int) -> bool:
    if squeezed(_unwrapped(given)) == squeezed(_unwrapped(gold)):
        return True
    if depth > _DEEPEST or not given or not gold:
        return False
    left, right = quantity(_in_digits(given)), quantity(_in_digits(gold))
    if left is not None and right is not None:
        return left.equals(right)
    if any(
        unit and quantity(value) for value, unit in (split_unit(given), split_unit(gold, False))
    ):
        return _with_units(given, gold, depth)
    clock = _clock(given, gold)
    if clock is not None:
        return clock
    equation = _equation(given, gold, depth)
    if equation is not None:
        return equation
    structure = _structure(given, gold, depth)
    if structure is not None:
        return structure
    numerals = _numerals(given, gold)
    if numerals is not None:
        return numerals
    return _with_units(given, gold, depth)


def _with_units(given: str, gold: str, depth: int) -> bool:
    """One value each, perhaps with a unit. A unit that only one of them has says nothing; two must be the same."""
    (value, unit), (gold_value, gold_unit) = split_unit(given), split_unit(gold, letters=False)
    if unit or gold_unit:
        names = unit_of(unit), unit_of(gold_unit)
        if all(names) and names[0] != names[1]:
            return False
        return _same(value, gold_value, depth + 1)
    words = _words(given, gold)
    if words is not None:
        return words
    return _symbolic(given, gold)


def _symbolic(given: str, gold: str) -> bool:
    """One expression against another. An equation never stands for a bare value here: names are off already."""
    if ("=" in given) != ("=" in gold) or _LONG_WORD.search(_COMMANDS.sub(" ", given)):
        return False
    from rlcurric.rewards.symbolic import equal  # brings sympy, which plain numbers never need

    return equal(given, gold)


# --- equations --------------------------------------------------------------------------------------------------------


def _equation(given: str, gold: str, depth: int) -> bool | None:
    """Whether they agree up to the names in front ("x = 5", "f(x) = 2x"); None where no name stands in front."""
    given, gold = _MEMBER.sub("", given, count=1), _MEMBER.sub("", gold, count=1)
    name, value = _named(given)
    gold_name, gold_value = _named(gold)
    if not name and not gold_name:
        return None
    if name and gold_name:
        alike = squeezed(name) == squeezed(gold_name)
        return _same(value, gold_value, depth + 1) if alike else _symbolic(given, gold)
    if _same(value, gold_value, depth + 1):
        return True
    return _symbolic(given, gold)  # an equation that another one may say in other words


def _named(text: str) -> tuple[str, str]:
    """The name in front of an equation and the last of its right sides; no name where it is something else."""
    several = items(text)
    if "=" not in text or (several is not None and not several.opened):
        return "", text
    sides = split_top(text, _EQUALS)
    if len(sides) < 2 or not all(sides):
        return "", text
    if _NAME.fullmatch(sides[0]):
        return sides[0], sides[-1]
    holds = _ARITHMETIC.fullmatch(sides[0]) and all(
        _same(side, sides[-1], _DEEPEST) for side in sides
    )
    return (sides[0], sides[-1]) if holds else ("", text)


# --- lists, sets, intervals, matrices ---------------------------------------------------------------------------------


def _structure(given: str, gold: str, depth: int) -> bool | None:
    """Whether two answers of several values agree; None where neither is one or math-verify may know better."""
    gold_matrix, given_matrix = matrix(gold), matrix(given)
    if gold_matrix is not None or given_matrix is not None:
        return _matrices(given, gold, given_matrix, gold_matrix, depth)
    left, right = items(given), items(gold)
    if left is None and right is None:
        return None
    if left is None or right is None:
        if left is not None and left.opened == r"\{" and len(left.values) == 1:
            return _same(left.values[0], gold, depth + 1)
        if right is not None and right.opened == r"\{" and len(right.values) == 1:
            return _same(given, right.values[0], depth + 1)
        several = left or right
        assert several is not None
        if several.interval or several.opened == "cup":
            return _inequality(given, gold, depth)
        return False
    return _lists(left, right, depth)


_RELATION = r"(<|>|\\le(?![a-zA-Z])|\\ge(?![a-zA-Z]))"
_RELATED = re.compile(r"[<>]|\\(?:le|ge|ne|in|mathbb)(?![a-zA-Z])")
_BETWEEN = re.compile(rf"(.+?)\s*{_RELATION}\s*[A-Za-z]\s*{_RELATION}\s*(.+)")
_BOUND = re.compile(rf"[A-Za-z]\s*{_RELATION}\s*([^<>=]+)")


def _inequality(given: str, gold: str, depth: int) -> bool:
    """An inequality against an interval, either way."""
    ranges = _as_interval(given), _as_interval(gold)
    if ranges != (given, gold):
        return _same(*ranges, depth + 1)
    return _RELATED.search(given + gold) is not None and _symbolic(given, gold)


def _as_interval(text: str) -> str:
    """An inequality as the interval that it describes; any other text as it is."""
    if match := _BETWEEN.fullmatch(text):
        low, first, second, high = match.groups()
        if first[-1] in "<e" and second[-1] in "<e" and "g" not in first + second:
            return f"{'(' if first == '<' else '['}{low},{high}{')' if second == '<' else ']'}"
    elif match := _BOUND.fullmatch(text):
        relation, bound = match.groups()
        return {
            "<": rf"(-\infty,{bound})",
            ">": rf"({bound},\infty)",
            r"\le": rf"(-\infty,{bound}]",
            r"\ge": rf"[{bound},\infty)",
        }[relation]
    return text


def _lists(given: Items, gold: Items, depth: int) -> bool | None:
    if "cup" in (given.opened, gold.opened):
        left, right = ([_as_interval(one) for one in some.values] for some in (given, gold))
        if {given.opened, gold.opened} <= {"cup", ""} and _unordered(left, right, depth):
            return True
        return None  # math-verify knows unions that are written in several ways
    if len(given.values) != len(gold.values):
        return False
    if (
        gold.interval
        and given.opened
        and (given.opened, given.closed) != (gold.opened, gold.closed)
    ):
        return False
    if given.interval and "[" in given.opened and not gold.opened:
        return False
    if gold.ordered:
        return all(
            _same(one, other, depth + 1)
            for one, other in zip(given.values, gold.values, strict=True)
        )
    return _unordered(given.values, gold.values, depth)


def _unordered(given: list[str], gold: list[str], depth: int) -> bool:
    """Whether each of the one is one of the other, each used once."""
    left = list(gold)
    if len(given) != len(gold):
        return False
    for value in given:
        found = next((k for k, one in enumerate(left) if _same(value, one, depth + 1)), None)
        if found is None:
            return False
        del left[found]
    return True


def _matrices(
    given: str, gold: str, left: list[list[str]] | None, right: list[list[str]] | None, depth: int
) -> bool | None:
    """Entry by entry; a tuple may stand for a vector."""
    if left is None or right is None:
        rows, other = (left, gold) if right is None else (right, given)
        listed = items(other)
        assert rows is not None
        if listed is None or listed.opened == "cup" or min(len(rows), len(rows[0])) > 1:
            return None
        flat = [entry for row in rows for entry in row]
        pairs = list(zip(flat, listed.values, strict=False))
        return len(flat) == len(listed.values) and all(_same(a, b, depth + 1) for a, b in pairs)
    if (len(left), len(left[0])) != (len(right), len(right[0])):
        return False
    return all(
        _same(one, other, depth + 1)
        for row, gold_row in zip(left, right, strict=True)
        for one, other in zip(row, gold_row, strict=True)
    )


# --- numerals and words -----------------------------------------------------------------------------------------------


def _clock(given: str, gold: str) -> bool | None:
    """Times of day and ratios, part by part; a ratio may be written as a fraction. None where neither is one."""
    left, right = (_CLOCK.fullmatch(split_unit(text, False)[0]) for text in (given, gold))
    if left is None and right is None:
        return None
    if left is None or right is None:
        parts = (left or right)[0].split(":")  # type: ignore[index]
        fraction = quantity(given if left is None else gold)
        ratio = quantity("/".join(parts)) if len(parts) == 2 and fraction else None
        return "." not in given and bool(fraction and ratio and fraction.value == ratio.value)
    units = [unit_of(split_unit(text, False)[1]) for text in (given, gold)]
    alike = [int(part) for part in left[0].split(":")] == [
        int(part) for part in right[0].split(":")
    ]
    return alike and (units[0] == units[1] or not all(units))


def _numerals(given: str, gold: str) -> bool | None:
    """`1011_2` against the same digits, with or without their base; None where neither names a base."""
    left, right = (_NUMERAL.fullmatch(squeezed(_unwrapped(text))) for text in (given, gold))
    if left is None and right is None:
        return None
    digits, base = _digits_and_base(left, given)
    gold_digits, gold_base = _digits_and_base(right, gold)
    return digits == gold_digits and (None in (base, gold_base) or base == gold_base)


def _digits_and_base(match: re.Match[str] | None, text: str) -> tuple[str, int | None]:
    digits = match["digits"] if match else squeezed(_unwrapped(text))
    base = int(match["braced"] or match["base"]) if match else None
    return digits.upper().lstrip("0"), base


def _words(given: str, gold: str) -> bool | None:
    r"""Names, choices and the like, whatever their case and wrapping; None where the gold answer is no words."""
    wrapped = _TEXT.search(gold) is not None
    said, asked = _plain_words(given), _plain_words(gold)
    if not re.fullmatch(r"[a-z]+(?: [a-z0-9]+)*", asked) or "\\" in _TEXT.sub("", gold):
        return None
    if not wrapped and len(asked) <= 2:
        return None  # variables
    said, asked = _NUMBER_WORDS.get(said, said), _NUMBER_WORDS.get(asked, asked)
    if said == asked:
        return True
    return None if not wrapped and " " not in asked else False


def _in_digits(text: str) -> str:
    return _NUMBER_WORDS.get(text.lower(), text) if text.isalpha() else text


def _plain_words(text: str) -> str:
    bare = re.sub(r"[().,\"'{}]", " ", _unwrapped(text).lower())
    return " ".join(
        word for word in bare.split() if word not in ("the", "a", "an") or len(bare.split()) == 1
    )


def _unwrapped(text: str) -> str:
    return _TEXT.sub(r"\1", text)
