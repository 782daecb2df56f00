"""Instructions whose following a program can check: the 25 of IFEval (2311.07911, appendix), under its names.

Each is a function of the response and of the instruction's own arguments. Words are runs of letters and digits,
paragraphs and sections are divided as IFEval's prompts say. Differences from its code: keywords are text, not regular
expressions; sentences are split by the rules of `sentences` here; a language that cannot be told is not the one that
was asked for.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from rlcurric.registry import nearest
from rlcurric.rewards.passages import response
from rlcurric.types import Score, Status

Check = Callable[..., bool]
CHECKS: dict[str, Check] = {}

_ABBREVIATIONS = re.compile(
    r"\b(?:(?:mr|mrs|ms|dr|prof|sr|jr|st|vs|no|fig|eq|approx|inc|ltd|co|e\.g|i\.e|a\.m|p\.m|u\.s|u\.k)|[A-Z])\.(?=\s)",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"[.!?]+[\"'”’)\]*_]*(?:\s+|$)|[。！？]+[」』”]*|\n\s*\n")
_ANSWERS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")


def check(name: str) -> Callable[[Check], Check]:
    """Decorator: the function that checks instruction `name`."""

    def add(function: Check) -> Check:
        assert name not in CHECKS, name
        CHECKS[name] = function
        return function

    return add


def followed(response: str, name: str, arguments: Mapping[str, Any] | None) -> bool:
    """Whether a response follows one instruction; ValueError for an unknown one and for wrong arguments.

    Arguments that are None are left out: tables give every row the arguments of all instructions.
    """
    if name not in CHECKS:
        raise ValueError(f"unknown instruction {name!r}. {nearest(name, CHECKS)}")
    given = {key: value for key, value in (arguments or {}).items() if value is not None}
    function = CHECKS[name]
    try:
        inspect.signature(function).bind(response, **given)
    except TypeError as error:
        needed = ", ".join(list(inspect.signature(function).parameters)[1:]) or "no arguments"
        raise ValueError(f"instruction {name!r} takes {needed}: {error}, got {given}") from None
    return function(response, **given)


def relaxed(response: str) -> list[str]:
    """The response and what IFEval's loose criterion takes as well: without the first line, the last, both, and asterisks."""
    lines = response.split("\n")
    cut = [response, "\n".join(lines[1:]), "\n".join(lines[:-1]), "\n".join(lines[1:-1])]
    found = [text.strip() for text in cut] + [text.replace("*", "").strip() for text in cut]
    return list(dict.fromkeys(text for text in found if text))


def pairs(names: Any, arguments: Any) -> list[tuple[str, Mapping[str, Any]]]:
    """A row's instructions, each with its arguments, from the columns `instruction_id_list` and `kwargs`."""
    if isinstance(arguments, str):
        arguments = json.loads(arguments)
    if not isinstance(names, list | tuple) or not names:
        raise ValueError(
            f"instructions needs a list of names in the column 'instruction_id_list', got {names!r:.200}"
        )
    if not isinstance(arguments, list | tuple) or len(arguments) != len(names):
        raise ValueError(
            f"instructions needs one object for each of {len(names)} instructions in the column 'kwargs', got "
            f"{arguments!r:.200}"
        )
    return [(str(name), one or {}) for name, one in zip(names, arguments, strict=True)]


def judge(
    completion: str, wanted: list[tuple[str, Mapping[str, Any]]], score: str, loose: bool
) -> Score:
    """1 where all are followed, or the share that is; the detail names what was not."""
    text = response(completion)
    if not text:
        return Score(0.0, Status.UNPARSEABLE, "no response")
    texts = relaxed(text) if loose else [text]
    missed = [
        name
        for name, arguments in wanted
        if not any(followed(one, name, arguments) for one in texts)
    ]
    share = 1 - len(missed) / len(wanted)
    return Score(float(not missed) if score == "all" else share, detail=", ".join(missed)[:200])


