"""Fixtures of all tests: quiet, offline, one thread, and strict about the real problem sets.

A test that needs files of the folder named by RLCURRIC_DATA takes the fixture `data_dir` or
`data_file`. Without the variable it is skipped. With it nothing is: an absent folder or file, or a
skip for any reason, is a failure, so that a run that has the data cannot pass without using it.
"""

from __future__ import annotations

import gc
import importlib.util
import os
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from rlcurric.report.digest import Digest
    from rlcurric.report.tables import RunTables

# Before anything imports torch or vLLM. Numbers depend on the thread count; tests state theirs.
for name, value in {
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "MPLBACKEND": "agg",
}.items():
    os.environ.setdefault(name, value)

DATA = "RLCURRIC_DATA"
NO_GPU = "needs a CUDA device"


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder with the real problem sets (gsm8k, math, svamp, knights_knaves)."""
    value = os.environ.get(DATA)
    if not value:
        pytest.skip(f"{DATA} is unset: it names the folder with the real problem sets")
    folder = Path(value)
    if not folder.is_dir():
        pytest.fail(f"{DATA} is set to {value}, which is no folder", pytrace=False)
    return folder


@pytest.fixture(scope="session")
def data_file(data_dir: Path) -> Callable[[str], Path]:
    """Function from a name below RLCURRIC_DATA to the path of that file, which must exist."""

    def find(name: str) -> Path:
        path = data_dir / name
        if not path.is_file():
            pytest.fail(f"{DATA} is set, but {path} is absent", pytrace=False)
        return path

    return find


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunTables, str]:
    """The demo as shipped, trained once for all tests and workers that need it: its run, and what it printed. Minutes."""
    from rlcurric.report.tables import read_run
    from tests.once import made_once
    from tests.test_demo import train

    def make(folder: Path) -> None:
        (folder / "printed.txt").write_text(train("recipes/demo.yaml", folder / "run")[1])

    folder = made_once(tmp_path_factory, "demo", make)
    return read_run(folder / "run"), (folder / "printed.txt").read_text()


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 10 steps of SFT and 40 of RL, whose completions are hostile; not to be changed."""
    from benchmarks.made_runs import Made, write_run
    from tests.pages import hostile

    return write_run(tmp_path_factory.mktemp("made") / "run", Made(), hostile)


@pytest.fixture(scope="session")
def digest(made: Path) -> Digest:
    from rlcurric.report.digest import digest_run

    return digest_run(made)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    from tests.browser import chromium

    with chromium() as one:
        yield one


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests whose engine or device is not there; those of the demo come first, so that one worker waits for it, not two."""
    items.sort(key=lambda item: "demo" not in getattr(item, "fixturenames", ()))
    no_vllm = importlib.util.find_spec("vllm") is None
    gpu_items = [item for item in items if item.get_closest_marker("gpu")]
    for item in items:
        if no_vllm and item.get_closest_marker("vllm"):
            item.add_marker(pytest.mark.skip(reason="vLLM is not installed"))
    if gpu_items and not _has_gpu():
        for item in gpu_items:
            item.add_marker(pytest.mark.skip(reason=NO_GPU))


def pytest_collection_finish() -> None:
    """Leave modules and test items out of every later collection of garbage: every stage of a run asks for one, a third of a second."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and not hasattr(report, "wasxfail"):
        reason = str(report.longrepr)
        fixtures = getattr(item, "fixturenames", ())
        if ("data_dir" in fixtures or DATA in reason) and NO_GPU not in reason:
            _refuse_skip(report, reason)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if report.skipped and DATA in str(report.longrepr):
        _refuse_skip(report, str(report.longrepr))
    return report


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport, reason: str) -> None:
    if os.environ.get(DATA):
        report.outcome = "failed"
        report.longrepr = f"{DATA} is set, so a test that needs it must not be skipped: {reason}"


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
