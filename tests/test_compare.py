"""Runs laid over each other: groups, bands, targets, differences and tables, all of them computed by hand."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.made_runs import Made, recipe_of
from rlcurric.cli import _run
from rlcurric.recipe.load import dump_yaml
from rlcurric.report.compare.bands import band_of, mean_interval, median_interval
from rlcurric.report.compare.comparison import Comparison, compare
from rlcurric.report.compare.curves import curves_of
from rlcurric.report.compare.figures import ALL, common_stages, draw, drawn_groups, points_of
from rlcurric.report.compare.page import render
from rlcurric.report.compare.reach import parse_target
from rlcurric.report.targets import held
from tests.pages import Elements

ACCURACY = "eval/accuracy/mean"


def row(step: int, **values: float) -> dict[str, Any]:
    """A step of 100 generated tokens and 36 seconds, a hundredth of an hour."""
    numbers = {key.replace("__", "/"): value for key, value in values.items()}
    return {
        "step": step,
        "stage": "rl",
        "tokens/generated/sum": 100,
        "time/step/s": 36.0,
        **numbers,
    }


def accuracies(*values: float) -> list[dict[str, Any]]:
    return [row(step, eval__accuracy__mean=value) for step, value in enumerate(values, start=1)]


def write(
    path: Path,
    rows: Sequence[Mapping[str, Any]],
    *,
    seed: int = 0,
    group_size: int = 4,
    info: Mapping[str, Any] | None = None,
    events: Sequence[Mapping[str, Any]] = (),
) -> Path:
    """A run directory with these rows of metrics, whose recipe has this seed and group size."""
    path.mkdir(parents=True)
    (path / "recipe.yaml").write_text(dump_yaml(recipe_of(Made(seed=seed, group_size=group_size))))
    (path / "run.json").write_text(json.dumps(info or {"launches": []}))
    begin = {"time": "", "event": "started", "step": 0}
    for name, lines in (("metrics.jsonl", rows), ("events.jsonl", [begin, *events])):
        (path / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two seeds of one experiment, and a run of another with larger groups."""
    base = tmp_path_factory.mktemp("three")
    return [
        write(base / "small-1", accuracies(0.0, 0.4, 0.8, 0.8), seed=1),
        write(base / "small-2", accuracies(0.2, 0.8, 0.8, 0.6), seed=2),
        write(base / "large-1", accuracies(0.1, 0.2, 0.3, 0.4), seed=1, group_size=8),
    ]


@pytest.fixture(scope="module")
def comparison(three: list[Path]) -> Comparison:
    return compare(three, target=f"{ACCURACY}>=0.6")


def test_runs_that_differ_in_the_seed_alone_are_a_group(comparison: Comparison) -> None:
    assert [(one.name, [run.seed for run in one.runs]) for one in comparison.groups] == [
        ("small", [1, 2]),
        ("large-1", [1]),
    ]
    (found,) = comparison.differences
    assert found.key == "stages.rl.curriculum.group_size" and found.values == ("4", "8")


def test_groups_are_named_on_the_command_line(three: list[Path]) -> None:
    found = compare(three, groups={"all of one": ["*-1"]})
    assert [(one.name, [run.name for run in one.runs]) for one in found.groups] == [
        ("all of one", ["small-1", "large-1"]),
        ("small-2", ["small-2"]),
    ]
    assert found.differences[0].values == ("4 | 8", "4")
    by_path = compare(three, groups={"mine": [str(three[2])]})
    assert [one.name for one in by_path.groups] == ["small", "mine"]


def test_a_seed_that_comes_twice_and_a_fork_are_noted(tmp_path: Path) -> None:
    runs = [
        write(tmp_path / "a", accuracies(0.1, 0.2), info={"origin": "runs/x/checkpoints/step-1"}),
        write(tmp_path / "b", accuracies(0.1, 0.2)),
    ]
    first, second = compare(runs).notes
    assert first == "made-up: 2 runs have the same seed 0."  # their folders have nothing in common
    assert second.startswith("Forked from another run: a. Steps are those of the record")


