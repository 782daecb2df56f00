"""How much of a text is written in the script of a language: Unicode alone, no model."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

# Languages by the scripts that they are written in. Those of one script cannot be told apart.
SCRIPTS: dict[str, frozenset[str]] = {
    **dict.fromkeys(
        "cs da de en es fi fr hr hu id it nl no pl pt ro sk sv sw tr vi".split(),
        frozenset({"LATIN"}),
    ),
    **dict.fromkeys(("be", "bg", "mk", "ru", "uk"), frozenset({"CYRILLIC"})),
    **dict.fromkeys(("ar", "fa", "ur"), frozenset({"ARABIC"})),
    **dict.fromkeys(("hi", "mr", "ne"), frozenset({"DEVANAGARI"})),
    "bn": frozenset({"BENGALI"}),
    "el": frozenset({"GREEK"}),
    "gu": frozenset({"GUJARATI"}),
    "he": frozenset({"HEBREW"}),
    "hy": frozenset({"ARMENIAN"}),
    "ja": frozenset({"CJK", "HIRAGANA", "KATAKANA"}),
    "ka": frozenset({"GEORGIAN"}),
    "kn": frozenset({"KANNADA"}),
    "ko": frozenset({"HANGUL"}),
    "ml": frozenset({"MALAYALAM"}),
    "pa": frozenset({"GURMUKHI"}),
    "ta": frozenset({"TAMIL"}),
    "te": frozenset({"TELUGU"}),
    "th": frozenset({"THAI"}),
    "zh": frozenset({"CJK"}),
}
_UNSPACED = {"CJK", "HIRAGANA", "KATAKANA"}  # every character is a word
_SYMBOLS = {"GREEK", "LATIN"}  # of mathematics, where a letter stands alone
_WIDTHS = ("FULLWIDTH ", "HALFWIDTH ")
_NEUTRAL = {"DOUBLE-STRUCK", "MATHEMATICAL", "MICRO", "SCRIPT", "BLACK-LETTER", "KELVIN", "OHM"}

_FENCES = (("```", "```"), ("`", "`"), ("$$", "$$"), ("\\[", "\\]"), ("\\(", "\\)"))
_INLINE = re.compile(r"\$[^$\n]*\$")
_FIRST_SIGN = 0x4E00  # any range of one character each will do
_RUN = re.compile(r"(.)\1*")
_COMMANDS = re.compile(r"\\[A-Za-z]+|</?[A-Za-z][\w-]*>")


def prose(text: str) -> str:
    """The text without code (fenced or in backticks), LaTeX (in dollars or brackets, commands) and tags.

    A mark that is opened and never closed takes nothing away.
    """
    for opening, closing in _FENCES:
        text = _without(text, opening, closing)
    return _COMMANDS.sub(" ", _INLINE.sub(" ", text))


def share_in(text: str, language: str) -> float | None:
    """Share of the words that are written in the language's script; None where there is no word.

    A word is a run of letters of one script; a Chinese or Japanese character is one by itself. A single Latin letter
    is a symbol and counts for nothing, and Greek letters do for Greek alone.
    """
    wanted = SCRIPTS[language]
    counts = _words(text)
    if "GREEK" not in wanted:
        counts.pop("GREEK", None)
    total = counts.total()
    return sum(counts[script] for script in wanted) / total if total else None


def _words(text: str) -> Counter[str]:
    """Words by script."""
    counts: Counter[str] = Counter()
    for shape, times in Counter(text.translate(_ALPHABET).split(" ")).items():
        for run in _RUN.finditer(shape):
            script, length = _ALPHABET.scripts[run[0][0]], run.end() - run.start()
            if script in _UNSPACED:
                counts[script] += length * times
            elif length > 1 or script not in _SYMBOLS:
                counts[script] += times
    return counts


class _Alphabet(dict[int, str | None]):
    """A table for `str.translate`, made as characters are met.

    A letter becomes the sign that stands for its script, a combining mark nothing, and all else a space.
    """

    def __init__(self) -> None:
        self.scripts: dict[str, str] = {}  # sign -> script
        self._signs: dict[str, str] = {}

    def __missing__(self, code: int) -> str | None:
        category, script = unicodedata.category(chr(code)), _script(chr(code))
        sign = self._signs.setdefault(script, chr(_FIRST_SIGN + len(self._signs)))
        self.scripts[sign] = script
        self[code] = None if category in ("Mn", "Mc") else sign if script else " "
        return self[code]


def _script(sign: str) -> str:
    """The script of a letter by its Unicode name; empty for what is no letter of a language."""
    if unicodedata.category(sign) not in ("Lu", "Ll", "Lt", "Lo"):
        return ""
    name = unicodedata.name(sign, "")
    for width in _WIDTHS:
        name = name.removeprefix(width)
    script = name.partition(" ")[0]
    return "" if script in _NEUTRAL else script


_ALPHABET = _Alphabet()


def _without(text: str, opening: str, closing: str) -> str:
    """The text without what stands between these two, each pair replaced by a space."""
    kept, place = [], 0
    while (begin := text.find(opening, place)) >= 0:
        end = text.find(closing, begin + len(opening))
        if end < 0:
            break
        kept.append(text[place:begin])
        place = end + len(closing)
    return " ".join([*kept, text[place:]])
