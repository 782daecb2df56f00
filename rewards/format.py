"""Well-formed tags."""

from __future__ import annotations

import re
from typing import Any

import rlcurric


@rlcurric.reward("format", where="inline")
def format_tags(
    prompts: list[str],
    completions: list[str],
    think: float = 0.5,
    answer: float = 0.5,
    **columns: Any,
) -> list[float]:
    """Parts for one well-formed <think>...</think> and one <answer>...</answer> behind it (2508.08940, section 3).

    A pair counts if each of its tags stands exactly once, in order, and the answer after the thought. `think` and
    `answer` are what the pairs are worth.
    """
    return [_score(text, think, answer) for text in completions]


def _score(text: str, think: float, answer: float) -> float:
    thought, answered = _span(text, "think"), _span(text, "answer")
    apart = thought is None or answered is None or thought[1] <= answered[0]
    return (think if thought and apart else 0.0) + (answer if answered and apart else 0.0)


def _span(text: str, tag: str) -> tuple[int, int] | None:
    """Where the one pair of tags begins and ends."""
    opens = [match.start() for match in re.finditer(f"<{tag}>", text)]
    closes = [match.end() for match in re.finditer(f"</{tag}>", text)]
    if len(opens) == len(closes) == 1 and opens[0] < closes[0]:
        return opens[0], closes[0]
    return None
