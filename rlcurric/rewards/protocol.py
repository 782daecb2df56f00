"""What a reward is, how it is registered and where it is found."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import inspect
import os
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rlcurric.assets import folder, python_module
from rlcurric.registry import registry
from rlcurric.types import Score

Scope = Literal["sample", "group", "batch"]
Where = Literal["worker", "inline", "service"]
Returned = Sequence[float | Score | None]
RewardFunction = Callable[..., Returned | Awaitable[Returned]]
Validator = Callable[..., object]

# What every reward is given beside prompts and completions and the row's own columns.
COLUMNS = (
    *("completion_ids", "lengths", "truncated", "correct", "rewards", "distribution"),
    "forced_mode",
)
# What TRL's trainer hands to reward functions beside columns, and what of it is not to be had here.
SERVED = ("log_metric", "log_extra", "trainer_state")
UNSERVED = ("environments",)
ENTRY_POINTS = "rlcurric.rewards"
_COLUMN = re.compile(r"(?:typing\.|collections\.abc\.)?(?:list|List|Sequence)\b")


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
    validate: Validator | None = None  # refuses arguments that do not fit together
    separable: bool = False  # of scope group: a sample's score is the same without the others
    preload_for: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # the same, by column

    def modules(self, columns: Mapping[str, Sequence[Any]]) -> frozenset[str]:
        """What workers must have imported to score rows with these columns."""
        asked = (
            module
            for column, modules in self.preload_for.items()
            if any(value is not None for value in columns.get(column, ()))
            for module in modules
        )
        return frozenset((*self.preload, *asked))

    @property
    def arguments(self) -> dict[str, inspect.Parameter]:
        """Parameters that a recipe may set: those with a default that are no columns."""
        return {
            name: parameter
            for name, parameter in self._parameters.items()
            if parameter.default is not parameter.empty
            and not _is_column(parameter)
            and name not in (*SERVED, *UNSERVED)
        }

    @property
    def columns(self) -> list[str]:
        """Columns that the function names and that have no default: rows must have them."""
        return [
            name
            for name, parameter in self._parameters.items()
            if parameter.default is parameter.empty
            and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
            and name not in ("prompts", "completions", *COLUMNS, *SERVED)
        ]

    def names(self, parameter: str) -> bool:
        """Whether the function has a parameter of that name."""
        return parameter in self._parameters

    def check(self, arguments: Mapping[str, Any]) -> None:
        """Call `validate` with the arguments that a recipe gives and the defaults of the others."""
        if self.validate is not None:
            defaults = {name: one.default for name, one in self.arguments.items()}
            self.validate(**{**defaults, **arguments})

    @property
    def source(self) -> str:
        """The Python file that its function stands in; empty where there is none."""
        function = inspect.unwrap(self.function)
        code = getattr(function, "__code__", None) or getattr(
            type(function).__call__, "__code__", None
        )
        return os.path.realpath(code.co_filename) if code else self.file

    @property
    def _parameters(self) -> Mapping[str, inspect.Parameter]:
        return inspect.signature(self.function).parameters


def reward(
    name: str,
    scope: Scope = "sample",
    where: Where = "worker",
    correctness: bool = False,
    preload: Sequence[str] = (),
    validate: Validator | None = None,
    separable: bool = False,
    preload_for: Mapping[str, Sequence[str]] | None = None,
) -> Callable[[RewardFunction], RewardFunction]:
    """Register a reward function, sync or async, under TRL's convention for reward functions.

    The function takes `prompts` and `completions` (lists of strings), by keyword the columns of the data rows as lists
    (a parameter with a default is a column if it is annotated as a list), and the recipe's arguments as keywords with
    defaults; it returns a score for each completion: a number, a `Score`, or None where it does not apply.

    Args:
        name: what recipes call it.
        scope: how much it must see at once: a `sample`, a `group` of one prompt's samples, or the whole `batch`, once
            it is final.
        where: in a closed-off `worker` process with a deadline (for all that touches model text with foreign code);
            `inline` in the trainer, for arithmetic on lengths and the like; `service` for one that calls a server.
        correctness: its value is verified correctness; gates and bandits read it unless told otherwise.
        preload: modules that a worker imports before it is closed off, and functions (`module:function`) that it calls
            then, so that every call finds their caches warm.
        validate: called with all arguments when a recipe is checked; raises ValueError for what does not fit.
        separable: of scope `group`: a sample's score is the same without the others, so that a call that failed may be
            repeated sample by sample.
        preload_for: the same as `preload`, by the column whose rows alone need it: workers that meet the first such row
            are started anew.
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
        resolved = str(Path(file).resolve()) if file else ""
        entry = Reward(
            *(name, function, scope, where, correctness, tuple(preload), resolved),
            *(validate, separable),
            {column: tuple(modules) for column, modules in (preload_for or {}).items()},
        )
        _refuse_unserved(entry)
        registry("reward").add(name, entry)
        return function

    return add


def _refuse_unserved(entry: Reward) -> None:
    """ValueError for a parameter that nothing here can fill in."""
    asked = [name for name in UNSERVED if name in entry.columns]
    if asked:
        raise ValueError(
            f"reward {entry.name!r} asks for {asked[0]!r}, which TRL's trainer makes and rlcurric does not have: give "
            "the parameter a default, or take what it needs from a column of the data rows"
        )
    if entry.scope == "sample" and entry.names("rewards"):
        raise ValueError(
            f"reward {entry.name!r} asks for 'rewards', what a completion is worth so far, which is known to rewards of "
            "scope group or batch; it is declared with scope sample"
        )


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
        _load_entry_point(point)


def _load_entry_point(point: importlib.metadata.EntryPoint) -> None:
    """A module that registers rewards when it is imported, or a function, known by the entry point's name."""
    known = {name: registry("reward").get(name) for name in registry("reward")}
    try:
        part = point.load()
    except Exception as error:
        raise ValueError(
            f"The entry point {point.name!r} ({point.value}) of {point.dist.name if point.dist else 'a package'} in "
            f"{ENTRY_POINTS} cannot be loaded: {type(error).__name__}: {error}. Mend or uninstall that package"
        ) from error
    for name in registry("reward"):  # workers find them as this does: not as a lone file
        entry: Reward = registry("reward").get(name)
        if known.get(name) is not entry:
            registry("reward").add(name, dataclasses.replace(entry, file=""))
    functions = [registry("reward").get(name).function for name in registry("reward")]
    if callable(part) and part not in functions:
        entry = Reward(point.name, part)
        _refuse_unserved(entry)
        registry("reward").add(point.name, entry)


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
    entry = Reward(name, function, "group", "worker", file=str(file.resolve()))
    _refuse_unserved(entry)
    return entry


def _is_column(parameter: inspect.Parameter) -> bool:
    """Columns are lists: one value a completion."""
    return parameter.name in COLUMNS or bool(_COLUMN.match(_annotation(parameter)))


def _annotation(parameter: inspect.Parameter) -> str:
    annotation = parameter.annotation
    return annotation.__name__ if annotation is list else str(annotation)


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
