"""What the README and the documentation show works as it is written there."""

from __future__ import annotations

import inspect
import json
import re
import shlex
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

import rlcurric
from rlcurric.build import Parts
from rlcurric.build.curriculum import redundancies
from rlcurric.cli import _run
from rlcurric.cli.app import app
from rlcurric.curriculum.guards import Guards
from rlcurric.recipe.curricula import Curriculum, ValueModel
from rlcurric.recipe.curricula import Guards as GuardKeys
from rlcurric.recipe.load import dump_yaml, load_recipe
from rlcurric.recipe.settings import Architecture, Run
from rlcurric.recipe.stages import RlStage
from rlcurric.recipe.values import Closed, parse_number
from rlcurric.registry import registry
from rlcurric.report.tables import RunTables
from rlcurric.rewards.protocol import discover_builtin, get_reward
from rlcurric.schedules import Schedule
from tests.tiny import tiny_recipe

ROOT = Path(__file__).parent.parent
CURRICULUM = ROOT / "docs" / "curriculum.md"
TABLES = {  # kind of part -> head of its table in docs/curriculum.md
    **{kind: kind for kind in ("sampler", "signal", "scorer", "pool", "gate", "plan", "selector")},
    "group_weight": "weight",
}
FRAMEWORK = {"sampler": "mixture", "scorer": "pool"}  # the argument that no recipe gives
EVERY_SCORER = {"explore": 0.05, "scope": "mixture"}  # said once, above the table
PLAIN = {
    "": ("required", "none"),
    "-1": ("none",),
    "0.0": ("0",),
    "60.0": ("60",),
    "180.0": ("180",),
}
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "launch" / "README.md"]


def blocks(page: Path, language: str) -> list[str]:
    """Fenced blocks of one language."""
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def rows(page: Path, head: str) -> list[list[str]]:
    """Cells of the table whose first column is called `head`."""
    text = page.read_text(encoding="utf-8")
    table = re.search(rf"^\| {head} \|.*\n\|[-|]+\n((?:\|.*\n)+)", text, re.MULTILINE)
    assert table is not None, head
    return [line.strip("| ").split(" | ") for line in table[1].replace("| |", "|  |").splitlines()]


def as_settings(text: str) -> dict[str, Any]:
    """The `key: value` of code spans, as a recipe reads them."""
    found = {}
    for key, value in re.findall(r"`(\w+): (.*?)`", text):
        made = float(Fraction(value)) if "/" in value else yaml.safe_load(value)
        found[key] = parse_number(made) if isinstance(made, dict) else made
    return found


def registered(kind: str) -> dict[str, Any]:
    """Parts of this package; other tests may have registered theirs."""
    known = registry(kind)
    parts = {name: known.get(name) for name in known}
    return {name: part for name, part in parts.items() if part.__module__.startswith("rlcurric.")}


def shown_default(value: Any) -> str:
    """A setting's default as a table writes it."""
    if value is None or value == ():
        return "none"
    name = getattr(value, "name", value)
    return str(name).lower() if isinstance(name, bool) else str(name)


def defaults(model: type[Closed]) -> dict[str, str]:
    """Keys of a section; of sections within it only that they are elsewhere."""
    return {
        key: "see there" if isinstance(value, Closed) else shown_default(value)
        for key, value in model()
    }


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> RunTables:
    """A run of three RL steps, the last of which has a scorer; it lies in runs/demo of its folder."""
    folder = tmp_path_factory.mktemp("shown") / "runs" / "demo"
    scorer = "stages.second.curriculum.scorer={name: mopps, ratio: 2}"
    rlcurric.train(tiny_recipe("stages.second.until.steps=1", scorer), folder)
    return rlcurric.read_run(folder)


