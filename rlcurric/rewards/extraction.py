r"""Where in a completion the answer stands.

In this order: the last `<answer>` tag, the last `\boxed{}`, the text after the last `####`, and, if asked for, the last
number. Only where nothing of that stands behind the closing think tag do marks inside the thought count.
"""

from __future__ import annotations

import re

_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_HASHES = re.compile(r"####\s*(.+)")
_NUMBER = re.compile(r"[-+−]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:/\d+)?|[-+−]?\.\d+")
_MAX_CHARACTERS = 20_000  # of the end of a completion that are searched


def extract_answer(completion: str, numbers: bool = True) -> str | None:
    """The answer as text, stripped; None if there is none."""
    text = completion[-_MAX_CHARACTERS:]
    thought, _, statement = text.rpartition("</think>")
    return _marked(statement) or (_last_number(statement) if numbers else None) or _marked(thought)


def _marked(text: str) -> str | None:
    """What tags, a box or hashes mark as the answer."""
    tags = _ANSWER.findall(text)
    if tags:
        return str(tags[-1]).strip()
    boxed = last_boxed(text)
    if boxed is not None:
        return boxed.strip()
    hashes = _HASHES.findall(text)
    return str(hashes[-1]).strip() if hashes else None


def _last_number(text: str) -> str | None:
    found = _NUMBER.findall(text)
    return str(found[-1]) if found else None


def last_boxed(text: str) -> str | None:
    r"""Contents of the last `\boxed{...}` with balanced braces; None if there is none."""
    start = text.rfind("\\boxed{")
    while start >= 0:
        depth, begin = 0, start + len("\\boxed{")
        for place in range(begin - 1, len(text)):
            depth += (text[place] == "{") - (text[place] == "}")
            if depth == 0:
                return text[begin:place]
        start = text.rfind("\\boxed{", 0, start)
    return None


def plain_number(text: str) -> str | None:
    """A decimal number in one spelling, or None where the text is anything else.

    "1,000", "$1000", "+1000.0" and "1000" are the same; "1/2", "2x" and "10%" are no plain numbers.
    """
    cleaned = text.strip().strip("$").strip().rstrip(".").replace("−", "-").removeprefix("\\$")
    if not re.fullmatch(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|[-+]?\.\d+", cleaned):
        return None
    whole, _, decimals = cleaned.replace(",", "").lstrip("+-").partition(".")
    digits, decimals = whole.lstrip("0") or "0", decimals.rstrip("0")
    value = digits + (f".{decimals}" if decimals else "")
    return f"-{value}" if cleaned.startswith("-") and value != "0" else value
