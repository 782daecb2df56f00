"""`rlcurric plan`: formulas by hand, against the real curriculum, real models and a real run."""

from __future__ import annotations

import gc
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors import safe_open

import rlcurric
from rlcurric import seeds
from rlcurric.build.curriculum import bind_controller
from rlcurric.cli import _run
from rlcurric.plan import fits
from rlcurric.plan.counts import Assumed, PerStep, count, steps_of
from rlcurric.plan.measured import Measured, stated
from rlcurric.plan.memory import Numbers, activations, held, kv_bytes
from rlcurric.plan.phases import Device, Setup, phases_of
from rlcurric.plan.plan import Given, Known, Plan, make_plan
from rlcurric.plan.rows import Lengths, StageRows, assumed_rows
from rlcurric.plan.shapes import Shape, shape_of_architecture, shape_of_config
from rlcurric.plan.tell import tell
from rlcurric.recipe.ends import Until
from rlcurric.recipe.load import load_recipe
from rlcurric.recipe.settings import Architecture, Lora
from rlcurric.recipe.stages import RlStage
from rlcurric.report.tables import RunTables
from rlcurric.schedules import Progress
from rlcurric.train.reporter import Silent
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


# --- the command, against a real run


class Left(Silent):
    """Counts the models that are alive when a stage begins."""

    def __init__(self) -> None:
        self.models: dict[str, int] = {}

    def stage(self, name: str, *_: Any) -> None:
        modules = (one for one in gc.get_objects() if isinstance(one, torch.nn.Module))
        self.models[name] = sum(hasattr(one, "lm_head") for one in modules)


LEFT = Left()


@pytest.fixture(scope="module")
def trained_run(tmp_path_factory: pytest.TempPathFactory) -> RunTables:
    """The tiny recipe, trained."""
    folder = tmp_path_factory.mktemp("plan") / "run"
    gc.collect()  # models of other tests
    rlcurric.train(tiny_recipe(), folder, reporter=LEFT)
    return rlcurric.read_run(folder)


def planned(run: RunTables, **given: Any) -> Plan:
    """The plan of a run's own recipe with its own rows."""
    from rlcurric.cli.plan import Options, _known

    chosen = Given(Device(0, 16 * GIB, "none"), run.path, **given)
    return make_plan(run.recipe, _known(run.recipe, Options()), chosen)


def measured_of(run: RunTables) -> Measured:
    return Measured(run.path, run.recipe, run.metrics)


@pytest.fixture(scope="module")
def plan(trained_run: RunTables) -> Plan:
    return planned(trained_run)


def test_a_real_run_takes_the_tokens_that_were_planned(trained_run: RunTables, plan: Plan) -> None:
    """Trained tokens of a supervised stage within 20 %; rollouts of the first RL stage too, and tokens as measured."""
    cold, first, _ = plan.stages
    rows = {
        name: [r for r in trained_run.metrics if r["stage"] == name] for name in ("cold", "first")
    }
    assert [one.counts.steps for one in plan.stages] == [2, 2, 2]
    assert cold.counts.trained == pytest.approx(
        sum(row["tokens/trained/sum"] for row in rows["cold"]), rel=0.2
    )
    drawn = sum(row["curriculum/samples/ended"] for row in rows["first"])
    assert first.counts.samples == pytest.approx(drawn, rel=0.35)  # two steps
    again = planned(trained_run, measured=measured_of(trained_run)).stages[1].counts
    told = sum(row["tokens/generated/sum"] for row in rows["first"])
    assert again.assumed.completion == pytest.approx(told / drawn)
    assert f"measured in stage first of {trained_run.path}" == again.assumed.completion_from


def test_a_stage_begins_without_the_memory_of_the_one_before(trained_run: RunTables) -> None:
    """The plan counts one model, not two."""
    assert LEFT.models == {"cold": 0, "first": 0, "second": 0}


def test_a_checkpoint_is_as_large_as_planned(trained_run: RunTables, plan: Plan) -> None:
    newest = sorted((trained_run.path / "checkpoints").glob("step-*"))[-1]
    tensors = 0
    for file in newest.rglob("*.safetensors"):
        with safe_open(file, "numpy") as found:
            tensors += sum(found.get_tensor(name).nbytes for name in found.keys())
    assert plan.disk.checkpoint == pytest.approx(tensors, rel=0.01)
    assert plan.disk.most == trained_run.recipe.run.checkpoints.keep_last + 1 + 3


