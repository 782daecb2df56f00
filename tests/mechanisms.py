"""What a recipe is about, seen in a finished run of its `tiny` overlay: recipe -> assertions on what was logged."""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Callable, Iterable
from typing import Any

from rlcurric.report.tables import RunTables

Row = dict[str, Any]
Mechanism = Callable[[RunTables], None]
MECHANISMS: dict[str, Mechanism] = {}


def mechanism(*recipes: str) -> Callable[[Mechanism], Mechanism]:
    def add(function: Mechanism) -> Mechanism:
        MECHANISMS.update(dict.fromkeys(recipes, function))
        return function

    return add


def rollouts(run: RunTables, stage: str | None = None, step: int | None = None) -> list[Row]:
    """Logged rollouts, of a stage, with what every reward said of them in `parts`."""
    rows: list[Row] = run.rollouts(step).to_pylist()
    return [
        row | {"parts": json.loads(row["breakdown"])}
        for row in rows
        if stage is None or row["stage"] == stage
    ]


def metrics(run: RunTables, stage: str) -> list[Row]:
    return [row for row in run.metrics if row["stage"] == stage]


def groups(rows: Iterable[Row]) -> list[list[Row]]:
    """Rollouts of the same visit to a prompt."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        found.setdefault((row["step"], row["uid"], row["visit"]), []).append(row)
    return list(found.values())


def asked_for(prompt: str) -> int:
    """The number of tokens in the brackets that a prompt begins with."""
    found = re.match(r"\[(\d+)\]", prompt)
    assert found, prompt
    return int(found[1])


def near(value: float, expected: float) -> bool:
    return math.isclose(value, expected, rel_tol=1e-5, abs_tol=1e-6)


@mechanism("tlts_gsm8k", "tlts_math")
def one_budget_in_prompt_and_reward(run: RunTables) -> None:
    budgets = {}
    for step in (1, 2):
        rows = rollouts(run, step=step)
        (budget,) = {asked_for(row["prompt"]) for row in rows}
        budgets[step] = budget
        for row in rows:
            length = row["length"]
            paid = length / budget if length <= budget else max(0.0, 2 - length / budget)
            assert near(row["parts"]["length_budget"], paid)
    assert budgets == {1: 24, 2: 12}


@mechanism("autothink_1p5b")
def modes_are_balanced_and_then_lengths_compared(run: RunTables) -> None:
    worth = {("think", 1): 1, ("think", 0): 0, ("no_think", 1): 2, ("no_think", 0): -1}
    low = {("think", 1): 0, ("think", 0): -1, ("no_think", 1): 1, ("no_think", 0): -2}
    moved = 0.0
    for metric in metrics(run, "balance"):
        rows = rollouts(run, step=metric["step"])
        share = statistics.fmean(row["parts"]["mode"] for row in rows)
        assert near(share, metric["reward/mode/mean"])
        for row in rows:
            thinks, parts = bool(row["parts"]["mode"]), row["parts"]
            key = ("think" if thinks else "no_think", int(row["correct"]))
            assert parts["mode_table"] in (worth[key], 0)
            excess = min(1.0, max(0.0, 2 * ((share if thinks else 1 - share) - 0.5)))
            assert near(parts["mode_balance"], excess * (low[key] - parts["mode_table"]))
            moved = max(moved, abs(parts["mode_balance"]))
        assert row["prompt"].endswith("<think>\n...\n")
    assert moved > 0
    moved = 0.0
    for group in groups(rollouts(run, "prune")):
        for kind in (0, 1):
            members = [row for row in group if row["correct"] == kind]
            lengths = [row["length"] for row in members]
            if len(members) < 2 or min(lengths) == max(lengths):
                assert all(row["parts"]["length_zscore"] == 0 for row in members)
                continue
            mean, std = statistics.fmean(lengths), statistics.stdev(lengths)
            for row in members:
                gain = math.exp(-0.05 * (row["length"] - mean) / std) - 1
                assert near(row["parts"]["length_zscore"], gain if kind else -gain)
                moved = max(moved, abs(gain))
    assert moved > 0


@mechanism("dump_knights_knaves", "dump_math_mix", "sec_countdown", "sec_math")
def the_bandit_leaves_equal_chances(run: RunTables) -> None:
    names = list(run.recipe.stages[0].mixture)
    first, second = (
        [row[f"curriculum/probability/{name}"] for name in names] for row in run.metrics
    )
    assert all(near(chance, 1 / len(names)) for chance in first)
    assert near(sum(second), 1)
    assert max(second) - min(second) > 0.01
    drawn = [one for one in run.decisions if one["kind"] == "draw" and one["step"] == 2]
    assert [drawn[0]["probabilities"][name] for name in names] == second


@mechanism("pcl_math")
def prompts_are_chosen_by_what_is_predicted(run: RunTables) -> None:
    first, second = run.metrics
    assert first["curriculum/candidates/sum"] == second["curriculum/candidates/sum"] == 4 * 4
    assert first["curriculum/value/loss/mean"] > 0
    assert second["curriculum/value/loss/mean"] != first["curriculum/value/loss/mean"]
    (outcomes,) = [one for one in run.decisions if one["kind"] == "outcomes" and one["step"] == 2]
    (draw,) = [one for one in run.decisions if one["kind"] == "draw" and one["step"] == 2]
    expected = [group["expected"] for group in outcomes["groups"]]
    assert len(set(expected)) > 1 and all(0 < value < 1 for value in expected)
    away = [abs(value - 0.5) for value in draw["predicted"]]
    chosen = [away[place] for place in draw["chosen"]]
    assert len(away) == 16 and len(chosen) == 4
    assert statistics.fmean(chosen) < statistics.fmean(away)


@mechanism("d3s_math")
def rollouts_and_tokens_are_thinned_out_less_and_less(run: RunTables) -> None:
    first, second = run.metrics
    assert near(first["curriculum/selected/fraction"], 0.25)
    assert near(second["curriculum/selected/fraction"], 0.375)
    for row, share in ((first, 0.2), (second, 0.35)):
        assert (
            row["curriculum/selected/variance_after"] > row["curriculum/selected/variance_before"]
        )
        assert abs(row["stabiliser/d3s_tokens/kept"] - share) < 0.1


@mechanism("pods_gsm8k")
def fewer_rollouts_are_trained_than_sampled(run: RunTables) -> None:
    for row in run.metrics:
        assert row["curriculum/samples/ended"] == 32
        assert row["batch/rollouts/sum"] == 16
        assert row["curriculum/selected/fraction"] == 0.5
        assert (
            row["curriculum/selected/variance_after"] > row["curriculum/selected/variance_before"]
        )


@mechanism("dapo_math")
def groups_of_one_verdict_are_refused_and_long_answers_punished(run: RunTables) -> None:
    assert sum(row["curriculum/groups/gated"] for row in run.metrics) > 0
    assert run.metrics[0]["curriculum/groups/ended"] > 4 == run.metrics[0]["batch/groups/sum"]
    assert all(len({row["correct"] for row in group}) > 1 for group in groups(rollouts(run)))
    punished = [row["parts"]["soft_overlong"] for row in rollouts(run)]
    for row, found in zip(rollouts(run), punished, strict=True):
        assert near(found, max(-1.0, min(0.0, (24 - 16 - row["length"]) / 16)))
    assert min(punished) < 0


@mechanism("deepscaler_lengthening")
def the_context_grows_when_answers_are_cut_off(run: RunTables) -> None:
    ended = {one["stage"]: one for one in run.events if one["event"] == "stage_ended"}
    assert "truncated" in ended["context_8k"]["reason"]
    assert ended["context_8k"]["values"]["sampled/truncated/mean"] > 0.05
    assert ended["context_16k"]["reason"] == ended["context_24k"]["reason"] == "steps"
    longest = [
        max(row["length"] for row in rollouts(run, stage))
        for stage in ("context_8k", "context_16k", "context_24k")
    ]
    assert longest[0] == 12 < max(longest[1:])


@mechanism("polaris")
def groups_are_replaced_and_easy_prompts_dropped(run: RunTables) -> None:
    assert sum(row["curriculum/groups/replaced"] for row in run.metrics) > 0
    for row in run.metrics:  # the batch is as large as it was asked for, copies included
        assert row["batch/groups/sum"] + row["curriculum/groups/replaced"] == 8
    assert all(row["curriculum/candidates/excluded"] == 0 for row in metrics(run, "stage_1"))
    later = [*metrics(run, "stage_2"), *metrics(run, "stage_3")]
    assert max(row["curriculum/candidates/excluded"] for row in later) > 0
    heats = [
        {row["temperature"] for row in rollouts(run, stage)}
        for stage in ("stage_1", "stage_2", "stage_3")
    ]
    assert heats == [{1.0}, {1.05}, {1.1}]


@mechanism("thinkprune")
def the_limit_falls_and_what_is_cut_off_earns_nothing(run: RunTables) -> None:
    cut = 0
    for stage, limit in (("limit_4k", 20), ("limit_3k", 16), ("limit_2k", 12)):
        rows = rollouts(run, stage)
        assert {asked_for(row["prompt"]) for row in rows} == {limit}
        assert max(row["length"] for row in rows) <= limit
        for row in rows:
            if row["truncated"] and "</answer>" not in row["completion"]:
                assert row["reward"] == 0
                cut += 1
    assert cut > 0


@mechanism("l1_length_control")
def every_prompt_has_a_length_of_its_own(run: RunTables) -> None:
    for stage in ("exact", "maximum"):
        rows = rollouts(run, stage)
        assert len({asked_for(row["prompt"]) for row in rows}) > 3
        for row in rows:
            room = 0.03 * (asked_for(row["prompt"]) - row["length"])
            if stage == "exact":
                assert near(row["parts"]["lcpo_exact"], -abs(room))
                assert near(row["reward"], row["correct"] - abs(room))
            else:
                paid = row["correct"] * min(1.0, max(0.0, room + 0.5))
                assert near(row["parts"]["lcpo_max"], paid) and near(row["reward"], paid)
    assert max(row["parts"]["lcpo_max"] for row in rows) > 0


def weight_of(group: list[Row]) -> float | None:
    """The factor on a group's standardised advantages; None where its rewards are all equal."""
    rewards = [row["reward"] for row in group]
    mean, std = statistics.fmean(rewards), statistics.stdev(rewards)
    if std == 0:
        return None
    factors = [
        row["advantage"] * (std + 1e-4) / (row["reward"] - mean)
        for row in group
        if row["reward"] != mean
    ]
    assert max(factors) - min(factors) < 1e-4
    return statistics.fmean(factors)


