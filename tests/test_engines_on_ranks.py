"""Engines on two real ranks: one each, and one over both of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

import rlcurric
from rlcurric import read_run
from tests.tiny import tiny_recipe

pytestmark = [pytest.mark.slow, pytest.mark.vllm]
ROOT = Path(__file__).resolve().parent.parent
PROGRAM = """
import sys
import rlcurric
from tests.tiny import tiny_recipe

if __name__ == "__main__":
    rlcurric.train(tiny_recipe(*sys.argv[2:]), sys.argv[1])
"""
OVERRIDES = (
    "rollout.engine=vllm",
    "rollout.vllm.sleep=on",
    "model.architecture.kv_heads=2",
    "stages.first.init=base",
    "stages.first.until.steps=2",
    "stages.second.until.steps=1",
    # Random weights solve nothing whole.
    "distributions.two.source.name=tiny_tasks.py:scored_sums",
    "distributions.three.source.name=tiny_tasks.py:scored_sums",
    # Groups that go on in a second round: they stay with the engine, and the rank, that has them.
    "stages.first.curriculum={prompts_per_step: 4, group_size: 4, plan: {name: speed, initial: 2}}",
    "stages.first.evaluation={prompts: 5, every: 1, samples: 2}",
    "run.rollouts.include=all",
)


def on_two_ranks(run_dir: Path, *overrides: str) -> None:
    program = run_dir.parent / "program.py"
    program.write_text(PROGRAM)
    launcher = [sys.executable, "-m", "accelerate.commands.launch"]
    configuration = ["--config_file", str(ROOT / "launch" / "cpu_2_ranks.yaml")]
    done = subprocess.run(
        [*launcher, *configuration, str(program), str(run_dir), *OVERRIDES, *overrides],
        cwd=ROOT,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    told = [line for line in done.stderr.splitlines() if "Error" in line or "File" in line]
    assert done.returncode == 0, "\n".join(told)[-3000:]


def sampled(table: pa.Table) -> dict[tuple[str, int, int], tuple[list[int], str]]:
    """Tokens and breakdown of every sample."""
    return {
        (row["uid"], row["visit"], row["sample"]): (row["completion_ids"], row["breakdown"])
        for row in table.to_pylist()
    }


def test_what_is_sampled_does_not_depend_on_how_many_ranks_hold_an_engine(tmp_path: Path) -> None:
    """Tokens, rewards and evaluations of one rank, of two with an engine each, and of one engine over both.

    The width changes between the stages of the last, so that one engine ends and another begins.
    """
    alone, each, both = tmp_path / "alone", tmp_path / "each", tmp_path / "both"
    rlcurric.train(tiny_recipe(*OVERRIDES), alone)
    on_two_ranks(each)
    on_two_ranks(both, "stages.first.rollout.vllm.tensor_parallel=2")
    runs = [read_run(path) for path in (alone, each, both)]
    step = 3  # the first of reinforcement learning, after two of supervised training
    tables = [sampled(run.rollouts(step)) for run in runs]
    assert len(tables[0]) >= 8
    assert any(sample >= 2 for _, _, sample in tables[0])  # some group went on
    assert tables[0] == tables[1] == tables[2]
    ended = [[line for line in run.decisions if line["step"] == step] for run in runs]
    assert ended[0] == ended[1] == ended[2]  # draws, continuations, outcomes of every group
    assert any(line["kind"] == "continue" for line in ended[0])
    for run in runs:
        trained = [row for row in run.metrics[2:] if "grad/norm" in row]
        assert step in [row["step"] for row in trained]
        for row in trained:
            assert row["parity/logprob/max_abs"] < 1e-4
            assert row["parity/tokens/sum"] > 0
    kept = ("reward/total/mean", "parity/tokens/sum", "eval/accuracy/mean", "eval/length/mean")
    found = [{key: run.metrics[step - 1][key] for key in kept} for run in runs]
    assert found[0] == pytest.approx(found[1]) and found[0] == pytest.approx(found[2])


def test_a_width_that_does_not_fit_the_ranks_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must be a multiple of it, got 1\. Start 2 ranks"):
        rlcurric.train(tiny_recipe(*OVERRIDES, "rollout.vllm.tensor_parallel=2"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_engine_that_slept_in_a_step_without_an_update_gets_its_weights_again(
    tmp_path: Path,
) -> None:
    """The value model was fitted while the engine slept, then no group was admitted: nothing was synced."""
    recipe = tiny_recipe(
        *OVERRIDES[:3],
        "stages.first.init=base",
        "stages.first.until.steps=2",
        "stages.first.curriculum={prompts_per_step: 2, group_size: 2, refill_rounds: 0, scorer: pcl, "
        "gate: {name: pass_rate_range, low: 0.9}}",  # open: solved always or seldom is refused, and a group has two
        "stages.first.evaluation.every=1",
    )
    result = rlcurric.train(recipe, tmp_path / "run", stop_at=4)
    assert result.step == 4
    run = read_run(tmp_path / "run")
    assert [row["step"] for row in run.metrics[2:]] == [3, 4]
    for row in run.metrics[2:]:
        assert "grad/norm" not in row and row["eval/length/mean"] > 0
    fitted = [row for row in run.metrics[2:] if any("curriculum/value" in key for key in row)]
    assert len(fitted) == 2