@pytest.mark.parametrize(
    ("values", "ends"),
    [
        ([0.0, 1.0], (0.0, 1.0)),  # each end in 25 % of the resamples
        ([0.0, 0.3, 0.9], (0.0, 0.9)),  # each end in 3.7 % of them
        (
            [0.0, 0.0, 0.0, 1.0],
            (0.0, 0.75),
        ),  # k of 4 are 1 with k ~ B(4, 1/4): P(4) = 0.4 %, P(3) = 4.7 %
        ([0.5] * 5, (0.5, 0.5)),
    ],
)
def test_the_interval_of_a_mean_is_that_of_the_bootstrap(
    values: list[float], ends: tuple[float, float]
) -> None:
    low, high = mean_interval(np.array(values)[:, None])
    assert (low[0], high[0]) == pytest.approx(ends)


@pytest.mark.parametrize(
    ("times", "ends"),
    [
        ([3.0, 5.0], (3.0, 5.0)),
        ([3.0, None], (3.0, None)),
        ([None, None], (None, None)),
        (
            [1.0, 2.0, 3.0, 4.0, None],
            (1.0, None),
        ),  # of five the third: twice or fewer above 1 in 5.8 %
    ],
)
def test_the_interval_of_a_median_knows_runs_that_never_reach_it(
    times: list[float | None], ends: tuple[float | None, float | None]
) -> None:
    assert median_interval(times) == ends


def test_a_band_lies_on_the_places_that_all_runs_have() -> None:
    lines = [
        (np.array([0.0, 10.0, 20.0]), np.array([0.0, 1.0, 2.0])),
        (np.array([5.0, 15.0]), np.array([3.0, 1.0])),
    ]
    band = band_of(lines, points=10)
    assert band is not None
    assert band.x.tolist() == [5, 10, 15]
    assert band.mean.tolist() == [1.75, 1.5, 1.25]  # of 0.5 and 3, of 1 and 2, of 1.5 and 1
    assert band.low.tolist() == [0.5, 1, 1] and band.high.tolist() == [3, 2, 1.5]
    even = band_of(lines, points=2)
    assert even is not None and even.x.tolist() == [5, 15]
    apart = [*lines, (np.array([30.0, 40.0]), np.array([0.0, 0.0]))]
    assert band_of(apart, points=10) is None


def test_axes_add_up_tokens_and_time_and_waiting_for_checkpoints(tmp_path: Path) -> None:
    rows = [row(1), row(2, checkpoint__wait__s=18.0), row(3)]
    del rows[0]["tokens/generated/sum"]  # a step that generates nothing
    gpu = {"gpus": ["one"], "ranks": 2}
    info = {"launches": [gpu, {**gpu, "ranks": 4}]}
    resumed = [{"time": "", "event": "resumed", "step": 2}]
    runs = [
        write(tmp_path / "a", rows, info=info, events=resumed),
        write(tmp_path / "b", rows, info={"launches": [{"gpus": [], "ranks": 1}]}),
    ]
    a, b = compare(runs, against="gpu-hours").runs
    assert a.axes["steps"].tolist() == [1, 2, 3]
    assert a.axes["tokens"].tolist() == [0, 100, 200]
    assert a.axes["time"].tolist() == pytest.approx([0.01, 0.025, 0.035])
    # Two ranks until the resume after step 2, then four.
    assert a.axes["gpu-hours"].tolist() == pytest.approx([0.02, 0.05, 0.09])
    assert "gpu-hours" not in b.axes and b.total("gpu-hours") is None
    with pytest.raises(ValueError, match="no run recorded that"):
        compare([runs[1], write(tmp_path / "c", rows)], against="gpu-hours")