def words(text: str) -> list[str]:
    """Runs of letters, digits and underscores; a word with an apostrophe or hyphen counts as two, as in IFEval."""
    return re.findall(r"\w+", text)


def sentences(text: str) -> list[str]:
    """Text between full stops, question and exclamation marks that white space follows; a blank line ends one too.

    Usual abbreviations and initials end none. No punctuation, no second sentence: the items of a list are one.
    """
    plain = _ABBREVIATIONS.sub(lambda match: match[0].replace(".", "\0"), text)
    return [part for part in _SENTENCE_END.split(plain) if re.search(r"\w", part)]


def compare(count: int, wanted: Any, relation: Any) -> bool:
    """`count` against `wanted` by IFEval's relations, and two more."""
    number = _whole(wanted)
    relations = {
        "at least": count >= number,
        "less than": count < number,
        "at most": count <= number,
        "exactly": count == number,
    }
    if relation not in relations:
        raise ValueError(f"a relation out of {', '.join(relations)} is required, got {relation!r}")
    return relations[relation]


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
        raise ValueError(f"an instruction needs a whole number, got {value!r}")
    return int(value)


def _texts(value: Any) -> list[str]:
    if not isinstance(value, list | tuple) or not value:
        raise ValueError(f"an instruction needs a list of words, got {value!r}")
    return [str(one) for one in value]


def _whole_word(word: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(word)}(?!\w)", re.IGNORECASE)


# --- keywords ---------------------------------------------------------------------------------------------------------


@check("keywords:existence")
def _existence(text: str, keywords: Any) -> bool:
    return all(word.lower() in text.lower() for word in _texts(keywords))


@check("keywords:frequency")
def _frequency(text: str, keyword: str, frequency: int, relation: str = "at least") -> bool:
    return compare(text.lower().count(_filled(keyword).lower()), frequency, relation)


@check("keywords:forbidden_words")
def _forbidden(text: str, forbidden_words: Any) -> bool:
    return not any(_whole_word(word).search(text) for word in _texts(forbidden_words))


@check("keywords:letter_frequency")
def _letters(text: str, letter: str, let_frequency: int, let_relation: str = "at least") -> bool:
    if len(letter) != 1:
        raise ValueError(f"letter_frequency needs one letter, got {letter!r}")
    return compare(text.lower().count(letter.lower()), let_frequency, let_relation)


def _filled(text: Any) -> str:
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"an instruction needs text that is not empty, got {text!r}")
    return text.strip()


# --- language and case ------------------------------------------------------------------------------------------------


def _is_in(text: str, code: str) -> bool:
    from rlcurric.rewards import languages  # reads its model

    return languages.language(text) == languages.language_code(code)


@check("language:response_language")
def _response_language(text: str, language: str) -> bool:
    return _is_in(text, language)


@check("change_case:english_capital")
def _capital(text: str) -> bool:
    return text.isupper() and _is_in(text, "en")


@check("change_case:english_lowercase")
def _lowercase(text: str) -> bool:
    return text.islower() and _is_in(text, "en")


@check("change_case:capital_word_frequency")
def _capital_words(text: str, capital_frequency: int, capital_relation: str = "at least") -> bool:
    capitals = [word for word in re.findall(r"[\w'-]+", text) if word.isupper()]
    return compare(len(capitals), capital_frequency, capital_relation)


# --- length -----------------------------------------------------------------------------------------------------------


@check("length_constraints:number_words")
def _number_words(text: str, num_words: int, relation: str = "at least") -> bool:
    return compare(len(words(text)), num_words, relation)


@check("length_constraints:number_sentences")
def _number_sentences(text: str, num_sentences: int, relation: str = "at least") -> bool:
    return compare(len(sentences(text)), num_sentences, relation)


