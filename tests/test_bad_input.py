"""Every wrong input: exit code 2, one message that names the place and the remedy, nothing overwritten."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

import rlcurric
from rlcurric.cli import _run
from rlcurric.recipe.load import dump
from tests.tiny import HERE, tiny_recipe


def recipe_file(folder: Path, *overrides: str, **changes: Any) -> Path:
    file = folder / "recipe.yaml"
    text = yaml.safe_dump(dump(tiny_recipe(*overrides, **changes)), sort_keys=False)
    file.write_text(text)
    return file


def complaint(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What the command line says of a mistake."""
    assert _run([str(argument) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error


def in_source(rows: str | bytes, folder: Path, name: str = "rows.jsonl") -> dict[str, Any]:
    """Distributions that read a file of these contents."""
    file = folder / name
    file.write_bytes(rows.encode() if isinstance(rows, str) else rows)
    source = {"name": "file", "path": str(file)}
    return {"two": {"source": source}, "three": {"source": source}}


ROW = '{"question": "1+1=", "answer": "2", "demonstration": "<answer>2</answer>"}\n'


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("stages.first.curriculum.sampler.floot=0.1", ["sampler", "'floot'", "'floor'"]),
        (
            "stages.first.curriculum.sampler=ubc",
            ["stages.first.curriculum.sampler: Unknown sampler 'ubc'", "'ucb'", "uniform"],
        ),
        (
            "stages.first.curriculum.sampler.temperature=-1",
            ["stages.first.curriculum.sampler: ", "temperature > 0", "-1"],
        ),
        (
            "stages.first.curriculum.gate=zero_varianz",
            ["stages.first.curriculum.gate: Unknown gate", "zero_variance"],
        ),
        (
            "stages.first.objective=grop",
            ["stages.first.objective: Unknown objective 'grop'", "'grpo'", "dapo"],
        ),
        ("stages.first.objective.clip_hi=0.3", ["'clip_hi'", "'clip_high'"]),
        (
            "stages.first.rewards=[verifer]",
            ["stages.first.rewards: Unknown reward 'verifer'", "'verifier'", "length_budget"],
        ),
        ("stages.first.rewards.length_budget.targte=3", ["length_budget", "'targte'", "'target'"]),
        ("stages.first.rewards.length_budget.target=many", ["length_budget.target", "'many'"]),
        (
            "stages.first.rewards.length_budget.target={schedule: linear, start: 9}",
            ["stages.first.rewards.length_budget.target: The schedule linear needs the key 'end'"],
        ),
        (
            "stages.first.objective.entropy={coef: {schedule: linear, start: 9}}",
            ["stages.first.objective", "The schedule linear needs the key 'end'"],
        ),
        ("stages.first.rewards=[format]", ["no reward verifies correctness", "verifier"]),
        ("mixture=[tow]", ["unknown distribution 'tow'", "'two'"]),
        ("distributions.two.source.termz=3", ["distributions.two.source", "'termz'", "'terms'"]),
        (
            "distributions.two.source.name=fil",
            ["distributions.two.source: Unknown source 'fil'", "'file'"],
        ),
        (
            "distributions.two.source={name: file, path: absent.jsonl}",
            ["distributions.two.source: There is no data file", "absent.jsonl"],
        ),
        (
            "distributions.two.source={name: file, path: '${RLCURRIC_ABSENT}/a.jsonl'}",
            ["distributions.two.source: ", "RLCURRIC_ABSENT"],
        ),
        ("model=no/such", ["The hub could not be reached, or has no such model", "works offline"]),
        ("rollout.max_new_tokens=4000", ["context of 128", "rollout.max_new_tokens"]),
        ("prompt.template=no column", ["prompt.template", "{question}"]),
        ("prompt.chat=true", ["no chat template", "prompt.chat: false"]),
        ("model=./absent/model", ["./absent/model", "does not exist"]),
        ("model.context=4000", ["model.context is 4000", "128"]),
        ("reward_files=[absent.py]", ["reward_files: ", "absent.py"]),
        ("stages.cold.batch_size=0", ["stages.cold.batch_size", "got 0"]),
        ("stages.cold.micro_batches=3", ["stages.cold.batch_size", "divisible", "8 for 3"]),
        ("stages.first.init=./nowhere", ["stages.first.init", "./nowhere", "does not exist"]),
        ("stages.first.init=bas", ["stages.first.init", "'bas'", "previous, base or stage:NAME"]),
        ("stages.first.init=stage:colt", ["stages.first.init", "'colt'", "cold"]),
        ("rewards.verifier.weight=.nan", ["weight", "finite number", "nan"]),
        ("optim.max_grad_norm=.inf", ["max_grad_norm", "finite"]),
        (
            "stages.first.until=null",
            ["first.until: a mapping is required", "steps, tokens", "None"],
        ),
        (
            "stages.first.best=eval/accuracy/mean",
            [
                "first.best: a mapping is required with keys among metric, mode, rollback",
                "got 'eval",
            ],
        ),
        (
            "stages.first.until.any={steps: 4}",
            ["first.until.any: a list is required", "'steps': 4"],
        ),
        ("stages.first.kind=rll", ["stages.first: kind: unknown 'rll'", "'rl'", "screen"]),
        (
            "distributions.two.source.answer_pattern=#### (.*)",
            ["a comment in YAML", "answer_pattern='#### (.*)'"],
        ),
        ("stages.first.until.steps=two", ["steps: a whole number is required", "'two'"]),
        ("stages.first.prompt.chat=3", ["prompt.chat: true or false is required", "got 3"]),
        ("mixture=two", ["mixture: a list of names", "from name to share", "got 'two'"]),
        (
            "distributions.two.held_out=most",
            ["two.held_out: a number of questions, a fraction below 1, or all", "'most'"],
        ),
        ("reward_files=[broken.py]", ["broken.py", "SyntaxError", "line 2"]),
        ("reward_files=[raises.py]", ["raises.py", "ZeroDivisionError", "line 1"]),
        ("distributions.two.source={name: 'raises.py:rows'}", ["raises.py", "ZeroDivisionError"]),
        (
            "distributions.two.source={name: 'builder.py:rows'}",
            ["'two'", "KeyError", "builder.py, line 3"],
        ),
        (
            "rewards=[verifier, {name: 'builder.py:needs', as: needs}]",
            ["tiny_tasks.py", "'hint'", "'needs'"],
        ),
    ],
)
def test_mistakes_in_a_recipe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], override: str, words: list[str]
) -> None:
    (tmp_path / "broken.py").write_text("import os\ndef (\n")
    (tmp_path / "raises.py").write_text("1 / 0\n")
    (tmp_path / "builder.py").write_text(
        "def rows():\n    yield {'question': '1+1=', 'answer': '2'}\n    {}['absent']\n"
        "def needs(prompts, completions, hint, **columns):\n    return [0.0] * len(completions)\n"
    )
    for name in ("broken.py", "raises.py", "builder.py"):
        override = override.replace(name, str(tmp_path / name))
    run_dir = tmp_path / "run"
    error = complaint(capsys, "train", recipe_file(tmp_path), override, "--run-dir", run_dir)
    for word in words:
        assert word in error
    assert ".. " not in error  # a sentence within a sentence
    assert not run_dir.exists()


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("", ["rows.jsonl", "empty"]),
        (ROW + '{"question": "1+2=", \n', ["rows.jsonl", "line 2"]),
        (ROW + '{"question": "1+2="}\n', ["rows.jsonl, line 2", "'answer'"]),
        (ROW + '{"question": "1+2=", "answer": "3"}\n', ["rows.jsonl, line 2", "'demonstration'"]),
        (ROW + ROW.replace("1+1", "x+1"), ["'x'", "model.tokenizer.characters"]),
        (ROW + ROW.replace("1+1", "1+" * 80), ["rows.jsonl, line 2", "context of 128"]),
    ],
)
def test_mistakes_in_the_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], rows: str, words: list[str]
) -> None:
    file = recipe_file(tmp_path, distributions=in_source(rows, tmp_path))
    error = complaint(capsys, "train", file, "--run-dir", tmp_path / "run")
    for word in words:
        assert word in error
    assert not (tmp_path / "run").exists()


