"""Every wrong curriculum: exit code 2 and one message with its place, before anything is written; what is in vain: a warning."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from rlcurric.build.curriculum import redundancies
from rlcurric.cli import _run
from rlcurric.curriculum.measured import append_measured
from rlcurric.recipe.load import dump, load_recipe
from rlcurric.report.tables import read_run
from rlcurric.types import GroupId, GroupOutcome
from tests.tiny import tiny_recipe

C = "stages.first.curriculum"
OUT_OF_RANGE = "{schedule: linear, start: 0.5, end: 2}"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny recipe without a curriculum but its sizes."""
    file = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    plain = "{prompts_per_step: 3, group_size: 4}"
    overrides = [f"stages.{name}.curriculum={plain}" for name in ("first", "second")]
    file.write_text(yaml.safe_dump(dump(tiny_recipe(*overrides)), sort_keys=False))
    return file


def complaint(
    capsys: pytest.CaptureFixture[str], recipe: Path, *overrides: str, command: str = "check"
) -> str:
    """What the command line says of a mistake: one line."""
    assert _run([command, str(recipe), *overrides]) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error and error.count("\n") == 1
    assert error.startswith("rlcurric: ")
    return error


@pytest.mark.parametrize(
    ("key", "wrong", "words"),
    [
        ("sampler", "ubc", ["Unknown sampler 'ubc'", "'ucb'", "easy_to_hard"]),
        ("scorer", "mops", ["Unknown scorer 'mops'", "'mopps'", "learnability"]),
        ("scorer", "[mopps, kmi]", ["scorer.1: Unknown scorer 'kmi'", "'kimi'"]),
        ("gate", "replac", ["Unknown gate 'replac'", "'replace'"]),
        ("gate", "[replace, zero_varianz]", ["gate.1: Unknown gate", "'zero_variance'"]),
        ("pool", "screend", ["Unknown pool 'screend'", "'screened'"]),
        ("plan", "sped", ["Unknown plan 'sped'", "'speed'"]),
        ("selector", "pod", ["Unknown selector 'pod'", "'pods'"]),
        ("weight", "odws", ["Unknown group_weight 'odws'", "'odsw'"]),
        ("sampler", "{name: ucb, signal: variances}", ["Unknown signal 'variances'", "'variance'"]),
        ("scorer", "rlcurric.nowhere:thing", ["there is no module 'rlcurric.nowhere'"]),
    ],
)
def test_unknown_names(
    recipe: Path, capsys: pytest.CaptureFixture[str], key: str, wrong: str, words: list[str]
) -> None:
    error = complaint(capsys, recipe, f"{C}.{key}={wrong}")
    assert f"{C}.{key}" in error
    for word in words:
        assert word in error


@pytest.mark.parametrize(
    ("key", "wrong", "words"),
    [
        ("sampler", "{name: sec, alhpa: 1}", ["'alhpa'", "'alpha'"]),
        ("sampler", "{name: ucb, mixture: {two: 1}}", ["unknown argument 'mixture'"]),
        ("sampler", "cyclical", ["the argument 'cycle_steps' is required"]),
        ("sampler", "{name: e2h, schedule: gausian}", ["sampler.schedule: ", "'gausian'"]),
        ("sampler", "{name: easy_to_hard, order: [two]}", ["of each distribution once", "['two']"]),
        ("sampler", "[ucb, sec]", ["one part is required", "['ucb', 'sec']"]),
        ("scorer", "{name: mopps, tagret: 0.5}", ["'tagret'", "'target'"]),
        ("scorer", "{name: mopps, target: 1.5}", ["target in [0, 1], got 1.5"]),
        ("scorer", "{name: mopps, decay: lots}", ["scorer.decay: ", "'lots'"]),
        ("scorer", "{name: mopps, band: [0.9, 0.1]}", ["band", "rising", "(0.9, 0.1)"]),
        ("scorer", "{name: mopps, share: -1}", ["scorer.share: a number above 0", "-1"]),
        ("scorer", "[{name: mopps, share: 0}, kimi]", ["scorer.0.share: a number above 0"]),
        (
            "scorer",
            "{name: mopps, ratio: {schedule: linear, start: 1, end: 2}}",
            ["ratio takes a number, not a schedule"],
        ),
        ("gate", "advantage_range", ["the argument 'low' is required"]),
        ("gate", "{name: zero_variance, metric: corect}", ["gate.metric: ", "'corect'"]),
        ("gate", "{name: retire, visits: 0}", ["visits >= 1", "visits=0"]),
        ("pool", "{name: screened, samples: 0}", ["1 <= min_correct <= samples", "samples=0"]),
        ("pool", "{name: drop_easy, above: 2}", ["above in [0, 1)", "2.0"]),
        ("plan", "{name: speed, initial: 9}", ["initial <= group_size", "group_size=4"]),
        ("plan", "{name: lilo, probe: 8}", ["probe <= group_size", "group_size=4"]),
        ("selector", "{name: pods, keep: 1}", ["at least 2", "got 1"]),
        ("selector", "[pods, d3s]", ["one part is required", "['pods', 'd3s']"]),
        ("weight", "{name: odsw, stage: middling}", ["weight.stage: ", "'middling'"]),
        ("value", "{hiden: 3}", ["Unknown key 'hiden'", "'hidden'"]),
        ("guards", "{dorp: 0.1}", ["Unknown key 'dorp'", "'drop'"]),
        ("group_size", "1", ["at least 2", "got 1"]),
        ("oversample", "0.5", ["greater than or equal to 1", "0.5"]),
        ("token_fraction", "{schedule: linear, start: 0.5, end: 0}", ["above 0", "got 0"]),
        ("prompts_pre_step", "3", ["'prompts_pre_step'", "'prompts_per_step'"]),
    ],
)
def test_wrong_arguments(
    recipe: Path, capsys: pytest.CaptureFixture[str], key: str, wrong: str, words: list[str]
) -> None:
    error = complaint(capsys, recipe, f"{C}.{key}={wrong}")
    assert "stages.first" in error and key in error
    for word in words:
        assert word in error


