"""Packing, log-probs and the update: the same numbers however the rows are cut up, and no step on bad ones."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlcurric.data.packing import Segment, pack, to_packed
from rlcurric.errors import RunError
from rlcurric.objective import stabilisers
from rlcurric.objective.declaration import Demonstrations, Objective
from rlcurric.objective.entropy import AdaptiveEntropy, Entropy
from rlcurric.objective.kl import Kl
from rlcurric.objective.pieces import Piece
from rlcurric.objective.presets import dapo, dr_grpo, grpo, reinforce_pp
from rlcurric.objective.terms import llds, tea_rl
from rlcurric.recipe.settings import Optim
from rlcurric.rollout.parity import ParityLimits
from rlcurric.schedules import Progress
from rlcurric.train.coordinator import Coordinator, SingleProcess
from rlcurric.train.learner import Learner, LearnerSettings, Step, adamw, learning_rate
from rlcurric.train.logprobs import PolicyForward
from rlcurric.train.models import random_model
from rlcurric.train.pieces import PieceReader
from rlcurric.train.rows import ImitationRow, TrainRow, Window, prompt_rows
from rlcurric.types import GroupId, Rollout
from tests.packed import logprobs_alone
from tests.saved import write_checkpoint
from tests.tiny import tiny_recipe

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TEMPERATURE = 0.9
PARITY = ParityLimits(1e-4, None)
LENGTHS = [(3, 5), (1, 1), (6, 12), (2, 7), (4, 3)]  # tokens of prompt and completion


def new_model() -> PreTrainedModel:
    return random_model(tiny_recipe())


def update(
    learner: Learner,
    windows: Sequence[Sequence[TrainRow]],
    rates: Sequence[float],
    version: int = 0,
    waiting: Sequence[TrainRow] = (),
    imitations: tuple[ImitationRow, ...] = (),
    token_fraction: float = 1.0,
) -> dict[str, float]:
    """One step of a learner; `imitations` go into every window."""
    made = [Window(tuple(window), imitations) for window in windows]
    return learner.update(Step(made, rates, version, Progress(0, 0, 10), waiting, token_fraction))


def rows(model: PreTrainedModel, version: int = 0) -> list[TrainRow]:
    """Random rows whose engine log-probs are right, one of them with a masked token."""
    rng = np.random.default_rng(0)
    made = []
    for number, (prompt_length, length) in enumerate(LENGTHS):
        prompt_ids = tuple(rng.integers(5, 20, prompt_length).tolist())
        ids_T = rng.integers(0, 20, length)
        logprobs_TV = logprobs_alone(model, prompt_ids, ids_T, TEMPERATURE)
        taken_T = logprobs_TV.gather(-1, torch.as_tensor(ids_T)[:, None])[:, 0].numpy()
        rollout = Rollout(
            group_id=GroupId("stage", number, 0),
            sample=0,
            completion_ids_T=ids_T,
            rollout_logprobs_T=taken_T,
            policy_version_T=np.full(length, version),
            finish_reason="stop",
            loss_mask_T=np.arange(length) != 2 if number == 2 else None,
        )
        made.append(TrainRow(prompt_ids, rollout, float(rng.normal())))
    return made


def learner_of(
    model: PreTrainedModel,
    objective: Objective | None = None,
    parity: ParityLimits = PARITY,
    ranks: Coordinator | None = None,
    **optim: Any,
) -> Learner:
    settings = LearnerSettings(
        temperature=TEMPERATURE, max_new_tokens=12, mixed_precision="no", parity=parity
    )
    chosen = Optim.model_validate({"learning_rate": 1e-3, **optim})
    return Learner(model, chosen, objective or grpo(), ranks or SingleProcess(), settings)


def weights(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def reference_weights(learner: Learner) -> dict[str, torch.Tensor]:
    """The weights that the reference scores with; the policy's own are back afterwards."""
    assert learner.reference is not None
    before = weights(learner.model)
    with learner.reference.scoring():
        held = weights(learner.model)
    assert largest_difference(weights(learner.model), before) == 0
    return held


def largest_difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    return max((a[name] - b[name]).abs().max().item() for name in a)