def test_a_folder_that_is_no_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = complaint(capsys, "train", recipe_file(tmp_path), f"model={tmp_path}")
    assert "no config.json" in error


def test_paths_that_cannot_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = recipe_file(tmp_path)
    occupied = tmp_path / "occupied"
    occupied.write_text("mine")
    error = complaint(capsys, "train", file, "--run-dir", occupied)
    assert f"The run directory {occupied} cannot be made" in error
    assert occupied.read_text() == "mine"
    error = complaint(capsys, "eval", file, "--output", tmp_path / "absent" / "metrics.json")
    assert "--output: there is no folder" in error
    file.write_bytes(b"name: \xff\n")
    assert f"{file} is not UTF-8" in complaint(capsys, "train", file)


def test_a_stage_without_held_out_prompts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It trains; an evaluation that was asked for has nothing to work on, and says so."""
    bare = [f"distributions.{name}.held_out=0" for name in ("two", "three")]
    file = recipe_file(tmp_path, *bare)
    assert _run(["check", str(file)]) == 0
    assert "nothing is held out" in capsys.readouterr().out
    assert _run(["train", str(file), "--run-dir", str(tmp_path / "run")]) == 0
    assert "Nothing is held out for the stage" in complaint(capsys, "eval", file)


def test_a_cold_start_that_is_not_finite_stops(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = recipe_file(tmp_path, "stages.cold.optim.learning_rate=1e30")
    code = _run(["train", str(file), "--run-dir", str(tmp_path / "run")])
    assert code == 1
    assert "is not finite" in capsys.readouterr().err
    assert not list((tmp_path / "run" / "checkpoints").glob("step-000002"))


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped after its third step."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    rlcurric.train(tiny_recipe(), folder, stop_at=3)
    return folder


def fingerprint(folder: Path) -> dict[str, bytes]:
    return {
        str(file): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file() and file.name != "run.lock"
    }


def test_a_run_directory_with_another_recipe(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = fingerprint(run_dir)
    error = complaint(capsys, "train", recipe_file(tmp_path), "seed=9", "--run-dir", run_dir)
    assert "seed: 7 in the run, 9 now" in error
    assert f"--from {run_dir}" in error
    assert fingerprint(run_dir) == before


def test_free_keys_may_change_and_are_recorded(run_dir: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "run"
    shutil.copytree(run_dir, copy)
    changed = tiny_recipe("stages.first.until.steps=3", "run.rollouts.every=2", "description=new")
    rlcurric.train(changed, copy, stop_at=4)
    changes = [e for e in rlcurric.read_run(copy).events if e["event"] == "recipe_changed"]
    assert changes[0]["changes"]["stages.first.until.steps"] == [2, 3]
    assert rlcurric.read_run(copy).metrics[-1]["stage"] == "first"


def test_a_damaged_checkpoint_is_named_with_the_newest_good_one(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    copy = tmp_path / "run"
    shutil.copytree(run_dir, copy)
    file = copy / "checkpoints" / "step-000003" / "model" / "model.safetensors"
    contents = bytearray(file.read_bytes())
    contents[-5] ^= 1
    file.write_bytes(contents)
    before = fingerprint(copy)
    fork = ["--from", f"{copy}:3", "--run-dir", tmp_path / "fork"]
    error = complaint(capsys, "train", recipe_file(tmp_path), *fork)
    assert str(file) in error
    assert "newest good checkpoint" in error and "step-000002" in error
    assert fingerprint(copy) == before
    assert rlcurric.train(tiny_recipe(), copy, stop_at=3).step == 3  # from step 2
    assert (copy / "checkpoints" / "step-000003.damaged").is_dir()


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("absent", ["--from: absent holds no checkpoint"]),
        ("RUN:99", ["no checkpoint of step 99", "There are: 1, 2, 3"]),
        ("RUN:frist", ["no stage 'frist'", "first"]),
    ],
)
def test_forks_from_what_is_not_there(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], source: str, words: list[str]
) -> None:
    source = source.replace("RUN", str(run_dir))
    error = complaint(
        capsys, "train", recipe_file(tmp_path), "--from", source, "--run-dir", tmp_path / "new"
    )
    for word in words:
        assert word in error


def test_a_fork_needs_a_new_directory(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = complaint(
        capsys, "train", recipe_file(tmp_path), "--from", run_dir, "--run-dir", run_dir
    )
    assert "holds one already" in error


def test_a_run_in_use_is_refused_and_a_signal_stops_it_with_a_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second process exits 2 and names the first; SIGTERM makes the first exit 75; then the run goes on."""
    file = recipe_file(tmp_path, "stages.second.until.steps=400")
    run_dir = tmp_path / "run"
    command = [sys.executable, "-m", "rlcurric", "train", str(file), "--run-dir", str(run_dir)]
    first = subprocess.Popen(command, cwd=HERE.parent, stdout=subprocess.PIPE, text=True)
    log = run_dir / "metrics.jsonl"
    while not (log.exists() and log.read_bytes().count(b"\n") > 4):
        assert first.poll() is None
        time.sleep(0.02)
    error = complaint(capsys, "train", file, "--run-dir", run_dir)
    assert f'"pid": {first.pid}' in error and "in use" in error
    first.send_signal(signal.SIGTERM)
    assert first.wait(timeout=60) == 75
    reached = rlcurric.read_run(run_dir).metrics[-1]["step"]
    assert (run_dir / "checkpoints" / f"step-{reached:06d}" / "manifest.json").is_file()
    (run_dir / "stop").touch()  # of an earlier stop: does not stop the next start
    assert rlcurric.train(file, run_dir, stop_at=reached + 1).step == reached + 1


