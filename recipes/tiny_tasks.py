"""Procedural problems in a few characters, for the `tiny` overlays and the model that they start from.

They stand for the real data sets column by column: worked steps as demonstrations, their prefixes as hints, a worked and
a wrong completion as a preference pair, parameter changes as variants. A demonstration works the problem out, or guesses
a number near the right one: a base model, too, knows several ways to answer. Everything is a function of `seed`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

from rlcurric.seeds import hash64

Row = dict[str, Any]
# tagged: <think>..</think><answer>..</answer>. prefilled: the prompt ends with AutoThink's prefill, and the completion
# goes on from there. hybrid: with a no-think tag of its own where nothing is worked out (LHRM).
Style = Literal["tagged", "prefilled", "hybrid"]
PREFILL = "<think>\n...\n"
NAMES = "ABCDEFGHIJ"
LETTERS = "ABC"


def sums(
    terms: int = 2,
    digits: int = 1,
    size: int = 200,
    seed: int = 0,
    worked: float = 0.5,
    style: Style = "tagged",
    notes: float = 0.0,
    targets: tuple[int, int] | None = None,
) -> Iterator[Row]:
    """`3+4+9=`, worked as `3+4=7;7+9=16`.

    A share `worked` of the demonstrations is worked out. A share `notes` of the questions carries what the prompts of
    recipes add: a number of tokens in front, or a step as a hint behind. `targets`: each row has `target_tokens` in this range.
    """
    for index in range(size):
        key = ("sums", terms, digits, seed, index)
        numbers = [
            _draw(10 ** (digits - 1) - (digits == 1), 10**digits - 1, *key, k) for k in range(terms)
        ]
        question, steps, total = (
            "+".join(map(str, numbers)) + "=",
            _running_sum(numbers),
            sum(numbers),
        )
        row = _row(key, question, str(total), steps, _near(total, *key), worked, style)
        row = _noted(row, key, notes) | {"difficulty": 10 * terms * digits, "level": terms * digits}
        yield row if targets is None else row | {"target_tokens": _draw(*targets, *key, "target")}


def judged(terms: int = 2, size: int = 200, seed: int = 0, worked: float = 0.5) -> Iterator[Row]:
    """`3+4=8?`, to be answered by yes or no."""
    for index in range(size):
        key = ("judged", terms, seed, index)
        numbers = [_draw(0, 9, *key, k) for k in range(terms)]
        right = _share("right", *key) < 0.5
        claim = sum(numbers) if right else _near(sum(numbers), *key)
        verdicts = ("yes", "no") if right else ("no", "yes")
        question = "+".join(map(str, numbers)) + f"={claim}?"
        yield _row(key, question, verdicts[0], _running_sum(numbers), verdicts[1], worked) | {
            "difficulty": 10
        }


def choices(terms: int = 2, size: int = 200, seed: int = 0, worked: float = 0.5) -> Iterator[Row]:
    """`3+4=? A7 B8 C5`, to be answered by a letter; the options are also in the column `choices`."""
    for index in range(size):
        key = ("choices", terms, seed, index)
        numbers = [_draw(0, 9, *key, k) for k in range(terms)]
        total = sum(numbers)
        wrong = [total + 1 + _draw(0, 2, "above", *key), total + 4 + _draw(0, 2, "beyond", *key)]
        place = _draw(0, 2, "place", *key)
        options = [*map(str, wrong)]
        options.insert(place, str(total))
        shown = " ".join(f"{letter}{value}" for letter, value in zip(LETTERS, options, strict=True))
        question = "+".join(map(str, numbers)) + f"=? {shown}"
        other = LETTERS[(place + 1) % 3]
        yield _row(key, question, LETTERS[place], _running_sum(numbers), other, worked) | {
            "choices": options,
            "difficulty": 20,
        }


def variants(seeds: int = 20, seed: int = 0, worked: float = 0.5) -> Iterator[Row]:
    """Every combination of three changes of a sum, by `seed` and `variant` (MathBook, 2508.10433).

    x: other words for it (the terms turned round), y: another look (a space between), z: one more step. `principle` names
    what is to be known: the number of terms.
    """
    for number in range(seeds):
        key = ("variants", seed, number)
        base = [_draw(0, 9, *key, k) for k in range(3)]
        for variant in ("base", "x", "y", "z", "xy", "xz", "yz", "xyz"):
            numbers = base if "z" in variant else base[:2]
            numbers = numbers[::-1] if "x" in variant else numbers
            sign = " + " if "y" in variant else "+"
            question = sign.join(map(str, numbers)) + "="
            total = sum(numbers)
            row = _row(
                (*key, variant),
                question,
                str(total),
                _running_sum(numbers),
                _near(total, *key),
                worked,
            )
            yield row | {
                "seed": f"s{number}",
                "variant": variant,
                "principle": f"sum-{len(numbers)}",
                "difficulty": 10 * len(numbers),
            }


def knights_knaves(size: int = 200, seed: int = 0, worked: float = 0.5) -> Iterator[Row]:
    """Two islanders, of whom A says what B is, and B says whether they are of the same kind."""
    for index in range(size):
        key = ("knights", seed, index)
        names = [NAMES[place := _draw(0, len(NAMES) - 1, "first", *key)]]
        names.append(NAMES[(place + _draw(1, len(NAMES) - 1, "second", *key)) % len(NAMES)])
        kinds = [bool(_draw(0, 1, *key, k)) for k in range(2)]
        said = "knight" if kinds[0] == kinds[1] else "knave"
        same = "same" if kinds[1] == (kinds[0] == kinds[1]) else "other"
        answer, wrong = (
            ", ".join(f"{name} is a {_kind(kind)}" for name, kind in zip(names, those, strict=True))
            for those in (kinds, [not kind for kind in kinds])
        )
        steps = [f"{name} {_kind(kind)}" for name, kind in zip(names, kinds, strict=True)]
        row = _row(
            key, f"{names[0]}: {names[1]} {said}; {names[1]}: {same}?", answer, steps, wrong, worked
        )
        yield row | {"names": names, "people": 2, "difficulty": 30}


def countdown(
    numbers: int = 2, size: int = 200, seed: int = 0, worked: float = 0.5
) -> Iterator[Row]:
    """`7 3>4`: the numbers in this order with a sign between, as `7-3`."""
    for index in range(size):
        key = ("countdown", numbers, seed, index)
        given = [_draw(1, 9, *key, k) for k in range(numbers)]
        signs = [_draw(0, 1, "sign", *key, k) for k in range(numbers - 1)]
        expression, other = str(given[0]), str(given[0])
        for sign, number in zip(signs, given[1:], strict=True):
            expression += "-+"[sign] + str(number)
            other += "+-"[sign] + str(number)
        target = given[0] + sum(n if s else -n for s, n in zip(signs, given[1:], strict=True))
        question = " ".join(map(str, given)) + f">{target}="
        row = _row(key, question, expression, [f"{expression}={target}"], other, worked)
        yield row | {"nums": given, "target": target, "difficulty": 10 * numbers}


def instructions(size: int = 200, seed: int = 0) -> Iterator[Row]:
    """A sum with a rule for how to answer it that a program can check (IFEval's ids and arguments)."""
    rules: tuple[tuple[str, str, dict[str, Any]], ...] = (
        ("no commas", "punctuation:no_comma", {}),
        ("lower case", "change_case:english_lowercase", {}),
        ("say ok", "keywords:existence", {"keywords": ["ok"]}),
    )
    for index in range(size):
        key = ("instructions", seed, index)
        numbers = [_draw(0, 9, *key, k) for k in range(2)]
        text, name, arguments = rules[_draw(0, len(rules) - 1, "rule", *key)]
        total = sum(numbers)
        answer = f"ok {total}" if name == "keywords:existence" else str(total)
        wrong = f"No, {total}"
        question = "+".join(map(str, numbers)) + f"= {text}:"
        row = _row(key, question, answer, _running_sum(numbers), wrong, 0.5)
        yield row | {
            "answer": str(total),
            "instruction_id_list": [name],
            "kwargs": [arguments],
            "difficulty": 20,
        }


def _row(
    key: Sequence[Any],
    question: str,
    answer: str,
    steps: Sequence[str],
    wrong: Any,
    worked: float,
    style: Style = "tagged",
) -> Row:
    """All columns that some recipe reads."""
    works = _share("worked", *key) < worked
    thought = ";".join(steps)
    stated = answer if works or _share("lucky", *key) < 0.3 else str(wrong)
    right, guess = f"<answer>{answer}</answer>", f"<answer>{stated}</answer>"
    demonstration = f"<think>{thought if works else ''}</think>{guess}"
    if style == "prefilled":
        question, demonstration = question + PREFILL, demonstration.removeprefix("<think>")
    elif style == "hybrid" and not works:
        demonstration = f"<no_think>{guess}</no_think>"
    return {
        "question": question,
        "answer": answer,
        "demonstration": demonstration,
        "steps": thought,
        "hints": [";".join(steps[: k + 1]) for k in range(len(steps))],
        "chosen": f"<think>{thought}</think>{right}",
        "rejected": f"<think></think><answer>{wrong}</answer>",
    }


def _noted(row: Row, key: Sequence[Any], notes: float) -> Row:
    chance = _share("note", *key)
    if chance >= notes:
        return row
    if chance < notes * 0.6:
        return row | {"question": f"[{_draw(4, 60, 'budget', *key)}]{row['question']}"}
    return row | {"question": f"{row['question']}({row['hints'][0]})"}


def _running_sum(numbers: Sequence[int]) -> list[str]:
    steps, total = [], numbers[0]
    for number in numbers[1:]:
        steps.append(f"{total}+{number}={total + number}")
        total += number
    return steps


def _near(value: int, *key: Any) -> int:
    """Another number, at most four away, not below zero."""
    distance = _draw(1, 4, "distance", *key)
    return (
        value - distance if _share("below", *key) < 0.5 and value >= distance else value + distance
    )


def _kind(knight: bool) -> str:
    return "knight" if knight else "knave"


def _draw(low: int, high: int, *key: Any) -> int:
    """A whole number from low to high."""
    return low + hash64("draw", *key) % (high - low + 1)


def _share(*key: Any) -> float:
    return float(hash64("share", *key)) / 2**64
