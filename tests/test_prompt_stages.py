"""Prompts by stage, in runs of seconds: budgets on a schedule, forced modes, hints; stopped in the middle and resumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rlcurric
from rlcurric.build import RunData
from rlcurric.build.curriculum import bind_curriculum
from rlcurric.curriculum.decisions import recompute, verify
from rlcurric.recipe.schema import Recipe
from rlcurric.report.difference import first_difference
from rlcurric.report.tables import read_run
from rlcurric.rollout.engine import SampleRequest, SamplingSpec
from rlcurric.rollout.replay_engine import ReplayEngine
from rlcurric.train.checkpoint import CheckpointStore
from rlcurric.train.models import tokenizer_of
from tests.tiny import TINY, tiny_recipe

BUDGET = {"schedule": "step_exp", "start": 12, "gamma": 0.7, "every": 1}
STAGE: dict[str, Any] = {
    "name": "rl",
    "curriculum": {"prompts_per_step": 4, "group_size": 4},
    "optim": {"learning_rate": 1e-3},
    "evaluation": {"at_end": False},
    "until": {"steps": 3},
}


def one_stage(recipe: dict[str, Any] | None = None, **keys: Any) -> Recipe:
    """A single RL stage from random weights that always trains, with these keys of it and of the recipe."""
    changes, stage = recipe or {}, {**STAGE, **keys}
    run = {**TINY["run"], "rollouts": {"every": 1, "include": "all", "max_per_step": 1000}}
    return tiny_recipe(**{"stages": [stage], "run": run, **changes})


def train_twice(recipe: Recipe, folder: Path, stop_at: int) -> Path:
    """Train at one go, and with a stop: the same to the last bit. The run that was not stopped."""
    whole, parted = folder / "whole", folder / "parted"
    rlcurric.train(recipe, whole)
    assert rlcurric.train(recipe, parted, stop_at=stop_at).status == "stopped"
    assert rlcurric.train(recipe, parted).status == "done"
    assert first_difference(whole, parted) is None
    ours, theirs = (CheckpointStore(run / "checkpoints", 1).newest() for run in (whole, parted))
    assert ours is not None and theirs is not None
    weights = [(one.model / "model.safetensors").read_bytes() for one in (ours, theirs)]
    assert weights[0] == weights[1]
    return whole


def rollouts(run: Path) -> list[dict[str, Any]]:
    """Every rollout of the log, step by step."""
    import pyarrow.parquet as pq

    files = sorted((run / "rollouts").glob("step-*.parquet"))
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def decisions(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "decisions.jsonl").read_text().splitlines()]


# --- variables --------------------------------------------------------------------------------------------------------


def test_text_and_target_fall_together_and_a_resume_between_drops_is_exact(tmp_path: Path) -> None:
    recipe = one_stage(
        {"schedules": {"budget": BUDGET}},
        prompt={"template": "{question}({token_budget})", "vars": {"token_budget": {"schedule": "budget"}}},
        rewards=[
            "verifier",
            {"name": "length_budget", "weight": 0.5, "target": {"schedule": "budget"}},
        ],
        curriculum={**STAGE["curriculum"], "oversample": 1.5},
    )  # fmt: skip
    run = train_twice(recipe, tmp_path, stop_at=1)
    shown: dict[int, set[str]] = {}
    for row in rollouts(run):
        shown.setdefault(row["step"], set()).add(row["prompt"].partition("=")[2])
    # groups that were carried over a drop keep the prompt that they were asked with
    assert shown == {1: {"(12)"}, 2: {"(12)", "(8)"}, 3: {"(8)", "(5)"}}
    for row in rollouts(run):
        length, target = row["length"], int(row["prompt"].partition("=")[2].strip("()"))
        peak = length / target if length <= target else 2 - length / target
        assert json.loads(row["breakdown"])["length_budget"] == pytest.approx(max(0.0, peak))


# --- modes ------------------------------------------------------------------------------------------------------------

MODES: dict[str, Any] = {
    "prompt": {"modes": {"think": "<think>", "no_think": "</think>"}},
    "rewards": [
        "verifier",
        {"name": "mode", "weight": 0},
        {"name": "hgpo_inter", "weight": 0},
        {"name": "hgpo_intra", "weight": 0, "scores": "reward"},
    ],
    "objective": {"name": "hgpo", "kl": 0.0},
}


@pytest.mark.slow
def test_modes_are_forced_by_halves_and_their_tokens_are_trained(tmp_path: Path) -> None:
    recipe = one_stage(**MODES)
    run = train_twice(recipe, tmp_path, stop_at=1)
    rows = rollouts(run)
    think, no_think = 2, 3  # ids of the tags
    for row in rows:
        name, token = (("think", think), ("no_think", no_think))[row["sample"] % 2]
        assert row["mode"] == name and row["completion_ids"][0] == token
        assert row["rollout_logprobs"][0] is None  # nobody sampled it
        assert all(one < 0 for one in row["rollout_logprobs"][1:])
        assert row["length"] == len(row["completion_ids"]) <= 12
        assert row["completion"].startswith("<think>" if name == "think" else "</think>")
        # also where the thought is closed at once
        assert json.loads(row["breakdown"])["mode"] == float(name == "think")
    for line in read_run(run).metrics:
        assert line["mode/think/share"] == line["mode/no_think/share"] == 0.5
        assert 0 < line["mode/think/probability"] < 1
        assert line["parity/logprob/max_abs"] < 1e-4
        assert line["parity/tokens/sum"] == sum(
            row["length"] - 1 for row in rows if row["step"] == line["step"]
        )
    replay = ReplayEngine(run)
    (prompt_ids, seed), (sample, _) = next(iter(replay._recorded.items()))
    forced = int(sample.completion_ids_T[0])
    found = replay.generate(
        [SampleRequest(prompt_ids, seed, (forced,))], SamplingSpec(12, 1.0, (1,))
    )
    assert np.isnan(found[0].rollout_logprobs_T[0]) and not np.isnan(found[0].rollout_logprobs_T[1])
    with pytest.raises(ValueError, match=r"recorded under other prompt\.modes"):
        replay.generate(
            [SampleRequest(prompt_ids, seed, (5 - forced,))], SamplingSpec(12, 1.0, (1,))
        )


# --- hints, behind a prefill ------------------------------------------------------------------------------------------

ELLIPSIS = "<think>\n...\n"
HINTED: dict[str, Any] = {
    "mixture": ["hard"],
    "prompt": {
        "template": "{question}",
        "prefill": ELLIPSIS,
        "hints": {"template": "({hint})", "max_level": 2, "max_share": 0.5},
    },
    "rewards": [
        "verifier",
        {"name": "mode", "weight": 0},
        {"name": "mode_table", "as": "table"},
        {"name": "length_budget", "weight": 0.2, "target": 8},
    ],
    "curriculum": {"prompts_per_step": 4, "group_size": 4, "scorer": "mopps"},
    "until": {"steps": 4},
}
HARD = {
    "distributions": {"hard": {"source": {"name": "tiny_tasks.py:hinted_sums"}}},
    "model": {
        **TINY["model"],
        "tokenizer": {**TINY["model"]["tokenizer"], "characters": "0123456789+-=() \n."},
    },
}


@pytest.mark.slow
def test_hints_go_up_where_nobody_solves_and_a_resume_keeps_their_levels(tmp_path: Path) -> None:
    recipe = one_stage(HARD, **HINTED)
    run = train_twice(recipe, tmp_path, stop_at=2)
    lines = decisions(run)
    level: dict[str, int] = {}
    seen: set[int] = set()
    for line in lines:
        if line["kind"] == "draw":
            shown = [one["hint"] for one in line["groups"]]
            assert sum(hint > 0 for hint in shown) <= 2
            for one in line["groups"]:
                assert one["hint"] in (0, one["level"])
                assert one["level"] in (0, level.get(one["uid"], 0))  # 0: the row without hints
            seen |= set(shown)
        if line["kind"] == "outcomes":
            for one in line["groups"]:
                hint = one.get("hint", 0)
                assert one["weight"] == (0.0 if hint else 1.0)
                if one["pass_rate"] == 0:
                    level[one["uid"]] = min(2, max(level.get(one["uid"], 0), hint + 1))
    assert seen == {0, 1, 2}
    for row in rollouts(run):
        assert row["prompt"].endswith(ELLIPSIS)
        question = row["prompt"].partition("=")[0] + "="
        hint = {0: "", 1: f"({question[:2]})", 2: f"({question})"}[row["hint"]]
        assert row["prompt"] == question + hint + ELLIPSIS
        # rewards see the prefill: a thought of dots alone that is closed at once is none
        thinks = not row["completion"].startswith("</think>")
        if "</think>" not in row["completion"] or not thinks:
            assert json.loads(row["breakdown"])["mode"] == float(thinks)
    last = read_run(run).metrics[-1]
    assert last["curriculum/hints/prompts"] == sum(one > 0 for one in level.values())
    assert last["curriculum/hints/groups"] == 2 and last["curriculum/late"] == 0
    again(recipe, lines)


def again(recipe: Recipe, lines: list[dict[str, Any]]) -> None:
    """Every decision can be made again from the log; a level or a hint that is another is found."""
    stage: Any = recipe.stages[0]
    pool = RunData(recipe, tokenizer_of(recipe), 128).pool(stage)
    assert verify(recipe.seed, lines) == []
    for source in (pool, None):
        parts = bind_curriculum(stage, recipe.base_dir, pool)
        assert recompute(recipe.seed, lines, parts, source) == []
    draw = [line for line in lines if line["kind"] == "draw"][-1]
    draw["groups"][0]["level"] += 1
    found = recompute(recipe.seed, lines, bind_curriculum(stage, recipe.base_dir, pool), pool)
    assert any("levels of hints" in problem for problem in found)
