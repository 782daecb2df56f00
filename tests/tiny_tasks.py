"""Rows for tests: one-digit sums in a few characters, scored by reasoning-gym's own scorer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def sums(terms: int = 2, size: int = 40, seed: int = 0) -> Iterator[dict[str, Any]]:
    """`3+4=` with its worked demonstration."""
    from rlcurric.data import reasoning_gym_rows

    config = {"min_terms": terms, "max_terms": terms, "min_digits": 1, "max_digits": 1}
    for row in reasoning_gym_rows("chain_sum", size, seed, config):
        question = row["reasoning_gym"]["entry"]["metadata"]["expression"].replace(" ", "") + "="
        demonstration = f"<think>{question}</think><answer>{row['answer']}</answer>"
        yield {**row, "question": question, "demonstration": demonstration}


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