@pytest.mark.parametrize("kind", TABLES)
def test_every_part_of_a_curriculum_is_documented(kind: str) -> None:
    """Names, arguments and defaults are those of the code; nothing else is listed."""
    found = {row[0].strip("`"): row for row in rows(CURRICULUM, TABLES[kind])}
    assert set(found) == set(registered(kind))
    for name, part in registered(kind).items():
        if kind == "signal":
            continue
        parameters = [
            one
            for one in inspect.signature(part).parameters.values()
            if one.name != FRAMEWORK.get(kind)
        ]
        cell = found[name][2] if len(found[name]) > 2 else ""
        arguments = as_settings(cell) | (EVERY_SCORER if kind == "scorer" else {})
        optional = {one.name: one.default for one in parameters if one.default is not one.empty}
        plain = {
            key: list(value)
            if isinstance(value, tuple) and not isinstance(value, Schedule)
            else value
            for key, value in optional.items()
        }
        assert arguments == plain, name
        required = {one.name for one in parameters if one.default is one.empty}
        assert set(re.findall(r"`(\w+)` \(required\)", cell)) == required, name


@pytest.mark.parametrize("word", ["`explore: 0.05`", "`scope: mixture`"])
def test_what_every_scorer_takes_is_said_above_their_table(word: str) -> None:
    assert word in CURRICULUM.read_text().split("| scorer |")[0].split("## Scorers")[1]


@pytest.mark.parametrize(
    ("page", "head", "model"),
    [
        (ROOT / "docs" / "recipes.md", "key", Curriculum),
        (CURRICULUM, "key of `value`", ValueModel),
    ],
)
def test_keys_and_defaults_of_a_curriculum_are_documented(
    page: Path, head: str, model: type[Closed]
) -> None:
    text = page.read_text()
    section = text.split("### Curriculum")[1] if head == "key" else text
    table = re.search(rf"^\| {head} \| default \|.*\n.*\n((?:\|.*\n)+)", section, re.MULTILINE)
    assert table is not None
    cells = [line.strip("| ").split(" | ") for line in table[1].splitlines()]
    shown = {
        key.strip("`"): default.strip("`")
        for keys, values, *_ in cells
        for key, default in zip(keys.split(", "), values.split(", "), strict=True)
    }
    assert shown == defaults(model)


def test_every_guard_and_its_thresholds_are_documented() -> None:
    table = rows(CURRICULUM, "guard")
    assert {row[0].strip("`") for row in table} == set(
        re.findall(r"`(\w+)` \(", inspect.getdoc(Guards) or "")
    )
    shown = {key: value for row in table for key, value in as_settings(row[2]).items()}
    assert shown == GuardKeys().model_dump()


@pytest.mark.parametrize("page", [ROOT / "README.md", CURRICULUM], ids=lambda page: page.name)
def test_the_curricula_in_the_documentation_are_curricula(page: Path) -> None:
    """Every part is bound, nothing contradicts, nothing is idle."""
    (text,) = (one for one in blocks(page, "yaml") if one.startswith("curriculum:"))
    recipe = tiny_recipe()
    curriculum = Curriculum(**yaml.safe_load(text)["curriculum"])
    stage = recipe.stages[-1].model_copy(update={"curriculum": curriculum})
    assert isinstance(stage, RlStage)
    assert redundancies(stage) == []
    parts = Parts(recipe.model_copy(update={"stages": (*recipe.stages[:-1], stage)}))
    parts.validate()
    parts.close()


def test_a_part_of_ones_own_is_checked_and_named_by_path(tmp_path: Path) -> None:
    """The module and its test as shown: pytest in a folder of the user's, then a recipe with it."""
    part, test = (
        one for one in blocks(CURRICULUM, "python") if re.match(r"# \w+\.py\n", one) is not None
    )
    for source in (part, test):
        (tmp_path / source.split("\n")[0].removeprefix("# ")).write_text(source)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_my_parts.py"]
    environment = {"PYTHONPATH": f"{ROOT}:{tmp_path}", "PATH": ""}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout + done.stderr
    (line,) = re.findall(r'`(weight: \{name: "my_parts.py:OnlyHard"\})`', CURRICULUM.read_text())
    assert line in (ROOT / "README.md").read_text()
    weight = yaml.safe_load(line)["weight"]["name"]
    parts = Parts(tiny_recipe(f"stages.second.curriculum.weight={tmp_path}/{weight}"))
    parts.validate()
    parts.close()


