"""The report of a run: what is digested, what is said of it, and what becomes of broken run directories."""

from __future__ import annotations

import json
import os
import shutil
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from markupsafe import escape
from pyarrow import parquet

from benchmarks.made_runs import Made, write_run
from rlcurric.cli import _run
from rlcurric.report.digest import Digest, Series, digest_run
from rlcurric.report.drawing import moving, thinned
from rlcurric.report.events import tell_events
from rlcurric.report.figures import plots
from rlcurric.report.inline import script_json
from rlcurric.report.outcomes import History, Visit
from rlcurric.report.page import render
from rlcurric.report.prompts import state_of, tell_prompts
from rlcurric.report.recorded import read_recorded
from rlcurric.report.rollouts import shortened
from rlcurric.report.serve import ReportServer
from rlcurric.report.story import smoothed, tell
from rlcurric.report.timing import slowdowns, timing_of
from tests.pages import HOSTILE, Elements


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 3 steps of SFT and 9 of RL, to be broken."""
    made = Made(warm=3, steps=9, groups=3, evaluate=3)
    return write_run(tmp_path_factory.mktemp("small") / "run", made)


@pytest.fixture
def copy(small: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small, tmp_path / "run"))


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_digest_holds_what_the_files_say(digest: Digest, made: Path) -> None:
    rows = lines(made / "metrics.jsonl")
    assert digest.steps.tolist() == [row["step"] for row in rows] == list(range(1, 51))
    assert digest.gaps == ()
    assert digest.condition == "finished"
    assert [(one.name, one.kind, one.first, one.last) for one in digest.stages] == [
        ("cold", "sft", 1, 10),
        ("rl", "rl", 11, 50),
    ]
    entropy = digest.series("entropy/policy/mean")
    assert entropy.steps.tolist() == list(range(11, 51)) and set(entropy.values) == {0.3}
    assert not digest.series("absent/key")
    assert digest.total("tokens/generated/sum") == rows[-1]["tokens/total/sum"]
    assert list(digest.family("curriculum/probability/")) == ["level-0", "level-1", "level-2"]


def test_outcomes_are_summed_by_step_and_by_prompt(digest: Digest, made: Path) -> None:
    groups = [
        (line["step"], group)
        for line in lines(made / "decisions.jsonl")
        for group in line["groups"]
    ]
    for name in digest.distributions:
        series, samples = digest.pass_rates(name)
        for step, rate, count in zip(series.steps, series.values, samples, strict=True):
            verdicts = [
                verdict
                for at, group in groups
                if at == step and group["distribution"] == name
                for verdict in group["correct"]
            ]
            assert count == len(verdicts) and rate == sum(verdicts) / len(verdicts)
    trained = sum(group["disposition"] == "trained" for _, group in groups)
    assert digest.outcomes.dispositions["trained"].sum() == trained
    lengths = [
        (length, verdict)
        for _, group in groups
        for length, verdict in zip(group["lengths"], group["correct"], strict=True)
    ]
    assert digest.outcomes.length_sum["correct"].sum() == sum(n for n, right in lengths if right)
    assert digest.outcomes.length_count["wrong"].sum() == sum(not right for _, right in lengths)
    assert sum(one.visits for one in digest.prompts) == len(groups)


def test_every_logged_rollout_is_counted_and_whole_groups_are_shown(digest: Digest) -> None:
    sample = digest.rollouts
    assert (sample.files, sample.rollouts, sample.groups) == (40, 960, 240)
    assert sum(len(one) for one in sample.lengths.values()) == 960
    assert len(sample.shown) == 240 and {one.size for one in sample.shown} == {4}
    assert sample.shown[0].rollouts[0].completion == f"{HOSTILE} of step-11"
    assert sample.shown[0].rollouts[0].breakdown.keys() == {"verifier", "format"}


def test_a_sample_of_groups_spans_the_run(made: Path) -> None:
    shown = digest_run(made, groups=7).rollouts.shown
    assert len(shown) == 7 and (shown[0].step, shown[-1].step) == (11, 50)
    assert len({one.step for one in shown}) == 7
    assert digest_run(made, groups=0).rollouts.shown == ()


@pytest.mark.parametrize(
    ("rates", "state"),
    [
        ([], None),
        ([0.0, 0.0], "unsolved"),
        ([0.0, 0.5], "frontier"),
        ([0.5, 1.0], "solved"),
        ([1.0, 0.25], "forgotten"),
        ([1.0, 0.75], "frontier"),
    ],
)
def test_the_state_of_a_prompt_follows_from_its_pass_rates(
    rates: list[float], state: str | None
) -> None:
    assert state_of(rates) == state


def history(*visits: tuple[float, int, int]) -> History:
    """Visits in steps 0, 1, ...: pass rate, judged samples, failed ones."""
    return History("ab", "d", tuple(Visit(step, *one) for step, one in enumerate(visits)))


@pytest.mark.parametrize(
    ("visits", "rate", "said"),
    [
        ([(0.0, 4, 0), (0.0, 4, 0)], 0.9, "none of its 8 samples passed"),
        ([(0.0, 4, 0), (0.0, 4, 0)], 0.5, None),  # a hard one among hard ones
        ([(0.0, 4, 0), (0.25, 4, 0)], 0.9, None),
        ([(0.0, 8, 0)], 0.9, None),  # once is chance
        ([(float("nan"), 0, 4), (1.0, 2, 2)], 0.9, "no grader could judge 6 of its 8 samples"),
        ([(1.0, 7, 1)], 0.9, None),
        ([(0.0, 4, 0), (1.0, 4, 0)] * 2 + [(0.0, 4, 0)], 0.5, "back, 4 times"),
    ],
)
def test_suspects_for_a_broken_verifier(
    visits: list[tuple[float, int, int]], rate: float, said: str | None
) -> None:
    (story,) = tell_prompts([history(*visits)], {"d": dict.fromkeys(range(9), rate)})
    assert len(story.suspects) == (said is not None)
    assert said is None or said in story.suspects[0]


def test_the_story_names_what_was_learned_when_and_what_was_preferred(digest: Digest) -> None:
    story = tell(digest)
    assert story.headline.startswith("Held-out accuracy rose from 17.3% (step 10) to ")
    by_name = {one.name: one for one in story.learned}
    assert by_name["level-1"].verdict == "learned at step 39"
    smooth = smoothed(*_weighted(digest, "level-1"))
    series, _ = digest.pass_rates("level-1")
    assert series.steps[np.flatnonzero(smooth >= 0.8)[0]] == 39
    (said,) = (one.text for one in story.preferred if "preferred" in one.text)
    assert said.startswith(
        "rl preferred level-0 in its first fifth (74% of its draws, 8% in its last"
    )
    assert "and level-2 in its last (77%, 8% in its first)" in said
    slow = [one.text for one in story.time if "became slower" in one.text]
    assert len(slow) == 1 and "rollout +" in slow[0] and "mean completion" in slow[0]


def _weighted(digest: Digest, name: str) -> tuple[np.ndarray, np.ndarray]:
    series, samples = digest.pass_rates(name)
    return series.values, samples


def test_time_is_split_into_phases_and_a_slower_stage_is_found(digest: Digest) -> None:
    timing = timing_of(digest)
    assert timing.seconds == pytest.approx(digest.total("time/step/s"))
    assert timing.phases["other"] == pytest.approx(40 * 0.02, rel=1e-6)
    assert next(iter(timing.phases)) == "rollout"
    (slow,) = slowdowns(digest)
    assert slow.stage == "rl" and slow.late / slow.early > 1.3


def test_events_are_told_in_words_and_by_how_much_they_matter() -> None:
    rows = [
        {"event": "guard", "step": 3, "guard": "starvation", "message": "bits was never drawn"},
        {"event": "grader_failures", "step": 4, "samples": 2, "causes": {"timeout: 10 s": 2}},
        {"event": "best", "step": 5, "value": 0.123456},
        {"event": "shelf_failed", "step": 6},
    ]
    told = [(one.severity, one.text) for one in tell_events(rows)]
    assert told == [
        ("warning", "starvation: bits was never drawn"),
        ("failure", "2 samples could not be judged: timeout: 10 s (2)"),
        ("note", "value 0.1235"),
        ("failure", ""),
    ]


def test_lines_are_thinned_by_means_and_smoothed_without_lag() -> None:
    series = Series(np.arange(1, 1001), np.arange(1000.0))
    thin = thinned(series, 100)
    assert len(thin.steps) == 100 and thin.values[0] == 4.5 and thin.values[-1] == 994.5
    rising = np.arange(100.0)
    assert moving(rising)[10:90].tolist() == pytest.approx(rising[10:90].tolist())
    held = moving(np.array([1.0, 1.0, np.nan, 5.0, 5.0]))
    assert held.tolist()[:2] == [1, 1] and np.isnan(held[2]) and held.tolist()[3:] == [5, 5]


def test_long_texts_keep_their_ends() -> None:
    text = shortened("a" * 500 + "b" * 500, 90)
    assert text == "a" * 60 + "\n[... 910 characters left out ...]\n" + "b" * 30
    assert shortened("short", 90) == "short"


def test_json_in_a_script_begins_no_tag_and_holds_no_nan() -> None:
    value = {"a": [HOSTILE, float("nan"), float("inf")], "b": "ä"}
    text = script_json(value)
    assert not set("<>&") & set(text) and "ä" in text
    assert json.loads(text) == {"a": [HOSTILE, None, None], "b": "ä"}


def test_a_run_in_its_first_stage_lacks_nothing(copy: Path) -> None:
    """Without a step of RL there are no decisions yet, and no rollouts."""
    rows = (copy / "metrics.jsonl").read_text().splitlines(keepends=True)
    (copy / "metrics.jsonl").write_text("".join(rows[:2]))
    (copy / "decisions.jsonl").unlink()
    shutil.rmtree(copy / "rollouts")
    assert digest_run(copy).gaps == ()


def test_texts_are_shortened_until_all_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In bytes, so that a page of Chinese is no larger than one of English."""
    made = Made(warm=1, steps=2, groups=2, group_size=2)
    run = write_run(tmp_path / "long", made, lambda step, name, tokens: "长" * 1000)
    monkeypatch.setattr("rlcurric.report.rollouts.TEXT", 12_000)
    sample = digest_run(run).rollouts
    texts = [one.completion for group in sample.shown for one in group.rollouts]
    assert len(texts) == 8 and 300 <= sample.clipped < 500
    assert sum(text.count("长") * 3 for text in texts) <= 12_000
    assert all("characters left out" in text for text in texts)


