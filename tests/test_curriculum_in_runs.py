"""Curricula as recipes spell them, in runs of seconds: what they promise is in the logs, and stopping changes nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

import rlcurric
from rlcurric.curriculum.decisions import verify
from rlcurric.curriculum.measured import append_measured, read_measured
from rlcurric.recipe.load import dump
from rlcurric.recipe.schema import Recipe
from rlcurric.report.difference import first_difference
from rlcurric.report.tables import RunTables, read_run
from rlcurric.train import screening
from rlcurric.train.reporter import Silent
from tests.tiny import HERE, tiny_recipe

STEPS = 3
Rows = list[dict[str, Any]]


def stage(name: str = "only", steps: int = STEPS, **curriculum: Any) -> dict[str, Any]:
    return {
        "name": name,
        "curriculum": {"prompts_per_step": 3, "group_size": 4, **curriculum},
        "optim": {"learning_rate": 1e-3},
        "rewards": ["lucky"],
        "evaluation": {"at_end": False},
        "until": {"steps": steps},
    }


def recipe_of(*stages: dict[str, Any], **changes: Any) -> Recipe:
    """RL stages from random weights."""
    run = {
        "checkpoints": {"every": 1, "keep_last": 20},
        "rollouts": {"every": 1, "include": "all", "max_per_step": 1000},
        "threads": 1,
    }
    return tiny_recipe(
        **{"reward_files": ["lucky.py"], "stages": list(stages), "run": run, **changes}
    )


CURRICULA: dict[str, dict[str, Any]] = {
    "posterior and pods": {
        "scorer": {"name": "mopps", "ratio": 3},
        "selector": {"name": "pods", "keep": 0.5},
        "sampler": {"name": "procurl", "temperature": 0.3},
    },
    "value model and replace": {
        "scorer": {"name": "pcl", "warmup_steps": 1},
        "gate": "replace",
        "prompts_per_step": 5,
    },
    "value model of its own": {
        "scorer": {"name": "pcl", "warmup_steps": 1, "pick": "sample"},
        "value": {"backbone": "base", "hidden": None, "body_learning_rate": 1e-3},
        "gate": "replace",
        "oversample": 1.5,
    },
    "d3s and speed": {
        "selector": {"name": "d3s", "keep": 0.5, "both_signs": True},
        "token_fraction": {"schedule": "linear", "start": 0.4, "end": 0.8},
        "weight": ["annealed_easiness", {"name": "odsw", "stage": "hard"}],
        "normalise_weights": True,
        "plan": {"name": "speed", "initial": 2},
    },
    "screened pool and a mix": {
        "pool": [{"name": "screened", "samples": 2}, {"name": "drop_easy", "min_samples": 2}],
        "gate": {"name": "retire", "visits": 1, "rest": 1},
        "scorer": [{"name": "greso", "share": 2}, "kimi", "learnability"],
    },
    "lilo": {
        "plan": {"name": "lilo", "probe": 2, "pool": 2},
        "sampler": {"name": "sec", "temperature": 0.4, "signal": "learnability"},
        "gate": "zero_variance",
    },
    "e2h": {"sampler": {"name": "e2h", "schedule": "cosine"}, "weight": "observe_r1"},
    "cycles": {
        "sampler": {"name": "cyclical", "cycle_steps": 2},
        "gate": {"name": "pass_rate_range", "low": 0.0, "high": 0.8},
        "refill_fallback": "train_gated",
    },
}
OBJECTIVES = {
    "d3s and speed": {
        "name": "grpo",
        "stabilisers": [{"name": "top_entropy", "fraction": 0.5}, "d3s_tokens"],
    }
}
# Metrics of every step, or of every but the first (`later`), with the range that they lie in.
PROMISED: dict[str, dict[str, tuple[float, float]]] = {
    "posterior and pods": {
        "curriculum/mopps/known_prompts": (3, 9),
        "curriculum/selected/fraction": (0.5, 0.5),
        "curriculum/calibration/mae": (0, 1),
        "curriculum/candidates/sum": (9, 9),
        "batch/rollouts/sum": (6, 6),
    },
    "value model and replace": {
        "curriculum/value/predicted/mean": (0.01, 0.99),
        "curriculum/value/prompts/sum": (5, 15),
        "curriculum/candidates/sum": (20, 20),
        "curriculum/groups/replaced": (0, 5),
    },
    "value model of its own": {
        "curriculum/value/loss/mean": (0, 1),
        "curriculum/value/prompts/sum": (1, 5),  # the paper's window: this step alone
    },
    "d3s and speed": {
        "curriculum/selected/fraction": (0.5, 1.0),
        "curriculum/weight/mean": (0.99999, 1.00001),
        "curriculum/groups/probed": (0, 40),
        "stabiliser/top_entropy/mean": (0.2, 0.8),
    },
    "screened pool and a mix": {
        "curriculum/screened/dropped": (1, 61),
        "curriculum/retire/retired": (0, 9),
        "curriculum/greso/p_easy": (0.05, 0.95),
        "curriculum/kimi/success_rate": (0, 1),
        "curriculum/learnability/known_prompts": (62, 62),
    },
    "lilo": {
        "curriculum/groups/probed": (3, 40),
        "curriculum/sec/two": (0, 0.25),
    },
    "e2h": {"curriculum/probability/two": (0, 1), "curriculum/weight/mean": (0, 1.8)},
    "cycles": {"curriculum/cyclical/two": (0, 1), "batch/groups/sum": (3, 3)},
}
Runs = dict[str, Path]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


def made(name: str) -> Recipe:
    one = stage(**CURRICULA[name])
    return recipe_of({**one, "objective": OBJECTIVES.get(name, {"name": "grpo"})})


@pytest.fixture(scope="module")
def run_of(folder: Path) -> Any:
    """The undisturbed run of a curriculum, made once."""
    known: Runs = {}

    def find(name: str) -> Path:
        if name not in known:
            known[name] = folder / name.replace(" ", "-")
            assert rlcurric.train(made(name), known[name]).status == "done"
        return known[name]

    return find


def lines(run: RunTables, kind: str, step: int | None = None) -> Rows:
    return [
        line
        for line in run.decisions
        if line["kind"] == kind and (step is None or line["step"] == step)
    ]


@pytest.mark.parametrize("name", CURRICULA)
def test_a_run_does_what_its_curriculum_promises(name: str, run_of: Any) -> None:
    run = read_run(run_of(name))
    assert [row["step"] for row in run.metrics] == list(range(1, STEPS + 1))
    assert verify(run.recipe.seed, run.decisions) == []
    assert len(lines(run, "draw")) >= STEPS
    assert any(row.get("grad/norm", 0) > 0 for row in run.metrics)
    for key, (low, high) in PROMISED[name].items():
        steps, values = run.series(key)
        assert steps, key
        for value in values:
            assert low <= value <= high, (key, values)
    for row in run.metrics:
        chances = [value for key, value in row.items() if "curriculum/probability/" in key]
        assert sum(chances) == pytest.approx(1)


@pytest.mark.parametrize("name", CURRICULA)
def test_stopping_at_every_step_changes_nothing(name: str, run_of: Any, folder: Path) -> None:
    cut = folder / f"{name.replace(' ', '-')}-cut"
    for step in range(1, STEPS):
        assert rlcurric.train(made(name), cut, stop_at=step).step == step
    assert rlcurric.train(made(name), cut).status == "done"
    assert first_difference(run_of(name), cut) is None


class StopsBetweenRounds(Silent):
    """Asks for a stop while the first round of rollouts is sampled."""

    def __init__(self, stop_file: Path) -> None:
        self.stop_file = stop_file

    def phase(self, name: str) -> None:
        if name == "rollout":
            self.stop_file.touch()


EVERYTHING: dict[str, Any] = {
    "pool": [{"name": "screened", "samples": 2}, {"name": "drop_easy", "min_samples": 2}],
    "sampler": {"name": "learning_progress"},
    "scorer": [{"name": "pcl", "warmup_steps": 0}, "mopps"],
    "plan": {"name": "speed", "initial": 2, "oversample": 1.5},
    "gate": {"name": "retire", "visits": 1, "rest": 1},
    "selector": {"name": "pods", "keep": 2},
    "weight": "annealed_easiness",
}


def test_a_step_that_was_abandoned_leaves_no_trace(folder: Path) -> None:
    """The first step of all, after the pool was screened, and one with groups carried over: with every kind of part."""
    whole, cut = folder / "everything", folder / "everything-cut"
    recipe = recipe_of(stage(**EVERYTHING))
    rlcurric.train(recipe, whole)
    run = read_run(whole)
    assert verify(run.recipe.seed, run.decisions) == []
    assert max(row["curriculum/groups/carried"] for row in run.metrics) > 0
    for step in range(1, STEPS + 1):
        result = rlcurric.train(recipe, cut, reporter=StopsBetweenRounds(cut / "stop"))
        assert (result.status, result.step) == ("stopped", step - 1), "the step was not abandoned"
        rlcurric.train(recipe, cut, stop_at=step)
    assert first_difference(whole, cut) is None
    measured = [one / "screening" / "only.jsonl" for one in (whole, cut)]
    assert measured[0].read_bytes() == measured[1].read_bytes()
    totals = [row["tokens/total/sum"] for row in read_run(cut).metrics]
    screened = sum(sum(one.lengths) for one in read_measured(measured[0]))
    generated = [row["tokens/generated/sum"] for row in read_run(cut).metrics]
    assert totals == [screened + sum(generated[: k + 1]) for k in range(STEPS)]


def group_of(row: Mapping[str, Any]) -> tuple[str, int]:
    return row["uid"], row["visit"]


def grouped(rows: Rows) -> dict[tuple[str, int], Rows]:
    """Logged rollouts by group, in the order of their samples."""
    groups: dict[tuple[str, int], Rows] = {}
    for row in sorted(rows, key=lambda row: row["sample"]):
        groups.setdefault(group_of(row), []).append(row)
    return groups


def test_pods_trains_what_it_kept(folder: Path) -> None:
    """The kept rollouts alone are in the log of what was trained and in the update, with advantages of their own."""
    curriculum: dict[str, Any] = {
        "selector": {"name": "pods", "keep": 3},
        "prompts_per_step": 4,
        "group_size": 6,
    }
    log = {"every": 1, "include": "trained", "max_per_step": 1000}
    run_dir = folder / "kept"
    rlcurric.train(
        recipe_of(stage(steps=2, **curriculum), run={"rollouts": log, "threads": 1}), run_dir
    )
    run = read_run(run_dir)
    for step, row in enumerate(run.metrics, 1):
        logged = run.rollouts(step).to_pylist()
        (line,) = lines(run, "select", step)
        kept = {group_of(group): group["kept"] for group in line["groups"]}
        groups = grouped(logged)
        assert {key: [one["sample"] for one in rows] for key, rows in groups.items()} == kept
        assert row["batch/rollouts/sum"] == len(logged) == 12
        assert row["parity/tokens/sum"] == sum(one["length"] for one in logged)
        assert row["tokens/generated/sum"] > row["parity/tokens/sum"]
        for rows in groups.values():
            rewards, advantages = ([one[key] for one in rows] for key in ("reward", "advantage"))
            mean = sum(rewards) / 3
            assert sum(advantages) == pytest.approx(0, abs=1e-6)
            assert [a > 0 for a in advantages] == [r > mean for r in rewards]
    assert any(one["advantage"] for one in run.rollouts().to_pylist())


def test_copies_of_a_group_count_in_the_update(run_of: Any) -> None:
    run = read_run(run_of("value model and replace"))
    copied = 0
    for step, row in enumerate(run.metrics, 1):
        groups = grouped(run.rollouts(step).to_pylist())
        for line in lines(run, "take", step):
            copies = {group_of(group): group["copies"] for group in line["groups"]}
            assert sum(copies.values()) == 5
            tokens = sum(
                times * one["length"] for key, times in copies.items() for one in groups[key]
            )
            assert row["parity/tokens/sum"] == tokens
            copied += sum(times > 1 for times in copies.values())
    assert copied, "no group was replaced: the test shows nothing"


def test_a_continued_group_is_the_group_that_would_have_been(folder: Path) -> None:
    """SPEED draws the samples that `whole` draws for the same group, grades them together and trains them all."""
    speed: dict[str, Any] = {
        "plan": {"name": "speed", "initial": 2, "oversample": 2.0},
        "prompts_per_step": 3,
    }
    runs = {}
    for name, curriculum in (("speed", speed), ("whole", {"prompts_per_step": 6})):
        one = {
            **stage(steps=1, **curriculum),
            "rewards": ["lucky", {"name": "company", "weight": 0.0}],
        }
        rlcurric.train(recipe_of(one), folder / name)
        runs[name] = read_run(folder / name)
    first = {
        name: {group_of(group) for group in lines(run, "draw")[0]["groups"]}
        for name, run in runs.items()
    }
    assert first["speed"] == first["whole"] and len(first["whole"]) == 6
    probed, whole = (grouped(runs[name].rollouts().to_pylist()) for name in ("speed", "whole"))
    (outcomes,) = lines(runs["speed"], "outcomes")
    ended = {group_of(group): group["disposition"] for group in outcomes["groups"]}
    went_on = [group_of(group) for line in lines(runs["speed"], "continue") for group in line["groups"]
               if group["more"] == 2]  # fmt: skip
    assert went_on and "probed" in ended.values()
    compared = 0
    for key, rows in probed.items():
        assert len(rows) == 4, "only whole groups are admitted"
        assert {one["breakdown"] for one in rows} == {
            '{"lucky": 0.0, "company": 4.0}',
            '{"lucky": 1.0, "company": 4.0}',
        }
        if key in whole:
            assert [one["completion_ids"] for one in rows] == [
                one["completion_ids"] for one in whole[key]
            ]
            compared += 1
    assert compared
    for group in outcomes["groups"]:
        told = whole.get(group_of(group))
        if group["disposition"] == "probed" and told is not None:
            assert group["pass_rate"] == sum(one["correct"] for one in told[:2]) / 2
            assert len(group["correct"]) == 2
    # Surplus of the same weights is measured too: what was trained, and what waits for the next step.
    row = runs["speed"].metrics[0]
    assert row["parity/tokens/sum"] == sum(
        one["length"] for rows in probed.values() for one in rows
    )
    assert row["batch/rollouts/sum"] == 4 * row["batch/groups/sum"]
    trained = {key for key, why in ended.items() if why == "trained"}
    assert {key for key, rows in probed.items() if rows[0]["advantage"] is not None} == trained


# --- before the first step ------------------------------------------------------------------------------------------------


class StopsWhileScreening(Silent):
    """Asks for a stop when some of the pool is known, once."""

    def __init__(self, stop_file: Path) -> None:
        self.stop_file, self.said = stop_file, 0

    def phase(self, name: str) -> None:
        if name.startswith("screening"):
            self.said += 1
            if self.said == 3:
                self.stop_file.touch()


SCREENED: dict[str, Any] = {"pool": {"name": "screened", "samples": 2}, "scorer": "mopps"}


def test_a_stop_while_screening_samples_nothing_twice(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second stage that screens: what was measured stays, the rest follows, and the run is the same."""
    monkeypatch.setattr(screening, "ROLLOUTS_PER_ROUND", 20)
    recipe = recipe_of(stage("before", 1), stage("after", 2, **SCREENED))
    whole, cut = folder / "screened", folder / "screened-cut"
    rlcurric.train(recipe, whole)
    stops = StopsWhileScreening(cut / "stop")
    result = rlcurric.train(recipe, cut, reporter=stops)
    assert (result.status, result.step) == ("stopped", 1)
    file = cut / "screening" / "after.jsonl"
    begun = file.read_bytes()
    assert len(read_measured(file)) == 30
    file.write_bytes(begun + b'{"uid": "00')  # killed while it wrote
    told = StopsWhileScreening(cut / "never" / "stop")
    told.said = 10
    assert rlcurric.train(recipe, cut, reporter=told).status == "done"
    assert told.said == 10 + 4  # rounds of 10 prompts, of the 32 that were left
    assert file.read_bytes().startswith(begun)
    assert file.read_bytes() == (whole / "screening" / "after.jsonl").read_bytes()
    assert first_difference(whole, cut) is None
    run = read_run(cut)
    (event,) = [event for event in run.events if event["event"] == "screened"]
    found = read_measured(file)
    assert event["prompts"] == len(found) == 62
    assert event["tokens"] == sum(sum(one.lengths) for one in found)
    before, after = run.metrics[:2]
    assert after["tokens/total/sum"] == (
        before["tokens/total/sum"] + event["tokens"] + after["tokens/generated/sum"]
    )
    assert event["never_solved"] == sum(one.pass_rate == 0 for one in found)
    assert after["curriculum/screened/dropped"] == event["never_solved"]
    dropped = {f"{one.group_id.uid:016x}" for one in found if one.pass_rate == 0}
    asked = {
        group["uid"]
        for line in lines(run, "draw")
        if line["stage"] == "after"
        for group in line["groups"]
    }
    assert asked and not asked & dropped


