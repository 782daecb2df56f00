r"""Where in a completion the answer stands.

In this order: the last `<answer>` tag, the last `\boxed{}` (several that are joined by "," or "and" are one answer), the
text after the last `####`, and, if asked for, the last number. A mark around a mark is looked into, one around nothing
is passed over. Only where nothing of that stands behind the closing think tag do marks inside the thought count; a
thought that never closes has no last number.
"""

from __future__ import annotations

import re

_OPEN, _CLOSE = re.compile("<answer>", re.IGNORECASE), re.compile("</answer>", re.IGNORECASE)
_BOX = re.compile(r"\\f?boxed\s*\{|\\boxed\s+(?P<bare>[-+]?[\w.]+)")
_BETWEEN_BOXES = re.compile(r"[\s$]*(?:,|;|,?\s*(?:\\text\{\s*)?\b(?:and|or)\b(?:\s*\})?)[\s$]*")
_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)"
_NUMBER = re.compile(
    rf"[-+−]?\\[dt]?frac\{{\d+\}}\{{\d+\}}|[-+−]?(?:\d+ )?\d+/\d+|[-+−]?{_DIGITS}(?:\.\d+)?(?:[eE][-+]?\d+)?|[-+−]?\.\d+"
)
_INTRODUCTION = re.compile(
    r"(?:so|thus|hence|therefore)?,?\s*(?:the\s+|my\s+)?(?:final\s+|correct\s+)?answer\s*(?:is\b|:|=)\s*:?\s*",
    re.IGNORECASE,
)
_MAX_CHARACTERS = 20_000  # of the end of a completion that are searched
_DEEPEST = 5  # marks around marks that are looked into
_MAX_BOXES = 20  # that may make one answer


def extract_answer(completion: str, numbers: bool = True) -> str | None:
    """The answer as text, stripped; None if there is none."""
    thought, statement = split_thought(completion, _MAX_CHARACTERS)
    return _marked(statement) or (last_number(statement) if numbers else None) or _marked(thought)


def split_thought(completion: str, characters: int = 0) -> tuple[str, str]:
    """What is thought and what stands behind it, in the last so many `characters` (0: all of them).

    A completion without think tags has no thought; one whose thought never closes has nothing else.
    """
    text = completion[-characters:]
    thought, closed, statement = text.rpartition("</think>")
    return (thought, statement) if closed or "<think>" not in completion else (text, "")


def final_statement(completion: str) -> str | None:
    """What tags, a box or hashes mark as the answer, else all that stands behind the thought; None if that is nothing."""
    _, statement = split_thought(completion)
    return extract_answer(completion, numbers=False) or statement.strip() or None


def last_number(text: str) -> str | None:
    """The last number as it is written: an integer, a decimal, a fraction or a mixed number."""
    found = _NUMBER.findall(text)
    return str(found[-1]) if found else None


def only_number(text: str) -> str | None:
    """The one number in the text; None if there is none or there are several."""
    found = set(_NUMBER.findall(text))
    return str(found.pop()) if len(found) == 1 else None


def last_boxed(text: str) -> str | None:
    r"""Contents of the last `\boxed{...}` with balanced braces; None if there is none."""
    boxes = _boxes(text)
    return boxes[-1][2] if boxes else None


def _marked(text: str) -> str | None:
    """What tags, a box or hashes mark as the answer; None for nothing."""
    found = ""
    for _ in range(_DEEPEST):
        inner = _tagged(text) or _boxed(text) or _hashed(text)
        if not inner:
            break
        found = text = inner
    return _bare(found) or None


def _tagged(text: str) -> str:
    """Contents of the last `<answer>` tag that closes and holds something."""
    opens = [match.end() for match in _OPEN.finditer(text)]
    for number, start in reversed(list(enumerate(opens))):
        end = _CLOSE.search(
            text, start, opens[number + 1] if number + 1 < len(opens) else len(text)
        )
        if end and text[start : end.start()].strip():
            return text[start : end.start()].strip()
    return ""


def _boxed(text: str) -> str:
    """Contents of the last box, with those in front of it that are joined to it."""
    boxes = [box for box in _boxes(text) if box[2].strip()]
    if not boxes:
        return ""
    joined = [boxes[-1]]
    for box in reversed(boxes[-_MAX_BOXES:-1]):
        if not _BETWEEN_BOXES.fullmatch(text, box[1], joined[0][0]):
            break
        joined.insert(0, box)
    contents = [content.strip() for _, _, content in joined]
    return contents[0] if len(set(contents)) == 1 else ", ".join(contents)


def _hashed(text: str) -> str:
    """What follows the last `####` on its line."""
    for line in reversed(text.splitlines() if "####" in text else []):
        for part in reversed(line.split("####")[1:]):
            if part.strip(" \t#"):
                return part.strip(" \t#")
    return ""


def _bare(text: str) -> str:
    """Without "the answer is" in front and Markdown's stars around it."""
    return (
        _INTRODUCTION.sub("", text.strip().strip("*`").strip(), count=1).strip().strip("*`").strip()
    )


def _boxes(text: str) -> list[tuple[int, int, str]]:
    """Beginning, end and contents of every box that closes, in order of their beginnings."""
    if "boxed" not in text:
        return []
    closing = _closing_braces(text)
    found = []
    for match in _BOX.finditer(text):
        if match["bare"] is not None:
            found.append((match.start(), match.end(), match["bare"]))
        elif match.end() - 1 in closing:
            end = closing[match.end() - 1]
            found.append((match.start(), end + 1, text[match.end() : end]))
    return found


def _closing_braces(text: str) -> dict[int, int]:
    """Where each opening brace closes; escaped ones are no braces."""
    pairs: dict[int, int] = {}
    opened: list[int] = []
    for match in re.finditer(r"\\.|[{}]", text, re.DOTALL):
        if match[0] == "{":
            opened.append(match.start())
        elif match[0] == "}" and opened:
            pairs[opened.pop()] = match.start()
    return pairs
