"""LoRA from start to end: what the engine gets, what the reference is, what a checkpoint holds, what a resume finds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import rlcurric
from rlcurric.objective.kl import Kl
from rlcurric.objective.presets import grpo
from rlcurric.recipe.settings import Lora
from rlcurric.report.difference import first_difference
from rlcurric.report.tables import read_run
from rlcurric.train.adapters import (
    ADAPTER,
    adapter_tensors,
    add_adapter,
    save_adapter,
    save_model,
)
from rlcurric.train.checkpoint import CheckpointStore
from rlcurric.train.models import named_tensors
from rlcurric.train.pieces import PieceReader
from rlcurric.train.reference import PREFIX
from rlcurric.train.sharding.base import plain_tensors
from tests.saved import write_checkpoint
from tests.test_learner import learner_of, new_model, rows, update, weights
from tests.test_resume import in_new_process
from tests.tiny import tiny_recipe

LORA = Lora(rank=4, alpha=8)
OVERRIDES = (
    "model.lora={rank: 4, alpha: 8}",
    # The first RL stage starts a new adapter, whose reference is the base; the second goes on with a trained one.
    "stages.first.init=base",
    "stages.first.objective={name: grpo, kl: {coef: 0.1, estimator: k3}}",
    "stages.second.objective={name: dapo, kl: {coef: 0.1, estimator: k3}}",
    "optim.learning_rate=0.01",
)


def adapted(seed: int = 1) -> Any:
    return add_adapter(new_model(), LORA, seed, None)


def test_a_new_adapter_changes_nothing_and_is_all_that_trains() -> None:
    model, plain = adapted(), new_model()
    ids = torch.tensor([[5, 6, 7]])
    assert torch.equal(model(input_ids=ids).logits, plain(input_ids=ids).logits)
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trained and all(f".{ADAPTER}." in name for name in trained)
    assert not any("lm_head" in name for name in trained)
    again = dict(adapted().named_parameters())
    assert all(torch.equal(p, again[name]) for name, p in model.named_parameters())


def test_engines_and_checkpoints_get_merged_weights_and_the_base_stays(tmp_path: Path) -> None:
    model = adapted()
    learner = learner_of(model)
    base = weights(model.get_base_model())
    for version in range(3):
        update(learner, [rows(new_model())], [3e-2], version=9)
        merged = dict(named_tensors(model))
        again = dict(named_tensors(model))
        assert all(torch.equal(tensor, again[name]) for name, tensor in merged.items()), version
    plain = new_model()
    missing = plain.load_state_dict(merged, strict=False)
    assert not missing.unexpected_keys and not missing.missing_keys
    ids = torch.tensor([[5, 6, 7, 8]])
    assert (plain(input_ids=ids).logits - model(input_ids=ids).logits).abs().max() < 1e-5
    assert (plain(input_ids=ids).logits - new_model()(input_ids=ids).logits).abs().max() > 1e-3
    after = weights(model.get_base_model())
    kept = [name for name in base if "lora_" not in name]
    assert all(torch.equal(base[name], after[name]) for name in kept)

    from transformers import AutoModelForCausalLM

    save_model(model, tmp_path / "model")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    assert torch.equal(loaded(input_ids=ids).logits, plain(input_ids=ids).logits)
    save_adapter(model, tmp_path / "adapter", adapter_tensors(model, plain_tensors))
    back = add_adapter(new_model(), LORA, 2, tmp_path / "adapter")
    assert torch.equal(back(input_ids=ids).logits, model(input_ids=ids).logits)
    assert sorted(path.name for path in (tmp_path / "adapter").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


def kept_reference(folder: Path) -> list[str]:
    return [name for name in PieceReader(folder).names() if name.startswith(PREFIX)]


def test_the_reference_of_a_fresh_adapter_is_the_model_without_it(tmp_path: Path) -> None:
    learner = learner_of(adapted(), replace(grpo(), kl=Kl(0.5, "k3")))
    assert update(learner, [rows(new_model())], [3e-2], 9)["kl/ref_k3/mean"] == 0.0
    assert update(learner, [rows(new_model())], [3e-2], 9)["kl/ref_k3/mean"] > 1e-5
    assert list(learner.model.peft_config) == [ADAPTER]  # no second set of weights
    write_checkpoint(learner, tmp_path)
    assert all("lora_" in name for name in kept_reference(tmp_path))


def test_the_reference_of_a_trained_adapter_is_a_copy_of_it_and_not_the_base(
    tmp_path: Path,
) -> None:
    first = learner_of(adapted())
    update(first, [rows(new_model())], [3e-2], 9)
    model = first.model
    learner = learner_of(model, replace(grpo(), kl=Kl(0.5, "k3")))
    assert update(learner, [rows(new_model())], [3e-2], 9)["kl/ref_k3/mean"] == 0.0
    moved = update(learner, [rows(new_model())], [3e-2], 9)["kl/ref_k3/mean"]
    assert moved > 1e-5
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trained and all(f".{ADAPTER}." in name for name in trained)
    sent = dict(named_tensors(model))
    assert not any("lora" in name for name in sent)

    write_checkpoint(learner, tmp_path)
    assert kept_reference(tmp_path)
    back = add_adapter(new_model(), LORA, 2, tmp_path / "adapter")
    second = learner_of(back, replace(grpo(), kl=Kl(0.5, "k3")))
    second.load_reference(tmp_path, PieceReader(tmp_path), required=True)
    second.load_optimizer(PieceReader(tmp_path))
    a, b = (update(one, [rows(new_model())], [3e-2], 9) for one in (learner, second))
    assert a == b
    with pytest.raises(ValueError, match="sync_mix must be 1 under LoRA"):
        assert learner.reference is not None
        learner.reference.follow(0.5)


def test_an_adapter_on_the_output_head_is_refused() -> None:
    model = add_adapter(new_model(), Lora(target_modules=("q_proj", "lm_head")), 1, None)
    with pytest.raises(ValueError, match=r"Leave lm_head out of model\.lora\.target_modules"):
        learner_of(model)
    with pytest.raises(ValueError, match=r"model\.lora: .*no_such_layer"):
        add_adapter(new_model(), Lora(target_modules=("no_such_layer",)), 1, None)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("lora") / "run"
    assert rlcurric.train(tiny_recipe(*OVERRIDES), run_dir).status == "done"
    return run_dir


def test_a_run_under_lora(whole: Path) -> None:
    run = read_run(whole)
    for row in run.metrics[2:]:
        assert row["grad/norm"] > 0 and row["parity/logprob/max_abs"] < 1e-4
    for stage in (run.metrics[2:4], run.metrics[4:]):
        assert stage[0]["kl/ref_k3/mean"] < stage[1]["kl/ref_k3/mean"]
    assert all("lora_" in name for name in kept_reference(whole / "checkpoints" / "step-000004"))
    assert kept_reference(whole / "checkpoints" / "step-000006")
    for step in range(1, 7):
        folder = whole / "checkpoints" / f"step-{step:06d}"
        assert (folder / "model" / "model.safetensors").exists()
        assert (folder / "adapter" / "adapter_model.safetensors").exists()


@pytest.mark.slow
def test_resuming_under_lora_changes_nothing(whole: Path, tmp_path: Path) -> None:
    """Stopped after every step: in the SFT stage, at stage ends, in both RL stages; once in a new process."""
    run_dir = tmp_path / "run"
    for step in range(1, 6):
        if step == 5:
            in_new_process(run_dir, step, *OVERRIDES)
        else:
            rlcurric.train(tiny_recipe(*OVERRIDES), run_dir, stop_at=step)
    assert rlcurric.train(tiny_recipe(*OVERRIDES), run_dir).status == "done"
    assert first_difference(whole, run_dir) is None


def test_a_checkpoint_without_an_adapter_is_no_start_for_lora(tmp_path: Path) -> None:
    rlcurric.train(tiny_recipe(), tmp_path / "plain", stop_at=3)
    adapted = tiny_recipe(*OVERRIDES, "stages.first.reference=base")
    with pytest.raises(ValueError, match=r"was trained without model\.lora"):
        rlcurric.train(adapted, tmp_path / "fork", start_from=str(tmp_path / "plain"))


@pytest.mark.parametrize(
    ("lora", "match"),
    [
        ("{rank: 8, alpha: 8}", r"model\.lora\.rank is 8, but the adapter in .* has 4"),
        ("{rank: 4, alpha: 16}", r"model\.lora\.alpha is 16.*has 8"),
        (
            "{rank: 4, alpha: 8, target_modules: [q_proj]}",
            r"target_modules does not fit the adapter",
        ),
    ],
)
def test_a_fork_under_another_adapter_is_refused(
    whole: Path, tmp_path: Path, lora: str, match: str
) -> None:
    recipe = tiny_recipe(*OVERRIDES, f"model.lora={lora}")
    with pytest.raises(ValueError, match=match):
        rlcurric.train(recipe, tmp_path / "fork", start_from=f"{whole}:first")


def test_a_reference_that_was_not_kept_cannot_be_carried(tmp_path: Path) -> None:
    recipe = tiny_recipe(
        "stages.second.carry=[reference]", "stages.second.objective={name: dapo, kl: {coef: 0.1}}"
    )
    with pytest.raises(ValueError, match=r"second\.carry: .*, first, has no reference to carry on"):
        rlcurric.train(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()  # found before anything is trained


def test_a_reference_is_carried_into_the_next_stage(tmp_path: Path) -> None:
    """The KL of the second stage begins where that of the first ended, and not at 0: with LoRA and without."""
    kl = "objective.kl={coef: 0.1, estimator: k3}"
    for lora in ((), OVERRIDES):
        for carry in ("[optimizer]", "[optimizer, reference]"):
            recipe = tiny_recipe(
                *(*lora, kl, f"stages.second.carry={carry}", "optim.learning_rate=0.01"),
                "stages.second.optim.minibatches=1",
            )
            run_dir = tmp_path / f"{len(lora)}{carry}"
            rlcurric.train(recipe, run_dir, stop_at=5)
            began = read_run(run_dir).metrics[4]["kl/ref_k3/mean"]
            assert (began > 1e-5) == ("reference" in carry), (lora, carry, began)
            assert began == 0 or "reference" in carry


def test_the_reference_is_the_adapter_of_the_stage_that_is_named(tmp_path: Path) -> None:
    """Kept as it was when that stage ended, and again after a resume."""
    recipe = tiny_recipe(
        *(OVERRIDES[0], "stages.second.objective={name: dapo, kl: {coef: 0.1, estimator: k3}}"),
        *("stages.second.reference=stage:cold", "optim.learning_rate=0.01"),
    )
    whole, run_dir = tmp_path / "whole", tmp_path / "run"
    rlcurric.train(recipe, whole)
    rlcurric.train(recipe, run_dir, stop_at=5)
    rlcurric.train(recipe, run_dir)
    assert first_difference(whole, run_dir) is None
    assert read_run(whole).metrics[4]["kl/ref_k3/mean"] > 1e-5
    store = CheckpointStore(run_dir / "checkpoints", 20)
    given = load_file(store.at(2).path / "adapter" / "adapter_model.safetensors")
    pieces = PieceReader(store.at(6).path)
    kept = {name for name in pieces.names() if name.startswith(PREFIX)}
    assert len(kept) == len(given)
    for name in kept:
        own = given[name.removeprefix(PREFIX).replace(f".{ADAPTER}.", ".")].reshape(-1)
        assert torch.equal(pieces.read(name, 0, own.numel()), own), name


def test_an_adapter_on_an_embedding_is_refused() -> None:
    lora = Lora(target_modules=("q_proj", "embed_tokens"))
    with pytest.raises(ValueError, match="is an embedding, whose adapter cannot be merged"):
        add_adapter(new_model(), lora, 1, None)


@pytest.mark.vllm
def test_vllm_samples_from_merged_weights(tmp_path: Path) -> None:
    rlcurric.train(tiny_recipe(*OVERRIDES, "rollout.engine=vllm"), tmp_path / "run")
    for row in read_run(tmp_path / "run").metrics[2:]:
        assert row["parity/logprob/max_abs"] < 1e-4
