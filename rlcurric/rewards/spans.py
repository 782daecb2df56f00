"""Tags in a completion. Every search is linear in the text, whatever a model writes."""

from __future__ import annotations

import re

_TAG = re.compile(r"[A-Za-z][\w-]{0,63}")


def check_tags(reward: str, *tags: str) -> None:
    """ValueError for what is no name of a tag, and for one that stands twice."""
    for tag in tags:
        if not _TAG.fullmatch(tag):
            raise ValueError(
                f"{reward}: a tag is a letter, then letters, digits, _ or -, without brackets; got {tag!r}"
            )
    if len(set(tags)) < len(tags):
        raise ValueError(f"{reward}: tags must differ, got {', '.join(tags)}")


def only_pair(text: str, tag: str) -> tuple[int, int] | None:
    """Where the pair of tags begins and ends; None unless each of the two stands exactly once, and in order."""
    opening, closing = f"<{tag}>", f"</{tag}>"
    if text.count(opening) != 1 or text.count(closing) != 1:
        return None
    begin, end = text.find(opening), text.find(closing)
    return (begin, end + len(closing)) if begin < end else None


def thought(text: str, tag: str = "think") -> str:
    """What stands before the first closing tag, without the opening one and what is before that.

    The opening tag may be missing: many chat templates write it into the prompt. Without a closing tag all that
    follows the opening one is thought.
    """
    before, _, _ = text.partition(f"</{tag}>")
    _, opening, inside = before.partition(f"<{tag}>")
    return inside if opening else before


def statement(text: str, tag: str = "think") -> str:
    """What stands behind the first closing tag; empty without one."""
    return text.partition(f"</{tag}>")[2]