@given(st.lists(st.integers(1, 40), max_size=30), st.integers(1, 60))
def test_bins_hold_every_row_once_and_fit(lengths: list[int], room: int) -> None:
    bins = pack(lengths, room)
    assert sorted(index for members in bins for index in members) == list(range(len(lengths)))
    for members in bins:
        assert members == sorted(members, key=lambda index: (lengths[index], index))
        assert len(members) == 1 or sum(lengths[index] for index in members) <= room
    # No two bins that were opened could have been one, but for rows longer than a bin.
    sums = [sum(lengths[index] for index in members) for members in bins]
    assert all(a + b > room for k, a in enumerate(sums) for b in sums[k + 1 :])


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 20)), max_size=30), st.integers(1, 60))
def test_bins_with_shared_prompts_hold_each_prompt_once(
    members: list[tuple[int, int]], room: int
) -> None:
    """Prompt k has 3 k + 2 tokens."""
    lengths = [length for _, length in members]
    prefixes = [(prompt, 3 * prompt + 2) for prompt, _ in members]
    bins = pack(lengths, room, prefixes)
    assert sorted(index for chosen in bins for index in chosen) == list(range(len(members)))
    for chosen in bins:
        prompts = [prefixes[index][0] for index in chosen]
        assert len(list(dict.fromkeys(prompts))) == 1 + sum(
            a != b for a, b in itertools.pairwise(prompts)
        )  # the completions of a prompt are neighbours
        tokens = sum(lengths[index] for index in chosen)
        tokens += sum(3 * prompt + 2 for prompt in set(prompts))
        assert len(chosen) == 1 or tokens <= room


def test_a_packed_line_by_hand() -> None:
    packed = to_packed(
        [((7, 8), np.array([9, 1]), None), ((5,), np.array([6, 4, 1]), np.array([1, 0, 1]))]
    )
    assert packed.input_ids_1L.tolist() == [[7, 8, 9, 5, 6, 4]]  # a last token predicts nothing
    assert packed.position_ids_1L.tolist() == [[0, 1, 2, 0, 1, 2]]
    assert packed.segments == (Segment(0, 2, 3),)
    assert packed.predict_N.tolist() == [1, 2, 3, 4, 5]
    assert packed.targets_N.tolist() == [9, 1, 6, 4, 1]
    assert packed.row_N.tolist() == [0, 0, 1, 1, 1]
    assert packed.loss_mask_N.tolist() == [1, 1, 1, 0, 1]
    empty = to_packed([])
    assert (empty.n_rows, empty.loss_mask_N.tolist()) == (0, [0.0])


def test_a_line_with_a_shared_prompt_by_hand() -> None:
    prompt = (7, 8)
    packed = to_packed(
        [
            (prompt, np.array([1]), None),
            (prompt, np.array([9, 1]), None),
            (prompt, np.array([6, 1]), None),
            ((5,), np.array([4, 1]), None),
        ],
        shared_prefix=True,
    )
    assert packed.input_ids_1L.tolist() == [[7, 8, 9, 6, 5, 4]]
    assert packed.position_ids_1L.tolist() == [[0, 1, 2, 2, 0, 1]]
    assert packed.segments == (
        Segment(0, 1, 2),
        Segment(2, 2, 1, (0, 2)),
        Segment(4, 1, 1),
        Segment(5, 1, 1, (4, 5)),
    )
    assert packed.predict_N.tolist() == [1, 1, 2, 1, 3, 4, 5]
    assert packed.targets_N.tolist() == [1, 9, 1, 6, 1, 4, 1]


def test_prompts_of_equal_length_that_are_neighbours_stay_apart() -> None:
    """The first has a completion of one token, which is not part of the line."""
    one, two = np.array([1]), np.array([9, 1])
    packed = to_packed([((7, 8), one, None), ((5, 6), two, None)], shared_prefix=True)
    assert packed.segments == (Segment(0, 1, 2), Segment(2, 1, 2), Segment(4, 1, 1, (2, 4)))
    model = new_model()
    logprobs_N, _ = PolicyForward(model)(packed, 1.0, True)
    alone = [
        logprobs_alone(model, p, ids).gather(-1, torch.as_tensor(ids)[:, None])[:, 0]
        for p, ids in (((7, 8), one), ((5, 6), two))
    ]
    assert torch.allclose(logprobs_N, torch.cat(alone), atol=1e-5)


def test_rows_in_one_line_do_not_see_each_other() -> None:
    """Log-probs and entropies of a packed line equal those of every row alone."""
    model = new_model()
    batch = rows(model)
    packed = to_packed(
        [(row.prompt_ids, row.rollout.completion_ids_T, row.rollout.loss_mask_T) for row in batch]
    )
    logprobs_N, entropy_N = PolicyForward(model)(packed, TEMPERATURE, with_entropy=True)
    alone = [
        logprobs_alone(model, row.prompt_ids, row.rollout.completion_ids_T, TEMPERATURE)
        for row in batch
    ]
    expected_N = torch.cat(
        [
            values_TV.gather(-1, torch.as_tensor(row.rollout.completion_ids_T)[:, None])[:, 0]
            for row, values_TV in zip(batch, alone, strict=True)
        ]
    )
    assert torch.allclose(logprobs_N, expected_N, atol=1e-5)
    entropies_N = torch.cat([-(values.exp() * values).sum(-1) for values in alone])
    assert torch.allclose(entropy_N, entropies_N, atol=1e-5)


