"""One call of a reward: what it is handed, and what it gives back brought into one form."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import math
import os
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set, Sized
from dataclasses import dataclass, field
from typing import Any

from rlcurric.rewards.protocol import SERVED, RewardFunction
from rlcurric.types import Score

LONGEST_ERROR = 500  # characters of what a reward raised
LONGEST_NOTE = 2000  # characters of a value that a reward logs beside its score
Plain = float | int | str | bool | None


class ScoreCountError(ValueError):
    """A reward did not return one score for each completion: a mistake in the reward, whatever the texts are."""


class TrainerState:
    """What reward functions may read of TRL's `trainer_state`."""

    def __init__(self, global_step: int = 0, max_steps: int = 0) -> None:
        self.global_step = global_step  # steps done over the whole run
        self.max_steps = max_steps  # steps of all stages

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise AttributeError(
            f"trainer_state.{name} is not to be had here: it has global_step and max_steps. A schedule in the recipe "
            "changes an argument over the run"
        )


@dataclass(frozen=True)
class Verdicts:
    """What a reward says of some completions, one score each."""

    scores: tuple[Score, ...]
    metrics: tuple[tuple[str, float], ...] = ()  # by `log_metric`, in order
    notes: Mapping[str, tuple[Plain, ...]] = field(default_factory=dict)  # by `log_extra`


class _Notes:
    """Takes what a function logs: the two callables of TRL's convention."""

    def __init__(self, count: int) -> None:
        self._count = count
        self.metrics: list[tuple[str, float]] = []
        self.notes: dict[str, tuple[Plain, ...]] = {}

    def log_metric(self, name: str, value: float) -> None:
        number = float(value)
        if not math.isfinite(number):
            raise ValueError(f"log_metric({name!r}) needs a finite number, got {number}")
        self.metrics.append((str(name), number))

    def log_extra(self, column: str, values: Sequence[Any]) -> None:
        if len(values) != self._count:
            raise ScoreCountError(
                f"log_extra({column!r}) needs one value for each completion, got {len(values)} for {self._count}"
            )
        self.notes[str(column)] = tuple(map(plain, values))


def invoke(
    function: RewardFunction,
    prompts: list[str],
    completions: list[str],
    columns: Mapping[str, Any],
    state: TrainerState | None = None,
    wait: Callable[[Awaitable[Any]], Any] | None = None,
) -> Verdicts:
    """Call a reward and bring what it returns into one form.

    ScoreCountError for a result of the wrong length or kind, ValueError for a score that is none. `wait` waits for what
    an async function returns; by default a loop of its own does.
    """
    notes = _Notes(len(completions))
    served = (notes.log_metric, notes.log_extra, state or TrainerState())
    given = {**dict(zip(SERVED, served, strict=True)), **columns}
    given |= {"prompts": prompts, "completions": completions}  # by keyword, in whatever order
    result: Any = function(**_accepted(function, given))
    if inspect.isawaitable(result):
        result = wait(result) if wait else asyncio.run(finish(result))
    if isinstance(result, str | bytes | Mapping | Set) or not isinstance(result, Sized):
        raise ScoreCountError(
            f"a list with one score for each completion is required, got {type(result).__name__}"
        )
    if len(result) != len(completions):
        raise ScoreCountError(
            f"a list with one score for each completion is required, got {len(result)} for {len(completions)}"
        )
    scores: Any = result
    return Verdicts(tuple(map(_score, scores)), tuple(notes.metrics), notes.notes)


def call(
    function: RewardFunction, prompts: list[str], completions: list[str], columns: dict[str, Any]
) -> list[Score]:
    """The scores alone of `invoke`: for tests and for rewards that are tried by hand."""
    return list(invoke(function, prompts, completions, columns).scores)


def described(error: BaseException, file: str) -> str:
    """What a reward raised, and where: the deepest line of its own file that had a part in it."""
    text = f"{type(error).__name__}: {error}"[:LONGEST_ERROR]
    frames = traceback.walk_tb(error.__traceback__)
    own = [line for frame, line in frames if os.path.realpath(frame.f_code.co_filename) == file]
    return f"{text} ({os.path.basename(file)}:{own[-1]})" if own else text


async def finish(result: Awaitable[Any]) -> Any:
    """A coroutine around whatever may be awaited."""
    return await result


def _accepted(function: RewardFunction, given: Mapping[str, Any]) -> dict[str, Any]:
    """All of it for a function with `**columns`; else what it names."""
    parameters = inspect.signature(function).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return dict(given)
    return {name: value for name, value in given.items() if name in parameters}


def _score(value: Any) -> Score:
    score = value if isinstance(value, Score) else Score(value)
    if score.value is None:
        return score
    number = float(score.value)
    if math.isinf(number):
        raise ValueError(f"a score must be a finite number or None, got {number}")
    return dataclasses.replace(score, value=None if math.isnan(number) else number)


def plain(value: Any) -> Plain:
    """A value that JSON and a table can hold."""
    if hasattr(value, "item") and not isinstance(value, str):
        value = value.item()
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value)[:LONGEST_NOTE]
