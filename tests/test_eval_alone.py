"""`rlcurric eval` of a saved model on a file, without a recipe: with both engines, and what it says of mistakes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from rlcurric.cli import _run
from rlcurric.cli.evaluate_alone import Options, in_options, recipe_of
from rlcurric.train.models import random_model, tokenizer_of
from tests.tiny import tiny_recipe

DATA = os.environ.get("RLCURRIC_DATA", "")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that was never trained, with a token for every sign of the problem sets."""
    folder = tmp_path_factory.mktemp("model")
    signs = "".join(map(chr, range(32, 127))) + "\n"
    recipe = tiny_recipe(
        f"model.tokenizer.characters={json.dumps(signs)}",
        "model.tokenizer.tags=['<think>','</think>','<no_think>','<answer>','</answer>']",
        "model.architecture.max_position_embeddings=2048",
    )
    random_model(recipe).save_pretrained(folder)
    tokenizer_of(recipe).save_pretrained(folder)
    return folder


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    file = tmp_path / "sums.jsonl"
    sums = [
        {"problem": f"{a}+{b}=", "solution": f"so #### {a + b}"} for a in range(3) for b in (1, 2)
    ]
    file.write_text("".join(json.dumps(one) + "\n" for one in sums))
    return file


def test_a_model_on_a_file(model: Path, rows: Path, tmp_path: Path) -> None:
    output, completions = tmp_path / "metrics.json", tmp_path / "completions.jsonl"
    asked = ["eval", "--model", str(model), "--data", str(rows), "--engine", "torch"]
    asked += ["--columns", "question=problem,answer=solution", "--answer-pattern", "#### (.*)"]
    asked += ["--template", "Q{question}", "--samples", "2", "--max-new-tokens", "5"]
    asked += ["--modes", "think=<think>,no_think=<no_think>", "--pass-at", "2"]
    assert _run([*asked, "--output", str(output), "--rollouts", str(completions)]) == 0
    metrics = json.loads(output.read_text())
    lines = [json.loads(line) for line in completions.read_text().splitlines()]
    assert len(lines) == 6 * (1 + 2 + 2 * 2)
    assert {line["prompt"]: line["answer"] for line in lines}["Q2+1="] == "3"
    greedy = [line for line in lines if line["sample"] is None]
    assert metrics["eval/accuracy/sums"] == sum(one["correct"] for one in greedy) / 6
    assert metrics["eval/length/mean"] == sum(one["length"] for one in greedy) / 6
    assert {"eval/pass_at_2/sums", "eval/hybrid_accuracy/sums"} <= set(metrics)
    forced = [line for line in lines if line["forced_mode"] == "no_think"]
    assert len(forced) == 12
    assert all(one["completion"].startswith("<no_think>") and one["length"] <= 5 for one in forced)


@pytest.mark.slow
@pytest.mark.skipif(not DATA, reason="RLCURRIC_DATA is not set")
def test_vllm_and_torch_agree_on_a_real_problem_set(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("vllm")
    found = {}
    for engine in ("torch", "vllm"):
        file = tmp_path / f"{engine}.jsonl"
        asked = ["eval", "--model", str(model), "--data", f"{DATA}/gsm8k/test.jsonl"]
        asked += ["--answer-pattern", "#### (.*)", "--prompts", "6", "--max-new-tokens", "16"]
        asked += ["--samples", "4", "--engine", engine, "--rollouts", str(file)]
        assert _run([*asked, "--output", str(tmp_path / f"{engine}.json")]) == 0
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        found[engine] = [
            (one["prompt"], one["completion"]) for one in lines if one["sample"] is None
        ]
        assert len(lines) == 6 * 5
        assert {"eval/pass_at_4/test"} <= set(json.loads((tmp_path / f"{engine}.json").read_text()))
    assert found["torch"] == found["vllm"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"pass_at": "1,8"}, "--pass-at 8 needs --samples 8"),
        ({"pass_at": "1,8", "samples": 4}, "--pass-at 8 needs --samples 8, got 4"),
        ({"pass_at": "few"}, "--pass-at is written 1,4,16, got 'few'"),
        ({"modes": "a=b,c=d"}, "--modes needs --samples N"),
        ({"split": "test"}, "--split is for a data set of the hub"),
        ({"columns": "question"}, "--columns is written OURS=THEIRS,..."),
        ({"engine": "fast"}, "--engine: Input should be"),
        ({"temperature": 0.0}, "--temperature: Input should be greater than 0"),
        ({"modes": "a=b,c=d", "prefill": "x", "samples": 1}, "--modes and --prefill exclude"),
        ({"reward": "verifer"}, "Did you mean 'verifier'?"),
        ({"model": None}, "eval needs a RECIPE, or --model and --data; --model is missing"),
    ],
)
def test_mistakes_are_told_in_options(options: dict[str, object], said: str) -> None:
    given = {"model": "owner/name", "data": "rows.jsonl", **options}
    with pytest.raises(ValueError, match=r".") as error:
        recipe_of(Options(**given), None, [])  # type: ignore[arg-type]
    message = in_options(str(error.value))
    assert said in message
    assert "stages." not in message and "recipe:" not in message


def test_a_missing_column_names_the_option(
    model: Path, rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(["eval", "--model", str(model), "--data", str(rows)]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "no column 'question'" in said
    assert "Name the right one with --columns question=problem" in said
    assert _run(["eval", "tiny", "--model", str(model)]) == 2
    assert "--model is for an evaluation without a recipe" in capsys.readouterr().err
