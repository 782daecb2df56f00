"""`rlcurric rewards test`, and what of it `check` does: rewards tried without a model."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from rlcurric.build.trial import (
    WRITINGS,
    Report,
    Trial,
    _others,
    affected,
    sample,
    try_rewards,
    written,
)
from rlcurric.cli import _run
from rlcurric.cli.live import Doing
from rlcurric.data import Place, Row
from rlcurric.recipe.load import dump
from rlcurric.rewards.protocol import get_reward
from rlcurric.rewards.rubric import Component
from rlcurric.rewards.runner import RewardRunner
from tests.endpoints import Chat, Said, serving
from tests.tiny import HERE, tiny_recipe

REWARDS = HERE / "trial_rewards.py"
FEW = ["--rows", "4", "--workers", "1"]


def tried(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    """What `rewards test` prints; it must end with that code."""
    found = _run(["rewards", "test", *arguments])
    printed = capsys.readouterr()
    assert found == code, printed.out + printed.err
    return printed.err if code == 2 else " ".join(printed.out.split())


def mine(name: str) -> str:
    return f"{REWARDS}:{name}"


def test_a_judge_is_timed_before_its_verdicts_are_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two rows: six texts are judged, and asked for once; nothing is asked of empty ones."""
    with serving(Chat(lambda _: Said('{"score": 5}', seconds=0.1))) as chat:
        arguments = [f"url={chat.url}", "model=m", f"cache={tmp_path}", "--rows", "2"]
        printed = tried(capsys, "llm_judge", *arguments, "--workers", "1")
        assert len(chat.heard) == 6
    found = re.search(r"llm_judge │ service │ sample │ 8 │ (\S+) │", printed)
    assert found is not None and float(found[1]) > 100
    assert "6 scored, 2 unparseable" in printed


def row(k: int, answer: object) -> Row:
    return Row(k, k, {"question": f"{k}?", "answer": answer}, Place("row", k))


def test_a_sound_reward_passes(capsys: pytest.CaptureFixture[str]) -> None:
    printed = tried(capsys, mine("p_sound"), *FEW)
    assert "rows │ 4/4 │ 4/4 │ 4/4 │ 4/4 │" in printed
    assert "p_sound │ worker │ sample │ 16 │" in printed
    assert "16 completions: 16 scored" in printed
    for way in ("a second time", "in another order", "by another number of workers"):
        assert way in printed
    assert printed.endswith("passed")


def test_gold_answers_are_written_as_the_reward_reads_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    printed = tried(capsys, mine("p_fenced"), *FEW)
    assert r"gold answers of rows are written '```python\n{answer}\n```'" in printed
    printed = tried(capsys, mine("p_fenced"), *FEW, "--gold", "it is {answer}", code=1)
    assert "rows │ 0/4 │ 4/4 │ 4/4 │ 4/4 │" in printed
    assert "made-up sum 1: the gold completion scores 0.0; the answer is '12'" in printed


@pytest.fixture(scope="module")
def pools() -> Iterator[list[RewardRunner]]:
    """One worker, and two."""
    rewards = [get_reward(mine("p_sound"))]
    with RewardRunner(rewards, 1) as one, RewardRunner(rewards, 2) as two:
        yield [one, two]


def report(name: str, pools: list[RewardRunner], writing: str | None = None) -> Report:
    """Of one reward on four rows."""
    reward = get_reward(mine(name))
    correct = name if reward.correctness else None
    trial = Trial((Component(name, reward, name),), correct, {}, deadline=0.5, writing=writing)
    try:
        return try_rewards(trial, {"rows": [row(k, f"{k}{k}") for k in range(1, 5)]}, pools)
    finally:
        trial.host.close()


@pytest.mark.parametrize(
    ("name", "count", "wanted"),
    [
        ("p_never", 4, "  row 1: the gold completion scores 0.0; the answer is '11'"),
        ("p_always", 9, "  row 1: the empty completion scores 1.0; the answer is '11'"),
        (
            *("p_any_answer", 1),
            "  rows: another row's different answer scores 0.5 or more for 4 of 4 rows",
        ),
        ("p_moody", 3, "  judged a second time, 16 of 16 completions got other scores; the first"),
        (
            *("p_neighbours", 1),
            "  judged in another order, 16 of 16 completions got other scores; the first",
        ),
    ],
)
def test_a_reward_that_is_not_sound_fails(
    pools: list[RewardRunner], name: str, count: int, wanted: str
) -> None:
    problems = report(name, pools).problems
    assert len(problems) == count
    assert any(one.line.startswith(wanted) for one in problems), problems


def test_failures_are_told_by_type(pools: list[RewardRunner]) -> None:
    found = report("p_broken", pools, "another {answer}")
    assert found.statuses == {"error": 12, "timeout": 4}
    line = 1 + REWARDS.read_text().splitlines().index('            raise KeyError("nothing here")')
    assert {cause: len(keys) for cause, keys in found.failures.items()} == {
        f"error: p_broken: KeyError: 'nothing here' (trial_rewards.py:{line})": 4,
        "timeout: p_broken: no answer within 0.5 s": 4,
        "error: p_broken: the worker died 3 times over this sample": 8,
    }
    assert found.unlike == () and len(found.compared) == 3
    lines = [one.line for one in found.problems]
    assert "  4 x timeout: p_broken: no answer within 0.5 s" in lines
    assert affected(found.problems) == 16


