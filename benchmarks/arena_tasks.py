"""The arena's data: small problems with numbers as answers, shown worked out or guessed.

A demonstration either works the problem out between the think tags, or leaves them empty and guesses a number near
the right one. What a distribution leaves to RL is set by `worked`, the share of its rows that are worked: a family
whose longest problems are always worked gives the model the ability, and RL can teach it to use that on the others.
Terms of several digits are always worked at full length, by arithmetic that a model this small does not learn: out of
reach, and as dear in tokens as what is not.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

Row = dict[str, Any]
Problem = tuple[str, str, int]  # question, the steps that work it out, answer

FARTHEST = 9  # from the answer to a guess


def sums(
    fewest: int, most: int, digits: int = 1, size: int = 2000, seed: int = 0, worked: float = 1.0
) -> Iterator[Row]:
    """`3+4+9=`, worked as `3+4=7;7+9=16`: from `fewest` to `most` terms of `digits` digits."""

    def problem(draw: random.Random) -> Problem:
        terms = [_number(draw, digits) for _ in range(draw.randint(fewest, most))]
        total, steps = terms[0], []
        for term in terms[1:]:
            steps.append(f"{total}+{term}={total + term}")
            total += term
        return "+".join(map(str, terms)) + "=", ";".join(steps), total

    return _rows(("sums", fewest, most, digits), problem, size, seed, worked)


def counts(
    symbols: str, shortest: int, longest: int, size: int = 2000, seed: int = 0, worked: float = 1.0
) -> Iterator[Row]:
    """`#a cabba=`, worked as `ca1bba2`: how often a symbol stands in a text, with a running count behind it."""

    def problem(draw: random.Random) -> Problem:
        text = "".join(draw.choices(symbols, k=draw.randint(shortest, longest)))
        wanted, count, steps = draw.choice(text), 0, []
        for symbol in text:
            count += symbol == wanted
            steps.append(f"{symbol}{count}" if symbol == wanted else symbol)
        return f"#{wanted} {text}=", "".join(steps), count

    return _rows(("counts", symbols, shortest, longest), problem, size, seed, worked)


def maxima(
    fewest: int, most: int, digits: int = 2, size: int = 2000, seed: int = 0, worked: float = 1.0
) -> Iterator[Row]:
    """`>31,70,52=`, worked as `31:31,70:70,52:70`: the largest so far behind each number."""

    def problem(draw: random.Random) -> Problem:
        numbers = [_number(draw, digits) for _ in range(draw.randint(fewest, most))]
        steps = [f"{one}:{max(numbers[: place + 1])}" for place, one in enumerate(numbers)]
        return f">{','.join(map(str, numbers))}=", ",".join(steps), max(numbers)

    return _rows(("maxima", fewest, most, digits), problem, size, seed, worked)


def products(
    digits: int, by: int, size: int = 2000, seed: int = 0, worked: float = 1.0
) -> Iterator[Row]:
    """`483*29=`, worked as `483*20=9660;483*9=4347`: numbers of `digits` and of `by` digits."""

    def problem(draw: random.Random) -> Problem:
        left, right = _number(draw, digits), _number(draw, by)
        parts = [int(digit) * 10**place for place, digit in enumerate(reversed(str(right)))]
        steps = [f"{left}*{part}={left * part}" for part in reversed(parts) if part]
        return f"{left}*{right}=", ";".join(steps), left * right

    return _rows(("products", digits, by), problem, size, seed, worked)


def _number(draw: random.Random, digits: int) -> int:
    return draw.randrange(10 ** (digits - 1), 10**digits)


def _rows(
    task: tuple[object, ...],
    problem: Callable[[random.Random], Problem],
    size: int,
    seed: int,
    worked: float,
) -> Iterator[Row]:
    """`size` rows, a share `worked` of them worked out; the same ones for the same arguments."""
    draw = random.Random(repr((*task, seed)))
    for _ in range(size):
        question, steps, answer = problem(draw)
        guess = abs(answer + draw.randint(-FARTHEST, FARTHEST))
        works = draw.random() < worked
        yield {
            "question": question,
            "answer": str(answer),
            "demonstration": f"<think>{steps if works else ''}</think>"
            f"<answer>{answer if works else guess}</answer>",
        }
