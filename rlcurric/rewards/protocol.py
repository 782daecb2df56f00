"""What a reward is, how it is registered and where it is found."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence, Set, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rlcurric.assets import folder, python_module
from rlcurric.registry import registry
from rlcurric.types import Score

Scope = Literal["sample", "group", "batch"]
Where = Literal["worker", "inline", "service"]
RewardFunction = Callable[..., Sequence[float | Score | None]]

# What every reward is given beside prompts and completions and the row's own columns.
COLUMNS = ("completion_ids", "lengths", "truncated", "correct")
ENTRY_POINTS = "rlcurric.rewards"


@dataclass(frozen=True)
class Reward:
    """A registered reward function `(prompts, completions, **columns and arguments)`."""

    name: str
    function: RewardFunction
    scope: Scope = "group"
    where: Where = "worker"
    correctness: bool = False  # its value is verified correctness in [0, 1]
    preload: tuple[str, ...] = ()  # modules that workers import before they are closed off
    file: str = ""  # Python file that defines it: workers load it from there
    validate: Callable[..., object] | None = None  # refuses arguments that do not fit together

    @property
    def arguments(self) -> dict[str, inspect.Parameter]:
        """Parameters that a recipe may set: those with a default that are no columns."""
        parameters = inspect.signature(self.function).parameters
        return {
            name: parameter
            for name, parameter in parameters.items()
            if parameter.default is not parameter.empty and not _is_column(parameter)
        }

    @property
    def columns(self) -> list[str]:
        """Columns that the function names and that have no default: rows must have them."""
        parameters = inspect.signature(self.function).parameters
        return [
            name
            for name, parameter in parameters.items()
            if parameter.default is parameter.empty
            and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
            and name not in ("prompts", "completions", *COLUMNS)
        ]


def reward(
    name: str,
    scope: Scope = "sample",
    where: Where = "worker",
    correctness: bool = False,
    preload: Sequence[str] = (),
    validate: Callable[..., object] | None = None,
) -> Callable[[RewardFunction], RewardFunction]:
    """Register a reward function, under TRL's convention for reward functions.

    The function takes `prompts` and `completions` (lists of strings), by keyword the columns of the data rows as lists
    (a parameter with a default is a column if it is annotated as a list), and the recipe's arguments as keywords with defaults; it returns a score for each completion: a number, a
    `Score`, or None where it does not apply.

    Args:
        name: what recipes call it.
        scope: how much it must see at once: a `sample`, a `group` of one prompt's samples, or the whole `batch`.
        where: in a closed-off `worker` process with a deadline (for all that touches model text with foreign code);
            `inline` in the trainer, for arithmetic on lengths and the like; `service` for one that calls a server.
        correctness: its value is verified correctness; gates and bandits read it unless told otherwise.
        preload: modules that a worker imports before it is closed off.
        validate: called with all arguments when a recipe is checked; raises ValueError for what does not fit.
    """
    if scope not in ("sample", "group", "batch") or where not in ("worker", "inline", "service"):
        raise ValueError(
            f"reward {name!r}: scope must be sample, group or batch, and where worker, inline or service; got "
            f"{scope!r} and {where!r}"
        )

    def add(function: RewardFunction) -> RewardFunction:
        file = inspect.getsourcefile(function) or ""
        parameters = list(inspect.signature(function).parameters.values())
        names = [parameter.name for parameter in parameters]
        if (
            names[:2] != ["prompts", "completions"]
            or parameters[-1].kind is not inspect.Parameter.VAR_KEYWORD
        ):
            raise ValueError(
                f"reward {name!r} in {file or 'unknown file'}: a function (prompts, completions, ..., **columns) is "
                f"required, got ({', '.join(map(str, parameters))})"
            )
        registry("reward").add(
            name,
            Reward(
                *(name, function, scope, where, correctness, tuple(preload)),
                *(str(Path(file).resolve()), validate),
            ),
        )
        return function

    return add


def load_reward_file(path: str | Path) -> None:
    """Run a Python file that registers rewards; ValueError if there is none."""
    file = Path(path).resolve()
    if not file.is_file():
        raise ValueError(f"There is no reward file {file}")
    python_module(file)


def load_reward_files(paths: Iterable[str | Path]) -> None:
    for path in paths:
        load_reward_file(path)


def discover_builtin() -> None:
    """Register the rewards that ship with the package, and those of installed packages' entry points."""
    load_reward_files(sorted(folder("rewards").glob("*.py")))
    for point in importlib.metadata.entry_points(group=ENTRY_POINTS):
        point.load()


def get_reward(name: str, base_dir: str | Path = ".") -> Reward:
    """The reward of that name, or the function at `file.py:function`; ValueError with the nearest names on a miss.

    A plain function that was written for TRL is taken as one that must see whole groups.
    """
    if ":" not in name:
        found: Reward = registry("reward").get(name)
        return found
    path, _, attribute = name.rpartition(":")
    file = Path(base_dir) / path
    before = set(registry("reward"))
    load_reward_file(file)
    for known in registry("reward"):
        entry: Reward = registry("reward").get(known)
        if entry.file == str(file.resolve()) and attribute in (known, entry.function.__name__):
            return entry
    function = getattr(python_module(file), attribute, None)
    if not callable(function):
        raise ValueError(
            f"{file} has no reward {attribute!r}. It registers: {sorted(set(registry('reward')) - before)}"
        )
    return Reward(name, function, "group", "worker", file=str(file.resolve()))


def _is_column(parameter: inspect.Parameter) -> bool:
    """Columns are lists: one value a completion."""
    annotation = str(parameter.annotation)
    return parameter.name in COLUMNS or annotation.startswith(("list[", "Sequence["))


@dataclass(frozen=True)
class Description:
    """A line of `rlcurric rewards list`."""

    name: str
    scope: str
    where: str
    arguments: list[str]
    summary: str


def describe_rewards() -> list[Description]:
    """Every registered reward, by name."""
    found = []
    for name in registry("reward"):
        entry: Reward = registry("reward").get(name)
        arguments = [f"{key}={parameter.default!r}" for key, parameter in entry.arguments.items()]
        summary = (inspect.getdoc(entry.function) or "").partition("\n")[0]
        found.append(Description(name, entry.scope, entry.where, arguments, summary))
    return found


class ScoreCountError(ValueError):
    """A reward did not return one score for each completion: a mistake in the reward, whatever the texts are."""


def call(
    function: RewardFunction, prompts: list[str], completions: list[str], columns: dict[str, Any]
) -> list[Score]:
    """Call a reward and bring what it returns into one form.

    ScoreCountError for a result of the wrong length or kind, ValueError for a score that is none.
    """
    result = function(prompts, completions, **columns)
    if isinstance(result, str | bytes | Mapping | Set) or not isinstance(result, Sized):
        raise ScoreCountError(
            f"a list with one score for each completion is required, got {type(result).__name__}"
        )
    if len(result) != len(completions):
        raise ScoreCountError(
            f"a list with one score for each completion is required, got {len(result)} for {len(completions)}"
        )
    return [_score(value) for value in result]


def _score(value: Any) -> Score:
    score = value if isinstance(value, Score) else Score(value)
    if score.value is None:
        return score
    number = float(score.value)
    if math.isinf(number):
        raise ValueError(f"a score must be a finite number or None, got {number}")
    return dataclasses.replace(score, value=None if math.isnan(number) else number)
