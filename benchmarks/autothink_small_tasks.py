"""Sums that are answered at once or worked out first, half of the demonstrations each way, behind AutoThink's ellipsis."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rlcurric.assets import folder, python_module
from rlcurric.seeds import hash64

PREFILL = "<think>\n...\n"


def sums(
    terms: int, size: int = 2000, seed: int = 0, thinks: float = 0.5, knows: bool = False
) -> Iterator[dict[str, Any]]:
    """`3+4+9=`: a share `thinks` worked as `3+4=7;7+9=16`, the others answered at once: rightly if `knows`, else guessed."""
    demo = python_module(folder("recipes") / "demo_tasks.py")
    worked = demo.sums(terms, size=size, seed=seed, worked=1.0)
    answered = demo.sums(terms, size=size, seed=seed, worked=0.0)
    for right, guess in zip(worked, answered, strict=True):
        thinking = hash64("thinks", terms, seed, right["question"]) < thinks * 2**64
        text = right["demonstration"] if thinking or knows else guess["demonstration"]
        if knows and not thinking:
            text = f"<think></think><answer>{right['answer']}</answer>"
        yield {**right, "demonstration": text.replace("<think>", PREFILL, 1)}
