"""Engines: noise by the published vectors, samples that depend on nothing but prompt, seed and weights, parity."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from rlcurric.objective.kl import Kl
from rlcurric.objective.presets import grpo
from rlcurric.recipe.settings import Lora
from rlcurric.rollout.choose import choose_engine
from rlcurric.rollout.engine import Engine, Sample, SampleRequest, SamplingSpec
from rlcurric.rollout.gumbel import gumbel_noise, philox4x32
from rlcurric.rollout.parity import ParityLimits, ParityStats
from rlcurric.rollout.torch_engine import TorchEngine
from rlcurric.train.adapters import add_adapter
from rlcurric.train.coordinator import SingleProcess
from rlcurric.train.dealing import Deal
from rlcurric.train.device_plan import GIB, DevicePlan, whole_numel
from rlcurric.train.engines import Engines, own_module, save_description, settle_engine
from rlcurric.train.models import named_tensors, random_model, tokenizer_of
from rlcurric.train.reporter import Silent
from rlcurric.train.sampling import completions
from tests.packed import logprobs_alone
from tests.test_learner import learner_of, new_model
from tests.tiny import tiny_recipe

if TYPE_CHECKING:
    from transformers import PreTrainedModel

RECIPE = tiny_recipe()
TOKENIZER = tokenizer_of(RECIPE)
EOS = int(TOKENIZER.eos_token_id)  # type: ignore[arg-type]
PAD = int(TOKENIZER.pad_token_id)  # type: ignore[arg-type]
SPEC = SamplingSpec(max_new_tokens=16, temperature=0.8, eos_token_ids=(EOS,))


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    """Random weights, pushed away from the near-uniform start so that samples and argmax mean something."""
    made = random_model(RECIPE)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim > 1:
                parameter.mul_(6)
    return made


def request(text: str, seed: int) -> SampleRequest:
    return SampleRequest(tuple(TOKENIZER(text)["input_ids"]), seed)


REQUESTS = [request("1+2=", 5), request("11+22+33=", 6), request("7=", 2**62), request("1+2=", 8)]


def same(left: Sample, right: Sample) -> bool:
    return (
        left.completion_ids_T.tolist() == right.completion_ids_T.tolist()
        and left.finish_reason == right.finish_reason
    )


def engine_of(model: PreTrainedModel, max_batch: int = 64) -> TorchEngine:
    engine = TorchEngine(model, PAD, max_batch)
    engine.sync(named_tensors(model), 0)
    return engine


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0,) * 4, (0,) * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox_gives_the_published_vectors(
    counter: Sequence[int], key: Sequence[int], expected: str
) -> None:
    """Known answers of the generator's authors (Random123, kat_vectors, philox4x32 with 10 rounds)."""
    words = philox4x32(
        tuple(torch.tensor(word) for word in counter),
        (torch.tensor(key[0]), torch.tensor(key[1])),
    )
    assert " ".join(f"{int(word):08x}" for word in words) == expected


def test_gumbel_noise_has_its_distribution_and_is_a_samples_own() -> None:
    seeds_B = torch.arange(2000)
    noise_BV = gumbel_noise(seeds_B, 3, 50)
    assert torch.equal(noise_BV[17:18], gumbel_noise(torch.tensor([17]), 3, 50))
    assert not torch.equal(noise_BV, gumbel_noise(seeds_B, 4, 50))
    values = noise_BV.double().flatten()
    error = math.pi / math.sqrt(6) / math.sqrt(len(values))
    assert abs(values.mean().item() - 0.5772157) < 5 * error
    assert values.var().item() == pytest.approx(math.pi**2 / 6, rel=0.03)
    # A seed of 63 bits uses both words of the key.
    assert not torch.equal(
        gumbel_noise(torch.tensor([1]), 0, 50), gumbel_noise(torch.tensor([1 + 2**40]), 0, 50)
    )


def test_the_argmax_under_noise_draws_from_the_softmax() -> None:
    logits_V = torch.tensor([2.0, 1.0, 0.0, -1.0, 0.5])
    n = 20_000
    drawn = (logits_V + gumbel_noise(torch.arange(n), 0, 5)).argmax(-1)
    frequency = torch.bincount(drawn, minlength=5) / n
    assert (frequency - logits_V.softmax(-1)).abs().max() < 5 * 0.5 / math.sqrt(n)