def test_a_reward_that_hangs_is_timed_on_a_few_calls(pools: list[RewardRunner]) -> None:
    found = report("p_broken", pools, "another {answer}")
    assert found.untimed == ("p_broken",) and len(found.seconds["p_broken"]) == 11


@pytest.mark.parametrize("name", ["p_moody", "p_moody_shaper"])
def test_other_scores_are_shown_without_what_the_trial_added(
    pools: list[RewardRunner], name: str
) -> None:
    lines = [one.line for one in report(name, pools).problems]
    assert re.search(rf": {name} [\d.]+ \(scored\), then {name} [\d.]+ \(scored\)$", lines[0])


def test_a_correctness_beyond_one_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    printed = tried(capsys, mine("p_double"), *FEW, code=1)
    assert "4 x error: p_double: correctness must lie in [0, 1], got 2" in printed
    assert "FAILED: 4 of 16 completions are not judged as they should be:" in printed


def test_every_completion_that_fails_is_counted_once(capsys: pytest.CaptureFixture[str]) -> None:
    printed = tried(capsys, mine("p_raises"), "--rows", "2", "--workers", "1", code=1)
    assert "FAILED: 8 of 8 completions are not judged as they should be:" in printed
    assert re.search(r"ZeroDivisionError: division by zero \(trial_rewards.py:\d+\)", printed)


def test_what_goes_on_is_told_where_it_takes_long() -> None:
    out = StringIO()
    with Doing(Console(file=out, width=80), every=0.02) as doing:
        doing("judging 4 completions")
        time.sleep(0.2)
    assert "judging 4 completions, 0:00 so far" in out.getvalue()


@pytest.mark.parametrize(("name", "calls"), [("p_shaper", 4), ("p_batch", 1)])
def test_a_shaper_is_told_what_is_right(pools: list[RewardRunner], name: str, calls: int) -> None:
    found = report(name, pools)
    assert found.problems == [] and found.golds == {}
    assert len(found.seconds[name]) == calls
    assert found.statuses == {"scored": 16}


