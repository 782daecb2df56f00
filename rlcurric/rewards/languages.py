"""Which language a text is in, by py3langid (naive Bayes over byte n-grams, 139 languages, after langid.py, ACL 2012).

Importing this module reads the model (0.7 s, 130 MB), through a temporary file: workers import it before they are closed
off, others only inside a function.
"""

from __future__ import annotations

import re

from py3langid.langid import MODEL_FILE, LanguageIdentifier

from rlcurric.registry import nearest

_IDENTIFIER = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
_CERTAIN = 0.2  # probability below which a text, mostly one of a few words, cannot be told

# Labels of the model that are written forms of one language to a reader, and other codes of the same languages.
_SAME = {
    **dict.fromkeys(("arz", "ary"), "ar"),
    **dict.fromkeys(("wuu", "yue", "zh-cn", "zh-tw", "zh-hans", "zh-hant"), "zh"),
    **dict.fromkeys(("nb", "nn"), "no"),
    "iw": "he",
    "in": "id",
}
_NO_LANGUAGE = re.compile(r"```.*?```|`[^`\n]*`|\$[^$\n]*\$|https?://\S+", re.DOTALL)


def language_code(name: str) -> str:
    """An ISO 639-1 code (or py3langid's own) in one spelling; ValueError for a language that is not known."""
    code = _SAME.get(name.strip().lower(), name.strip().lower())
    known = {_SAME.get(label, label) for label in _IDENTIFIER.labels} - {"zxx"}
    if code not in known:
        raise ValueError(f"unknown language {name!r}. {nearest(code, known)}")
    return code


def language(text: str) -> str | None:
    """Code of the language that most of the text is in; None where it cannot be told.

    Code, formulas and addresses are left out. A sentence is enough for most languages, three words for few; close kin
    (Bosnian and Croatian, Malay and Indonesian) are mistaken for each other.
    """
    chances: dict[str, float] = {}
    for label, chance in _IDENTIFIER.rank(_NO_LANGUAGE.sub(" ", text)):
        code = _SAME.get(label, label)
        chances[code] = chances.get(code, 0.0) + chance
    best = max(chances, key=lambda code: chances[code])
    return best if chances[best] >= _CERTAIN and best != "zxx" else None