def test_a_sample_depends_on_prompt_seed_and_weights_alone(model: PreTrainedModel) -> None:
    """Not on its neighbours, their order, the batch size or the global generator, which stays as it was."""
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    together = engine_of(model).generate(REQUESTS, SPEC)
    assert torch.equal(before, torch.random.get_rng_state())
    torch.manual_seed(1)
    assert all(map(same, together, engine_of(model).generate(REQUESTS, SPEC)))
    assert all(map(same, together, engine_of(model, max_batch=1).generate(REQUESTS, SPEC)))
    assert all(map(same, together[::-1], engine_of(model).generate(REQUESTS[::-1], SPEC)))
    assert not same(together[0], together[3])  # the same prompt with another seed
    assert model.training  # the mode it was in


def test_completions_end_with_the_end_of_sequence_or_the_budget(model: PreTrainedModel) -> None:
    requests = [request("1+2=", seed) for seed in range(40)]
    samples = engine_of(model).generate(requests, SPEC)
    assert {sample.finish_reason for sample in samples} == {"stop", "length"}
    for sample in samples:
        ids = sample.completion_ids_T.tolist()
        assert len(ids) == len(sample.rollout_logprobs_T)
        assert EOS not in ids[:-1]
        assert (ids[-1] == EOS) == (sample.finish_reason == "stop")
        assert sample.finish_reason == "stop" or len(ids) == SPEC.max_new_tokens
        assert sample.policy_version == 0


def test_greedy_takes_the_most_likely_token_at_temperature_one(model: PreTrainedModel) -> None:
    spec = replace(SPEC, greedy=True)
    for asked, sample in zip(REQUESTS, engine_of(model).generate(REQUESTS, spec), strict=True):
        logprobs_TV = logprobs_alone(model, asked.prompt_ids, sample.completion_ids_T)
        assert logprobs_TV.argmax(-1).tolist() == sample.completion_ids_T.tolist()
        assert sample.rollout_logprobs_T == pytest.approx(logprobs_TV.max(-1).values, abs=1e-5)


def parity_of(
    model: PreTrainedModel, engine: Engine, requests: Sequence[SampleRequest]
) -> ParityStats:
    stats = ParityStats()
    for asked, sample in zip(requests, engine.generate(requests, SPEC), strict=True):
        logprobs_TV = logprobs_alone(
            model, asked.prompt_ids, sample.completion_ids_T, SPEC.temperature
        )
        ids_T1 = torch.as_tensor(sample.completion_ids_T)[:, None]
        stats = stats.add(logprobs_TV.gather(-1, ids_T1)[:, 0].numpy(), sample.rollout_logprobs_T)
    return stats


def test_the_models_own_generation_settings_do_not_reach_the_samples(
    model: PreTrainedModel,
) -> None:
    """Hub models come with a repetition penalty, top-k and the like; the full softmax is sampled all the same."""
    from transformers import GenerationConfig

    plain = engine_of(model).generate(REQUESTS, SPEC)
    own = model.generation_config
    model.generation_config = GenerationConfig(
        repetition_penalty=1.5,
        top_k=3,
        top_p=0.5,
        temperature=0.3,
        min_new_tokens=9,
        do_sample=True,
    )
    try:
        assert all(map(same, plain, engine_of(model).generate(REQUESTS, SPEC)))
        assert parity_of(model, engine_of(model), REQUESTS).max_abs < 1e-5
        assert model.generation_config.top_k == 3  # as it was
    finally:
        model.generation_config = own


def test_no_requests_give_no_samples(model: PreTrainedModel) -> None:
    assert engine_of(model).generate([], SPEC) == []
    assert completions(engine_of(model), TOKENIZER, [], [], SPEC) == []


def test_the_torch_engine_agrees_with_a_plain_forward(model: PreTrainedModel) -> None:
    stats = parity_of(model, engine_of(model), REQUESTS)
    assert stats.n > 20
    assert stats.max_abs < 1e-5


