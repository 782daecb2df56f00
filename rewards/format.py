"""Well-formed tags."""

from __future__ import annotations

from typing import Any, Literal

import rlcurric
from rlcurric.rewards.spans import check_tags, only_pair

Span = tuple[int, int]


def _check(
    think_tag: str, answer_tag: str, observe_tag: str, observe: float, **others: Any
) -> None:
    check_tags("format", think_tag, answer_tag, *([observe_tag] if observe_tag else []))
    if observe and not observe_tag:
        raise ValueError("format: `observe` is what an observe pair is worth; name its observe_tag")


@rlcurric.reward("format", where="inline", validate=_check)
def format_tags(
    prompts: list[str],
    completions: list[str],
    think: float = 0.5,
    answer: float = 0.5,
    form: Literal["soft", "together", "strict"] = "soft",
    think_tag: str = "think",
    answer_tag: str = "answer",
    observe_tag: str = "",
    observe: float = 0.0,
    **columns: Any,
) -> list[float]:
    """Parts for one well-formed <think>...</think> and one <answer>...</answer> behind it (2508.08940, section 3).

    A pair counts if each of its tags stands exactly once, in order, and the answer after the thought. `think`,
    `answer` and `observe` are what the pairs are worth. With an `observe_tag` a third pair is looked for: before the
    thought or inside it (Observe-R1, 2505.12432). `form: soft` pays each pair for itself, `together` their sum if all
    are well-formed and in order, else 0, and `strict` the same if nothing but white space stands outside of them.
    """
    _check(think_tag, answer_tag, observe_tag, observe)
    tags = [think_tag, answer_tag, *([observe_tag] if observe_tag else [])]
    worth = [think, answer, observe][: len(tags)]
    return [_score(text, tags, worth, form) for text in completions]


def _score(text: str, tags: list[str], worth: list[float], form: str) -> float:
    pairs = [only_pair(text, tag) for tag in tags]
    counted = _in_order(*pairs)
    if form != "soft":
        whole = all(counted) and (form == "together" or _nothing_else(text, pairs))
        return sum(worth) if whole else 0.0
    return sum((value for value, counts in zip(worth, counted, strict=True) if counts), 0.0)


def _in_order(
    thought: Span | None, answered: Span | None, *observed: Span | None
) -> tuple[bool, ...]:
    """Which pairs count."""
    apart = thought is None or answered is None or thought[1] <= answered[0]
    first = (thought is not None and apart, answered is not None and apart)
    return *first, *(_observes(pair, thought, answered) for pair in observed)


def _observes(pair: Span | None, thought: Span | None, answered: Span | None) -> bool:
    if pair is None or (answered is not None and pair[1] > answered[0]):
        return False
    return thought is None or pair[1] <= thought[0] or thought[0] < pair[0] < pair[1] < thought[1]


def _nothing_else(text: str, pairs: list[Span | None]) -> bool:
    place = 0
    for begin, end in sorted(pair for pair in pairs if pair is not None):
        if begin < place:  # an observation inside the thought
            continue
        if text[place:begin].strip():
            return False
        place = end
    return not text[place:].strip()