def event(run: RunTables, name: str, stage: str) -> Row:
    (found,) = [one for one in run.events if one["event"] == name and one["stage"] == stage]
    return found


def written(run: RunTables, stage: str) -> list[Row]:
    """The rows that a rejection stage wrote."""
    file = run.path / event(run, "dataset_written", stage)["file"]
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


@mechanism("pcurl_text")
def groups_weigh_by_difficulty_and_the_best_goes_on(run: RunTables) -> None:
    bell = [math.sin(math.pi * correct / 4) for correct in range(5)]
    weights = {
        "easy": [bell[0], bell[1], 1, 1, 1],
        "medium": bell,
        "hard": [0.25, 1, 1, bell[3], bell[4]],
    }
    seen = set()
    for stage, expected in weights.items():
        for group in groups(rollouts(run, stage)):
            weight = weight_of(group)
            if weight is not None:
                solved = sum(row["correct"] for row in group)
                assert abs(weight - expected[round(solved)]) < 1e-3
                seen.add(round(weight, 2))
        rows = metrics(run, stage)
        assert ("reward/dynamic_length/mean" in rows[0]) is (stage == "hard")
        assert max(row["curriculum/candidates/excluded"] for row in rows) > 0
        ended = event(run, "stage_ended", stage)
        scores = {row["step"]: row["eval/accuracy/mean"] for row in rows}
        assert scores[ended["best_step"]] == ended["best_value"] == max(scores.values())
    assert len(seen) > 1
    assert min(row["parts"]["dynamic_length"] for row in rollouts(run, "hard")) < 0


