"""Stages that write for later ones: rejection and its rows, screening and its pass rates."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rlcurric
from rlcurric.data.corruptions import corrupted
from rlcurric.errors import RunError
from rlcurric.recipe.schema import Recipe
from rlcurric.recipe.stages import RejectionStage
from rlcurric.report.difference import first_difference
from rlcurric.report.tables import read_run
from rlcurric.train import sampler
from rlcurric.train.rejection import keep
from rlcurric.train.reporter import Silent
from rlcurric.types import GroupId, Rollout, SampleOutcome, Status
from tests.tiny import TINY
from tests.tiny_kinds import DPO, REJECTION, SCREEN, recipe

ROOT = Path(__file__).parent.parent
COLD = {**TINY["stages"][0], "until": {"steps": 3}}
AGAIN = {**COLD, "name": "again", "mixture": ["kept"], "until": {"steps": 2}}
RL = TINY["stages"][1]


def sifting(**changes: Any) -> Recipe:
    """A cold start, rejection sampling from it, and SFT on what was kept."""
    return recipe(COLD, {**REJECTION, **changes}, AGAIN)


@pytest.fixture(scope="module", autouse=True)
def small_rounds() -> Any:
    """Several rounds for 62 prompts."""
    before, sampler.ROLLOUTS_PER_ROUND = sampler.ROLLOUTS_PER_ROUND, 64
    yield
    sampler.ROLLOUTS_PER_ROUND = before


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, small_rounds: None) -> Path:
    run_dir = tmp_path_factory.mktemp("sifted") / "run"
    assert rlcurric.train(sifting(), run_dir).status == "done"
    return run_dir


def rows_of(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "datasets/sift.jsonl").read_text().splitlines()]


def event(run_dir: Path, kind: str) -> dict[str, Any]:
    (found,) = [row for row in read_run(run_dir).events if row["event"] == kind]
    return found


def test_rows_are_written_with_where_they_come_from(whole: Path) -> None:
    rows, told = rows_of(whole), event(whole, "dataset_written")
    assert told["kept"] == len(rows) > 20
    assert told["prompts"] == 62
    assert told["tokens"] > 62 * 4
    for row in rows:
        assert row["provenance"]["policy_step"] == 3
        assert row["provenance"]["reward"] >= -1
        assert row["demonstration"]
        assert row["question"].endswith("=")
    places = [(row["provenance"]["uid"], row["provenance"]["sample"]) for row in rows]
    assert len(set(places)) == len(places)
    assert not list((whole / "datasets").glob("*.parts.jsonl"))
    state = json.loads((whole / "checkpoints/step-000005/state.json").read_text())
    assert state["written"] == {"datasets/sift.jsonl": told["sha256"]}
    assert state["generated_tokens"] == told["tokens"]


def test_a_later_stage_trains_on_them(whole: Path) -> None:
    """And is evaluated on what the writer's distributions hold out, under their names."""
    last = read_run(whole).metrics[-1]
    assert last["stage"] == "again"
    assert last["loss/sft/mean"] > 0
    assert {"eval/accuracy/two", "eval/accuracy/three"} <= set(last)
    assert "eval/accuracy/kept" not in last


class StopsIn(Silent):
    """Asks for a stop in a phase that begins so, the `nth` time."""

    def __init__(self, run_dir: Path, phase: str, nth: int) -> None:
        self.file, self.wanted, self.left = run_dir / "stop", phase, nth

    def phase(self, name: str) -> None:
        if name.startswith(self.wanted):
            self.left -= 1
            if self.left == 0:
                self.file.touch()