def test_a_mask_over_a_packed_line_is_refused() -> None:
    """A mask of ones would let every row see those before it; so would none at all."""
    model = new_model()
    packed = to_packed(
        [(row.prompt_ids, row.rollout.completion_ids_T, None) for row in rows(model)]
    )
    decoder = PolicyForward(model).model.get_decoder()
    for mask in (torch.ones_like(packed.input_ids_1L), None):
        with pytest.raises(ValueError, match="A packed line takes no attention mask"):
            decoder(
                input_ids=packed.input_ids_1L,
                position_ids=packed.position_ids_1L,
                attention_mask=mask,
                segments=packed.segments,
            )


@pytest.fixture
def exact_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    """RMSNorm in the precision of its input: transformers' own rounds gradients to float32."""
    from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

    def forward(self: Any, hidden: torch.Tensor) -> torch.Tensor:
        scale = torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        result: torch.Tensor = self.weight * (hidden * scale)
        return result

    monkeypatch.setattr(Qwen3RMSNorm, "forward", forward)


@pytest.mark.usefixtures("exact_norms")
def test_packed_padded_and_shared_prompts_have_the_same_gradients() -> None:
    """Float64, 1e-9 relative: three groups of four, whose prompts stand once, again and again, or in padded rows."""
    model = new_model().double()
    rng = np.random.default_rng(3)
    prompts = [tuple(rng.integers(5, 20, n).tolist()) for n in (9, 1, 4)]
    triples = [
        (prompt, rng.integers(0, 20, int(rng.integers(1, 7))), None)
        for prompt in prompts
        for _ in range(4)
    ]
    slope_N = torch.tensor(rng.normal(size=sum(len(ids) for _, ids, _ in triples)))

    def gradients(logprobs_N: torch.Tensor) -> torch.Tensor:
        model.zero_grad()
        (logprobs_N * slope_N).sum().backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    longest = max(len(p) + len(ids) for p, ids, _ in triples)
    ids_BT = torch.zeros(len(triples), longest, dtype=torch.int64)
    mask_BT = torch.zeros_like(ids_BT)
    for row, (prompt, ids, _) in enumerate(triples):
        line = torch.tensor([*prompt, *ids.tolist()])
        ids_BT[row, : len(line)], mask_BT[row, : len(line)] = line, 1
    logits_BTV = model(input_ids=ids_BT, attention_mask=mask_BT).logits / TEMPERATURE
    padded_N = torch.cat(
        [
            logits_BTV[row, len(prompt) - 1 : len(prompt) + len(ids) - 1]
            .log_softmax(-1)
            .gather(-1, torch.as_tensor(ids)[:, None])[:, 0]
            for row, (prompt, ids, _) in enumerate(triples)
        ]
    )
    expected = gradients(padded_N)
    policy = PolicyForward(model)
    for shared in (False, True):
        logprobs_N, _ = policy(to_packed(triples, shared_prefix=shared), TEMPERATURE, True)
        assert (logprobs_N - padded_N).abs().max() < 1e-12
        found = gradients(logprobs_N)
        assert (found - expected).norm() <= 1e-9 * expected.norm(), shared


@pytest.mark.parametrize("objective", [grpo(), dapo(), dr_grpo()])
def test_an_update_does_not_depend_on_micro_batches(objective: Objective) -> None:
    """One line, a few lines, or a line a row: the same gradient, so the same weights."""
    ends, metrics = [], []
    for tokens in (1000, 20, 1):
        model = new_model()
        # Plain Adam turns noise in tiny gradients into whole steps; a large eps keeps the step proportional.
        learner = learner_of(model, objective, tokens_per_microbatch=tokens, eps=1.0)
        metrics.append(update(learner, [rows(model)], [0.1]))
        ends.append(weights(model))
    assert largest_difference(ends[0], weights(new_model())) > 1e-4
    for end, measured in zip(ends[1:], metrics[1:], strict=True):
        assert largest_difference(ends[0], end) < 1e-7
        assert measured["grad/norm"] == pytest.approx(metrics[0]["grad/norm"], rel=1e-5)
        assert measured["loss/policy/mean"] == pytest.approx(
            metrics[0]["loss/policy/mean"], abs=1e-7
        )
        assert measured["parity/tokens/sum"] == sum(length for _, length in LENGTHS)


