"""Whether a completion thinks: told by what stands in it, prefill included."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from rlcurric.rewards.spans import statement, thought

Mode = Literal["think", "no_think"]
_ELLIPSIS = ".…"
_MARKS = ("</answer>", "\\boxed{", "####")


def mode_of(text: str, think_tag: str = "think", no_think_tag: str = "no_think") -> Mode:
    """`no_think` where the thought is closed at once, or a tag of its own says so; else `think`.

    Closed at once: nothing but white space and dots stands before the first `</think>` (AutoThink, 2505.10832: the
    prefill `<think>` ellipsis, or a response that begins with the closing tag; the empty thought of hybrid models is
    the same). A tag of its own: the text begins with `<no_think>` (LHRM, 2505.14631). A thought that is never closed
    is one.
    """
    if _named(text, no_think_tag):
        return "no_think"
    if f"</{think_tag}>" not in text:
        return "think"
    empty = all(sign.isspace() or sign in _ELLIPSIS for sign in thought(text, think_tag))
    return "no_think" if empty else "think"


def modes_of(
    completions: Sequence[str],
    forced: Sequence[str],
    think_tag: str = "think",
    no_think_tag: str = "no_think",
) -> list[Mode]:
    """The mode of each completion: the one that was forced on it, if that is called like a tag, else what it says.

    So a completion that was made to think and closes its thought at once is still one of the thinking mode, whose token
    it was sampled behind. `forced` is the column `forced_mode`; empty where the stage forces none.
    """
    named: dict[str, Mode] = {think_tag: "think", no_think_tag: "no_think"}
    names = forced or [""] * len(completions)
    return [
        named.get(name) or mode_of(text, think_tag, no_think_tag)
        for text, name in zip(completions, names, strict=True)
    ]


def is_closed(text: str, think_tag: str = "think", no_think_tag: str = "no_think") -> bool:
    """Whether the part that names the mode has its closing tag."""
    return f"</{_mode_tag(text, think_tag, no_think_tag)}>" in text


def marks_answer(text: str, think_tag: str = "think", no_think_tag: str = "no_think") -> bool:
    r"""Whether an answer tag, a `\boxed{` or `####` stands where an answer may: behind the thought.

    A `<no_think>` pair may hold the whole response, so there the answer may stand anywhere.
    """
    place = text if _named(text, no_think_tag) else statement(text, think_tag)
    return any(mark in place for mark in _MARKS)


def _named(text: str, no_think_tag: str) -> bool:
    return text.lstrip().startswith(f"<{no_think_tag}>")


def _mode_tag(text: str, think_tag: str, no_think_tag: str) -> str:
    return no_think_tag if _named(text, no_think_tag) else think_tag
