"""The demo's data: problems of reasoning-gym in a few characters, with worked demonstrations and guessed ones.

Every row keeps its reasoning-gym entry, and the task's own scorer judges the answers. A demonstration either works
the problem out between the think tags, or leaves them empty and guesses a number near the right one. A base model,
too, knows several ways to answer; to choose the one that works is what RL can teach.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from rlcurric.seeds import hash64

Row = dict[str, Any]


def sums(
    terms: int, digits: int = 1, size: int = 2000, seed: int = 0, worked: float = 0.4
) -> Iterator[Row]:
    """`3+4+9=`, worked as `3+4=7;7+9=16`: chain_sum's problems without a minus sign."""
    config = {
        "min_terms": terms,
        "max_terms": terms,
        "min_digits": digits,
        "max_digits": digits,
    }

    def render(entry: Row) -> tuple[str, str] | None:
        expression = entry["metadata"]["expression"].replace(" ", "")
        return None if "-" in expression else (f"{expression}=", _running_sum(expression))

    return _rows("chain_sum", config, render, size, seed, worked)


def bits(
    smallest: int = 32, largest: int = 4095, size: int = 2000, seed: int = 0, worked: float = 0.4
) -> Iterator[Row]:
    """`#1 10110=`, worked as the bits with a running count behind each one: count_bits."""

    def render(entry: Row) -> tuple[str, str]:
        binary = entry["metadata"]["binary"]
        return f"#1 {binary}=", _running_count(binary, "1")

    return _rows("count_bits", {"min_n": smallest, "max_n": largest}, render, size, seed, worked)


def letters(
    words: int = 1, longest: int = 12, size: int = 2000, seed: int = 0, worked: float = 0.4
) -> Iterator[Row]:
    """`#n banana=`, worked as the letters with a running count behind each match: letter_counting."""

    def render(entry: Row) -> tuple[str, str] | None:
        text, letter = (
            "".join(entry["metadata"]["span"]).lower(),
            entry["metadata"]["target_letter"],
        )
        if len(text) > longest or not (text.isascii() and text.isalpha()):
            return None
        return f"#{letter} {text}=", _running_count(text, letter)

    config = {"min_words": words, "max_words": words}
    return _rows("letter_counting", config, render, size, seed, worked)


def _running_sum(expression: str) -> str:
    first, *rest = (int(term) for term in expression.split("+"))
    steps, total = [], first
    for term in rest:
        steps.append(f"{total}+{term}={total + term}")
        total += term
    return ";".join(steps)


def _running_count(text: str, letter: str) -> str:
    count, parts = 0, []
    for character in text:
        count += character == letter
        parts.append(f"{character}{count}" if character == letter else character)
    return "".join(parts)


def _guess(answer: int, chance: int) -> int:
    """A number at most four away and never negative: right once in nine times, or a little more for counts."""
    return abs(answer + chance % 9 - 4)


def _rows(
    task: str,
    config: Row,
    render: Callable[[Row], tuple[str, str] | None],
    size: int,
    seed: int,
    worked: float,
) -> Iterator[Row]:
    """`size` rows of those problems that `render` can show; a share `worked` of them worked out."""
    import reasoning_gym

    dataset = reasoning_gym.create_dataset(task, size=1_000_000_000, seed=seed, **config)
    made = index = 0
    while made < size:
        entry = dataset[index]
        index += 1
        shown = render(entry)
        if shown is None:
            continue
        made += 1
        question, steps = shown
        works = hash64("worked", task, seed, index) < worked * 2**64
        thought = f"<think>{steps if works else ''}</think>"
        stated = (
            entry["answer"]
            if works
            else _guess(int(entry["answer"]), hash64("guess", task, seed, index))
        )
        yield {
            "question": question,
            "answer": entry["answer"],
            "demonstration": f"{thought}<answer>{stated}</answer>",
            "reasoning_gym": {"task": task, "entry": entry},
        }
