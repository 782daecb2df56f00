"""Which part of a completion a verifier reads, where that is not the answer alone."""

from __future__ import annotations

from typing import Literal

from rlcurric.rewards.extraction import extract_answer, split_thought

Part = Literal["answer", "response"]

_MAX_CHARACTERS = 100_000  # of the end of a completion that are looked at


def response(completion: str) -> str:
    """What stands behind the thought, stripped; all of it where there is no thought, nothing where it is still open."""
    _, statement = split_thought(completion, _MAX_CHARACTERS)
    return statement.strip()


def tagged(text: str) -> str | None:
    """Contents of the last `<answer>` pair, stripped; None if there is none."""
    end = text.rfind("</answer>")
    start = text.rfind("<answer>", 0, max(end, 0))
    return text[start + len("<answer>") : end].strip() if start >= 0 else None


def passage(completion: str, part: Part) -> str:
    """`answer`: what a tag, box or hashes mark; `response`: all behind the thought. Empty if there is none."""
    if part == "response":
        return response(completion)
    return extract_answer(completion, numbers=False) or ""