@pytest.mark.vllm
def test_vllm_agrees_and_its_samples_are_their_own(model: PreTrainedModel, tmp_path: Path) -> None:
    """Parity after a sync; without one it fails by far, so the check can tell. A tied head is synced too."""
    from rlcurric.rollout.vllm_engine import VllmEngine, VllmSettings

    assert model.config.tie_word_embeddings
    save_description(model, tmp_path)
    assert not list(tmp_path.glob("*.safetensors"))
    engine = VllmEngine(tmp_path, VllmSettings(max_model_len=64, max_num_seqs=8, sleep=True))
    try:
        assert engine.version == -1 and not engine.needs_weights
        engine.sync(named_tensors(random_model(tiny_recipe("seed=9"))), 2)
        stale = parity_of(model, engine, REQUESTS)
        assert stale.max_abs > 0.1
        assert "weights that did not reach" in str(stale.problem(ParityLimits.of("float32")))
        held: list[int] = []
        engine.sync(watched(model, held), 3)
        assert len(held) == len(list(named_tensors(model)))  # all were taken
        assert max(held) <= 4  # the parts of one layer (query, key, value) and the one at hand
        fresh = parity_of(model, engine, REQUESTS)
        assert fresh.problem(ParityLimits.of("float32")) is None
        forced_tokens_begin_completions(model, engine)
        together = engine.generate(REQUESTS, SPEC)
        assert all(sample.policy_version == 3 for sample in together)
        assert all(map(same, together, engine.generate(REQUESTS, SPEC)))
        alone = [engine.generate([asked], SPEC)[0] for asked in REQUESTS]
        assert all(map(same, together, alone))
        assert all(map(same, together[::-1], engine.generate(REQUESTS[::-1], SPEC)))
        given_up = engine.stream(REQUESTS, SPEC)
        place, first = next(given_up)
        given_up.close()
        assert same(first, together[place])
        assert all(map(same, together, engine.generate(REQUESTS, SPEC)))
        for _ in range(2):  # the second time it sleeps already
            engine.sleep()
            assert engine.needs_weights
        with pytest.raises(AssertionError, match="was not given weights"):
            engine.generate(REQUESTS, SPEC)
        engine.sync(named_tensors(model), 4)
        assert not engine.needs_weights
        again = engine.generate(REQUESTS, SPEC)
        assert all(map(same, together, again)) and again[0].policy_version == 4
        assert parity_of(model, engine, REQUESTS).problem(ParityLimits.of("float32")) is None
    finally:
        engine.close()


def forced_tokens_begin_completions(model: PreTrainedModel, engine: Engine) -> None:
    """They are no samples, and what follows is what would follow them in the prompt."""
    forced = ((), (2,), (2, 3), tuple(TOKENIZER("1+1=2")["input_ids"]), (3,))
    asked = [replace(one, forced_ids=ids) for one, ids in zip(REQUESTS, forced, strict=False)]
    spec = replace(SPEC, max_new_tokens=6)
    for one, sample in zip(asked, engine.generate(asked, spec), strict=True):
        n = len(one.forced_ids)
        assert tuple(sample.completion_ids_T[:n]) == one.forced_ids
        assert np.isnan(sample.rollout_logprobs_T[:n]).all()
        assert n < len(sample.completion_ids_T) <= 6
        assert sample.finish_reason == "stop" or len(sample.completion_ids_T) == 6
        begun = SampleRequest((*one.prompt_ids, *one.forced_ids), one.seed)
        alone = engine.generate([begun], replace(SPEC, max_new_tokens=6 - n))[0]
        assert alone.completion_ids_T.tolist() == sample.completion_ids_T[n:].tolist()
        np.testing.assert_allclose(
            alone.rollout_logprobs_T, sample.rollout_logprobs_T[n:], atol=1e-5
        )


def test_the_torch_engine_begins_completions_with_forced_tokens(model: PreTrainedModel) -> None:
    forced_tokens_begin_completions(model, engine_of(model))


def watched(model: PreTrainedModel, held: list[int]) -> Iterator[tuple[str, torch.Tensor]]:
    """The model's weights as tensors that nobody else holds; how many of them are alive as each is asked for."""
    alive: list[weakref.ref[torch.Tensor]] = []
    for name, tensor in named_tensors(model):
        copy = tensor.clone()
        alive.append(weakref.ref(copy))
        held.append(sum(one() is not None for one in alive))
        yield name, copy
        del copy


