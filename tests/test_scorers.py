"""Scorers: the papers' numbers, and what holds for every one of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlcurric import seeds
from rlcurric.build.binding import validated
from rlcurric.curriculum.evidence import RunningRates, mean_correctness
from rlcurric.curriculum.parts import Scorer
from rlcurric.curriculum.scorers import (
    AdaRft,
    BetaPosterior,
    Greso,
    Kimi,
    Learnability,
    MixScorer,
    Mopps,
    Pcl,
    Variants,
)
from rlcurric.curriculum.scorers.history import skip_probability
from rlcurric.curriculum.scorers.mix import ranks
from rlcurric.curriculum.scorers.variants import VARIANTS
from rlcurric.registry import registry
from rlcurric.schedules import Linear, Progress
from rlcurric.types import Candidate, GroupOutcome
from tests.outcomes import (
    RowPool,
    candidate,
    candidates,
    decision,
    ended,
    plain,
    solved,
    steps_of_outcomes,
)

ROWS = [{"seed": seed, "variant": variant} for seed in ("p", "q") for variant in VARIANTS]
POOL = RowPool({"seeds": ROWS, "sums": [{}, {}]})


def mix() -> MixScorer:
    return MixScorer([(Mopps(prior="distribution"), 2.0), (Greso(), 1.0), (Pcl(), 1.0)])


SCORERS: dict[str, Callable[[], Scorer]] = {
    "mopps": Mopps,
    "threshold": lambda: Mopps(choose="threshold", decay=0.8, period=3.0),
    "neighbours": lambda: Mopps(prior="distribution", decay=0.9, period=10.0),
    "learnability": Learnability,
    "kimi": Kimi,
    "greso": Greso,
    "adarft": AdaRft,
    "pcl": Pcl,
    "pcl sample": lambda: Pcl(pick="sample", warmup_steps=0),
    "mix": mix,
}
every_scorer = pytest.mark.parametrize("make", SCORERS.values(), ids=SCORERS.keys())


# --- what holds for all -----------------------------------------------------------------------------------------------


def answers(scorer: Scorer, step: int = 20) -> list[Any]:
    predicted = np.linspace(0, 1, 8).tolist()
    found = scorer.score(candidates(8), decision(step, predicted))
    return [found.score_C.tolist(), plain(found.expected_C)]


@every_scorer
@settings(max_examples=25, deadline=None)
@given(steps=steps_of_outcomes(), data=st.data())
def test_a_scorer_keeps_its_contract(
    make: Callable[[], Scorer], steps: list[list[GroupOutcome]], data: st.DataObject
) -> None:
    """State comes back whole; the order within a step, failures and what is too late say nothing; score leaves it."""
    scorer, shuffled, heard = make(), make(), make()
    for outcomes in steps:
        scorer.observe(outcomes)
        shuffled.observe(data.draw(st.permutations(outcomes)))
        heard.observe([one for one in outcomes if one.correct and one.weight])
    state = plain(scorer.state_dict())
    assert plain(shuffled.state_dict()) == state == plain(heard.state_dict())

    first = answers(scorer)
    assert answers(scorer) == first and plain(scorer.state_dict()) == state
    assert not any(math.isnan(value) or value == math.inf for value in first[0])
    if scorer.pick == "sample":
        assert all(value >= 0 and math.isfinite(value) for value in first[0])
    assert first[1] is None or all(0 <= value <= 1 for value in first[1])
    assert all(math.isfinite(value) for value in scorer.metrics().values())

    other = make()
    other.load_state_dict(scorer.state_dict())
    assert answers(other) == first
    more = steps[0] + [solved(3, 5, step=9, visit=99)]
    scorer.observe(more)
    other.observe(more)
    assert answers(other) == answers(scorer) and other.metrics() == scorer.metrics()
    assert plain(other.state_dict()) == plain(scorer.state_dict())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Mopps(ratio=0.5), "mopps needs ratio of at least 1, got 0.5"),
        (lambda: Kimi(explore=1.5), r"kimi needs explore in \[0, 1\], got 1.5"),
        (lambda: Mopps(target=2.0), "mopps needs target in"),
        (lambda: Mopps(band=(0.7, 0.3)), "mopps needs band of two rising"),
        (lambda: Mopps(decay=1.0, period=5.0), "period > 0 and decay < 1"),
        (lambda: Learnability(decay=-0.1), "decay in"),
        (lambda: Learnability(prior_mean=1.0), "prior_mean in"),
        (lambda: Kimi(keep=1.0), "kimi needs keep"),
        (lambda: Greso(easy=0.1), "greso needs hard and easy in 0 <= hard < easy <= 1"),
        (lambda: Greso(p_easy=0.99), "greso needs p_easy in"),
        (lambda: AdaRft(start=200.0), "adarft needs d_min <= start <= d_max"),
        (lambda: Pcl(width=0.0), "pcl needs width above 0"),
        (lambda: MixScorer([]), "mix needs parts of at least one scorer"),
        (lambda: MixScorer([(Kimi(), 0.0)]), "mix needs weights above 0"),
        (lambda: Variants(POOL, advance=0.0), "variants needs advance in"),
        (lambda: Variants(RowPool({"sums": [{}]})), "variants needs a column 'seed'"),
    ],
)
def test_settings_are_checked(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_recipes_reach_every_scorer_by_name() -> None:
    for name in ("mopps", "learnability", "kimi", "greso", "adarft", "pcl"):
        factory = registry("scorer").get(name)
        made = factory(**validated(factory, {"ratio": 3, "explore": 0}, name))
        assert (made.ratio, made.explore, made.scope, made.name) == (3.0, 0.0, "mixture", name)
    checked = validated(Variants, {"max_visits": 2}, "variants", given=["pool"])
    assert Variants(POOL, **checked).pick == "top"
    scheduled = {"target": Linear(0.5, 0.3), "band": [0.2, 0.6]}
    assert validated(Mopps, scheduled, "mopps")["band"] == (0.2, 0.6)
    with pytest.raises(ValueError, match=r"mopps\.choose"):
        validated(Mopps, {"choose": "best"}, "mopps")


# --- evidence ---------------------------------------------------------------------------------------------------------


def test_running_rates_average_visits_that_fade() -> None:
    rates = RunningRates(keep=0.7)
    assert rates.get([1, 2]).tolist() == [0.5, 0.5]
    rates.observe([solved(1, 8)])
    assert rates.get([1])[0] == 1.0  # the first visit stands for itself
    assert rates.preview(solved(1, 0)) == pytest.approx(0.7 / 1.7)
    rates.observe([solved(1, 0)])
    assert rates.get([1])[0] == pytest.approx(0.7 / 1.7)
    late = RunningRates(keep=0.7)
    late.observe([solved(1, 8)])
    late.observe([solved(1, 0, weight=0.5)])
    faded = 0.7**0.5
    assert late.get([1])[0] == pytest.approx(faded / (faded + 0.5))
    assert late.preview(ended(1, [])) == late.get([1])[0]


def test_mean_correctness_counts_samples_by_weight() -> None:
    groups = [solved(1, 4, 4), solved(2, 0, 8, weight=0.5), solved(3, 8, weight=0.0), ended(4, [])]
    assert mean_correctness(groups) == (0.5, 8 / 12)
    assert mean_correctness(groups[2:]) is None


# --- the posterior ----------------------------------------------------------------------------------------------------


def test_pseudo_counts_settle_where_mopps_says() -> None:
    """18 at decay 0.5 and 8 samples a visit; without decay they grow for ever."""
    posterior, keeps_all = BetaPosterior(decay=0.5), BetaPosterior(decay=1.0)
    for step in range(50):
        for one in (posterior, keeps_all):
            one.observe([solved(7, 4, step=step)])
    a_C, b_C = posterior.counts([candidate(7)], step=50)
    assert a_C[0] == b_C[0] and a_C[0] + b_C[0] == pytest.approx(18, abs=1e-9)
    assert np.sum(keeps_all.counts([candidate(7)], step=50)) == 402


def test_a_visit_is_the_papers_update() -> None:
    posterior = BetaPosterior(decay=0.5)
    posterior.observe([solved(1, 6)])
    assert [c.tolist() for c in posterior.counts([candidate(1)], 1)] == [[7.0], [3.0]]
    posterior.observe([ended(1, [0.25] * 4, visit=1)])  # a <- 7/2 + 1/2 + 1, b <- 3/2 + 1/2 + 3
    assert [c.tolist() for c in posterior.counts([candidate(1)], 1)] == [[5.0], [5.0]]
    assert posterior.mean([candidate(1), candidate(2)], 1).tolist() == [0.5, 0.5]
    assert posterior.variance([candidate(1), candidate(2)], 1) == pytest.approx([1 / 44, 1 / 12])


def test_groups_of_one_prompt_in_one_step_are_one_visit_and_weights_discount() -> None:
    posterior = BetaPosterior(decay=0.5)
    posterior.observe([solved(1, 8)])
    posterior.observe([solved(1, 8, visit=1), solved(1, 0, 4, visit=2, weight=0.5)])
    a_C, b_C = posterior.counts([candidate(1)], 1)
    assert (a_C[0], b_C[0]) == (1 + 4 + 8, 1 + 2)
    late = BetaPosterior(decay=0.25)
    late.observe([solved(1, 8)])
    late.observe([solved(1, 0, 8, weight=0.5)])  # fades the past by 0.25^0.5
    a_C, b_C = late.counts([candidate(1)], 1)
    assert (a_C[0], b_C[0]) == (1 + 4, 1 + 4)


def test_evidence_fades_with_age() -> None:
    posterior = BetaPosterior(decay=0.5, period=10.0)
    posterior.observe([solved(1, 8, step=5)])
    totals = [np.sum(posterior.counts([candidate(1)], step)) for step in (5, 15, 25, 2005)]
    assert totals == pytest.approx([10, 6, 4, 2])
    posterior.observe([solved(1, 0, step=15, visit=1)])  # both ways of fading: 8 / 4
    a_C, b_C = posterior.counts([candidate(1)], 15)
    assert (a_C[0], b_C[0]) == (1 + 2, 1 + 8)


def test_a_prior_from_the_distribution_knows_prompts_that_nobody_visited() -> None:
    posterior = BetaPosterior(prior="distribution", prior_strength=4.0)
    fresh = [candidate(1000, "sums"), candidate(1001, "algebra")]
    for step in range(60):
        posterior.observe(
            [
                solved(2 * step, 8, step=step, distribution="sums"),
                solved(2 * step + 1, 1, step=step, distribution="algebra"),
            ]
        )
    keep = 0.9**60
    algebra = keep * 0.5 + (1 - keep) / 8
    assert posterior.mean(fresh, 60) == pytest.approx([0.98, algebra])  # never quite 1
    assert np.sum(posterior.counts(fresh, 60), axis=0) == pytest.approx([4.0, 4.0])
    assert posterior.metrics("x")["curriculum/x/prior/algebra"] == pytest.approx(algebra)


def test_draws_are_of_the_posterior() -> None:
    posterior = BetaPosterior()
    posterior.observe([solved(1, 6)])  # Beta(7, 3)
    drawn = posterior.draw([candidate(1)] * 20_000, 1, seeds.philox(0, "test", 0))
    assert drawn.mean() == pytest.approx(0.7, abs=0.01)
    assert drawn.var() == pytest.approx(0.21 / 11, rel=0.05)


def test_mopps_scores_by_distance_of_the_draw_from_the_target() -> None:
    pool = candidates(6)
    scorer = Mopps(target=Linear(0.5, 0.3))
    halfway = decision(50)
    drawn_C = scorer.posterior.draw(pool, 50, decision(50).draw)
    assert scorer.score(pool, halfway).score_C == pytest.approx(-((drawn_C - 0.4) ** 2))
    within = Mopps(choose="threshold").score(pool, decision(50)).score_C
    misses = [max(0.3 - p, p - 0.7, 0) for p in drawn_C]
    assert within == pytest.approx([-miss for miss in misses])
    assert 0 < sum(miss == 0 for miss in misses) < 6
    with pytest.raises(ValueError, match=r"target in \[0, 1\], got 1.5"):
        Mopps(target=Linear(0.5, 2.5)).score(pool, halfway)


def test_learnability_is_the_expected_variance_of_an_answer() -> None:
    scorer = Learnability(decay=1.0)
    scorer.observe([solved(0, 4), solved(1, 8), solved(2, 0)])
    found = scorer.score([candidate(uid) for uid in range(4)], decision(1))
    assert found.score_C == pytest.approx([25 / 110, 9 / 110, 9 / 110, 1 / 6])
    assert found.expected_C == pytest.approx([0.5, 0.9, 0.1, 0.5])


@pytest.mark.parametrize("make", [Mopps, Learnability], ids=["mopps", "learnability"])
def test_prompts_that_are_solved_half_the_time_are_found(make: Callable[[], Scorer]) -> None:
    """400 prompts of fixed difficulty, most of them too easy or too hard: where do 60 steps of 16 prompts go?"""
    population = np.random.default_rng(0)
    rates = np.where(
        population.random(400) < 0.2,
        population.uniform(0.35, 0.65, 400),
        population.choice([0.0, 0.02, 0.98, 1.0], 400),
    )
    frontier = np.abs(rates - 0.5) <= 0.15
    scorer, hits = make(), []
    for step in range(60):
        rng = seeds.philox(1, "population", step)
        asked = rng.choice(400, 128, replace=False)
        score_C = scorer.score([candidate(int(uid)) for uid in asked], decision(step)).score_C
        chosen = asked[np.argsort(-score_C, kind="stable")[:16]]
        hits.append(frontier[chosen].mean())
        scorer.observe(
            [
                solved(uid, int(rng.binomial(8, rates[uid])), step=step, visit=step)
                for uid in sorted(chosen.tolist())
            ]
        )
    assert frontier.mean() < 0.25
    assert np.mean(hits[30:]) > 3 * frontier.mean()


# --- histories --------------------------------------------------------------------------------------------------------


def test_kimi_weighs_by_failures() -> None:
    scorer = Kimi()
    scorer.observe([solved(0, 8), solved(1, 0), solved(2, 2)])
    found = scorer.score([candidate(uid) for uid in range(4)], decision())
    assert found.score_C == pytest.approx([0.05, 1.0, 0.75, 0.5])
    assert found.expected_C == pytest.approx([1.0, 0.0, 0.25, 0.5])


def test_greso_skips_as_the_paper_says() -> None:
    runs = np.array([0.0, 1.0, 2.0, 7.0])
    assert skip_probability(runs, 0.5) == pytest.approx([0, 0.5, 0.75, 0.99])


def test_greso_counts_trailing_visits_of_one_kind() -> None:
    scorer = Greso(p_easy=0.5, p_hard=0.8)
    histories = {1: [8, 8], 2: [0, 0, 0], 3: [0, 8], 4: [8, 8, 4], 5: [], 6: [4, 8]}
    for step in range(3):
        scorer.observe([solved(uid, ks[step]) for uid, ks in histories.items() if step < len(ks)])
    skipped = scorer.skip([candidate(uid) for uid in histories])
    assert skipped == pytest.approx([0.75, 1 - 0.8**3, 0.5, 0, 0, 0.5])
    draws = [
        scorer.score([candidate(2)] * 500, decision(step)).score_C.mean() for step in range(10)
    ]
    assert np.mean(draws) == pytest.approx(0.8**3, abs=0.03)
    assert set(scorer.score([candidate(2)] * 500, decision()).score_C) == {0.0, 1.0}


def test_greso_hears_late_outcomes_in_part() -> None:
    scorer = Greso()
    scorer.observe([solved(1, 8), solved(2, 8)])
    scorer.observe([solved(1, 8, weight=0.5), solved(2, 0, weight=0.5)])  # runs 1.5, and 0.5 - 0.5
    assert scorer.skip([candidate(1), candidate(2)]) == pytest.approx([1 - 0.5**1.5, 0])


def test_greso_adapts_from_the_second_visits_on() -> None:
    """Half of the groups are easy, none is hard: easy prompts are skipped more, hard ones less."""
    scorer = Greso()
    scorer.observe([solved(1, 8), solved(2, 4)])
    assert scorer.metrics() == {"curriculum/greso/p_easy": 0.5, "curriculum/greso/p_hard": 0.5}
    for visit in range(1, 4):
        scorer.observe([solved(1, 8, visit=visit), solved(2, 4, visit=visit)])
    assert scorer.metrics() == pytest.approx(
        {"curriculum/greso/p_easy": 0.47, "curriculum/greso/p_hard": 0.53}
    )
    for visit in range(4, 104):
        scorer.observe([solved(1, 8, visit=visit), solved(2, 4, visit=visit)])
    assert scorer.metrics() == pytest.approx(
        {"curriculum/greso/p_easy": 0.05, "curriculum/greso/p_hard": 0.95}
    )


# --- target and value -------------------------------------------------------------------------------------------------


def test_adarft_moves_its_target_by_the_error() -> None:
    scorer = AdaRft()
    targets = []
    for step in range(4):
        scorer.observe([solved(step, 8)])
        targets.append(scorer.target)
    assert targets == pytest.approx([38.0797, 76.1594, 100, 100], abs=1e-4)
    scorer.observe([solved(1, 8), solved(2, 0)])
    assert scorer.target == 100
    scorer.observe([solved(1, 0, weight=0.5)])  # half a move down
    assert scorer.target == pytest.approx(100 - 38.0797 / 2, abs=1e-4)


def test_adarft_takes_the_nearest_difficulty() -> None:
    scorer = AdaRft(column="level", start=30.0)
    rows = [candidate(uid, columns={"level": level}) for uid, level in enumerate((10, 30.5, 90))]
    assert scorer.score(rows, decision()).score_C.tolist() == [-20, -0.5, -60]
    for columns in ({}, {"level": None}, {"level": "hard"}, {"level": math.nan}):
        with pytest.raises(ValueError, match=r"column 'level' of every row.*'algebra'"):
            scorer.score([candidate(1, "algebra", columns)], decision())


def test_pcl_reads_predictions_after_the_warm_up() -> None:
    pool, predicted = candidates(3), [0.1, 0.55, 0.95]
    scorer = Pcl(target=0.5)
    early = scorer.score(pool, decision(9))
    assert early.score_C.tolist() == [1, 1, 1] and early.expected_C is None
    found = scorer.score(pool, decision(10, predicted))
    assert found.score_C == pytest.approx([-0.4, -0.05, -0.45])
    assert found.expected_C is not None and found.expected_C.tolist() == predicted
    soft = Pcl(pick="sample", warmup_steps=0).score(pool, decision(0, [0.35, 0.5, 0.2]))
    assert soft.score_C == pytest.approx([math.exp(-0.5), 1.0, math.exp(-2.0)])
    assert scorer.predicts and not Mopps().predicts


# --- mixtures of scorers ----------------------------------------------------------------------------------------------


def test_ranks_share_ties() -> None:
    assert ranks(np.array([3.0, 1.0, 3.0, 2.0, 9.0])).tolist() == [0.625, 0, 0.625, 0.25, 1]
    assert ranks(np.array([2.0])).tolist() == [0.5] and ranks(np.zeros(0)).tolist() == []


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=20))
def test_ranks_do_not_see_the_scale(scores: list[float]) -> None:
    score_C = np.array(scores)
    assert ranks(score_C).tolist() == ranks(score_C * 1024).tolist()
    assert ranks(score_C).mean() == pytest.approx(0.5)


def test_a_mix_adds_ranks_and_keeps_exclusions() -> None:
    target, greso = AdaRft(start=0.0, ratio=6.0), Greso(explore=0.2, scope="distribution")
    mixed = MixScorer([(target, 3.0), (Kimi(), 1.0), (greso, 1.0)])
    assert (mixed.ratio, mixed.explore, mixed.pick, mixed.scope) == (
        6.0,
        0.2,
        "top",
        "distribution",
    )
    mixed.observe([solved(0, 8), solved(1, 0), solved(2, 2)])
    found = mixed.score(candidates(3), decision())
    nobody_skipped = greso.score(candidates(3), decision()).score_C > 0
    assert found.expected_C == pytest.approx([1.0, 0.0, 0.25])
    assert np.isneginf(found.score_C).tolist() == (~nobody_skipped).tolist()

    pair = MixScorer([(target, 3.0), (Kimi(), 1.0)])
    pair.observe([solved(0, 8), solved(1, 0), solved(2, 2)])
    target.target = 0.0  # ranks of -|d - 0|: 1, 1/2, 0; of 1 - s: 0, 1, 1/2
    assert pair.score(candidates(3), decision()).score_C == pytest.approx([0.75, 0.625, 0.125])
    with pytest.raises(ValueError, match="saved mix has 2 scorers, the recipe's has 3"):
        mixed.load_state_dict(pair.state_dict())
    assert not pair.predicts and mix().predicts


# --- variants ---------------------------------------------------------------------------------------------------------


def uid_of(seed: str, variant: str) -> int:
    index = ROWS.index({"seed": seed, "variant": variant})
    return POOL.candidate("seeds", index).uid


def due(scorer: Variants) -> list[tuple[str, str]]:
    """Seeds and variants that are asked for, in order."""
    rows = [ROWS[index] for _, index in scorer.wanted(Progress(0, 0))]
    return [(row["seed"], row["variant"]) for row in rows]


def walk(scorer: Variants, *visits: tuple[str, int], seed: str = "p") -> list[str]:
    """Variants due after each visit, `(variant, right of 8)`; empty where the seed rests or is done."""
    found = []
    for step, (variant, k) in enumerate(visits):
        scorer.observe([solved(uid_of(seed, variant), k, step=step, visit=step)])
        found.append(next((v for s, v in due(scorer) if s == seed), ""))
    return found


def test_a_seed_that_is_solved_walks_the_papers_way() -> None:
    scorer = Variants(POOL)
    way = [("base", 4), ("z", 8), ("yz", 5), ("xz", 8), ("xyz", 4)]
    assert walk(scorer, *way) == ["z", "yz", "xz", "xyz", ""]
    assert scorer.metrics()["curriculum/variants/done"] == 1
    scores = scorer.score([POOL.candidate("seeds", k) for k in range(8)], decision()).score_C
    assert np.isneginf(scores).all()


def test_what_failed_comes_again_after_its_remedy() -> None:
    scorer = Variants(POOL)
    visits = [("base", 8), ("z", 8), ("yz", 0), ("y", 2), ("y", 4), ("yz", 4), ("xz", 0), ("x", 8)]
    assert walk(scorer, *visits) == ["z", "yz", "y", "y", "yz", "xz", "x", "xz"]
    assert walk(scorer, ("xz", 8), ("xyz", 0), ("y", 8), ("xyz", 8)) == ["xyz", "y", "xyz", ""]


def test_a_seed_that_does_not_get_on_rests_and_may_begin_again() -> None:
    scorer = Variants(POOL)
    assert walk(scorer, ("base", 0)) == [""]
    assert walk(scorer, ("base", 1), ("base", 3), ("base", 3)) == ["base", "base", ""]
    remedies = [("base", 8), ("z", 8), ("yz", 0), ("y", 8), ("yz", 0), ("y", 8), ("yz", 0)]
    assert walk(scorer, *remedies) == ["z", "yz", "y", "yz", "y", "yz", ""]
    base = POOL.candidate("seeds", 0)
    assert scorer.score([base], decision()).score_C.tolist() == [1.0]
    assert walk(scorer, ("base", 8)) == ["z"]
    assert walk(scorer, ("z", 0), ("z", 0), ("z", 0)) == ["z", "z", ""]


def test_the_released_graph_goes_on_behind_a_remedy() -> None:
    scorer = Variants(POOL, graph="released", advance=1e-9)
    way = [("base", 1), ("x", 0), ("y", 1), ("xy", 0), ("z", 1), ("xz", 0), ("yz", 1), ("xyz", 1)]
    assert walk(scorer, *way) == ["x", "y", "xy", "z", "xz", "yz", "xyz", ""]
    assert walk(Variants(POOL, graph="released"), ("base", 8), ("x", 0), ("y", 0))[-1] == ""


def test_scores_and_wishes_put_remedies_first() -> None:
    scorer = Variants(POOL)
    assert due(scorer) == []
    walk(scorer, ("base", 8), ("z", 8), seed="p")
    walk(scorer, ("base", 8), ("z", 8), ("yz", 0), seed="q")
    assert due(scorer) == [("q", "y"), ("p", "yz")]
    rows = [POOL.candidate("seeds", k) for k in range(16)]
    score_C = scorer.score(rows, decision()).score_C.tolist()
    score = {(r["seed"], r["variant"]): score for r, score in zip(ROWS, score_C, strict=True)}
    assert score.pop(("q", "y")) == 3 and score.pop(("p", "yz")) == 2
    assert set(score.values()) == {-np.inf}
    assert Variants(POOL).score([rows[0], rows[1]], decision()).score_C.tolist() == [1, -np.inf]
    assert scorer.score([POOL.candidate("sums", 0)], decision()).score_C.tolist() == [1]
    assert MixScorer([(scorer, 1.0), (Kimi(), 1.0)]).wanted(Progress(0, 0)) == scorer.wanted(
        Progress(0, 0)
    )


def test_variants_that_a_seed_lacks_are_passed_over() -> None:
    pool = RowPool({"few": [{"seed": 7, "variant": v} for v in ("base", "yz", "xyz")]})
    scorer = Variants(pool)
    steps = []
    for index, k in ((0, 8), (1, 0), (1, 8), (2, 8)):
        scorer.observe([solved(pool.candidate("few", index).uid, k)])
        steps.append(scorer.wanted(Progress(0, 0)))
    assert steps == [[("few", 1)], [("few", 1)], [("few", 2)], []]
    with pytest.raises(ValueError, match="got 'wxyz' in row 0 of the distribution 'few'"):
        Variants(RowPool({"few": [{"seed": 7, "variant": "wxyz"}]}))


@settings(max_examples=30, deadline=None)
@given(
    visits=st.lists(
        st.lists(
            st.tuples(
                st.sampled_from(range(16)), st.integers(0, 8), st.sampled_from([0.0, 0.5, 1.0])
            ),
            max_size=6,
        ),
        max_size=8,
    ),
    data=st.data(),
)
def test_walks_are_keyed_by_uid(
    visits: list[list[tuple[int, int, float]]], data: st.DataObject
) -> None:
    """The order within a step does not matter, what is not due or too late changes nothing, and walks come back."""
    one, other, number = Variants(POOL), Variants(POOL), itertools.count()
    rows = [POOL.candidate("seeds", index) for index in range(16)]
    for step, groups in enumerate(visits):
        outcomes = [
            solved(rows[index].uid, k, step=step, visit=next(number), weight=weight)
            for index, k, weight in groups
        ]
        asked = {rows[index].uid for _, index in one.wanted(Progress(step, step))}
        bases = {row.uid for row in rows if row.columns["variant"] == "base"}
        heard = [o for o in outcomes if o.weight and o.group_id.uid in asked | bases]
        one.observe(outcomes)
        other.observe(data.draw(st.permutations(heard)))
        assert plain(other.state_dict()) == plain(one.state_dict())
        again = Variants(POOL)
        again.load_state_dict(one.state_dict())
        assert again.wanted(Progress(step, step)) == one.wanted(Progress(step, step))
        assert plain(again.state_dict()) == plain(one.state_dict())
        other = again
    found: list[Candidate] = [
        row for row in rows if np.isfinite(one.score([row], decision()).score_C)
    ]
    assert len(found) <= 2 and len(found) + len(one.state_dict()["done"]) == 2