@pytest.fixture(scope="session")
def page(digest: Digest) -> Elements:
    elements = Elements()
    elements.feed(render(digest))
    return elements


def test_a_page_is_one_file_and_keeps_model_text_as_text(page: Elements, digest: Digest) -> None:
    assert page.names.count("script") == 3 + len(page.data) == 8
    assert "img" not in page.names
    assert all(one.startswith("#") or one == "data:," for one in page.outside)
    shown = page.data["data-rollouts"]
    assert shown[0]["rollouts"][0]["completion"] == f"{HOSTILE} of step-11"
    assert len(page.data["data-prompts"]) == len(digest.prompts)


def test_every_figure_has_traces_with_data(digest: Digest, page: Elements) -> None:
    drawn = {one.key for one in plots(digest) if one.figure is not None}
    named = {
        *("accuracy", "sampling", "pass_map", "reward", "lengths", "truncated", "time", "tokens"),
        *("length_histogram", "mismatch", "kl", "entropy", "gradient", "clip", "events"),
    }
    assert named <= drawn == set(page.data["data-plots"])
    for figure in page.data["data-plots"].values():
        assert figure["data"]
        for trace in figure["data"]:
            assert trace["x"] and (trace.get("y") or trace.get("z"))


def test_stages_are_bands_behind_curves_over_steps(digest: Digest) -> None:
    spans = {"stage cold": (0.5, 10.5), "stage rl": (10.5, 50.5)}
    over_steps = [one.figure for one in plots(digest) if one.key != "length_histogram"]
    for figure in filter(None, over_steps):
        low, high = figure.layout.xaxis.range
        seen = {name: (max(low, a), min(high, b)) for name, (a, b) in spans.items()}
        bands = {shape.name: (shape.x0, shape.x1) for shape in figure.layout.shapes}
        assert bands == {name: (a, b) for name, (a, b) in seen.items() if a < b}
        assert bands