def test_a_function_written_for_trl_is_held_to_golds_if_asked(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert "none is held" in tried(capsys, mine("like_trl"), *FEW)
    assert "like_trl" in tried(
        capsys, mine("like_trl"), *FEW, "--correctness", "--gold", "={answer}"
    )


def test_a_shipped_reward_takes_arguments_and_rows_of_the_users(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tmp_path / "rows.jsonl"
    lines = [{"question": f"{k}?", "answer": f"\\frac{{{k}}}{{7}}"} for k in range(1, 4)]
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
    printed = tried(capsys, "verifier", "numbers=false", "--data", str(rows))
    assert "rows │ 3/3 │ 3/3 │ 3/3 │ 3/3 │" in printed
    assert "9 scored, 3 unparseable" in printed


LONG = [
    {"Body": f"{k} and {k}.", "Q": "Sum, or what?", "A": f"so #### {2 * k}"} for k in range(1, 4)
]


def named(tmp_path: Path, rows: list[dict[str, str]]) -> list[str]:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ["--data", str(file), "--columns", "question={Body}, {Q},answer=A", "--workers", "1"]


def test_columns_and_the_answer_are_named_as_in_a_source(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = named(tmp_path, LONG)
    assert "rows │ 3/3 │" in tried(capsys, "exact", *given, "--answer-pattern", "#### (.*)")
    nothing = [*LONG, {"Body": "x", "Q": "?", "A": "none"}]
    given = [*named(tmp_path, nothing), "--answer-pattern", "#### (.*)"]
    error = tried(capsys, "exact", *given, code=2)
    assert "rows.jsonl, line 4" in error and "Without a recipe: --answer-pattern, --drop" in error
    assert "rows │ 3/3 │" in tried(capsys, "exact", *given, "--drop-unanswered")


def test_answers_that_hold_hashes_lead_to_the_pattern(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = tried(capsys, mine("p_never"), *named(tmp_path, LONG), code=1)
    assert "--answer-pattern '#### (.*)' takes what stands behind it" in printed


def test_a_column_of_another_name_leads_to_the_option(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = named(tmp_path, LONG)[:2]
    error = tried(capsys, "exact", *given, code=2)
    assert "no column 'question'" in error and "Without a recipe: --columns, as in" in error


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(dump(tiny_recipe())))
    return str(file)


def test_a_recipe_is_tried_with_its_own_rows(
    recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = tried(capsys, recipe, *FEW)
    assert printed.count("stage ") == 1  # all three stages grade alike
    assert "two │ 4/4 │ 4/4 │" in printed and "three │ 4/4 │ 4/4 │" in printed
    for name in ("verifier", "format", "length_budget"):
        assert f"{name} │" in printed


def test_a_recipe_may_be_changed(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    other = f"stages.second.rewards=['{mine('p_never')}']"
    printed = tried(capsys, recipe, other, *FEW, code=1)
    assert "stage cold" in printed and "stage second" in printed
    assert re.search(r"FAILED: 8 of \d+ completions", printed)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["verifer"], "No reward and no recipe 'verifer'. Did you mean 'verifier'?"),
        (["absent.yaml"], "No recipe file 'absent.yaml'"),
        (["absent.py:f"], "no reward file"),
        ([f"{REWARDS}:absent"], "has no reward 'absent'"),
        (["length_budget", "tagret=3"], "length_budget: unknown argument 'tagret'. Did you mean"),
        (["length_budget", "target=much"], "length_budget.target: Input should be a valid number"),
        (["length_budget", "target"], "written KEY=VALUE, got 'target'"),
        (["verifier", "--gold", "x"], "--gold: a text with {answer} in it is required, got 'x'"),
        (["verifier", "--data", "absent.jsonl"], "absent.jsonl"),
        (["verifier", "--rows", "0"], "--rows"),
        (["verifier", "--columns", "answer=A"], "are for the rows of --data"),
        (["verifier", "--data", "x.jsonl", "--columns", "answer"], "written OURS=THEIRS,..., got"),
        (["verifier", "--data", "x.jsonl", "--answer-pattern", "("], "no regular expression"),
        (["demo", "--columns", "answer=A"], "--columns is for a reward; the recipe demo"),
        (["demo", "--data", "x.jsonl"], "--data is for a reward; the recipe demo"),
        (["llm_judge"], "llm_judge: url: the base address of an endpoint is required"),
        (["reward_model"], "reward_model: reward_model needs path"),
        ([f"{REWARDS}:p_needs"], "no column 'tests', which the reward 'p_needs' needs"),
    ],
)
def test_wrong_input_is_told_in_one_message(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    error = tried(capsys, *arguments, code=2)
    assert message in error and "Traceback" not in error
    assert "stages.rewards" not in error


def test_check_tries_every_reward_of_a_recipe(
    recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = yaml.safe_load(Path(recipe).read_text())
    raw["stages"][2]["rewards"].append({"name": mine("p_moody"), "weight": 0.1})
    Path(recipe).write_text(yaml.safe_dump(raw))
    assert _run(["check", recipe]) == 2
    assert "judged a second time" in capsys.readouterr().err


def test_check_counts_completions(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    other = f"stages.second.rewards=[verifier, '{mine('p_raises')}']"
    assert _run(["check", recipe, other]) == 2
    error = capsys.readouterr().err
    count = re.search(r"(\d+) completions are not graded as they should be:", error)
    assert count is not None and f"  {count[1]} x error: p_raises: ZeroDivisionError" in error


def test_a_misspelt_name_is_told_before_torch_is_loaded(recipe: str) -> None:
    for change, message in (
        ("stages.first.rewards=[verifer]", "Unknown reward 'verifer'"),
        (
            "stages.first.rewards=[verifier,{name: length_budget, tagret: 3}]",
            "unknown argument 'tagret'",
        ),
    ):
        code = (
            "import sys; from rlcurric.cli import _run; code = _run(sys.argv[1:]);"
            "heavy = {'torch', 'transformers'} & set(sys.modules); sys.exit(code if not heavy else 3)"
        )
        command = [sys.executable, "-c", code, "check", recipe, change]
        found = subprocess.run(command, capture_output=True, text=True)
        assert found.returncode == 2 and message in found.stderr, found.stderr


def test_check_calls_no_service(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    raw = yaml.safe_load(Path(recipe).read_text())
    judge = {"name": "llm_judge", "url": "http://127.0.0.1:9/v1", "model": "m", "cache": ""}
    raw["stages"][2]["rewards"].append(judge)
    Path(recipe).write_text(yaml.safe_dump(raw))
    assert _run(["check", recipe]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "the reward llm_judge is a service and is not called here" in printed


def test_the_answer_of_another_row_differs() -> None:
    answers = ["a", "a", "b", None, "a", 1, "1"]
    rows = [row(k, answer) for k, answer in enumerate(answers)]
    assert _others(rows) == ["b", "b", "a", None, 1, "a", "a"]
    assert _others([row(0, "a"), row(1, "a")]) == [None, None]
    assert _others([]) == []


def test_a_sample_of_rows_is_spread_over_all_of_them() -> None:
    rows = [row(k, k) for k in range(10)]
    assert [one.uid for one in sample(rows, 4)] == [0, 3, 6, 9]
    assert [one.uid for one in sample(rows, 7)] == [0, 1, 3, 4, 6, 7, 9]
    assert [one.uid for one in sample(rows, 1)] == [0]
    assert list(sample(rows, 10)) == rows == list(sample(rows, 99))


def test_an_answer_is_written_as_it_is() -> None:
    assert [written("{x}", one) for one in WRITINGS] == [
        "<answer>{x}</answer>",
        "{x}",
        "\\boxed{{x}}",
        "```python\n{x}\n```",
    ]