@mechanism("observe_r1_text")
def easy_comes_first_and_the_shortest_right_answer_is_paid(run: RunTables) -> None:
    first, second = run.metrics
    easy, hard = "curriculum/probability/level-1", "curriculum/probability/level-5"
    assert first[easy] > 2 * first[hard] and second[easy] < second[hard]
    paid = 0
    for group in groups(rollouts(run)):
        solved = statistics.fmean(row["correct"] for row in group)
        weight = weight_of(group)
        assert weight is None or abs(weight - 7.2 * solved * (1 - solved)) < 1e-3
        right = [row["length"] for row in group if row["correct"] == 1]
        bonus = [row for row in group if row["parts"]["shortest_bonus"]]
        assert len(bonus) == bool(right and min(right) > 5)
        for row in bonus:
            assert row["parts"]["shortest_bonus"] == 0.2 and row["length"] == min(right)
            paid += 1
    assert paid > 0


@mechanism("curr_reft_text")
def forms_of_answers_follow_and_right_answers_are_learned(run: RunTables) -> None:
    for stage, group_size, answers in (
        ("judge", 4, {"yes", "no"}),
        ("choice", 2, {"A", "B", "C"}),
        ("open", 4, None),
    ):
        rows = rollouts(run, stage)
        assert {len(group) for group in groups(rows)} == {group_size}
        right = {
            one
            for row in rows
            if row["correct"] == 1
            for one in re.findall(r"<answer>(.+?)</answer>", row["completion"])[-1:]
        }
        assert right & answers if answers else all(one.isdigit() for one in right)
    kept = written(run, "rejection")
    assert len(kept) == event(run, "dataset_written", "rejection")["kept"] > 0
    for row in kept:
        assert row["demonstration"].endswith(f"<answer>{row['answer']}</answer>")
    assert all(row["loss/sft/mean"] > 0 for row in metrics(run, "restore"))


