"""Sums that demonstrations guess or work out, each step in full or in brief: one problem has many lengths."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rlcurric.assets import folder, python_module
from rlcurric.seeds import hash64


def sums(
    terms: int, size: int = 2000, seed: int = 0, worked: float = 0.5, full: float = 0.6
) -> Iterator[dict[str, Any]]:
    """`3+4+9=`: a share `worked` in steps, a share `full` of which are `3+4=7` and the others `7`; the rest guessed."""
    demo = python_module(folder("recipes") / "demo_tasks.py")
    for row in demo.sums(terms, size=size, seed=seed, worked=worked):
        thought = row["demonstration"].partition("<think>")[2].partition("</think>")[0]
        steps = [
            step
            if hash64("style", terms, seed, row["question"], place) < full * 2**64
            else step.partition("=")[2]
            for place, step in enumerate(thought.split(";"))
        ]
        yield {**row, "demonstration": row["demonstration"].replace(thought, ";".join(steps), 1)}
