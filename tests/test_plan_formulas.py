"""What a plan says by formula: held to numbers by hand, to the real curriculum and to real models."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch

from rlcurric import seeds
from rlcurric.build.curriculum import bind_controller
from rlcurric.plan import fits
from rlcurric.plan.counts import Assumed, PerStep, count, steps_of
from rlcurric.plan.memory import Numbers, activations, held, kv_bytes
from rlcurric.plan.phases import Device, Setup, phases_of
from rlcurric.plan.rows import Lengths, StageRows
from rlcurric.plan.shapes import Shape, shape_of_architecture, shape_of_config
from rlcurric.recipe.ends import Until
from rlcurric.recipe.settings import Architecture, Lora
from rlcurric.recipe.stages import RlStage
from rlcurric.schedules import Progress
from rlcurric.types import Candidate, Delivery, Prompt, SampleOutcome, Status
from tests.tiny import tiny_recipe

GIB = 2**30
SIZES: dict[str, dict[str, Any]] = {
    "qwen2": {},
    "qwen3": {"head_dim": 24},
    "llama": {},
    "mistral": {},
    "gemma2": {"head_dim": 24},
    "smollm3": {},
    "granite": {},
}


@pytest.mark.parametrize("family", SIZES)
def test_parameters_are_those_of_transformers_own_model(family: str) -> None:
    """Built without memory, on the meta device."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        family,
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=101,
        pad_token_id=0,
        **SIZES[family],
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    shape = shape_of_config(json.loads(config.to_json_string(use_diff=False)), "config.json")
    assert shape.n == model.num_parameters()