def test_the_first_of_several_updates_is_on_policy_and_later_ones_are_not() -> None:
    """Old log-probs are those before the first update: ratios move away from 1 with the weights."""
    model = new_model()
    batch = rows(model)
    learner = learner_of(model)
    once = update(learner, [batch], [3e-2])
    assert once["kl/old_policy_k3/mean"] == 0.0
    model = new_model()
    learner = learner_of(model)
    several = update(learner, [batch, batch, batch], [3e-2] * 3)
    assert several["optim/updates"] == 3
    assert several["kl/old_policy_k3/mean"] > 1e-4
    assert several["parity/logprob/max_abs"] < 1e-5  # measured before the first step


def test_rows_of_an_older_policy_are_compared_with_it_only() -> None:
    """Their engine log-probs are no measure of parity; their ratios are taken to the current weights."""
    model = new_model()
    batch = rows(model)
    batch[0] = replace(
        batch[0],
        rollout=replace(
            batch[0].rollout,
            policy_version_T=np.zeros(5, dtype=np.int64),
            rollout_logprobs_T=np.full(5, -9, dtype=np.float32),
        ),
    )
    for index in range(1, len(batch)):
        fresh = np.ones(batch[index].rollout.length, dtype=np.int64)
        batch[index] = replace(
            batch[index], rollout=replace(batch[index].rollout, policy_version_T=fresh)
        )
    measured = update(learner_of(model), [batch], [1e-3], version=1)
    assert measured["parity/tokens/sum"] == sum(length for _, length in LENGTHS[1:])
    assert measured["parity/logprob/max_abs"] < 1e-5


def test_rows_that_wait_for_a_later_step_are_measured_too() -> None:
    model = new_model()
    batch = rows(model)
    measured = update(learner_of(model), [batch[:3]], [1e-3], 0, waiting=batch[3:])
    assert measured["parity/tokens/sum"] == sum(length for _, length in LENGTHS)
    model = new_model()
    wrong = batch[4].rollout.rollout_logprobs_T + np.float32(2e-4)
    late = replace(batch[4], rollout=replace(batch[4].rollout, rollout_logprobs_T=wrong))
    with pytest.raises(RunError, match=r"max \|difference\| 0.0002 nat"):
        update(learner_of(model), [batch[:4]], [1e-3], 0, waiting=[late])
    assert largest_difference(weights(model), weights(new_model())) == 0


@pytest.mark.parametrize("windows", [1, 2])
def test_a_parity_beyond_the_limit_stops_before_the_weights_change(windows: int) -> None:
    model = new_model()
    batch = rows(model)
    wrong = batch[1].rollout.rollout_logprobs_T - np.float32(2e-4)
    batch[1] = replace(batch[1], rollout=replace(batch[1].rollout, rollout_logprobs_T=wrong))
    learner = learner_of(model)
    with pytest.raises(RunError, match=r"max \|difference\| 0.0002 nat.*over 28 tokens"):
        update(learner, [batch[k::windows] for k in range(windows)], [1e-2] * windows)
    assert largest_difference(weights(model), weights(new_model())) == 0


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_an_update_that_is_not_finite_is_skipped_and_too_many_in_a_row_end_the_run(
    broken: float,
) -> None:
    model = new_model()
    batch = rows(model)
    bad = [*batch[:3], replace(batch[3], advantage=broken), batch[4]]
    learner = learner_of(model, max_skipped_updates=2)
    for _ in range(2):
        measured = update(learner, [bad], [1e-2])
        assert measured["optim/skipped/sum"] == 1
        assert measured["optim/updates"] == 0
        assert all(np.isfinite(value) for value in measured.values())
    assert largest_difference(weights(model), weights(new_model())) == 0
    with pytest.raises(RunError, match=r"skipped for that 2 times in a row .*max_skipped_updates"):
        update(learner, [bad], [1e-2])
    assert largest_difference(weights(model), weights(new_model())) == 0
    measured = update(learner, [batch], [1e-2])
    assert measured["optim/updates"] == 1 and "optim/skipped/sum" not in measured
    assert learner.skipped_in_a_row == 0


def test_the_optimizer_goes_on_from_its_file_bit_for_bit(tmp_path: Path) -> None:
    model = new_model()
    batch = rows(model)
    free = learner_of(model, parity=ParityLimits(None, None))
    update(free, [batch], [1e-2])
    write_checkpoint(free, tmp_path)
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    second = learner_of(loaded, parity=ParityLimits(None, None))
    second.load_optimizer(PieceReader(tmp_path))
    update(free, [batch], [1e-2], version=1)
    update(second, [batch], [1e-2], version=1)
    assert largest_difference(weights(model), weights(loaded)) == 0
    other = random_model(tiny_recipe("model.architecture.layers=1"))
    with pytest.raises(ValueError, match="of another model"):
        learner_of(other).load_optimizer(PieceReader(tmp_path))


