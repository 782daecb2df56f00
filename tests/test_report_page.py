"""The report in a real browser: every tab, plot, search and key, and model text that stays text."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from rlcurric.report.digest import Digest, digest_run
from rlcurric.report.page import PAGES, write_page
from rlcurric.report.serve import ReportServer
from tests.browser import POINTS, Watched, go, watched
from tests.pages import HOSTILE

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def loaded(
    browser: Browser, digest: Digest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Watched]:
    file = tmp_path_factory.mktemp("page") / "report.html"
    write_page(digest, file)
    seen = watched(browser)
    seen.page.goto(f"file://{file}")
    yield seen
    seen.page.close()


@pytest.fixture
def opened(loaded: Watched) -> Iterator[Watched]:
    """The page, loaded once for all tests; none of them may make it complain or ask a network."""
    yield loaded
    assert loaded.complaints == [] and loaded.requests == []


def test_every_plot_of_every_tab_has_its_traces_and_data(opened: Watched, digest: Digest) -> None:
    found: dict[str, Any] = {}
    for name in PAGES:
        go(opened.page, name)
        for plot in opened.page.evaluate(POINTS):
            found[plot["key"]] = plot
            assert plot["traces"] and min(plot["traces"]) > 0, plot
            assert plot["marks"] > 0 and plot["width"] > 300, plot
    drawn = json.loads(opened.page.text_content("#data-plots") or "")
    assert set(found) == set(drawn) | {"metric-plot"}
    assert found["pass_map"]["traces"] == [3 * 40]
    assert found["sampling"]["traces"] == [40, 40, 40]
    assert found["metric-plot"]["traces"] == [40]  # batch/groups/sum, of every step of RL


def test_a_stage_is_chosen_for_all_figures_over_steps(opened: Watched) -> None:
    page = opened.page
    shown = """key => { const one = document.querySelector(`[data-plot=${key}]`);
        return [one.layout.xaxis.range, one._fullData.map((trace) => trace.x.length), one._fullLayout.yaxis.range[1]]; }"""
    go(page, "time")
    every = page.evaluate(shown, "time")
    page.locator("#time select.span").select_option(label="stage cold")
    span, points, top = page.evaluate(shown, "time")
    assert span == [0.5, 10.5] and set(points) == {10} and top < every[2] / 2
    go(page, "health")
    assert page.locator("#health select.span").input_value() == "0"
    assert page.evaluate(shown, "gradient")[0] == [0.5, 10.5]
    words = page.locator("[data-plot=entropy] .annotation-text").all_text_contents()
    assert words == ["cold", "nothing was measured in this stage"]
    page.locator("#health select.span").select_option(label="all stages")
    go(page, "time")
    assert page.evaluate(shown, "time") == every


def test_model_text_stays_text(opened: Watched, digest: Digest) -> None:
    page = opened.page
    assert page.title() == "made-up – rlcurric report"
    go(page, "rollouts")
    page.fill("#rollout-search", "")
    group = digest.rollouts.shown[0]
    shown = page.locator("#group .rollout pre").all_text_contents()
    assert shown == [one.completion for one in group.rollouts] and HOSTILE in shown[0]
    assert page.locator("#group img, #group script, #prompts img").count() == 0
    facts = page.locator("#group .rollout").first.inner_text()
    assert "advantage" in facts and "breakdown: verifier" in facts and "reward" in facts
    page.fill("#rollout-search", "onerror=alert(1)")
    assert page.locator("#groups [role=option]").count() == len(digest.rollouts.shown)
    page.fill("#rollout-search", "step-50")
    assert page.locator("#groups [role=option]").count() == 6
    assert page.title() == "made-up – rlcurric report"


def test_prompts_are_searched_sorted_and_filtered(opened: Watched, digest: Digest) -> None:
    page = opened.page
    go(page, "prompts")
    rows = page.locator("#prompts-table tbody tr")
    assert rows.count() == len(digest.prompts) <= 50
    page.click("#prompts-table th button:text-is('visits')")
    visits = [
        int(text) for text in page.locator("#prompts-table tr td:nth-child(4)").all_inner_texts()
    ]
    assert visits == sorted((one.visits for one in digest.prompts), reverse=True)
    page.click("#prompts-table th button:text-is('visits')")
    assert page.locator("#prompts-table th[aria-sort=ascending]").inner_text() == "visits"
    first = int(page.locator("#prompts-table tr td:nth-child(4)").first.inner_text())
    assert first == min(visits)
    uid, title = next(iter(digest.rollouts.titles.items()))
    page.fill("#prompt-search", f"{uid} {title.split()[0]}")
    assert rows.count() == 1 and title in rows.inner_text()
    page.fill("#prompt-search", "no such prompt")
    assert rows.count() == 0 and page.locator("#prompt-none").is_visible()
    page.fill("#prompt-search", "")
    page.select_option("#prompt-state", "unsolved")
    unsolved = [one for one in digest.prompts if one.state == "unsolved"]
    assert rows.count() == len(unsolved) > 0
    page.select_option("#prompt-state", "")
    page.check("#prompt-suspects")
    assert rows.count() == sum(bool(one.suspects) for one in digest.prompts) > 0
    rows.first.locator("button").click()
    assert page.locator("#rollouts").is_visible()
    some = page.locator("#groups [role=option]").count()
    assert some > 0
    page.click("#rollout-all")
    assert page.locator("#groups [role=option]").count() == len(digest.rollouts.shown) > some
    assert not page.locator("#rollout-all").is_visible()


def test_all_of_it_works_with_keys(opened: Watched) -> None:
    page = opened.page
    go(page, "overview")
    page.focus("#tab-overview")
    page.keyboard.press("ArrowRight")
    assert page.locator("#learning").is_visible() and page.url.endswith("#learning")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert page.locator("#run").is_visible()
    page.keyboard.press("5")
    assert page.locator("#rollouts").is_visible()
    page.fill("#rollout-search", "")
    page.focus("#groups")
    page.keyboard.press("ArrowDown")
    assert page.locator("#groups [aria-selected=true]").get_attribute("id") == "group-1"
    page.keyboard.press("/")
    page.keyboard.press("Control+A")
    page.keyboard.type("step-50")
    assert page.locator("#rollout-count").inner_text() == "6 of 240 groups"
    page.focus("#tab-events")
    page.keyboard.press("8")
    page.keyboard.press("/")
    page.keyboard.type("stage_ended")
    assert page.locator("#event-count").inner_text() == "2 of 6 events"


def test_both_themes_are_drawn_in_their_colours(opened: Watched) -> None:
    page = opened.page
    go(page, "overview")
    colours = "() => [getComputedStyle(document.body).backgroundColor, document.querySelector('[data-plot=accuracy]')._fullData[0].line.color]"
    assert page.evaluate(colours) == ["rgb(247, 247, 245)", "#2a78d6"]
    page.keyboard.press("t")
    assert page.evaluate(colours) == ["rgb(17, 17, 16)", "#4f97ea"]
    page.emulate_media(color_scheme="dark")
    page.evaluate("() => { try { localStorage.clear(); } catch (error) { } }")
    page.reload()
    assert page.evaluate(colours)[0] == "rgb(17, 17, 16)"


def test_a_broken_run_opens_without_complaint(browser: Browser, made: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(made, tmp_path / "run"))
    for name in ("decisions.jsonl", "recipe.yaml", "events.jsonl"):
        (broken / name).unlink()
    shutil.rmtree(broken / "rollouts")
    found = digest_run(broken)
    write_page(found, tmp_path / "report.html")
    seen = watched(browser)
    seen.page.goto(f"file://{tmp_path}/report.html")
    assert seen.page.locator(".gaps li").count() == len(found.gaps) == 3
    for name in PAGES:
        go(seen.page, name)
        for plot in seen.page.evaluate(POINTS):
            assert plot["traces"] and min(plot["traces"]) > 0, plot
    assert seen.complaints == []


def test_a_served_page_tells_that_the_run_went_on(
    browser: Browser, made: Path, tmp_path: Path
) -> None:
    live = Path(shutil.copytree(made, tmp_path / "run"))
    with ReportServer(live, 0, groups=2) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        seen = watched(browser)
        seen.page.goto(server.url)
        assert not seen.page.locator("#news").is_visible()
        with (live / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": 51, "stage": "rl", "grad/norm": 0.5}) + "\n")
        seen.page.locator("#news button").click()
        seen.page.get_by_text("up to step 51").wait_for()
        seen.page.close()
        server.shutdown()
        thread.join()
    assert seen.complaints == [] and all(one.startswith(server.url) for one in seen.requests)