def test_a_shipped_architecture_and_its_adapter_have_as_many_parameters() -> None:
    from peft import LoraConfig, get_peft_model

    from rlcurric.train.models import random_model

    recipe = tiny_recipe()
    assert recipe.model.architecture is not None and recipe.model.tokenizer is not None
    model = random_model(recipe)
    shape = shape_of_architecture(recipe.model.architecture, model.config.vocab_size)
    assert shape.n == model.num_parameters() == sum(p.numel() for p in model.parameters())
    adapted = get_peft_model(
        model, LoraConfig(r=5, target_modules="all-linear", task_type="CAUSAL_LM")
    )
    assert shape.adapter(Lora(rank=5)) == adapted.get_nb_trainable_parameters()[0]
    narrow = LoraConfig(r=3, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    adapted = get_peft_model(random_model(recipe), narrow)
    lora = Lora(rank=3, target_modules=("q_proj", "down_proj"))
    assert shape.adapter(lora) == adapted.get_nb_trainable_parameters()[0]


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_type": "mixtral", "num_local_experts": 8}, "got mixtral with experts"),
        ({"model_type": "gpt2"}, "got gpt2"),
        ({"model_type": "llama", "hidden_size": 0}, "hidden_size must be a whole number"),
    ],
)
def test_models_that_are_not_counted_are_refused(config: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        shape_of_config(config, "config.json")


# --- steps, rollouts, tokens


def stage_of(**changes: Any) -> RlStage:
    """The tiny recipe's first RL stage with another curriculum and other settings."""
    curriculum = {"prompts_per_step": 16, "group_size": 8, **changes.pop("curriculum", {})}
    stage = {
        "name": "rl",
        "kind": "rl",
        "curriculum": curriculum,
        "until": {"steps": 10},
        **changes,
    }
    found = tiny_recipe(stages=[stage]).stages[0]
    assert isinstance(found, RlStage)
    return found


ROWS = StageRows({"two": 300, "three": 100}, Lengths(5, 6), None, Lengths(5, 6), held_out=8)


def per_step(stage: RlStage, admitted: float | None = None) -> PerStep:
    return count(stage, ROWS, Assumed(10.0, "", admitted), ".").per_step


def test_a_step_by_hand() -> None:
    """Dynamic sampling with groups of 8: of nine equally likely numbers right two have no variance."""
    stage = stage_of(curriculum={"gate": {"name": "zero_variance"}, "refill_rounds": 1})
    found = per_step(stage)
    assert found.admitted == pytest.approx(7 / 9)
    assert found.refill == pytest.approx(1 + 2 / 9)
    assert found.samples == pytest.approx(16 * 8 * (1 + 2 / 9))
    assert found.trained_rows == pytest.approx(8 * 16 * (1 - (2 / 9) ** 2))
    assert found.trained == pytest.approx(10 * found.trained_rows)
    plain = per_step(
        stage_of(curriculum={"selector": {"name": "pods", "keep": 0.25}}, optim={"epochs": 3})
    )
    assert (plain.refill, plain.samples) == (1.0, 128)
    assert plain.trained_rows == 32 and plain.trained == 3 * 320
    assert per_step(stage, admitted=0.5).trained_rows == pytest.approx(128 * 0.75)


class UniformPool:
    """Prompts whose pass rates are spread evenly over 0 to 1."""

    sizes = {"two": 100_000, "three": 100_000}

    def candidate(self, distribution: str, index: int) -> Candidate:
        return Candidate(seeds.hash64(distribution, index), distribution, index, {})

    def prompt(
        self, distribution: str, index: int, progress: Progress | None = None, hint: int = 0
    ) -> Prompt:
        return Prompt(seeds.hash64(distribution, index), distribution, (1,), "", {})


def really(stage: RlStage, steps: int = 40) -> tuple[float, float]:
    """Samples and trained groups, copies included, of a step of the real controller."""
    controller = bind_controller(stage, ".", UniformPool(), 0)
    samples = trained = 0
    for step in range(steps):
        controller.begin(step, Progress(step, step, steps))
        while not controller.ready():
            deliveries = []
            for request in controller.requests():
                rate = request.prompt.uid / 2**64
                draw = seeds.philox(step, str(request.group_id), len(request.samples)).random(
                    len(request.samples)
                )
                made = []
                for number, value in zip(request.samples, draw, strict=True):
                    right = float(value < rate)
                    made.append(SampleOutcome(number, right, right, Status.SCORED, 1, False, 0))
                samples += len(made)
                deliveries.append(
                    Delivery(request.group_id, request.prompt.distribution, tuple(made))
                )
            controller.deliver(deliveries)
        trained += sum(group.copies for group in controller.take().groups)
    return samples / steps, trained / steps


@pytest.mark.parametrize(
    "curriculum",
    [
        {"gate": {"name": "zero_variance"}, "refill_rounds": 3},
        {"gate": {"name": "pass_rate_range", "low": 0.2, "high": 0.8}, "refill_rounds": 1},
        {"gate": {"name": "zero_variance"}, "oversample": 1.5, "refill_rounds": 2},
        {"plan": {"name": "speed", "initial": 4}, "refill_rounds": 2},
        {"plan": {"name": "lilo", "pool": 3.0, "probe": 4}, "gate": {"name": "zero_variance"}},
        {"gate": {"name": "replace"}},
    ],
    ids=lambda one: "-".join(str(part["name"]) for part in one.values() if isinstance(part, dict)),
)
def test_expected_samples_and_groups_are_those_of_the_real_curriculum(curriculum: Any) -> None:
    stage = stage_of(curriculum=curriculum)
    samples, trained = really(stage)
    found = per_step(stage)
    assert found.samples == pytest.approx(samples, rel=0.1)
    assert found.trained_rows / 8 == pytest.approx(trained, rel=0.1)


def until(**keys: Any) -> int:
    stage = stage_of(until=keys)
    return steps_of(stage, PerStep(generated=500.0, rows=16.0), ROWS, lambda step: 36.0)


def test_the_last_step_by_what_bounds_the_stage() -> None:
    assert until(steps=7) == 7
    assert until(tokens=5001) == 11
    assert until(epochs=2) == math.ceil(800 / 16)
    assert until(gpu_hours=0.1) == 10
    assert until(steps=100, any=[{"tokens": 1000}]) == 2
    assert until(all=[{"steps": 3}, {"tokens": 5000}]) == 10
    assert until(steps=9, plateau={"metric": "reward/total/mean"}) == 9
    stage = stage_of(until={"gpu_hours": 1})
    with pytest.raises(ValueError, match="--throughput TOKENS/S or --measured RUN"):
        steps_of(stage, PerStep(generated=1.0), ROWS, None)
    assert Until(steps=2).planned_steps == 2


def test_evaluations_are_counted_with_their_completions() -> None:
    asked = {"every": 4, "samples": 2}
    found = count(stage_of(evaluation=asked), ROWS, Assumed(10.0, ""), ".")
    assert found.evaluations == 3  # after steps 4, 8 and the last
    assert found.evaluated == 3 * 8 * 3
    found = count(stage_of(evaluation=asked, until=8), ROWS, Assumed(10.0, ""), ".")
    assert found.evaluations == 2


# --- memory


CPU = Numbers(cuda=False, width=4, autocast=False)
SMALL = Shape("small", 10**6, 4, 128, 384, 4, 2, 32, 150)


def test_what_is_kept_by_hand() -> None:
    """A layer in float32 on a CPU keeps of a token 6 widths, 4 inner widths, 7 of all query heads and 3 of all key heads."""
    layer = 4 * (6 * 128 + 4 * 384 + 7 * 128 + 3 * 64)
    assert activations(SMALL, 100, CPU, checkpointing=False) == 4 * 100 * layer
    assert activations(SMALL, 100, CPU, checkpointing=True) == 4 * 4 * 100 * 128 + 100 * layer
    assert kv_bytes(SMALL, 4) == 2 * 4 * 64 * 4
    assert held("none", 100, 1, width=8).total == 8 * 100 * 4


def saved_by(layers: int, checkpointing: bool) -> tuple[int, int]:
    """Bytes of distinct tensors that autograd keeps of a packed line beside the weights, and the line's tokens."""
    from rlcurric.data.packing import to_packed
    from rlcurric.train.logprobs import PolicyForward
    from rlcurric.train.models import random_model

    changed = {
        "architecture": LAYER.model_copy(update={"layers": layers}).model_dump(),
        "tokenizer": {"characters": "0123456789"},
        "gradient_checkpointing": checkpointing,
    }
    model = random_model(tiny_recipe(model=changed))
    policy = PolicyForward(model.train())
    known = {p.untyped_storage().data_ptr() for p in model.parameters()}
    saved: dict[int, torch.Tensor] = {}  # held, so that no address is given out twice

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if (place := tensor.untyped_storage().data_ptr()) not in known:
            saved[place] = tensor
        return tensor

    packed = to_packed([((1, 2, 3), np.arange(40) % 9, None) for _ in range(6)])
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        kept = policy(packed, 1.0, True)
    assert kept[0].requires_grad
    return sum(one.untyped_storage().nbytes() for one in saved.values()), packed.input_ids_1L.shape[
        1
    ]


LAYER = Architecture(hidden_size=96, intermediate_size=256, heads=4, kv_heads=2, head_dim=24)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_activations_are_those_that_real_layers_save(checkpointing: bool) -> None:
    """What three layers save beyond one, in float32 on a CPU."""
    (three, tokens), (one, _) = saved_by(3, checkpointing), saved_by(1, checkpointing)
    planned = [
        activations(
            shape_of_architecture(LAYER.model_copy(update={"layers": n}), 12),
            tokens,
            CPU,
            checkpointing,
        )
        for n in (3, 1)
    ]
    assert three - one == pytest.approx(planned[0] - planned[1], rel=0.1)


def setup_of(recipe: Any, device: Device, rows: StageRows, **changes: Any) -> Setup:
    stage = recipe.stages[0]
    shape = changes.pop("shape", SMALL)
    counts = count(stage, rows, Assumed(20.0, ""), ".")
    chosen = {"engine": "torch", "reference": False, "rescored": False, **changes}
    return Setup(shape, shape.n, recipe.model, device, rows, counts, **chosen)


BIG = Shape("7B", 7_616_000_000, 28, 3584, 18_944, 28, 4, 128, 152_064)
LONG = StageRows({"two": 1000}, Lengths(100, 300), Lengths(400, 900), Lengths(500, 1200), 64)


def rl_recipe(**changes: Any) -> Any:
    stage = {
        "name": "rl",
        "rollout": {"max_new_tokens": 1024, "engine": "auto"},
        "curriculum": {"prompts_per_step": 64},
        "until": 10,
        **changes,
    }
    return tiny_recipe(
        stages=[stage], model={**tiny_recipe().model.model_dump(), "gradient_checkpointing": True}
    )


def test_gpus_shard_what_the_sharding_says() -> None:
    """7B on 8 ranks: what docs/scaling.md has in its worked examples."""
    recipe = rl_recipe(optim={"tokens_per_microbatch": 8192})
    found = {}
    for kind in ("zero2", "fsdp2"):
        setup = setup_of(recipe, Device(8, 80 * GIB, kind), LONG, shape=BIG, engine="vllm")
        found[kind] = {one.name: one for one in phases_of(recipe.stages[0], setup)}
    assert found["zero2"]["start"].weights == 4 * BIG.n
    assert found["zero2"]["update"].weights == 4 * BIG.n * (1 + 1 / 8) + 2 * BIG.layer
    assert found["zero2"]["update"].optimizer == BIG.n
    assert found["fsdp2"]["step"].weights == BIG.n / 2
    assert found["fsdp2"]["update"].total == pytest.approx(31.9e9, rel=0.03)
    assert found["zero2"]["update"].total == pytest.approx(58.2e9, rel=0.03)
    assert "start" not in found["fsdp2"]


def test_what_does_not_fit_names_a_setting_that_fits() -> None:
    """The setting is then set, and the stage fits."""
    recipe = rl_recipe()
    setup = setup_of(recipe, Device(8, 80 * GIB, "ddp"), LONG, shape=BIG, engine="vllm")
    (said,) = [one for one in fits.problems(recipe.stages[0], setup) if "needs" in one]
    assert "needs" in said and "--sharding zero2" in said and "of a GPU of 80.0 GiB" in said
    better = setup_of(recipe, Device(8, 80 * GIB, "zero2"), LONG, shape=BIG, engine="vllm")
    assert fits.problems(recipe.stages[0], better) == []

    recipe = rl_recipe(
        rollout={"engine": "torch", "max_new_tokens": 1024, "torch": {"max_batch": 512}}
    )
    setup = setup_of(recipe, Device(0, GIB // 2, "none"), LONG)
    (said,) = fits.problems(recipe.stages[0], setup)
    assert "rollout needs" in said and "stages.rl.rollout.torch.max_batch=" in said
    batch = int(said.split("max_batch=")[1].split(";")[0])
    recipe = rl_recipe(
        rollout={"engine": "torch", "max_new_tokens": 1024, "torch": {"max_batch": batch}}
    )
    assert (
        fits.problems(recipe.stages[0], setup_of(recipe, Device(0, GIB // 2, "none"), LONG)) == []
    )

    sft = tiny_recipe(stages=[{"name": "cold", "kind": "sft", "batch_size": 64, "until": 3}])
    setup = setup_of(sft, Device(0, GIB, "none"), LONG)
    (said,) = fits.problems(sft.stages[0], setup)
    assert "update needs" in said and "stages.cold.micro_batches=" in said
    parts = int(said.split("micro_batches=")[1].split(";")[0])
    sft = tiny_recipe(
        stages=[
            {"name": "cold", "kind": "sft", "batch_size": 64, "micro_batches": parts, "until": 3}
        ]
    )
    assert fits.problems(sft.stages[0], setup_of(sft, Device(0, GIB, "none"), LONG)) == []


def test_ranks_that_batches_and_engines_cannot_be_divided_by_are_refused() -> None:
    sft = tiny_recipe(stages=[{"name": "cold", "kind": "sft", "batch_size": 9, "until": 3}])
    (said,) = fits.problems(sft.stages[0], setup_of(sft, Device(2, 80 * GIB, "ddp"), LONG))
    assert "stages.cold.batch_size must be divisible" in said
    recipe = rl_recipe(rollout={"engine": "vllm", "vllm": {"tensor_parallel": 4}})
    setup = setup_of(recipe, Device(6, 80 * GIB, "ddp"), LONG, engine="vllm")
    assert any(
        "must be a multiple of it, got 6" in one for one in fits.problems(recipe.stages[0], setup)
    )
