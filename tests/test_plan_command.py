"""`rlcurric plan` as a command, and against a real run."""

from __future__ import annotations

import gc
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors import safe_open

import rlcurric
from rlcurric.assets import folder
from rlcurric.cli import _run
from rlcurric.cli.plan import Options, known_of
from rlcurric.plan.counts import PerStep
from rlcurric.plan.measured import Measured, stated
from rlcurric.plan.phases import Device
from rlcurric.plan.plan import Given, Known, Plan, make_plan
from rlcurric.plan.rows import assumed_rows
from rlcurric.plan.tell import tell
from rlcurric.recipe.load import load_recipe
from rlcurric.report.tables import RunTables
from rlcurric.train.reporter import Silent
from tests.tiny import tiny_recipe

GIB = 2**30


class Left(Silent):
    """Counts the models that are alive when a stage begins."""

    def __init__(self) -> None:
        self.models: dict[str, int] = {}

    def stage(self, name: str, *_: Any) -> None:
        modules = (one for one in gc.get_objects() if issubclass(type(one), torch.nn.Module))
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
    chosen = Given(Device(0, 16 * GIB, "none"), run.path, **given)
    return make_plan(run.recipe, known_of(run.recipe, Options()), chosen)


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


@pytest.mark.parametrize(
    ("due", "evaluations", "copies"), [(1, 0, True), (9, 1, True), (9, 2, False)]
)
def test_the_best_checkpoint_so_far_is_copied_like_a_due_one(
    due: int, evaluations: int, copies: bool
) -> None:
    """Host memory of the second of two steps: weights and moments once more where something was saved before."""
    recipe = tiny_recipe(
        f"run.checkpoints.every={due}",
        "stages.first.best={metric: eval/accuracy/mean}",
        f"stages.first.evaluation.every={evaluations}",
    )
    given = Given(Device(0, 16 * GIB, "none"), Path("runs/tiny"))
    stage = make_plan(recipe, known_of(recipe, Options()), given).stages[1]
    (rollout,) = (one for one in stage.phases if one.name == "rollout")
    assert rollout.other == (3 * rollout.weights if copies else 0)


def test_measured_seconds_add_up_to_the_run_s_own(trained_run: RunTables) -> None:
    """As many tokens again take the seconds that they took, evaluations left out."""
    measured = measured_of(trained_run)
    for stage in trained_run.recipe.stages:
        rows = [row for row in trained_run.metrics if row["stage"] == stage.name]
        pace = measured.pace(stage)
        assert pace is not None
        assert pace.source == f"measured in stage {stage.name} of {trained_run.path}"
        generated = sum(row.get("tokens/generated/sum", 0) for row in rows)
        trained = sum(
            row.get("tokens/trained/sum", 0)
            + row.get("batch/rollouts/sum", 0) * row.get("length/completion/mean", 0)
            for row in rows
        )
        step = PerStep(generated=generated / len(rows), trained=trained / len(rows))
        took = sum(row["time/step/s"] - row.get("time/evaluate/s", 0) for row in rows)
        assert pace.of_step(step) * len(rows) == pytest.approx(took)
        assert pace.of_ranks(4, step) == 4 * pace.of_step(step)
    cold, first, _ = trained_run.recipe.stages
    assert stated(50.0, first).of_step(PerStep(generated=100, trained=7)) == 2.0
    assert stated(50.0, cold).of_step(PerStep(trained=100)) == 2.0


def recipe_file(folder: Path) -> str:
    from rlcurric.recipe.load import dump

    file = folder / "tiny.json"
    file.write_text(json.dumps(dump(tiny_recipe())))
    return str(file)


