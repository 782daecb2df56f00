"""Columns that are trained on: demonstrations, chat turns, preferences and hints, from every kind of file."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from rlcurric.data import (
    DistributionSpec,
    PromptTemplate,
    Renderer,
    character_tokenizer,
    load_distributions,
    make_source,
    preference_examples,
    sft_examples,
)

ASKED = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "1+1"}]
TURNS = [*ASKED, {"role": "assistant", "content": "2"}]
COLUMNS = {"question": "problem", "answer": "gold", "demonstration": "steps"}
CHAT = "{% for m in messages %}{{ m.role[0] }}:{{ m.content }};{% endfor %}{% if add_generation_prompt %}a:{% endif %}"


def write(file: Path, rows: list[dict[str, Any]]) -> Path:
    if file.suffix == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif file.suffix == ".csv":
        with file.open("w", newline="") as lines:
            writer = csv.DictWriter(lines, list(rows[0]))
            writer.writeheader()
            for row in rows:
                texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in row.items()}
                writer.writerow(texts)
    else:
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    return file


def load(rows: Any, name: str = "x", **args: Any) -> Any:
    """One distribution, from a file or from rows as they are."""
    made = (
        make_source("file", {"path": str(rows), **args}) if isinstance(rows, Path) else _Rows(rows)
    )
    return load_distributions([DistributionSpec(name, made)])[name]


class _Rows:
    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self._rows = rows

    def rows(self) -> Any:
        from rlcurric.data import Located, Place

        return iter([Located(row, Place("row", k)) for k, row in enumerate(self._rows)])

    def held_out_rows(self) -> None:
        return None


def renderer(chat: bool = True, **template: Any) -> Renderer:
    tokenizer = character_tokenizer("0123456789+= :;abcdefghijklmnopqrstuvwxyz")
    tokenizer.chat_template = CHAT
    return Renderer(PromptTemplate(chat=chat, **template), tokenizer)


def text(made: Renderer, ids: tuple[int, ...]) -> str:
    decoded = made.tokenizer.decode(ids)
    assert isinstance(decoded, str)
    return decoded


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".parquet"])
def test_every_file_gives_the_same_columns(tmp_path: Path, ending: str) -> None:
    """Lists stand in a csv as JSON text; a mapping names the columns of the file."""
    row = {
        "problem": "1+1=",
        "gold": "2",
        "steps": "one and one",
        "hints": ["add", "it is 2"],
        "messages": TURNS,
        "chosen": TURNS,
        "rejected": [*ASKED, {"role": "assistant", "content": "3"}],
    }
    (found,) = load(write(tmp_path / f"rows{ending}", [row]), columns=COLUMNS).train
    assert found.columns["question"] == "1+1="
    assert found.columns["answer"] == "2"
    assert found.columns["demonstration"] == "one and one"
    for name in ("hints", "messages", "chosen", "rejected"):
        assert list(found.columns[name]) == row[name], name


def test_chat_turns_are_trained_after_those_before_them() -> None:
    made = renderer()
    rows = load([{"messages": TURNS}])
    (example,) = sft_examples({"x": rows.train}, made, 128)
    assert text(made, example.prompt_ids) == "s:be brief;u:1+1;a:"
    assert text(made, example.completion_ids[:-1]) == "2"
    assert example.completion_ids[-1] == made.tokenizer.eos_token_id
    (row,) = rows.train
    assert row.columns["question"] == "1+1"
    assert "answer" not in row.columns
    own = renderer(system="add")
    (with_system,) = sft_examples({"x": load([{"messages": TURNS[1:]}]).train}, own, 128)
    assert text(own, with_system.prompt_ids) == "s:add;u:1+1;a:"
    with pytest.raises(ValueError, match=r"row 0: chat messages need .* set prompt.chat: true"):
        list(sft_examples({"x": rows.train}, renderer(chat=False), 128))


def test_preferences_as_text_and_as_turns() -> None:
    wrong = [*ASKED, {"role": "assistant", "content": "3"}]
    made = renderer()
    (pair,) = preference_examples(
        {"x": load([{"chosen": TURNS, "rejected": wrong}]).train}, made, 128
    )
    assert text(made, pair.prompt_ids) == "s:be brief;u:1+1;a:"
    assert [text(made, ids[:-1]) for ids in (pair.chosen_ids, pair.rejected_ids)] == ["2", "3"]
    plain = renderer(chat=False, template="{question}=", prefill="so ")
    row = {"question": "1+1", "chosen": "so 2", "rejected": "3"}
    (pair,) = preference_examples({"x": load([row]).train}, plain, 128)
    assert text(plain, pair.prompt_ids) == "1+1=so "
    assert [text(plain, ids[:-1]) for ids in (pair.chosen_ids, pair.rejected_ids)] == ["2", "3"]
    other = [{"role": "user", "content": "2+2"}, TURNS[-1]]
    with pytest.raises(ValueError, match="must be the same up to the last one"):
        list(
            preference_examples(
                {"x": load([{"chosen": TURNS, "rejected": other}]).train}, made, 128
            )
        )
    with pytest.raises(
        ValueError, match="no column 'rejected', which preference optimization needs"
    ):
        list(preference_examples({"x": load([{**row, "rejected": None}]).train}, plain, 128))


def test_pairs_of_one_question_are_rows_of_their_own() -> None:
    row = {"question": "1+1", "answer": "2", "chosen": "2"}
    rows = load([{**row, "rejected": "3"}, {**row, "rejected": "4"}, {**row, "rejected": "4"}])
    assert [one.columns["rejected"] for one in rows.train] == ["3", "4"]
    assert rows.counts.duplicates == 1
    assert rows.conflict is None


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"messages": ASKED}, "the last message of the column 'messages' must be the assistant's"),
        ({"messages": "one"}, "the column 'messages' must be a list, written as JSON"),
        (
            {"messages": [{"role": "bot", "content": "x"}]},
            "with roles system, user, assistant, tool",
        ),
        ({"question": "q", "chosen": 3, "rejected": "b"}, "'chosen' must be text or chat messages"),
        ({"question": "q", "answer": "a", "hints": "add"}, "the column 'hints' must be a list"),
    ],
)
def test_columns_that_are_not_what_they_should_be(row: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError) as caught:
        load([row])
    assert expected in str(caught.value)
    assert "distribution 'x', row 0" in str(caught.value)


def test_a_missing_column_of_a_csv_shows_how_to_name_it(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.csv", [{"id": "7", "problem": "1+1", "solution": "2"}])
    with pytest.raises(
        ValueError,
        match=r"rows.csv, line 2: no column 'question'.*`columns: \{question: problem\}`",
    ):
        load(file)
    with pytest.raises(ValueError, match=r"no column 'answer'.*`columns: \{answer: solution\}`"):
        load(file, columns={"question": "problem"})


def test_different_answers_to_one_question_are_told() -> None:
    rows = [("1+1", "2"), ("2+2", "4"), ("2+2", "5"), ("1+1", "2")]
    found = load([{"question": question, "answer": answer} for question, answer in rows])
    assert found.conflict is not None
    assert found.conflict.startswith(
        "distribution 'x': 1 questions stand in it with different answers, the first in row 1 ('4') and row 2 ('5')"
    )