def test_weight_decay_leaves_vectors_alone() -> None:
    model = new_model()
    learner = learner_of(model, weight_decay=0.1)
    decay = {
        id(parameter): group["weight_decay"]
        for group in adamw(learner.policy, learner.optim).param_groups
        for parameter in group["params"]
    }
    assert len(decay) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        assert decay[id(parameter)] == (0.1 if parameter.ndim > 1 else 0.0), name


def test_learning_rate_warms_up_over_updates_and_follows_its_schedule() -> None:
    optim = Optim.model_validate(
        {"learning_rate": {"schedule": "linear", "start": 1.0, "end": 0.0}, "warmup_steps": 4}
    )
    rates = [learning_rate(optim, Progress(step, step, 10), step) for step in range(6)]
    assert rates == pytest.approx([(1 - s / 10) * min(1, (s + 1) / 4) for s in range(6)])


def test_gradients_are_clipped_to_their_norm() -> None:
    """SGD-like step sizes under Adam with a large eps: a tenth of the norm, a tenth of the step."""
    ends = []
    norms: Sequence[float] = (1e9, 0.05)
    start = weights(new_model())
    for norm in norms:
        model = new_model()
        learner = learner_of(model, max_grad_norm=norm, eps=1e6)
        measured = update(learner, [rows(model)], [1e5])["grad/norm"]
        ends.append({name: value - start[name] for name, value in weights(model).items()})
    assert measured > 0.05
    for name in start:
        if start[name].ndim > 1:
            assert torch.allclose(ends[0][name] * 0.05 / measured, ends[1][name], atol=1e-7), name


# --- ranks ------------------------------------------------------------------------------------------------------------

T = TypeVar("T")


class Ranks:
    """Ranks of one process, a thread each, with collectives that meet at a barrier."""

    def __init__(self, world: int) -> None:
        self.world = world
        self.box: list[Any] = [None] * world
        self.barrier = threading.Barrier(world)

    def run(self, work: Callable[[int], None]) -> None:
        """`work(rank)` on every rank; the first exception of any is raised here."""
        errors: list[BaseException] = []

        def guarded(rank: int) -> None:
            try:
                work(rank)
            except BaseException as error:
                errors.append(error)
                self.barrier.abort()

        threads = [threading.Thread(target=guarded, args=(rank,)) for rank in range(self.world)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]

    def coordinator(self, rank: int) -> Coordinator:
        return _Rank(self, rank)

    def exchange(self, rank: int, item: Any) -> list[Any]:
        self.box[rank] = item
        self.barrier.wait(60)
        found = list(self.box)
        self.barrier.wait(60)
        return found


class _Rank:
    def __init__(self, ranks: Ranks, rank: int) -> None:
        self._ranks, self.rank, self.world, self.is_main = ranks, rank, ranks.world, rank == 0

    def broadcast(self, item: T | None) -> T:
        found: T = self._ranks.exchange(self.rank, item)[0]
        return found

    def gather(self, item: T) -> list[T]:
        return self._ranks.exchange(self.rank, item)

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        return torch.stack(self._ranks.exchange(self.rank, values.clone())).sum(0)

    def max(self, values: torch.Tensor) -> torch.Tensor:
        return torch.stack(self._ranks.exchange(self.rank, values.clone())).amax(0)

    def barrier(self) -> None:
        self._ranks.exchange(self.rank, None)


class _Averaging(Learner):
    """Averages gradients over ranks before the step, as data parallelism does."""

    def _finish(self, totals: Any) -> float:
        for parameter in self.model.parameters():
            grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            parameter.grad = self.ranks.sum(grad) / self.ranks.world
        return super()._finish(totals)


def _whole_window() -> Objective:
    """Everything that must look at the whole window."""
    return replace(
        dapo(),
        stabilisers=(
            Piece(stabilisers.truncated_importance),
            Piece(stabilisers.top_entropy, {"fraction": 0.7}),
            Piece(stabilisers.d3s_tokens),
        ),
        kl=Kl(0.1, "k3"),
        entropy=Entropy(0.01),
        terms=(Piece(llds), Piece(tea_rl)),
        ntp_coef=0.1,
        demonstrations=Demonstrations(0.1, 0.5),
    )


SHIFTED = [
    ((8, 6), np.array([3, 7, 1])),
    ((9,), np.array([4, 1])),
]  # prompts and demonstrations