def test_what_was_screened_with_other_weights_is_measured_anew(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped while it screened; then the stage before it goes on for a step."""
    monkeypatch.setattr(screening, "ROLLOUTS_PER_ROUND", 20)
    short, longer = (
        recipe_of(stage("before", steps), stage("after", 1, **SCREENED)) for steps in (1, 2)
    )
    whole, cut = folder / "longer", folder / "longer-cut"
    rlcurric.train(longer, whole)
    assert rlcurric.train(short, cut, reporter=StopsWhileScreening(cut / "stop")).step == 1
    assert rlcurric.train(longer, cut).status == "done"
    measured = [one / "screening" / "after.jsonl" for one in (whole, cut)]
    assert measured[0].read_bytes() == measured[1].read_bytes()
    # All that may differ: of how many steps the first was when it was drawn, and that it then ended the stage.
    one, two = ('"progress": [0, 0, 1, 0]', '"progress": [0, 0, 2, 0]')
    decisions = (cut / "decisions.jsonl").read_text()
    assert one in decisions and two in (whole / "decisions.jsonl").read_text()
    (cut / "decisions.jsonl").write_text(decisions.replace(one, two))
    shutil.rmtree(cut / "checkpoints" / "step-000001")
    assert first_difference(whole, cut) is None


def test_statistics_start_from_a_file(folder: Path) -> None:
    """What was measured in time is neither sampled again nor forgotten; what was measured by too few samples is."""
    screened = folder / "screened-once"
    rlcurric.train(recipe_of(stage(steps=1, **SCREENED)), screened)
    known = read_measured(screened / "screening" / "only.jsonl")
    part = folder / "part.jsonl"
    append_measured(part, known[:40])
    run_dir = folder / "warm"
    warm = stage(steps=1, warm_start=str(part), **SCREENED)
    rlcurric.train(recipe_of(warm), run_dir)
    run = read_run(run_dir)
    (event,) = [event for event in run.events if event["event"] == "screened"]
    rest = read_measured(run_dir / "screening" / "only.jsonl")
    assert event["prompts"] == len(rest) == len(known) - 40
    assert rest == known[40:], "the same samples as in the run that measured all"
    assert run.metrics[0]["curriculum/mopps/known_prompts"] == len(known)
    first, again = (lines(read_run(one), "draw")[0] for one in (screened, run_dir))
    (*clock, more), (*same, fewer) = first.pop("progress"), again.pop("progress")
    assert clock == same and more > fewer, "less was sampled"
    assert first == again, "both know the same"
    few = stage(
        steps=1, warm_start=str(part), **{**SCREENED, "pool": {"name": "screened", "samples": 3}}
    )
    rlcurric.train(recipe_of(few), folder / "few")
    (event,) = [one for one in read_run(folder / "few").events if one["event"] == "screened"]
    assert event["prompts"] == len(known)
    unscreened = stage(steps=1, warm_start=str(part), scorer="mopps")
    rlcurric.train(recipe_of(unscreened), folder / "unscreened")
    (row,) = read_run(folder / "unscreened").metrics
    assert 40 <= row["curriculum/mopps/known_prompts"] <= 43


def test_a_fork_within_a_stage_starts_from_a_file_too(folder: Path) -> None:
    """Another curriculum begins anew there: what the file tells is known to it, and what it lacks is measured."""
    origin, file = folder / "origin", folder / "for-the-fork.jsonl"
    rlcurric.train(recipe_of(stage(steps=2)), origin, stop_at=1)
    rlcurric.train(recipe_of(stage(steps=1, **SCREENED)), folder / "measures")
    append_measured(file, read_measured(folder / "measures" / "screening" / "only.jsonl")[:50])
    other = recipe_of(stage(steps=2, warm_start=str(file), **SCREENED))
    rlcurric.train(other, folder / "forked", start_from=f"{origin}:1")
    run = read_run(folder / "forked")
    (event,) = [event for event in run.events if event["event"] == "screened"]
    assert event["prompts"] == 12
    assert [row["step"] for row in run.metrics] == [2]
    assert run.metrics[0]["curriculum/mopps/known_prompts"] == 62


@pytest.mark.parametrize("carried", [True, False])
def test_statistics_of_the_stage_before(folder: Path, carried: bool) -> None:
    """Of the scorer, the sampler and the value model: all or none, as the stage asks; visits are counted on in any case."""
    curriculum: dict[str, Any] = {
        "scorer": ["mopps", {"name": "pcl", "warmup_steps": 0}],
        "sampler": {"name": "sec", "temperature": 0.1},
    }
    second = {**stage("second", 1, **curriculum), "carry": ["statistics"] if carried else []}
    recipe = recipe_of(stage("first", 2, **curriculum), second)
    run_dir = folder / f"carried-{carried}"
    rlcurric.train(recipe, run_dir, stop_at=2)
    rlcurric.train(recipe, run_dir)
    run = read_run(run_dir)
    before, after = run.metrics[1:]
    window = after["curriculum/value/prompts/sum"]
    known = after["curriculum/mopps/known_prompts"]
    (line,) = lines(run, "draw", 3)
    assert max(before[f"curriculum/sec/{name}"] for name in ("two", "three")) > 0
    values = line["expected"]
    if carried:
        assert window == before["curriculum/value/prompts/sum"] + 3 == 9
        assert known > before["curriculum/mopps/known_prompts"] >= 4
        assert line["probabilities"]["two"] != 0.5
        assert len(set(values)) > 1
    else:
        assert window == known == 3
        assert line["probabilities"] == {"two": 0.5, "three": 0.5}
        assert set(values) == {0.5}, "nothing is known of any prompt"
    assert after["curriculum/coverage"] >= before["curriculum/coverage"]


# --- two ranks --------------------------------------------------------------------------------------------------------


QUANTILE = """
import rlcurric


@rlcurric.reward("quantile", scope="batch", where="inline")
def quantile(prompts, completions, lengths, **columns):
    return [sum(other < one for other in lengths) / len(lengths) for one in lengths]
"""


@pytest.mark.slow
def test_two_ranks_decide_what_one_decides(folder: Path) -> None:
    """Groups lie with the rank that began them, predictions are split; the decisions are those of one rank.

    So are the rewards, also of one that looks at the whole batch.
    """
    curriculum: dict[str, Any] = {
        "scorer": {"name": "pcl", "warmup_steps": 1},
        "plan": {"name": "speed", "initial": 2},
        "prompts_per_step": 3,
    }
    (folder / "quantile.py").write_text(QUANTILE)
    files = ["lucky.py", str(folder / "quantile.py")]
    shaped = {**stage(steps=2, **curriculum), "rewards": ["lucky", "quantile"]}
    recipe = recipe_of(shaped, reward_files=files)
    alone, both = folder / "one-rank", folder / "two-ranks"
    rlcurric.train(recipe, alone)
    file, script = folder / "ranks.yaml", folder / "ranks.py"
    file.write_text(yaml.safe_dump(dump(recipe), sort_keys=False))
    script.write_text(
        "import sys\nimport rlcurric\n\nif __name__ == '__main__':\n    rlcurric.train(*sys.argv[1:])\n"
    )
    config = str(HERE.parent / "launch" / "cpu_2_ranks.yaml")
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", config]
    ended = subprocess.run(
        [*launch, str(script), str(file), str(both)],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(HERE.parent)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stderr
    one, two = read_run(alone), read_run(both)
    assert two.info["launches"][0]["ranks"] == 2
    assert verify(two.recipe.seed, two.decisions) == []
    assert [line for line in one.decisions if line["step"] == 1] == [
        line for line in two.decisions if line["step"] == 1
    ]
    assert one.metrics[0]["curriculum/value/predicted/mean"] == pytest.approx(
        two.metrics[0]["curriculum/value/predicted/mean"]
    )
    (first, *_), (second, *_) = lines(one, "draw", 2), lines(two, "draw", 2)
    assert first["candidates"] == second["candidates"]
    assert first["scores"] == pytest.approx(second["scores"], abs=1e-5)
    assert any(group["more"] == 2 for line in lines(two, "continue") for group in line["groups"])
    told = [
        {
            (row["uid"], row["visit"], row["sample"]): json.loads(row["breakdown"])
            for row in run.rollouts(1).to_pylist()
        }
        for run in (one, two)
    ]
    assert told[0] == told[1]
    quantiles = {found["quantile"] for found in told[0].values() if "quantile" in found}
    assert len(quantiles) > 2, "the batch is judged as one"
