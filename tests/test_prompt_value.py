"""The prompt value model: it learns what prompts show, disturbs nothing, and goes on from a checkpoint bit for bit."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from rlcurric.curriculum.calibration import spearman
from rlcurric.errors import RunError
from rlcurric.recipe.curricula import ValueModel
from rlcurric.recipe.settings import Lora
from rlcurric.train.adapters import add_adapter
from rlcurric.train.models import random_model, tokenizer_of
from rlcurric.train.prompt_value import PromptValue, value_backbone
from rlcurric.types import Prompt
from tests.tiny import tiny_recipe

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PLUS, EQUALS = 10, 12  # tokens of the tiny recipe's vocabulary, after its digits
TERMS = range(2, 8)
OWN = ValueModel(
    backbone="base",
    learning_rate=1e-2,
    body_learning_rate=1e-3,
    passes=4,
    hidden=None,
    tokens_per_microbatch=40,
)


def new_model() -> PreTrainedModel:
    return random_model(tiny_recipe())


def adapted() -> Any:
    """A policy under LoRA whose adapter changes what it computes."""
    model = add_adapter(new_model(), Lora(rank=4, alpha=8), 1, None)
    generator = torch.Generator().manual_seed(5)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(generator=generator)
    return model


def sums(seed: int, n: int = 24) -> tuple[list[Prompt], list[float]]:
    """Sums like 3+4+1=, and pass rates that fall with the number of terms."""
    rng = np.random.default_rng(seed)
    prompts, rates = [], []
    for uid in range(n):
        terms = int(rng.choice(TERMS))
        ids = [int(token) for k in range(terms) for token in (rng.integers(10), PLUS)][:-1]
        prompts.append(Prompt(uid, "sums", (*ids, EQUALS), "", {}))
        rates.append(1.0 - (terms - TERMS[0]) / (len(TERMS) - 1))
    return prompts, rates


def taught(value: PromptValue, fits: int, first: int = 0) -> list[dict[str, float]]:
    metrics = []
    for seed in range(first, first + fits):
        prompts, rates = sums(seed)
        metrics.append(value.fit(prompts, rates, [1.0] * len(prompts)))
    return metrics


def states_alone(model: Any, prompts: Sequence[Prompt]) -> torch.Tensor:
    """Hidden states of the last tokens, one forward for each prompt, without packing."""
    with torch.no_grad():
        return torch.stack(
            [
                model.get_decoder()(
                    input_ids=torch.tensor([prompt.prompt_ids]), use_cache=False
                ).last_hidden_state[0, -1]
                for prompt in prompts
            ]
        )


def digest(model: torch.nn.Module) -> str:
    """All that a model is made of: weights, gradients, modes."""
    found = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        found.update(name.encode() + tensor.numpy().tobytes())
    for name, parameter in model.named_parameters():
        gradient = parameter.grad
        found.update(name.encode() + (b"" if gradient is None else gradient.numpy().tobytes()))
    found.update(bytes(module.training for module in model.modules()))
    return found.hexdigest()


@pytest.mark.parametrize(
    "settings",
    [
        ValueModel(),
        ValueModel(hidden=None, passes=16, window=1, learning_rate=1e-2),
        ValueModel(hidden=16, tokens_per_microbatch=1, learning_rate=3e-3),
        OWN,
    ],
)
def test_it_learns_what_a_prompt_shows(settings: ValueModel) -> None:
    """The number of terms, from the hidden state of the last token alone."""
    value = PromptValue(settings, new_model(), seed=0)
    unseen, rates = sums(999, 100)
    assert value.predict(unseen) == [0.5] * 100
    metrics = taught(value, 30)
    predicted = value.predict(unseen)
    assert all(0.0 < p < 1.0 for p in predicted)
    agreement = spearman(predicted, rates)
    assert agreement is not None and agreement > 0.8
    assert np.mean(np.abs(np.array(predicted) - rates)) < 0.15
    assert (
        metrics[-1]["curriculum/value/loss/mean"] < 0.3 * metrics[0]["curriculum/value/loss/mean"]
    )
    assert metrics[-1]["curriculum/value/spearman"] > 0.8
    assert "curriculum/value/spearman" not in metrics[0]  # of predictions that are all one half


def test_the_first_update_by_hand() -> None:
    """One prompt, a linear head: moments are its own, so its input is 0 and only the bias moves, by the rate."""
    settings = ValueModel(hidden=None, passes=1, window=1, learning_rate=0.25)
    value = PromptValue(settings, new_model(), seed=0)
    prompts, _ = sums(0, 1)
    metrics = value.fit(prompts, [1.0], [0.5])
    assert value.predict(prompts) == [pytest.approx(1 / (1 + np.exp(-0.25)), rel=1e-5)]
    assert metrics == {
        "curriculum/value/loss/mean": 0.25,
        "curriculum/value/window_loss/mean": 0.25,
        "curriculum/value/predicted/mean": 0.5,
        "curriculum/value/prompts/sum": 1.0,
        "curriculum/value/error/mean": 0.5,
    }


@pytest.mark.parametrize("make", [new_model, adapted])
def test_predictions_are_those_of_every_prompt_alone(make: Callable[[], Any]) -> None:
    """Packed with others, in lines of any length, and by a forward without packing."""
    model = make()
    value = PromptValue(ValueModel(), model, seed=0)
    taught(value, 4)
    prompts, _ = sums(50, 30)
    together = value.predict(prompts)
    assert len({round(p, 4) for p in together}) > 10
    alone = [value.predict([prompt])[0] for prompt in prompts]
    assert alone == pytest.approx(together, abs=1e-5)
    backwards = value.predict(prompts[::-1])[::-1]
    assert backwards == pytest.approx(together, abs=1e-5)
    plain = value._head(states_alone(model, prompts)).sigmoid().tolist()
    assert plain == pytest.approx(together, abs=1e-5)
    assert value.predict([]) == []


def test_an_adapter_is_part_of_the_backbone() -> None:
    prompts, _ = sums(1)
    under, without = (
        states_alone(model, prompts) for model in (adapted(), adapted().get_base_model())
    )
    plain = states_alone(new_model(), prompts)
    assert torch.equal(under, without) and (under - plain).abs().max() > 0.1


@pytest.mark.parametrize("make", [new_model, adapted])
def test_the_policy_and_the_generator_are_left_as_they_were(make: Callable[[], Any]) -> None:
    """Weights, gradients, the mode of every module, torch's random numbers."""
    model = make()
    model.train()
    next(iter(model.children())).eval()  # modes that differ among modules come back as they were
    ids = torch.tensor([[1, 2, 3]])
    model(input_ids=ids, labels=ids).loss.backward()
    state, before = torch.get_rng_state(), digest(model)
    value = PromptValue(ValueModel(hidden=8), model, seed=0)
    taught(value, 2)
    value.predict(sums(2)[0])
    assert digest(model) == before
    assert torch.equal(torch.get_rng_state(), state)