def test_a_stop_between_two_rounds_changes_nothing(whole: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    stopped = rlcurric.train(sifting(), run_dir, reporter=StopsIn(run_dir, "sampling", 2))
    assert (stopped.status, stopped.step) == ("stopped", 3)
    assert not (run_dir / "datasets/sift.jsonl").exists()
    parts = (run_dir / "datasets/sift.parts.jsonl").read_bytes()
    assert parts.count(b"\n") == 3  # the head, and two rounds
    (run_dir / "datasets/sift.parts.jsonl").write_bytes(parts + b'{"rows": "half a li')
    assert rlcurric.train(sifting(), run_dir).status == "done"
    assert rows_of(run_dir) == rows_of(whole)
    assert first_difference(whole, run_dir) is None


PROGRAM = """
import sys, time
import rlcurric
from rlcurric.train import sampler
from rlcurric.train.reporter import Silent
from tests.test_written_rows import sifting
class Slow(Silent):
    def phase(self, name):
        if name.startswith("sampling"):
            time.sleep(0.5)  # so that the kill comes between
sampler.ROLLOUTS_PER_ROUND = 64
rlcurric.train(sifting(), sys.argv[1], reporter=Slow())
"""


@pytest.mark.slow
def test_kill_9_loses_one_round_at_most(whole: Path, tmp_path: Path) -> None:
    run_dir, environment = tmp_path / "run", {**os.environ, "OMP_NUM_THREADS": "1"}
    parts = run_dir / "datasets/sift.parts.jsonl"
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(run_dir)], cwd=ROOT, env=environment
    )
    while process.poll() is None and not (parts.exists() and parts.read_bytes().count(b"\n") >= 3):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run was over before it was killed"
    known = parts.read_bytes().count(b"\n")
    assert known >= 3
    assert rlcurric.train(sifting(), run_dir).status == "done"
    assert rows_of(run_dir) == rows_of(whole)
    assert first_difference(whole, run_dir) is None


