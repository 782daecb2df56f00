"""Forced modes: which tokens a sample of a group begins with (HGPO, LHRM 2505.14631)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlcurric.data.tokenizers import alphabet_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BEHIND = ("\n", " ", "a", "1", "<", ".", "=")  # how completions may go on behind a mode


@dataclass(frozen=True, slots=True)
class Modes:
    """The modes of a stage, in the recipe's order; empty where none is forced.

    Samples take turns: sample k of a group begins with mode k modulo their number, whatever is asked for at once.
    """

    names: tuple[str, ...] = ()
    ids: tuple[tuple[int, ...], ...] = ()  # tokens of each

    def name(self, sample: int) -> str | None:
        """The mode of a sample; None without modes."""
        return self.names[sample % len(self.names)] if self.names else None

    def forced(self, sample: int) -> tuple[int, ...]:
        """The token ids that a sample's completion begins with."""
        return self.ids[sample % len(self.ids)] if self.ids else ()


def tokenize_modes(
    texts: Mapping[str, str], tokenizer: PreTrainedTokenizerBase, max_new_tokens: int
) -> Modes:
    """The modes' tokens; ValueError for a text that is no prefix of a completion by itself."""
    alphabet = alphabet_of(tokenizer)

    def encode(text: str) -> tuple[int, ...]:
        return tuple(tokenizer(text, add_special_tokens=False).input_ids)

    found = {}
    for name, text in texts.items():
        if alphabet is not None and (missing := alphabet.missing(text)):
            raise ValueError(
                f"{name}: the tokenizer has no token for {', '.join(map(repr, missing))} in {text!r}; add it to "
                "model.tokenizer, or choose another text"
            )
        found[name] = ids = encode(text)
        if not ids or tokenizer.eos_token_id in ids:
            raise ValueError(
                f"{name}: the text must be one token or more, none of them end-of-sequence; {text!r} is {list(ids)}"
            )
        if len(ids) >= max_new_tokens:
            raise ValueError(
                f"{name}: {text!r} has {len(ids)} tokens, which leaves nothing of rollout.max_new_tokens "
                f"({max_new_tokens}) to sample"
            )
        for behind in _BEHIND:
            if alphabet is not None and alphabet.missing(behind):
                continue
            if text[-1].isspace() and behind.isspace():  # one line break, not two
                continue
            whole = encode(text + behind)
            if whole[: len(ids)] != ids:
                raise ValueError(
                    f"{name}: {text!r} is {list(ids)} by itself and {list(whole)} in front of {behind!r}, so that a "
                    "completion cannot begin with it. Choose a text that ends with a token of its own: a tag that the "
                    f"tokenizer knows, or with the line break that follows it ({text + chr(10)!r})"
                )
    for name, ids in found.items():
        for other, theirs in found.items():
            if name != other and theirs[: len(ids)] == ids:
                raise ValueError(
                    f"{name}: its tokens {list(ids)} begin those of {other}, {list(theirs)}: the modes cannot be told apart"
                )
    return Modes(tuple(found), tuple(found.values()))
