"""The documentation site, built as `make docs` builds it and opened in a real browser."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from mkdocs.config import load_config
from mkdocs.structure.files import get_files
from mkdocs.structure.nav import get_navigation
from playwright.sync_api import Browser
from typer.main import get_command

from docs_site import command_line, recipe_keys
from rlcurric.cli.app import app
from rlcurric.recipe.load import json_schema
from tests.browser import Watched, watched
from tests.once import made_once

ROOT = Path(__file__).parent.parent


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None: ...


def build(folder: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_once(tmp_path_factory, "site", build)


@pytest.fixture(scope="module")
def url(site: Path) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=site)) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture
def seen(browser: Browser, url: str) -> Iterator[Watched]:
    """A page that may neither complain nor ask anybody but this server."""
    one = watched(browser)
    yield one
    one.page.close()
    assert one.complaints == []
    assert [asked for asked in one.requests if not asked.startswith(url)] == []


def properties(schema: dict[str, Any]) -> dict[str, set[str]]:
    """Models of the schema -> their keys."""
    models = {name: set(model.get("properties", ())) for name, model in schema["$defs"].items()}
    written = {"defaults", "schedules", "overlays"}  # of the file, resolved when it is loaded
    return models | {"Recipe": set(schema["properties"]) - written}


def test_the_reference_has_every_key_of_a_recipe_with_its_meaning() -> None:
    shown: dict[str, dict[str, list[str]]] = {}
    for text in recipe_keys.pages().values():
        for section in text.split("\n## ")[1:]:
            rows = [line.strip("| ").split(" | ") for line in section.split("\n") if "| `" in line]
            shown[section.split("\n")[0]] = {row[0].strip("`"): row for row in rows}
    for model, keys in properties(json_schema()).items():
        bases = ("TrainingStage", "StageBase", "SupervisedStage") if model.endswith("Stage") else ()
        known = set(shown[model]).union(*(shown[base] for base in bases))
        assert keys <= known, model
    for name, rows in shown.items():
        for key, (_, kind, default, *meaning) in rows.items():
            assert kind and default and "<class" not in kind, (name, key)
            assert name in recipe_keys.SCHEDULES or meaning[0].endswith("."), (name, key)
    assert shown["Curriculum"]["refill_rounds"][1:] == [
        "whole number, at least 0",
        "`3`",
        "Extra rounds of rollouts a step for groups that a gate refused.",
    ]
    assert shown["Distribution"]["overlong"][1:3] == ["`error` or `drop`", "`error`"]
    assert shown["step_exp"]["floor"][1:3] == ["number", "`1.0`"]


def test_the_reference_has_every_command_and_option() -> None:
    text = command_line.page()
    commands = dict(get_command(app).commands)  # type: ignore[attr-defined]
    for group in ("rewards", "recipes"):
        commands |= {f"{group} {name}": one for name, one in commands[group].commands.items()}
    for name, command in commands.items():
        section = text.split(f"# `rlcurric {name}`\n")[1].split("\n#")[0]
        options = [one for parameter in command.params for one in parameter.opts if "-" in one]
        assert all(f"`{option}" in section or f" {option}" in section for option in options), name


def test_a_page_that_is_not_in_the_navigation_fails_the_build(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Strict mode counts warnings; without the page there is none."""
    monkeypatch.chdir(ROOT)
    folder = Path(shutil.copytree(ROOT / "docs", tmp_path / "docs"))

    def warnings() -> list[str]:
        caplog.clear()
        config = load_config(str(ROOT / "mkdocs.yml"), docs_dir=str(folder), hooks=[], plugins=[])
        get_navigation(get_files(config), config)
        found = [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]
        return [one for one in found if "not included" in one]

    assert warnings() == []
    (folder / "forgotten.md").write_text("# Forgotten\n")
    (warning,) = warnings()
    assert "forgotten.md" in warning


@pytest.mark.slow
def test_every_page_opens(site: Path, url: str, seen: Watched) -> None:
    pages = sorted(one.relative_to(site).as_posix() for one in site.rglob("*.html"))
    written = [one.relative_to(ROOT / "docs").as_posix() for one in (ROOT / "docs").rglob("*.md")]
    made = [*recipe_keys.pages(), "reference/command_line.md", "launch/index.md", "404.md"]
    assert pages == sorted(name.removesuffix("md") + "html" for name in [*written, *made])
    for page in pages:
        seen.page.goto(url + page, wait_until="load")
        heading = seen.page.locator("article h1").first.inner_text()
        assert heading and ("404" in heading) == (page == "404.html"), page
        images = "() => [...document.images].filter((one) => !one.naturalWidth).length"
        assert seen.page.evaluate(images) == 0, page


@pytest.mark.slow
def test_search_finds_a_word_and_leads_to_it(url: str, seen: Watched) -> None:
    page = seen.page
    page.goto(url + "index.html")
    page.locator("input[data-md-component=search-query]").fill("starvation_steps")
    first = page.locator(".md-search-result__item a").first
    first.wait_for()
    found = page.locator(".md-search-result__item a").evaluate_all("all => all.map(a => a.href)")
    assert any("curriculum.html" in link for link in found)
    page.goto(next(link for link in found if "curriculum.html" in link))
    assert "starvation_steps" in page.locator("article").inner_text()


@pytest.mark.slow
def test_navigation_and_colours_work(url: str, seen: Watched) -> None:
    page = seen.page
    page.goto(url + "index.html")
    page.locator("nav.md-tabs a", has_text="Tutorial").click()
    assert page.locator("article h1").inner_text().startswith("Tutorial")
    page.locator("nav.md-tabs a", has_text="Reference").click()
    page.locator("nav.md-nav--primary a:visible", has_text="Command line").click()
    assert page.locator("article h2#rlcurric-train").is_visible()
    colour = "() => [document.body.dataset.mdColorScheme, getComputedStyle(document.body).backgroundColor]"
    light = page.evaluate(colour)
    page.locator("label[title='Dark colours']:visible").click()
    dark = page.evaluate(colour)
    assert (light[0], dark[0]) == ("default", "slate") and light[1] != dark[1]
    page.reload()
    assert page.evaluate(colour) == dark