def test_a_torch_engine_with_weights_of_its_own_gives_the_same_samples(
    model: PreTrainedModel,
) -> None:
    """Also from a learner under LoRA, and it keeps what it was given while the learner goes on."""
    before = torch.random.get_rng_state()
    module = own_module(model)
    assert torch.equal(before, torch.random.get_rng_state())
    assert not any(one.requires_grad for one in module.parameters())
    own = TorchEngine(module, PAD, owned=True)
    own.sync(named_tensors(model), 5)
    expected = engine_of(model).generate(REQUESTS, SPEC)
    found = own.generate(REQUESTS, SPEC)
    assert all(map(same, expected, found))
    for one, two in zip(expected, found, strict=True):
        assert one.rollout_logprobs_T == pytest.approx(two.rollout_logprobs_T, abs=1e-6)
    assert found[0].policy_version == 5

    adapted = add_adapter(random_model(RECIPE), Lora(rank=4, alpha=8), 1, None)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            parameter.mul_(6) if parameter.ndim > 1 else None
            if "lora_B" in name:
                parameter.normal_(0, 0.1, generator=torch.Generator().manual_seed(1))
    merged = TorchEngine(own_module(adapted), PAD, owned=True)
    merged.sync(named_tensors(adapted), 0)
    expected = engine_of(adapted).generate(REQUESTS, SPEC)
    assert all(map(same, expected, merged.generate(REQUESTS, SPEC)))
    with torch.no_grad():
        adapted.get_input_embeddings().weight.zero_()
    assert all(map(same, expected, merged.generate(REQUESTS, SPEC)))


def test_a_torch_engine_with_weights_of_its_own_takes_all_of_them_or_says_which_is_missing(
    model: PreTrainedModel,
) -> None:
    engine = TorchEngine(own_module(model), PAD, owned=True)
    weights = dict(named_tensors(model))
    norm = "model.norm.weight"
    with pytest.raises(RuntimeError, match=r"was not given model\.norm\.weight"):
        engine.sync([item for item in weights.items() if item[0] != norm], 1)
    with pytest.raises(RuntimeError, match=r"has no model\.other"):
        engine.sync([*weights.items(), ("model.other", torch.zeros(1))], 1)
    with pytest.raises(RuntimeError, match=r"model\.norm\.weight as \(3,\) and has it as \(32,\)"):
        engine.sync({**weights, norm: torch.zeros(3)}.items(), 1)
    assert engine.version == -1
    engine.sync(weights.items(), 1)
    assert engine.version == 1


def test_engines_are_made_for_shared_weights_or_with_their_own(model: PreTrainedModel) -> None:
    stage = RECIPE.stages[1]
    engines = Engines(RECIPE, SingleProcess(), Silent(), 128, (EOS,))
    shared = engines.get(stage, model, TOKENIZER)
    own = engines.get(stage, model, TOKENIZER, shares_weights=False)
    assert engines.get(stage, model, TOKENIZER, shares_weights=False) is own
    engines.sync(own, named_tensors(model), 1)
    engines.sync(shared, named_tensors(model), 1)
    pair = zip(shared.generate(REQUESTS, SPEC), own.generate(REQUESTS, SPEC), strict=True)
    assert all(same(*both) for both in pair)
    other = random_model(tiny_recipe("model.architecture.hidden_size=16"))
    assert engines.get(stage, other, TOKENIZER, shares_weights=False) is not own


def test_what_vllm_alone_can_do_is_refused_for_other_engines() -> None:
    for setting, match in (
        ("tensor_parallel=2", r"tensor_parallel is 2, which vLLM alone can do, .* is torch"),
        ("sleep=on", r"rollout\.vllm\.sleep is on, which vLLM alone can do"),
    ):
        with pytest.raises(ValueError, match=match):
            tiny_recipe(f"rollout.vllm.{setting}")
    assert tiny_recipe("rollout.vllm.sleep=off").stages[0].rollout.vllm.sleep == "off"
    auto = tiny_recipe("rollout.engine=auto", "rollout.vllm.tensor_parallel=2")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match=r"tensor_parallel is 2, which vLLM alone can do"):
            settle_engine(auto.stages[0].rollout, 2)


@pytest.mark.vllm
def test_the_number_of_ranks_must_be_a_multiple_of_the_width() -> None:
    rollout = tiny_recipe("rollout.engine=vllm", "rollout.vllm.tensor_parallel=4").stages[0].rollout
    assert settle_engine(rollout, 8)[0] == "vllm"
    with pytest.raises(
        ValueError, match=r"must be a multiple of it, got 6\. Start 8 ranks.* 1, 2, 3, 6"
    ):
        settle_engine(rollout, 6)


