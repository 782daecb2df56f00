"""A tokenizer of single characters, for models that start from random weights."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

PAD, EOS = "<pad>", "<eos>"


def character_tokenizer(characters: str, tags: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """A Hugging Face tokenizer with one token for each character and one for each tag.

    Ids: padding 0, end-of-sequence 1, then tags, then characters, in the order given. There is no
    unknown token: a character outside the vocabulary cannot be encoded (`Alphabet.missing` tells
    which). Tags are no special tokens, so that decoding with `skip_special_tokens` keeps them.
    `decode(encode(text)) == text`.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    _check_vocabulary(characters, tags)
    backend = Tokenizer(models.WordLevel(vocabulary(characters, tags)))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens([PAD, EOS])
    backend.add_tokens([AddedToken(tag, normalized=False, special=False) for tag in tags])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        eos_token=EOS,
        clean_up_tokenization_spaces=False,
    )


def vocabulary(characters: str, tags: Sequence[str] = ()) -> dict[str, int]:
    """The id of every token of a character tokenizer."""
    return {token: number for number, token in enumerate((PAD, EOS, *tags, *characters))}


@dataclass(frozen=True)
class Alphabet:
    """What a character tokenizer can encode."""

    characters: frozenset[str]
    whole: re.Pattern[str] | None  # tokens of several characters

    def missing(self, text: str) -> list[str]:
        """The characters of `text` that have no token, each once, in order."""
        rest = self.whole.sub("", text) if self.whole else text
        return [one for one in dict.fromkeys(rest) if one not in self.characters]


def alphabet_of(tokenizer: PreTrainedTokenizerBase) -> Alphabet | None:
    """The alphabet of a character tokenizer, also of a saved and loaded one; None for any other
    tokenizer.
    """
    from tokenizers import models

    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or not isinstance(backend.model, models.WordLevel):
        return None
    added = set(tokenizer.get_added_vocab())
    characters = frozenset(tokenizer.get_vocab()) - added
    if any(len(one) != 1 for one in characters):
        return None
    longest_first = sorted(added, key=len, reverse=True)
    whole = re.compile("|".join(map(re.escape, longest_first))) if added else None
    return Alphabet(characters, whole)


def _check_vocabulary(characters: str, tags: Sequence[str]) -> None:
    repeated = [one for one in dict.fromkeys(characters) if characters.count(one) > 1]
    if not characters or repeated:
        raise ValueError(
            f"model.tokenizer.characters must hold each character once, got "
            f"{', '.join(map(repr, repeated)) + ' more than once' if repeated else 'none'}"
        )
    for number, tag in enumerate(tags):
        if len(tag) < 2 or tag in tags[:number] or tag in (PAD, EOS):
            raise ValueError(
                "model.tokenizer.tags must be different texts of at least two characters, other "
                f"than {PAD} and {EOS}; got {tag!r}"
            )