def test_a_failed_fit_leaves_the_policy_in_its_mode() -> None:
    model = new_model()
    model.train()
    value = PromptValue(ValueModel(), model, seed=0)
    with torch.no_grad():
        model.get_input_embeddings().weight[PLUS] = torch.nan
    with pytest.raises(RunError, match="not finite"):
        taught(value, 1)
    assert model.training and all(module.training for module in model.modules())


def test_a_model_of_its_own_is_trained_whole_and_the_window_is_gone_over_again() -> None:
    model = new_model()
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    value = PromptValue(OWN, model, seed=0)
    taught(value, 1)
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert moved == set(before)
    assert (ValueModel().updates, ValueModel().steps) == (8, 4)
    bare = ValueModel(backbone="base")
    assert (bare.updates, bare.steps) == (1, 1)  # as in the paper
    longer = PromptValue(ValueModel(window=3), new_model(), seed=0)
    counts = [row["curriculum/value/prompts/sum"] for row in taught(longer, 5)]
    assert counts == [24.0, 48.0, 72.0, 72.0, 72.0]


@pytest.mark.parametrize("settings", [ValueModel(window=3, hidden=8), OWN])
def test_micro_batches_change_nothing_but_rounding(settings: ValueModel) -> None:
    found = []
    for tokens in (1, 100_000):
        values = {**vars(settings), "tokens_per_microbatch": tokens}
        value = PromptValue(ValueModel(**values), new_model(), seed=0)
        taught(value, 3)
        found.append(value.predict(sums(70)[0]))
    assert found[0] == pytest.approx(found[1], abs=2e-3)


@pytest.mark.parametrize("settings", [ValueModel(window=3, hidden=8), OWN])
def test_saved_and_loaded_it_goes_on_bit_for_bit(settings: ValueModel, tmp_path: Path) -> None:
    unseen, _ = sums(80)
    value = PromptValue(settings, new_model(), seed=0)
    taught(value, 4)
    value.save(tmp_path)
    back = PromptValue(settings, new_model(), seed=123)
    back.load(tmp_path)
    assert back.predict(unseen) == value.predict(unseen)
    assert taught(back, 2, first=4) == taught(value, 2, first=4)
    assert back.predict(unseen) == value.predict(unseen)
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".bin", ".pt", ".pkl")]