def test_measured_seconds_add_up_to_the_run_s_own(trained_run: RunTables) -> None:
    """The same steps again take what they took."""
    measured = measured_of(trained_run)
    for one in planned(trained_run, measured=measured).stages:
        rows = [row for row in trained_run.metrics if row["stage"] == one.counts.name]
        pace = measured.pace(
            next(s for s in trained_run.recipe.stages if s.name == one.counts.name)
        )
        assert pace is not None and one.seconds is not None
        assert pace.source == f"measured in stage {one.counts.name} of {trained_run.path}"
        took = sum(row["time/step/s"] - row.get("time/evaluate/s", 0) for row in rows)
        step = PerStep(
            generated=sum(row.get("tokens/generated/sum", 0) for row in rows) / len(rows),
            trained=one.counts.per_step.trained,
        )
        if one.counts.kind == "sft":
            assert pace.of_step(step) * len(rows) == pytest.approx(took, rel=0.3)
    assert stated(50.0, trained_run.recipe.stages[1]).of_step(PerStep(generated=100)) == 2.0
    assert stated(50.0, trained_run.recipe.stages[0]).of_step(PerStep(trained=100)) == 2.0


def recipe_file(folder: Path) -> str:
    from rlcurric.recipe.load import dump

    file = folder / "tiny.json"
    file.write_text(json.dumps(dump(tiny_recipe())))
    return str(file)


def test_the_command_prints_lines_where_there_is_no_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = _run(["plan", recipe_file(tmp_path), "--memory", "4", "--throughput", "100"])
    said = capsys.readouterr().out
    assert code == 0, said
    assert "recipe tiny: qwen3 with 25,568 parameters, on the CPU with 4.0 GiB" in said
    assert "cold: kind sft, steps 2" in said and "first, rollout" in said
    assert "checkpoints: " in said and "stated: 100 tokens/s" in said
    assert "gates admit" in said and "pass rates spread evenly over 0 to 1" in said


def test_the_command_prints_json_and_refuses_what_does_not_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["plan", recipe_file(tmp_path), "--run-dir", str(tmp_path / "run"), "--json"]
    assert _run([*words, "--memory", "0.001"]) == 2
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert found["fits"] is False and found["problems"]
    assert found["stages"][0]["peak"]["bytes"] > 0.001 * GIB
    assert "this run does not fit" in said.err and "needs" in said.err
    assert "Traceback" not in said.err
    assert found["disk"]["folder"] == str(tmp_path / "run")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--gpus", "2"], "--gpus needs --memory GIB"),
        (["--gpus", "2", "--memory", "8", "--sharding", "zero4"], "unknown 'zero4'"),
        (
            ["--gpus", "1", "--memory", "8", "--sharding", "zero2"],
            "is for several GPUs, got --gpus 1",
        ),
        (["--rows", "3"], "--rows stands beside --prompt-tokens"),
        (["--measured", "nowhere"], "nowhere is no run directory"),
    ],
)
def test_mistakes_are_told_in_one_sentence(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(["plan", recipe_file(tmp_path), *words]) == 2
    assert said in capsys.readouterr().err


def test_a_model_of_the_hub_is_planned_by_its_config_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without network: what is required is said, and with it the plan is made without data."""
    config = {
        "model_type": "qwen2",
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "vocab_size": 151_936,
        "tie_word_embeddings": True,
    }
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config))
    words = ["plan", "gsm8k_grpo", "--gpus", "8", "--memory", "80", "--prompt-tokens", "150"]
    assert _run(words) == 2
    assert "--model-config FILE" in capsys.readouterr().err
    code = _run([*words, "--model-config", str(file), "--completion-tokens", "300", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert code == 0 and found["shape"]["n"] == 1_543_714_304
    assert found["stages"][0]["engine"] == "vllm"
    step = found["stages"][0]["counts"]["per_step"]
    assert step["generated"] == step["samples"] * 300


def test_without_data_what_they_would_say_is_asked_for() -> None:
    sft = tiny_recipe(stages=[{"name": "cold", "kind": "sft", "until": {"epochs": 1}}])
    with pytest.raises(ValueError, match="give --completion-tokens too"):
        assumed_rows(sft, 10, None, None)
    with pytest.raises(ValueError, match="--rows, the training rows of a distribution"):
        assumed_rows(sft, 10, 20.0, None)
    assert assumed_rows(sft, 10, 20.0, 30)["cold"].total == 60


def test_the_table_of_a_terminal_has_every_stage(plan: Plan) -> None:
    console = Console(width=220, force_terminal=True, record=True, file=open("/dev/null", "w"))
    tell(plan, console)
    said = console.export_text()
    assert "Memory of a rank" in said and "log-probs" in said and "KV cache" in said
    for name in ("cold", "first", "second"):
        assert said.count(name) >= 2


def test_known_values_are_what_the_objectives_say(trained_run: RunTables) -> None:
    from rlcurric.cli.plan import Options, _known

    known: Known = _known(load_recipe(trained_run.path / "recipe.yaml"), Options())
    assert known.rescored == {"first": False, "second": True}  # two updates a step
    assert known.reference == {"first": False, "second": False}
