"""What recipes' own data sources make of rows: forms of answers, variants, hints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlcurric.build import RunData
from rlcurric.data import make_source
from rlcurric.recipe.schema import Recipe
from rlcurric.train.models import tokenizer_of
from tests.tiny import tiny_recipe

RECIPES = Path(__file__).parent.parent / "recipes"


def rows(part: str, folder: Path, **arguments: Any) -> list[dict[str, Any]]:
    source = make_source(part, {"path": str(folder), **arguments}, RECIPES)
    return [row.columns for row in source.rows()]


def dataset(folder: Path, *columns: dict[str, Any]) -> Path:
    """A data set as the hub's library reads it from a folder."""
    folder.mkdir()
    text = "".join(json.dumps(row) + "\n" for row in columns)
    (folder / "train.jsonl").write_text(text, encoding="utf-8")
    return folder


def test_one_problem_in_three_forms(tmp_path: Path) -> None:
    problems = [{"question": f"{n} + {n}?", "answer": f"so #### {2 * n}"} for n in range(500, 540)]
    folder = dataset(tmp_path / "sums", *problems, {"question": "1/2?", "answer": "so #### 1/2"})
    pattern = {"answer_pattern": "#### (.*)"}
    made = {
        form: rows("answer_formats.py:AnswerFormats", folder, form=form, **pattern)
        for form in ("judge", "choice", "open")
    }
    assert [len(found) for found in made.values()] == [40, 40, 40]  # fractions are left out
    for judged, choice, asked in zip(*made.values(), strict=True):
        gold = asked["answer"]
        assert asked["question"] == f"{int(gold) // 2} + {int(gold) // 2}?"
        assert (f"is {gold}. Is that right?" in judged["question"]) is (judged["answer"] == "yes")
        assert choice["choices"]["ABCD".index(choice["answer"])] == gold
        assert len(set(choice["choices"])) == 4
        assert f"\n{choice['answer']}. {gold}\n" in choice["question"]
    assert {row["answer"] for row in made["judge"]} == {"yes", "no"}
    assert {row["answer"] for row in made["choice"]} == set("ABCD")
    with pytest.raises(ValueError, match="judge, choice or open"):
        rows("answer_formats.py:AnswerFormats", folder, form="closed")


def test_hints_are_the_first_parts_of_a_solution(tmp_path: Path) -> None:
    solution = "First, add. Then double! Is it even?\nYes. So 8."
    folder = dataset(tmp_path / "worked", {"question": "q", "answer": "8", "solution": solution})
    (row,) = rows("hinted.py:Hinted", folder, levels=3)
    assert row["hints"] == [
        "First, add. Then double!",
        "First, add. Then double! Is it even? Yes.",
        "First, add. Then double! Is it even? Yes. So 8.",
    ]


def test_templates_become_seeds_with_variants() -> None:
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location("gsm_symbolic", RECIPES / "gsm_symbolic.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    found = [
        module.walked(config, {"original_id": 7, "instance": instance})
        for config in ("main", "p1")
        for instance in (4, 5)
    ]
    assert [one["variant"] for one in found] == ["base", "x", "z", "xz"]
    assert {(one["seed"], one["principle"]) for one in found} == {("7-2", "template-7")}


def test_rows_that_do_not_fit_are_left_out_where_that_is_asked_for(tmp_path: Path) -> None:
    """Of an SFT stage by what is imitated, of an RL stage by the room for a completion of 12 tokens, and by both where it
    trains on demonstrations.
    """
    file = tmp_path / "sums.jsonl"
    sums = [
        {"question": "+".join("1" * k) + "=", "answer": str(k), "demonstration": "1+1" * k}
        for k in range(2, 22)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in sums), encoding="utf-8")
    source = (
        f"distributions.two={{source: {{name: file, path: {file}}}}}",
        "mixture=[two]",
    )
    recipe = tiny_recipe(*source, "distributions.two.overlong=drop")
    tokenizer = tokenizer_of(recipe)
    cold, first, _ = recipe.stages
    for stage, demonstrated in ((cold, True), (first, False), (first, True)):

        def read(context: int, recipe: Recipe = recipe, imitates: bool = demonstrated) -> RunData:
            return RunData(recipe, tokenizer, context, lambda _: imitates)

        whole = read(128)
        prompts = list(whole.pool(stage))
        lengths = [len(one.prompt_ids) + 12 for one in prompts]
        if demonstrated:
            imitated = [len(one["input_ids"]) for one in whole.sft_examples(stage)]
            lengths = [max(pair) for pair in zip(lengths, imitated, strict=True)]
        context = sorted(lengths)[len(lengths) // 2]
        data = read(context)
        kept = [one.uid for one, n in zip(prompts, lengths, strict=True) if n <= context]
        assert 0 < len(kept) < len(prompts)
        assert [one.uid for one in data.pool(stage)] == kept
        data.check_prompts(stage, {})
        assert whole.doubts(stage) == []
        (told,) = data.doubts(stage)
        assert f"{len(prompts) - len(kept)} of {len(prompts)} rows" in told
        with pytest.raises(ValueError, match="overlong: drop"):
            read(context, tiny_recipe(*source)).check_prompts(stage, {})
        with pytest.raises(ValueError, match=r"none of its .* rows fits the context of 5 tokens"):
            read(5).pool(stage)


def test_held_out_rows_that_do_not_fit_stay_a_mistake(tmp_path: Path) -> None:
    """An evaluation set is not made shorter, whatever becomes of the training rows of its distribution."""
    file = tmp_path / "sums.jsonl"
    text = "".join(
        json.dumps({"question": "+".join("1" * k) + "=", "answer": str(k)}) + "\n"
        for k in range(2, 22)
    )
    file.write_text(text, encoding="utf-8")
    recipe = tiny_recipe(
        f"distributions.two={{source: {{name: file, path: {file}}}, overlong: drop, held_out: 0.5}}",
        "stages.first.mixture=[two]",
        "evaluation.prompts=20",
    )
    data, first = RunData(recipe, tokenizer_of(recipe), 12 + 20), recipe.stages[1]
    assert 0 < data.pool(first).sizes["two"] < 10
    with pytest.raises(ValueError, match="leaves out such training rows"):
        data.held_out(first)