@pytest.mark.parametrize("sampler", ["e2h", "easy_to_hard"])
def test_samplers_that_follow_the_clock_have_planned_steps(
    recipe: Path, capsys: pytest.CaptureFixture[str], sampler: str
) -> None:
    error = complaint(capsys, recipe, f"{C}.sampler={sampler}", "stages.first.until={tokens: 900}")
    assert "stages.first" in error and "set until.steps" in error


@pytest.mark.parametrize(
    ("overrides", "key", "words"),
    [
        (
            ["selector=pods", "objective={name: grpo, advantage: rank_average}"],
            "selector",
            "rank_average matches rollouts by rank over whole groups",
        ),
        (["gate=replace", "objective=hpt"], "gate", "replace may refuse the groups"),
        (
            ["selector=d3s", "objective={name: rloo, kl_coef: 0.1}"],
            "selector",
            "charges KL to the reward before",
        ),
        (["scorer=[variants, mopps]"], "scorer", "Name it alone"),
        (["plan={name: lilo, probe: 4}", "oversample=2"], "oversample", "Leave oversample at 1"),
        (["gate=replace", "refill_fallback=train_gated"], "refill_fallback", "Use train_smaller"),
        (["weight=observe_r1", "refill_fallback=train_gated"], "weight", "undoes refill_fallback"),
        (["weight=odsw", "refill_fallback=train_gated"], "weight", "undoes refill_fallback"),
        (
            ["weight={name: odsw, stage: h2}", "refill_fallback=train_gated"],
            "weight",
            "undoes refill_fallback",
        ),
    ],
)
def test_parts_that_cannot_stand_together(
    recipe: Path,
    capsys: pytest.CaptureFixture[str],
    overrides: list[str],
    key: str,
    words: str,
) -> None:
    spelled = [
        f"stages.first.{one}" if one.startswith("objective") else f"{C}.{one}" for one in overrides
    ]
    error = complaint(capsys, recipe, *spelled)
    assert f"{C}.{key}: " in error and words in error


@pytest.mark.parametrize("command", ["check", "train"])
@pytest.mark.parametrize(
    ("key", "wrong", "words"),
    [
        ("scorer", "adarft", ["column 'difficulty'", "row 0 of the distribution 'two'"]),
        ("scorer", "[mopps, adarft]", ["column 'difficulty'"]),
        ("scorer", "variants", ["a column 'seed' in the pool's rows"]),
        ("scorer", f"{{name: mopps, target: {OUT_OF_RANGE}}}", ["target in [0, 1], got 1.25"]),
        ("selector", f"{{name: d3s, keep: {OUT_OF_RANGE}}}", ["keep in (0, 1], got 1.25"]),
        (
            "sampler",
            "{name: ucb, temperature: {schedule: linear, start: 1, end: -1}}",
            ["temperature > 0", "got 0"],
        ),
        ("warm_start", "absent.jsonl", ["absent.jsonl is no file", "rlcurric preflight"]),
        ("warm_start", "tiny_tasks.py", ["tiny_tasks.py, line 1: no line of"]),
    ],
)
def test_what_only_the_data_and_the_clock_tell(
    recipe: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    command: str,
    key: str,
    wrong: str,
    words: list[str],
) -> None:
    """Found before the first step: a stage may come hours after the start."""
    monkeypatch.chdir(tmp_path)
    error = complaint(capsys, recipe, f"{C}.{key}={wrong}", command=command)
    assert error.startswith(f"rlcurric: {C}.{key}: ")
    for word in words:
        assert word in error
    assert not list(tmp_path.iterdir()), "the run directory was begun"


