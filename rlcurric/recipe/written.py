"""Distributions whose rows a stage of the same recipe writes: `source: {name: stage, stage: NAME}`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rlcurric.recipe.stages import DpoStage, RejectionStage, SftStage, StageBase
from rlcurric.registry import nearest

if TYPE_CHECKING:
    from rlcurric.recipe.schema import Recipe

SOURCE = "stage"


def writer_of(recipe: Recipe, distribution: str) -> RejectionStage | None:
    """The stage that writes a distribution's rows; None where they come from elsewhere."""
    source = recipe.distributions[distribution].source
    if source.name != SOURCE:
        return None
    name = source.args.get("stage")
    found = next((one for one in recipe.stages if one.name == name), None)
    assert isinstance(found, RejectionStage), name  # `check_written`
    return found


def evaluated_instead(recipe: Recipe, names: Iterable[str]) -> list[str]:
    """The same distributions, the writer's mixture in place of one that is written: its held-out rows are evaluated on."""
    found: dict[str, None] = {}
    for name in names:
        writer = writer_of(recipe, name)
        found |= dict.fromkeys(
            [name] if writer is None else evaluated_instead(recipe, writer.mixture)
        )
    return list(found)


def check_written(recipe: Recipe) -> None:
    """ValueError unless every stage that reads written rows comes after their writer, and finds what it trains on."""
    places = {one.name: place for place, one in enumerate(recipe.stages)}
    for name, distribution in recipe.distributions.items():
        if distribution.source.name != SOURCE:
            continue
        where = f"distributions.{name}"
        args = distribution.source.args
        if set(args) != {"stage"}:
            raise ValueError(
                f"{where}.source: {{name: stage, stage: NAME}} is required, got the keys {', '.join(args) or 'none'}"
            )
        if distribution.held_out:
            raise ValueError(
                f"{where}.held_out must be left out: what a stage writes is trained on, and evaluation is on the "
                f"held-out rows of that stage's own distributions; got {distribution.held_out}"
            )
        writers = [one.name for one in recipe.stages if isinstance(one, RejectionStage)]
        if args["stage"] not in writers:
            raise ValueError(
                f"{where}.source.stage: no stage {args['stage']!r} of kind rejection. {nearest(str(args['stage']), writers)}"
            )
        writer = writer_of(recipe, name)
        assert writer is not None
        for reader in recipe.stages:
            if name in reader.mixture:
                _check_reader(reader, writer, name, places)


def _check_reader(
    reader: StageBase, writer: RejectionStage, name: str, places: dict[str, int]
) -> None:
    where = f"stages.{reader.name}.mixture"
    if places[reader.name] <= places[writer.name]:
        raise ValueError(
            f"{where}: {name!r} is what the stage {writer.name!r} writes, which must come before {reader.name!r}; "
            "change their order"
        )
    wanted = {SftStage: "demonstrations", DpoStage: "pairs"}.get(type(reader))
    if wanted is not None and writer.write != wanted:
        raise ValueError(
            f"{where}: a stage of kind {reader.kind} reads {wanted}, but {writer.name!r} writes {writer.write}; set "
            f"stages.{writer.name}.write: {wanted}"
        )
