"""How rows become prompts, as a recipe says."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveInt, model_validator

from rlcurric.recipe.values import Closed, Variable


class Shot(Closed):
    """A worked example that stands in front of the prompt."""

    question: str
    """What is asked; goes through the prompt's template."""
    demonstration: str
    """The answer that follows it."""


class Shots(Closed):
    """Few-shot prompts: worked examples in front of every prompt, always the same ones.

    Either `examples`, written out, or `count` training rows with demonstrations of `distribution` (default: that of the
    prompt), drawn by hash; a row is no example of its own.
    """

    examples: tuple[Shot, ...] = ()
    """Worked examples, written out."""
    count: PositiveInt | None = None
    """In place of `examples`: so many training rows with demonstrations."""
    distribution: str | None = None
    """Whose rows `count` draws; default: the prompt's own."""
    separator: str = "\n\n"
    """Between examples; with `chat` they are turns of their own."""

    @model_validator(mode="after")
    def _one_origin(self) -> Shots:
        if bool(self.examples) == (self.count is not None):
            raise ValueError(
                "prompt.shots needs either examples: [{question: ..., demonstration: ...}] or count: a number of "
                f"training rows; got {len(self.examples)} examples and count {self.count}"
            )
        if self.distribution is not None and self.count is None:
            raise ValueError("prompt.shots.distribution needs prompt.shots.count")
        return self


class Hints(Closed):
    """Hints by level in the prompt of rows that are not solved (progressive hints, Keye-VL 1.5 2509.01563).

    A row's column `column` is a list of hints from faint to plain; level k shows the k-th one, level 0 none. After a
    visit that nobody solved the level rises by one, to `max_level` at most; where the pass rate with a hint reaches
    `lower_at` it falls by one. Levels go by prompt, and are part of the curriculum's state.
    """

    column: str = "hints"
    """Column of the rows with the list of hints, from faint to plain."""
    template: str = "\n{hint}"
    """Stands behind the question, where the prompt's template has no `{hint}`."""
    max_level: PositiveInt = 4
    """Highest level."""
    lower_at: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Pass rate with a hint at which the level falls by one."""
    max_share: Annotated[float, Field(gt=0, le=1)] = 0.25
    """Share of a step's prompts that may show a hint."""


class Prompt(Closed):
    """How a data row becomes a prompt: `{question}`, any other column of the row, and `vars`."""

    template: str = "{question}"
    """The user's text; `{NAME}` stands for a column of the row or a variable."""
    system: str | None = None
    """The system message; without `chat` it stands above the text."""
    chat: bool = False
    """Through the tokenizer's chat template."""
    prefill: str = ""
    """How every completion begins: part of the prompt's tokens, and put back in front before it is judged."""
    vars: dict[Annotated[str, Field(pattern="^[A-Za-z_]\\w*$")], Variable] = {}
    """Variables of the template: text, numbers and schedules."""
    modes: dict[str, Annotated[str, Field(min_length=1)]] = {}
    """Mode to its token, as text: a group's samples begin with each of them in equal parts, as trained tokens (HGPO)."""
    shots: Shots | None = None
    """Worked examples in front of every prompt."""
    hints: Hints | None = None
    """Hints by level for rows that are not solved."""

    @model_validator(mode="after")
    def _modes_are_two(self) -> Prompt:
        if len(self.modes) == 1:
            raise ValueError(
                f"prompt.modes needs at least two modes, each with its token, e.g. {{think: <think>, no_think: "
                f"<no_think>}}; got {self.modes}"
            )
        if self.modes and self.prefill:
            raise ValueError(
                f"prompt.modes and prompt.prefill exclude each other: the mode's token begins the completion; got "
                f"prefill {self.prefill!r}"
            )
        return self

    @model_validator(mode="after")
    def _hint_is_one_thing(self) -> Prompt:
        if self.hints is not None and "hint" in self.vars:
            raise ValueError(
                "prompt.vars.hint: {hint} is where prompt.hints stand; give the variable another name"
            )
        if self.hints is not None and "{hint}" not in self.template + self.hints.template:
            raise ValueError(
                "prompt.hints.template must have {hint}, where prompt.template has none; got "
                f"{self.hints.template!r}"
            )
        return self
