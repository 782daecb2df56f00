"""When stages end, which of their checkpoints counts, and that a resumed run ends them where an undisturbed one does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import rlcurric
from rlcurric.build import RunData
from rlcurric.recipe.endings import check_schedules
from rlcurric.recipe.ends import Best, Until
from rlcurric.report.difference import first_difference
from rlcurric.train.checkpoint import CheckpointStore
from rlcurric.train.ends import Watched, cause_of
from rlcurric.train.metrics import VOLATILE, VerdictLog
from rlcurric.train.models import tokenizer_of
from rlcurric.train.pieces import PieceReader
from rlcurric.train.reference import PREFIX
from rlcurric.train.run import RunState
from rlcurric.train.rundir import EVENTS, METRICS, read_jsonl
from rlcurric.train.supervised import steps_at_most
from rlcurric.types import Delivery, GroupId, SampleOutcome, Status
from tests.tiny import tiny_recipe
from tests.tiny_kinds import DPO, REJECTION, recipe

HERE = Path(__file__).parent


def seen(until: dict[str, Any], rows: list[dict[str, float]], **step: Any) -> tuple[int, str]:
    """`(steps, reason)` of the end of a stage that has these rows; (-1, "") where none of them ends it."""
    rule, watched = Until.model_validate(until), Watched()
    given = {"tokens": 10, "rows": 4, "pool": 8, "seconds": 1800.0, **step}
    for number, row in enumerate(rows):
        watched = watched.after(rule, row, **given)
        # what goes into a checkpoint and comes back goes on alike
        state = RunState("one", watched=watched).to_json(_Nothing)  # type: ignore[arg-type]
        watched = RunState.from_json(json.loads(json.dumps(state))).watched
        if (cause := cause_of(rule, watched)) is not None:
            return number + 1, cause.reason
    return -1, ""


class _Nothing:
    """A run that keeps nothing over stages."""

    curriculum = None
    written: dict[str, str] = {}

    class failures:
        @staticmethod
        def state_dict() -> dict[str, Any]:
            return {}


def rows(metric: str, *values: float) -> list[dict[str, float]]:
    return [{metric: value} for value in values]


@pytest.mark.parametrize(
    ("until", "end"),
    [
        ({"steps": 3}, (3, "steps")),
        ({"tokens": 35}, (4, "tokens")),
        ({"epochs": 1.5}, (3, "epochs")),
        ({"steps": 9, "tokens": 15}, (2, "tokens")),
        ({"gpu_hours": 1.0}, (2, "gpu_hours")),
        ({"any": [{"steps": 4}, {"tokens": 30}]}, (3, "any.1.tokens")),
        ({"all": [{"steps": 2}, {"tokens": 40}]}, (4, "all.0.steps and all.1.tokens")),
        (
            {"steps": 5, "all": [{"any": [{"tokens": 10}, {"steps": 4}]}, {"epochs": 2}]},
            (4, "all.0.any.0.tokens and all.1.epochs"),
        ),
    ],
)
def test_what_counts_up_ends_a_stage(until: dict[str, Any], end: tuple[int, str]) -> None:
    assert seen(until, [{}] * 6) == end


@pytest.mark.parametrize(
    ("plateau", "values", "end"),
    [
        ({"patience": 2}, (0.1, 0.2, 0.2, 0.15, 0.9), 4),
        ({"patience": 2, "min_delta": 0.05}, (0.1, 0.14, 0.18, 0.2, 0.22), 5),
        ({"patience": 2, "mode": "min"}, (0.5, 0.4, 0.45, 0.39, 0.4, 0.41), 6),
        ({"patience": 1}, (0.1, 0.2, 0.3), -1),
        ({"patience": 1}, (0.3, float("nan"), 0.3), 3),
    ],
)
def test_a_plateau_is_no_better_value_for_so_many_rows(
    plateau: dict[str, Any], values: tuple[float, ...], end: int
) -> None:
    until = {"steps": 99, "plateau": {"metric": "eval/accuracy/mean", **plateau}}
    assert seen(until, rows("eval/accuracy/mean", *values))[0] == end


def test_a_plateau_counts_rows_that_have_its_metric() -> None:
    gaps = [{"eval/accuracy/mean": 0.5}, {}, {}, {"eval/accuracy/mean": 0.5}, {}]
    assert seen({"steps": 99, "plateau": {"patience": 1}}, gaps) == (4, "plateau")


def test_windows_must_be_full_and_look_at_their_mean() -> None:
    band = {"steps": 99, "pass_rate": {"low": 0.5, "high": 0.7, "window": 2, "distribution": "two"}}
    assert seen(band, rows("sampled/correct/two", 0.6, 0.1, 0.8, 0.5))[0] == 4
    assert seen(band, rows("sampled/correct/mean", 0.6, 0.6, 0.6)) == (-1, "")
    cut = {"steps": 99, "truncated": {"above": 0.25, "window": 3}}
    assert seen(cut, rows("sampled/truncated/mean", 0.25, 0.25, 0.25, 0.26)) == (4, "truncated")


def test_the_clock_is_looked_at_only_where_it_is_asked_for() -> None:
    given = {"tokens": 0, "rows": 0, "pool": 1, "seconds": 7.0}
    plain, timed = Until(steps=3), Until(steps=3, any=(Until(gpu_hours=2.0),))
    assert Watched().after(plain, {}, **given).seconds == 0  # type: ignore[arg-type]
    assert Watched().after(timed, {}, **given).seconds == 7  # type: ignore[arg-type]


def test_the_best_step_is_the_first_of_the_best_value() -> None:
    low, watched = Best(metric="eval/length/mean", mode="min"), Watched()
    for step, value in enumerate((9.0, 4.0, 4.0, 5.0), 1):
        watched = watched.judged(low, {"eval/length/mean": value}, step)
    assert (watched.best_step, watched.best_value) == (2, 4.0)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ["stages.first.until={steps: 9, plateau: {}}"],
            ["until.plateau.metric", "evaluation.every"],
        ),
        (
            ["stages.first.until={steps: 9, plateau: {metric: time/step/s}}"],
            ["goes by the clock", "gpu_hours"],
        ),
        (
            ["stages.first.until={steps: 9, any: [{plateau: {metric: rewrd/total/mean}}]}"],
            ["until.any.0.plateau.metric", "'rewrd/total/mean'", "'reward'"],
        ),
        (
            ["stages.first.until={steps: 9, plateau: {metric: reward/style/mean}}"],
            ["no reward 'style'"],
        ),
        (
            ["stages.first.until={steps: 9, pass_rate: {low: 0.5, distribution: tow}}"],
            ["pass_rate.distribution", "'tow'", "'two'"],
        ),
        (["stages.cold.until={steps: 9, truncated: {above: 0.5}}"], ["cold", "samples nothing"]),
        (["stages.cold.until={gpu_hours: 1}"], ["cold", "steps, tokens or epochs"]),
        (["stages.first.until={pass_rate: {low: 0.5}}"], ["may never come"]),
        (["stages.first.best={metric: reward/total/mean}"], ["best.metric", "eval/accuracy/mean"]),
        (
            ["stages.first.best={}", "stages.first.evaluation.at_end=false"],
            ["is never measured"],
        ),
        (["stages.second.init=stage:first:best"], ["keeps no best checkpoint"]),
        (["stages.first.best={metric: eval/acuracy/mean}"], ["best.metric", "'accuracy'"]),
        (["stages.first.best={metric: eval/accuracy/tow}"], ["'tow'", "'two'"]),
        (["stages.first.best={metric: eval/pass_at_4/mean}"], ["evaluation.samples"]),
        (["stages.first.best={metric: eval/hybrid_accuracy/mean}"], ["evaluation.hybrid"]),
        (
            ["stages.cold.until={steps: 9, plateau: {metric: reward/total/mean}}"],
            ["kind sft", "'reward/total/mean'", "loss/sft/mean"],
        ),
        (
            ["stages.second.carry=[reference]", "stages.second.reference=base"],
            ["carry", "leave one of them out"],
        ),
    ],
)
def test_ends_that_cannot_come_are_refused(overrides: list[str], words: list[str]) -> None:
    with pytest.raises(ValueError) as error:
        tiny_recipe(*overrides)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_ends_that_can_come_are_taken() -> None:
    for metric in ("loss/sft/mean", "grad/norm", "eval/pass_at_4/two", "eval/unjudged/sum"):
        tiny_recipe(
            "stages.cold.evaluation={every: 1, samples: 4}",
            f"stages.cold.until={{steps: 9, plateau: {{metric: {metric}}}}}",
        )
    tiny_recipe("stages.first.until={steps: 9, plateau: {metric: mode/think/share}}")
    prefer = {**DPO, "until": {"steps": 9, "plateau": {"metric": "dpo/margin/mean"}}}
    assert recipe(prefer).stages[0].planned_steps == 9
    # What is written is not evaluated on: the distributions that it was made of are.
    read = {"name": "read", "kind": "sft", "mixture": ["kept"], "until": 2}
    recipe(REJECTION, {**read, "best": {"metric": "eval/accuracy/two"}})
    with pytest.raises(ValueError, match="'kept'"):
        recipe(REJECTION, {**read, "best": {"metric": "eval/accuracy/kept"}})


def test_tokens_are_counted_out_no_further_than_the_stage_can_go() -> None:
    """Steps of 8 rows with 5 tokens each."""
    recipe = tiny_recipe()
    run: Any = SimpleNamespace(recipe=recipe, data=RunData(recipe, tokenizer_of(recipe), 128))
    stage: Any = recipe.stages[0]
    rows = sum(run.data.pool(stage).sizes.values())
    task: Any = SimpleNamespace(trained=np.full(rows, 5))
    for until, steps in (
        ({"tokens": 1000}, 25),
        ({"tokens": 10_001}, 251),
        ({"tokens": 10_001, "steps": 300}, 251),
        ({"tokens": 10**15, "steps": 3}, 3),
        ({"tokens": 10**15, "epochs": 1}, -(-rows // 8)),
        ({"tokens": 10**15, "any": [{"steps": 90}]}, 90),
    ):
        assert steps_at_most(Until.model_validate(until), run, stage, task) == steps


def test_what_is_sampled_with_a_hint_is_no_pass_rate() -> None:
    samples = [SampleOutcome(number, 1.0, 1.0, Status.SCORED, 3, False, 0) for number in range(2)]
    plain, hinted = (GroupId("first", uid, 0) for uid in (1, 2))
    log = VerdictLog()
    log.add([Delivery(plain, "two", (replace(samples[0], correct=0.0),))], (), {hinted})
    log.add([Delivery(hinted, "two", tuple(samples))], (), {hinted})
    metrics = log.metrics()
    assert metrics["sampled/correct/two"] == metrics["sampled/correct/mean"] == 0.0
    assert metrics["grade/scored/sum"] == 3


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        (
            "{schedule: step_exp_n, start: 9, end: 3, drops: 1, total: 6}",
            "ends at step 6, after the stage does (4)",
        ),
        (
            "{schedule: step_exp_n, start: 9, end: 3, drops: 1, total: 3}",
            "ends at step 3, before the stage does (4)",
        ),
        (
            "{schedule: linear, start: 9, end: 3, over: 2, on: step}",
            "before the stage begins (step 2)",
        ),
        (
            "{schedule: linear, start: 9, end: 3, over: 5, on: stage_step}",
            "stage_step 5, after the stage does (2)",
        ),
        ("{schedule: piecewise, points: [[0, 9], [1.5, 3]]}", "ends at progress 1.5"),
        ("{schedule: step_linear, start: 9, end: 3, drops: 1, total: 4}", None),
        ("{schedule: piecewise, points: [[0, 9], [0.5, 3]]}", None),
        ("{schedule: linear, start: 9, end: 3}", None),
    ],
)
def test_check_tells_of_schedules_that_do_not_end_with_their_stage(
    schedule: str, words: str | None
) -> None:
    recipe = tiny_recipe(f"stages.first.rewards.length_budget.target={schedule}")
    said = check_schedules(recipe)["first"]
    if words is None:
        assert said == []
    else:
        assert len(said) == 1 and words in said[0]
        assert said[0].startswith("stages.first.rewards.length_budget.target: ")


def test_a_schedule_that_goes_on_in_a_later_stage_may_end_there() -> None:
    budget = "{schedule: step_exp_n, start: 9, end: 3, drops: 2, total: 6}"
    both = [f"stages.{name}.rewards.length_budget.target={budget}" for name in ("first", "second")]
    said = check_schedules(tiny_recipe(*both))
    assert said["second"] == [] and "before the stage does" not in " ".join(said["second"])
    assert all("after the stage" not in one for one in said["first"])


def test_progress_needs_steps_and_the_key_is_named() -> None:
    rate = "{schedule: linear, start: 0.001, end: 0}"
    tokens = "stages.first.until={tokens: 100}"
    with pytest.raises(ValueError, match=r"stages\.first\.optim\.learning_rate: .*until\.steps"):
        tiny_recipe(tokens, f"stages.first.optim.learning_rate={rate}")
    recipe = tiny_recipe(tokens, f"stages.first.rewards.length_budget.target={rate}")
    with pytest.raises(ValueError, match=r"rewards\.length_budget\.target: .*until\.steps"):
        check_schedules(recipe)


def test_gpu_hours_are_said_to_be_the_clock() -> None:
    said = check_schedules(tiny_recipe("stages.first.until={steps: 9, gpu_hours: 1}"))["first"]
    assert len(said) == 1 and "not reproducible" in said[0]


# A run whose stages all end by what they saw. `first` has its shortest completions first, so that it rolls back.
ENDS = (
    "stages.cold.until={steps: 9, all: [{tokens: 150}, {epochs: 0.2}]}",
    "stages.first.until={steps: 9, truncated: {above: 0.1, window: 3}}",
    "stages.first.evaluation.every=1",
    "stages.first.best={metric: eval/length/mean, rollback: true}",
    "stages.second.until={tokens: 100000, any: [{plateau: {metric: reward/total/mean, patience: 2}}, {steps: 6}]}",
    "stages.second.objective={name: grpo, kl: {coef: 0.05}}",
    "stages.second.reference=stage:cold",
    "stages.second.carry=[optimizer]",
    "stages.second.optim.minibatches=1",
    "stages.second.rollout.temperature={schedule: linear, start: 1.0, end: 0.7, over: 4, on: stage_step}",
    "run.checkpoints.every=1",
)


def ends_of(run_dir: Path) -> list[dict[str, Any]]:
    kept = ("stage_ended", "rolled_back", "best")
    found = [row for row in read_jsonl(run_dir / EVENTS) if row["event"] in kept]
    return [{key: value for key, value in row.items() if key != "time"} for row in found]


def timeless(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without what goes by the clock."""
    return [
        {key: value for key, value in row.items() if not key.startswith(VOLATILE)} for row in rows
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("ends") / "run"
    assert rlcurric.train(tiny_recipe(*ENDS), run_dir).status == "done"
    return run_dir


def test_stages_end_by_what_they_saw(whole: Path) -> None:
    metrics = {row["step"]: row for row in read_jsonl(whole / METRICS)}
    cold, first, second = (row for row in ends_of(whole) if row["event"] == "stage_ended")
    trained = [metrics[step]["tokens/trained/sum"] for step in range(1, cold["last_step"] + 1)]
    assert cold["reason"] == "all.0.tokens and all.1.epochs"
    assert cold["values"] == {
        "tokens": sum(trained),
        "epochs": metrics[cold["last_step"]]["data/epochs/sum"],
    }
    assert sum(trained[:-1]) < 150 or metrics[cold["last_step"] - 1]["data/epochs/sum"] < 0.2
    assert (first["first_step"], first["last_step"]) == (
        cold["last_step"] + 1,
        cold["last_step"] + 3,
    )
    cut = [
        metrics[step]["sampled/truncated/mean"]
        for step in range(first["first_step"], first["last_step"] + 1)
    ]
    assert first["values"] == {"sampled/truncated/mean": pytest.approx(sum(cut) / 3)}
    assert second["reason"] in ("any.0.plateau", "any.1.steps")
    state = CheckpointStore(whole / "checkpoints", 1).last()
    assert state is not None
    ended = state.state()["ended"]
    assert [one["stage"] for one in ended] == ["cold", "first", "second"]
    assert ended == [{key: row[key] for key in ended[0]} for row in (cold, first, second)]


def test_a_stage_hands_over_its_best_checkpoint(whole: Path) -> None:
    """`second` starts from the best of `first`: its weights before the first step are those of that checkpoint."""
    events = read_jsonl(whole / EVENTS)
    first = next(row for row in events if row["event"] == "stage_ended" and row["stage"] == "first")
    rolled = next(row for row in events if row["event"] == "rolled_back")
    metrics = {row["step"]: row for row in read_jsonl(whole / METRICS)}
    lengths = {
        s: metrics[s]["eval/length/mean"]
        for s in range(first["first_step"], first["last_step"] + 1)
    }
    assert first["best_value"] == max(lengths.values())
    assert first["best_step"] == min(
        s for s, value in lengths.items() if value == first["best_value"]
    )
    assert first["best_step"] < first["last_step"], (
        "nothing to roll back to: the test shows nothing"
    )
    assert (rolled["to"], first["hands_over"]) == (first["best_step"], first["best_step"])


def test_the_best_can_be_named_and_stays(whole: Path, tmp_path: Path) -> None:
    """Without rollback, from `stage:first:best`: the first gradient of `second` is that behind the rollback."""
    run_dir = tmp_path / "run"
    rlcurric.train(
        tiny_recipe(
            *ENDS,
            "run.checkpoints={every: 1, keep_last: 1}",
            "stages.first.best.rollback=false",
            "stages.second.init=stage:first:best",
            "stages.second.carry=[]",
            "stages.second.until.steps=1",
        ),
        run_dir,
    )
    over = [row for row in ends_of(run_dir) if row["event"] == "stage_ended"]
    first_step = over[-1]["first_step"]
    assert over[1]["hands_over"] == over[1]["last_step"] > over[1]["best_step"]
    named, rolled = (
        next(row for row in read_jsonl(folder / METRICS) if row["step"] == first_step)
        for folder in (run_dir, whole)
    )
    same = ("grad/norm", "loss/policy/mean", "reward/total/mean", "tokens/generated/sum")
    assert {key: named[key] for key in same} == {key: rolled[key] for key in same}
    stays = {row[key] for row in over for key in ("last_step", "best_step")} - {None}
    assert {one.step for one in CheckpointStore(run_dir / "checkpoints", 1).all()} == stays


def test_the_reference_is_that_of_the_stage_that_is_named(whole: Path) -> None:
    over = {row["stage"]: row for row in ends_of(whole) if row["event"] == "stage_ended"}
    store = CheckpointStore(whole / "checkpoints", 1)
    cold, second = (store.at(over[name]["last_step"]) for name in ("cold", "second"))
    pieces = PieceReader(second.path, second.manifest["files"])
    names = [name for name in pieces.names() if name.startswith(PREFIX)]
    given = load_file(cold.model / "model.safetensors")
    assert {name.removeprefix(PREFIX) for name in names} == given.keys()
    for name in names:
        tensor = given[name.removeprefix(PREFIX)].reshape(-1)
        assert torch.equal(pieces.read(name, 0, tensor.numel()), tensor), name


@pytest.mark.slow
def test_stopping_at_every_step_ends_every_stage_alike(whole: Path, tmp_path: Path) -> None:
    last = read_jsonl(whole / METRICS)[-1]["step"]
    run_dir = tmp_path / "run"
    for step in range(1, last):
        assert rlcurric.train(tiny_recipe(*ENDS), run_dir, stop_at=step).step == step
    rlcurric.train(tiny_recipe(*ENDS), run_dir)
    assert first_difference(whole, run_dir) is None
    assert ends_of(run_dir) == ends_of(whole)


def test_a_fork_of_a_stage_goes_on_from_what_it_handed_over(whole: Path, tmp_path: Path) -> None:
    fork = tmp_path / "fork"
    rlcurric.train(tiny_recipe(*ENDS), fork, start_from=f"{whole}:first")
    ours, all_of_them = (timeless(read_jsonl(folder / METRICS)) for folder in (fork, whole))
    assert len(ours) > 1 and ours == [row for row in all_of_them if row["stage"] == "second"]
    of_second = [row for row in ends_of(whole) if row.get("stage") == "second"]
    assert of_second and ends_of(fork) == of_second
    one, other = (CheckpointStore(folder / "checkpoints", 1).last() for folder in (whole, fork))
    assert one is not None and other is not None and one.step == other.step
    assert one.state()["ended"] == other.state()["ended"]
    theirs = load_file(other.model / "model.safetensors")
    for name, tensor in load_file(one.model / "model.safetensors").items():
        assert torch.equal(tensor, theirs[name]), name
    with pytest.raises(ValueError, match=r"'second' has not ended in"):
        stopped = tmp_path / "stopped"
        rlcurric.train(tiny_recipe(*ENDS), stopped, stop_at=1)
        rlcurric.train(tiny_recipe(*ENDS), tmp_path / "x", start_from=f"{stopped}:second")


def test_a_fork_within_a_stage_that_turns_the_penalty_on_needs_a_reference(
    whole: Path, tmp_path: Path
) -> None:
    """What `first` began with is not kept; the end of a stage, or a reference with a name, will do."""
    (first,) = (
        row for row in ends_of(whole) if (row["event"], row["stage"]) == ("stage_ended", "first")
    )
    begins, ends = first["first_step"], first["last_step"]
    penalty = (*ENDS, "stages.first.objective={name: grpo, kl: {coef: 0.05, estimator: k3}}")
    fork = tmp_path / "fork"
    with pytest.raises(ValueError, match=r"stages\.first\.reference: init\) were not kept"):
        rlcurric.train(tiny_recipe(*penalty), fork, start_from=f"{whole}:{begins}")
    assert not fork.exists()
    named = tiny_recipe(*penalty, "stages.first.reference=stage:cold")
    rlcurric.train(named, fork, start_from=f"{whole}:{begins}", stop_at=begins + 1)
    assert read_jsonl(fork / METRICS)[0]["kl/ref_k3/mean"] > 0
    behind = tmp_path / "behind"
    rlcurric.train(tiny_recipe(*penalty), behind, start_from=f"{whole}:{ends}", stop_at=ends + 1)
    assert read_jsonl(behind / METRICS)[0]["stage"] == "second"


def test_a_stage_that_ended_goes_on_where_its_until_allows_more(tmp_path: Path) -> None:
    short = ("stages.cold.until.steps=1", "stages.first.until.steps=1")
    run_dir = tmp_path / "run"
    assert rlcurric.train(tiny_recipe(*short), run_dir, stop_at=2).step == 2
    longer = (short[0], "stages.first.until.steps=2", "stages.second.until.steps=1")
    rlcurric.train(tiny_recipe(*longer), run_dir)
    stages = [row["stage"] for row in read_jsonl(run_dir / METRICS)]
    assert stages == ["cold", "first", "first", "second"]


PROGRAM = """
import os, signal, sys
import rlcurric
from rlcurric.train.rundir import RunDirectory
from tests.test_stage_ends import ENDS
from tests.tiny import tiny_recipe

run_dir, kind, stage = sys.argv[1:]
write = RunDirectory.event

def event(self, what, step, **detail):
    if what == kind and detail.get("stage") == stage:
        os.kill(os.getpid(), signal.SIGKILL)
    write(self, what, step, **detail)

RunDirectory.event = event
rlcurric.train(tiny_recipe(*ENDS), run_dir)
"""


@pytest.mark.slow
def test_kill_9_between_two_stages_changes_nothing(whole: Path, tmp_path: Path) -> None:
    """Killed behind the last checkpoint of a stage, before and after its end is told; then it goes on."""
    run_dir = tmp_path / "run"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for kind, stage in (
        ("stage_ended", "cold"),
        ("stage_started", "first"),
        ("stage_ended", "first"),
        ("stage_started", "second"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(run_dir), kind, stage],
            cwd=HERE.parent,
            env=environment,
            capture_output=True,
        )
        assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    rlcurric.train(tiny_recipe(*ENDS), run_dir)
    assert first_difference(whole, run_dir) is None
    assert ends_of(run_dir) == ends_of(whole)