def test_the_command_prints_lines_where_there_is_no_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gate = "curriculum.gate={name: zero_variance}"  # of groups of 4
    code = _run(["plan", recipe_file(tmp_path), gate, "--memory", "4", "--throughput", "100"])
    said = capsys.readouterr().out
    assert code == 0, said
    assert "recipe tiny: qwen3 with 25,568 parameters, on the CPU with 4.0 GiB" in said
    assert "cold: kind sft, steps 2" in said and "first, rollout" in said
    assert "checkpoints: " in said and "stated: 100 tokens/s" in said
    assert "gates admit 60% of the groups: pass rates spread evenly over 0 to 1" in said


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
        (["--run-dir", __file__], "--run-dir: a folder, or a path for a new one, is required"),
        (["--memory", "inf"], "--memory: a finite number is required, got inf"),
        (["--throughput", "inf"], "--throughput: a finite number is required, got inf"),
        (["--completion-tokens", "inf"], "--completion-tokens: a finite number is required"),
    ],
)
def test_mistakes_are_told_in_one_sentence(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(["plan", recipe_file(tmp_path), *words]) == 2
    assert said in capsys.readouterr().err


def test_measured_steps_of_other_stages_are_no_steps(
    trained_run: RunTables, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Path(shutil.copytree(trained_run.path, tmp_path / "other"))
    rows = [json.loads(line) for line in (other / "metrics.jsonl").read_text().splitlines()]
    named = [{**row, "stage": "elsewhere"} for row in rows]
    (other / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in named))
    assert _run(["plan", recipe_file(tmp_path), "--measured", str(other)]) == 2
    assert (
        "has no step yet of a stage of its recipe (cold, first, second)" in capsys.readouterr().err
    )


@pytest.fixture(scope="module")
def config_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of Qwen2.5-1.5B."""
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
    file = tmp_path_factory.mktemp("model") / "config.json"
    file.write_text(json.dumps(config))
    return file


def test_a_model_of_the_hub_is_planned_by_its_config_alone(
    config_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without network: what is required is said, and with it the plan is made without data."""
    words = ["plan", "gsm8k_grpo", "--gpus", "8", "--memory", "80", "--prompt-tokens", "150"]
    assert _run(words) == 2
    assert "--model-config FILE" in capsys.readouterr().err
    code = _run(
        [*words, "--model-config", str(config_file), "--completion-tokens", "300", "--json"]
    )
    found = json.loads(capsys.readouterr().out)
    assert code == 0 and found["shape"]["n"] == 1_543_714_304
    assert found["stages"][0]["engine"] == "vllm"
    step = found["stages"][0]["counts"]["per_step"]
    assert step["generated"] == step["samples"] * 300


def test_every_shipped_recipe_has_a_plan(config_file: Path) -> None:
    """Without network: neither a model nor data."""
    options = Options(prompt_tokens=150, completion_tokens=300, rows=1000, model_config=config_file)
    given = Given(Device(8, 80 * GIB, "fsdp2"), config_file.parent / "run", completion=300.0)
    names = sorted(path.stem for path in folder("recipes").glob("*.yaml"))
    assert "demo" in names
    for name in names:
        recipe = load_recipe(name)
        found = make_plan(recipe, known_of(recipe, options), given)
        assert [one.counts.name for one in found.stages] == [one.name for one in recipe.stages]
        for one in found.stages:
            assert one.counts.generated + one.counts.trained > 0, (name, one.counts)
            assert one.peak.total > one.peak.weights > 0, (name, one.counts.name)


def test_without_data_what_they_would_say_is_asked_for() -> None:
    sft = tiny_recipe(stages=[{"name": "cold", "kind": "sft", "until": {"epochs": 1}}])
    with pytest.raises(ValueError, match="give --completion-tokens too"):
        assumed_rows(sft, 10, None, None)
    with pytest.raises(ValueError, match="--rows, the training rows of a distribution"):
        assumed_rows(sft, 10, 20.0, None)
    assert assumed_rows(sft, 10, 20.0, 30)["cold"].total == 60


def test_the_table_of_a_terminal_has_every_stage(plan: Plan) -> None:
    console = Console(width=220, force_terminal=True, record=True, file=io.StringIO())
    tell(plan, console)
    said = console.export_text()
    assert "Memory of a rank" in said and "log-probs" in said and "KV cache" in said
    for name in ("cold", "first", "second"):
        assert said.count(name) >= 2


def test_known_values_are_what_the_objectives_say(trained_run: RunTables) -> None:
    known: Known = known_of(load_recipe(trained_run.path / "recipe.yaml"), Options())
    assert known.rescored == {"first": False, "second": True}  # two updates a step
    assert known.reference == {"first": False, "second": False}