def test_a_reward_and_its_test_to_copy_work_as_shown(tmp_path: Path) -> None:
    """Both files in a folder of the user's: the test passes, and fails where the reward is wrong."""
    page = ROOT / "docs" / "rewards.md"
    shown = [one for one in blocks(page, "python") if re.match(r"# \w+\.py\n", one) is not None]
    part, test = (tmp_path / one.split("\n")[0].removeprefix("# ") for one in shown)
    environment = {"PYTHONPATH": f"{ROOT}:{tmp_path}", "PATH": ""}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", test.name]
    test.write_text(shown[1])
    for source, counts in (
        (shown[0], "2 passed"),
        (shown[0].replace("== gold", "!= gold"), "2 failed"),
    ):
        part.write_text(source)
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert counts in done.stdout, done.stdout + done.stderr
    recipe = tiny_recipe(f"reward_files=[{part}]", "stages.first.rewards=[{name: with_unit}]")
    with pytest.raises(ValueError, match="with_unit: with_unit needs a unit"):
        Parts(
            load_recipe(recipe, ["stages.first.rewards=[{name: with_unit, unit: ''}]"])
        ).validate()


@pytest.mark.parametrize("name", ["llm_judge", "reward_model"])
def test_arguments_of_services_are_documented(name: str) -> None:
    """Each with its default, in the order and the words of the table."""
    discover_builtin()
    section = (ROOT / "docs" / "rewards.md").read_text().split(f"### `{name}`")[1].split("##")[0]
    lines = re.findall(r"^\| (`.*?) \| (.*?) \|", section, re.MULTILINE)
    shown: dict[str, str] = {}
    for keys, values in lines:
        names = keys.replace("`", "").split(", ")
        given = values.replace("`", "").split(", ")
        shown |= dict(zip(names, given * len(names) if len(given) == 1 else given, strict=True))
    said = set(re.findall(r"`(\w+)(?:: \w+)?`", section))
    for key, parameter in get_reward(name).arguments.items():
        assert key in shown or key in said, key
        if key in shown:
            assert shown[key] in PLAIN.get(
                str(parameter.default), (shown_default(parameter.default),)
            )
    assert set(shown) - {"argument"} <= set(get_reward(name).arguments)


