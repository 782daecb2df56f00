"""Curricula as recipes spell them, in runs of seconds: what they promise is in the logs, and stopping changes nothing."""

from __future__ import annotations

import os
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
from rlcurric.report.compare import first_difference
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
