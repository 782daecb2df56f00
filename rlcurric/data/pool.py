"""Prompts of a stage by index, tokenised when they are asked for, and the examples of supervised
fine-tuning.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from rlcurric.data.rows import Row
from rlcurric.data.templates import Renderer
from rlcurric.registry import nearest
from rlcurric.types import Candidate, Prompt

IGNORED = -100  # label of a token without loss


@dataclass(frozen=True, slots=True)
class Room:
    """Tokens a prompt and its completion share."""

    context: int  # of the model, prompt and completion together
    completion: int  # kept free for the completion: rollout.max_new_tokens

    def check(self, prompt: Prompt, row: Row) -> None:
        """ValueError if the prompt leaves no room for a whole completion."""
        length = len(prompt.prompt_ids)
        if length + self.completion > self.context:
            most = self.context - length
            lower = f"lower rollout.max_new_tokens to at most {most}, " if most > 0 else ""
            raise ValueError(
                f"distribution {prompt.distribution!r}, {row.place}: the prompt has {length} "
                f"tokens; with {self.completion} more for the completion that exceeds the context "
                f"of {self.context}. Raise model.context, {lower}shorten the prompt template, or "
                "leave the row out of the data."
            )


class Pool:
    """Prompts by (distribution, index): `types.PromptPool`. Rows are rendered on access; the latest
    are kept.
    """

    def __init__(
        self,
        rows: Mapping[str, Sequence[Row]],
        renderer: Renderer,
        room: Room,
        cache_size: int = 4096,
    ) -> None:
        self.rows, self.renderer, self.room = dict(rows), renderer, room
        self._sizes = {name: len(members) for name, members in self.rows.items()}
        self._cached = lru_cache(maxsize=cache_size)(self._render)

    @property
    def sizes(self) -> Mapping[str, int]:
        """Number of prompts for each distribution, in the recipe's order."""
        return self._sizes

    def prompt(self, distribution: str, index: int) -> Prompt:
        """One prompt; ValueError for a row that lacks a column, does not fit the context or cannot
        be encoded.
        """
        if distribution not in self.rows:
            raise ValueError(
                f"Unknown distribution {distribution!r}. {nearest(distribution, self.rows)}"
            )
        return self._cached(distribution, index)

    def candidate(self, distribution: str, index: int) -> Candidate:
        """One prompt's row, not rendered."""
        row = self.rows[distribution][index]
        return Candidate(row.uid, distribution, index, row.columns)

    def __iter__(self) -> Iterator[Prompt]:
        """Every prompt, in the recipe's order; none of them is kept."""
        for name, size in self._sizes.items():
            for index in range(size):
                yield self._render(name, index)

    def check(self) -> dict[str, int]:
        """Render every prompt once: the longest of each distribution, in tokens, or the first row's
        ValueError.
        """
        longest = dict.fromkeys(self._sizes, 0)
        for prompt in self:
            name = prompt.distribution
            longest[name] = max(longest[name], len(prompt.prompt_ids))
        return longest

    def _render(self, distribution: str, index: int) -> Prompt:
        row = self.rows[distribution][index]
        ids, text = self.renderer.prompt(row, distribution)
        prompt = Prompt(row.uid, distribution, ids, text, row.columns)
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
    rows: Mapping[str, Iterable[Row]], renderer: Renderer, context: int
) -> Iterator[SftExample]:
    """Examples of all rows, distribution by distribution, in the order of a `Pool` over the same
    rows.
    """
    for name, members in rows.items():
        for row in members:
            prompt_ids, completion_ids = renderer.imitation(row, name)
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
    rows: Mapping[str, Iterable[Row]], renderer: Renderer, context: int
) -> Iterator[PreferenceExample]:
    """Examples of all rows with columns `chosen` and `rejected`, in the order of `sft_examples`."""
    for name, members in rows.items():
        for row in members:
            pairs = [renderer.imitation(row, name, column) for column in ("chosen", "rejected")]
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
        raise ValueError(
            f"distribution {name!r}, {row.place}: prompt and {what} have {length} "
            f"tokens, {len(prompt_ids)} and {len(completion_ids)}, more than the context "
            f"of {context} can hold. Raise model.context, or leave the row out of the data."
        )
