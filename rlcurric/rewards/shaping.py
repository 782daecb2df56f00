"""What rewards on length share: verdicts, targets by row, and which tokens count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from rlcurric.registry import nearest
from rlcurric.rewards.spans import thought

LengthScope = Literal["completion", "think"]


def is_right(correct: float | None) -> bool:
    """Whether verified correctness is whole: partial credit is wrong, and what no grader could judge is not right."""
    return correct is not None and correct >= 1


def token_lengths(
    lengths: Sequence[int], completions: Sequence[str], scope: LengthScope
) -> list[float]:
    """Tokens of the completions, or of what stands in their think tags.

    Tokens carry no positions in the text, so those of the thought are estimated: the completion's tokens, times the
    thought's share of its characters (a prefill counts as text). Without a closing tag all is thought.
    """
    if scope == "completion":
        return [float(length) for length in lengths]
    return [
        length * len(thought(text)) / max(1, len(text))
        for length, text in zip(lengths, completions, strict=True)
    ]


def row_targets(
    reward: str, target: float, column: str, columns: Mapping[str, Sequence[Any]], count: int
) -> list[float]:
    """The target of every row: one number for all, or what stands in the column of that name.

    ValueError for a column that rows lack or that holds no number other than 0.
    """
    if not column:
        return [target] * count
    if column not in columns:
        if not count:
            return []
        raise ValueError(f"{reward} needs the column {column!r}. {nearest(column, columns)}")
    targets = []
    for value in columns[column]:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0 < abs(value) < float("inf"):
            raise ValueError(
                f"{reward} needs a number of tokens in the column {column!r} of every row, got {value!r}"
            )
        targets.append(float(value))
    return targets
