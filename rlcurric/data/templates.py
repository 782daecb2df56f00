"""How a row becomes prompt tokens, and a demonstration the tokens that follow them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rlcurric.data.chats import PREFERENCES, split_chat
from rlcurric.data.rows import Row
from rlcurric.data.tokenizers import alphabet_of
from rlcurric.registry import nearest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# {column}, or {{column}} for the same in braces; other braces (\boxed{}, JSON) are text.
_PLACEHOLDER = re.compile(r"\{\{([A-Za-z_]\w*)\}\}|\{([A-Za-z_]\w*)\}")
HINT = "hint"  # {hint}: where the hint stands
Values = Mapping[str, str]  # the recipe's variables, as text, at one point of the run


@dataclass(frozen=True, slots=True)
class PromptTemplate:
    """The prompt of a stage.

    `template`, `system` and `prefill` are text in which `{question}`, any other column of the row
    and the recipe's variables are filled in. With `chat` they become a system and a user message in the tokenizer's chat template;
    without, the system text stands above the prompt. `prefill` is the start of the completion,
    already part of the prompt's tokens. `hint` is the text in which a hint stands behind the
    question, unless the template says where; None: no hints, and `{hint}` is a column like others.
    """

    template: str = "{question}"
    system: str | None = None
    chat: bool = False
    prefill: str = ""
    hint: str | None = None
    hint_column: str = "hints"  # of the row: its hints, from faint to plain
    separator: str = "\n\n"  # between worked examples

    def __post_init__(self) -> None:
        if not _columns(self.template):
            raise ValueError(
                f"prompt.template must name a column of the row, such as {{question}}; got "
                f"{self.template!r:.200}"
            )

    @property
    def columns(self) -> tuple[str, ...]:
        """Everything that is filled in: columns that a row must have, and variables."""
        texts = (self.template, self.system or "", self.prefill)
        return tuple(dict.fromkeys(name for text in texts for name in _columns(text)))

    def hints(self, columns: Mapping[str, Any], where: str) -> list[str]:
        """The hints of a row, from faint to plain; empty where it has none."""
        found = columns.get(self.hint_column) if self.hint is not None else None
        if found is None:
            return []
        if not isinstance(found, list | tuple) or not all(isinstance(one, str) for one in found):
            raise ValueError(
                f"{where}: the column {self.hint_column!r} must be a list of texts, from the "
                f"faintest hint to the plainest (prompt.hints.column); got {found!r:.120}"
            )
        return list(found)


class Renderer:
    """One template with one tokenizer: the only way from a row to token ids, in every stage.

    `examples` gives the columns of the worked examples that stand in front of a row's prompt.
    """

    def __init__(
        self,
        template: PromptTemplate,
        tokenizer: PreTrainedTokenizerBase,
        examples: Callable[[Row, str], Sequence[Mapping[str, Any]]] | None = None,
    ) -> None:
        self.template, self.tokenizer, self._examples = template, tokenizer, examples
        self._alphabet = alphabet_of(tokenizer)
        empty = list(tokenizer("").input_ids)
        # Plain prompts begin as the tokenizer begins any text; a chat template writes that itself.
        self._start = empty[:1] if empty and empty[0] == tokenizer.bos_token_id else []
        if template.chat and not getattr(tokenizer, "chat_template", None):
            raise ValueError(
                "prompt.chat is true, but the model's tokenizer has no chat template; set "
                "prompt.chat: false, or use an instruction-tuned model"
            )

    def text(
        self,
        columns: Mapping[str, Any],
        where: str,
        values: Values | None = None,
        hint: int = 0,
        examples: Sequence[Mapping[str, Any]] = (),
    ) -> str:
        """The prompt as text, with the prefill at its end."""
        template, values = self.template, values or {}
        shown = ""
        if hint:
            hints = template.hints(columns, where)
            assert hint <= len(hints), f"{where}: hint {hint} of {len(hints)}"
            shown = hints[hint - 1]
        filled = self._filled(columns, where, values, shown)
        system = None if template.system is None else _fill(template.system, filled, where)
        body = self._body(filled, where, shown)
        turns = []
        for example in examples:
            told = self._filled(example, f"{where}, a worked example", values)
            question = self._body(told, f"{where}, a worked example")
            turns.append((question, str(example["demonstration"])))
        prefill = _fill(template.prefill, filled, where)
        if template.chat:
            return self._chat(body, system, turns) + prefill
        shots = "".join(f"{asked}{told}{template.separator}" for asked, told in turns)
        return (f"{system}\n\n" if system else "") + shots + body + prefill

    def prefill(self, row: Row, distribution: str, values: Values | None = None) -> str:
        """The end of the prompt's text in which the completion begins already."""
        where = f"distribution {distribution!r}, {row.place}"
        return _fill(
            self.template.prefill, self._filled(row.columns, where, values or {}, ""), where
        )

    def prompt(
        self, row: Row, distribution: str, values: Values | None = None, hint: int = 0
    ) -> tuple[tuple[int, ...], str]:
        """Token ids and text of the prompt, with the variables' values and a hint of this level."""
        where = f"distribution {distribution!r}, {row.place}"
        examples = self._examples(row, distribution) if self._examples else ()
        text = self.text(row.columns, where, values, hint, examples)
        start = [] if self.template.chat else self._start
        return (*start, *self._encode(text, where, "prompt")), text

    def imitation(
        self,
        row: Row,
        distribution: str,
        column: str = "demonstration",
        values: Values | None = None,
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Token ids of the prompt, and of the text in `column` with end-of-sequence, as it is trained.

        Where that is chat turns (for a demonstration the column `messages` will do) the prompt is
        the turns before the last one; a system text of the template stands in front of them.
        """
        where = f"distribution {distribution!r}, {row.place}"
        value = row.columns.get(column)
        if not value and column == "demonstration":
            value, column = row.columns.get("messages"), "messages"
        prefill = self.prefill(row, distribution, values)
        if not value or isinstance(value, str):
            prompt, _ = self.prompt(row, distribution, values)
            return prompt, self.demonstration(row, distribution, prefill, column)
        turns, text = split_chat(value, where, column)
        if not self.template.chat and column == "messages":
            raise ValueError(
                f"{where}: chat messages need the tokenizer's chat template; set prompt.chat: true, "
                "or give the row a question and a demonstration"
            )
        if self.template.chat and turns:
            system = self.template.system
            if system is not None and turns[0]["role"] != "system":
                filled = self._filled(row.columns, where, values or {})
                turns = [{"role": "system", "content": _fill(system, filled, where)}, *turns]
            asked = self._rendered(turns) + prefill
            prompt = tuple(self._encode(asked, where, "prompt"))
        else:
            prompt, _ = self.prompt(row, distribution, values)
        return prompt, self._completion(text, row, distribution, prefill, column)

    def demonstration(
        self,
        row: Row,
        distribution: str,
        prefill: str | None = None,
        column: str = "demonstration",
    ) -> tuple[int, ...]:
        """Token ids of the row's demonstration, with end-of-sequence; a prefill it begins with is
        left out of it (`prefill`: as the prompt has it; default: the template's own text).
        """
        text = row.columns.get(column)
        if not text:
            where = f"distribution {distribution!r}, {row.place}"
            needed_by = (
                "preference optimization" if column in PREFERENCES else "supervised fine-tuning"
            )
            column = "demonstration" if column == "messages" else column
            raise ValueError(
                f"{where}: no column {column!r}, which {needed_by} needs. "
                f"{nearest(column, row.columns)}"
            )
        return self._completion(text, row, distribution, prefill, column)

    def _completion(
        self, text: str, row: Row, distribution: str, prefill: str | None, what: str
    ) -> tuple[int, ...]:
        assert self.tokenizer.eos_token_id is not None
        where = f"distribution {distribution!r}, {row.place}"
        begun = self.template.prefill if prefill is None else prefill
        ids = self._encode(text.removeprefix(begun), where, what)
        return (*ids, self.tokenizer.eos_token_id)

    def _filled(
        self, columns: Mapping[str, Any], where: str, values: Values, hint: str = ""
    ) -> Mapping[str, Any]:
        """Everything that placeholders name: the row's columns, variables, the hint."""
        own = {**values, HINT: hint} if self.template.hint is not None else values
        for name in own:
            if name in columns:
                whose = "prompt.hints fill in" if name not in values else "prompt.vars sets"
                raise ValueError(
                    f"{where}: the row has a column {name!r}, and {whose} {{{name}}} too. Rename the "
                    f"variable, or the column (`columns` of its source)"
                )
        return {**columns, **own}

    def _body(self, filled: Mapping[str, Any], where: str, hint: str = "") -> str:
        template = self.template
        body = _fill(template.template, filled, where)
        if hint and template.hint is not None and HINT not in _columns(template.template):
            body += _fill(template.hint, filled, where)
        return body

    def _chat(self, body: str, system: str | None, turns: Sequence[tuple[str, str]] = ()) -> str:
        messages = [{"role": "system", "content": system}] if system else []
        for asked, told in turns:
            messages += [
                {"role": "user", "content": asked},
                {"role": "assistant", "content": told},
            ]
        messages.append({"role": "user", "content": body})
        return self._rendered(messages)

    def _rendered(self, messages: Sequence[Mapping[str, str]]) -> str:
        from jinja2 import TemplateError

        try:
            rendered = self.tokenizer.apply_chat_template(
                [dict(one) for one in messages], tokenize=False, add_generation_prompt=True
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
