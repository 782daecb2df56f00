"""Completions whose format is broken by rule while their content stays (SPECS 2510.25801): rejected ones for pairs."""

from __future__ import annotations

import re
from collections.abc import Callable

from rlcurric.seeds import hash64

_TAG = re.compile(r"</?([A-Za-z_][\w-]*)>")
_BOXED = "\\boxed{"


def corrupted(text: str, key: int) -> tuple[str, str] | None:
    """`(text, rule)`: the text with its format broken, by a rule and at a place that `key` chooses.

    None where no rule applies: the text has no tags and no boxed answer.
    """
    names = sorted(_RULES, key=lambda name: hash64(key, "rule", name))
    for name in names:
        found = sorted(set(_RULES[name](text)) - {text})
        if found:
            return found[hash64(key, "place", name) % len(found)], name
    return None


def _left_out(text: str) -> list[str]:
    """One tag is missing."""
    return [text[: tag.start()] + text[tag.end() :] for tag in _TAG.finditer(text)]


def _doubled(text: str) -> list[str]:
    """One tag stands twice."""
    return [text[: tag.end()] + tag[0] + text[tag.end() :] for tag in _TAG.finditer(text)]


def _moved(text: str) -> list[str]:
    """One tag stands behind the next one, or at the end."""
    tags = list(_TAG.finditer(text))
    found = []
    for number, tag in enumerate(tags):
        behind = tags[number + 1].end() if number + 1 < len(tags) else len(text)
        found.append(text[: tag.start()] + text[tag.end() : behind] + tag[0] + text[behind:])
    return found


def _closed_early(text: str) -> list[str]:
    """A closing tag stands in the middle of what it should close."""
    found, opened = [], None
    for tag in _TAG.finditer(text):
        if not tag[0].startswith("</"):
            opened = tag
        elif opened is not None and opened[1] == tag[1]:
            inside = text[opened.end() : tag.start()]
            middle = opened.end() + len(inside) // 2
            split = (one for one in _TAG.finditer(text) if one.start() < middle < one.end())
            middle = next((one.start() for one in split), middle)  # no tag is torn apart
            if inside.strip():
                found.append(
                    text[:middle] + tag[0] + text[middle : tag.start()] + text[tag.end() :]
                )
            opened = None
    return found


def _answer_unmarked(text: str) -> list[str]:
    """What marks the answer is gone: the tags around it, or the box."""
    bare = re.sub(r"</?answer>", "", text)
    start = text.rfind(_BOXED)
    if bare != text or start < 0:
        return [bare]
    depth, place = 1, start + len(_BOXED)
    while place < len(text) and depth:
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        place += 1
    if depth:
        return []
    return [text[:start] + text[start + len(_BOXED) : place - 1] + text[place:]]


_RULES: dict[str, Callable[[str], list[str]]] = {
    "left_out": _left_out,
    "doubled": _doubled,
    "moved": _moved,
    "closed_early": _closed_early,
    "answer_unmarked": _answer_unmarked,
}
