"""Objectives as recipes spell them, in runs of seconds; and what recipes may not say."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rlcurric
from rlcurric.build import Parts
from rlcurric.objective.declaration import Objective
from rlcurric.objective.kl import Kl
from rlcurric.objective.presets import grpo, hpt, rloo
from rlcurric.report.difference import first_difference
from rlcurric.report.tables import read_run
from rlcurric.rollout.engine import SampleRequest, SamplingSpec
from rlcurric.rollout.replay_engine import ReplayEngine
from rlcurric.train.advantages import batch_advantages, imitated
from rlcurric.types import AdmittedGroup, Batch, GroupId, Prompt, SampleOutcome, Status
from tests.tiny import TINY, tiny_recipe

PRESETS = [
    *("grpo", "dr_grpo", "dapo", "rloo", "reinforce_pp", "reinforce_pp_baseline", "gspo"),
    *("gspo_token", "cispo", "sapo", "luspo", "gmpo", "vespo", "two_sided", "dual_clip", "bnpo"),
]


def objective_of(spec: Any) -> Objective:
    """What the stage `second` is trained with."""
    recipe = tiny_recipe(f"stages.second.objective={json.dumps(spec)}")
    parts = Parts(recipe)
    try:
        made: Objective = parts.objective(recipe.stages[2])  # type: ignore[arg-type]
        return made
    finally:
        parts.close()


def shortened(*overrides: str) -> Any:
    """Only the second RL stage, from random weights, ungated so that it always trains."""
    stages = [
        {**TINY["stages"][2], "carry": [], "curriculum": {"prompts_per_step": 3, "group_size": 4}}
    ]
    return tiny_recipe(*overrides, stages=stages)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_trains(name: str, tmp_path: Path) -> None:
    kl = (
        ["stages.second.objective.kl_coef=0.1"]
        if name in ("rloo", "reinforce_pp", "two_sided")
        else []
    )
    single = ["optim.minibatches=1", "optim.tokens_per_microbatch=4096"] if name == "bnpo" else []
    recipe = shortened(f"stages.second.objective={{name: {name}}}", *kl, *single)
    rlcurric.train(recipe, tmp_path / "run")
    rows = read_run(tmp_path / "run").metrics
    assert len(rows) == 2
    for row in rows:
        assert row["grad/norm"] > 0
        assert row["parity/logprob/max_abs"] < 1e-4
        assert row["mismatch/ess/mean"] == pytest.approx(1.0, abs=1e-6)
    if name in ("rloo", "reinforce_pp"):
        assert "kl/ref_k1/mean" in rows[1]


PIECES = {
    "name": "pieces",
    "advantage": {"name": "leave_one_out", "normalise": True},
    "weight": "sequence",
    "surrogate": {
        "name": "clip",
        "low": 0.1,
        "high": {"schedule": "linear", "start": 0.2, "end": 0.4},
    },
    "stabilisers": [
        {"name": "icepop", "low": 0.4},
        {"name": "top_entropy", "fraction": 0.5},
        "d3s_tokens",
    ],
    "aggregation": "constant",
    "kl": {"coef": 0.01, "estimator": "k3", "sync_every": 1},
    "entropy": {"adaptive": {"target": 9.0}},
    "terms": [{"name": "llds", "coef": 0.3, "gate": "token", "denominator": "all"}, "tea_rl"],
    "ntp_coef": 0.1,
    "train_truncated": False,
}


def test_a_recipe_may_spell_out_every_piece(tmp_path: Path) -> None:
    objective = objective_of(PIECES)
    assert objective.surrogate.args["low"] == 0.1
    assert [piece.name for piece in objective.stabilisers] == [
        "icepop",
        "top_entropy",
        "d3s_tokens",
    ]
    assert objective.kl.sync_every == 1 and objective.terms[0].args["denominator"] == "all"
    recipe = shortened(
        f"stages.second.objective={json.dumps(PIECES)}", "curriculum.token_fraction=0.5"
    )
    rlcurric.train(recipe, tmp_path / "run")
    rows = read_run(tmp_path / "run").metrics
    for row in rows:
        assert row["grad/norm"] > 0
        kept = row["stabiliser/top_entropy/mean"]
        assert 0.4 < kept < 0.7
        assert row["loss/supervised/mean"] > 0
        assert row["stabiliser/d3s_tokens/mean"] == pytest.approx(
            1.0
        )  # tokens / kept, kept of them
    assert [row["entropy/coef"] for row in rows] == [0.0025, 0.01] or rows[1]["entropy/coef"] > 0
    assert rows[1]["kl/ref_k3/mean"] < 1.0


def test_pieces_change_a_preset_without_losing_the_rest() -> None:
    changed = objective_of({"name": "two_sided", "delta": 5.0, "kl": {"coef": 0.2}})
    assert changed.surrogate.args["delta"] == 5.0
    assert (changed.kl.coef, changed.kl.estimator) == (0.2, "k3")
    assert objective_of({"name": "grpo", "entropy": 0.01}).entropy.coef == 0.01
    assert objective_of({"name": "grpo", "entropy": {"adaptive": "skywork"}}).entropy.adaptive
    assert (
        objective_of({"name": "hpt", "demonstrations": {"gate": 0.25}}).demonstrations.gate == 0.25
    )  # type: ignore[union-attr]
    assert objective_of({"name": "grpo", "stabilisers": []}).stabilisers == ()
    assert objective_of({"kl": {"coef": 0.3}}) == replace(grpo(), kl=Kl(0.3))


@pytest.mark.parametrize(
    ("spec", "match"),
    [
        ("grop", r"Unknown objective 'grop'. Did you mean 'grpo'"),
        (
            {"name": "grpo", "clip_hihg": 0.3},
            r"objective: unknown argument 'clip_hihg'. Did you mean 'clip_high'",
        ),
        (
            {"name": "grpo", "weihgt": "token"},
            r"objective: unknown argument 'weihgt'. Did you mean 'weight'",
        ),
        (
            {"name": "grpo", "weight": "tokens"},
            r"objective.weight: Unknown weight 'tokens'. Did you mean 'token'",
        ),
        (
            {"name": "grpo", "surrogate": {"name": "clip", "lo": 1}},
            r"objective.surrogate: unknown argument 'lo'",
        ),
        ({"name": "grpo", "surrogate": {"low": 1}}, r"objective.surrogate: a name, or"),
        (
            {"name": "grpo", "surrogate": {"name": "clip", "low": "much"}},
            r"objective.surrogate.low: .*'much'",
        ),
        (
            {"name": "grpo", "surrogate": {"name": "clip", "low": -1}},
            r"objective: The surrogate clip needs low in \[0, 1\]",
        ),
        (
            {"name": "grpo", "stabilisers": "icepop"},
            r"objective.stabilisers: a list of pieces is required",
        ),
        (
            {"name": "grpo", "stabilisers": ["iceop"]},
            r"objective.stabilisers.0: Unknown stabiliser 'iceop'",
        ),
        ({"name": "grpo", "kl": {"coef": 0.1, "estimator": "k1"}}, r"objective: kl: k1 as a loss"),
        (
            {"name": "grpo", "kl": {"coeff": 0.1}},
            r"objective.kl: unknown argument 'coeff'. Did you mean 'coef'",
        ),
        ({"name": "grpo", "kl": {"estimator": "k4"}}, r"objective.kl.estimator: .*'k4'"),
        (
            {"name": "grpo", "entropy": {"adaptive": "skywrok"}},
            r"objective.entropy.adaptive: unknown 'skywrok'",
        ),
        ({"name": "grpo", "ntp_coef": -1}, r"objective: ntp_coef must be at least 0"),
        ({"name": "grpo", "train_truncated": "perhaps"}, r"objective.train_truncated: .*'perhaps'"),
        ({"name": "hpt", "gate": 1.5}, r"objective: demonstrations.gate must be in \[0, 1\)"),
        ({"name": "hgpo"}, r"reads the reward component 'hgpo_intra'"),
        ({"name": "hpt", "coef": -1}, r"demonstrations.coef must be at least 0"),
        ({"name": "grpo", "clip_low": float("nan")}, r"objective.clip_low: .*finite"),
        (
            {"name": "grpo", "clip_high": 0.3, "surrogate": "clip"},
            r"clip_high has no effect beside surrogate",
        ),
        ({"name": "gmpo", "weight": "sequence"}, r"weight has no effect: the surrogate gmpo"),
        (
            {"name": "grpo", "cluster_by": "skill"},
            r"cluster_by: the advantage group_advantages does not look",
        ),
        (
            {"name": "grpo", "kl": {"coef": 0.1, "sync_mix": 0.5}},
            r"sync_mix has no effect without kl.sync_every",
        ),
        ({"name": "vespo", "stabilisers": ["truncated_importance"]}, r"would correct it again"),
        ({"name": "grpo", "terms": [{"name": "llds", "coef": -1}]}, r"llds needs coef >= 0"),
    ],
)
def test_what_an_objective_may_not_say(spec: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        objective_of(spec)


def test_a_piece_of_one_s_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "import torch\nfrom rlcurric import register\n\n"
        "@register('surrogate', 'squared')\n"
        "def squared(weight_N, advantages_N, slope: float = 1.0):\n"
        "    return slope * (weight_N - 1) ** 2 - weight_N * advantages_N\n"
    )
    spec = {"name": "grpo", "surrogate": {"name": f"{file}:squared", "slope": 0.5}}
    recipe = shortened(f"stages.second.objective={json.dumps(spec)}")
    rlcurric.train(recipe, tmp_path / "run")
    assert all(row["grad/norm"] > 0 for row in read_run(tmp_path / "run").metrics)
    with pytest.raises(ValueError, match=r"unknown argument 'slop'\. Did you mean 'slope'"):
        objective_of({"name": "grpo", "surrogate": {"name": f"{file}:squared", "slop": 1}})
    others = tmp_path / "others.py"
    others.write_text(
        "def to_ref(logprobs_N, ref_logprobs_N):\n    return logprobs_N - ref_logprobs_N\n\n"
        "def odd(mode_advantages_N):\n    return mode_advantages_N\n"
    )
    with pytest.raises(ValueError, match="without a KL penalty no reference is kept"):
        objective_of({"name": "grpo", "terms": [f"{others}:to_ref"]})
    with pytest.raises(ValueError, match="odd takes mode_advantages_N, which there is not"):
        objective_of({"name": "grpo", "stabilisers": [f"{others}:odd"]})


# --- hpt --------------------------------------------------------------------------------------------------------------


def test_questions_solved_too_rarely_are_shown_instead(tmp_path: Path) -> None:
    """A model that solves nothing: every group gives its demonstration, and none of its rollouts."""
    recipe = shortened("stages.second.objective={name: hpt, gate: 0.9}", "optim.minibatches=1")
    rlcurric.train(recipe, tmp_path / "run")
    for row in read_run(tmp_path / "run").metrics:
        shown = row["batch/demonstrations/sum"]
        assert shown == row["batch/groups/sum"] == 3
        assert row["loss/supervised/mean"] > 0 and row["loss/policy/mean"] == 0
        assert row["grad/norm"] > 0


@pytest.mark.parametrize(("gate", "shown"), [(0.0, False), (0.125, True), (0.25, True)])
def test_the_gate_of_hpt_is_a_share_of_the_group(gate: float, shown: bool) -> None:
    """One of eight solved: the rollouts where the gate is 0, the demonstration where it is 1/8 or 1/4."""
    batch = batch_of({"a": ([1.0] + [0.0] * 7, {})})
    assert imitated(hpt(gate=gate).demonstrations, batch.groups[0]) is shown


def test_hpt_needs_demonstrations_in_the_data(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"question": "1+1=", "answer": "2"}\n' * 1)
    recipe = shortened(
        "stages.second.objective={name: hpt}",
        f"distributions={{two: {{source: {{name: file, path: '{tmp_path}/rows.jsonl'}}}}}}",
        "stages.second.mixture=[two]",
    )
    with pytest.raises(ValueError, match="no column 'demonstration'"):
        rlcurric.train(recipe, tmp_path / "run")


def test_a_gate_would_refuse_what_hpt_wants_to_show(tmp_path: Path) -> None:
    gated = shortened("stages.second.objective={name: hpt}", "curriculum.gate=zero_variance")
    with pytest.raises(ValueError, match=r"wants to show a demonstration for\. Leave the gate out"):
        rlcurric.train(gated, tmp_path / "run")
    lora = shortened(
        "model.lora={}",
        "stages.second.objective={name: grpo, kl: {coef: 0.1, sync_every: 2, sync_mix: 0.5}}",
    )
    with pytest.raises(ValueError, match="sync_mix must be 1 under LoRA"):
        rlcurric.train(lora, tmp_path / "run")


# --- hgpo -------------------------------------------------------------------------------------------------------------

HGPO = """
import rlcurric

