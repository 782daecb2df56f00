"""Rewards as a recipe binds them: their arguments, and whether they go together."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from rlcurric.build.binding import placed, scheduled, validated
from rlcurric.registry import nearest
from rlcurric.rewards.protocol import Reward
from rlcurric.rewards.rubric import Component
from rlcurric.schedules import Progress, Schedule, value_at


def reward_arguments(
    entry: Reward, given: Mapping[str, Any], where: str, progress: Progress
) -> dict[str, Any]:
    """Arguments with schedules resolved, checked against the reward's signature and by its own `validate`."""
    args = {}
    for name, value in given.items():
        if name not in entry.arguments:
            raise ValueError(
                f"{where}: unknown argument {name!r}. {nearest(name, [*entry.arguments, 'weight'])}"
            )
        with placed(f"{where}.{name}"):
            number = scheduled(value)
            args[name] = value_at(number, progress) if isinstance(number, Schedule) else number
    others = [
        name for name in inspect.signature(entry.function).parameters if name not in entry.arguments
    ]
    try:
        checked = validated(entry.function, args, where, others)
    except NameError as error:
        raise ValueError(
            f"{where}: an annotation of {entry.name!r} cannot be read ({error}); import what it names at run time"
        ) from error
    with placed(where):
        entry.check(checked)
    return checked


def check_components(components: Sequence[Component], correct: str, where: str) -> None:
    """ValueError for components that do not go together."""
    batch = [one.name for one in components if one.reward.scope == "batch"]
    if correct in batch:
        raise ValueError(
            f"{where}: {correct!r} has scope batch and is judged on the final batch, so it cannot be the correctness, which "
            "decides what goes into a batch"
        )
    for place, one in enumerate(components):
        if one.name == "total" or (one.name == "correct" and one.name != correct):
            raise ValueError(
                f"{where}: a component cannot be called {one.name!r}, which metrics.jsonl has for the whole reward or for "
                "verified correctness; give it another name with `as:`"
            )
        earlier = [other.name for other in components[:place] if other.name in batch]
        if one.reward.scope == "group" and one.reward.names("rewards") and earlier:
            raise ValueError(
                f"{where}: {one.name!r} asks for the rewards of the components before it, and {earlier[0]!r} among them is "
                "judged only when the batch is final; put rewards of scope batch last"
            )