def test_a_target_is_reached_where_the_line_crosses_it_and_stays(comparison: Comparison) -> None:
    small, large = comparison.reaches
    # 0.4 at step 2, 0.8 at step 3: half way. 0.2 at step 1, 0.8 at step 2: two thirds of it.
    places = [2.5, 1 + 2 / 3]
    for one, place in zip(small.runs, places, strict=True):
        assert one.at["steps"] == pytest.approx(place)
        assert one.at["tokens"] == pytest.approx(100 * place)
        assert one.at["time"] == pytest.approx(0.01 * place)
    middle, ends = small.at["tokens"]
    assert middle == pytest.approx(250) and ends == pytest.approx((500 / 3, 250))
    assert small.reached == 2 and small.best == 0.8
    assert small.final is not None and small.final[0] == pytest.approx(0.7)
    assert small.final[1] == pytest.approx((0.6, 0.8))
    assert large.reached == 0 and large.best == 0.4 and large.at["steps"] == (None, (None, None))


def test_the_default_target_is_what_every_group_reaches(three: list[Path]) -> None:
    found = compare(three).target
    assert found is not None and found.chosen
    assert found.level == 0.3  # of 0.3 and 0.4, held twice in a row, by the run with larger groups
    lower = compare(three[:2]).target
    assert lower is not None and lower.level == 0.8
    assert held([0.5]) is None and held([0.9, 0.2, 0.4, 0.3]) == 0.3


def test_a_target_may_be_a_level_to_fall_below(tmp_path: Path) -> None:
    rows = [row(step, eval__length__mean=value) for step, value in enumerate((30, 20, 10, 10), 1)]
    runs = [write(tmp_path / "a", rows), write(tmp_path / "b", rows, seed=1)]
    (reached,) = compare(runs, target="eval/length/mean <= 15").reaches
    assert reached.at["steps"][0] == 2.5 and reached.best == 10