@mechanism("mathbook_text")
def ranks_are_averaged_and_variants_walked_through(run: RunTables) -> None:
    # Rollouts of one rank have one advantage in all groups of a principle, whatever their own rewards.
    moved = 0
    for metric in metrics(run, "pre_aligned"):
        by_principle: dict[int, list[list[Row]]] = {}
        for group in groups(rollouts(run, step=metric["step"])):
            terms = len(re.findall(r"\d", group[0]["prompt"]))
            ranked = sorted(group, key=lambda row: -row["reward"])
            by_principle.setdefault(terms, []).append(ranked)
        for clustered in by_principle.values():
            for rank in zip(*clustered, strict=True):
                assert len({round(row["advantage"], 5) for row in rank}) == 1
                moved += len({row["reward"] for row in rank}) > 1
    assert moved > 0
    rows = metrics(run, "dynamic")
    assert max(row["curriculum/variants/live"] for row in rows) > 0
    draws = [one for one in run.decisions if one["kind"] == "draw" and one["stage"] == "dynamic"]
    assert draws[0]["n_candidates"] == 64 and len(draws[0]["groups"]) == 8


@mechanism("tulu3_rlvr")
def preferences_are_told_apart_and_rules_verified(run: RunTables) -> None:
    first, second = metrics(run, "dpo")
    assert near(first["loss/dpo/mean"], math.log(2)) and first["dpo/margin/mean"] == 0
    assert second["dpo/margin/mean"] > 0 and second["loss/dpo/mean"] < math.log(2)
    rows = metrics(run, "rlvr")
    assert max(row["kl/ref_k3/mean"] for row in rows) > 0
    assert any(row.get("reward/verifier/instructions", 0) > 0 for row in rows)
    ended = event(run, "stage_ended", "rlvr")
    assert ended["best_value"] == max(row["eval/accuracy/mean"] for row in rows)


@mechanism("specs_cold_start")
def the_format_alone_tells_chosen_from_rejected(run: RunTables) -> None:
    pairs = written(run, "pairs")
    assert len(pairs) >= 4
    for row in pairs:
        assert row["chosen"] != row["rejected"]
        bare = [re.sub(r"</?\w+>", "", row[side]) for side in ("chosen", "rejected")]
        assert bare[0] == bare[1], "the same words, without the tags"
        assert f"<answer>{row['answer']}</answer>" in row["chosen"]
    assert len({row["provenance"]["corruption"] for row in pairs}) > 1
    first, *later = metrics(run, "cold_start")
    assert near(first["loss/dpo/mean"], math.log(2)) and first["dpo/margin/mean"] == 0
    assert max(row["dpo/margin/mean"] for row in later) > 0
    assert first["loss/nll/mean"] > 0


