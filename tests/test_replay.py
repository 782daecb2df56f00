"""Replays: a run's own curriculum decides again as it did, line by line; of another one, what the record answers."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from rlcurric.cli import _run
from rlcurric.curriculum.decisions import verify
from rlcurric.recipe.load import dump, dump_yaml, load_recipe
from rlcurric.recipe.schema import Recipe
from rlcurric.recipe.stages import RlStage
from rlcurric.simulate.fit import fit_learner
from rlcurric.simulate.record import Record, RecordedGroup, nearest_step
from rlcurric.simulate.replay import Missing, Replayed, replay
from rlcurric.simulate.run import Walk
from rlcurric.simulate.settings import LearnerSpec
from rlcurric.types import GroupId, GroupOutcome
from tests.bands import NAMES, learner, recipe_of, stage, world_of
from tests.tiny import tiny_recipe

STEPS = 5
CURRICULA: dict[str, dict[str, Any]] = {
    "bandit": {"sampler": "ucb", "gate": "zero_variance", "oversample": 1.5},
    "speed and d3s": {
        "plan": {"name": "speed", "initial": 2, "oversample": 1.5},
        "selector": {"name": "d3s", "keep": 0.5, "both_signs": True},
        "weight": ["annealed_easiness", {"name": "odsw", "stage": "hard"}],
        "normalise_weights": True,
    },
    "lilo": {"plan": {"name": "lilo", "probe": 2, "pool": 2}, "gate": "zero_variance"},
    "screened pool and a mix": {
        "pool": [{"name": "screened", "samples": 2}, {"name": "drop_easy", "min_samples": 2}],
        "scorer": [{"name": "mopps", "share": 2}, "learnability"],
        "sampler": {"name": "learning_progress"},
    },
    "value model, replace, pods": {
        "scorer": {"name": "pcl", "warmup_steps": 1, "pick": "sample"},
        "gate": "replace",
        "selector": {"name": "pods", "keep": 2},
    },
    "gated ones are trained": {
        "gate": {"name": "pass_rate_range", "low": 0.3, "high": 0.7},
        "refill_fallback": "train_gated",
        "refill_rounds": 1,
    },
}


def recorded(folder: Path, recipe: Recipe, spec: LearnerSpec | None = None, rows: int = 60) -> Path:
    """The logs of a simulated run: those of a real one, but for what a model would add."""
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(dump_yaml(recipe))

    def hear(row: Mapping[str, Any], lines: Any) -> None:
        for name, found in (("metrics", [row]), ("decisions", lines)):
            with (folder / f"{name}.jsonl").open("a") as file:
                file.writelines(json.dumps(one) + "\n" for one in found)

    Walk(recipe, world_of(recipe, rows), spec or learner(), recipe.seed, hear=hear).run()
    return folder


def replayed(
    recipe: Recipe, run: Path, window: int = 0, missing: Missing = "skip", rows: int = 60
) -> Replayed:
    world = world_of(recipe, rows)
    pools = {one.name: world.pool(one) for one in recipe.stages if isinstance(one, RlStage)}
    return replay(recipe, Record(run), pools, window, missing)


def two_stages(curriculum: dict[str, Any]) -> Recipe:
    """The second goes on with what the first has learned."""
    return recipe_of(
        stage("first", STEPS, curriculum=curriculum),
        stage("second", STEPS - 2, curriculum=curriculum, carry=["statistics"]),
    )


@pytest.mark.parametrize("name", CURRICULA)
def test_a_run_s_own_curriculum_decides_as_it_did(name: str, tmp_path: Path) -> None:
    recipe = two_stages(CURRICULA[name])
    run = recorded(tmp_path / "run", recipe)
    record = Record(run)
    assert verify(recipe.seed, [line for lines in record.lines.values() for line in lines]) == []
    found = replayed(load_recipe(run / "recipe.yaml"), run)
    assert found.first_difference == "" and found.notes == []
    assert [(one.stage, one.steps, one.identical) for one in found.stages] == [
        ("first", STEPS, STEPS),
        ("second", STEPS - 2, STEPS - 2),
    ]
    asked = sum(one.asked for one in found.covered)
    assert asked == len(record.groups) > 0
    assert asked == sum(one.exact + one.open for one in found.covered)
    assert sum(one.open for one in found.covered) == sum(
        not g.samples for g in record.groups.values()
    )
    assert any(line["kind"] != "draw" for lines in record.lines.values() for line in lines)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve steps of a bandit."""
    curriculum = CURRICULA["bandit"]
    recipe = recipe_of(stage(steps=12, curriculum=curriculum))
    return recorded(tmp_path_factory.mktemp("recorded") / "run", recipe)


def changed(run: Path, **curriculum: Any) -> Recipe:
    raw = dump(load_recipe(run / "recipe.yaml"))
    raw["stages"][0]["curriculum"] |= curriculum
    return load_recipe(raw)


