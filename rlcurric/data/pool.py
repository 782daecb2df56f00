"""Prompts of a stage by index, tokenised when they are asked for, and the examples of supervised
fine-tuning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from rlcurric.data.rows import Row
from rlcurric.data.templates import Renderer, Values
from rlcurric.data.variables import Variables
from rlcurric.registry import nearest
from rlcurric.schedules import Progress
from rlcurric.types import Candidate, Prompt

IGNORED = -100  # label of a token without loss
_SLACK = 256  # tokens by which other values may lengthen a prompt beyond their own bytes
_Values = tuple[tuple[str, str], ...]  # of the variables, by name


class Overlong(ValueError):
    """A row that does not fit the context."""


@dataclass(frozen=True, slots=True)
class Room:
    """Tokens a prompt and its completion share."""

    context: int  # of the model, prompt and completion together
    completion: int  # kept free for the completion: rollout.max_new_tokens

    def check(self, prompt: Prompt, row: Row) -> None:
        """Overlong if the prompt leaves no room for a whole completion."""
        length = len(prompt.prompt_ids)
        if length + self.completion > self.context:
            most = self.context - length
            lower = f"lower rollout.max_new_tokens to at most {most}, " if most > 0 else ""
            raise Overlong(
                f"distribution {prompt.distribution!r}, {row.place}: the prompt has {length} "
                f"tokens; with {self.completion} more for the completion that exceeds the context "
                f"of {self.context}. Raise model.context, {lower}shorten the prompt template, or "
                "leave the row out of the data (`overlong: drop` of a distribution leaves out such training rows)."
            )


class Pool:
    """Prompts by (distribution, index): `types.PromptPool`. Rows are rendered on access; the latest
    are kept, by what the recipe's variables read and the level of the hint. `begin`: the start of
    the stage, where a prompt is asked for without a point of the run.
    """

    def __init__(
        self,
        rows: Mapping[str, Sequence[Row]],
        renderer: Renderer,
        room: Room,
        cache_size: int = 4096,
        variables: Variables | None = None,
        begin: Progress | None = None,
    ) -> None:
        self.rows, self.renderer, self.room = dict(rows), renderer, room
        self.variables, self._begin = variables or Variables(), begin or Progress(0, 0)
        self._sizes = {name: len(members) for name, members in self.rows.items()}
        self._cached = lru_cache(maxsize=cache_size)(self._render)

    @property
    def sizes(self) -> Mapping[str, int]:
        """Number of prompts for each distribution, in the recipe's order."""
        return self._sizes

    def prompt(
        self, distribution: str, index: int, progress: Progress | None = None, hint: int = 0
    ) -> Prompt:
        """One prompt as it reads at this point of the run; ValueError for a row that lacks a column, does not fit the context or cannot
        be encoded.
        """
        if distribution not in self.rows:
            raise ValueError(
                f"Unknown distribution {distribution!r}. {nearest(distribution, self.rows)}"
            )
        return self._cached(distribution, index, self._values(progress), hint)

    def candidate(self, distribution: str, index: int) -> Candidate:
        """One prompt's row, not rendered."""
        row = self.rows[distribution][index]
        return Candidate(row.uid, distribution, index, row.columns)

    def __iter__(self) -> Iterator[Prompt]:
        return self.at(None)

    def at(self, progress: Progress | None) -> Iterator[Prompt]:
        """Every prompt at a point of the run, in the recipe's order; none of them is kept."""
        values = self._values(progress)
        for name, size in self._sizes.items():
            for index in range(size):
                yield self._render(name, index, values, 0)

    def check(self, values: Sequence[Values] = (), max_hint: int = 0) -> dict[str, int]:
        """`checker` of every row: the longest prompt of each distribution, in tokens, or the first row's ValueError."""
        check = self.checker(values, max_hint)
        return {
            name: max((check(name, index) for index in range(size)), default=0)
            for name, size in self._sizes.items()
        }

    def checker(
        self, values: Sequence[Values] = (), max_hint: int = 0
    ) -> Callable[[str, int], int]:
        """Renders a row under each of these values of the variables (default: those of the start) and with each of its
        hints up to a level: its longest prompt in tokens, or ValueError, Overlong where it does not fit.

        A row is rendered under values other than the first where it is the distribution's first, or
        has so little room that they might not fit.
        """
        asked = [tuple(sorted(one.items())) for one in values] or [self._values(None)]
        slack = max(sum(len(text.encode()) for _, text in one) for one in asked) + _SLACK

        def check(name: str, index: int) -> int:
            longest = 0
            for level in range(min(max_hint, self.hints(name, index)) + 1 if max_hint else 1):
                first = len(self._render(name, index, asked[0], level).prompt_ids)
                room = self.room.context - self.room.completion - first
                others = asked[1:] if index == 0 or room < slack else ()
                lengths = (len(self._render(name, index, one, level).prompt_ids) for one in others)
                longest = max(longest, first, *lengths)
            return longest

        return check

    def hints(self, distribution: str, index: int) -> int:
        """How many hints a row has."""
        row = self.rows[distribution][index]
        where = f"distribution {distribution!r}, {row.place}"
        return len(self.renderer.template.hints(row.columns, where))

    def _values(self, progress: Progress | None) -> _Values:
        return tuple(sorted(self.variables.at(progress or self._begin).items()))

    def _render(self, distribution: str, index: int, values: _Values, hint: int) -> Prompt:
        row, known = self.rows[distribution][index], dict(values)
        ids, text = self.renderer.prompt(row, distribution, known, hint)
        prefill = self.renderer.prefill(row, distribution, known)
        prompt = Prompt(row.uid, distribution, ids, text, row.columns, prefill, hint)
        self.room.check(prompt, row)
        return prompt


