"""The tutorial and the how-tos are followed to the letter: files are written, commands run, what they print is compared.

A block with a title is a file: `title="sums.yaml"`, or `title="sums.yaml, at its end"`. A block of bash is run, unless its title
says why not ("Not run by the tests: ..."). A block of text behind it is what it prints, in its order; a line `...` stands for lines
that were left out, and numbers may differ.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import yaml

from rlcurric.report.tables import read_run
from tests.once import made_once

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
TUTORIAL = ROOT / "docs" / "tutorial.md"
HOWTOS = sorted((ROOT / "docs" / "howto").glob("*.md"))
BLOCK = re.compile(r'^```(\w+)(?: title="(.*?)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
NOT_RUN = "Not run by the tests: "


def run(commands: str, folder: Path) -> str:
    """What the commands print, in one shell that ends with the first that fails."""
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "COLUMNS": "100",
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        ["bash", "-e", "-c", commands],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, commands + done.stdout[-4000:]
    return done.stdout


def plain(text: str) -> str:
    """Without what differs from machine to machine: numbers, and the width of tables."""
    text = re.sub(r"[+-]?\d+([.:,]\d+)*(e[+-]?\d+)?", "0", text)
    return re.sub(r"([━─])+|\s+", r"\1 ", text)


def assert_printed(shown: str, printed: str, where: str) -> None:
    """Every piece of `shown` between lines `...` is in `printed`, one after the other."""
    rest = plain(printed)
    for piece in re.split(r"^\.\.\.$", shown, flags=re.MULTILINE):
        found = rest.find(plain(piece).strip())
        assert found >= 0, f"{where} shows\n{piece}\nwhich is not printed, or not there:\n{printed}"
        rest = rest[found:]


def follow(page: Path, folder: Path, least: int = 1) -> None:
    """Do what a page says: at least so many blocks of commands."""
    printed, count = "", 0
    for language, title, text in BLOCK.findall(page.read_text(encoding="utf-8")):
        if title.startswith(NOT_RUN):
            printed = ""
        elif language == "bash":
            assert not title, f"{page.name}: {title!r}: a block of bash is run, or says {NOT_RUN!r}"
            printed, count = run(text, folder), count + 1
        elif title:
            name = title.removesuffix(", at its end")
            with (folder / name).open("w" if name == title else "a") as file:
                file.write(text)
        elif language == "text":
            assert_printed(text, printed, page.name)
    assert count >= least, page.name


@pytest.fixture(scope="module")
def tutorial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the tutorial was followed."""
    return made_once(tmp_path_factory, "tutorial", partial(follow, TUTORIAL, least=5))


def test_the_tutorial_trains_what_it_says(tutorial: Path) -> None:
    run_dir = read_run(tutorial / "runs" / "sums")
    shown = yaml.safe_load((tutorial / "sums.yaml").read_text())
    assert [stage.name for stage in run_dir.recipe.stages] == [
        one["name"] for one in shown["stages"]
    ]
    ended = [event["stage"] for event in run_dir.events if event["event"] == "stage_ended"]
    assert ended[:1] == ["cold_start"] and set(ended) == {"cold_start", "rl"}
    assert run_dir.metrics[-1]["stage_step"] == run_dir.recipe.stages[-1].planned_steps
    assert "rlcurric report" in (tutorial / "runs" / "sums" / "report.html").read_text()


@pytest.mark.parametrize("page", HOWTOS, ids=lambda page: page.stem)
def test_a_how_to_does_what_it_says(page: Path, tutorial: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tutorial, tmp_path / "folder"))
    follow(page, folder)