def test_a_file_that_was_changed_is_refused(whole: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    rlcurric.train(sifting(), run_dir, stop_at=4)
    file = run_dir / "datasets/sift.jsonl"
    file.write_text(file.read_text().replace("<think>", "<answer>", 1))
    with pytest.raises(ValueError, match=r"sift.jsonl is not what the run wrote"):
        rlcurric.train(sifting(), run_dir)


def test_a_fork_takes_the_rows_of_its_ancestor(whole: Path, tmp_path: Path) -> None:
    ancestor, fork = tmp_path / "ancestor", tmp_path / "fork"
    shutil.copytree(whole, ancestor)
    rlcurric.train(sifting(), fork, start_from=f"{ancestor}:4")
    assert rows_of(fork) == rows_of(whole)
    assert (
        read_run(fork).metrics[-1]["loss/sft/mean"] == read_run(whole).metrics[-1]["loss/sft/mean"]
    )
    (ancestor / "datasets/sift.jsonl").unlink()
    with pytest.raises(
        ValueError, match=r"datasets/sift.jsonl, which an earlier stage wrote, is missing"
    ):
        rlcurric.train(sifting(), tmp_path / "other", start_from=f"{ancestor}:4")


def test_pairs_with_broken_formats_are_learned(tmp_path: Path) -> None:
    """The whole way of a preference cold start: sample, break the format of what was kept, prefer the rest."""
    written = {**REJECTION, "write": "pairs", "rejected": "corrupted"}
    prefer = {**DPO, "mixture": ["kept"], "until": {"steps": 2}}
    cold = {**COLD, "until": {"steps": 12}}
    rlcurric.train(recipe(cold, written, prefer), tmp_path)
    for row in rows_of(tmp_path):
        assert row["chosen"] != row["rejected"]
        assert "corruption" in row["provenance"]
        assert "demonstration" not in row
    assert read_run(tmp_path).metrics[-1]["dpo/margin/mean"] > 0


def test_nothing_kept_is_told_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(
        RunError, match=r"stage sift kept nothing of 62 prompts.*Raise stages.sift.samples"
    ):
        rlcurric.train(recipe({**REJECTION, "min_reward": 5.0}, AGAIN), tmp_path)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([AGAIN, REJECTION], "must come before 'again'"),
        ([{**REJECTION, "write": "pairs"}, AGAIN], "set stages.sift.write: demonstrations"),
        ([REJECTION, {**DPO, "mixture": ["kept"]}], "set stages.sift.write: pairs"),
        ([{**COLD, "name": "sift"}, AGAIN], "no stage 'sift' of kind rejection"),
        ([{**REJECTION, "keep": 5}, AGAIN], "sift.keep must be at most its samples, got 5 of 4"),
        (
            [SCREEN, {**RL, "curriculum": {"warm_start": "look"}}],
            "first.curriculum.warm_start: 'look' is the name of a stage; to name one, write 'stage:look'",
        ),
    ],
)
def test_readers_are_checked_without_the_file(stages: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recipe(*stages)


def sample(
    number: int, reward: float, correct: float, length: int = 3, **more: Any
) -> SampleOutcome:
    given = {"status": Status.SCORED, "truncated": False, **more}
    return SampleOutcome(number, reward, correct, length=length, policy_version=0, **given)


def stage(**changes: Any) -> RejectionStage:
    return RejectionStage(name="sift", mixture={"two": 1.0}, **changes)


def kept(stage: RejectionStage, texts: str, *samples: SampleOutcome) -> list[int]:
    group, none = GroupId("sift", 1, 0), np.zeros(0)
    rollouts = [
        Rollout(group, number, none, none, none, "stop", text) for number, text in enumerate(texts)
    ]
    return [one.sample for one in keep(stage, samples, rollouts)]


def test_what_is_kept_of_a_prompt() -> None:
    """Correct ones, the best first; no text twice; nothing that was cut off or that no grader could judge."""
    samples = (
        sample(0, 1.0, 1.0, length=9),
        sample(1, 1.2, 1.0),
        sample(2, 2.0, 0.0),
        sample(3, 1.0, 1.0, length=2),
        sample(4, 9.0, 1.0, truncated=True),
        sample(5, 9.0, 1.0, status=Status.TIMEOUT),
    )
    assert kept(stage(keep=8), "abcdef", *samples) == [1, 0, 3]
    assert kept(stage(keep=2), "abcdef", *samples) == [1, 0]
    assert kept(stage(keep=8, shortest=True), "abcdef", *samples) == [1, 3, 0]
    assert kept(stage(keep=8, min_reward=1.1), "abcdef", *samples) == [2, 1]
    assert kept(stage(keep=8), "aacadd", *samples) == [1]


TEXT = "<think>1+2 is 3</think><answer>3</answer>"


def test_a_corruption_breaks_the_tags_and_keeps_the_rest() -> None:
    found = {key: corrupted(TEXT, key) for key in range(200)}
    assert found == {key: corrupted(TEXT, key) for key in range(200)}
    rules = {}
    for broken in found.values():
        assert broken is not None
        text, rule = broken
        rules.setdefault(rule, set()).add(text)
        assert text != TEXT
        bare = text
        for tag in ("<think>", "</think>", "<answer>", "</answer>"):
            bare = bare.replace(tag, "")
        assert bare == "1+2 is 33"
    assert rules["answer_unmarked"] == {"<think>1+2 is 3</think>3"}
    assert "<think>1+2 </think>is 3<answer>3</answer>" in rules["closed_early"]
    assert "<think>1+2 is 3<answer>3</answer>" in rules["left_out"]
    assert "<think><think>1+2 is 3</think><answer>3</answer>" in rules["doubled"]
    assert "<think>1+2 is 3<answer></think>3</answer>" in rules["moved"]
    assert corrupted("so it is \\boxed{\\frac{1}{2}}.", 7) == (
        "so it is \\frac{1}{2}.",
        "answer_unmarked",
    )
    assert corrupted("no format at all", 7) is None
    torn = {corrupted("<a>12</b>34</a>", key) for key in range(200)}
    assert ("<a>12</a></b>34", "closed_early") in torn


def screening(cache: Path, *later: dict[str, Any], **changes: Any) -> Recipe:
    return recipe(COLD, {**SCREEN, "cache": str(cache), **changes}, *later)


def test_pass_rates_come_from_the_cache_the_next_time(tmp_path: Path) -> None:
    """Equal lines without a sample; other sampling measures anew. An RL stage begins with them, its pool filter too."""
    cache, first, second = tmp_path / "cache", tmp_path / "first", tmp_path / "second"
    curriculum = {**RL["curriculum"], "warm_start": "stage:look", "scorer": "mopps"}
    trained = {
        **RL,
        "curriculum": {**curriculum, "pool": {"name": "screened", "min_correct": 1, "samples": 4}},
    }
    rlcurric.train(screening(cache), first)
    measured = event(first, "screened")
    assert (measured["measured"], measured["from_cache"]) == (62, 0)
    assert measured["tokens"] > 0
    rlcurric.train(screening(cache, trained), second)
    by_stage = {row["stage"]: row for row in read_run(second).events if row["event"] == "screened"}
    assert (by_stage["look"]["measured"], by_stage["look"]["from_cache"]) == (0, 62)
    # Tokens count alike, so that a schedule on them does not depend on the cache.
    assert by_stage["look"]["tokens"] == measured["tokens"]
    assert (by_stage["look"]["tokens_from_cache"], measured["tokens_from_cache"]) == (
        measured["tokens"],
        0,
    )
    (done,) = (row for row in read_run(second).metrics if row["step"] == 4)
    assert done["tokens/total/sum"] == measured["tokens"] + done["tokens/generated/sum"]
    assert by_stage["first"]["tokens"] == 0
    lines = (first / "screening/look.jsonl").read_text()
    assert (second / "screening/look.jsonl").read_text() == lines
    assert by_stage["look"]["never_solved"] == measured["never_solved"]
    learned = [row for row in read_run(second).decisions if row["kind"] == "measured"]
    assert learned[0]["n"] == 62
    # Forked in the middle of the RL stage under another curriculum, which begins anew: with what was measured.
    other = {**trained, "curriculum": {**trained["curriculum"], "prompts_per_step": 2}}
    fork = tmp_path / "fork"
    assert rlcurric.train(screening(cache, other), fork, start_from=f"{second}:4").step == 5
    assert (fork / "screening/look.jsonl").read_text() == lines
    assert [row["n"] for row in read_run(fork).decisions if row["kind"] == "measured"] == [62]
    rlcurric.train(screening(cache, rollout={"temperature": 0.5}), tmp_path / "third")
    assert event(tmp_path / "third", "screened")["measured"] == 62


def test_a_screening_that_was_stopped_goes_on(tmp_path: Path) -> None:
    whole, run_dir = tmp_path / "whole", tmp_path / "run"
    rlcurric.train(screening(tmp_path / "a"), whole)
    stops = StopsIn(run_dir, "screening", 2)
    assert rlcurric.train(screening(tmp_path / "b"), run_dir, reporter=stops).status == "stopped"
    assert rlcurric.train(screening(tmp_path / "b"), run_dir).status == "done"
    names = ("screening/look.jsonl", "screening/look.summary.json")
    for name in names:
        ours, theirs = ((folder / name).read_text() for folder in (run_dir, whole))
        if name.endswith(".jsonl"):
            assert ours == theirs
        else:
            same = ("sha256", "measured", "from_cache", "tokens", "never_solved")
            assert [json.loads(ours)[key] for key in same] == [
                json.loads(theirs)[key] for key in same
            ]


RANKS = """
import sys
import rlcurric
from tests.test_written_rows import on_two_ranks
rlcurric.train(on_two_ranks(sys.argv[3]), sys.argv[1], stop_at=int(sys.argv[2]) or None)
"""


def on_two_ranks(cache: str) -> Recipe:
    """Every kind that is not RL."""
    written = {**REJECTION, "write": "pairs", "rejected": "corrupted"}
    prefer = {**DPO, "mixture": ["kept"], "nll_coef": 0.2, "until": {"steps": 3}}
    cold = {**COLD, "until": {"steps": 12}, "evaluation": {"at_end": False}}
    return recipe(cold, written, {**SCREEN, "cache": cache}, prefer)


@pytest.mark.slow
def test_two_ranks_write_and_train_what_one_does(tmp_path: Path) -> None:
    """The same rows but for the last bits of the weights that sample them; stopped in the middle, bit for bit."""
    configuration = str(ROOT / "launch" / "cpu_2_ranks.yaml")
    program = tmp_path / "program.py"
    program.write_text(RANKS)

    def launch(run_dir: Path, stop_at: int) -> None:
        launcher = [sys.executable, "-m", "accelerate.commands.launch"]
        arguments = [
            str(program),
            str(run_dir),
            str(stop_at),
            str(tmp_path / f"cache-{run_dir.name}"),
        ]
        done = subprocess.run(
            [*launcher, "--config_file", configuration, *arguments],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr[-3000:]

    whole, run_dir = tmp_path / "whole", tmp_path / "run"
    launch(whole, 0)
    launch(run_dir, 13)
    launch(run_dir, 0)
    assert rows_of(run_dir) == rows_of(whole)
    assert first_difference(whole, run_dir) is None
    rlcurric.train(on_two_ranks(str(tmp_path / "single")), tmp_path / "single")
    one, two = (read_run(folder).metrics for folder in (tmp_path / "single", whole))
    assert len(one) == len(two) == 15
    for key in ("loss/dpo/mean", "loss/nll/mean"):
        assert two[-3][key] == pytest.approx(one[-3][key], rel=0.05), key
    assert two[-3]["dpo/margin/mean"] == pytest.approx(0, abs=1e-5)
    assert abs(two[-1]["dpo/margin/mean"]) > 1e-3, "nothing was trained"
    told = event(whole, "screened")
    assert told["measured"] == told["prompts"] == 62