def test_the_stacked_probabilities_are_those_of_the_metrics(digest: Digest) -> None:
    (sampling,) = (one.figure for one in plots(digest) if one.key == "sampling")
    assert sampling is not None
    assert {trace.stackgroup for trace in sampling.data} == {"all"}
    assert np.sum([trace.y for trace in sampling.data], axis=0) == pytest.approx(np.ones(40))
    assert sampling.data[0].y == pytest.approx(
        digest.series("curriculum/probability/level-0").values
    )


# What may be wrong with a run directory: what is done to it, which file the report names, and with which words.


def cut(name: str) -> Callable[[Path], None]:
    def damage(run: Path) -> None:
        raw = (run / name).read_bytes()
        (run / name).write_bytes(raw[: raw.rindex(b"\n", 0, -1) + 20])

    return damage


def without(name: str) -> Callable[[Path], None]:
    return lambda run: (run / name).unlink()


def instead(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda run: (run / name).write_bytes(content) and None


def garbage_line(run: Path) -> None:
    rows = (run / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (run / "metrics.jsonl").write_bytes(b"".join([*rows[:5], b"\xff{{\n", *rows[7:]]))


def every_value(key: str, value: Any) -> Callable[[Path], None]:
    """Of a metric, in all its steps."""

    def damage(run: Path) -> None:
        rows = [row | ({key: value} if key in row else {}) for row in lines(run / "metrics.jsonl")]
        (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    return damage


def column(file: str, name: str, value: Any) -> Callable[[Path], None]:
    """Of a file of rollouts, all of it this value."""

    def damage(run: Path) -> None:
        table = parquet.read_table(run / file)
        values = pa.array([value] * table.num_rows)
        table = table.set_column(table.schema.get_field_index(name), name, values)
        parquet.write_table(table, run / file)

    return damage


def line_of_step(step: int) -> Callable[[Path], None]:
    def damage(run: Path) -> None:
        with (run / "metrics.jsonl").open("a") as log:
            log.write(json.dumps({"step": step, "reward/total/mean": 1.0}) + "\n")

    return damage


FILE = "rollouts/step-000008.parquet"
DAMAGES = {
    "metrics cut": (cut("metrics.jsonl"), "metrics.jsonl", "the last line, 12, is cut short"),
    "decisions cut": (cut("decisions.jsonl"), "decisions.jsonl", "the last line, 9, is cut short"),
    "events cut": (cut("events.jsonl"), "events.jsonl", "is cut short"),
    "a line of garbage": (garbage_line, "metrics.jsonl", "1 line is not readable and left out: 6"),
    "steps lost": (garbage_line, "metrics.jsonl", "no line of steps 6 to 7"),
    "no metrics": (without("metrics.jsonl"), "metrics.jsonl", "is missing: no curves by step"),
    "empty metrics": (instead("metrics.jsonl", b""), "metrics.jsonl", "is empty"),
    "no decisions": (without("decisions.jsonl"), "decisions.jsonl", "is missing: no pass rates"),
    "no events": (without("events.jsonl"), "events.jsonl", "is missing: no events"),
    "no recipe": (without("recipe.yaml"), "recipe.yaml", "is missing"),
    "recipe of no use": (instead("recipe.yaml", b"name: [\n"), "recipe.yaml", "cannot be read"),
    "no run.json": (without("run.json"), "run.json", "is missing: no versions"),
    "run.json cut": (instead("run.json", b'{"name": "ma'), "run.json", "is cut short or not JSON"),
    "a parquet file lost": (without(FILE), "rollouts/", "no file of 1 of 9 steps: 8"),
    "a parquet file cut": (instead(FILE, b"PAR1 half"), FILE, "cannot be read"),
    "a column of another kind": (column(FILE, "length", "x"), FILE, "cannot be read"),
    "a column of nothing": (column(FILE, "length", None), FILE, "cannot be read"),
    "lengths beyond numbers": (column(FILE, "length", 2**40), FILE, "cannot be read"),
    "no rollouts": (lambda run: shutil.rmtree(run / "rollouts"), "rollouts/", "no file is there"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_broken_is_named_and_the_rest_is_read(copy: Path, damage: str) -> None:
    act, file, words = DAMAGES[damage]
    act(copy)
    found = digest_run(copy)
    assert any(gap.file == file and words in gap.problem for gap in found.gaps)
    assert len(found.gaps) == (2 if damage in ("a line of garbage", "steps lost") else 1)
    whole = {"metrics": len(found.steps) == 12, "groups": len(found.outcomes.steps) == 9}
    assert whole["metrics"] == (file != "metrics.jsonl")
    assert whole["groups"] == (file != "decisions.jsonl")
    assert (found.rollouts.files == 9) == (not file.startswith("rollouts"))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("reward/total/mean", float("nan")),
        ("time/step/s", float("inf")),
        ("eval/accuracy/mean", 1e300),
        ("grad/norm", 10**400),
    ],
    ids=["nan", "inf", "1e300", "10**400"],
)
def test_values_that_are_no_finite_numbers_are_told_and_drawn_nowhere(
    copy: Path, key: str, value: float
) -> None:
    every_value(key, value)(copy)
    found = digest_run(copy)
    (gap,) = found.gaps
    assert gap.file == "metrics.jsonl"
    assert "infinite, NaN or beyond float32, left out: the first is " + key in gap.problem
    assert not found.series(key)
    assert "<!doctype html>" in render(found)


def test_an_infinite_value_leaves_a_line_whole_behind_it(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", Made(warm=1, steps=60, groups=2))
    rows = lines(run / "metrics.jsonl")
    rows[30]["grad/norm"] = float("inf")
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (gradient,) = [plot for plot in plots(digest_run(run)) if plot.key == "gradient"]
    assert gradient.figure is not None
    for trace in gradient.figure.data:
        assert len(trace.y) == 60 and np.isfinite(trace.y).all()


@pytest.mark.parametrize("step", [-1, True, 10**30])
def test_a_line_without_a_step_that_can_be_is_left_out(copy: Path, step: int) -> None:
    line_of_step(step)(copy)
    found = digest_run(copy)
    assert [gap.problem for gap in found.gaps] == ["1 line is not readable and left out: 13"]
    assert len(found.steps) == 12


def test_rollouts_that_cannot_be_shown_are_told(copy: Path) -> None:
    """Their texts alone are broken, and a file is there that no run wrote."""
    shutil.copy(copy / FILE, copy / "rollouts" / "step-of-mine.parquet")
    column(FILE, "completion", None)(copy)
    raw = bytearray((copy / FILE).read_bytes())
    meta = parquet.ParquetFile(copy / FILE).metadata.row_group(0)
    names = [meta.column(place).path_in_schema for place in range(meta.num_columns)]
    begin = meta.column(names.index("reward")).dictionary_page_offset
    raw[begin : begin + 8] = bytes(8)
    (copy / FILE).write_bytes(raw)
    found = digest_run(copy)
    (gap,) = found.gaps
    assert gap.file == FILE and gap.problem.startswith("cannot be read")
    assert {group.step for group in found.rollouts.shown} == {4, 5, 6, 7, 9, 10, 11, 12}


def test_uids_of_numbers_are_shown_as_text(copy: Path) -> None:
    column(FILE, "uid", 7)(copy)
    column(FILE, "visit", 1)(copy)
    found = digest_run(copy)
    assert not found.gaps and "7" in {group.uid for group in found.rollouts.shown}


def test_odd_records_of_launches_and_events_are_read_past(copy: Path) -> None:
    launches = [{"gpus": 8, "ranks": "two", "versions": []}, None]
    (copy / "run.json").write_text(json.dumps({"launches": launches}))
    with (copy / "events.jsonl").open("a") as log:
        log.write('{"step": 3, "event": ["done"]}\n{"step": 3, "event": null}\n')
    assert "<!doctype html>" in render(digest_run(copy))


def test_a_group_with_a_verdict_that_is_no_number_counts_nowhere(copy: Path) -> None:
    before = digest_run(copy).outcomes
    file = copy / "decisions.jsonl"
    rows = lines(file)
    group = next(row for row in rows if row["kind"] == "outcomes")["groups"][0]
    odd = [{**group, "correct": [10**400]}, {**group, "correct": [None]}, {**group, "lengths": 3}]
    rows.append({"step": 12, "kind": "outcomes", "groups": odd})
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = digest_run(copy)
    assert [gap.problem for gap in found.gaps] == ["3 groups cannot be read and are left out"]
    for name, samples in before.samples.items():
        assert found.outcomes.samples[name].tolist() == samples.tolist()
    assert found.outcomes.histories == before.histories


def test_a_broken_run_has_a_page_that_says_what_is_missing(copy: Path) -> None:
    for damage in (
        "metrics cut",
        "no decisions",
        "no events",
        "run.json cut",
        "a parquet file cut",
    ):
        DAMAGES[damage][0](copy)
    found = digest_run(copy)
    text = render(found)
    elements = Elements()
    elements.feed(text)
    assert len(found.gaps) == 5 and "Parts of this run's records are missing" in text
    for gap in found.gaps:
        assert str(escape(gap.problem)) in text
    assert {"reward", "sampling", "pass_map", "lengths", "gradient"} <= set(
        elements.data["data-plots"]
    )
    assert "events" not in elements.data["data-plots"] and "No events were recorded." in text


@pytest.mark.parametrize(
    "kept", ["recipe.yaml", "metrics.jsonl", "decisions.jsonl", "events.jsonl"]
)
def test_a_single_file_of_a_run_is_enough_for_a_page(
    small: Path, tmp_path: Path, kept: str
) -> None:
    shutil.copy(small / kept, tmp_path / kept)
    found = digest_run(tmp_path)
    names = {gap.file for gap in found.gaps}
    every = {"recipe.yaml", "run.json", "metrics.jsonl", "decisions.jsonl", "events.jsonl"}
    assert names == every - {kept}
    assert found.name == ("made-up" if kept == "recipe.yaml" else tmp_path.name)
    assert "<!doctype html>" in render(found)


def test_a_run_that_has_not_ended_a_step_is_told_so(copy: Path) -> None:
    (copy / "metrics.jsonl").unlink()
    (copy / "decisions.jsonl").unlink()
    (copy / "events.jsonl").write_text('{"time": "", "event": "started", "step": 0}\n')
    shutil.rmtree(copy / "rollouts")
    found = digest_run(copy)
    assert [one.first for one in found.stages] == [None, None]
    assert "no step has ended" in render(found)
    assert tell(found).learned == ()


def test_what_a_run_does_now_is_read_from_its_lock_and_events(copy: Path) -> None:
    """The lock counts only while the process that it names has it open."""
    lock = copy / "run.lock"
    me = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "start": ""})
    events = (copy / "events.jsonl").read_text().splitlines(keepends=True)
    (copy / "events.jsonl").write_text("".join(events[:-1]))
    lock.write_text(me)
    assert read_recorded(copy).condition == "ended"
    (first, *_) = tell(digest_run(copy)).trouble
    assert first.text.startswith("The run ended without a word after step ")
    with lock.open():
        assert read_recorded(copy).condition == "running"
    (copy / "events.jsonl").write_text("".join(events))
    assert read_recorded(copy).condition == "finished"
    lock.unlink()
    (copy / "events.jsonl").write_text("".join(events[:-1]))
    assert read_recorded(copy).condition == "unknown"


def test_the_command_writes_a_page_and_names_what_is_missing(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (copy / "run.json").unlink()
    assert _run(["report", str(copy)]) == 0
    printed = capsys.readouterr().out
    assert "run.json is missing: no versions and hardware" in printed and "12 steps" in printed
    assert (copy / "report.html").stat().st_size < 15_000_000
    other = tmp_path / "other.html"
    assert _run(["report", str(copy), "--output", str(other), "--groups", "1"]) == 0
    assert "of 27 groups were logged" in other.read_text()


def test_the_command_refuses_what_it_cannot_do(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, told in (
        ([str(tmp_path)], "is no run directory"),
        ([str(tmp_path), "--serve"], "is no run directory"),
        ([str(made), "--output", str(tmp_path)], "is a folder; name a file"),
        ([str(made), "--output", str(tmp_path / "absent" / "x.html")], "there is no folder"),
        ([str(made), "--serve", "--output", "x.html"], "--serve writes no file"),
    ):
        assert _run(["report", *arguments]) == 2
        error = capsys.readouterr().err
        assert told in error and "Traceback" not in error


@pytest.fixture
def server(copy: Path) -> Iterator[ReportServer]:
    with ReportServer(copy, 0, groups=2) as serving:
        thread = threading.Thread(target=serving.serve_forever, daemon=True)
        thread.start()
        yield serving
        serving.shutdown()
        thread.join()


def fetched(url: str, host: str | None = None) -> tuple[int, str]:
    request = urllib.request.Request(url, headers={"Host": host} if host else {})
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_the_server_answers_to_this_machine_alone(server: ReportServer) -> None:
    assert server.socket.getsockname()[0] == "127.0.0.1"
    port = server.server_port
    assert fetched(f"http://localhost:{port}/version")[0] == 200
    assert fetched(server.url + "version", "evil.example")[0] == 403
    assert fetched(server.url + "version", f"127.0.0.1:{port}")[0] == 200
    assert fetched(server.url + "../recipe.yaml")[0] == 404


def test_a_folder_that_is_gone_is_told_on_the_page(server: ReportServer, copy: Path) -> None:
    shutil.rmtree(copy)
    status, text = fetched(server.url)
    assert status == 503 and "is no run directory" in text


def test_the_server_makes_the_page_anew_when_the_run_goes_on(
    server: ReportServer, copy: Path
) -> None:
    mark = fetched(server.url + "version")[1]
    status, text = fetched(server.url)
    assert status == 200 and f'data-live="{mark}"' in text and "up to step 12" in text
    assert "connect-src 'self'" in text
    with (copy / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 13, "stage": "rl", "loss/policy/mean": 0.5}) + "\n")
    assert fetched(server.url + "version")[1] != mark
    assert "up to step 13" in fetched(server.url)[1]
