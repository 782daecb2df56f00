"""Rows for tests: one-digit sums in a few characters. Nothing slow is imported for them: hundreds of processes make some."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Any


def sums(terms: int = 2, size: int = 40, seed: int = 0) -> Iterator[dict[str, Any]]:
    """`3+4-1=` with its worked demonstration: the problems of reasoning-gym's chain_sum, by the same draws."""
    for number in range(size):
        draw = random.Random(seed + number)
        _ = draw.randint(1, 1), draw.randint(1, 1)  # its draws of how many terms and digits
        digits = [draw.randint(0, 9) for _ in range(terms)]
        signs = [draw.choice("+-") for _ in range(terms - 1)]
        signed = zip(["+", *signs], digits, strict=True)
        answer = sum(digit if sign == "+" else -digit for sign, digit in signed)
        question = "".join(map(str, itertools.chain(*zip(digits, [*signs, "="], strict=True))))
        demonstration = f"<think>{question}</think><answer>{answer}</answer>"
        yield {"question": question, "answer": str(answer), "demonstration": demonstration}


def scored_sums(terms: int = 2, size: int = 40, seed: int = 0) -> Iterator[dict[str, Any]]:
    """The same sums, judged by reasoning-gym's own scorer, which gives a little for any number."""
    from rlcurric.data import reasoning_gym_rows

    config = {"min_terms": terms, "max_terms": terms, "min_digits": 1, "max_digits": 1}
    scored = reasoning_gym_rows("chain_sum", size, seed, config)
    for row, one in zip(sums(terms, size, seed), scored, strict=True):
        yield {**row, "reasoning_gym": one["reasoning_gym"]}


def hinted_sums(size: int = 8, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Sums of three terms with two hints, the first term and the demonstration's thought; the first row has none."""
    for number, row in enumerate(sums(3, size, seed)):
        question = row["question"]
        yield {**row, "hints": [question[:2], question] if number else []}


def preferences(terms: int = 2, size: int = 40, seed: int = 0) -> Iterator[dict[str, Any]]:
    """The same sums, each with its demonstration as the chosen completion and the answer alone as the rejected one."""
    for row in sums(terms, size, seed):
        yield {
            **row,
            "chosen": row["demonstration"],
            "rejected": f"<answer>{row['answer']}</answer>",
        }