@pytest.mark.parametrize(("world", "width"), [(1, 1), (4, 1), (4, 2), (4, 4), (6, 3)])
def test_every_item_is_sampled_by_one_engine_and_kept_by_one_of_its_ranks(
    world: int, width: int
) -> None:
    items = list(range(17))
    deals = [Deal(rank, world, width) for rank in range(world)]
    kept = [
        [item for place, item in enumerate(deal.sampled(items)) if deal.keeps(place)]
        for deal in deals
    ]
    assert sorted(item for share in kept for item in share) == items
    assert max(map(len, kept)) - min(map(len, kept)) <= 1
    for deal in deals:
        assert deal.rank in deal.members
        assert {tuple(deals[rank].sampled(items)) for rank in deal.members} == {
            tuple(deal.sampled(items))
        }


def test_a_device_that_cannot_hold_learner_and_engine_is_refused_with_the_numbers() -> None:
    plan = DevicePlan(total=80 * GIB, learner=24 * GIB, utilization=0.4, engine_weights=3 * GIB)
    plan.check()
    with pytest.raises(
        ValueError, match=r"80\.0 GiB the engine takes 60\.0 .* learner 24\.0 .*below 0\.70"
    ):
        replace(plan, utilization=0.75).check()
    with pytest.raises(ValueError, match=r"Shard the learner over more ranks"):
        replace(plan, learner=79 * GIB).check()
    with pytest.raises(ValueError, match=r"weights alone take 40\.0 GiB.* above 0\.50"):
        replace(plan, engine_weights=40 * GIB).check()


def test_what_training_takes_is_counted_by_trainable_parameters() -> None:
    """A gradient and two moments, and the trained weights once more for a reference."""
    plain, adapted = new_model(), add_adapter(new_model(), Lora(rank=4, alpha=8), 1, None)
    count = sum(one.numel() for one in plain.parameters())
    assert whole_numel(plain) == count
    assert learner_of(plain).bytes_to_come() == 12 * count
    assert learner_of(new_model(), replace(grpo(), kl=Kl(0.1))).bytes_to_come() == 16 * count
    assert 0 < learner_of(adapted).bytes_to_come() < 12 * count


def test_parity_statistics_by_hand() -> None:
    trainer, engine = np.array([-1.0, -2.0, -0.5]), np.array([-1.1, -2.0, -0.3])
    stats = ParityStats().add(trainer[:1], engine[:1]).add(trainer[1:], engine[1:])
    assert (stats.n, stats.max_abs) == (3, pytest.approx(0.2))
    assert stats.mean_abs == pytest.approx(0.1)
    k3 = [math.exp(d) - d - 1 for d in (0.1, 0.0, -0.2)]
    assert stats.metrics()["parity/logprob/k3"] == pytest.approx(sum(k3) / 3)
    parts = [ParityStats().add(trainer[:2], engine[:2]), ParityStats().add(trainer[2:], engine[2:])]
    assert ParityStats.merge(parts) == ParityStats().add(trainer, engine)
    assert ParityStats().metrics() == {}
    assert stats.problem(ParityLimits(0.3, 0.2)) is None
    assert "max |difference| 0.2" in str(stats.problem(ParityLimits(0.15, None)))
    assert "limit on the mean is 0.05" in str(stats.problem(ParityLimits(None, 0.05)))


def test_a_nan_is_no_agreement() -> None:
    stats = ParityStats().add(np.array([np.nan]), np.array([-1.0]))
    stats = stats.add(np.array([-1.0]), np.array([-1.0]))
    assert stats.problem(ParityLimits.of("float32")) is not None
    assert (
        ParityStats.merge([ParityStats(), stats]).problem(ParityLimits.of("bfloat16")) is not None
    )


def test_auto_says_which_engine_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda: list[bool] = [False]
    installed: list[Any] = [object()]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda[0])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: installed[0])
    assert choose_engine("auto")[0] == "torch"
    assert "no CUDA device" in choose_engine("auto")[1]
    cuda[0] = True
    assert choose_engine("auto") == (
        "vllm",
        "engine: vllm (auto: there is a CUDA device and vLLM is installed)",
    )
    assert choose_engine("torch")[0] == "torch"
    installed[0] = None
    assert choose_engine("auto")[0] == "torch"
    with pytest.raises(ValueError, match=r"rollout\.engine=torch"):
        choose_engine("vllm")
