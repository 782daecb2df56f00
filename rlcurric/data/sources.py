"""Where data rows come from: files, the hub, reasoning-gym, and a recipe's own Python builders.

A source is a registered class or function, or an import path (`file.py:function`, relative to the
recipe). It is called with the arguments that stand beside its name in the recipe and gives a
`Source`, a `Split`, or simply an iterable of row dicts. A row needs `question` and `answer`;
supervised fine-tuning needs `demonstration` too. All other columns are kept, for prompt templates
and rewards.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, runtime_checkable

from rlcurric.assets import described, python_module
from rlcurric.data.files import expand_path, read_rows, read_written
from rlcurric.data.rows import Located, Place
from rlcurric.registry import nearest, register, registry


@runtime_checkable
class Source(Protocol):
    """Rows, each with the place it was read from."""

    def rows(self) -> Iterator[Located]:
        """The rows to train on, or to split."""
        ...

    def held_out_rows(self) -> Iterator[Located] | None:
        """Rows that are never trained on; None where the source has no such set of its own."""
        ...


@dataclass(frozen=True)
class Split:
    """What a Python builder returns when it has held-out rows of its own."""

    train: Iterable[Mapping[str, Any]]
    held_out: Iterable[Mapping[str, Any]]


@dataclass(frozen=True)
class Columns:
    """How the columns of a source become ours.

    `columns` maps our name to theirs, or to several of theirs in braces (`"{Body} {Question}"`). A dot goes into a column:
    `reward_model.ground_truth` an object's field, `prompt.1` a place of a list, `messages.user` what the first message of
    that role says. `where` keeps the rows whose columns have these values (or one of a list).
    `answer_pattern` is a regular expression that takes the gold out of the answer: its first group,
    or all it matches. A row without an answer is an error, or left out and counted where
    `drop_unanswered`.
    """

    columns: Mapping[str, str]
    answer_pattern: re.Pattern[str] | None
    drop_unanswered: bool
    where: Mapping[str, Any]

    @classmethod
    def of(
        cls,
        columns: Mapping[str, str] | None,
        answer_pattern: str | None,
        drop_unanswered: bool,
        where: Mapping[str, Any] | None = None,
    ) -> Columns:
        try:
            pattern = None if answer_pattern is None else re.compile(answer_pattern)
            return cls(columns or {}, pattern, drop_unanswered, where or {})
        except re.error as error:
            raise ValueError(
                f"answer_pattern {answer_pattern!r} is no regular expression: {error}"
            ) from None

    def of_all(self, rows: Iterable[Located]) -> Iterator[Located]:
        """The rows that are wanted, under our names."""
        return (self.apply(row) for row in rows if self._wants(row))

    def _wants(self, row: Located) -> bool:
        for column, wanted in self.where.items():
            allowed = wanted if isinstance(wanted, list | tuple) else [wanted]
            if self._value(row, "where", column) not in allowed:
                return False
        return True

    def apply(self, row: Located) -> Located:
        """The row under our names; its other columns stay as they are."""
        taken = {ours: self._take(row, ours, theirs) for ours, theirs in self.columns.items()}
        values = {**row.columns, **taken}
        if "answer" not in values:  # said where every row is checked
            return Located(values, row.place)
        gold = self._gold(values["answer"])
        if gold is None and not self.drop_unanswered:
            raise ValueError(f"{row.place}: {self._no_gold(values['answer'])}")
        return Located({**values, "answer": gold}, row.place, left_out=gold is None)

    def _take(self, row: Located, ours: str, theirs: str) -> Any:
        names = _BRACES.findall(theirs) or [theirs]
        values = {name: self._value(row, ours, name) for name in names}
        if names == [theirs]:
            return values[theirs]
        return _BRACES.sub(lambda match: str(values[match[1]]), theirs)

    def _value(self, row: Located, ours: str, path: str) -> Any:
        """A column, or what a path with dots leads to within one."""
        if path in row.columns:
            return row.columns[path]
        name, *steps = path.split(".")
        if name not in row.columns:
            raise ValueError(
                f"{row.place}: no column {name!r}, which `columns` takes {ours!r} from. "
                f"{nearest(name, row.columns)}"
            )
        value = row.columns[name]
        for step in steps:
            found = _inside(value, step)
            if found is _ABSENT:
                raise ValueError(
                    f"{row.place}: {path!r}, which `columns` takes {ours!r} from, leads nowhere: there is no {step!r} in "
                    f"{value!r:.200}"
                )
            value = found
        return value

    def _gold(self, answer: Any) -> Any:
        """The gold answer; None where there is none."""
        if self.answer_pattern is None:
            return None if isinstance(answer, str) and not answer.strip() else answer
        found = self.answer_pattern.search(answer) if isinstance(answer, str) else None
        if found is None:
            return None
        gold = found[1] if self.answer_pattern.groups else found[0]
        return (gold or "").strip() or None

    def _no_gold(self, answer: Any) -> str:
        remedy = "Set drop_unanswered: true in the source to leave such rows out."
        if self.answer_pattern is None or answer is None:
            return f"the answer is empty ({answer!r}). {remedy}"
        pattern = self.answer_pattern.pattern
        return f"answer_pattern {pattern!r} finds nothing in the answer {answer!r:.200}. {remedy}"


_BRACES = re.compile(r"\{(\w+(?:\.[\w-]+)*)\}")
_ABSENT = object()


def _inside(value: Any, step: str) -> Any:
    """A field of an object, a place of a list (from the end below 0), or the first message of a role."""
    if isinstance(value, Mapping):
        return value.get(step, _ABSENT)
    if not isinstance(value, list | tuple):
        return _ABSENT
    if re.fullmatch(r"-?\d+", step):
        return value[int(step)] if -len(value) <= int(step) < len(value) else _ABSENT
    said = (one for one in value if isinstance(one, Mapping) and one.get("role") == step)
    return next(said, {}).get("content", _ABSENT)


@register("source", "file")
class FileSource:
    """Rows of a .jsonl, .json (an array), .csv or .parquet file; `held_out_path` names a second
    one, never trained on.

    `${NAME}` in a path is an environment variable; relative paths start from the recipe's folder
    (`base_dir`, which is filled in, not written in recipes).
    """

    def __init__(
        self,
        path: str,
        held_out_path: str | None = None,
        columns: dict[str, str] | None = None,
        answer_pattern: str | None = None,
        drop_unanswered: bool = False,
        where: dict[str, Any] | None = None,
        base_dir: str = ".",
    ) -> None:
        self.path, self.held_out_path, self.base_dir = path, held_out_path, base_dir
        self.columns = Columns.of(columns, answer_pattern, drop_unanswered, where)

    def rows(self) -> Iterator[Located]:
        return self._read(self.path)

    def held_out_rows(self) -> Iterator[Located] | None:
        return None if self.held_out_path is None else self._read(self.held_out_path)

    def _read(self, path: str) -> Iterator[Located]:
        yield from self.columns.of_all(read_rows(expand_path(path, self.base_dir)))


@register("source", "stage")
class StageSource:
    """Rows that an earlier stage of the recipe wrote (kind rejection); they are read when the stage
    begins that trains on them. `path` is filled in, not written in recipes.
    """

    def __init__(self, stage: str, path: str = "") -> None:
        self.stage, self.path = stage, path

    def rows(self) -> Iterator[Located]:
        assert self.path, self.stage
        return read_written(Path(self.path))

    def held_out_rows(self) -> None:
        return None


@register("source", "hub")
class HubSource:
    """A dataset by its hub id, or a local dataset folder, through `datasets`."""

    def __init__(
        self,
        path: str,
        config: str | None = None,
        split: str = "train",
        held_out_split: str | None = None,
        revision: str | None = None,
        columns: dict[str, str] | None = None,
        answer_pattern: str | None = None,
        drop_unanswered: bool = False,
        where: dict[str, Any] | None = None,
        base_dir: str = ".",
    ) -> None:
        self.path, self.config, self.revision = path, config, revision
        self.split, self.held_out_split, self.base_dir = split, held_out_split, base_dir
        self.columns = Columns.of(columns, answer_pattern, drop_unanswered, where)

    def rows(self) -> Iterator[Located]:
        return self._load(self.split)

    def held_out_rows(self) -> Iterator[Located] | None:
        return None if self.held_out_split is None else self._load(self.held_out_split)

    def _load(self, split: str) -> Iterator[Located]:
        import datasets

        folder = expand_path(self.path, self.base_dir)
        path = str(folder) if folder.is_dir() else self.path
        try:
            loaded = datasets.load_dataset(
                path, name=self.config, split=split, revision=self.revision
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise ValueError(
                f"The dataset {self.path!r} (config {self.config!r}, split {split!r}) cannot be "
                f"loaded: {str(error).rstrip('. ')}. Check the id, config and split. It must be downloaded once from the "
                "Hugging Face hub; without network set the source's path to a folder with a copy (hf download "
                f"{self.path} --repo-type dataset --local-dir FOLDER), or read a file of it with the source `file`."
            ) from error
        yield from self.columns.of_all(
            Located(dict(columns), Place(f"{self.path} ({split}), index", number))
            for number, columns in enumerate(loaded)
        )


@register("source", "reasoning_gym")
class ReasoningGymSource:
    """`size` rows of a procedural task; `config` holds the task's difficulty knobs. See
    `reasoning_gym_rows`.
    """

    def __init__(
        self, task: str, size: int = 1000, seed: int = 0, config: dict[str, Any] | None = None
    ) -> None:
        self.task, self.size, self.seed, self.config = task, size, seed, config

    def rows(self) -> Iterator[Located]:
        for number, row in enumerate(
            reasoning_gym_rows(self.task, self.size, self.seed, self.config)
        ):
            yield Located(
                row, Place(f"reasoning_gym {self.task} (seed {self.seed}), index", number)
            )

    def held_out_rows(self) -> None:
        return None


def reasoning_gym_rows(
    task: str, size: int, seed: int = 0, config: Mapping[str, Any] | None = None
) -> Iterator[dict[str, Any]]:
    """Rows of a reasoning-gym task: question, answer, and `reasoning_gym: {task, entry}` for its
    own scorer.

    The entry is kept as the task made it (some scorers tell tuples from lists). `answer` is None
    where the task has no single gold answer. ValueError for an unknown task or knob, or for values
    that the task refuses.
    """
    import reasoning_gym
    from reasoning_gym.factory import DATASETS

    if task not in DATASETS:
        raise ValueError(f"Unknown reasoning-gym task {task!r}. {nearest(task, DATASETS)}")
    knobs = {field.name for field in fields(DATASETS[task][1])} - {"seed", "size"}
    for name in config or {}:
        if name not in knobs:
            raise ValueError(f"reasoning-gym {task} has no knob {name!r}. {nearest(name, knobs)}")
    try:
        dataset = reasoning_gym.create_dataset(task, size=size, seed=seed, **(config or {}))
    except (AssertionError, TypeError, ValueError) as error:
        raise ValueError(
            f"reasoning-gym {task} refuses size {size} with config {dict(config or {})}: {error}"
        ) from None
    for index in range(size):
        entry = dataset[index]
        yield {
            "question": entry["question"],
            "answer": entry["answer"],
            "reasoning_gym": {"task": task, "entry": entry},
        }


class BuiltSource:
    """The rows of a Python builder, which are plain dicts."""

    def __init__(self, label: str, split: Split | Iterable[Any]) -> None:
        self.label, self.split = label, split

    def rows(self) -> Iterator[Located]:
        rows = self.split.train if isinstance(self.split, Split) else self.split
        return self._locate(rows, f"{self.label}, index")

    def held_out_rows(self) -> Iterator[Located] | None:
        if not isinstance(self.split, Split):
            return None
        return self._locate(self.split.held_out, f"{self.label}, held-out index")

    def _locate(self, rows: Iterable[Any], prefix: str) -> Iterator[Located]:
        for number, row in enumerate(rows):
            if isinstance(row, Located):
                yield row
                continue
            place = Place(prefix, number)
            if not isinstance(row, Mapping):
                raise ValueError(
                    f"{place}: a row must be a dict of columns, got {type(row).__name__}"
                )
            yield Located(dict(row), place)


def as_source(made: Any, label: str) -> Source:
    """What a registered source or a builder returned, as a Source. `label` names it in messages."""
    if isinstance(made, Source):
        return made
    if isinstance(made, Split) or (
        isinstance(made, Iterable) and not isinstance(made, str | Mapping)
    ):
        return BuiltSource(label, made)
    raise ValueError(
        f"The source {label!r} must return an iterable of row dicts, a Split or a Source, got "
        f"{type(made).__name__}"
    )


def source_factory(name: str, base_dir: str | Path = ".") -> Callable[..., Any]:
    """The class or function that `name` stands for: registered, `file.py:function` or
    `package.module:function`.

    A parameter `base_dir` of it is bound to the recipe's folder.
    """
    factory = import_attribute(name, base_dir) if ":" in name else registry("source").get(name)
    if not callable(factory):
        raise ValueError(f"The source {name!r} is no function but a {type(factory).__name__}")
    if "base_dir" in inspect.signature(factory).parameters:
        return functools.partial(factory, base_dir=str(base_dir))
    checked: Callable[..., Any] = factory
    return checked


def make_source(name: str, args: Mapping[str, Any], base_dir: str | Path = ".") -> Source:
    """The source that a recipe names, with its arguments."""
    factory = source_factory(name, base_dir)
    parameters = inspect.signature(factory).parameters
    known = [parameter for parameter in parameters if parameter != "base_dir"]
    takes_any = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
    for argument in args:
        if argument not in known and not takes_any:
            hint = nearest(argument, known)
            raise ValueError(f"The source {name!r} has no argument {argument!r}. {hint}")
    try:
        inspect.signature(factory).bind(**args)
    except TypeError as error:
        raise ValueError(
            f"The source {name!r}: {error}. Its arguments: {', '.join(known)}"
        ) from None
    try:
        made = factory(**args)
    except (ValueError, MemoryError):
        raise
    except Exception as error:  # a builder's own
        raise ValueError(f"The source {name!r} failed: {described(error)}") from error
    return as_source(made, name)


def import_attribute(path: str, base_dir: str | Path = ".") -> Any:
    """The object at `file.py:attribute` (a file relative to `base_dir`) or at
    `package.module:attribute`.
    """
    origin, _, attribute = path.rpartition(":")
    module = _module_of_file(origin, base_dir) if origin.endswith(".py") else _module(origin, path)
    if not hasattr(module, attribute):
        public = [
            name
            for name, member in vars(module).items()
            if not name.startswith("_") and getattr(member, "__module__", None) == module.__name__
        ]
        raise ValueError(f"{origin} has no {attribute!r}. {nearest(attribute, public)}")
    return getattr(module, attribute)


def _module(name: str, path: str) -> ModuleType:
    if importlib.util.find_spec(name.partition(".")[0]) is None:
        raise ValueError(f"{path!r}: there is no module {name!r}; a file is named `file.py:name`")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        raise ValueError(f"{path!r}: there is no module {error.name!r}") from None


def _module_of_file(origin: str, base_dir: str | Path) -> ModuleType:
    file = expand_path(origin, base_dir).resolve()
    if not file.is_file():
        raise ValueError(
            f"There is no file {file}; paths of Python files start from the recipe's folder"
        )
    return python_module(file)
