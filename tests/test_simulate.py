"""Simulated learners: the curves by hand, the same seed the same table, what starves, when stages end, what is not known."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlcurric.cli import _run
from rlcurric.cli.console import make_console
from rlcurric.cli.simulate import _write
from rlcurric.recipe.load import dump_yaml
from rlcurric.recipe.schema import Recipe
from rlcurric.simulate.learner import Learner
from rlcurric.simulate.noise import normals, uniforms
from rlcurric.simulate.run import STOPPED, require_ends, unknowable
from rlcurric.simulate.settings import Curve, LearnerSpec, Lengths, load_learner
from rlcurric.simulate.tell import simulation_sentences
from rlcurric.simulate.world import WorldPool, parse_rows
from rlcurric.types import AdmittedGroup, GroupId, Prompt, Request, SampleOutcome, Status
from tests.bands import NAMES, learner, recipe_of, stage, walked, world_of


def prompt(name: str, index: int = 0, hint: int = 0) -> Prompt:
    return Prompt(index + 1, name, (index,), "", {}, hint=hint)


def requests(name: str, count: int, samples: int = 4, hint: int = 0) -> list[Request]:
    """`count` groups of the first prompt."""
    return [
        Request(
            GroupId("rl", 1, visit),
            prompt(name, hint=hint),
            tuple(range(samples)),
            7919 * visit + 11,
        )
        for visit in range(count)
    ]


def group(name: str, *correct: float, weight: float = 1.0, copies: int = 1) -> AdmittedGroup:
    samples = tuple(
        SampleOutcome(k, one, one, Status.SCORED, 10, False, 0) for k, one in enumerate(correct)
    )
    return AdmittedGroup(GroupId("rl", len(name), 0), prompt(name), samples, weight, copies)


def only(**curve: Any) -> Learner:
    """A learner of one distribution with one prompt of the mean difficulty."""
    made = Curve(**{"spread": 0.0, "length": Lengths(median=10, spread=0.0), **curve})
    return Learner(LearnerSpec(curves={"one": made}), {"one": 1}, seed=0)


@pytest.mark.parametrize(
    ("curve", "rate"),
    [
        ({"slip": 0.0}, 0.5),
        ({"slip": 0.1}, 0.45),
        ({"slip": 0.1, "guess": 0.2}, 0.2 + 0.7 * 0.5),
        ({"slip": 0.0, "ability": 1.0, "discrimination": 2.0}, 1 / (1 + math.exp(-2))),
        ({"slip": 0.0, "difficulty": 1000.0}, 0.0),
        ({"slip": 0.0, "length": Lengths(median=100, spread=0.5)}, 0.25),  # half are cut off
        ({"slip": 0.0, "length": Lengths(median=101, spread=0.0)}, 0.0),
    ],
)
def test_the_curve_by_hand(curve: dict[str, Any], rate: float) -> None:
    assert only(**curve).solve_rates(limit=100)["one"] == pytest.approx(rate, abs=1e-9)


def test_rollouts_follow_the_curve() -> None:
    """Share of right ones, lengths of right and wrong ones, and the cut."""
    length = Lengths(median=40, spread=0.5, wrong=1.5)
    one = only(ability=0.5, slip=0.05, length=length)
    answers = one.answer(requests("one", 1500), limit=100, version=3)
    samples = [sample for delivery in answers for sample in delivery.samples]
    cut = [sample for sample in samples if sample.truncated]
    assert all(sample.length == 100 and sample.correct == 0 for sample in cut)
    assert {sample.policy_version for sample in samples} == {3}
    right = [sample.length for sample in samples if sample.correct]
    assert len(right) / 6000 == pytest.approx(one.solve_rates(100)["one"], abs=0.02)
    whole = [sample.length for sample in samples]
    wrong = [sample.length for sample in samples if not sample.correct]
    assert np.median(right) == pytest.approx(40, abs=3.0)
    assert np.median(wrong) > 52 and max(whole) == 100


def test_a_hint_makes_a_prompt_easier() -> None:
    spec = LearnerSpec(curves={"one": Curve(spread=0.0, slip=0.0)}, hint=2.0)
    one = Learner(spec, {"one": 1}, seed=0)
    found = one.answer(requests("one", 1000, hint=1), limit=10_000, version=0)
    rate = np.mean([sample.correct for item in found for sample in item.samples])
    assert rate == pytest.approx(1 / (1 + math.exp(-2)), abs=0.025)


def test_training_moves_abilities_as_it_says() -> None:
    """Signal 4 c (n - c) / (n (n - 1)), the mean over the batch, transfer, and what is forgotten of the gain."""
    spec = learner(
        easy={"rate": 0.3, "transfer": {"middle": 0.5}}, middle={"forgetting": 0.1, "rate": 0.6}
    )
    one = Learner(spec, dict.fromkeys(NAMES, 4), seed=0)
    one.train([group("easy", 1, 1, 0, 0, copies=3), group("middle", 1, 0, 0, 0, weight=2.0)])
    easy, middle = 3 * 4 * 4 / 12 / 4, 2 * 4 * 3 / 12 / 4
    assert one.ability["easy"] == pytest.approx(0.3 * easy)
    assert one.ability["middle"] == pytest.approx(0.9 * (0.6 * middle + 0.5 * 0.3 * easy))
    assert one.ability["hard"] == 0
    before = dict(one.ability)
    one.train([group("easy", 1, 1, 1, 1), group("hard", 0, 0, 0, 0)])
    assert one.ability["easy"] == before["easy"] and one.ability["hard"] == 0
    assert one.ability["middle"] == pytest.approx(0.9 * before["middle"])


def test_the_signal_of_groups_is_that_of_their_chance() -> None:
    """4 p (1 - p) on average, whatever the size of the group."""
    chance = 1 / (1 + math.exp(-1.0))
    taught = only(rate=1.0, slip=0.0)
    for size in (2, 8):
        gains = []
        for delivery in only(ability=1.0, slip=0.0).answer(requests("one", 1000, size), 100, 0):
            taught.ability["one"] = 0.0
            verdicts = [sample.correct or 0.0 for sample in delivery.samples]
            taught.train([group("one", *verdicts)])
            gains.append(taught.ability["one"])
        assert np.mean(gains) == pytest.approx(4 * chance * (1 - chance), abs=0.09)


def test_the_predictor_knows_the_curves_but_for_its_noise() -> None:
    spec = learner()
    prompts = [prompt("middle", index) for index in range(400)]
    sizes = dict.fromkeys(NAMES, 400)
    clear = Learner(spec.model_copy(update={"predictor_noise": 0.0}), sizes, 5)
    exact = np.array(clear.predict(prompts))
    chance = np.array([0.98 / (1 + math.exp(b)) for b in clear.difficulty["middle"].tolist()])
    assert exact == pytest.approx(chance)
    noisy = Learner(spec, sizes, 5)
    said = np.array(noisy.predict(prompts))
    error = np.log(said / (1 - said)) - np.log(exact / (1 - exact))
    assert error.std() == pytest.approx(1.0, abs=0.1) and abs(error.mean()) < 0.15
    assert noisy.predict(prompts[::-1]) == said.tolist()[::-1]


def test_numbers_by_key_and_counter() -> None:
    key_N = np.full(40_000, 12345, dtype=np.uint64)
    number_N = np.arange(40_000)
    found_N = uniforms(key_N, number_N, 0)
    assert found_N[:2] == pytest.approx(uniforms(key_N[:2], number_N[:2], 0), abs=0)
    assert 0 < found_N.min() and found_N.max() < 1
    assert found_N.mean() == pytest.approx(0.5, abs=0.01)
    assert np.corrcoef(found_N[:-1], found_N[1:])[0, 1] == pytest.approx(0, abs=0.02)
    assert np.corrcoef(found_N, uniforms(key_N, number_N, 1))[0, 1] == pytest.approx(0, abs=0.02)
    normal_N = normals(key_N, number_N, 2)
    assert normal_N.mean() == pytest.approx(0, abs=0.02)
    assert normal_N.std() == pytest.approx(1, abs=0.02)


BANDIT: dict[str, Any] = {"curriculum": {"sampler": "ucb", "gate": "zero_variance"}}


def test_the_same_seed_gives_the_same_table() -> None:
    recipe = recipe_of(stage(**BANDIT))
    first, again, other = (walked(recipe, seed=seed) for seed in (3, 3, 4))
    assert first == again
    assert [one.asked for one in first.shares] != [one.asked for one in other.shares]


def test_a_group_answers_alike_whoever_asks() -> None:
    """The rollouts of a group do not depend on what else is asked with it."""
    one = Learner(learner(), dict.fromkeys(NAMES, 9), seed=0)
    asked = [*requests("easy", 3), *requests("hard", 2)]
    together = one.answer(asked, 100, 0)
    assert [one.answer([request], 100, 0)[0] for request in asked] == together


def test_shares_are_those_of_the_controller() -> None:
    """Uniform draws over a mixture, every group trained without a gate, rollouts by group."""
    result = walked(recipe_of(stage(steps=40)))
    asked = dict.fromkeys(NAMES, 0)
    for one in result.shares:
        assert one.probability == pytest.approx(1 / 3)
        assert (one.asked, one.rollouts, one.refused) == (one.trained, 4 * one.asked, 0)
        asked[one.distribution] += one.asked
    assert sum(asked.values()) == 320
    assert all(80 < count < 135 for count in asked.values())
    (end,) = result.ends
    assert (end.steps, end.reason, end.tokens) == (
        40,
        "steps",
        sum(s.tokens for s in result.shares),
    )
    assert all(end.after[name] > end.before[name] for name in ("easy", "middle"))


def test_what_is_never_solved_starves() -> None:
    impossible = learner(hard={"difficulty": 60.0})
    recipe = recipe_of(stage(**BANDIT))
    (said,) = simulation_sentences(recipe, [walked(recipe, impossible)])
    assert said == "stage rl: hard starves: it is drawn, and no group of it is ever trained"
    result = walked(recipe)
    shares = [
        replace(one, asked=0, trained=0) if one.distribution == "easy" else one
        for one in result.shares
    ]
    (said,) = simulation_sentences(recipe, [result, replace(result, shares=shares)])
    assert said == "stage rl: easy starves: it is never drawn (in 1 of 2 seeds)"


def test_where_nothing_can_be_learned_the_run_would_end() -> None:
    spec = learner(**{name: {"difficulty": 90.0} for name in NAMES})
    recipe = recipe_of(stage(**BANDIT), stage("later"))
    result = walked(recipe, spec)
    (end,) = result.ends
    assert (end.reason, end.steps) == (STOPPED, 4)
    assert simulation_sentences(recipe, [result])[0].startswith(
        "stage rl: the run would end at step 5: no group was admitted in 5 steps in a row"
    )


@pytest.mark.parametrize(
    ("until", "reason", "steps"),
    [
        ({"steps": 4}, "steps", 4),
        ({"tokens": 3000, "steps": 50}, "tokens", 4),
        ({"epochs": 0.5, "steps": 50}, "epochs", 12),  # 8 of 180 rows a step
        ({"steps": 50, "pass_rate": {"low": 0.3, "window": 3}}, "pass_rate", 3),
        ({"steps": 5, "gpu_hours": 0.001}, "steps", 5),
        ({"steps": 5, "plateau": {"metric": "entropy/policy/mean", "patience": 1}}, "steps", 5),
    ],
)
def test_stages_end_as_in_a_run(until: dict[str, Any], reason: str, steps: int) -> None:
    result = walked(recipe_of(stage(until=until)))
    (end,) = result.ends
    assert end.reason == reason
    if reason == "tokens":
        tokens = np.cumsum(
            [sum(s.tokens for s in result.shares if s.step == k) for k in range(1, 60)]
        )
        assert end.steps == int(np.searchsorted(tokens, 3000)) + 1
    else:
        assert end.steps == steps


def test_a_stage_ends_where_rollouts_are_cut_off() -> None:
    long = learner(**{name: {"length": {"median": 90, "spread": 0.5}} for name in NAMES})
    until = {"steps": 50, "truncated": {"above": 0.2, "window": 2}}
    (end,) = walked(recipe_of(stage(until=until)), long).ends
    assert (end.reason, end.steps) == ("truncated", 2)
    assert 0.35 < end.values["sampled/truncated/mean"] < 0.75


def test_a_plateau_of_the_evaluation_ends_a_stage() -> None:
    """A learner that learns nothing has the same accuracy for ever, but for the draw of the evaluation."""
    still = learner(**{name: {"rate": 0.0, "difficulty": -90.0, "slip": 0.0} for name in NAMES})
    until = {"steps": 50, "plateau": {"patience": 2}}
    (end,) = walked(recipe_of(stage(until=until, evaluation={"every": 3})), still).ends
    assert (end.reason, end.steps, end.values) == (
        "plateau",
        9,
        {"eval/accuracy/mean": 1.0, "rows_since": 2},
    )


def test_conditions_that_a_simulation_cannot_know_are_named() -> None:
    until = {"any": [{"gpu_hours": 2}, {"plateau": {"metric": "kl/policy/mean"}}], "steps": 5}
    recipe = recipe_of(stage(until=until))
    assert unknowable(recipe) == {"rl": ["any.0.gpu_hours 2", "any.1.plateau of kl/policy/mean"]}
    (said,) = simulation_sentences(recipe, [walked(recipe)])
    assert said == (
        "stage rl: not simulated, so that it ends nothing here: until.any.0.gpu_hours 2, "
        "until.any.1.plateau of kl/policy/mean"
    )
    endless = recipe_of(stage(until={"gpu_hours": 2}))
    with pytest.raises(ValueError, match=r"stages.rl.until: only gpu_hours bounds.*--steps N"):
        require_ends(endless, None)
    (end,) = walked(endless, limit=3).ends
    assert (end.reason, end.steps) == ("--steps", 3)


def test_stages_go_on_from_one_another() -> None:
    """Abilities by `init`, statistics by `carry`, steps over the whole run; a stage of SFT counts its steps."""
    cold = {"name": "cold", "kind": "sft", "until": {"steps": 20}, "evaluation": {"at_end": False}}
    recipe = recipe_of(
        cold,
        stage("first", **BANDIT),
        stage("second", carry=["statistics"], **BANDIT),
        stage("anew", init="base"),
        stage("back", init="stage:first"),
    )
    result = walked(recipe)
    first, second, anew, back = result.ends[1:]
    assert [one.last_step for one in result.ends] == [20, 26, 32, 38, 44]
    assert second.before == first.after and anew.before == first.before
    assert back.before == first.after
    at = {
        one.stage: one
        for one in result.shares
        if one.stage_step == 1 and one.distribution == "easy"
    }
    assert at["first"].probability == pytest.approx(1 / 3)
    assert at["second"].probability != pytest.approx(1 / 3)


def test_the_best_step_is_handed_over_where_a_stage_rolls_back() -> None:
    """A learner that loses what it had: the first evaluation is the best."""
    spec = learner(**{n: {"rate": 0.0} for n in NAMES})
    loses = {n: curve.model_copy(update={"transfer": {"easy": -30.0}, "rate": 0.2}) if n == "easy" else curve
             for n, curve in spec.curves.items()}  # fmt: skip
    loses["middle"] = loses["middle"].model_copy(update={"rate": 0.5, "transfer": {"easy": -20.0}})
    spec = spec.model_copy(update={"curves": loses})
    best = {"metric": "eval/accuracy/mean", "rollback": True}
    first = stage("first", steps=12, evaluation={"every": 1, "prompts": 5000}, best=best)
    result = walked(recipe_of(first, stage("second", steps=1)), spec)
    one, two = result.ends
    assert (
        one.after["easy"]
        > sorted(s.solve_rate for s in result.shares if s.distribution == "easy")[0]
    )
    assert two.before == one.after


SCREENED = {"pool": {"name": "screened", "samples": 4}, "scorer": "mopps"}


def test_screening_measures_the_pool_first() -> None:
    """Its tokens count; prompts that are never solved stay out, but for a few that are looked at again."""
    hopeless = learner(hard={"difficulty": 90.0})
    plain, screened = (
        walked(recipe_of(stage(curriculum=one)), hopeless, rows=20) for one in ({}, SCREENED)
    )
    asked = [
        sum(one.asked for one in result.shares if one.distribution == "hard")
        for result in (plain, screened)
    ]
    assert asked[0] > 8 and asked[1] < 3
    assert screened.ends[0].tokens - sum(one.tokens for one in screened.shares) > 60 * 4 * 10
    assert plain.ends[0].tokens == sum(one.tokens for one in plain.shares)


def test_a_value_model_is_a_predictor() -> None:
    """PCL with a clear predictor asks for prompts that are solved half the time."""
    scorer = {"name": "pcl", "warmup_steps": 0, "explore": 0.0, "ratio": 8}
    recipe = recipe_of(stage(steps=8, curriculum={"scorer": scorer}))
    clear = learner(**{n: {"rate": 0.0} for n in NAMES}).model_copy(update={"predictor_noise": 0.0})
    shares = walked(recipe, clear).shares
    rates = [one.pass_rate for one in shares if one.pass_rate is not None and one.asked]
    assert np.mean(rates) == pytest.approx(0.5, abs=0.08)


def test_rows_that_are_there_are_the_run_s(tmp_path: Path) -> None:
    """Their uids and columns; a column puts prompts in order; others are assumed, and said so."""
    rows = [{"question": f"{k}?", "answer": str(k), "level": k % 5} for k in range(50)]
    (tmp_path / "here.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    here = {
        "here": {"source": {"name": "file", "path": str(tmp_path / "here.jsonl")}, "held_out": 5}
    }
    away = {"away": {"source": {"name": "file", "path": "absent.jsonl"}, "max_rows": 30}}
    recipe = recipe_of(stage(), names=("here", "away"), distributions={**here, **away})
    world = world_of(recipe, 40)
    assert world.sizes == {"here": 45, "away": 30}
    (note,) = world.notes
    assert note.startswith("rows assumed, since distributions.away.source:") and note.endswith(
        ": away 30"
    )
    spec = learner(("here", "away"), here={"column": "level"})
    one = Learner(spec, world.sizes, 0, world.ranks({"here": "level", "away": None}))
    levels = [row.columns["level"] for row in world.distributions["here"].rows or ()]
    order = np.argsort(levels, kind="stable")
    assert (np.diff(one.difficulty["here"][order]) >= 0).all()
    assert one.difficulty["here"].mean() == pytest.approx(-2, abs=0.1)
    with pytest.raises(
        ValueError, match=r"here.jsonl, line .*a number is required in the column 'question'"
    ):
        world.ranks({"here": "question"})
    pool = world.pool(recipe.stages[0], one)
    assert pool.candidate("here", 3).uid == (world.distributions["here"].rows or ())[3].uid
    stand_in = pool.candidate("away", 3).columns["difficulty"]
    assert stand_in == pytest.approx(100 * (1 - one.start_rates("away")[3]))
    assert WorldPool(world.distributions).candidate("away", 3).columns == {}


def test_sizes_that_are_said() -> None:
    assert parse_rows(["200", "hard=7"], NAMES) == (200, {"hard": 7})
    for wrong in ("0", "x", "hard=", "hard=-1"):
        with pytest.raises(ValueError, match="N or NAME=N is required"):
            parse_rows([wrong], NAMES)
    with pytest.raises(ValueError, match=r"unknown distribution 'hrad'.*'hard'"):
        parse_rows(["hrad=7"], NAMES)


LEARNER = """
defaults: {rate: 0.3, length: {median: 20}}
distributions:
  easy: {difficulty: -3, transfer: {hard: 0.5}}
  hard: {length: {spread: 0.1}}
