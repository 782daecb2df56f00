"""What the README and the documentation show works as it is written there."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

import rlcurric
from rlcurric.build import Parts
from rlcurric.cli import _run
from rlcurric.cli.app import app
from rlcurric.recipe.load import dump_yaml, load_recipe
from rlcurric.recipe.schema import Architecture, Run
from tests.tiny import tiny_recipe

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "launch" / "README.md"]


def blocks(page: Path, language: str) -> list[str]:
    """Fenced blocks of one language."""
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def test_the_recipe_in_the_readme_is_a_recipe(tmp_path: Path) -> None:
    text, objective = blocks(ROOT / "README.md", "yaml")
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
    for section, settings in Run().model_dump(mode="json", exclude={"threads"}).items():
        for key, value in settings.items():
            assert shown[f"{section}.{key}"] == str(value), key


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?://)([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_and_their_files_exist(page: Path) -> None:
    """Every `rlcurric COMMAND --option` that is shown, and every configuration a launcher is given."""
    text = page.read_text(encoding="utf-8")
    commands = get_command(app).commands  # type: ignore[attr-defined]
    shown = re.findall(r"(?:^|`|-m )rlcurric ([a-z][^`\n#]*)", text, re.MULTILINE)
    for words in map(shlex.split, shown):
        command = commands[words[0]]
        if hasattr(command, "commands"):
            command = command.commands[words[1]]
        known = {name for parameter in command.params for name in parameter.opts}
        for word in words:
            assert not word.startswith("--") or word in known, words
    for file in re.findall(r"(?:--config_file |`)((?:launch|recipes|benchmarks)/[\w./-]+)", text):
        assert (ROOT / file).exists(), file


def test_metrics_in_the_documentation_are_written(tmp_path: Path) -> None:
    """Keys that docs/runs.md names are keys of a run, or of a part that a run may have."""
    rlcurric.train(tiny_recipe("stages.second.until.steps=1"), tmp_path / "run")
    run = rlcurric.read_run(tmp_path / "run")
    written = {key for row in run.metrics for key in row}
    section = (ROOT / "docs" / "runs.md").read_text().split("## Metrics")[1]
    for key in re.findall(r"`([a-z_]+/[\w/.]+)`", section):
        pattern = re.escape(key).replace(r"\.\.\.", ".+")
        pattern = re.sub("DISTRIBUTION|COMPONENT|PHASE", ".+", pattern)
        assert any(re.fullmatch(pattern, name) for name in written), key
