"""`rlcurric preflight`: what it measures, what it advises, and that training can start from it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import rlcurric
from rlcurric.cli import _run
from rlcurric.curriculum.measured import read_measured
from rlcurric.eval.preflight import HISTOGRAM, DistributionReport, Preflight, advice, as_dict
from rlcurric.recipe.load import dump
from rlcurric.recipe.stages import RlStage
from rlcurric.report.tables import read_run
from tests.tiny import tiny_recipe

LUCKY = ("reward_files=[lucky.py]", "rewards=[lucky, {name: format, weight: 0.0}]")


def recipe_file(folder: Path, *overrides: str, **changes: Any) -> Path:
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(dump(tiny_recipe(*overrides, **changes)), sort_keys=False))
    return file


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("preflight")


@pytest.fixture(scope="module")
def recipe(folder: Path) -> Path:
    """Random weights under a reward that they earn now and then."""
    return recipe_file(folder, *LUCKY)


def test_a_look_before_training(
    recipe: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Table, times, a file that a run starts from and a report for programs; the same again gives the same."""
    output, report = folder / "measured.jsonl", folder / "report.json"
    command = ["preflight", str(recipe), "--prompts", "10", "--samples", "4"]
    assert _run([*command, "--output", str(output), "--report", str(report)]) == 0
    printed = capsys.readouterr().out
    assert "4 samples a prompt, as stage first would draw them" in printed
    assert "20 of 20 prompts" in printed
    assert re.search(r"\d+ tokens/s\. 2 steps of this stage: about \d+:\d\d of rollouts", printed)
    found = json.loads(report.read_text())
    outcomes = read_measured(output)
    assert len(outcomes) == 20 and found["group_size"] == 4
    assert [one["name"] for one in found["distributions"]] == ["two", "three"]
    for one in found["distributions"]:
        mine = [outcome for outcome in outcomes if outcome.distribution == one["name"]]
        rates = [sum(outcome.correct) / 4 for outcome in mine]
        assert sum(one["histogram"]) == one["prompts"] == len(mine) == 10
        assert one["samples"] == 40 and one["failed"] == 0
        assert len(one["histogram"]) == len(HISTOGRAM)
        assert one["histogram"][0] == rates.count(0.0) and one["histogram"][-1] == rates.count(1.0)
        assert one["histogram"][1:5] == [rates.count(0.25), rates.count(0.5), rates.count(0.75), 0]
        assert one["pass_rate"] == pytest.approx(sum(rates) / 10)
        assert one["informative"] == sum(0 < rate < 1 for rate in rates) / 10
        assert one["length"] == pytest.approx(sum(sum(o.lengths) for o in mine) / 40)
        assert 0 < one["length"] <= 12 and 0 <= one["truncated"] <= 1
    groups = sum(one["informative"] for one in found["distributions"]) / 2
    assert found["uninformative"] == pytest.approx(1 - groups)
    assert found["tokens_per_second"] > 0
    length = sum(one["length"] for one in found["distributions"]) / 2
    tokens = 2 * 3 * 4 * length  # of two steps, three groups of four
    assert found["projected_rollout_seconds"] == pytest.approx(tokens / found["tokens_per_second"])
    assert found["projected_update_seconds"] > 0
    again = folder / "again.jsonl"
    assert _run([*command, "--output", str(again)]) == 0
    assert again.read_bytes() == output.read_bytes()


def test_a_run_starts_from_what_was_measured(recipe: Path, folder: Path) -> None:
    output = folder / "warm.jsonl"
    assert _run(["preflight", str(recipe), "--prompts", "12", "--output", str(output)]) == 0
    stages = [
        {
            "name": "only",
            "curriculum": {"prompts_per_step": 3, "group_size": 4, "scorer": "mopps"},
            "until": {"steps": 1},
            "evaluation": {"at_end": False},
        }
    ]
    warm = tiny_recipe(*LUCKY, f"curriculum.warm_start={output}", stages=stages)
    rlcurric.train(warm, folder / "warm")
    run = read_run(folder / "warm")
    assert not [event for event in run.events if event["event"] == "caution"]
    assert 24 <= run.metrics[0]["curriculum/mopps/known_prompts"] <= 27
    draw = next(line for line in run.decisions if line["kind"] == "draw")
    expected = dict(zip((row[2] for row in draw["candidates"]), draw["expected"], strict=True))
    told = {f"{one.group_id.uid:016x}": one.pass_rate or 0.0 for one in read_measured(output)}
    both = [(expected[uid], told[uid]) for uid in expected if uid in told]
    assert both
    for mean, rate in both:  # of 4 samples and the prior's 2, or of as many as have not faded
        assert (mean - 0.5) * (rate - 0.5) >= 0