def test_one_that_was_never_fitted_can_be_saved_and_a_shorter_window_keeps_the_latest(
    tmp_path: Path,
) -> None:
    fresh = PromptValue(ValueModel(), new_model(), seed=0)
    fresh.save(tmp_path)
    back = PromptValue(ValueModel(), new_model(), seed=0)
    back.load(tmp_path)
    assert taught(back, 1) == taught(fresh, 1)
    long = PromptValue(ValueModel(window=4), new_model(), seed=0)
    taught(long, 4)
    long.save(tmp_path)
    short = PromptValue(ValueModel(window=2), new_model(), seed=0)
    short.load(tmp_path)
    assert taught(short, 1)[0]["curriculum/value/prompts/sum"] == 2 * 24


@pytest.mark.parametrize("settings", [ValueModel(), OWN])
def test_replicas_that_predict_their_shares_stay_equal(settings: ValueModel) -> None:
    """As ranks do: predictions change nothing, and a fit on the same prompts gives the same bits."""
    replicas = [PromptValue(settings, new_model(), seed=0) for _ in range(2)]
    unseen, _ = sums(60)
    for seed in range(3):
        for rank, value in enumerate(replicas):
            value.predict(unseen[rank::2])
            taught(value, 1, first=seed)
    assert replicas[0].predict(unseen) == replicas[1].predict(unseen)


def test_evidence_without_weight_changes_nothing_and_late_evidence_moves_less() -> None:
    unseen, _ = sums(90)
    prompts, rates = sums(0)
    settings = ValueModel(window=1, passes=8)
    plain, padded, none = (PromptValue(settings, new_model(), seed=0) for _ in range(3))
    assert none.fit(prompts, rates, [0.0] * len(prompts)) == {} == none.fit([], [], [])
    assert none.predict(unseen) == [0.5] * len(unseen)
    plain.fit(prompts, rates, [1.0] * len(prompts))
    extra, extra_rates = sums(1, 5)
    padded.fit(prompts + extra, rates + extra_rates, [1.0] * len(prompts) + [0.0] * 5)
    assert padded.predict(unseen) == plain.predict(unseen)

    on_time, late = (PromptValue(settings, new_model(), seed=0) for _ in range(2))
    moves = []
    for value, weight in ((on_time, 1.0), (late, 0.02)):
        taught(value, 10)
        before = value.predict(unseen)
        value.fit(prompts, [0.0] * len(prompts), [weight] * len(prompts))
        moves.append(np.abs(np.array(value.predict(unseen)) - before).mean())
    assert moves[1] < 0.7 * moves[0]


@pytest.mark.parametrize(
    ("rates", "weights", "told"),
    [
        ([0.5], [1.0, 1.0], "2 prompts, 1 pass rates and 2 weights"),
        ([0.5, 1.5], [1.0, 1.0], r"in \[0, 1\], got 1.5"),
        ([0.5, float("nan")], [1.0, 1.0], r"in \[0, 1\], got nan"),
        ([0.5, 0.5], [1.0, -1.0], "not negative, got -1.0"),
    ],
)
def test_evidence_that_cannot_be_is_refused(
    rates: list[float], weights: list[float], told: str
) -> None:
    value = PromptValue(ValueModel(), new_model(), seed=0)
    with pytest.raises(ValueError, match=told):
        value.fit(sums(0, 2)[0], rates, weights)
    assert value.predict(sums(0, 2)[0]) == [0.5, 0.5]


@pytest.mark.parametrize("changed", [ValueModel(hidden=5), ValueModel(backbone="base")])
def test_another_kind_of_value_model_is_not_loaded(changed: ValueModel, tmp_path: Path) -> None:
    PromptValue(ValueModel(hidden=8), new_model(), seed=0).save(tmp_path)
    with pytest.raises(ValueError, match="a hidden layer of 8 on the policy of width 32, and"):
        PromptValue(changed, new_model(), seed=0).load(tmp_path)


def test_where_a_backbone_comes_from(tmp_path: Path) -> None:
    recipe = tiny_recipe()
    tokenizer = tokenizer_of(recipe)
    policy = random_model(tiny_recipe("seed=8"))

    def named(name: str) -> Any:
        return value_backbone(recipe, ValueModel(backbone=name), policy, tokenizer)

    assert named("policy") is policy
    base = named("base")
    assert base is not policy and digest(base.train()) == digest(new_model().train())
    folder = tmp_path / "model"
    policy.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    assert digest(named(str(folder)).train()) == digest(policy.train())
    other = tiny_recipe("model.tokenizer.characters=0123456789+-=() x")
    tokenizer_of(other).save_pretrained(folder)
    with pytest.raises(ValueError, match="another vocabulary than the policy"):
        named(str(folder))
    with pytest.raises(ValueError, match=r"curriculum\.value\.backbone: the folder"):
        named("./nowhere")