def test_the_stop_file_stops_a_run(tmp_path: Path) -> None:
    file = recipe_file(tmp_path, "stages.second.until.steps=400")
    run_dir = tmp_path / "run"
    command = [sys.executable, "-m", "rlcurric", "train", str(file), "--run-dir", str(run_dir)]
    child = subprocess.Popen(command, cwd=HERE.parent, stdout=subprocess.PIPE, text=True)
    log = run_dir / "metrics.jsonl"
    while not (log.exists() and log.read_bytes().count(b"\n") > 4):
        assert child.poll() is None
        time.sleep(0.02)
    (run_dir / "stop").touch()
    assert child.wait(timeout=60) == 75
    stopped = [event for event in rlcurric.read_run(run_dir).events if event["event"] == "stopped"]
    assert stopped[0]["reason"] == "the file stop"


BAD_REWARDS = """
import os, time
import rlcurric

@rlcurric.reward("bad", correctness=True)
def bad(prompts, completions, **columns):
    \"\"\"Does what its name says.\"\"\"
    if os.getpid() and {how!r} == "raises":
        raise RuntimeError("the grader is broken")
    if {how!r} == "hangs":
        time.sleep(1000)
    if {how!r} == "wrong length":
        return [1.0] * (len(completions) + 1)
    if {how!r} == "nan":
        return [float("nan")] * len(completions)
    os._exit(3)
"""


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("raises", ["error: bad: RuntimeError: the grader is broken"]),
        ("hangs", ["timeout: bad: no answer within 0.2 s"]),
        (
            "wrong length",
            [
                "error: bad: ScoreCountError: a list with one score for each completion",
                "got 5 for 4",
            ],
        ),
        ("nan", ["error: bad: the correctness reward returned None or NaN"]),
        ("dies", ["error: bad: the worker died 3 times"]),
    ],
)
def test_a_bad_reward_stops_the_run_with_its_cause(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], how: str, words: list[str]
) -> None:
    (tmp_path / "bad.py").write_text(
        BAD_REWARDS.format(how=how).replace('"bad"', f'"bad_{how[0]}"')
    )
    file = recipe_file(tmp_path, "stages.cold.evaluation.at_end=false")
    overrides = [
        f"rewards=[{{name: bad_{how[0]}, as: bad}}]",
        f"reward_files=[{tmp_path}/bad.py]",
        "grading={deadline: 0.2, max_failures: 0.1, window: 40, workers: 2}",
    ]
    code = _run(["train", str(file), *overrides, "--run-dir", str(tmp_path / "run")])
    error = capsys.readouterr().err
    assert code == 1
    assert "graders failed for" in error
    for word in words:
        assert word in error
    assert (
        json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 2
    )