@rlcurric.reward("odd_mode")
def mode(prompts, completions, lengths, **columns):
    return [float(length % 2) for length in lengths]

@rlcurric.reward("odd_intra")
def intra(prompts, completions, lengths, **columns):
    return [float(length == max(lengths)) for length in lengths]

@rlcurric.reward("odd_inter")
def inter(prompts, completions, lengths, **columns):
    return [float(length % 2) for length in lengths]
"""


def test_hgpo_trains_on_scores_that_rewards_give(tmp_path: Path) -> None:
    (tmp_path / "scores.py").write_text(HGPO)
    recipe = shortened(
        "stages.second.objective={name: hgpo, kl: {coef: 0.0}}",
        f"reward_files=[{tmp_path}/scores.py]",
        "stages.second.rewards=[verifier, {name: odd_intra, as: hgpo_intra}, {name: odd_inter, as: hgpo_inter}, "
        "{name: odd_mode, as: mode}]",
    )
    rlcurric.train(recipe, tmp_path / "run")
    run = read_run(tmp_path / "run")
    assert all(row["grad/norm"] > 0 for row in run.metrics)
    rows = run.rollouts().to_pylist()
    assert any(row["advantage"] for row in rows)


# --- advantages of a batch --------------------------------------------------------------------------------------------


def batch_of(groups: Mapping[str, tuple[list[float], dict[str, Any]]]) -> Batch:
    made = []
    for number, (distribution, (rewards, columns)) in enumerate(groups.items()):
        prompt = Prompt(number, distribution, (1,), "", columns)
        samples = tuple(
            SampleOutcome(k, reward, reward, Status.SCORED, 3, False, 0, {"extra": reward})
            for k, reward in enumerate(rewards)
        )
        made.append(AdmittedGroup(GroupId("s", number, 0), prompt, samples))
    return Batch(0, tuple(made))


def test_a_kl_penalty_is_charged_before_the_baseline() -> None:
    """R = (1, 0), sums of k1 (-.3, -.2), coefficient .05: rewards (1.015, .01), advantages +-1.005."""
    batch = batch_of({"a": ([1.0, 0.0], {})})
    keys = [(GroupId("s", 0, 0), k) for k in range(2)]
    found = batch_advantages(rloo(kl_coef=0.05), batch, dict(zip(keys, (-0.3, -0.2), strict=True)))
    assert [found[key][0] for key in keys] == pytest.approx([1.005, -1.005])


def test_clusters_are_distributions_or_a_column() -> None:
    batch = batch_of({"a": ([1.0, 0.0], {"skill": 7}), "b": ([0.0, 0.0], {"skill": 7})})
    objective = objective_of({"name": "grpo", "advantage": "rank_average"})
    alone = batch_advantages(objective, batch)
    assert [alone[GroupId("s", 1, 0), k][0] for k in range(2)] == [0.0, 0.0]
    together = objective_of({"name": "grpo", "advantage": "rank_average", "cluster_by": "skill"})
    found = batch_advantages(together, batch)
    # ranks have the means .5 and 0, the cluster .25
    assert found[GroupId("s", 1, 0), 0][0] == pytest.approx(0.25 / (np.sqrt(3) / 4 + 1e-6))
    wrong = objective_of({"name": "grpo", "advantage": "rank_average", "cluster_by": "skil"})
    with pytest.raises(ValueError, match=r"have no column 'skil'\. Did you mean 'skill'"):
        batch_advantages(wrong, batch)


def test_no_groups_no_advantages() -> None:
    assert batch_advantages(grpo(), Batch(0, ())) == {}


# --- entropy-sft ------------------------------------------------------------------------------------------------------


def test_entropy_sft_trains_on_some_tokens_only(tmp_path: Path) -> None:
    """With every token kept it is plain SFT, to the digit; with few the loss is higher: only hard tokens are left."""
    losses = {}
    for name, loss in (
        ("plain", "null"),
        ("all", "{ratio: 1.0}"),
        ("few", "{ratio: 0.2, kappa: 0.1}"),
    ):
        recipe = tiny_recipe(f"stages.cold.loss={loss}", "stages.cold.micro_batches=2")
        rlcurric.train(recipe, tmp_path / name, stop_at=2)
        losses[name] = read_run(tmp_path / name).series("loss/sft/mean")[1]
    assert losses["all"] == losses["plain"]
    assert losses["few"][0] > losses["plain"][0] * 1.02


def test_entropy_sft_does_not_depend_on_micro_batches(tmp_path: Path) -> None:
    losses = []
    for parts in (1, 4):
        recipe = tiny_recipe("stages.cold.loss={ratio: 0.3}", f"stages.cold.micro_batches={parts}")
        rlcurric.train(recipe, tmp_path / str(parts), stop_at=2)
        losses.append(read_run(tmp_path / str(parts)).series("loss/sft/mean")[1])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


# --- replay -----------------------------------------------------------------------------------------------------------

RECORD = ("run.rollouts={every: 1, include: all, max_per_step: 1000}", "evaluation.at_end=false")


def test_a_run_replays_another(tmp_path: Path) -> None:
    """The same prompts, tokens, rewards and advantages; the same weights, since the learner is the same."""
    recorded = tmp_path / "recorded"
    rlcurric.train(tiny_recipe(*RECORD), recorded)
    replay = tiny_recipe(*RECORD, "rollout.engine=replay", f"rollout.replay.path={recorded}")
    rlcurric.train(replay, tmp_path / "again")
    first, second = read_run(recorded), read_run(tmp_path / "again")
    columns = [
        "uid",
        "visit",
        "sample",
        "completion_ids",
        "rollout_logprobs",
        "reward",
        "advantage",
    ]
    assert first.rollouts().select(columns).equals(second.rollouts().select(columns))
    for a, b in zip(first.metrics[2:], second.metrics[2:], strict=True):
        assert a["grad/norm"] == pytest.approx(b["grad/norm"], rel=1e-4)
        assert "parity/tokens/sum" not in b or b["parity/tokens/sum"] == 0
    other = tiny_recipe(
        *RECORD, "rollout.engine=replay", f"rollout.replay.path={recorded}",
        "stages.second.objective={name: cispo}",
    )  # fmt: skip
    rlcurric.train(other, tmp_path / "other", stop_at=5)
    assert read_run(tmp_path / "other").metrics[-1]["grad/norm"] > 0


def test_a_replay_says_what_it_cannot_do(tmp_path: Path) -> None:
    recorded = tmp_path / "recorded"
    rlcurric.train(tiny_recipe(*RECORD), recorded, stop_at=3)
    engine = ReplayEngine(recorded)
    spec = SamplingSpec(12, 1.0, (0,))
    with pytest.raises(ValueError, match="has no completion for the prompt of 2 tokens"):
        engine.generate([SampleRequest((1, 2), 3)], spec)
    with pytest.raises(ValueError, match="no greedy completions"):
        engine.generate([], SamplingSpec(12, 1.0, (0,), greedy=True))
    with pytest.raises(ValueError, match="has no recorded rollouts"):
        ReplayEngine(tmp_path)
    (prompt_ids, seed), _ = next(iter(engine._recorded.items()))
    with pytest.raises(
        ValueError, match=r"sampled at temperature 1\.0, and rollout\.temperature is 0\.5"
    ):
        engine.generate([SampleRequest(prompt_ids, seed)], SamplingSpec(12, 0.5, (0,)))
    with pytest.raises(ValueError, match=r"replay needs rollout\.replay\.path"):
        tiny_recipe("rollout.engine=replay")
    with pytest.raises(ValueError, match="has no greedy completions to evaluate"):
        tiny_recipe("rollout.engine=replay", f"rollout.replay.path={recorded}")


def test_resuming_with_everything_on_changes_nothing(tmp_path: Path) -> None:
    """Adaptive entropy, a reference that follows, several updates: all of it is in the checkpoint."""
    spec = json.dumps(
        {**PIECES, "kl": {"coef": 0.01, "estimator": "k3", "sync_every": 2, "sync_mix": 0.5}}
    )
    recipe = shortened(f"stages.second.objective={spec}", "stages.second.until.steps=4")
    rlcurric.train(recipe, tmp_path / "whole")
    for stop_at in (1, 2, 3):
        rlcurric.train(recipe, tmp_path / "cut", stop_at=stop_at)
    rlcurric.train(recipe, tmp_path / "cut")
    assert first_difference(tmp_path / "whole", tmp_path / "cut") is None
