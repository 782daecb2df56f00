"""Rewards in runs of seconds: streamed, shaped on the final batch, logged by distribution, the same at any number of workers."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import rlcurric
from rlcurric.errors import RunError
from rlcurric.recipe.schema import Recipe
from rlcurric.report.difference import first_difference
from rlcurric.report.digest import digest_run
from rlcurric.report.story import tell
from rlcurric.rewards.protocol import get_reward, load_reward_file
from rlcurric.rollout.engine import Sample, SampleRequest, SamplingSpec
from rlcurric.rollout.torch_engine import TorchEngine
from tests.tiny import HERE, tiny_recipe

load_reward_file(HERE / "runner_rewards.py")
GLOBALS: dict[str, Any] = get_reward("r_flip").function.__globals__  # type: ignore[attr-defined]

REWARDS: list[Any] = [
    {"name": "lucky"},
    {"name": "r_notes", "weight": 0.01},
    {"name": "r_flip", "weight": 0.5, "to": 0.3},
    {"name": "r_share", "weight": 0.25},
]


def recipe_of(
    *rewards: Any, workers: int = 2, steps: int = 2, pool: Any = (), **changes: Any
) -> Recipe:
    only = {
        "name": "only",
        "curriculum": {"prompts_per_step": 3, "group_size": 4, "oversample": 1.5, "pool": pool},
        "optim": {"learning_rate": 1e-3},
        "rewards": list(rewards),
        "grading": {"workers": workers, **changes},
        "evaluation": {"at_end": False},
        "until": {"steps": steps},
    }
    run = {
        "checkpoints": {"every": 1, "keep_last": 20},
        "rollouts": {"every": 1, "include": "all", "max_per_step": 1000},
        "threads": 1,
    }
    files = ["lucky.py", "runner_rewards.py"]
    return tiny_recipe(reward_files=files, stages=[only], run=run)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    rlcurric.train(recipe_of(*REWARDS), folder)
    return folder


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def rollouts(run: Path, step: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(
        run / "rollouts" / f"step-{step:06d}.parquet"
    ).to_pylist()
    return rows


def test_a_batch_shaper_sees_the_batch_that_is_trained(whole: Path) -> None:
    """Twelve samples of the batch, not the six of the two groups that were sampled beyond it."""
    for step in (1, 2):
        rows = rollouts(whole, step)
        shaped = [row for row in rows if "r_share" in json.loads(row["breakdown"])]
        assert len(shaped) == 12
        share = sum(row["correct"] for row in shaped) / 12
        for row in shaped:
            parts = json.loads(row["breakdown"])
            assert parts["r_share"] == pytest.approx(share + 12)
            before = row["correct"] + 0.01 * parts["r_notes"]
            assert parts["r_flip"] == pytest.approx(0.3 - before)
            total = before + 0.5 * parts["r_flip"] + 0.25 * parts["r_share"]
            assert row["reward"] == pytest.approx(total)


def test_means_are_logged_for_every_component_and_distribution(whole: Path) -> None:
    for line in lines(whole):
        shaped = [
            row
            for row in rollouts(whole, line["step"])
            if "r_share" in json.loads(row["breakdown"])
        ]
        for label in ("mean", *{row["distribution"] for row in shaped}):
            own = [row for row in shaped if label in ("mean", row["distribution"])]
            for name in ("lucky", "r_notes", "r_flip", "r_share"):
                values = [json.loads(row["breakdown"])[name] for row in own]
                assert line[f"reward/{name}/{label}"] == pytest.approx(sum(values) / len(values))
            mean = sum(row["reward"] for row in own) / len(own)
            assert line[f"reward/total/{label}"] == pytest.approx(mean)


def test_what_rewards_log_stands_in_the_logs(whole: Path) -> None:
    first, second = lines(whole)
    assert first["logged/seen/mean"] == 4.0
    assert first["grade/scored/sum"] == len(rollouts(whole, 1))
    assert second["grade/error/sum"] == second["grade/timeout/sum"] == 0
    row = rollouts(whole, 2)[0]
    assert json.loads(row["notes"]) == {"upper": row["completion"].upper()}
    assert json.loads(row["breakdown"])["r_notes"] == pytest.approx(1.002)  # step 1 of 2 is done


def test_the_run_is_the_same_with_another_number_of_workers(whole: Path, tmp_path: Path) -> None:
    rlcurric.train(recipe_of(*REWARDS, workers=1), tmp_path / "one")
    assert first_difference(whole, tmp_path / "one") is None


def test_a_stopped_and_resumed_run_is_the_same(whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert rlcurric.train(recipe_of(*REWARDS), run, stop_at=1).status == "stopped"
    rlcurric.train(recipe_of(*REWARDS), run)
    assert first_difference(whole, run) is None


def test_groups_are_scored_while_the_engine_samples_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine holds the last sample back until a group that it delivered before was scored."""
    called: threading.Event = GLOBALS["CALLED"]
    stream, waited = TorchEngine.stream, []

    def holding(
        self: TorchEngine, requests: Sequence[SampleRequest], spec: SamplingSpec
    ) -> Iterator[tuple[int, Sample]]:
        called.clear()
        for number, found in enumerate(stream(self, requests, spec)):
            if number and number == len(requests) - 1:
                waited.append(called.wait(60))
            yield found

    monkeypatch.setattr(TorchEngine, "stream", holding)
    recipe = recipe_of("lucky", "r_size", steps=1)
    monkeypatch.setattr("rlcurric.train.rl.RlLeader._probe", lambda self: iter(()))
    rlcurric.train(recipe, tmp_path / "run")
    assert waited
    assert all(waited)


def test_an_outage_while_a_pool_is_screened_stops_the_run_with_the_cause(tmp_path: Path) -> None:
    """Else every prompt would pass for one that nobody could judge."""
    recipe = recipe_of("r_outage", pool={"name": "screened", "samples": 2}, window=24)
    with pytest.raises(RunError, match="error: r_outage: RuntimeError: asked to"):
        rlcurric.train(recipe, tmp_path / "run")
    assert "grader_failures" in (tmp_path / "run" / "events.jsonl").read_text()
    assert not list((tmp_path / "run" / "screening").glob("*.jsonl")), "nothing was measured"


def test_a_batch_shaper_that_fails_stops_the_run_with_the_cause(tmp_path: Path) -> None:
    """Its samples are trained on in no step, and count against the budget."""
    recipe = recipe_of("lucky", "r_broken_batch", steps=30, window=24, max_failures=0.5)
    with pytest.raises(RunError, match=r"12 of the last|24 of the last|r_broken_batch"):
        rlcurric.train(recipe, tmp_path / "run")
    events = (tmp_path / "run" / "events.jsonl").read_text()
    assert "error: r_broken_batch: RuntimeError: asked to" in events
    digest = digest_run(tmp_path / "run")
    assert digest.condition == "failed"
    (failed,) = [one for one in digest.events if one.kind == "rank_failed"]
    assert "graders failed for" in failed.text and failed.text.startswith("rank 0 failed in ")
    assert tell(digest).trouble[0].text.endswith(f": {failed.text}")
    assert all(line["batch/rollouts/sum"] == 0 for line in lines(tmp_path / "run"))
