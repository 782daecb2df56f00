"""More procedural problems for `tiny` overlays, beside those of tiny_tasks.py."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rlcurric.seeds import hash64


def instructed(size: int = 200, seed: int = 0) -> Iterator[dict[str, Any]]:
    """`3+4=` under two instructions that a program can check: no comma, and the right number among the words."""
    for index in range(size):
        left, right = (hash64("instructed", seed, index, place) % 10 for place in range(2))
        total = str(left + right)
        yield {
            "question": f"{left}+{right}=",
            "answer": total,
            "demonstration": f"<think>{left}+{right}={total}</think><answer>{total}</answer>",
            "instruction_id_list": ["punctuation:no_comma", "keywords:existence"],
            "kwargs": [{}, {"keywords": [total]}],
        }
