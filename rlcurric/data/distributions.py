"""Named distributions: rows with identities, split so that nothing held out is ever trained on."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rlcurric.assets import described
from rlcurric.data.chats import IMITATED, PREFERENCES, structured
from rlcurric.data.rows import Located, Row
from rlcurric.data.sources import Source
from rlcurric.registry import nearest
from rlcurric.seeds import hash64


@dataclass(frozen=True, slots=True)
class DistributionSpec:
    """What a recipe says about one distribution."""

    name: str
    source: Source
    # Below 1: that share of the questions; 1 and more: that many of them; all: rows to evaluate on, and nothing else.
    held_out: float | Literal["all"] = 0
    max_rows: int | None = None  # keep this many training rows, drawn by hash; None: all


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of the rows that a source gave: `read` is the sum of the others."""

    read: int
    unanswered: int  # without an answer, and left out as the recipe asked
    duplicates: int  # the same question, answer and demonstration again
    overlapping: (
        int  # left out of training since the question is held out, here or in another distribution
    )
    limited: int  # beyond max_rows
    train: int
    held_out: int


@dataclass(frozen=True, slots=True)
class Distribution:
    """The rows of one distribution. No question stands in `train` and in any distribution's
    `held_out`.
    """

    name: str
    train: tuple[Row, ...]
    held_out: tuple[Row, ...]
    counts: Counts
    conflict: str | None = None  # a sentence, where questions have different answers


def content_hash(question: str) -> int:
    """Hash of a question that case, white space and Unicode composition do not change."""
    return hash64(" ".join(unicodedata.normalize("NFKC", question).casefold().split()))


def load_distributions(specs: Iterable[DistributionSpec]) -> dict[str, Distribution]:
    """Read all distributions of a recipe and split them, disjoint across all of them by content
    hash.

    Pass every distribution that any stage uses: what one holds out, no other may train on. The
    split depends on the rows alone, not on the run's seed: with a fraction, a question is held out
    by its own hash, so that rows added later move no other.
    """
    read = [_read(spec) for spec in specs]
    names = [one.spec.name for one in read]
    assert len(set(names)) == len(names), names
    return _finish_all(read)


def load_available(
    specs: Iterable[DistributionSpec],
) -> tuple[dict[str, Distribution], dict[str, str]]:
    """The same for those that can be read here, and why the others cannot, by name.

    What one holds out that cannot be read stays in the rows of the others.
    """
    read, failed = [], {}
    for spec in specs:
        try:
            read.append(_read(spec))
        except ValueError as error:
            failed[spec.name] = str(error)
    return _finish_all(read), failed


def load_later(spec: DistributionSpec, known: Iterable[Distribution]) -> Distribution:
    """A distribution that could not be read with the `known` ones; what they hold out is in none of its rows."""
    held_out = {row.content for one in known for row in one.held_out}
    return _finish(_read(spec), held_out)


def select(
    distributions: Mapping[str, Distribution], names: Iterable[str]
) -> dict[str, Distribution]:
    """Some distributions, in the order of `names`; ValueError with the known names on a miss."""
    for name in (names := list(names)):
        if name not in distributions:
            raise ValueError(f"Unknown distribution {name!r}. {nearest(name, distributions)}")
    return {name: distributions[name] for name in names}


def training_rows(distributions: Mapping[str, Distribution]) -> dict[str, tuple[Row, ...]]:
    """Training rows by distribution; ValueError where one has none left."""
    for name, distribution in distributions.items():
        if not distribution.train:
            counts = distribution.counts
            raise ValueError(
                f"The distribution {name!r} has no training rows: of {counts.read} rows "
                f"{counts.held_out} are held out, {counts.overlapping} share a question with a "
                f"held-out row of this or another distribution, {counts.duplicates} are "
                "duplicates. Lower its `held_out`, give it more rows, or take it out of the "
                "mixture."
            )
    return {name: distribution.train for name, distribution in distributions.items()}


def held_out_rows(
    distributions: Mapping[str, Distribution], count: int | None = None
) -> dict[str, tuple[Row, ...]]:
    """Held-out rows by distribution, at most `count` of each: always the same, drawn by hash."""
    return {
        name: _sample(distribution.held_out, count) for name, distribution in distributions.items()
    }


