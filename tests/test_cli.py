"""The command line: what it is called, what it prints, how it ends."""

from __future__ import annotations

import inspect
import json
import pydoc
import re
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.table import Table
from typer.main import get_command

import rlcurric
from rlcurric.cli import _run
from rlcurric.cli.app import app
from rlcurric.cli.console import make_console
from rlcurric.eval.export import trusts_its_code
from rlcurric.recipe.load import dump, load_recipe
from rlcurric.report.tables import read_run
from rlcurric.train import session
from rlcurric.train.models import random_model, tokenizer_of
from tests.tiny import HERE, tiny_recipe

COMMANDS = {
    "train": ["recipe", "overrides", "overlay", "run_dir", "from_"],
    "check": ["recipe", "overrides", "overlay"],
    "eval": [
        *("recipe", "overrides", "overlay", "checkpoint", "stage", "output", "rollouts"),
        *("model", "data", "columns", "answer_pattern", "drop_unanswered", "split", "config"),
        *("reward", "template", "chat", "system", "prefill", "modes", "engine", "samples"),
        *("pass_at", "temperature", "max_new_tokens", "prompts", "trust_remote_code"),
    ],
    "export": ["checkpoint", "folder", "dtype"],
    "preflight": [
        *("recipe", "overrides", "overlay", "checkpoint", "stage"),
        *("prompts", "samples", "output", "report"),
    ],
    "simulate": [
        *("recipe", "overrides", "overlay", "learner", "from_", "replay", "missing", "window"),
        *("seeds", "rows", "steps", "output"),
    ],
    "plan": [
        *("recipe", "overrides", "overlay", "run_dir", "gpus", "memory", "sharding", "measured"),
        *("throughput", "completion_tokens", "prompt_tokens", "rows", "admitted"),
        *("model_config", "as_json"),
    ],
    "report": ["run", "output", "groups", "serve", "port"],
    "compare": ["runs", "output", "against", "target", "group", "png", "csv"],
    "watch": ["run", "once"],
    "doctor": ["engine", "run_dir"],
    "launch": [
        *("command", "config", "processes", "nodes", "node_rank", "rendezvous", "stop_grace"),
        *("dry_run", "slurm", "submit", "output", "time", "partition", "account"),
        *("gpus_per_node", "cpus_per_task", "job_name", "sbatch"),
    ],
    "verify-resume": ["recipe", "overrides", "overlay", "steps", "kill_at", "work_dir"],
    "rewards": {
        "list": ["file"],
        "test": [
            *("target", "settings", "rows", "data", "columns", "answer_pattern", "drop_unanswered"),
            *("gold", "correctness", "workers", "deadline"),
        ],
    },
    "recipes": {
        "list": [],
        "show": ["recipe", "overrides", "overlay", "schema"],
        "new": ["path", "like"],
    },
}


def shape(command: object) -> object:
    """Names of parameters, or of subcommands with theirs."""
    if hasattr(command, "commands"):
        return {name: shape(one) for name, one in command.commands.items()}
    return [parameter.name for parameter in command.params if parameter.name != "help"]  # type: ignore[attr-defined]


def test_commands_and_options_are_what_users_hold_on_to() -> None:
    assert shape(get_command(app)) == COMMANDS


def test_public_names() -> None:
    assert rlcurric.__all__ == [
        "Score",
        "Status",
        "load_recipe",
        "read_run",
        "register",
        "reward",
        "train",
    ]
    for name in rlcurric.__all__:
        assert callable(getattr(rlcurric, name))
    with pytest.raises(AttributeError):
        rlcurric.absent  # noqa: B018


def test_the_public_function_describes_itself() -> None:
    """`rlcurric.train` is a package as well: help and editors see the function."""
    assert inspect.signature(rlcurric.train) == inspect.signature(session.train)
    shown = pydoc.plain(pydoc.render_doc(rlcurric.train))
    assert "rlcurric.train(recipe:" in shown and "start_from:" in shown
    assert "Train a recipe, or go on with the run in `run_dir`." in shown


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(["--version"]) == 0
    stated = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["project"]["version"]
    assert capsys.readouterr().out == f"rlcurric {stated}\n"
    assert rlcurric.__version__ == stated


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    file.write_text(yaml.safe_dump(dump(tiny_recipe())))
    return str(file)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory, recipe: str) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    assert _run(["train", recipe, "--run-dir", str(folder)]) == 0
    return folder


