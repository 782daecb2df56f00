r"""One spelling for mathematical text: LaTeX in its many forms, Unicode, Markdown and plain words.

It changes how things are written, never what they are: `\dfrac12`, `½` and `\frac{1}{2}` become one text, 1/2 and 0.5
do not. Structure (lists, sets, intervals, matrices) is read here too, because sympy has no single form for it.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from rlcurric.rewards.quantities import UNITS, quantity

_SYMBOLS = {
    "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "×": r"\cdot ", "⋅": r"\cdot ", "·": r"\cdot ", "∙": r"\cdot ",
    "÷": "/", "⁄": "/", "∕": "/", "π": r"\pi ", "∞": r"\infty ", "°": r"^\circ ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ",
    "≈": r"\approx ", "±": r"\pm ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∅": r"\emptyset ", "θ": r"\theta ",
    "α": r"\alpha ", "β": r"\beta ", "ℝ": r"\mathbb{R}", "√": r"\sqrt ", "’": "'", "“": '"', "”": '"', "％": "%",
}  # fmt: skip
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_WORDS = r"\\(?:text|mbox|textnormal|textbf|textrm|textit|textsf|texttt|mathrm|mathbf|mathit|mathsf|boldsymbol|bm|operatorname)"

# Patterns and what stands for them, in this order.
_SPELLING: list[tuple[re.Pattern[str], str]] = [
    (re.compile(pattern), replacement)
    for pattern, replacement in [
        (r"\\(?:left|right|[bB]igg?[lrm]?)(?![a-zA-Z])\s*", ""),
        (r"\\(?:displaystyle|textstyle|limits|nolimits|rm|bf)(?![a-zA-Z])", ""),
        (r"\\phantom\s*(?:\{[^{}]*\}|.)", ""),
        (r"(?<=\d)(?:\\[,; ]|~)(?=\d{3}(?!\d))", ","),  # thousands
        (r"(?<=\d)\{?,\}?\s*\\!\s*(?=\d{3})|(?<=\d)\{,\}(?=\d{3})", ","),
        (r"\\!", ""),
        (r"\\[,;:> ]|~|\\q?quad(?![a-zA-Z])|\\thinspace(?![a-zA-Z])|[\u00a0\u2009\u202f]", " "),
        (_WORDS + r"\s*\{\s*([ei])\s*\}", r"\1 "),
        (_WORDS + r"\s*\{", r"\\text{"),
        (r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"),
        (r"\\(?:times|ast)(?![a-zA-Z])|(?<![*])\*(?![*])", r"\\cdot "),
        (r"\\(?:leq|leqslant|le)(?![a-zA-Z])|<=", r"\\le "),
        (r"\\(?:geq|geqslant|ge)(?![a-zA-Z])|>=", r"\\ge "),
        (r"\\lt(?![a-zA-Z])", "<"),
        (r"\\gt(?![a-zA-Z])", ">"),
        (r"\\(?:varnothing|emptyset)(?![a-zA-Z])", r"\\emptyset "),
        (r"\\colon(?![a-zA-Z])", ":"),
        (r"\^?\s*\{?\s*\\(?:circ|degree)(?![a-zA-Z])\s*\}?", r"^\\circ "),
        (r"(?:\\%|\\text\{\s*\\?%\s*\})", "%"),
        (r"\s*(?:\\text\{\s*)?(?<![a-zA-Z])(?:percent|pct)(?![a-zA-Z])(?:\s*\})?\.?$", "%"),
        (r"\\\$", "$"),
        (r"\\[\(\)\[\]](?!\d*(?:pt|ex))", " "),
        (r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}"),
        (r"\\frac\s*(\d)\s*\{", r"\\frac{\1}{"),
        (r"(\\frac\s*\{[^{}]*\})\s*(\d)", r"\1{\2}"),
        (r"\\frac\s*\{([^{}]*)\}\s*\{", r"\\frac{\1}{"),
        (r"\\sqrt\s*(\d)(?!\d)", r"\\sqrt{\1}"),
        (r"\\sqrt\s*(\d\d+)", r"\\sqrt{\1}"),
        (r"(?<![a-zA-Z\\])sqrt\s*\(([^()]*)\)|\\sqrt\s*\(([^()]*)\)", r"\\sqrt{\1\2}"),
        (r"(?<![a-zA-Z\\])(?:pi)(?![a-zA-Z])", r"\\pi "),
        (r"\^\s*\(([^()]*)\)", r"^{\1}"),
        (r"\*\*(\d+|\w)", r"^{\1}"),
    ]
]
_EDGES = " \t\r\n.,;:`"


def clean(text: str) -> str:
    """The text in one spelling; empty for nothing."""
    spelled = _ascii(text).strip().strip("*`").replace("\n", " ").replace("\\\\", "\x00")
    for pattern, replacement in _SPELLING:
        spelled = pattern.sub(replacement, spelled)
    spelled = spelled.replace("$", " ").replace("\x00", "\\\\")
    spelled = _stripped(re.sub(r"\s+", " ", spelled))
    while spelled.startswith("{") and closing(spelled, 0) == len(spelled) - 1:
        spelled = _stripped(spelled[1:-1])
    return spelled


def _stripped(text: str) -> str:
    """Without punctuation at its ends, but for the point of ".5"."""
    bare = text.strip(_EDGES)
    return f".{bare}" if bare[:1].isdigit() and text.lstrip().startswith(f".{bare}") else bare


def _ascii(text: str) -> str:
    """Digits, fractions, powers and signs of Unicode in the spelling of LaTeX."""
    if text.isascii():
        return text
    text = re.sub("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺]+", lambda m: "^{" + m[0].translate(_SUPERSCRIPTS) + "}", text)
    text = re.sub("[₀₁₂₃₄₅₆₇₈₉]+", lambda m: "_{" + m[0].translate(_SUBSCRIPTS) + "}", text)
    characters = []
    for character in text:
        if character in _SYMBOLS:
            characters.append(_SYMBOLS[character])
        elif character.isascii():
            characters.append(character)
        elif (digit := unicodedata.decimal(character, None)) is not None:
            characters.append(str(digit))
        elif unicodedata.decomposition(character).startswith("<fraction>"):
            characters.append(" " + unicodedata.normalize("NFKC", character).replace("⁄", "/"))
        else:
            characters.append(unicodedata.normalize("NFKC", character))
    return "".join(characters).strip()


def squeezed(text: str) -> str:
    r"""Without white space and without the braces of single characters (`x^{2}` is `x^2`): for comparison only."""
    kept = re.sub(r"(\\[a-zA-Z]+) (?=[a-zA-Z])|(?<=\d) (?=\d)", "\\1\x01", text)
    bare = kept.replace(" ", "").replace("\x01", " ")
    return re.sub(r"([\^_])\{(\w)\}", r"\1\2", bare)


def closing(text: str, start: int) -> int:
    """Where the bracket at `start` closes, whatever its kind ("[0, 1)" closes too); -1 if it does not."""
    depth = 0
    for place in range(start, len(text)):
        if text[place] in "([{":
            depth += 1
        elif text[place] in ")]}":
            depth -= 1
            if depth == 0:
                return place
    return -1


def split_top(text: str, separator: re.Pattern[str]) -> list[str]:
    """The parts of a text at the separators that stand in no bracket."""
    parts, depth, begin, place = [], 0, 0, 0
    while place < len(text):
        if depth == 0 and (match := separator.match(text, place)) and match.end() > place:
            parts.append(text[begin:place])
            begin = place = match.end()
            continue
        depth += (text[place] in "([{") - (text[place] in ")]}")
        place += 1
    return [part.strip() for part in [*parts, text[begin:]]]


# --- units ------------------------------------------------------------------------------------------------------------

_TEXT_UNIT = re.compile(
    r"(?P<rest>.*?[\w})\]%!])\s*\\text\{(?P<words>[^{}]*)\}(?P<power>\s*\^\s*\{?\s*[23]\s*\}?)?\.?"
)
_WORD_UNIT = re.compile(
    r"(?P<rest>.*?[\d})%])(?P<gap>\s*)(?P<words>[a-zA-Z][a-zA-Z. /-]*)(?P<power>\^\{?[23]\}?)?\.?"
)
TRIGONOMETRY = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-zA-Z])")
_FUNCTIONS = {
    "sin",
    "cos",
    "tan",
    "cot",
    "sec",
    "csc",
    "log",
    "ln",
    "exp",
    "sqrt",
    "pi",
    "mod",
    "and",
    "or",
    "to",
    "not",
}


def split_unit(text: str, letters: bool = True) -> tuple[str, str]:
    r"""What stands before a unit, and the unit's words ("5\text{ cm}^2": "5" and " cm^2").

    `letters`: a single letter behind a space may be a unit ("5 m"); else it is a variable.
    """
    if text.endswith("^\\circ") and not TRIGONOMETRY.search(text):
        return text.removesuffix("^\\circ").strip(), "degrees"
    if match := _TEXT_UNIT.fullmatch(text):
        return match["rest"].strip(), match["words"] + (match["power"] or "")
    match = _WORD_UNIT.fullmatch(text)
    if match is None or "\\" in match["words"]:
        return text, ""
    words = re.findall("[a-z]+", match["words"].lower().replace(".", ""))
    known = all(word in UNITS for word in words)
    short = [word for word in words if len(word) == 1]
    if (
        not words
        or _FUNCTIONS & set(words)
        or (short and not (letters and known and match["gap"]))
        or (not match["gap"] and not known)
    ):
        return text, ""
    return match["rest"].strip(), match["words"] + (match["power"] or "")


# --- structure --------------------------------------------------------------------------------------------------------

_COMMA = re.compile(
    r"\s*(?:[,;]\s*(?:\\text\{\s*(?:,\s*)?(?:and|or)\s*\}|(?:and|or)\b)?|\\text\{\s*,?\s*(?:and|or)\s*\}|(?<![a-zA-Z\\])(?:and|or)\b)\s*"
)
_CUP = re.compile(r"\s*\\cup(?![a-zA-Z])\s*")
_PLUS_MINUS = re.compile(r"\\pm(?![a-zA-Z])\s*")
_MATRIX = re.compile(
    r"\\begin\{(?P<kind>[pbvBV]?matrix|array)\}(?:\{[lcr| ]*\})?(?P<body>.*)\\end\{(?P=kind)\}"
)
_WRAPPED = re.compile(r"\\text\{([^{}]*)\}")
_MOST_ITEMS = 64


@dataclass(frozen=True)
class Items:
    """Several values: a list without brackets, a tuple or interval, a set, a union of intervals."""

    values: list[str]
    opened: str = ""  # "", "(", "[", r"\{" or "cup"
    closed: str = ""

    @property
    def ordered(self) -> bool:
        return self.opened in ("(", "[")

    @property
    def interval(self) -> bool:
        """Whether the brackets say something about the ends."""
        return self.ordered and len(self.values) == 2


def items(text: str) -> Items | None:
    """The text's values; None where it is one value."""
    if quantity(text) is not None:
        return None  # a comma may separate thousands
    if whole := _WRAPPED.fullmatch(text):
        text = whole[1].strip()
    union = split_top(text, _CUP)
    if len(union) > 1:
        return Items(union, "cup") if all(union) and len(union) <= _MOST_ITEMS else None
    if text.startswith(r"\{") and text.endswith(r"\}"):
        inside = text[2:-2].strip()
        return _several(inside, r"\{", r"\}", 1)
    if text[:1] in ("(", "[") and closing(text, 0) == len(text) - 1:
        return _several(text[1:-1].strip(), text[0], text[-1], 2)
    return _several(text, "", "", 2)


def _several(inside: str, opened: str, closed: str, least: int) -> Items | None:
    values = split_top(inside, _COMMA)
    if not all(values) or len(values) > _MOST_ITEMS:
        return None
    if not opened or opened == r"\{":
        values = [sign for value in values for sign in _both_signs(value)]
    return Items(values, opened, closed) if len(values) >= least else None


def _both_signs(value: str) -> list[str]:
    parts = _PLUS_MINUS.split(value)
    if len(parts) != 2:
        return [value]
    before, after = parts
    return [f"{before}+{after}" if before.strip() else after, f"{before}-{after}"]


def matrix(text: str) -> list[list[str]] | None:
    """Rows of entries; None where the text is no matrix."""
    match = _MATRIX.fullmatch(text.strip())
    if match is None or match["kind"] in ("vmatrix", "Vmatrix"):
        return None
    rows = [row.strip() for row in re.split(r"\\\\(?:\[[^\]]*\])?", match["body"])]
    entries = [[entry.strip() for entry in row.split("&")] for row in rows if row]
    return entries if entries and all(len(row) == len(entries[0]) for row in entries) else None