@check("length_constraints:number_paragraphs")
def _number_paragraphs(text: str, num_paragraphs: int) -> bool:
    """Divided by `***`; an empty one may stand at either end only."""
    parts = [part.strip() for part in text.split("***")]
    inner = parts[1 if not parts[0] else 0 : -1 if not parts[-1] else None]
    return all(inner) and len(inner) == _whole(num_paragraphs)


@check("length_constraints:nth_paragraph_first_word")
def _first_word(text: str, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    """Divided by a blank line."""
    parts = [part for part in re.split(r"\n[ \t]*\n", text) if part.strip()]
    place = _whole(nth_paragraph)
    if len(parts) != _whole(num_paragraphs) or not 1 <= place <= len(parts):
        return False
    start = parts[place - 1].split()[0].strip("\"'“”‘’*_.,?!:;")
    return start.lower() == _filled(first_word).lower()


# --- content, form ----------------------------------------------------------------------------------------------------


@check("detectable_content:number_placeholders")
def _placeholders(text: str, num_placeholders: int) -> bool:
    return len(re.findall(r"\[[^\[\]\n]*\]", text)) >= _whole(num_placeholders)


@check("detectable_content:postscript")
def _postscript(text: str, postscript_marker: str) -> bool:
    """A line that begins with the marker; white space behind its points is free."""
    marker = r"\s?".join(
        re.escape(letter) for letter in re.sub(r"\s", "", _filled(postscript_marker))
    )
    return re.search(rf"^[ \t]*{marker}", text, re.IGNORECASE | re.MULTILINE) is not None


@check("detectable_format:number_bullet_lists")
def _bullets(text: str, num_bullets: int) -> bool:
    found = re.findall(r"^[ \t]*(?:\*(?!\*)|-(?!-)|•)[ \t]*\S", text, re.MULTILINE)
    return len(found) == _whole(num_bullets)


@check("detectable_format:constrained_response")
def _constrained(text: str) -> bool:
    return any(answer in text for answer in _ANSWERS)


@check("detectable_format:number_highlighted_sections")
def _highlighted(text: str, num_highlights: int) -> bool:
    found = re.findall(r"\*\*([^\n*]+)\*\*|\*([^\n*]+)\*", text)
    return sum(bool((a or b).strip()) for a, b in found) >= _whole(num_highlights)


@check("detectable_format:multiple_sections")
def _sections(text: str, section_spliter: str, num_sections: int) -> bool:
    """Sections that begin with the word and a number, "SECTION 1"."""
    heads = re.findall(rf"(?<!\w){re.escape(_filled(section_spliter))}[ \t]?\d+", text)
    return len(heads) >= _whole(num_sections)


@check("detectable_format:json_format")
def _json(text: str) -> bool:
    fenced = re.fullmatch(r"```(?:json)?\s*\n(.*)```", text.strip(), re.DOTALL | re.IGNORECASE)
    try:
        json.loads(fenced[1] if fenced else text)
    except (ValueError, RecursionError):
        return False
    return True


@check("detectable_format:title")
def _title(text: str) -> bool:
    return any(title.strip("<> \t") for title in re.findall(r"<<([^\n<>]+)>>", text))


@check("combination:two_responses")
def _two(text: str) -> bool:
    parts = [part.strip() for part in text.split("******")]
    inner = parts[1 if not parts[0] else 0 : -1 if not parts[-1] else None]
    return len(inner) == 2 and all(inner) and inner[0] != inner[1]


@check("combination:repeat_prompt")
def _repeat(text: str, prompt_to_repeat: str) -> bool:
    return text.strip().lower().startswith(_filled(prompt_to_repeat).lower())


@check("startend:end_checker")
def _end(text: str, end_phrase: str) -> bool:
    return text.strip().strip('"').lower().endswith(_filled(end_phrase).lower())


@check("startend:quotation")
def _quotation(text: str) -> bool:
    return len(text.strip()) > 1 and text.strip()[0] == text.strip()[-1] == '"'


@check("punctuation:no_comma")
def _no_comma(text: str) -> bool:
    return "," not in text