@dataclass(frozen=True, slots=True)
class SftExample:
    """A prompt and its demonstration. Both are what RL would see: the prompt's ids, and a finished
    completion.
    """

    uid: int
    distribution: str
    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]  # with end-of-sequence

    def features(self) -> dict[str, Any]:
        """`input_ids`, `completion_mask` (1 where the loss counts) and `labels` (-100 where it does
        not).
        """
        n_prompt, n_completion = len(self.prompt_ids), len(self.completion_ids)
        return {
            "input_ids": [*self.prompt_ids, *self.completion_ids],
            "completion_mask": [0] * n_prompt + [1] * n_completion,
            "labels": [IGNORED] * n_prompt + list(self.completion_ids),
        }


def sft_examples(
    rows: Mapping[str, Iterable[Row]],
    renderer: Renderer,
    context: int,
    values: Values | None = None,
) -> Iterator[SftExample]:
    """Examples of all rows, distribution by distribution, in the order of a `Pool` over the same
    rows; `values`: of the recipe's variables.
    """
    for name, members in rows.items():
        for row in members:
            prompt_ids, completion_ids = renderer.imitation(row, name, values=values)
            _check_length(row, name, prompt_ids, completion_ids, "demonstration", context)
            yield SftExample(row.uid, name, prompt_ids, completion_ids)


@dataclass(frozen=True, slots=True)
class PreferenceExample:
    """A prompt and two completions of it, each with end-of-sequence; the first is preferred."""

    uid: int
    distribution: str
    prompt_ids: tuple[int, ...]
    chosen_ids: tuple[int, ...]
    rejected_ids: tuple[int, ...]


def preference_examples(
    rows: Mapping[str, Iterable[Row]],
    renderer: Renderer,
    context: int,
    values: Values | None = None,
) -> Iterator[PreferenceExample]:
    """Examples of all rows with columns `chosen` and `rejected`, in the order of `sft_examples`."""
    for name, members in rows.items():
        for row in members:
            pairs = [
                renderer.imitation(row, name, column, values) for column in ("chosen", "rejected")
            ]
            (prompt_ids, chosen_ids), (other, rejected_ids) = pairs
            if other != prompt_ids:
                raise ValueError(
                    f"distribution {name!r}, {row.place}: the messages of `chosen` and `rejected` must be the same up "
                    "to the last one, since a preference is between two completions of one prompt"
                )
            for what, ids in (("chosen", chosen_ids), ("rejected", rejected_ids)):
                _check_length(row, name, prompt_ids, ids, what, context)
            yield PreferenceExample(row.uid, name, prompt_ids, chosen_ids, rejected_ids)


def _check_length(
    row: Row,
    name: str,
    prompt_ids: Sequence[int],
    completion_ids: Sequence[int],
    what: str,
    context: int,
) -> None:
    length = len(prompt_ids) + len(completion_ids)
    if length > context:
        raise Overlong(
            f"distribution {name!r}, {row.place}: prompt and {what} have {length} "
            f"tokens, {len(prompt_ids)} and {len(completion_ids)}, more than the context "
            f"of {context} can hold. Raise model.context, or leave the row out of the data (`overlong: drop` of its "
            "distribution leaves out all of these)."
        )