def require_columns(
    rows: Iterable[Row], columns: Mapping[str, str] | Sequence[str], needed_by: str = ""
) -> None:
    """ValueError, naming file and row, unless every row has these columns. A mapping tells who
    needs each.
    """
    reasons = columns if isinstance(columns, Mapping) else dict.fromkeys(columns, needed_by)
    for row in rows:
        for column, reason in reasons.items():
            if column not in row.columns:
                because = f", which {reason} needs" if reason else ""
                raise ValueError(
                    f"{row.place}: no column {column!r}{because}. {nearest(column, row.columns)}"
                )


@dataclass(frozen=True, slots=True)
class _Read:
    """A source's rows, without duplicates, before anything is known of other distributions."""

    spec: DistributionSpec
    train: list[Row]
    held_out: list[Row]
    read: int
    unanswered: int


def _read(spec: DistributionSpec) -> _Read:
    try:
        return _split_off(spec)
    except (ValueError, MemoryError):
        raise
    except Exception as error:  # a builder's own
        raise ValueError(
            f"The source of the distribution {spec.name!r} failed: {described(error)}"
        ) from error


def _split_off(spec: DistributionSpec) -> _Read:
    train, n_read, n_unanswered = _distinct(spec.name, _placed(spec.name, spec.source.rows()))
    if not n_read:
        raise ValueError(
            f"The source of the distribution {spec.name!r} gives no rows; at least one is required. Look at the file or "
            "function, and at `where`, which leaves rows out"
        )
    explicit = spec.source.held_out_rows()
    if spec.held_out == "all":
        held_out, n_more, n_more_unanswered = _distinct(
            spec.name, _placed(spec.name, explicit or ())
        )
        known = {row.uid for row in train}
        held_out = train + [row for row in held_out if row.uid not in known]
        return _Read(spec, [], held_out, n_read + n_more, n_unanswered + n_more_unanswered)
    if explicit is None:
        chosen = _choose_held_out(spec, train)
        held_out = [row for row in train if row.content in chosen]
        train = [row for row in train if row.content not in chosen]
        return _Read(spec, train, held_out, n_read, n_unanswered)
    if spec.held_out:
        raise ValueError(
            f"The source of the distribution {spec.name!r} has held-out rows of its own; leave out "
            f"its `held_out: {spec.held_out:g}`"
        )
    held_out, n_more, n_more_unanswered = _distinct(spec.name, _placed(spec.name, explicit))
    return _Read(spec, train, held_out, n_read + n_more, n_unanswered + n_more_unanswered)


def _placed(name: str, rows: Iterable[Located]) -> Iterator[Located]:
    """A source's rows; what it says of a mistake stands behind the place in the recipe."""
    try:
        yield from rows
    except ValueError as error:
        raise ValueError(f"distributions.{name}.source: {error}") from error


def _choose_held_out(spec: DistributionSpec, rows: Sequence[Row]) -> set[int]:
    """Content hashes of the questions to hold out."""
    wanted, contents = spec.held_out, {row.content for row in rows}
    assert wanted != "all"
    if wanted < 0 or (wanted >= 1 and wanted != int(wanted)):
        raise ValueError(
            f"distributions.{spec.name}.held_out must be a fraction below 1 or a whole number, got "
            f"{wanted}"
        )
    if wanted >= 1:
        if wanted > len(contents):
            raise ValueError(
                f"distributions.{spec.name}.held_out is {int(wanted)}, but the source has "
                f"{len(contents)} different questions; hold out fewer"
            )
        return set(sorted(contents)[: int(wanted)])
    chosen = {content for content in contents if content < wanted * 2**64}
    if wanted and not chosen:
        raise ValueError(
            f"distributions.{spec.name}.held_out is {wanted}, which of {len(contents)} questions "
            "chooses none; give a larger fraction or a number of rows"
        )
    return chosen


def _finish_all(read: Sequence[_Read]) -> dict[str, Distribution]:
    held_out = {row.content for one in read for row in one.held_out}
    return {one.spec.name: _finish(one, held_out) for one in read}


def _finish(one: _Read, held_out: set[int]) -> Distribution:
    """Leave out of training what is held out anywhere, then keep `max_rows`."""
    apart = [row for row in one.train if row.content not in held_out]
    train = _sample(apart, one.spec.max_rows)
    overlapping = len(one.train) - len(apart)
    counts = Counts(
        read=one.read,
        unanswered=one.unanswered,
        duplicates=one.read - one.unanswered - len(one.train) - len(one.held_out),
        overlapping=overlapping,
        limited=len(apart) - len(train),
        train=len(train),
        held_out=len(one.held_out),
    )
    conflict = _conflict(one.spec.name, [*one.train, *one.held_out])
    return Distribution(one.spec.name, train, tuple(one.held_out), counts, conflict)