def test_a_checkpoint_is_looked_at_as_it_is(
    recipe: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """After supervised steps the model answers otherwise; the stage named is the one whose settings hold."""
    run_dir = folder / "trained"
    rlcurric.train(recipe, run_dir, overrides=["stages.cold.until.steps=20"], stop_at=20)
    report = folder / "trained.json"
    command = ["preflight", str(recipe), "--prompts", "8", "--report", str(report)]
    assert _run([*command, "--checkpoint", str(run_dir), "--stage", "second"]) == 0
    assert "as stage second would draw them" in capsys.readouterr().out
    trained = json.loads(report.read_text())
    assert _run(command) == 0
    untrained = json.loads(report.read_text())
    assert trained["distributions"][0]["length"] != untrained["distributions"][0]["length"]


def test_prompts_that_are_never_solved_are_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Random weights solve next to nothing: what to change is named."""
    assert _run(["preflight", str(recipe_file(tmp_path)), "--prompts", "8"]) == 0
    warnings = [
        line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")
    ]
    text = "\n".join(warnings)
    share = re.search(
        r"(\d+)% of groups carry no signal: (\d+)% were never solved, 0% always", text
    )
    assert share is not None and min(map(int, share.groups())) > 80
    for key in (
        "too hard",
        "curriculum.group_size (now 4",
        "SFT stage",
        "screened",
        "rollout.max_new_tokens",
    ):
        assert key in text
    assert not list(tmp_path.glob("*.jsonl")) and not (tmp_path / "runs").exists()


# --- advice -----------------------------------------------------------------------------------------------------------


def report_of(name: str = "two", **changes: Any) -> DistributionReport:
    """Ten prompts of four samples, all of middling difficulty."""
    healthy: dict[str, Any] = {
        "prompts": 10,
        "samples": 40,
        "failed": 0,
        "pass_rate": 0.5,
        "histogram": (0, 0, 10, 0, 0, 0),
        "informative": 1.0,
        "truncated": 0.0,
        "format_rate": 1.0,
        "length": 8.0,
    }
    return DistributionReport(name=name, **{**healthy, **changes})


HARD: dict[str, Any] = {"pass_rate": 0.0, "histogram": (10, 0, 0, 0, 0, 0), "informative": 0.0}
EASY: dict[str, Any] = {"pass_rate": 1.0, "histogram": (0, 0, 0, 0, 0, 10), "informative": 0.0}


def advised(*reports: DistributionReport) -> list[str]:
    stage = tiny_recipe().stages[1]
    assert isinstance(stage, RlStage)
    prompts = sum(one.prompts for one in reports)
    shares = {one.name: one.prompts / prompts for one in reports}
    return advice(Preflight(reports, (), shares, 4, 100.0, 10.0, 5.0), stage)


def test_nothing_is_said_where_all_is_well() -> None:
    assert advised(report_of(), report_of("three")) == []
    # a group in five has signal: not more than the share at which it warns
    assert advised(report_of(informative=0.2, histogram=(8, 0, 2, 0, 0, 0), pass_rate=0.1)) == []


@pytest.mark.parametrize(
    ("reports", "words"),
    [
        ([report_of(**HARD)], ["100% were never solved", "too hard", "group_size (now 4"]),
        ([report_of(**EASY)], ["100% always", "solved already", "retire", "drop_all_correct"]),
        (
            [report_of(**EASY), report_of("three", **HARD)],
            ["50% were never solved, 50% always", "too hard"],
        ),
        (
            [report_of(prompts=90, **HARD), report_of("three")],
            ["90% of groups carry no signal", "the signal is in three", "ucb or sec", "too hard"],
        ),
        ([report_of(truncated=0.5)], ["two: 50% of completions are cut off", "(now 12)"]),
        (
            [report_of(format_rate=0.25, pass_rate=0.25)],
            ["two: 25% of completions have the format", "prompt template", "SFT"],
        ),
        (
            [report_of(failed=10, samples=30)],
            ["graders failed on 10 of 40 samples", "rewards test"],
        ),
    ],
)
def test_advice(reports: list[DistributionReport], words: list[str]) -> None:
    said = advised(*reports)
    text = "\n".join(said)
    for word in words:
        assert word in text
    assert len(said) <= 3


@pytest.mark.parametrize(
    "healthy",
    [
        report_of(truncated=0.2),
        report_of(format_rate=0.25, pass_rate=0.75),  # right all the same
        report_of(format_rate=None, pass_rate=0.25),
        report_of(failed=4, samples=36),
    ],
)
def test_no_advice_below_the_thresholds(healthy: DistributionReport) -> None:
    assert advised(healthy) == []


def test_a_report_is_json() -> None:
    reports = (report_of(), report_of("three", **HARD))
    shares = {reports[0].name: 0.5, "three": 0.5}
    found = Preflight(reports, (), shares, 4, 100.0, 10.0, 5.0)
    told = json.loads(json.dumps(as_dict(found)))
    assert told["uninformative"] == 0.5
    assert told["distributions"][1]["histogram"] == [10, 0, 0, 0, 0, 0]
    assert (told["projected_rollout_seconds"], told["projected_update_seconds"]) == (10.0, 5.0)


# --- wrong inputs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--stage", "frist"], ["--stage: no RL stage 'frist'", "'first'"]),
        (["--stage", "cold"], ["--stage: no RL stage 'cold'", "first"]),
        (["--output", "FOLDER/absent/a.jsonl"], ["--output: there is no folder", "absent"]),
        (["--report", "FOLDER/absent/a.json"], ["--report: there is no folder", "absent"]),
        (["--output", "FOLDER"], ["--output: ", "is a folder"]),
        (["--checkpoint", "FOLDER/absent"], ["absent"]),
        (
            ["rollout.engine=replay", "rollout.replay.path=FOLDER", "evaluation.at_end=false"],
            ["The stage first replays recorded rollouts"],
        ),
        (["--samples", "1"], ["--samples"]),
        (["--prompts", "0"], ["--prompts"]),
    ],
)
def test_mistakes(
    recipe: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    words: list[str],
) -> None:
    given = [option.replace("FOLDER", str(tmp_path)) for option in options]
    assert _run(["preflight", str(recipe), *given]) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    for word in words:
        assert word in error
    assert not list(tmp_path.iterdir())


def test_a_recipe_without_rl(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cold = {"name": "cold", "kind": "sft", "until": {"steps": 1}}
    file = recipe_file(tmp_path, stages=[cold])
    assert _run(["preflight", str(file)]) == 2
    assert "The recipe tiny has no stage of kind rl to look at" in capsys.readouterr().err
