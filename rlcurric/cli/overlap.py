"""What `rlcurric check` says of evaluation sets that stand in the training data."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from rich.console import Console
from rich.table import Table

from rlcurric.data import NGRAM, Overlap

SHOWN_WORDS = 160  # signs of a text that overlaps


def tell_overlaps(console: Console, found: Mapping[str, Overlap]) -> None:
    """A table of the evaluation sets, and what of them is trained on: a caution, never a mistake."""
    if not found:
        return
    table = Table(
        "evaluation set", "rows", "exact", f"{NGRAM} words in a row", "too short for that"
    )
    for name, one in found.items():
        counts = (one.rows, one.exact, f"{one.ngrams} ({one.ngrams / one.rows:.1%})", one.short)
        table.add_row(name, *map(str, counts))
    console.print(table)
    say = partial(console.print, highlight=False, markup=False, soft_wrap=True)
    for name, one in found.items():
        if one.example is not None:
            words = one.example.words
            shown = words if len(words) <= SHOWN_WORDS else f"{words[:SHOWN_WORDS]}..."
            say(
                f"caution: {one.ngrams} of {one.rows} questions of {name} overlap with training data, e.g. "
                f"{one.example.question} with {one.example.trained}: {shown!r}"
            )
    if not any(one.example for one in found.values()):
        say(f"No held-out question shares {NGRAM} words in a row with training data.")
    say(
        "A question that is held out in one distribution is left out of training in every other of the recipe; what "
        "else of it overlaps is counted above, demonstrations, preferences and messages included."
    )