def _sample(rows: Sequence[Row], count: int | None) -> tuple[Row, ...]:
    """`count` rows chosen by their hash, in the order they stood in: a smaller sample is part of a
    larger one.
    """
    if count is None or count >= len(rows):
        return tuple(rows)
    chosen = sorted(range(len(rows)), key=lambda index: hash64("sample", rows[index].uid))[:count]
    return tuple(rows[index] for index in sorted(chosen))


def _distinct(name: str, located: Iterator[Located]) -> tuple[list[Row], int, int]:
    """Rows with their identities, each once; how many were read, and how many of them have no
    answer.
    """
    rows: dict[int, Row] = {}
    n_read = n_unanswered = 0
    for one in located:
        n_read += 1
        if one.left_out:
            n_unanswered += 1
            continue
        row = _row(name, one)
        rows.setdefault(row.uid, row)
    return list(rows.values()), n_read, n_unanswered


def _row(name: str, located: Located) -> Row:
    columns = _checked(name, located)
    question = columns["question"]
    answer = json.dumps(columns.get("answer"), sort_keys=True, default=repr)
    trained = [
        json.dumps(columns[column], sort_keys=True, default=repr)
        for column in ("messages", *PREFERENCES)
        if columns.get(column) is not None
    ]
    uid = hash64(name, question, answer, columns.get("demonstration"), *trained)
    return Row(uid, content_hash(question), columns, located.place)


def _checked(name: str, located: Located) -> Mapping[str, Any]:
    """The columns, with a question that is text and an answer; numbers as answers become text.

    A row that is trained on as it stands (a demonstration, messages, a preference) may have no answer.
    """
    where = f"distribution {name!r}, {located.place}"
    columns = structured(located.columns, where)
    imitated = any(columns.get(column) is not None for column in IMITATED)
    if imitated and columns.get("answer", None) is None:
        columns = {column: value for column, value in columns.items() if column != "answer"}
    for column in ("question", "answer"):
        if column not in columns and not (column == "answer" and imitated):
            raise ValueError(f"{where}: no column {column!r}. {_renaming(column, columns)}")
    question, answer = columns["question"], columns.get("answer")
    if not isinstance(question, str) or not question.strip():
        raise ValueError(f"{where}: the question must be text, got {question!r:.80}")
    if answer is None and "reasoning_gym" not in columns and not imitated:
        raise ValueError(f"{where}: the answer is null")
    demonstration = columns.get("demonstration")
    if demonstration is not None and not isinstance(demonstration, str):
        raise ValueError(f"{where}: the demonstration must be text, got {demonstration!r:.80}")
    if isinstance(answer, int | float) and not isinstance(answer, bool):
        whole = isinstance(answer, float) and answer.is_integer()
        columns = {**columns, "answer": str(int(answer) if whole else answer)}
    return columns


_USUAL_NAMES = {
    "question": ("problem", "prompt", "query", "instruction", "input", "text"),
    "answer": ("solution", "final_answer", "gold", "target", "label", "output", "response"),
}


def _renaming(column: str, columns: Mapping[str, Any]) -> str:
    """How to say which column of the source it is, with one that the row has as the example."""
    known = list(map(str, columns))
    usual = [name for name in _USUAL_NAMES[column] if name in known]
    others = [name for name in known if name not in ("question", "answer")]
    example = (usual or others or ["NAME"])[0]
    return (
        f"{nearest(column, known)} Name the right one in the source of the recipe's distribution, e.g. "
        f"`columns: {{{column}: {example}}}`"
    )


def _conflict(name: str, rows: Iterable[Row]) -> str | None:
    """A sentence on questions that have different answers; None where there are none."""
    first: dict[int, Row] = {}
    found: dict[int, Row] = {}
    for row in rows:
        before = first.setdefault(row.content, row)
        if before.columns.get("answer") != row.columns.get("answer"):
            found.setdefault(row.content, row)
    if not found:
        return None
    content, other = next(iter(found.items()))
    one = first[content]
    return (
        f"distribution {name!r}: {len(found)} questions stand in it with different answers, the first in {one.place} "
        f"({one.columns.get('answer')!r:.40}) and {other.place} ({other.columns.get('answer')!r:.40}): one of them is wrong, "
        "or the question leaves something out"
    )