def test_the_draws_of_a_run_are_made_again_as_shown(
    tiny_run: RunTables, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lines as shown; and they notice a line that was changed."""
    (shown,) = (one for one in blocks(CURRICULUM, "python") if "read_run" in one)
    monkeypatch.chdir(tiny_run.path.parent.parent)
    names: dict[str, Any] = {}
    exec(shown, names)
    lines = [line for line in tiny_run.decisions if "candidates" in line]
    assert lines
    lines[-1]["chosen"] = [place + 1 for place in lines[-1]["chosen"]]
    assert len(names["verify"](tiny_run.recipe.seed, lines)) == 1


def test_kinds_of_decisions_are_documented(tiny_run: RunTables) -> None:
    """Every kind of line that the code writes is in the table, with the keys that a run's lines have."""
    table = {row[0].strip("`"): row[2] for row in rows(ROOT / "docs" / "runs.md", "kind")}
    source = (ROOT / "rlcurric" / "curriculum" / "controller.py").read_text()
    assert set(table) == set(re.findall(r'(?:_place\(|"kind": )"(\w+)"', source))
    for line in tiny_run.decisions:
        named = set(re.findall(r"`(\w+)`", table[line["kind"]]))
        keys = set(line) - {"kind", "step", "stage", "progress", "round", "groups"}
        assert keys <= named, line["kind"]


def test_the_recipe_in_the_readme_is_a_recipe(tmp_path: Path) -> None:
    text, _, objective = blocks(ROOT / "README.md", "yaml")
    file = tmp_path / "my.yaml"
    file.write_text(text)
    recipe = load_recipe(file)
    for checked in (recipe, tiny_recipe(objective.replace(": ", "=", 1).strip())):
        parts = Parts(checked)
        parts.validate()
        parts.close()


@pytest.mark.parametrize("page", ["objectives.md"])
def test_the_objectives_in_the_documentation_are_objectives(page: str) -> None:
    (text,) = blocks(ROOT / "docs" / page, "yaml")
    made = yaml.safe_load(text)["objective"]
    parts = Parts(tiny_recipe(f"stages.second.objective={json.dumps(made)}"))
    parts.validate()
    parts.close()


def test_the_reward_in_the_readme_grades(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file as shown, listed by name and used by a run of one step."""
    source = next(
        text for text in blocks(ROOT / "README.md", "python") if "rlcurric.reward" in text
    )
    file = tmp_path / "my_rewards.py"
    file.write_text(source)
    assert _run(["rewards", "list", "--file", str(file)]) == 0
    assert "short_answer" in capsys.readouterr().out
    line = re.search(
        r"`(reward_files: \[.*?\])`, then `(rewards: \[.*?\])`", (ROOT / "README.md").read_text()
    )
    assert line is not None
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(dump_yaml(tiny_recipe()))
    shown = [text.replace("my_rewards.py", str(file)) for text in line.groups()]
    overrides = [text.replace(": ", "=", 1) for text in shown]
    assert _run(["check", str(recipe), *overrides]) == 0


def test_the_start_on_a_cpu_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The data and the recipe as shown: checked, then a few steps of both stages."""
    page = ROOT / "docs" / "recipes.md"
    monkeypatch.chdir(tmp_path)
    exec(blocks(page, "python")[0], {})
    Path("sums.yaml").write_text(blocks(page, "yaml")[0])
    assert _run(["check", "sums.yaml"]) == 0
    assert _run(["train", "sums.yaml", "until.steps=2", "evaluation.prompts=4"]) == 0
    assert len(rlcurric.read_run("runs/sums").metrics) == 4


def test_defaults_in_the_documentation_are_those_of_the_schema() -> None:
    """The table of `architecture` and that of `run`."""
    text = (ROOT / "docs" / "recipes.md").read_text()
    rows = re.findall(r"^\| (`\w.*?`) \| (.*?) \|", text, re.MULTILINE)
    shown = {
        key.strip("`"): default.strip(" `")
        for keys, defaults in rows
        for key, default in zip(keys.split(", "), defaults.split(", "), strict=False)
    }
    for key, value in Architecture().model_dump(mode="json").items():
        assert shown[key] == str(value).lower(), key
    for section, settings in Run().model_dump(mode="json", exclude={"threads", "trackers"}).items():
        if not isinstance(settings, dict):
            assert float(shown[section]) == settings, section
            continue
        for key, value in settings.items():
            assert shown[f"{section}.{key}"] == str(value), key


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?://)([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_and_their_files_exist(page: Path) -> None:
    """Every `rlcurric COMMAND --option` that is shown, and every configuration a launcher is given."""
    text = page.read_text(encoding="utf-8").replace(
        "\\\n", " "
    )  # a command may go on in the next line
    commands = get_command(app).commands  # type: ignore[attr-defined]
    shown = re.findall(r"(?:^|`|-m )rlcurric ([a-z][^`\n]*)", text, re.MULTILINE)
    for words in (shlex.split(line, comments=True) for line in shown):
        command = commands[words[0]]
        if hasattr(command, "commands"):
            command = command.commands[words[1]]
        known = {"--help", *(name for parameter in command.params for name in parameter.opts)}
        if words[0] == "launch":  # with the options of what it launches
            inner = [commands[word] for word in words[1:] if word in ("train", "doctor")]
            known |= {name for one in inner for parameter in one.params for name in parameter.opts}
        for word in words:
            assert not word.startswith("--") or word in known, words
    for file in re.findall(r"(?:--config_file |`)((?:launch|recipes|benchmarks)/[\w./-]+)", text):
        assert (ROOT / file).exists(), file


def test_metrics_in_the_documentation_are_written(tiny_run: RunTables) -> None:
    """Keys that docs/runs.md names are keys of a run, or of a part that a run may have."""
    written = {key for row in tiny_run.metrics for key in row}
    section = (ROOT / "docs" / "runs.md").read_text().split("## Metrics")[1]
    for key in re.findall(r"`([a-z_]+/[\w/.]+)`", section):
        pattern = re.escape(key).replace(r"\.\.\.", ".+")
        pattern = re.sub("DISTRIBUTION|COMPONENT|PHASE|STATUS", ".+", pattern)
        assert any(re.fullmatch(pattern, name) for name in written), key