@pytest.mark.parametrize(
    "objective",
    [grpo(), reinforce_pp(kl_coef=0.1), _whole_window()],
    ids=["grpo", "reinforce_pp", "whole"],
)
@pytest.mark.parametrize("tokens", [1000, 20])
@pytest.mark.parametrize("world", [1, 2, 4])
def test_updates_in_float64_do_not_depend_on_ranks_or_micro_batches(
    objective: Objective, tokens: int, world: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two updates of a step with unequal rows a rank, one rank without any; 1e-9 relative to the change."""
    monkeypatch.setattr("rlcurric.train.sharding.asked", lambda world: "none")  # ranks are threads
    ranks = Ranks(world)
    ends: list[Any] = [None] * world
    settings = LearnerSettings(TEMPERATURE, 12, "no", ParityLimits(None, None))
    optim = Optim.model_validate(
        {"learning_rate": 1e-3, "tokens_per_microbatch": tokens, "eps": 1.0}
    )
    learners = []
    for rank in range(world):
        model = new_model().double()
        learners.append(_Averaging(model, optim, objective, ranks.coordinator(rank), settings))
    batch = rows(new_model())
    shares = {1: [[0, 1, 2, 3, 4]], 2: [[3], [0, 1, 2, 4]], 4: [[1, 2], [], [4], [0, 3]]}[world]
    demonstrations = [ImitationRow(p, ids, "demonstration") for p, ids in SHIFTED]

    def work(rank: int) -> None:
        mine = [batch[index] for index in shares[rank]]
        extra = demonstrations[rank::world] if objective.demonstrations else []
        windows = []
        for half in (set(range(3)), set(range(3, 5))):
            chosen = tuple(row for row in mine if row.rollout.group_id.uid in half)
            prompts = prompt_rows(chosen) if objective.ntp_coef else ()
            windows.append(Window(chosen, (*extra, *prompts)))
        step = Step(windows, [0.1, 0.1], 0, Progress(0, 0, 10), (), 0.6)
        ends[rank] = (learners[rank].update(step), weights(learners[rank].model))

    ranks.run(work)
    metrics, found = ends[0]
    assert all(end[0] == metrics for end in ends)
    expected_metrics, expected = _alone(objective)
    start = weights(new_model().double())
    moved = _norm({name: expected[name] - start[name] for name in start})
    off = _norm({name: found[name] - expected[name] for name in start})
    assert moved > 1e-4
    assert off <= 1e-9 * moved
    for key, value in expected_metrics.items():
        assert metrics[key] == pytest.approx(value, rel=1e-6, abs=1e-9), key


def _norm(tensors: dict[str, torch.Tensor]) -> float:
    return float(torch.cat([tensor.flatten() for tensor in tensors.values()]).norm())


def _alone(objective: Objective) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """The same step on one rank, in one micro-batch a window."""
    model = new_model().double()
    settings = LearnerSettings(TEMPERATURE, 12, "no", ParityLimits(None, None))
    optim = Optim.model_validate({"learning_rate": 1e-3, "eps": 1.0})
    learner = Learner(model, optim, objective, SingleProcess(), settings)
    batch = rows(new_model())
    demonstrations = tuple(ImitationRow(p, ids, "demonstration") for p, ids in SHIFTED)
    windows = []
    for chosen in (batch[:3], batch[3:]):
        prompts = prompt_rows(chosen) if objective.ntp_coef else ()
        extra = demonstrations if objective.demonstrations else ()
        windows.append(Window(tuple(chosen), (*extra, *prompts)))
    measured = learner.update(Step(windows, [0.1, 0.1], 0, Progress(0, 0, 10), (), 0.6))
    return measured, weights(model)


# --- what an objective brings along -----------------------------------------------------------------------------------


def test_shared_prompts_train_as_repeated_ones() -> None:
    ends = []
    for shared in ("never", "always"):
        model = new_model()
        base = rows(model)
        prompt = base[2].prompt_ids
        batch = [
            replace(
                row,
                prompt_ids=prompt,
                rollout=replace(row.rollout, policy_version_T=row.rollout.policy_version_T - 1),
            )
            for row in base
        ]
        learner = learner_of(model, parity=ParityLimits(None, None), shared_prefix=shared, eps=1.0)
        measured = update(learner, [batch], [0.1])
        ends.append((measured["grad/norm"], weights(model)))
    assert ends[0][0] == pytest.approx(ends[1][0], rel=1e-5)
    assert largest_difference(ends[0][1], ends[1][1]) < 1e-6


def test_automatic_sharing_looks_at_the_lengths() -> None:
    learner = learner_of(new_model(), shared_prefix="auto")
    short = rows(learner.model)[3]  # 2 tokens of prompt, 7 of completion
    long = replace(short, prompt_ids=(5,) * 9)
    shared = learner._batches([long, long])[0][1].segments
    assert [one.prefix for one in shared] == [None, (0, 9)]
    for pair in ([short, long], [short, replace(short, prompt_ids=(5, 6))]):  # nothing in common
        assert all(one.prefix is None for one in learner._batches(pair)[0][1].segments)
    one_token = replace(short, prompt_ids=(5,))  # 1 token of 16 would be spared
    assert len(learner._batches([one_token, one_token])[0][1].segments) == 1


def test_a_frozen_reference_measures_no_kl_at_first_and_some_later() -> None:
    model = new_model()
    learner = learner_of(model, replace(grpo(), kl=Kl(0.5, "k3")))
    first = update(learner, [rows(model)], [3e-2])
    assert first["kl/ref_k3/mean"] == 0.0
    later = update(learner, [rows(model, 1)], [3e-2], version=1)
    assert later["kl/ref_k3/mean"] > 1e-5
    assert learner.reference is not None
    learner.reference.follow(1.0)
    followed = update(learner, [rows(model, 2)], [3e-2], version=2)
    assert followed["kl/ref_k3/mean"] == 0.0


def test_a_reference_follows_as_often_as_it_should() -> None:
    model = new_model()
    learner = learner_of(model, replace(grpo(), kl=Kl(0.5, "k3", sync_every=2, sync_mix=0.5)))
    assert learner.reference is not None
    learner.reference.start()
    start = weights(model)
    for step in range(2):
        window = Window(tuple(rows(model, step)))
        learner.update(Step([window], [1e-2], step, Progress(step, step, 10)))
        if step == 0:
            assert largest_difference(reference_weights(learner), start) == 0
    halfway = {name: (start[name] + value) / 2 for name, value in weights(model).items()}
    assert largest_difference(reference_weights(learner), halfway) < 1e-7


def test_a_kl_penalty_in_the_reward_sums_over_rows() -> None:
    model = new_model()
    learner = learner_of(model, replace(grpo(), kl=Kl(0.1, "k1", "reward")))
    update(learner, [rows(model)], [3e-2])
    batch = rows(model, 1)
    found = learner.kl_by_row(batch, 1)
    then_model = new_model()
    then_model.load_state_dict(reference_weights(learner), strict=False)
    for row in batch:
        ids = torch.as_tensor(row.tokens)[:, None]
        now, then = (
            logprobs_alone(m, row.prompt_ids, row.tokens, TEMPERATURE).gather(-1, ids)[:, 0]
            for m in (model, then_model)
        )
        mask = 1.0 if row.loss_mask_T is None else torch.as_tensor(row.loss_mask_T).float()
        assert found[row.key] == pytest.approx(((now - then) * mask).sum().item(), abs=1e-5)


def test_the_entropy_bonus_raises_entropy() -> None:
    ends = []
    for coef in (0.0, 1.0):
        model = new_model()
        learner = learner_of(model, replace(grpo(), entropy=Entropy(coef)))
        for version in range(3):
            measured = update(learner, [rows(model, version)], [1e-2], version)
        ends.append(measured["entropy/policy/mean"])
    assert ends[1] > ends[0]
    assert measured["entropy/coef"] == 1.0


def test_the_adaptive_coefficient_is_in_the_checkpoint(tmp_path: Path) -> None:
    objective = replace(grpo(), entropy=Entropy(adaptive=AdaptiveEntropy(target=9.0, delta=0.25)))
    model = new_model()
    learner = learner_of(model, objective)
    coefs = [update(learner, [rows(model, k)], [1e-3], k)["entropy/coef"] for k in range(3)]
    assert coefs == [0.0, 0.25, 0.5]
    write_checkpoint(learner, tmp_path)
    second = learner_of(new_model(), objective)
    second.load_controller(tmp_path)
    assert second.entropy.coef(0.0) == 0.75


def test_demonstrations_and_prompts_are_made_likelier_by_their_own_denominators() -> None:
    """Rollouts without advantages: all that moves the weights is imitation, whatever the number of rollouts."""
    objective = replace(dapo(), demonstrations=Demonstrations(0.0, 1.0), ntp_coef=0.5)
    ends = []
    for count in (1, 5):
        model = new_model()
        learner = learner_of(model, objective, eps=1.0)
        batch = [replace(row, advantage=0.0) for row in rows(model)][:count]
        extra = tuple(ImitationRow(p, ids, "demonstration") for p, ids in SHIFTED)
        extra += prompt_rows(rows(model)[2:3])
        measured = update(learner, [batch], [0.1], imitations=extra)
        ends.append((measured["loss/supervised/mean"], weights(model)))
    shown = [
        logprobs_alone(new_model(), p, ids, TEMPERATURE).gather(-1, torch.as_tensor(ids)[:, None])
        for p, ids in SHIFTED
    ]
    prompt = rows(new_model())[2].prompt_ids
    rest = np.asarray(prompt[1:])
    said = logprobs_alone(new_model(), prompt[:1], rest, TEMPERATURE)
    said = said.gather(-1, torch.as_tensor(rest)[:, None])
    expected = -torch.cat(shown).mean() - 0.5 * said.mean()
    assert ends[0][0] == pytest.approx(float(expected), abs=1e-5)
    assert ends[1][0] == pytest.approx(ends[0][0], abs=1e-6)
    assert largest_difference(ends[0][1], ends[1][1]) < 1e-6


def test_windows_without_trained_tokens_do_not_count_in_means() -> None:
    """A window of demonstrations alone moves neither the entropy controller nor the means over trained tokens."""
    objective = replace(
        dapo(),
        demonstrations=Demonstrations(0.0, 1.0),
        entropy=Entropy(adaptive=AdaptiveEntropy(target=0.1, initial=0.5)),
    )
    model = new_model()
    learner = learner_of(model, objective)
    shown = tuple(ImitationRow(p, ids, "demonstration") for p, ids in SHIFTED)
    windows = [Window(tuple(rows(model))), Window((), shown)]
    both = learner.update(Step(windows, [1e-3, 1e-3], 0, Progress(0, 0, 10)))
    assert both["mismatch/ratio/mean"] == pytest.approx(1.0, abs=1e-6)
    assert both["mismatch/ess/mean"] == pytest.approx(1.0, abs=1e-6)
    assert both["entropy/policy/mean"] > 1.0
    assert learner.entropy.state_dict()["coef"] == pytest.approx(0.495)  # one window was observed
    alone = learner.update(Step(windows[1:], [1e-3], 1, Progress(0, 0, 10)))
    assert "entropy/policy/mean" not in alone and alone["loss/supervised/mean"] > 0
    assert learner.entropy.state_dict()["coef"] == pytest.approx(0.495)


def small(kind: str, **settings: Any) -> PreTrainedModel:
    """A model of another family with random weights."""
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {
        "vocab_size": 30, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "pad_token_id": 0,
        "bos_token_id": 0, "eos_token_id": 1,
    }  # fmt: skip
    config = AutoConfig.for_model(kind, **{**sizes, **settings})
    made: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    return made


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("llama", {}),
        ("qwen2", {}),
        ("mistral", {"sliding_window": 4}),
        ("gemma3_text", {"sliding_window": 4}),
        ("gpt2", {"n_embd": 16, "n_layer": 2, "n_head": 2}),
    ],
)
def test_families_that_pack(kind: str, settings: dict[str, Any]) -> None:
    """Rows longer than the sliding window too."""
    model = small(kind, **settings)
    learner = learner_of(model, parity=ParityLimits(1e-4, None))
    batch = rows(model)
    assert update(learner, [batch], [1e-3])["parity/tokens/sum"] == sum(n for _, n in LENGTHS)


@pytest.mark.parametrize(
    ("kind", "settings", "match"),
    [
        ("stablelm", {}, "does not hand on what attention over packed rows needs"),
        (
            "opt",
            {"word_embed_proj_dim": 16, "ffn_dim": 32, "dropout": 0.5},
            "cannot be trained on packed rows",
        ),
        ("gemma2", {}, "do not support soft-capped"),
    ],
)
def test_families_that_do_not_pack_are_refused(
    kind: str, settings: dict[str, Any], match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        learner_of(small(kind, **settings))


def test_masked_rows_count_as_rows_and_teach_nothing() -> None:
    model = new_model()
    batch = [replace(row, masked=True) for row in rows(model)]
    measured = update(learner_of(model), [batch], [1e-2])
    assert measured["grad/norm"] == 0.0
    assert measured["parity/tokens/sum"] == sum(length for _, length in LENGTHS)


def test_a_head_in_float32_and_factors_on_the_logits() -> None:
    model = new_model()
    packed = to_packed([(row.prompt_ids, row.tokens, None) for row in rows(model)])
    plain, _ = PolicyForward(model)(packed, 1.0, True)
    assert torch.equal(PolicyForward(model, fp32_head=True)(packed, 1.0, True)[0], plain)
    model.config.logit_scale = 0.5
    assert torch.allclose(PolicyForward(model)(packed, 0.5, True)[0], plain, atol=1e-6)