def test_tables_hold_every_number_and_what_a_target_took(
    three: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, table = tmp_path / "c.html", tmp_path / "c.csv"
    arguments = ["--output", str(page), "--csv", str(table), "--target", f"{ACCURACY}>=0.6"]
    assert _run(["compare", *map(str, three), *arguments]) == 0
    printed = capsys.readouterr().out
    assert "small: small-1, small-2" in printed and "3 runs" in printed
    assert "their recipes differ in stages.rl.curriculum.group_size\n" in printed
    with table.open() as file:
        numbers = list(csv.reader(file))
    assert numbers[0] == [
        *("group", "run", "seed", "metric", "step", "tokens", "seconds", "gpu_hours", "value")
    ]
    assert len(numbers) == 1 + 3 * 3 * 4  # three metrics of four steps in three runs
    assert numbers[2] == ["small", "small-1", "1", ACCURACY, "2", "200.0", "72.0", "", "0.4"]
    with (tmp_path / "c.targets.csv").open() as file:
        targets = list(csv.reader(file))
    assert targets[1:] == [
        [*("small", "small-1", "1", ACCURACY, ">=0.6"), "yes", "2.5", "250.0", "90.0", "", "0.8", "0.8"],
        [*("small", "small-2", "2", ACCURACY, ">=0.6"), "yes", "1.66666667", "166.666667", "60.0", "", "0.8", "0.6"],
        [*("large-1", "large-1", "1", ACCURACY, ">=0.6"), "no", "", "", "", "", "0.4", "0.4"],
    ]  # fmt: skip


def test_figures_hold_the_lines_the_mean_and_its_interval(comparison: Comparison) -> None:
    (curve,) = [one for one in curves_of(comparison.runs) if one.metric == ACCURACY]
    made = draw(comparison.groups, curve, "tokens", ())
    assert made is not None
    names = [trace.name for trace in made.data]
    assert names == ["small, a run", "small, a run", "small, interval", "small", "large-1"]
    around, mean, alone = made.data[2:]
    assert mean.x.tolist() == [100, 200, 300, 400]
    assert mean.y.tolist() == pytest.approx([0.1, 0.6, 0.8, 0.7])
    assert around.y[:4].tolist() == pytest.approx([0.2, 0.8, 0.8, 0.8])
    assert around.y[4:].tolist() == pytest.approx([0.6, 0.8, 0.4, 0.0])  # back along the lower end
    assert alone.y.tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert (mean.line.color, alone.line.color) == ("var(--c1)", "var(--c2)")
    assert [trace.legendgroup for trace in made.data] == ["small"] * 4 + ["large-1"]


def test_long_runs_are_thinned(tmp_path: Path) -> None:
    rows = [row(step, grad__norm=step / 10) for step in range(1, 1001)]
    runs = [write(tmp_path / name, rows, seed=at) for at, name in enumerate("ab")]
    found = compare(runs)
    (curve,) = [one for one in curves_of(found.runs) if one.metric == "grad/norm"]
    (drawn,) = drawn_groups(found.groups, curve, "steps")
    assert drawn.band is not None and len(drawn.band.x) == len(drawn.lines[0][0]) == points_of(2)
    assert [points_of(runs) for runs in (1, 2, 20, 100)] == [240, 240, ALL // 20, 60]
    # Means over neighbours of a straight line lie on it.
    inner = slice(20, -20)
    assert drawn.band.mean[inner] == pytest.approx(drawn.band.x[inner] / 10, abs=0.05)


def test_stages_are_bands_where_all_runs_have_the_same(three: list[Path], tmp_path: Path) -> None:
    rows = accuracies(0.1, 0.2, 0.3)
    same = [{**one, "stage": "cold" if one["step"] < 2 else "rl"} for one in rows]
    longer = [*same, {**row(4), "stage": "rl"}]
    other = [{**one, "stage": "cold" if one["step"] < 3 else "rl"} for one in rows]
    paths = [
        write(tmp_path / name, lines)
        for name, lines in (("same", same), ("longer", longer), ("other", other))
    ]
    runs = compare(paths).runs
    agreed = common_stages(runs[:2])
    assert [(one.name, one.first, one.last) for one in agreed] == [("cold", 1, 1), ("rl", 2, 4)]
    assert common_stages(runs) == ()


def test_a_page_has_every_figure_on_every_axis_and_keeps_names_as_text(tmp_path: Path) -> None:
    hostile = "<img src=x onerror=alert(1)>"
    runs = [
        write(tmp_path / hostile, accuracies(0.1, 0.9)),
        write(tmp_path / "b", accuracies(0.2, 0.8), group_size=8),
    ]
    page = Elements()
    page.feed(render(compare(runs)))
    assert "img" not in page.names and page.names.count("script") == 4
    assert all(one.startswith("#") or one == "data:," for one in page.outside)
    plots = page.data["data-plots"]
    assert list(plots) == ["steps", "tokens", "time"]
    metrics = {ACCURACY, "time/step/s", "tokens/generated/sum"}
    for figures in plots.values():
        assert set(figures) == metrics
        assert all(trace["x"] and trace["y"] for one in figures.values() for trace in one["data"])


def test_an_axis_that_only_some_runs_have_shows_those(tmp_path: Path) -> None:
    gpu = {"launches": [{"gpus": ["one", "two"], "ranks": 2}]}
    runs = [
        write(tmp_path / "a", accuracies(0.1, 0.9), info=gpu),
        write(tmp_path / "b", accuracies(0.2, 0.8), group_size=8),
    ]
    found = compare(runs)
    assert found.axes == ("steps", "tokens", "time", "gpu-hours")
    assert found.notes == ("Without GPU-hours, as run.json names no GPU: b.",)
    (curve,) = [one for one in curves_of(found.runs) if one.metric == ACCURACY]
    made = draw(found.groups, curve, "gpu-hours", ())
    assert made is not None
    (alone,) = made.data
    assert alone.name == "a" and alone.x.tolist() == pytest.approx([0.02, 0.04])


def test_ranks_that_are_no_number_give_no_gpu_hours(tmp_path: Path) -> None:
    odd = {"launches": [{"gpus": ["one"], "ranks": "two"}]}
    runs = [write(tmp_path / name, accuracies(0.1, 0.9), info=odd) for name in ("a", "b")]
    assert compare(runs).axes == ("steps", "tokens", "time")


def test_broken_runs_are_compared_by_what_is_left(three: list[Path], tmp_path: Path) -> None:
    broken = write(tmp_path / "broken", accuracies(0.3, 0.5))
    (broken / "recipe.yaml").unlink()
    with (broken / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "eval/acc')
    empty = write(tmp_path / "empty", [], group_size=2)
    found = compare([*three, broken, empty])
    assert [one.name for one in found.groups] == ["small", "large-1", "broken", "empty"]
    gaps = {(run.name, gap.file) for run in found.runs for gap in run.missing}
    assert gaps == {
        ("broken", "recipe.yaml"),
        ("broken", "metrics.jsonl"),
        ("empty", "metrics.jsonl"),
    }
    assert found.runs[3].curve(ACCURACY, "tokens")[1].tolist() == [0.3, 0.5]  # type: ignore[index]
    assert found.reaches[3].final is None
    text = render(found)
    assert "the last line, 3, is cut short and left out" in text and "is empty: no curves" in text


def test_what_cannot_be_compared_is_refused(
    three: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    strange = write(tmp_path / "strange", [{"step": 1, "stage": "rl", "loss/x": 1.0}])
    idle = [write(tmp_path / name, []) for name in ("idle", "lazy")]
    small, again = str(three[0]), str(three[0] / ".." / three[0].name)
    for arguments, told in (
        ([small], "Two run directories or more are required, got 1"),
        ([small, again], "is given twice"),
        ([small, str(tmp_path)], "is no run directory"),
        ([small, str(strange)], "A metric that two of the runs have is required"),
        ([*map(str, idle)], "None of these runs has a step"),
        ([*map(str, three), "--target", "eval/acuracy/mean>=0.5"], f"Did you mean '{ACCURACY}'?"),
        ([*map(str, three), "--target", "0.5"], "--target is written METRIC>=VALUE"),
        ([*map(str, three), "--target", f"{ACCURACY}>=nan"], "--target is written"),
        ([*map(str, three), "--against", "token"], "Did you mean 'tokens'?"),
        ([*map(str, three), "--group", "a"], "--group is written NAME=RUN"),
        ([*map(str, three), "--group", "a=none*"], "fits none of the runs"),
        ([*map(str, three), "--group", "a=*-1", "--group", "b=small-*"], "a run is in one group"),
        ([*map(str, three), "--output", str(tmp_path)], "--output: "),
        ([*map(str, three), "--output", "x.txt"], "a file ending in .html is required"),
        (
            [*map(str, three), "--output", str(tmp_path / "a" / "b.html")],
            "--output: there is no folder",
        ),
        ([*map(str, three), "--csv", "table.xlsx"], "a file ending in .csv is required"),
    ):
        assert _run(["compare", *arguments]) == 2, arguments
        error = capsys.readouterr().err
        assert told in error and "Traceback" not in error


def test_main_figures_are_drawn_as_an_image(three: list[Path], tmp_path: Path) -> None:
    image = tmp_path / "c.png"
    page = ["--output", str(tmp_path / "c.html")]
    assert _run(["compare", *map(str, three), *page, "--png", str(image)]) == 0
    from matplotlib.image import imread

    pixels = imread(image)[..., :3]
    for colour in ((0x2A, 0x78, 0xD6), (0xE0, 0x67, 0x2C)):  # of both groups
        near = np.abs(pixels - np.array(colour) / 255).max(axis=2) < 0.02
        assert near.sum() > 100


def test_a_target_is_parsed(comparison: Comparison) -> None:
    found = parse_target(f" {ACCURACY} >= .25 ", comparison.runs)
    assert (found.metric, found.level, found.rising) == (ACCURACY, 0.25, True)
    assert str(found) == "eval/accuracy/mean ≥ 0.25"
