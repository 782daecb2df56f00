"""A headless Chromium for tests of pages: the browser of the system, driven by Playwright."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser; the test fails where none is installed."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.fail("No Chromium is on PATH. Install Debian's package: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=found,
            args=["--no-sandbox"],  # tests run as root in containers, where it cannot be set up
        )
        yield browser
        browser.close()


@dataclass
class Watched:
    """A page, what its console said that is no mere note, and what it asked the network for."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


def watched(browser: Browser | BrowserContext) -> Watched:
    """A new page that keeps errors, warnings and requests."""
    seen = Watched(browser.new_page())
    seen.page.set_default_timeout(300_000)  # ms: a busy machine is no failure
    seen.page.on(
        "console",
        lambda said: (
            seen.complaints.append(said.text) if said.type in ("error", "warning") else None
        ),
    )
    seen.page.on("pageerror", lambda error: seen.complaints.append(str(error)))
    seen.page.on(
        "request",
        lambda asked: (
            None
            if asked.url.startswith(("file:", "data:", "blob:"))
            else seen.requests.append(asked.url)
        ),
    )
    return seen


# The points of every trace of every visible plot, and the marks that were drawn.
POINTS = """() => [...document.querySelectorAll('.plot')].filter((one) => one.offsetParent).map((one) => ({
    key: one.dataset.plot || one.id,
    traces: (one._fullData || []).map((trace) => trace.type === 'heatmap' ? trace.z.length * trace.z[0].length : trace.x.length),
    marks: one.querySelectorAll('.plot-container path, .plot-container image').length,
    width: one.querySelector('svg.main-svg') ? one.querySelector('svg.main-svg').clientWidth : 0,
}))"""


def go(page: Page, name: str) -> None:
    """Open a part of a page by its tab."""
    page.click(f"#tab-{name}")
    assert page.get_attribute(f"#tab-{name}", "aria-selected") == "true"
    assert page.locator('[role="tabpanel"]:visible').count() == 1
