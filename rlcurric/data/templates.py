"""How a row becomes prompt tokens, and a demonstration the tokens that follow them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rlcurric.data.rows import Row
from rlcurric.data.tokenizers import alphabet_of
from rlcurric.registry import nearest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# {column}, or {{column}} for the same in braces; other braces (\boxed{}, JSON) are text.
_PLACEHOLDER = re.compile(r"\{\{([A-Za-z_]\w*)\}\}|\{([A-Za-z_]\w*)\}")


@dataclass(frozen=True, slots=True)
class PromptTemplate:
    """The prompt of a stage.

    `template` and `system` are text in which `{question}` and any other column of the row are
    filled in. With `chat` they become a system and a user message in the tokenizer's chat template;
    without, the system text stands above the prompt. `prefill` is the start of the completion,
    already part of the prompt's tokens.
    """

    template: str = "{question}"
    system: str | None = None
    chat: bool = False
    prefill: str = ""

    def __post_init__(self) -> None:
        if not _columns(self.template):
            raise ValueError(
                f"prompt.template must name a column of the row, such as {{question}}; got "
                f"{self.template!r:.200}"
            )

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that a row must have."""
        return tuple(dict.fromkeys(_columns(self.template) + _columns(self.system or "")))


class Renderer:
    """One template with one tokenizer: the only way from a row to token ids, in every stage."""

    def __init__(self, template: PromptTemplate, tokenizer: PreTrainedTokenizerBase) -> None:
        self.template, self.tokenizer = template, tokenizer
        self._alphabet = alphabet_of(tokenizer)
        empty = list(tokenizer("").input_ids)
        # Plain prompts begin as the tokenizer begins any text; a chat template writes that itself.
        self._start = empty[:1] if empty and empty[0] == tokenizer.bos_token_id else []
        if template.chat and not getattr(tokenizer, "chat_template", None):
            raise ValueError(
                "prompt.chat is true, but the model's tokenizer has no chat template; set "
                "prompt.chat: false, or use an instruction-tuned model"
            )

    def text(self, columns: Mapping[str, Any], where: str) -> str:
        """The prompt as text, with the prefill at its end."""
        body = _fill(self.template.template, columns, where)
        system = (
            None if self.template.system is None else _fill(self.template.system, columns, where)
        )
        if not self.template.chat:
            return (f"{system}\n\n" if system else "") + body + self.template.prefill
        return self._chat(body, system) + self.template.prefill

    def prompt(self, row: Row, distribution: str) -> tuple[tuple[int, ...], str]:
        """Token ids and text of the prompt."""
        where = f"distribution {distribution!r}, {row.place}"
        text = self.text(row.columns, where)
        start = [] if self.template.chat else self._start
        return (*start, *self._encode(text, where, "prompt")), text

    def demonstration(self, row: Row, distribution: str) -> tuple[int, ...]:
        """Token ids of the row's demonstration, with end-of-sequence; a prefill it begins with is
        left out of it.
        """
        where = f"distribution {distribution!r}, {row.place}"
        text = row.columns.get("demonstration")
        if not text:
            raise ValueError(
                f"{where}: no column 'demonstration', which supervised fine-tuning needs. "
                f"{nearest('demonstration', row.columns)}"
            )
        assert self.tokenizer.eos_token_id is not None
        ids = self._encode(text.removeprefix(self.template.prefill), where, "demonstration")
        return (*ids, self.tokenizer.eos_token_id)

    def _chat(self, body: str, system: str | None) -> str:
        from jinja2 import TemplateError

        messages = [{"role": "system", "content": system}] if system else []
        messages.append({"role": "user", "content": body})
        try:
            rendered = self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True
            )
        except TemplateError as error:
            raise ValueError(
                f"The tokenizer's chat template refuses the prompt: {error}. If it takes no system "
                "message, put that text into prompt.template."
            ) from None
        assert isinstance(rendered, str)
        return rendered

    def _encode(self, text: str, where: str, what: str) -> list[int]:
        if self._alphabet is not None:
            missing = self._alphabet.missing(text)
            if missing:
                shown = ", ".join(map(repr, missing))
                raise ValueError(
                    f"{where}: the tokenizer has no token for {shown} in the {what} {text!r:.120}. "
                    "Add what is missing to model.tokenizer.characters, or change the data or the "
                    "prompt template."
                )
        return list(self.tokenizer(text, add_special_tokens=False).input_ids)


def _columns(template: str) -> list[str]:
    return [plain for _, plain in _PLACEHOLDER.findall(template) if plain]


def _fill(template: str, columns: Mapping[str, Any], where: str) -> str:
    def value_of(match: re.Match[str]) -> str:
        literal, name = match.groups()
        if literal:
            return f"{{{literal}}}"
        if name not in columns:
            raise ValueError(
                f"{where}: no column {name!r}, which the prompt template needs. "
                f"{nearest(name, columns)} Text in braces is written {{{{{name}}}}}."
            )
        value = columns[name]
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

    return _PLACEHOLDER.sub(value_of, template)