def test_train_ends_with_a_table_and_a_plot(
    recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(["train", recipe, "--run-dir", str(tmp_path / "run")]) == 0
    printed = capsys.readouterr().out
    assert "stage 1/3 cold (sft)" in printed and "stage 3/3 second (rl)" in printed
    assert "accuracy before RL" in printed.replace("\n", " ") or "before" in printed
    assert "two" in printed and "three" in printed and "mean" in printed
    assert (tmp_path / "run" / "summary.png").stat().st_size > 10_000


NOTHING_LEFT = (
    "nothing is left to train: stage second has done 2 of 2 steps; raise stages.second.until.steps"
)


def test_train_on_a_finished_run_says_so_again(
    recipe: str, run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (run_dir / "metrics.jsonl").read_bytes()
    assert _run(["train", recipe, "--run-dir", str(run_dir)]) == 0
    printed = capsys.readouterr().out
    assert NOTHING_LEFT in printed and "resumes" not in printed
    assert "accuracy" in printed
    assert (run_dir / "metrics.jsonl").read_bytes() == before


def test_a_fork_of_a_finished_run_says_that_nothing_is_left(
    recipe: str, run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fork = ["train", recipe, "--from", str(run_dir), "--run-dir", str(tmp_path / "fork")]
    for _ in range(2):
        assert _run(fork) == 0
        assert capsys.readouterr().out.strip() == NOTHING_LEFT


def test_a_run_without_rl_ends_with_a_plot_too(recipe: str, tmp_path: Path) -> None:
    raw = yaml.safe_load(Path(recipe).read_text())
    file = tmp_path / "cold.yaml"
    file.write_text(yaml.safe_dump({**raw, "stages": raw["stages"][:1]}))
    assert _run(["train", str(file), "--run-dir", str(tmp_path / "run")]) == 0
    assert (tmp_path / "run" / "summary.png").is_file()


def test_a_finished_run_goes_on_with_more_steps(recipe: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert _run(["train", recipe, "--run-dir", str(folder)]) == 0
    assert _run(["train", recipe, "stages.second.until.steps=3", "--run-dir", str(folder)]) == 0
    run = rlcurric.read_run(folder)
    assert [row["step"] for row in run.metrics] == list(range(1, 8))
    assert run.recipe.stages[-1].until.steps == 3


def test_check_reports_the_data_and_grades_the_golds(
    recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(["check", recipe]) == 0
    printed = capsys.readouterr().out
    assert "3 stages, 6 steps" in printed
    assert "Gold answers score 1, empty and garbage completions 0" in printed


def test_check_names_rows_whose_gold_is_not_right(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tmp_path / "rows.jsonl"
    row: dict[str, object] = {"question": "1+1=", "answer": "2", "demonstration": "2"}
    entry = {"question": "1+2=", "answer": "3", "metadata": {}}
    bad: dict[str, object] = {"question": "1+2=", "answer": "4", "demonstration": "3"}
    bad["reasoning_gym"] = {
        "task": "chain_sum",
        "entry": entry,
    }  # the task does not agree with the row
    rows.write_text(json.dumps(row) + "\n" + json.dumps(bad) + "\n")
    source = {"name": "file", "path": str(rows)}
    changed = tiny_recipe(distributions={"two": {"source": source}, "three": {"source": source}})
    file = tmp_path / "r.yaml"
    file.write_text(yaml.safe_dump(dump(changed)))
    assert _run(["check", str(file)]) == 2
    error = capsys.readouterr().err
    assert "rows.jsonl, line 2" in error and "gold completion scores 0.0" in error


GSM8K = (
    "distributions.gsm8k.source={name: file, path: '${RLCURRIC_DATA}/gsm8k/train.jsonl', "
    "held_out_path: '${RLCURRIC_DATA}/gsm8k/test.jsonl', answer_pattern: '####\\s*(.+?)\\s*$'}"
)


@pytest.mark.slow
def test_check_on_gsm8k_grades_every_gold_answer(
    data_dir: Path, run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """7,473 + 1,319 golds, empty and garbage completions, through the recipe a GPU user starts from."""
    tokenizer = tiny_recipe().model.tokenizer
    assert tokenizer is not None
    demo = load_recipe("demo").model
    file = tmp_path / "gsm8k.yaml"
    raw = dump(load_recipe("gsm8k_grpo", [GSM8K, "prompt.chat=false"]))
    raw["model"] = demo.model_dump(mode="json")
    file.write_text(yaml.safe_dump(raw))
    assert _run(["check", str(file)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("8792/8792") == 3


def test_the_gsm8k_recipe_trains_any_model(data_dir: Path, tmp_path: Path) -> None:
    """Two steps on real problems with a model that nothing was taught: groups without signal train too."""
    demo = load_recipe("demo")
    random_model(demo).save_pretrained(tmp_path / "model")
    tokenizer_of(demo).save_pretrained(tmp_path / "model")
    overrides = [
        f"model={tmp_path / 'model'}",
        GSM8K,
        "prompt.chat=false",
        "rollout.max_new_tokens=24",
        "curriculum.prompts_per_step=3",
        "curriculum.refill_rounds=0",
        "curriculum.refill_fallback=train_gated",
        "evaluation.prompts=4",
        "until.steps=2",
    ]
    run_dir = tmp_path / "run"
    assert _run(["train", "gsm8k_grpo", "--run-dir", str(run_dir), *overrides]) == 0
    rows = read_run(run_dir).metrics
    assert [row["policy_version"] for row in rows] == [0, 1]
    for row in rows:
        assert row["batch/rollouts/sum"] == 24
        assert row["parity/logprob/max_abs"] <= 1e-4
        assert row["parity/tokens/sum"] == row["tokens/generated/sum"]


def test_eval_on_a_run_and_on_a_checkpoint(
    recipe: str, run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "metrics.json"
    assert _run(["eval", recipe, "--checkpoint", str(run_dir), "--output", str(output)]) == 0
    evaluated = json.loads(output.read_text())
    final = rlcurric.read_run(run_dir).metrics[-1]
    assert {key: final[key] for key in evaluated} == evaluated
    by_folder, by_step = tmp_path / "folder.json", tmp_path / "step.json"
    checkpoint = str(run_dir / "checkpoints" / "step-000002")
    for named, file in ((checkpoint, by_folder), (f"{run_dir}:2", by_step)):
        asked = ["eval", recipe, "--checkpoint", named, "--stage", "cold", "--output", str(file)]
        assert _run(asked) == 0
    assert by_folder.read_text() == by_step.read_text()
    assert _run(["eval", recipe, "--checkpoint", str(tmp_path)]) == 2
    assert _run(["eval", recipe, "--stage", "clod"]) == 2
    assert "Known: cold, first, second" in capsys.readouterr().err


def test_export_writes_a_folder_that_transformers_loads(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    newest, step, half = tmp_path / "newest", tmp_path / "new" / "step", tmp_path / "half"
    assert _run(["export", str(run_dir), str(newest)]) == 0
    assert _run(["export", f"{run_dir}:4", str(step)]) == 0
    assert _run(["export", str(run_dir), str(half), "--dtype", "bfloat16"]) == 0
    assert "parameters of" in capsys.readouterr().out
    kept = run_dir / "checkpoints"
    ids = torch.tensor([[5, 6, 7]])
    for folder, source in ((newest, kept / "step-000006"), (step, kept / "step-000004")):
        ours = AutoModelForCausalLM.from_pretrained(folder)
        theirs = AutoModelForCausalLM.from_pretrained(source / "model")
        assert ours.dtype == torch.float32
        assert torch.equal(ours(input_ids=ids).logits, theirs(input_ids=ids).logits)
        assert AutoTokenizer.from_pretrained(folder).decode(
            [5, 6]
        ) == AutoTokenizer.from_pretrained(source / "model").decode([5, 6])
        assert (folder / "generation_config.json").is_file()
    rounded = AutoModelForCausalLM.from_pretrained(half)
    assert rounded.dtype == torch.bfloat16
    whole = dict(AutoModelForCausalLM.from_pretrained(newest).named_parameters())
    assert all(torch.equal(p, whole[name].bfloat16()) for name, p in rounded.named_parameters())
    for arguments, told in (
        ([str(run_dir), str(newest)], "exists already, and nothing is overwritten"),
        ([f"{run_dir}:77", str(tmp_path / "x")], "has no checkpoint of step 77"),
        ([str(tmp_path), str(tmp_path / "x")], "is no run with a checkpoint"),
        ([str(run_dir), str(tmp_path / "x"), "--dtype", "int8"], "must be float32 or bfloat16"),
        ([str(run_dir), str(newest / "config.json" / "x")], "cannot be made"),
    ):
        assert _run(["export", *arguments]) == 2
        assert told in capsys.readouterr().err
    assert not (tmp_path / "x").exists() and not list(tmp_path.glob("*.tmp"))


def test_export_runs_the_code_of_a_model_only_where_the_recipe_trusts_it(
    run_dir: Path, tmp_path: Path
) -> None:
    for trusted in (False, True):
        run = tmp_path / f"trusted-{trusted}"
        shutil.copytree(run_dir, run)
        model = run / "checkpoints" / "step-000006" / "model"
        config = json.loads((model / "config.json").read_text())
        config["auto_map"] = {"AutoModelForCausalLM": "own_model.OwnForCausalLM"}
        (model / "config.json").write_text(json.dumps(config))
        (model / "own_model.py").write_text(
            "from transformers import Qwen3ForCausalLM\n\n\nclass OwnForCausalLM(Qwen3ForCausalLM):\n    pass\n"
        )
        recipe = yaml.safe_load((run / "recipe.yaml").read_text())
        recipe["model"]["trust_remote_code"] = trusted
        (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        folder = tmp_path / f"exported-{trusted}"
        assert _run(["export", str(model), str(folder)]) == 0
        assert (folder / "own_model.py").exists() == trusted
    assert not trusts_its_code(Path("/model"))  # no run has it, nor is there room for one


def test_doctor_runs_an_engine(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(["doctor", "--engine", "torch"]) == 0
    printed = capsys.readouterr().out
    assert "parity of log-probs: max" in printed and "all good" in printed
    assert len(re.findall("^vllm", printed, re.MULTILINE)) == 1


@pytest.mark.slow
def test_verify_resume(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(["verify-resume", recipe, "--steps", "4", "--kill-at", "3"]) == 0
    assert "Equal bit for bit over 4 steps" in capsys.readouterr().out
    assert _run(["verify-resume", recipe, "--steps", "4", "--kill-at", "4"]) == 2
    assert _run(["verify-resume", recipe, "rewards=[{name: verifyer}]"]) == 2
    error = capsys.readouterr().err
    assert "verifyer" in error and "Traceback" not in error


def test_listings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(["rewards", "list"]) == 0
    printed = capsys.readouterr().out
    assert "verifier" in printed and "length_budget" in printed and "worker" in printed
    assert _run(["recipes", "list"]) == 0
    assert "gsm8k_grpo" in capsys.readouterr().out
    assert _run(["recipes", "show", "gsm8k_grpo", "seed=5"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["seed"] == 5
    new = tmp_path / "mine.yaml"
    assert _run(["recipes", "new", str(new)]) == 0
    assert load_recipe(new).name == "mine"
    assert (tmp_path / "recipe.schema.json").is_file()
    assert _run(["recipes", "new", str(new)]) == 2
    assert _run(["recipes", "show"]) == 2


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["recipes", "--help"]])
def test_help(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(arguments) == 0
    assert "Usage: rlcurric" in capsys.readouterr().out


def test_an_interruption_exits_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("rlcurric.cli.check.run_check", interrupted)
    assert _run(["check", "demo"]) == 1
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize("arguments", [["trian"], ["train"], ["train", "demo", "--absent"]])
def test_wrong_usage_exits_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(arguments) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_what_is_printed_is_text_and_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    console = make_console()
    table = Table(title="[/b]")
    table.add_column("[/x]")
    table.add_row("[red]")
    console.print(table)
    console.print("runs/[/] :fire:")
    printed = capsys.readouterr().out
    for text in ("[/b]", "[/x]", "[red]", "runs/[/] :fire:"):
        assert text in printed
