"""The pieces of the objective against numbers by hand, and against themselves cut up.

The base case: B=2 rows, T=3, mask [[1,1,1],[1,1,0]], A=[1,-1], clip 0.2, generation budget 4. The expected numbers are
by hand where they are short, else what TRL 1.16 gives for it in float64; `test_trl_oracle.py` asks TRL itself.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from rlcurric.objective import stabilisers
from rlcurric.objective.advantages import group_advantages, hgpo, leave_one_out, rank_average
from rlcurric.objective.aggregation import Counts
from rlcurric.objective.credit import discounted_returns
from rlcurric.objective.declaration import Objective, trial
from rlcurric.objective.entropy import ADAPTIVE, AdaptiveEntropy, Entropy, EntropyController
from rlcurric.objective.kl import Kl, kl_estimate
from rlcurric.objective.loss import TokenValues, policy_loss
from rlcurric.objective.pieces import Piece, resolved
from rlcurric.objective.presets import (
    bnpo,
    cispo,
    dapo,
    dr_grpo,
    dual_clip,
    gmpo,
    grpo,
    gspo,
    gspo_token,
    hpt,
    luspo,
    reinforce_pp,
    reinforce_pp_baseline,
    rloo,
    sapo,
    two_sided,
    vespo,
)
from rlcurric.objective.surrogates import clip
from rlcurric.objective.terms import action_spans, entropy_sft_score, entropy_sft_threshold
from rlcurric.registry import registry
from rlcurric.schedules import Linear, Progress
from tests.base_case import (
    COUNTS,
    LP,
    LP_ROLLOUT,
    REF,
    ROW_N,
    D,
    base_case,
    flat,
    values_of,
)

PRESETS = [name for name in registry("objective") if name not in ("hgpo", "pieces")]


def preset(name: str) -> Objective:
    """A preset with its defaults, the KL switched on where it has one."""
    function = registry("objective").get(name)
    kl = {"kl_coef": 0.1} if "kl_coef" in function.__code__.co_varnames else {}
    made: Objective = function(**kl)
    return made


@pytest.mark.parametrize(
    ("objective", "loss", "gradient"),
    [
        (grpo(), -0.00833333, [0, -0.166667, -0.116667, 0, 0.275]),
        (dapo(clip_high=0.2), -0.20000000, [0, -0.2, -0.14, 0, 0.22]),
        (bnpo(), -0.20000000, [0, -0.2, -0.14, 0, 0.22]),
        (dr_grpo(), -0.12500000, [0, -0.125, -0.0875, 0, 0.1375]),
        (dapo(), -0.21600000, [0, -0.2, -0.14, 0, 0.22]),
        (cispo(), 0.34600000, [-0.3, -0.2, -0.14, 0.1, 0.22]),
        (vespo(), 0.50874912, [-0.189786] * 3 + [0.081843] * 2),
        (gspo(0.2, 0.2), -0.10819818, [-0.169399] * 3 + [0, 0]),
        (gspo_token(0.2, 0.2), -0.10819818, [-0.169399] * 3 + [0, 0]),
        (luspo(0.2, 0.2), -0.72459454, [-0.508198] * 3 + [0, 0]),
        (rloo(), -0.125, [-0.525] * 3 + [0, 0]),
    ],
    ids=lambda value: "" if not isinstance(value, Objective) else None,
)
def test_presets_on_the_base_case(objective: Objective, loss: float, gradient: list[float]) -> None:
    value, slope, metrics = base_case(objective)
    assert value == pytest.approx(loss, abs=1e-8)
    assert slope == pytest.approx(gradient, abs=1e-6)
    assert float(metrics["loss/policy/mean"]) == pytest.approx(loss, abs=1e-8)


def test_clip_metrics_are_shares_of_tokens() -> None:
    _, _, metrics = base_case(grpo())
    assert float(metrics["clip/high/mean"]) == pytest.approx(1 / 5)
    assert float(metrics["clip/low/mean"]) == pytest.approx(1 / 5)


def test_luspo_by_tokens_sums_what_is_trained() -> None:
    objective = replace(grpo(), aggregation=luspo().aggregation)
    value, slope, _ = base_case(objective)
    assert value == pytest.approx(-0.5, abs=1e-8)
    assert slope == pytest.approx([0, -0.5, -0.35, 0, 0.55], abs=1e-6)


def test_gmpo_by_hand() -> None:
    """Row 0: logs .4 (clipped), 0, ln .7; row 1: -.4 (clipped), ln 1.1."""
    high, low = math.exp((0.4 + math.log(0.7)) / 3), math.exp((-0.4 + math.log(1.1)) / 2)
    value, slope, _ = base_case(gmpo())
    assert value == pytest.approx((-high + low) / 2)
    # ln 1.5 = .405 and ln .5 are beyond the bound: no gradient there
    assert slope == pytest.approx([0, -high / 6, -high / 6, 0, low / 4])


def test_sapo_by_hand() -> None:
    """r = 3, A = -1: f = 3.39391687 and its slope is the gate times r."""
    objective = sapo()
    weight_N = torch.tensor([3.0], dtype=torch.float64).requires_grad_()
    loss_N = objective.surrogate.function(weight_N, torch.tensor([-1.0], dtype=torch.float64))
    loss_N.backward()
    assert loss_N.item() == pytest.approx(3.39391687, abs=2e-7)
    assert weight_N.grad is not None and float(weight_N.grad) == pytest.approx(0.38877882, abs=1e-8)


@pytest.mark.parametrize(("delta", "loss", "gradient"), [(None, 5.0, 5.0), (4.0, 4.0, 0.0)])
def test_two_sided_clipping_bounds_bad_tokens(
    delta: float | None, loss: float, gradient: float
) -> None:
    d_N = torch.tensor([math.log(5.0)]).double().requires_grad_()
    value_N = clip(d_N.exp(), torch.tensor([-1.0], dtype=torch.float64), delta=delta)
    value_N.backward()
    assert value_N.item() == pytest.approx(loss)
    assert d_N.grad is not None and float(d_N.grad) == pytest.approx(gradient)


def test_dual_clip_bounds_the_loss() -> None:
    w_N = torch.tensor([5.0, 5.0, 2.0], dtype=torch.float64)
    a_N = torch.tensor([-1.0, 1.0, -1.0], dtype=torch.float64)
    assert clip(w_N, a_N, dual=3.0).tolist() == pytest.approx([3.0, -1.2, 2.0])
    assert dual_clip().surrogate.args["dual"] == 3.0


@pytest.mark.parametrize(
    ("objective", "counts", "loss"),
    [
        (dapo(clip_high=0.2), replace(COUNTS, tokens=10), -0.1),  # two micro-batches in the window
        (
            dapo(clip_high=0.2),
            replace(COUNTS, tokens=10, world=2),
            -0.2,
        ),  # two ranks, averaged later
        (grpo(), replace(COUNTS, rows=4), -0.00416667),
    ],
    ids=["half the tokens", "two ranks", "half the rows"],
)
def test_denominators_are_the_window_s(objective: Objective, counts: Counts, loss: float) -> None:
    assert base_case(objective, counts)[0] == pytest.approx(loss, abs=1e-8)


@pytest.mark.parametrize(
    ("objective", "loss"),
    [
        (grpo(), -0.48333333),
        (dapo(clip_high=0.2), -0.96666667),
        (bnpo(), -0.96666667),
        (dr_grpo(), -0.3625),
        (sapo(), -1.03201121),
        (cispo(), 1.13333333),
    ],
    ids=["grpo", "dapo", "bnpo", "dr_grpo", "sapo", "cispo"],
)
def test_a_masked_row_gives_no_gradient_and_still_counts_as_a_row(
    objective: Objective, loss: float
) -> None:
    mask_N = torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0], dtype=torch.float64)
    value, gradient, _ = base_case(objective, replace(COUNTS, tokens=3), mask_N=mask_N)
    assert value == pytest.approx(loss, abs=1e-8)
    assert gradient[3:] == [0.0, 0.0]


@pytest.mark.parametrize("name", PRESETS)
def test_nothing_to_train_is_zero(name: str) -> None:
    value, gradient, _ = base_case(
        preset(name), replace(COUNTS, tokens=0), mask_N=torch.zeros(5).double()
    )
    assert (abs(value), gradient) == (0.0, [0.0] * 5)


@pytest.mark.parametrize(
    ("objective", "value", "gradient"),
    [
        (grpo(), 0.0, [-1 / 6] * 3 + [1 / 4] * 2),
        (gspo(), 0.0, [-1 / 6] * 3 + [1 / 4] * 2),
        (sapo(), -0.04761905, [-1 / 6] * 3 + [1 / 4] * 2),
        (dapo(), -0.2, [-0.2] * 3 + [0.2] * 2),
        (bnpo(), -0.2, [-0.2] * 3 + [0.2] * 2),
        (cispo(), 0.32, [-0.2] * 3 + [0.2] * 2),
    ],
    ids=["grpo", "gspo", "sapo", "dapo", "bnpo", "cispo"],
)
def test_on_policy_all_are_the_policy_gradient(
    objective: Objective, value: float, gradient: list[float]
) -> None:
    found, slope, _ = base_case(objective, old_N=flat(LP))
    assert found == pytest.approx(value, abs=1e-8)
    assert slope == pytest.approx(gradient, abs=1e-12)


def test_ragged_windows_weigh_tokens_alike() -> None:
    """Token losses {1,1,1,1} and {2,2} over two micro-batches: 8/6."""
    counts = Counts(tokens=6, rows=2, max_length=4)
    total = 0.0
    for length, value in ((4, 1.0), (2, 2.0)):
        zeros_N = torch.zeros(length)
        values = TokenValues(
            zeros_N, zeros_N, zeros_N, torch.full((length,), -value), torch.ones(length),
            torch.zeros(length, dtype=torch.int64), 1,
        )  # fmt: skip
        total += float(policy_loss(dapo(), values, counts)[0])
    assert total == pytest.approx(8 / 6)


TERMS = (
    Piece(registry("term").get("llds")),
    Piece(registry("term").get("tea_rl")),
)
EVERYTHING = replace(
    grpo(),
    stabilisers=(
        Piece(stabilisers.truncated_importance),
        Piece(stabilisers.icepop),
        Piece(stabilisers.off_policy_mask),
        Piece(stabilisers.top_entropy, {"fraction": 0.6}),
        Piece(stabilisers.d3s_tokens),
    ),
    kl=Kl(0.1, "k2"),
    entropy=Entropy(0.01),
    terms=TERMS,
)


@pytest.mark.parametrize("name", [*(n for n in PRESETS if n != "bnpo"), "everything"])
@pytest.mark.parametrize("world", [1, 2, 4])
def test_gradients_do_not_depend_on_the_split(name: str, world: int) -> None:
    """Seven rows of unequal length in one piece, and cut over micro-batches and ranks of unequal rows."""
    objective = EVERYTHING if name == "everything" else preset(name)
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([3, 1, 5, 2, 4, 7, 1])
    row_N = torch.repeat_interleave(torch.arange(7), lengths)
    n = len(row_N)

    def noise(scale: float) -> torch.Tensor:
        return scale * torch.randn(n, generator=generator).double()

    logprobs_N, head_N = -torch.rand(n, generator=generator).double(), noise(1.0)
    whole = {
        "old_logprobs_N": logprobs_N + noise(0.3),
        "rollout_logprobs_N": logprobs_N + noise(0.3),
        "ref_logprobs_N": logprobs_N + noise(0.3),
        "advantages_N": torch.randn(7, generator=generator).double()[row_N],
        "mask_N": (torch.rand(n, generator=generator) > 0.2).double(),
    }
    counts = Counts(int(whole["mask_N"].sum()), 7, 8)

    def gradient(pieces: list[list[int]], world: int) -> torch.Tensor:
        leaf_N = logprobs_N.clone().requires_grad_()
        entropy_N = leaf_N**2 + head_N.abs()
        named = {**whole, "logprobs_N": leaf_N, "entropy_N": entropy_N, "row_N": row_N, "rows": 7}
        named |= {"counts": counts, "token_fraction": 0.5}
        numbers = {k: piece.over_window(named) for k, piece in enumerate(objective.windowed)}
        for rows in pieces:
            chosen = torch.isin(row_N, torch.tensor(rows))
            local = {key: value[chosen] for key, value in whole.items()}
            values = TokenValues(
                logprobs_N=leaf_N[chosen],
                entropy_N=entropy_N[chosen],
                row_N=torch.searchsorted(torch.tensor(rows), row_N[chosen]),
                rows=len(rows),
                **local,
            )
            loss, _ = policy_loss(
                objective, values, replace(counts, world=world), numbers, 0.01, 0.5
            )
            (loss / world).backward(retain_graph=True)  # what data parallelism's mean does
        assert leaf_N.grad is not None
        return leaf_N.grad

    once = gradient([list(range(7))], 1)
    cut = gradient([[0, 3], [1], [2, 4, 6], [5]], world)
    assert once.norm() > 0
    assert (once - cut).norm() <= 1e-12 * once.norm()


def test_nothing_but_the_policy_gets_a_gradient() -> None:
    """Every other leaf may ask for one: old, engine's and reference's log-probs, advantages."""
    for objective in (EVERYTHING, *(preset(name) for name in PRESETS)):
        values = values_of(objective)
        leaves = {
            key: getattr(values, key).clone().requires_grad_()
            for key in ("old_logprobs_N", "rollout_logprobs_N", "ref_logprobs_N", "advantages_N")
        }
        values = replace(values, **leaves)
        named = values.named(COUNTS)
        numbers = {k: piece.over_window(named) for k, piece in enumerate(objective.windowed)}
        loss, _ = policy_loss(objective, values, COUNTS, numbers, 0.01)
        loss.backward()
        assert all(leaf.grad is None for leaf in leaves.values()), objective


# --- KL ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("estimator", "values", "slopes"),
    [
        ("k1", [0.2, -0.5], [1, 1]),
        ("k2", [0.02, 0.125], [0.2, -0.5]),
        ("k3", [0.01873075, 0.14872127], [0.18126925, -0.64872127]),
        ("r_k3", [0.01873075, 0.14872127], [0.2, -0.5]),
        ("k3_k2", [0.01873075, 0.14872127], [0.2, -0.5]),
    ],
)
def test_kl_estimators(estimator: Any, values: list[float], slopes: list[float]) -> None:
    logprobs_N = torch.tensor([-1.0, -2.0], dtype=torch.float64).requires_grad_()
    ref_N = torch.tensor([-1.2, -1.5], dtype=torch.float64)
    found_N = kl_estimate(estimator, logprobs_N, ref_N, logprobs_N.detach())
    found_N.sum().backward()
    assert found_N.tolist() == pytest.approx(values, abs=1e-8)
    assert logprobs_N.grad is not None and logprobs_N.grad.tolist() == pytest.approx(
        slopes, abs=1e-8
    )


def test_kl_in_the_loss() -> None:
    objective = replace(grpo(), kl=Kl(0.1, "k3"))
    value, slope, metrics = base_case(objective)
    assert value == pytest.approx(-0.00500740, abs=1e-8)
    assert slope == pytest.approx([0.003021, -0.166667, -0.127479, 0, 0.269465], abs=1e-6)
    assert float(metrics["kl/ref_k3/mean"]) == pytest.approx(0.03777096, abs=1e-8)


@pytest.mark.parametrize(
    ("estimator", "row"),
    [("k3", [-0.163646, -0.166667, -0.177479]), ("r_k3", [-0.163333, -0.166667, -0.175])],
)
def test_kl_on_policy(estimator: Any, row: list[float]) -> None:
    value, slope, _ = base_case(replace(grpo(), kl=Kl(0.1, estimator)), old_N=flat(LP))
    assert value == pytest.approx(0.00332594, abs=1e-8)
    assert slope[:3] == pytest.approx(row, abs=1e-6)


def test_a_penalty_that_trains_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="k1 as a loss has a gradient of expectation 0"):
        Kl(0.1, "k1")
    with pytest.raises(ValueError, match="placement reward takes estimator k1"):
        Kl(0.1, "k3", "reward")
    with pytest.raises(ValueError, match="sync_mix"):
        Kl(0.1, "k2", sync_mix=0.0)


# --- stabilisers ------------------------------------------------------------------------------------------------------

OLD_IS = torch.tensor([[-1.0, -0.5, -2.0], [-0.7, -1.2, 0.0]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("token", [1.64872127, 1, 0.81873075, 1, 7.3890561]),
        ("sequence", [1.34985881] * 3 + [7.3890561] * 2),
        ("geometric", [1.10517092] * 3 + [2.71828183] * 2),
    ],
)
def test_mismatch_ratios(level: Any, expected: list[float]) -> None:
    ratio = stabilisers.mismatch_ratio
    q_N = ratio(flat(OLD_IS), flat(LP_ROLLOUT), torch.ones(5).double(), ROW_N, 2, level)
    assert q_N.tolist() == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize(
    ("name", "args", "expected"),
    [
        ("truncated_importance", {"high": 3.0}, [1.64872127, 1, 0.81873075, 1, 3]),
        ("masked_importance", {"level": "token", "high": 3.0}, [1.64872127, 1, 0.81873075, 1, 0]),
        ("truncated_importance", {"level": "sequence", "high": 3.0}, [1.34985881] * 3 + [3] * 2),
        ("masked_importance", {}, [1.34985881] * 3 + [0] * 2),
        ("icepop", {"low": 0.9}, [1.64872127, 1, 0, 1, 0]),
        ("geometric_rejection", {"low": 0.9, "high": 1.2}, [1, 1, 1, 0, 0]),
    ],
)
def test_importance_stabilisers(name: str, args: dict[str, Any], expected: list[float]) -> None:
    function = registry("stabiliser").get(name)
    factor_N = function(flat(OLD_IS), flat(LP_ROLLOUT), torch.ones(5).double(), ROW_N, 2, **args)
    assert factor_N.tolist() == pytest.approx(expected, abs=1e-8)


def test_a_log_prob_that_the_engine_did_not_give_is_no_evidence() -> None:
    rollout_N = flat(LP_ROLLOUT).clone()
    rollout_N[4] = float("nan")
    ones_N = torch.ones(5).double()
    q_N = stabilisers.mismatch_ratio(flat(OLD_IS), rollout_N, ones_N, ROW_N, 2)
    assert q_N.tolist() == pytest.approx([1.64872127, 1, 0.81873075, 1, 1])
    value, slope, metrics = base_case(grpo(), rollout_N=rollout_N)
    assert all(math.isfinite(x) for x in (value, *slope, *map(float, metrics.values())))


@pytest.mark.parametrize(
    ("delta", "loss", "row"), [(0.2, -0.48333333, 0.0), (0.35, -0.00833333, 0.275)]
)
def test_off_policy_rows_with_bad_advantages_are_dropped(
    delta: float, loss: float, row: float
) -> None:
    mask = Piece(stabilisers.off_policy_mask, {"delta": delta})
    value, slope, _ = base_case(replace(grpo(), stabilisers=(mask,)), rollout_N=flat(LP - D))
    assert value == pytest.approx(loss, abs=1e-8)
    assert slope[4] == pytest.approx(row, abs=1e-6)


def test_dapo_times_a_ratio_per_token() -> None:
    ratio_N = torch.tensor([2.0, 1, 1, 0.5, 1], dtype=torch.float64)
    rollout_N = flat(LP - D) - ratio_N.log()
    objective = dapo(clip_high=0.2)
    value, _, metrics = base_case(objective, rollout_N=rollout_N)
    assert value == pytest.approx(-0.52, abs=1e-8)
    assert float(metrics["mismatch/ratio/mean"]) == pytest.approx(5.5 / 5)
    assert float(metrics["mismatch/abs/max"]) == pytest.approx(math.log(2))


def test_two_stabilisers_of_one_kind_both_count() -> None:
    """Token masks and row masks multiply, and each is logged under a name of its own."""
    token = Piece(stabilisers.masked_importance, {"level": "token", "high": 3.0})
    row = Piece(stabilisers.masked_importance, {"level": "geometric", "high": 2.0})
    rollout_N = flat(LP - D) - flat(OLD_IS - LP_ROLLOUT)
    both = [
        base_case(replace(dapo(), stabilisers=chosen), rollout_N=rollout_N)
        for chosen in ((token, row), (row, token))
    ]
    assert both[0][0] == pytest.approx(both[1][0])
    alone = [
        base_case(replace(dapo(), stabilisers=(one,)), rollout_N=rollout_N)[0]
        for one in (token, row)
    ]
    assert both[0][0] not in (pytest.approx(alone[0]), pytest.approx(alone[1]))
    assert "stabiliser/masked_importance_2/mean" in both[0][2]


def test_vespo_takes_the_mismatch_into_its_kernel() -> None:
    rollout_N = flat(LP - D) - torch.tensor([2.0, 1, 1, 0.5, 1], dtype=torch.float64).log()
    assert base_case(vespo(), rollout_N=rollout_N)[0] == pytest.approx(0.08016774, abs=1e-8)


def test_only_tokens_of_high_entropy_are_trained() -> None:
    """H = [.1, 2, .5 | 1, .3], 40 %: the threshold is .7 and keeps 2 and 1."""
    piece = Piece(stabilisers.top_entropy, {"fraction": 0.4})
    objective = replace(dapo(clip_high=0.2), stabilisers=(piece,))
    named = values_of(objective).named(COUNTS)
    assert piece.over_window(named)["threshold"] == pytest.approx(0.7)
    value, slope, metrics = base_case(objective)
    assert [abs(x) > 0 for x in slope] == [
        False,
        True,
        False,
        False,
        False,
    ]  # row 1, token 0: clipped
    assert float(metrics["stabiliser/top_entropy/mean"]) == pytest.approx(2 / 5)
    assert value == pytest.approx((-1.0 + 0.8) / 5)


def test_d3s_keeps_tokens_of_high_advantage_times_entropy() -> None:
    """A = (1.5, -.5): scores .15, 3, .75 | .5, .15; the top 40 % are tokens 1 and 2 of row 0."""
    piece = Piece(stabilisers.d3s_tokens)
    objective = replace(dapo(clip_high=0.2), stabilisers=(piece,))
    values = replace(
        values_of(objective), advantages_N=torch.tensor([1.5] * 3 + [-0.5] * 2).double()
    )
    named = values.named(COUNTS, token_fraction=0.4)
    numbers = piece.over_window(named)
    factor_N = piece(named, numbers)
    assert factor_N.tolist() == pytest.approx([0, 2.5, 2.5, 0, 0])
    loss, _ = policy_loss(objective, values, COUNTS, {0: numbers})
    kept = (1.0 * 1.5 + 0.7 * 1.5) / 2  # over the kept tokens, not over all
    assert loss.item() == pytest.approx(-kept)


# --- entropy ----------------------------------------------------------------------------------------------------------


def test_the_entropy_bonus_is_the_mean_over_the_window() -> None:
    """Mean entropy 3.9 / 5."""
    objective = dapo(clip_high=0.2)
    value, _, metrics = base_case(objective, entropy_coef=0.01)
    assert value == pytest.approx(-0.2 - 0.01 * 0.78)
    assert float(metrics["entropy/policy/mean"]) == pytest.approx(0.78)
    assert float(metrics["loss/policy/mean"]) == pytest.approx(-0.2)


def test_the_bonus_acts_on_the_tokens_that_top_entropy_keeps() -> None:
    """-(1 - .8) / 5 from the policy, and .01 times the mean of 2 and 1."""
    piece = Piece(stabilisers.top_entropy, {"fraction": 0.4})
    objective = replace(dapo(clip_high=0.2), stabilisers=(piece,))
    value, _, metrics = base_case(objective, entropy_coef=0.01)
    assert value == pytest.approx(-0.055, abs=1e-8)
    assert float(metrics["entropy/bonus/mean"]) == pytest.approx(1.5)


def test_the_adaptive_bonus() -> None:
    """Start .01, target .2, entropy .78: off, down to .005; target 1 after that: .005 is used, then .01."""
    controller = EntropyController(Entropy(adaptive=AdaptiveEntropy(initial=0.01)))
    assert controller.coef(0.0) == 0.0
    assert base_case(grpo(), entropy_coef=controller.coef(0.0))[0] == pytest.approx(-0.00833333)
    controller.observe(0.78)
    raised = EntropyController(Entropy(adaptive=AdaptiveEntropy(target=1.0, initial=0.01)))
    raised.load_state_dict(controller.state_dict())
    assert raised.coef(0.0) == pytest.approx(0.005)
    assert base_case(grpo(), entropy_coef=raised.coef(0.0))[0] == pytest.approx(-0.01223333)
    raised.observe(0.78)
    assert raised.coef(0.0) == pytest.approx(0.01)
    assert ADAPTIVE["skywork"].delta == 1e-4
    with pytest.raises(ValueError, match="not both"):
        Entropy(0.1, AdaptiveEntropy())


def test_a_fixed_bonus_follows_its_schedule() -> None:
    entropy = Entropy(Linear(1.0, 0.0))
    now = resolved(entropy, Progress(0, 5, 10))
    assert EntropyController(entropy).coef(now.coef) == 0.5


# --- auxiliary terms --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("gate", "value"), [("token", 0.14), ("response", 0.14), ("action", 0.12)])
@pytest.mark.parametrize(
    ("last", "values"), [(0.3, None), (0.1, {"token": 0.1, "response": 0.0, "action": 0.08})]
)
def test_llds(gate: str, value: float, last: float, values: dict[str, float] | None) -> None:
    """Falls .3, -.1 | .1, -.5 | last, in one row of three actions; coefficient 1."""
    fall_N = torch.tensor([0.3, -0.1, 0.1, -0.5, last], dtype=torch.float64)
    logprobs_N = (-fall_N).requires_grad_()
    piece = Piece(registry("term").get("llds"), {"coef": 1.0, "gate": gate})
    zeros_N, ones_N = torch.zeros(5).double(), torch.ones(5).double()
    # untrained tokens part the actions
    place = torch.tensor([0, 1, 3, 4, 6])
    spread = {"mask_N": torch.zeros(7).double().index_fill(0, place, 1.0)}
    for key, tensor_N in (
        ("logprobs_N", logprobs_N),
        ("old_logprobs_N", zeros_N),
        ("advantages_N", ones_N),
    ):
        spread[key] = torch.zeros(7).double().index_copy(0, place, tensor_N)
    named = {**spread, "row_N": torch.zeros(7, dtype=torch.int64), "rows": 1}
    losses_N = piece(named, piece.over_window(named))
    assert float(losses_N.sum()) == pytest.approx((values or {}).get(gate, value))
    losses_N.sum().backward()
    assert logprobs_N.grad is not None
    assert set(logprobs_N.grad.round(decimals=6).tolist()) <= {-0.2, 0.0, -0.0}


def test_llds_is_zero_on_policy_and_on_bad_rows() -> None:
    objective = replace(grpo(), terms=(Piece(registry("term").get("llds")),))
    assert float(base_case(objective, old_N=flat(LP))[2]["loss/llds/mean"]) == 0.0
    _, slope, metrics = base_case(objective)
    plain = base_case(grpo())[1]
    # only token 2 of row 0 fell: -.2 over the three tokens of the preserved row
    assert float(metrics["loss/llds/mean"]) == pytest.approx(
        0.0
    )  # its row rose in sum: the gate is shut
    assert slope == pytest.approx(plain)


def test_actions_are_runs_of_trained_tokens() -> None:
    mask_N = torch.tensor([0.0, 1, 1, 0, 1, 1, 0, 1])
    row_N = torch.tensor([0, 0, 0, 0, 0, 1, 1, 1])
    spans = action_spans(mask_N, row_N).tolist()
    assert spans[1] == spans[2] != spans[4]
    assert spans[4] != spans[5] != spans[7]


def test_tea_rl() -> None:
    """The weights on the base case are 3.40002637, 5, 1.52773033 | 3.54343694, 5; their entropies sum to 16.147."""
    objective = replace(grpo(), terms=(Piece(registry("term").get("tea_rl")),))
    metrics = base_case(objective)[2]
    assert float(metrics["loss/tea_rl/mean"]) == pytest.approx(-3.22946095, abs=1e-8)


def test_entropy_sft_keeps_what_is_hard_and_decided() -> None:
    logprobs_N = torch.tensor([-1.0, -3.0, -0.1, -2.0])
    entropy_N = torch.tensor([0.5, 3.0, 0.1, 0.0])
    score_N = entropy_sft_score(logprobs_N, entropy_N, 1.0)
    assert score_N.tolist() == pytest.approx([0.5, 0.0, 0.0, 2.0], abs=1e-6)
    assert entropy_sft_threshold(score_N, 0.5) == pytest.approx(0.5)
    assert entropy_sft_threshold(score_N, 0.1) == pytest.approx(2.0)  # one token at least


# --- declarations -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_runs_as_declared(name: str) -> None:
    trial(preset(name))


def test_unknown_arguments_of_a_piece_are_refused() -> None:
    with pytest.raises(ValueError, match="Did you mean 'high'"):
        Piece(clip, {"hihg": 0.3})


def test_pieces_say_what_they_need() -> None:
    assert Piece(clip).needs == {"weight_N", "advantages_N"}
    assert EVERYTHING.needs_entropy_first and EVERYTHING.needs_scores_by_window
    assert not grpo().needs_scores
    assert reinforce_pp(kl_coef=0.1).needs_scores and not reinforce_pp(kl_coef=0.1).scores_first
    assert rloo(kl_coef=0.1).scores_first
    assert replace(grpo(), entropy=Entropy(0.1)).entropy_has_gradient
    assert hpt().demonstrations is not None


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: grpo(clip_low=-0.1), "low in"),
        (lambda: grpo(eps=-1.0), "eps >= 0"),
        (lambda: sapo(temperature_positive=0.0), "temperatures above 0"),
        (lambda: gmpo(bound=-1.0), "bound > 0"),
        (lambda: vespo(mismatch_high=0.0), "mismatch_high of at least 1"),
        (lambda: two_sided(delta=1.1), "delta must be above 1 \\+ high"),
        (lambda: dual_clip(dual=0.5), "dual must be above 1"),
        (lambda: cispo(cap_high=0.2), "absolute caps"),
        (lambda: replace(grpo(), stabilisers=(Piece(stabilisers.icepop, {"low": 3.0}),)), "low in"),
        (
            lambda: replace(grpo(), stabilisers=(Piece(stabilisers.top_entropy, {"fraction": 0}),)),
            "fraction in",
        ),
    ],
)
def test_senseless_objectives_are_refused(make: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        trial(make())


def test_bnpo_is_refused_with_more_than_one_micro_batch() -> None:
    with pytest.raises(ValueError, match="takes one micro-batch on one rank"):
        base_case(bnpo(), replace(COUNTS, micro_batches=2))


# --- credit -----------------------------------------------------------------------------------------------------------


def credited(objective: Objective, **changes: torch.Tensor) -> list[float]:
    named = {**values_of(objective).named(COUNTS), **changes}
    numbers = objective.credit.over_window(named)
    result: list[float] = objective.credit(named, numbers).tolist()
    return result


def test_reinforce_pp_whitens_returns() -> None:
    rewards_N = torch.tensor([1.0, 0.0], dtype=torch.float64)[ROW_N]
    high, low = 0.73029673, -1.0954451
    zeros_N = torch.zeros(5).double()
    plain = credited(reinforce_pp(), advantages_N=rewards_N, kl_penalty_N=zeros_N)
    assert plain == pytest.approx([high] * 3 + [low] * 2, abs=1e-7)
    charged = credited(reinforce_pp(), advantages_N=rewards_N, kl_penalty_N=0.1 * flat(LP - REF))
    expected = [0.70643361, 0.74211208, 0.74211208, -1.09532889, -1.09532889]
    assert charged == pytest.approx(expected, abs=1e-7)


def test_reinforce_pp_baseline() -> None:
    """R = 1,0 | 1,1 with lengths 2,1,2,2."""
    row_N = torch.tensor([0, 0, 1, 2, 2, 3, 3])
    rewards = torch.tensor([1.0, 0, 1, 1])
    objective = reinforce_pp_baseline()
    centred_B = objective.advantage({"rewards_B": rewards, "group_B": torch.tensor([0, 0, 1, 1])})
    zeros_N = torch.zeros(7).double()
    found = credited(
        objective, advantages_N=centred_B[row_N], kl_penalty_N=zeros_N,
        mask_N=torch.ones(7).double(), row_N=row_N, rows=4,
    )  # fmt: skip
    assert found == pytest.approx([1.24211795] * 2 + [-1.65615727] + [-0.20701966] * 4, abs=1e-7)


def test_returns_skip_what_is_not_trained() -> None:
    last_N = torch.tensor([1.0, 1, 1, 1, 2, 2], dtype=torch.float64)
    penalty_N = torch.tensor([0.1, 9, 0.2, 9, 0.3, 0.4], dtype=torch.float64)
    mask_N = torch.tensor([1.0, 0, 1, 0, 1, 1], dtype=torch.float64)
    row_N = torch.tensor([0, 0, 0, 0, 1, 1])
    found = discounted_returns(last_N, penalty_N, mask_N, row_N, 2, 0.5).tolist()
    assert [found[0], found[2]] == pytest.approx([-0.1 + 0.5 * 0.8, 0.8])
    assert found[4:] == pytest.approx([-0.3 + 0.5 * 1.6, 1.6])


def test_the_mode_s_advantage_is_on_its_token() -> None:
    objective = registry("objective").get("hgpo")()
    found = credited(
        objective, advantages_N=torch.tensor([1.0, 1, 1, 2, 2]), mode_advantages_N=torch.tensor([5.0, 0, 0, 7, 0])
    )  # fmt: skip
    assert found == [6, 1, 1, 9, 2]


# --- advantages -------------------------------------------------------------------------------------------------------

REWARDS = torch.tensor([1.0, 0, 0, 1, 1, 1, 1, 1, 3, 1, 2, 2])
GROUPS = torch.arange(12) // 4


def test_group_advantages_by_hand() -> None:
    found = group_advantages(REWARDS, GROUPS).tolist()
    high, top = 0.86587543, 1.22459489
    assert found == pytest.approx([high, -high, -high, high, 0, 0, 0, 0, top, -top, 0, 0], abs=1e-7)
    plain = group_advantages(REWARDS, GROUPS, "none").tolist()
    assert plain == pytest.approx([0.5, -0.5, -0.5, 0.5, 0, 0, 0, 0, 1, -1, 0, 0])


def test_the_convention_of_the_std_matters_and_is_a_choice() -> None:
    found = group_advantages(REWARDS[:4], GROUPS[:4], ddof=0, eps=1e-6)
    assert found.abs().tolist() == pytest.approx([0.999998] * 4, abs=1e-7)


def test_rewards_that_are_missing_are_left_out() -> None:
    rewards = torch.tensor([1.0, float("nan"), 0, 1])
    found = group_advantages(rewards, torch.zeros(4, dtype=torch.int64)).tolist()
    assert found == pytest.approx([0.57725029, 0, -1.15450057, 0.57725029], abs=1e-7)
    alone = group_advantages(torch.tensor([3.0, float("nan")]), torch.tensor([0, 0]))
    assert alone.tolist() == [0.0, 0.0]


def test_equal_rewards_give_exactly_nothing() -> None:
    found = group_advantages(torch.tensor([0.1, 0.1, 0.1]), torch.zeros(3, dtype=torch.int64))
    assert found.tolist() == [0.0, 0.0, 0.0]


def test_batch_normalisation_uses_one_std() -> None:
    found = group_advantages(REWARDS, GROUPS, "batch")
    expected = group_advantages(REWARDS, GROUPS, "none") / (REWARDS.double().std() + 1e-4)
    assert found.tolist() == pytest.approx(expected.tolist())


def test_the_order_of_samples_does_not_matter() -> None:
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    shuffled = group_advantages(REWARDS[order], GROUPS[order])
    assert torch.allclose(shuffled, group_advantages(REWARDS, GROUPS)[order], atol=1e-12)


@pytest.mark.parametrize(
    ("normalise", "expected"),
    [
        (False, [2 / 3, -2 / 3, -2 / 3, 2 / 3, 0, 0, 0, 0, 4 / 3, -4 / 3, 0, 0]),
        (
            True,
            [
                0.95728963,
                -0.95728963,
                -0.95728963,
                0.95728963,
                0,
                0,
                0,
                0,
                1.91457926,
                -1.91457926,
                0,
                0,
            ],
        ),
    ],
)
def test_leave_one_out(normalise: bool, expected: list[float]) -> None:
    assert leave_one_out(REWARDS, GROUPS, normalise).tolist() == pytest.approx(expected, abs=1e-7)


def test_leave_one_out_without_what_is_missing() -> None:
    rewards = torch.tensor([1.0, float("nan"), 0, 1])
    found = leave_one_out(rewards, torch.zeros(4, dtype=torch.int64)).tolist()
    assert found == pytest.approx([0.5, 0, -1, 0.5])
    charged = torch.tensor([1.0 + 0.05 * 0.3, 0.05 * 0.2], dtype=torch.float64)
    assert leave_one_out(charged, torch.zeros(2, dtype=torch.int64)).tolist() == pytest.approx(
        [1.005, -1.005]
    )


def test_rank_average_over_a_cluster() -> None:
    """Two problems of one cluster: rewards 1,0 and 1,1: ranks get means 1 and .5; mean .75, population std .433."""
    rewards = torch.tensor([0.0, 1, 1, 1, 5, 5])
    groups = torch.tensor([0, 0, 1, 1, 2, 2])
    clusters = torch.tensor([0, 0, 0, 0, 1, 1])
    std = math.sqrt(3) / 4 + 1e-6
    found = rank_average(rewards, groups, clusters).tolist()
    assert found == pytest.approx([-0.25 / std, 0.25 / std, 0.25 / std, -0.25 / std, 0, 0])
    rewards[3] = float(
        "nan"
    )  # rank 1 of the second problem is missing: rank 1 averages over the first alone
    found = rank_average(rewards, groups, clusters).tolist()
    known = torch.tensor([0.0, 1, 1])
    std = float(known.std(correction=0)) + 1e-6
    assert found == pytest.approx(
        [(0 - 2 / 3) / std, (1 - 2 / 3) / std, (1 - 2 / 3) / std, 0, 0, 0]
    )


def test_hgpo_parts_what_is_within_a_mode_from_what_is_between() -> None:
    components = {
        "hgpo_intra": torch.tensor([1.0, 0, 0, 0]),
        "hgpo_inter": torch.tensor([1.0, 1, 0, 0]),
        "mode": torch.tensor([1.0, 1, 0, 0]),
    }
    intra_B, inter_B = hgpo(components, torch.zeros(4, dtype=torch.int64), alpha=2.0)
    half = 0.5 / (math.sqrt(0.5) + 1e-4)
    assert intra_B.tolist() == pytest.approx([half, -half, 0, 0])
    side = 2 * 0.5 / (math.sqrt(1 / 3) + 1e-4)
    assert inter_B.tolist() == pytest.approx([side, side, -side, -side])
    with pytest.raises(ValueError, match="reads the reward component 'hgpo_intra'"):
        hgpo({}, torch.zeros(4, dtype=torch.int64))
