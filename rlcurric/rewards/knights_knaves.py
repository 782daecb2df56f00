"""Knights and knaves: who a text says is what, and what the speakers of a puzzle say.

Knights always tell the truth, knaves always lie. An assignment is right where each speaker's claim is true exactly if the
speaker is a knight. Puzzles and answers as in 2410.23123 (Logic-RL, 2502.14768, trains on them).
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

# Other names of the two kinds, as puzzles use them: the truthful first.
_PAIRS = (
    ("knight", "knave"),
    ("truth-teller", "liar"),
    ("truth teller", "liar"),
    ("truthteller", "liar"),
    ("pioneer", "laggard"),
    ("saint", "sinner"),
    ("hero", "villain"),
    ("angel", "devil"),
    ("altruist", "egoist"),
    ("sage", "fool"),
)
_KINDS = {
    word: truthful for pair in _PAIRS for word, truthful in zip(pair, (True, False), strict=True)
}
_ONE = "|".join(sorted(_KINDS, key=len, reverse=True))
_ROLE = rf"(?P<role>(?:{_ONE})(?:e?s)?|(?:tells?|telling) the truth|truthful|honest|true|lies|lying|dishonest|false)"
_TRUE = ("the truth", "truthful", "honest", "true")
_WORDS = re.compile(
    rf"(?<!\w)(?:{_ROLE}|(?P<no>not|cannot|never|isn't|aren't)|(?P<singular>is)"
    r"|(?P<hedge>or|if|either|unless|maybe|perhaps|possibly|might|could))(?!\w)",
    re.IGNORECASE,
)
_MARKUP = re.compile(r"[*_`#]+")
_SEGMENTS = re.compile(r"\n|\\\\|;|[.!?](?=\s|$)|[.!?](?=[\"”}])")
_MAX_CHARACTERS = 20_000

Assignment = dict[str, bool]  # name -> knight?


def stated(text: str, names: Sequence[str]) -> Assignment | None:
    """Who the text says is a knight, of those it speaks of; None where it contradicts itself or hedges.

    Any order; a line a name, a sentence, a list by kind, JSON or a table; "not a knave" for a knight, "liar", "always
    lies" and the other kinds' names. Whoever is neither named nor given a kind is left out.
    """
    one_of_them = _any_of(tuple(names))
    found: Assignment = {}
    heading: bool | None = None
    plain = _MARKUP.sub(" ", unicodedata.normalize("NFKC", text[:_MAX_CHARACTERS]))
    for segment in _SEGMENTS.split(_spelled(plain.replace("’", "'"), names)):
        tokens = list(_read(segment, one_of_them))
        if not tokens:
            continue
        if None in tokens:
            return None
        roles = {token for token in tokens if isinstance(token, bool)}
        people = [token for token in tokens if isinstance(token, str) and token != _IS]
        if not people:
            if roles:  # a heading, unless it speaks of both kinds
                heading = roles.pop() if len(roles) == 1 else None
            continue
        if roles:
            heading = None
            told = list(_pairs(tokens))
        else:
            told = [(name, heading) for name in people if heading is not None]
        for name, knight in told:
            if found.setdefault(name, knight) != knight:
                return None
    return found


_IS = "\0is"  # the verb, which no name can be
Token = str | bool | None  # a name or the verb, a kind (negation applied), None for a hedge


@functools.lru_cache(maxsize=256)
def _any_of(names: tuple[str, ...]) -> re.Pattern[str]:
    """One of the names as a word of its own; no text where there are no names."""
    by_length = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    return re.compile(rf"(?<!\w)(?:{by_length})(?!\w)" if names else r"(?!)")


def _read(segment: str, names: re.Pattern[str]) -> Iterator[Token]:
    """Names, kinds (negation applied), `_IS` and hedges, in order."""
    named = list(names.finditer(segment))
    inside = {place for match in named for place in range(*match.span())}
    words = [match for match in _WORDS.finditer(segment) if match.start() not in inside]
    negated = False
    for match in sorted([*named, *words], key=lambda match: match.start()):
        if match.re is names:
            yield match[0]
        elif match["hedge"]:
            yield None
        elif match["no"]:
            negated = True
            if match["no"].endswith("n't"):
                yield _IS
        elif match["singular"]:
            yield _IS
        else:
            yield _truthful(match["role"].lower()) != negated
            negated = False


def _spelled(text: str, names: Sequence[str]) -> str:
    """The text with names that it writes in other case only (MICHAEL, michael) as in `names`."""
    for name in names:
        if name not in text:
            text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", name, text, flags=re.IGNORECASE)
    return text


def _truthful(role: str) -> bool:
    for word in (role, role.removesuffix("s"), role.removesuffix("es")):
        if word in _KINDS:
            return _KINDS[word]
    return role.endswith(_TRUE) and role != "dishonest"


def _pairs(tokens: Sequence[Token]) -> Iterator[tuple[str, bool]]:
    """Names and kinds of one segment: "A and B are knights, C is a knave", or "knights: A, B; knaves: C".

    In the second order the last name before "is a ..." begins a sentence of its own. A kind that follows a kind
    ("a knight, not a knave") says the same of the same names.
    """
    waiting: list[str] = []  # names since the last kind
    subject: list[str] = []  # names that the last kind was said of
    kind: bool | None = None
    kind_first = isinstance(next(token for token in tokens if token != _IS), bool)
    verb = False  # "is" since the last name
    for token in tokens:
        if token == _IS:
            verb = bool(waiting)
        elif isinstance(token, bool):
            if kind_first and kind is not None:
                own = waiting if not verb else waiting[:-1]
                yield from ((name, kind) for name in own)
                waiting = waiting[-1:] if verb else []
                kind_first = not verb
            if not kind_first:
                subject = waiting or subject
                yield from ((name, token) for name in subject)
                waiting = []
            kind, verb = token, False
        elif isinstance(token, str):
            waiting.append(token)
            verb = False
    if kind_first and kind is not None:
        yield from ((name, kind) for name in waiting)


# --- what the speakers of a puzzle say --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Claim:
    """`speaker` says that `left` (`connective` `right`), each a name and whether it is said to be a knight."""

    speaker: str
    left: tuple[str, bool]
    connective: str = ""  # "", and, or, then, if and only if
    right: tuple[str, bool] | None = None

    def holds(self, knights: Mapping[str, bool]) -> bool:
        """Whether what is said is true under an assignment."""
        left = knights[self.left[0]] == self.left[1]
        if self.right is None:
            return left
        right = knights[self.right[0]] == self.right[1]
        return {
            "and": left and right,
            "or": left or right,
            "then": not left or right,
            "if and only if": left == right,
        }[self.connective]


def claims(puzzle: str, names: Sequence[str]) -> list[Claim] | None:
    """All that the inhabitants say in a puzzle; None where the text cannot be read in full.

    A claim is "X is (not) a knight/knave", two of them joined by and, or, if and only if, or "If ... then ...". What is
    left of the text behind the list of names must name one speaker a claim, before it or behind it.
    """
    token = _any_of(tuple(names))
    atom = rf"({token.pattern}) is (not )?an? ({_ONE})\b"
    claim = re.compile(rf"{atom}(?:,? (and|or|then|if and only if) {atom})?")
    body = puzzle.partition("inhabitants:")[2].partition(".")[2] or puzzle
    said = list(claim.finditer(body))
    rest = claim.sub(lambda match: " " * len(match[0]), body)
    spoken = list(token.finditer(rest))
    if not said or len(said) != len(spoken):
        return None
    found = []
    for k, (what, speaker) in enumerate(zip(said, spoken, strict=True)):
        # The k-th claim and the k-th speaker stand next to each other: no other of either kind is between.
        before = max(said[k - 1].end(), spoken[k - 1].end()) if k else 0
        if min(what.start(), speaker.start()) < before:
            return None
        conditional = body[: what.start()].rstrip().lower().endswith("if")
        if conditional != (what[4] == "then"):
            return None
        left = (what[1], _KINDS[what[3]] != bool(what[2]))
        right = (what[5], _KINDS[what[7]] != bool(what[6])) if what[4] else None
        found.append(Claim(speaker[0], left, what[4] or "", right))
    return found


def consistent(said: Sequence[Claim], knights: Mapping[str, bool]) -> bool:
    """Whether every knight's claim is true and every knave's false."""
    return all(one.holds(knights) == knights[one.speaker] for one in said)


def inhabitants(text: str) -> list[str]:
    """Names that a gold answer speaks of, "X is a knight", in order."""
    return list(dict.fromkeys(re.findall(rf"(\w[\w'-]*) is (?:not )?an? (?:{_ONE})\b", text)))