@mechanism("lhrm_hybrid")
def half_of_a_group_thinks_and_the_modes_are_compared(run: RunTables) -> None:
    rows = rollouts(run, "hgpo")
    compared = 0
    for group in groups(rows):
        begins = [row["completion"].startswith(("<think>", "<no_think>")) for row in group]
        assert all(begins) and sum("<no_think>" in row["completion"] for row in group) == 2
        scores = [
            [row["correct"] for row in group if row["parts"]["mode"] == mode] for mode in (1, 0)
        ]
        if not all(scores):
            continue  # a thought without content counts as none
        means = [statistics.fmean(one) for one in scores]
        better = 1 if means[0] > means[1] + 0.2 else 0
        for row in group:
            assert row["parts"]["hgpo_inter"] == (row["parts"]["mode"] == better)
        compared += means[0] != means[1]
    assert compared > 0
    assert 0 <= metrics(run, "hgpo")[-1]["eval/hybrid_accuracy/mean"] <= 1


@mechanism("hpt_math")
def unsolved_questions_are_trained_on_demonstrations(run: RunTables) -> None:
    routed = 0
    for metric in run.metrics:
        rows = groups(rollouts(run, step=metric["step"]))
        unsolved = sum(not any(row["correct"] for row in group) for group in rows)
        assert metric["batch/demonstrations/sum"] == unsolved
        assert (metric.get("loss/supervised/mean", 0) > 0) is (unsolved > 0)
        routed += unsolved
    assert routed > 0


@mechanism("light_if")
def tokens_are_chosen_and_rewards_are_dense(run: RunTables) -> None:
    assert all(row["loss/sft/mean"] > 0 for row in metrics(run, "entropy_sft"))
    for stage in ("easy", "hard"):
        rows = metrics(run, stage)
        assert all(row["loss/tea_rl/mean"] < 0 for row in rows)
        assert max(row["curriculum/candidates/excluded"] for row in rows) > 0
    shares = {row["parts"]["share"] for row in rollouts(run)}
    assert 0.5 in shares and shares <= {0.0, 0.5, 1.0}
    assert all(row["reward"] == row["parts"]["share"] for row in rollouts(run))
    assert all(row["correct"] == (row["parts"]["share"] == 1) for row in rollouts(run))


@mechanism("llds_gsm8k")
def falling_likelihoods_of_good_rollouts_cost(run: RunTables) -> None:
    assert all(row["loss/llds/mean"] > 0 for row in run.metrics)
    assert max(row["kl/old_policy_k3/mean"] for row in run.metrics) > 0


@mechanism("rif_rft_continual")
def each_task_leaves_out_what_is_never_solved(run: RunTables) -> None:
    screened = [one for one in run.events if one["event"] == "screened"]
    assert [one["stage"] for one in screened] == [stage.name for stage in run.recipe.stages]
    assert sum(one["never_solved"] for one in screened) > 0
    for one in screened:
        rows = metrics(run, one["stage"])
        assert rows[0]["curriculum/screened/dropped"] == one["never_solved"]
        for name in run.recipe.distributions:
            assert 0 <= rows[-1][f"eval/accuracy/{name}"] <= 1


@mechanism("keye_hints")
def hints_are_shown_after_failures_and_answers_rewritten(run: RunTables) -> None:
    rows = metrics(run, "rl")
    assert rows[0]["curriculum/hints/groups"] == 0 < rows[0]["curriculum/hints/raised"]
    assert rows[-1]["curriculum/hints/groups"] > 0 and rows[-1]["curriculum/hints/level"] > 1
    hinted = [row for row in rollouts(run, "rl") if row["prompt"].endswith(")")]
    assert hinted and all(re.search(r"=\(\d+\+\d+=\d+", row["prompt"]) for row in hinted)
    kept = written(run, "rft")
    assert kept and all(f"<answer>{row['answer']}</answer>" in row["demonstration"] for row in kept)
    assert all(row["loss/sft/mean"] > 0 for row in metrics(run, "rft_sft"))
    assert event(run, "screened", "screen")["never_solved"] > 0
    later = metrics(run, "rft_rl")
    assert max(row["curriculum/candidates/excluded"] for row in later) > 0