hint: 2
"""


def test_a_learner_s_file(tmp_path: Path) -> None:
    file = tmp_path / "learner.yaml"
    file.write_text(LEARNER)
    spec = load_learner(file, NAMES)
    easy, middle, hard = (spec.curves[name] for name in NAMES)
    assert (easy.difficulty, easy.rate, easy.transfer) == (-3, 0.3, {"hard": 0.5})
    assert (middle.difficulty, middle.transfer) == (0.0, {"easy": 0.2, "hard": 0.2})
    assert (hard.difficulty, hard.length) == (2.0, Lengths(median=20, spread=0.1))
    assert spec.hint == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[1]", "a mapping with keys among defaults, distributions"),
        ("a: [", "is not valid YAML"),
        ("distribution: {}", "Unknown key 'distribution'. Did you mean 'distributions'"),
        ("distributions: {eazy: {}}", "the recipe has no distribution 'eazy'. Did you mean 'easy'"),
        ("distributions: {easy: {dificulty: 1}}", "distributions.easy: Unknown key 'dificulty'"),
        (
            "distributions: {easy: {slip: 2}}",
            "distributions.easy: slip: Input should be less than 1, got 2",
        ),
        ("defaults: {slip: 0.6, guess: 0.5}", "guess + slip must be below 1, got 0.5 + 0.6"),
        ("distributions: {easy: {transfer: {easy: 1}}}", "'easy' keeps the whole of its own gain"),
        ("distributions: {easy: {transfer: {x: 1}}}", "transfer: unknown distribution 'x'"),
    ],
)
def test_a_wrong_learner_is_told_with_its_place(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "learner.yaml"
    file.write_text(text)
    with pytest.raises(ValueError) as error:
        load_learner(file, NAMES)
    assert words in str(error.value) and str(file) in str(error.value)


def test_a_learner_that_is_no_text_is_told(tmp_path: Path) -> None:
    file = tmp_path / "learner.yaml"
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"learner\.yaml: text in UTF-8 is required"):
        load_learner(file, NAMES)


def test_an_output_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    for name in ("a.csv", "a.json"):
        (tmp_path / name).mkdir()
        with pytest.raises(ValueError, match=r"cannot be written: Is a directory"):
            _write(make_console(), tmp_path / name, [{"step": 1}], {})


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """The recipe as a file."""
    file = tmp_path / "bands.yaml"
    file.write_text(dump_yaml(recipe_of(stage(steps=4, **BANDIT))))
    return file


def test_the_command_prints_and_writes(
    written: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, whole = tmp_path / "steps.csv", tmp_path / "all.json"
    assert (
        _run(["simulate", str(written), "--seeds", "2", "--rows", "50", "--output", str(table)])
        == 0
    )
    shown = capsys.readouterr().out
    assert "bands: stages, mean of 2 seeds" in shown and f"wrote: 24 rows to {table}" in shown
    assert "no learner was named" in shown and "easy 50, middle" not in shown
    rows = list(csv.DictReader(table.open()))
    assert len(rows) == 2 * 4 * 3
    assert {row["seed"] for row in rows} == {"3", "4"}
    assert sum(int(row["asked"]) for row in rows if row["seed"] == "3" and row["step"] == "1") >= 8
    assert _run(["simulate", str(written), "curriculum.sampler=uniform", "--rows", "50", "--seeds", "1",
                 "--steps", "2", "--output", str(whole)]) == 0  # fmt: skip
    found = json.loads(whole.read_text())
    assert found["seeds"] == [3] and found["rows"] == dict.fromkeys(NAMES, 50)
    assert [one["ends_by"] for one in found["stages"]] == ["--steps"]
    assert len(found["steps"]) == 6
    assert found["learner"]["curves"]["hard"]["difficulty"] == 2.0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--output", "x.txt"], "--output: a file ending in .csv or .json is required"),
        (["--output", "nowhere/x.csv"], "--output: there is no folder"),
        (["--learner", "absent.yaml"], "--learner: absent.yaml is no file"),
        (["--rows", "few"], "--rows: N or NAME=N is required"),
        (["--window", "3"], "--window says what a replay does"),
        (["--replay", "absent"], "absent is no run directory: it has no recipe.yaml"),
        (["--replay", "x", "--learner", "y"], "--learner is for simulated learners"),
        (
            ["--replay", "x", "--missing", "modle"],
            "--missing: unknown 'modle'. Did you mean 'model'",
        ),
        (["--from", "absent"], "absent is no run directory"),
        (["until={gpu_hours: 1}"], "stages.rl.until: only gpu_hours bounds the stage"),
        (
            ["curriculum.scorer=variants"],
            "those assumed in their place have no column but 'difficulty'",
        ),
    ],
)
def test_mistakes_are_one_message(
    written: Path, options: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(["simulate", str(written), *options]) == 2
    error = capsys.readouterr().err
    assert words in error and error.startswith("rlcurric: ") and "Traceback" not in error


def test_a_recipe_without_a_curriculum_is_refused(tmp_path: Path, capsys: Any) -> None:
    recipe: Recipe = recipe_of({"name": "cold", "kind": "sft", "until": {"steps": 1}})
    file = tmp_path / "cold.yaml"
    file.write_text(dump_yaml(recipe))
    assert _run(["simulate", str(file)]) == 2
    assert "has no stage of kind rl" in capsys.readouterr().err


def test_simulations_load_no_torch() -> None:
    code = "import sys, rlcurric.cli.simulate; print(sorted({'torch', 'transformers', 'datasets'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (run.stdout.strip(), run.returncode) == ("[]", 0), run.stderr
