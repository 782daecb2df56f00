"""What a stage's rows say of its tokens: how many there are, and how long prompts and imitated completions are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlcurric.recipe.schema import Recipe
from rlcurric.recipe.stages import DpoStage, RejectionStage, StageBase, TrainingStage
from rlcurric.recipe.written import writer_of

if TYPE_CHECKING:
    from rlcurric.build import RunData
    from rlcurric.data import Pool, Renderer, Row
    from rlcurric.data.templates import Values

LOOKED_AT = 512  # rows of a distribution that are rendered, evenly spaced


@dataclass(frozen=True)
class Lengths:
    """Tokens of some texts."""

    mean: float
    longest: int


@dataclass(frozen=True)
class StageRows:
    """The rows of one stage. Means are over its mixture's shares."""

    sizes: Mapping[str, int]  # training rows by distribution
    prompt: Lengths
    imitated: (
        Lengths | None
    )  # demonstrations; of pairs both completions together. None: rows have none
    row: (
        Lengths  # prompt and what is imitated, of a pair the longer completion; without: the prompt
    )
    held_out: int = 0  # prompts of an evaluation
    written: bool = False  # by an earlier stage of the same run: counts are at most

    @property
    def total(self) -> int:
        return sum(self.sizes.values())


def rows_of(data: RunData, recipe: Recipe) -> dict[str, StageRows]:
    """By stage; ValueError for a row that the stage could not use."""
    found: dict[str, StageRows] = {}
    for stage in recipe.stages:
        held_out = len(data.held_out(stage)) if isinstance(stage, TrainingStage) else 0
        if waits := data.waits_for(stage):
            writers = [one for one in recipe.stages if one.name in waits.values()]
            found[stage.name] = _written(recipe, stage, writers, found, held_out)
        else:
            found[stage.name] = _looked_at(data, stage, data.pool(stage), held_out)
    return found


def _looked_at(data: RunData, stage: StageBase, pool: Pool, held_out: int) -> StageRows:
    values = pool.variables.at(data.ends(stage)[0])
    tables = {}
    for name, size in pool.sizes.items():
        places = (
            range(size) if size <= LOOKED_AT else [k * size // LOOKED_AT for k in range(LOOKED_AT)]
        )
        rows = pool.rows[name]
        tables[name] = [_line(stage, pool.renderer, rows[at], name, values) for at in places]
    shares = [stage.mixture[name] for name in tables]

    def lengths(columns: Sequence[Sequence[int]]) -> Lengths:
        means = [sum(one) / len(one) for one in columns]
        mean = sum(share * one for share, one in zip(shares, means, strict=True)) / sum(shares)
        return Lengths(mean, max(max(one) for one in columns))

    lines = list(tables.values())
    shown = all(told for one in lines for _, told in one)
    return StageRows(
        dict(pool.sizes),
        prompt=lengths([[prompt for prompt, _ in one] for one in lines]),
        imitated=lengths([[sum(told) for _, told in one] for one in lines]) if shown else None,
        row=lengths([[prompt + max(told, default=0) for prompt, told in one] for one in lines]),
        held_out=held_out,
    )


def _line(
    stage: StageBase, renderer: Renderer, row: Row, name: str, values: Values
) -> tuple[int, list[int]]:
    """Tokens of a row's prompt, and of what is imitated; of other stages the demonstration, where there is one."""
    columns = ("chosen", "rejected") if isinstance(stage, DpoStage) else ("demonstration",)
    if stage.kind in ("sft", "dpo"):
        pairs = [renderer.imitation(row, name, column, values) for column in columns]
        return len(pairs[0][0]), [len(completion) for _, completion in pairs]
    prompt, _ = renderer.prompt(row, name, values)
    if not isinstance(row.columns.get("demonstration"), str):
        return len(prompt), []
    try:
        return len(prompt), [len(renderer.demonstration(row, name))]
    except (
        ValueError
    ):  # the stage never encodes it: a character without a token is no mistake there
        return len(prompt), []


def _written(
    recipe: Recipe,
    stage: StageBase,
    writers: Sequence[StageBase],
    known: Mapping[str, StageRows],
    held_out: int,
) -> StageRows:
    """Of rows that are still to be written: as many and as long as they can be."""
    sizes, prompts, longest = {}, [], 0
    for name in stage.mixture:
        writer = writer_of(recipe, name)
        if not isinstance(writer, RejectionStage):
            continue
        asked = known[writer.name]
        sizes[name] = writer.keep * prompts_asked(asked, writer.prompts)
        prompts.append(asked.prompt)
        longest = max(longest, writer.rollout.max_new_tokens)
    assert writers and prompts
    prompt = Lengths(
        sum(one.mean for one in prompts) / len(prompts), max(one.longest for one in prompts)
    )
    completions = 2 if isinstance(stage, DpoStage) else 1
    imitated = Lengths(completions * longest, completions * longest)
    row = Lengths(prompt.mean + longest, prompt.longest + longest)
    return StageRows(sizes, prompt, imitated, row, held_out, written=True)


def prompts_asked(rows: StageRows, most: int | None) -> int:
    """Prompts of a stage that samples each of them, at most so many of a distribution."""
    return sum(min(size, most or size) for size in rows.sizes.values())


def assumed_rows(
    recipe: Recipe, prompt: int, completion: float | None, rows: int | None
) -> dict[str, StageRows]:
    """By stage, where no data are read: every prompt of so many tokens, every imitated text as long as a completion."""
    found = {}
    for stage in recipe.stages:
        imitates = stage.kind in ("sft", "dpo")
        if imitates and completion is None:
            raise ValueError(
                f"stages.{stage.name} is trained on written completions: without their data give --completion-tokens too"
            )
        if rows is None and _needs_rows(stage):
            raise ValueError(
                f"stages.{stage.name} counts its rows (until.epochs, or a kind that samples every prompt): without data give "
                "--rows, the training rows of a distribution"
            )
        text = int(completion or 0)
        copies = 2 if stage.kind == "dpo" else 1
        held_out = 0
        if isinstance(stage, TrainingStage):
            held_out = stage.evaluation.prompts * len(stage.evaluated_on)
        found[stage.name] = StageRows(
            dict.fromkeys(stage.mixture, rows or 0),
            prompt=Lengths(prompt, prompt),
            imitated=Lengths(copies * text, copies * text) if imitates else None,
            row=Lengths(prompt + text, prompt + text),
            held_out=held_out,
        )
    return found


def _needs_rows(stage: StageBase) -> bool:
    if not isinstance(stage, TrainingStage):
        return getattr(stage, "prompts", None) is None
    return any(one.epochs is not None for _, one in stage.until.levels())