def test_a_difficulty_that_one_row_lacks(
    recipe: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    rows = [
        {"question": f"{k}+1=", "answer": str(k + 1), "demonstration": "1", "difficulty": k}
        for k in range(9)
    ]
    del rows[7]["difficulty"]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = f"distributions={{two: {{source: {{name: file, path: '{file}'}}}}}}"
    error = complaint(
        capsys, recipe, source, *(f"stages.{name}.mixture=[two]" for name in ("cold", "first", "second")),
        f"{C}.scorer=adarft",
    )  # fmt: skip
    assert "got None in row 7 of the distribution 'two'" in error
    assert "Did you mean 'difficulty'?" in complaint(
        capsys, recipe, source, *(f"stages.{name}.mixture=[two]" for name in ("cold", "first", "second")),
        f"{C}.scorer={{name: adarft, column: dificulty}}",
    )  # fmt: skip


REDUNDANT = [
    (["gate=zero_variance", "weight=observe_r1"], "already refuses the groups that the weight"),
    (["scorer=[greso, mopps]"], "mopps alone does it by its posterior"),
    (["gate=zero_variance", "plan={name: speed, initial: 2}"], "the plan speed"),
    (["gate=[zero_variance, replace]"], "refuses every group that the gate replace would"),
    (["gate=retire", "pool=drop_easy"], "both leave out solved prompts"),
]


@pytest.mark.parametrize(("overrides", "words"), REDUNDANT)
def test_parts_that_stand_together_in_vain(recipe: Path, overrides: list[str], words: str) -> None:
    stages = load_recipe(recipe, [f"{C}.{one}" for one in overrides]).stages
    said = redundancies(stages[1])  # type: ignore[arg-type]
    assert len(said) == 1
    assert said[0].startswith(f"{C}: ") and words in said[0]
    assert redundancies(stages[2]) == []  # type: ignore[arg-type]


def test_check_and_train_warn_of_what_is_in_vain(
    recipe: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    stranger = GroupId("screening", 5, 0)
    other = GroupOutcome(stranger, "two", 0, (1.0,), (1.0,), (3,), 0, 0, "screened")
    append_measured(tmp_path / "other.jsonl", [other])
    overrides = [
        f"{C}.scorer=[greso, mopps]",
        f"{C}.value.hidden=8",
        f"{C}.warm_start={tmp_path}/other.jsonl",
    ]
    assert _run(["check", str(recipe), *overrides]) == 0
    printed = [
        line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")
    ]
    words = ["mopps alone", "no scorer asks for predictions", "none of the 1 prompts"]
    assert len(printed) == 3
    for line, word in zip(printed, words, strict=True):
        assert line.startswith(f"warning: {C}") and word in line
    run_dir = tmp_path / "run"
    ends = ["stages.first.until.steps=1", "stages.second.until.steps=1", "evaluation.at_end=false"]
    assert _run(["train", str(recipe), *overrides, *ends, "--run-dir", str(run_dir)]) == 0
    told = [event for event in read_run(run_dir).events if event["event"] == "caution"]
    assert [event["stage"] for event in told] == ["first"] * 3
    assert [f"warning: {event['message']}" for event in told] == printed
    shown = capsys.readouterr().out
    assert shown.count("warning: ") == 3


def test_what_has_nothing_to_choose_from_or_to_carry_is_said(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = [
        "stages.first.mixture=[two]",
        f"{C}.sampler=ucb",
        "stages.first.carry=[statistics]",
    ]
    assert _run(["check", str(recipe), *overrides]) == 0
    printed = capsys.readouterr().out
    assert f"warning: {C}.sampler: the stage has one distribution, so that ucb" in printed
    assert "warning: stages.first.carry: no RL stage comes before first" in printed
    assert printed.count("warning: ") == 2


def test_a_file_without_a_name_in_it_is_told_how_parts_are_named(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = complaint(capsys, recipe, f"{C}.gate=parts.py")
    assert "A part of a file is written FILE.py:NAME." in error


def test_a_file_lists_only_what_it_defines_itself(
    recipe: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "parts.py").write_text(
        "from collections import OrderedDict\nclass MyGate:\n    pass\n"
    )
    error = complaint(capsys, recipe, f"{C}.gate={tmp_path}/parts.py:MyGat")
    assert "Did you mean 'MyGate'? Known: MyGate." in error


def test_a_plain_curriculum_brings_no_warning(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(["check", str(recipe), f"{C}.scorer=pcl", f"{C}.value.hidden=8"]) == 0
    assert "warning" not in capsys.readouterr().out
