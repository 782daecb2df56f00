"""Sums that demonstrations work out in full, in brief, or guess: three lengths for one problem."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rlcurric.assets import folder, python_module
from rlcurric.seeds import hash64


def sums(
    terms: int, size: int = 2000, seed: int = 0, full: float = 0.3, brief: float = 0.2
) -> Iterator[dict[str, Any]]:
    """`3+4+9=`: a share `full` worked as `3+4=7;7+9=16`, a share `brief` as `7;16`, the others guessed."""
    demo = python_module(folder("recipes") / "demo_tasks.py")
    worked = demo.sums(terms, size=size, seed=seed, worked=1.0)
    guessed = demo.sums(terms, size=size, seed=seed, worked=0.0)
    for right, wrong in zip(worked, guessed, strict=True):
        place = hash64("style", terms, seed, right["question"]) / 2**64
        if place < full:
            yield right
        elif place < full + brief:
            steps = right["demonstration"].partition("<think>")[2].partition("</think>")[0]
            results = ";".join(step.partition("=")[2] for step in steps.split(";"))
            yield {
                **right,
                "demonstration": f"<think>{results}</think><answer>{right['answer']}</answer>",
            }
        else:
            yield wrong