def test_one_changed_outcome_is_found(run: Path, tmp_path: Path) -> None:
    """The comparison can fail: where the log says another pass rate than its curriculum saw."""
    copy = tmp_path / "copy"
    copy.mkdir()
    lines = [json.loads(line) for line in (run / "decisions.jsonl").read_text().splitlines()]
    line = next(one for one in lines if one["kind"] == "outcomes" and one["step"] == 6)
    line["groups"][0]["pass_rate"] = 0.123
    (copy / "decisions.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    for name in ("recipe.yaml", "metrics.jsonl"):
        (copy / name).write_text((run / name).read_text())
    found = replayed(load_recipe(copy / "recipe.yaml"), copy)
    assert found.first_difference == "step 6, outcomes, groups"
    assert found.stages[0].identical == 11


def test_another_curriculum_is_answered_where_the_record_can(run: Path) -> None:
    """A wider window covers no less; what is near is a recorded visit of the very prompt, the nearest in time."""
    record = Record(run)
    recipe = changed(run, sampler={"name": "uniform"})
    covered, asked = [], set()
    for window in (0, 3, 12):
        found = replayed(recipe, run, window, "model")
        assert not found.identical
        for one in found.covered:
            assert one.asked == one.exact + one.near + one.modelled + one.missing + one.open
            assert one.recorded_asked == sum(
                group.step == one.step and group.distribution == one.distribution
                for group in record.groups.values()
            )
            assert 0 <= one.right <= one.answered and one.missing == 0
        covered.append(sum(one.answered for one in found.covered))
        asked.add(sum(one.asked for one in found.covered) > covered[-1])
    assert 0 < covered[0] < covered[1] <= covered[2] and asked == {True}


def test_the_first_step_of_another_curriculum_is_that_of_the_record(run: Path) -> None:
    """Nothing was learned before it, and the draw is the same: so are its groups, and its pass rate."""
    found = replayed(changed(run, sampler={"name": "uniform"}, gate=[]), run)
    first = [one for one in found.covered if one.step == 1]
    assert sum(one.asked for one in first) == sum(one.exact for one in first) == 12
    record = Record(run)
    for one in first:
        rates = [
            group.pass_rate or 0.0
            for group in record.groups.values()
            if group.step == 1 and group.distribution == one.distribution
        ]
        assert one.right <= sum(rates) + 1e-12 and one.asked <= len(rates)
    assert first[0].probability == pytest.approx(1 / 3)


def test_what_is_missing_teaches_nothing_or_ends_the_replay(run: Path) -> None:
    recipe = changed(run, sampler={"name": "uniform"})
    skipped = replayed(recipe, run, 0, "skip")
    missing = sum(one.missing for one in skipped.covered)
    assert missing > 0 and sum(one.modelled for one in skipped.covered) == 0
    stopped = replayed(recipe, run, 0, "stop")
    (end,) = stopped.stages
    first = next(one.step for one in skipped.covered if one.missing)
    assert end.steps == first - 1 and "--missing stop" in end.ended
    assert "the record has no answer for the prompt" in end.ended


def test_a_curriculum_that_the_record_cannot_feed_ends(run: Path) -> None:
    """Other distributions: nothing is answered, and no group is ever admitted."""
    others = recipe_of(stage(steps=12), names=("algebra", "sums"))
    found = replayed(others, run, 12, "model")
    (end,) = found.stages
    assert end.steps == 4 and "no group was admitted in 5 steps in a row" in end.ended
    assert all(one.missing == one.asked and one.answered == 0 for one in found.covered)


def test_other_rows_are_noticed(run: Path) -> None:
    """Rows that are gone, or that stand elsewhere."""
    found = replayed(load_recipe(run / "recipe.yaml"), run, rows=30)
    assert len(found.notes) == 3 and not found.identical
    assert all("prompts that the run drew from" in note for note in found.notes)


def outcome(group_id: GroupId, correct: list[float], failed: int = 0) -> GroupOutcome:
    return GroupOutcome(
        *(group_id, "easy", 4, tuple(correct), tuple(correct), (7,) * len(correct), failed, 2),
        "trained",
    )


def test_samples_of_a_group_by_phase() -> None:
    """Those that no grader could judge come last in their phase; a selector's numbers say which they were."""
    group_id = GroupId("rl", 9, 0)
    group = RecordedGroup(group_id, "easy", 5)
    assert group.after(0) == [] and group.samples == 0
    group.looks = [outcome(group_id, [1.0, 0.0], failed=1)]
    group.end = outcome(group_id, [1.0, 0.0, 0.5], failed=2)
    assert [one.correct for one in group.after(0)] == [1.0, 0.0, None]
    assert [one.correct for one in group.after(1)] == [1.0, 0.0, None, 0.5, None]
    assert {one.policy_version for one in group.after(1)} == {2} and group.samples == 5
    group.selected = ((0, 0.3), (3, 0.2), (4, 0.1))
    assert [one.correct for one in group.after(1)] == [1.0, None, None, 0.0, 0.5]
    later = RecordedGroup(GroupId("rl", 9, 1), "easy", 8)
    assert nearest_step([later, group], 7) == [later, group]
    assert nearest_step([later, group], 6) == [group, later]


def test_records_that_cannot_be_replayed(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no run directory"):
        Record(tmp_path)
    (tmp_path / "recipe.yaml").write_text((run / "recipe.yaml").read_text())
    with pytest.raises(ValueError, match="has no decisions"):
        Record(tmp_path)
    lines = (run / "decisions.jsonl").read_text().splitlines(keepends=True)
    for odd in ("[1]\n", '{"kind": "draw"}\n', '{"step": 1, "stage": "rl", "kind": "draw"}\n'):
        (tmp_path / "decisions.jsonl").write_text("".join([odd, *lines]))
        with pytest.raises(ValueError, match=r"has a line that lacks something"):
            Record(tmp_path)
    later = [line for line in lines if json.loads(line)["step"] > 3]
    (tmp_path / "decisions.jsonl").write_text("".join(later))
    recipe = load_recipe(run / "recipe.yaml")
    with pytest.raises(ValueError, match=r"begins in the middle of the stage 'rl' .step 4."):
        replayed(recipe, tmp_path)
    renamed = recipe_of(stage("a"), stage("b"))
    with pytest.raises(ValueError, match=r"the record's stage 'rl' has no counterpart .*a, b"):
        replayed(renamed, run)


def test_a_learner_is_fitted_to_the_start_of_a_record(tmp_path: Path) -> None:
    """Difficulties, spreads and lengths of the learner that the record is of, within what so many groups can tell."""
    still = {
        name: {"rate": 0.0, "length": {"median": 30, "spread": 0.3, "wrong": 1.5}} for name in NAMES
    }
    truth = learner(**still)
    curriculum = {"prompts_per_step": 60, "group_size": 8}
    recipe = recipe_of(stage(steps=5, curriculum=curriculum))
    record = Record(recorded(tmp_path / "run", recipe, truth, rows=400))
    plain = learner(**{name: {"difficulty": 0.7, "spread": 2.0} for name in NAMES})
    spec, fitted = fit_learner(plain, record)
    assert [one.name for one in fitted] == list(NAMES)
    assert sum(one.groups for one in fitted) == 300
    for name in NAMES:
        mine, true = spec.curves[name], truth.curves[name]
        assert mine.difficulty == pytest.approx(true.difficulty, abs=0.4), name
        assert mine.spread == pytest.approx(1.0, abs=0.5), name
        assert mine.length.median == pytest.approx(30, abs=3)
        assert mine.length.spread == pytest.approx(0.3, abs=0.06)
        assert mine.length.wrong == pytest.approx(1.5, abs=0.2)
        assert mine.rate == plain.curves[name].rate
    with pytest.raises(ValueError, match="has sampled none of the recipe's distributions"):
        fit_learner(learner(("other",)), record)


def test_the_command_replays(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is assumed of rows, where decisions differ, what is covered; every step as a row."""
    table = tmp_path / "replay.csv"
    command = ["simulate", str(run / "recipe.yaml"), "--replay", str(run)]
    assert _run([*command, "--missing", "model", "--window", "4", "--output", str(table)]) == 0
    shown = capsys.readouterr().out
    assert f"bands on the record of {run}" in shown and "decisions first differ" in shown
    assert "within 4 steps" in shown and "--missing model" in shown
    assert "rows assumed, since" in shown and "easy 1000, middle 1000, hard 1000" not in shown
    rows = list(csv.DictReader(table.open()))
    assert len(rows) == 12 * 3
    assert {row["pass_rate"] for row in rows if row["exact"] == row["near"] == "0"} == {""}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["tiny", "d3s and speed", "screened pool and a mix", "value model and replace"]
)
def test_a_real_run_is_reproduced(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Trained by the real trainer, replayed by the command without torch: every line of decisions.jsonl comes out again."""
    import rlcurric
    from tests.test_curriculum_in_runs import made

    recipe = tiny_recipe() if name == "tiny" else made(name)
    run, whole = tmp_path / "run", tmp_path / "replay.json"
    assert rlcurric.train(recipe, run).status == "done"
    capsys.readouterr()
    command = ["simulate", str(run / "recipe.yaml"), "--replay", str(run), "--output", str(whole)]
    assert _run(command) == 0
    assert "came out again, line by line" in capsys.readouterr().out
    found = json.loads(whole.read_text())
    assert found["identical"] is True and found["first_difference"] == ""
    assert [one["identical"] for one in found["stages"]] == [
        one["steps"] for one in found["stages"]
    ]
    assert sum(one["steps"] for one in found["stages"]) == len(read_steps(run))
    assert all(one["asked"] == one["exact"] + one["open"] for one in found["steps"])


def read_steps(run: Path) -> set[int]:
    return {json.loads(line)["step"] for line in (run / "decisions.jsonl").read_text().splitlines()}