def test_failures_within_the_budget_do_not_stop_the_run(tmp_path: Path) -> None:
    """A component that fails now and then: the run goes on, the samples are counted and left out."""
    (tmp_path / "flaky.py").write_text(
        "import rlcurric\n"
        "@rlcurric.reward('flaky')\n"
        "def flaky(prompts, completions, **columns):\n"
        "    '''Fails on some texts.'''\n"
        "    if any('7' in text for text in completions):\n"
        "        raise RuntimeError('no sevens')\n"
        "    return [0.0] * len(completions)\n"
    )
    recipe = tiny_recipe(
        f"reward_files=[{tmp_path}/flaky.py]",
        "rewards=[verifier, {name: format, weight: 0.3}, flaky]",
        "grading.max_failures=0.9",
        "evaluation.at_end=false",
    )
    rlcurric.train(recipe, tmp_path / "run")
    run = rlcurric.read_run(tmp_path / "run")
    failed = sum(row.get("curriculum/samples/failed", 0) for row in run.metrics)
    told = [event for event in run.events if event["event"] == "grader_failures"]
    assert 0 < failed <= sum(event["samples"] for event in told)
    assert "no sevens" in json.dumps(told)
    rows = run.rollouts().to_pylist()
    assert rows and not any("7" in row["completion"] for row in rows)
