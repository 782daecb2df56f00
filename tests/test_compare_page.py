"""A comparison in a real browser: every plot on every axis, keys, both themes, and names that stay text."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from benchmarks.made_runs import Made, write_run
from rlcurric.report.compare.comparison import compare
from rlcurric.report.compare.page import PAGES, write_comparison
from tests.browser import POINTS, Watched, go, watched

pytestmark = pytest.mark.slow

HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def runs(made: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two seeds of one experiment, another with a hostile name, and a broken one."""
    base = tmp_path_factory.mktemp("compared")
    first = Path(shutil.copytree(made, base / "small-0"))
    second = write_run(base / "small-1", Made(seed=1))
    large = write_run(base / HOSTILE, Made(group_size=8, steps=20))
    broken = Path(shutil.copytree(made, base / "broken"))
    for name in ("recipe.yaml", "events.jsonl", "run.json"):
        (broken / name).unlink()
    return [first, second, large, broken]


@pytest.fixture(scope="module")
def loaded(
    browser: Browser, runs: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Watched]:
    file = tmp_path_factory.mktemp("page") / "compare.html"
    write_comparison(compare(runs, target="eval/accuracy/mean>=0.4"), file)
    seen = watched(browser)
    seen.page.goto(f"file://{file}")
    yield seen
    seen.page.close()


@pytest.fixture
def opened(loaded: Watched) -> Iterator[Watched]:
    """The page, loaded once for all tests; none of them may make it complain or ask a network."""
    yield loaded
    assert loaded.complaints == [] and loaded.requests == []


def test_every_plot_has_its_traces_and_data_on_every_axis(opened: Watched) -> None:
    page = opened.page
    drawn = json.loads(page.text_content("#data-plots") or "")
    assert list(drawn) == ["steps", "tokens", "time"]
    for axis, figures in drawn.items():
        page.click(f".axes label:has([value={axis}])")
        found = {}
        for name in PAGES:
            go(page, name)
            for plot in page.evaluate(POINTS):
                found[plot["key"]] = plot["traces"]
                assert plot["traces"] and min(plot["traces"]) > 0, plot
                assert plot["marks"] > 0 and plot["width"] > 300, plot
        assert set(found) == set(figures)
        assert len(found["eval/accuracy/mean"]) == 6  # two runs, interval and mean; two runs alone
    assert page.locator("[data-plot]").count() == len(drawn["steps"])


def test_the_axis_is_switched_by_a_key_and_by_the_mouse(opened: Watched) -> None:
    page = opened.page
    go(page, "overview")
    last = "() => Math.max(...document.querySelector('[data-plot=\"eval/accuracy/mean\"]')._fullData.at(-1).x)"
    title = "() => document.querySelector('[data-plot=\"eval/accuracy/mean\"] .xtitle').textContent"
    page.click(".axes label:has([value=steps])")
    assert page.evaluate(last) == 50 and page.evaluate(title) == "step"
    page.keyboard.press("x")
    assert page.locator(".axes :checked").get_attribute("value") == "tokens"
    tokens = [
        json.loads(line).get("tokens/total/sum", 0)
        for line in (opened_run(page) / "metrics.jsonl").read_text().splitlines()
    ]
    assert page.evaluate(last) == tokens[-1] and page.evaluate(title) == "generated tokens"
    page.focus("#tab-overview")
    page.keyboard.press("2")
    assert page.locator("#learning").is_visible()
    page.keyboard.press("t")
    page.keyboard.press("t")


def opened_run(page: Page) -> Path:
    """The last run of the page: its path stands in the footer."""
    return Path(page.locator("footer code").last.inner_text())


def test_tables_tell_the_target_and_the_differences(opened: Watched) -> None:
    page = opened.page
    go(page, "overview")
    cells = page.locator("#targets tbody tr").first.locator("td").all_inner_texts()
    assert cells[0] == "small" and cells[1] == "2 of 2"
    heads = page.locator("#differences thead th").all_inner_texts()
    assert heads == ["key", "small", HOSTILE, "broken"]
    rows = page.locator("#differences tbody tr").all_inner_texts()
    assert "stages.rl.curriculum.group_size\t4\t8\tunknown" in rows
    assert page.locator(".gaps li").count() == 3
    go(page, "runs")
    assert page.locator("#runs-table tbody tr").count() == 4
    assert page.locator("#finals tbody tr").count() == 5  # and a mean
    assert page.locator("main img").count() == 0


def test_both_themes_are_drawn_in_their_colours(opened: Watched) -> None:
    page = opened.page
    go(page, "overview")
    colours = "() => [getComputedStyle(document.body).backgroundColor, document.querySelector('[data-plot=\"eval/accuracy/mean\"]')._fullData[0].line.color]"
    assert page.evaluate(colours) == ["rgb(247, 247, 245)", "#2a78d6"]
    page.keyboard.press("t")
    assert page.evaluate(colours) == ["rgb(17, 17, 16)", "#4f97ea"]
    page.keyboard.press("t")
