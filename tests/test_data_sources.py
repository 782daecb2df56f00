"""Sources: files, hub, reasoning-gym, Python builders; and what they say about bad input."""

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rlcurric.data import (
    DistributionSpec,
    Located,
    Source,
    Split,
    as_source,
    load_distributions,
    make_source,
    reasoning_gym_rows,
)
from rlcurric.data.files import expand_path


def write_jsonl(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def rows_of(name: str, args: dict, base_dir: Path | str = ".") -> list[dict]:
    return [row.columns for row in make_source(name, args, base_dir).rows()]


def held_out_of(source: Source) -> Iterator[Located]:
    rows = source.held_out_rows()
    assert rows is not None
    return rows


def message(name: str, args: dict, base_dir: Path | str = ".") -> str:
    with pytest.raises(ValueError) as caught:
        rows_of(name, args, base_dir)
    return str(caught.value)


TWO = [{"question": "1+1", "answer": "2"}, {"question": "2½ · 2", "answer": "5"}]


def write_as(ending: str, folder: Path, rows: list[dict]) -> Path:
    path = folder / f"rows{ending}"
    if ending == ".jsonl":
        return write_jsonl(path, rows)
    if ending == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    elif ending == ".csv":
        lines = ["question,answer", *(f"{row['question']},{row['answer']}" for row in rows)]
        path.write_text("\n".join(lines), encoding="utf-8")
    else:
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize("ending", [".jsonl", ".json", ".csv", ".parquet"])
def test_a_file_gives_its_rows_and_their_places(ending: str, tmp_path: Path) -> None:
    path = write_as(ending, tmp_path, TWO)
    located = list(make_source("file", {"path": path.name}, tmp_path).rows())
    assert [row.columns for row in located] == TWO
    place = {".jsonl": "line 2", ".csv": "line 3"}.get(ending, "index 1")
    assert str(located[1].place) == f"{path}, {place}"


def test_held_out_path_and_columns(tmp_path: Path) -> None:
    theirs = {"Body": "Two hens.", "Question": "Legs?", "Answer": 4.0, "Type": "x"}
    write_jsonl(tmp_path / "a.jsonl", [theirs])
    write_jsonl(tmp_path / "b.jsonl", [theirs | {"Answer": 5.0}])
    args = {"path": "a.jsonl", "held_out_path": "b.jsonl"}
    columns = {"question": "{Body} {Question}", "answer": "Answer"}
    source = make_source("file", {**args, "columns": columns}, tmp_path)
    (train,), (held_out,) = source.rows(), held_out_of(source)
    assert train.columns == theirs | {"question": "Two hens. Legs?", "answer": 4.0}
    assert held_out.columns["answer"] == 5.0


def test_answer_pattern_takes_the_gold_out(tmp_path: Path) -> None:
    rows = [{"question": "q", "answer": "6*3 = <<6*3=18>>18\n#### 1,018 "}]
    write_jsonl(tmp_path / "a.jsonl", rows)
    columns = {"demonstration": "answer"}
    args = {"path": "a.jsonl", "answer_pattern": r"####\s*(.+)", "columns": columns}
    (row,) = rows_of("file", args, tmp_path)
    assert row["answer"] == "1,018"
    assert row["demonstration"] == rows[0]["answer"]
    (row,) = rows_of("file", {"path": "a.jsonl", "answer_pattern": r"[\d,]+\s*$"}, tmp_path)
    assert row["answer"] == "1,018"


def test_gsm8k_and_math_are_read_whole(data_file: Callable[[str], Path]) -> None:
    gsm8k = {
        "path": str(data_file("gsm8k/train.jsonl")),
        "held_out_path": str(data_file("gsm8k/test.jsonl")),
        "answer_pattern": r"####\s*(.+)",
    }
    source = make_source("file", gsm8k)
    train, held_out = list(source.rows()), list(held_out_of(source))
    assert (len(train), len(held_out)) == (7473, 1319)
    assert train[0].columns["answer"] == "72" and held_out[0].columns["answer"] == "18"
    assert all(re.fullmatch(r"-?[\d,.]+", row.columns["answer"]) for row in [*train, *held_out])

    math = {"path": str(data_file("math/train.json")), "columns": {"question": "problem"}}
    assert "math/train.json, index 886: the answer is empty (None)" in message("file", math)
    located = list(make_source("file", {**math, "drop_unanswered": True}).rows())
    assert (len(located), sum(row.left_out for row in located)) == (7474, 4)


def test_environment_variables_in_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_jsonl(tmp_path / "a.jsonl", TWO)
    monkeypatch.setenv("SOME_DATA", str(tmp_path))
    assert rows_of("file", {"path": "${SOME_DATA}/a.jsonl"}, "/elsewhere") == TWO
    monkeypatch.delenv("SOME_DATA")
    said = message("file", {"path": "${SOME_DATA}/a.jsonl"})
    assert "SOME_DATA" in said and "not set" in said
    assert expand_path("~/x.jsonl", "/base") == Path(os.path.expanduser("~/x.jsonl"))
    assert expand_path("sub/x.jsonl", "/base") == Path("/base/sub/x.jsonl")


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.jsonl", b'{"question": "x"}\n\n{"question": \n', r"a\.jsonl, line 3: not valid JSON"),
        ("a.jsonl", b'{"question": "\xff"}\n', r"a\.jsonl, line 1: not valid JSON"),
        ("a.jsonl", b'[1, 2]\n"x"\n', r"line 1: a row must be an object of columns, got an array"),
        ("a.jsonl", b"", r"a\.jsonl is empty: it holds no rows"),
        ("a.jsonl", b"\n  \n", r"a\.jsonl is empty"),
        ("a.json", b"", r"a\.json is empty"),
        ("a.json", b"[]", r"a\.json is empty"),
        ("a.json", b'{"a": 1}\n{"a": 2}\n', r"a\.json: not valid JSON.* must end in \.jsonl"),
        ("a.json", b'{"data": []}', r"a\.json must hold an array of objects, got an object"),
        ("a.json", b'[{"question": "x"}, null]', r"a\.json, index 1: .* got null"),
        ("a.csv", b"", r"a\.csv is empty"),
        ("a.csv", b"question,answer\n1,2\n3\n", r"a\.csv, line 3: not as many fields"),
        ("a.csv", b"question,answer\n1,2,3\n", r"a\.csv, line 2: not as many fields"),
        ("a.parquet", b"PAR1 nonsense", r"a\.parquet, index 0: not valid parquet"),
        ("a.txt", b"x", r"a\.txt: the file's ending must be one of \.jsonl, \.json"),
    ],
)
def test_broken_files_are_named(name: str, content: bytes, expected: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    assert re.search(expected, message("file", {"path": name}, tmp_path))


def test_an_absent_file_names_the_nearest(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", TWO)
    said = message("file", {"path": "trian.jsonl"}, tmp_path)
    assert f"{tmp_path}/trian.jsonl" in said and "Did you mean 'train.jsonl'?" in said
    assert "holds no files" in message("file", {"path": "none/a.jsonl"}, tmp_path)
    for number in range(50):
        (tmp_path / f"part-{number:02d}.jsonl").touch()
    said = message("file", {"path": "part-071.jsonl"}, tmp_path)
    assert said.count("part-") == 4 and "Did you mean 'part-07.jsonl' or 'part-" in said
    said = message("file", {"path": "gsm8k-verified.parquet"}, tmp_path)
    assert "holds part-00.jsonl, part-01.jsonl, part-02.jsonl and 48 more." in said


def test_bad_columns_and_patterns_name_file_and_row(tmp_path: Path) -> None:
    rows = [{"problem": "x", "answer": "#### 1"}, {"problm": "y", "answer": "nothing"}]
    write_jsonl(tmp_path / "a.jsonl", rows)
    args = {"path": "a.jsonl", "columns": {"question": "problem"}}
    said = message("file", args, tmp_path)
    assert "a.jsonl, line 2: no column 'problem'" in said and "Did you mean 'problm'?" in said
    said = message("file", {"path": "a.jsonl", "answer_pattern": "#### (.+)"}, tmp_path)
    assert (
        "a.jsonl, line 2: answer_pattern '#### (.+)' finds nothing in the answer 'nothing'" in said
    )
    assert "no regular expression" in message("file", {"path": "a.jsonl", "answer_pattern": "("})


CHAT = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "1+1?"},
        {"role": "assistant", "content": "2"},
    ],
    "checked": {"gold": "2"},
    "level": 4,
}


def test_columns_reach_into_nested_ones_and_where_chooses_rows(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "chat.jsonl", [CHAT, {**CHAT, "level": 2}, {**CHAT, "level": 5}])
    columns = {
        "question": "messages.user",
        "answer": "checked.gold",
        "demonstration": "<answer>{messages.-1.content}</answer>",
    }
    found = rows_of("file", {"path": str(path), "columns": columns, "where": {"level": [4, 5]}})
    assert [row["level"] for row in found] == [4, 5]
    assert {key: found[0][key] for key in columns} == {
        "question": "1+1?",
        "answer": "2",
        "demonstration": "<answer>2</answer>",
    }
    for path_within in ("messages.tool", "messages.3", "checked.none", "level.x"):
        said = message("file", {"path": str(path), "columns": {"question": path_within}})
        assert "leads nowhere" in said and f"{path_within.split('.')[1]!r}" in said
    assert "no column 'sort'" in message("file", {"path": str(path), "where": {"sort": 1}})


def test_unknown_sources_and_arguments() -> None:
    assert "Did you mean 'file'?" in message("fil", {"path": "x"})
    said = message("file", {"pth": "x.jsonl"})
    assert "The source 'file' has no argument 'pth'. Did you mean 'path'?" in said
    assert "base_dir" not in said
    said = message("hub", {})
    assert "missing a required argument: 'path'. Its arguments: path, config, split" in said


# Python builders


BUILDERS = '''
"""Rows made by a recipe."""
import json
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Sum:
    left: int
    right: int

    def row(self) -> dict:
        return {"question": f"{self.left}+{self.right}", "answer": self.left + self.right}


def sums(count: int, right: int = 1):
    for left in range(count):
        yield Sum(left, right).row()


def split():
    from rlcurric.data import Split
    return Split(train=[Sum(1, 1).row()], held_out=[Sum(2, 2).row()])


def beside(path: str, base_dir: str):
    return json.loads((Path(base_dir) / path).read_text())


def broken():
    return [{"question": "x", "answer": "y"}, "text"]


def single():
    return {"question": "x", "answer": "y"}


number = 3
'''


@pytest.fixture
def builders(tmp_path: Path) -> Path:
    (tmp_path / "my_tasks.py").write_text(BUILDERS, encoding="utf-8")
    return tmp_path


def test_builders_are_found_beside_the_recipe(builders: Path) -> None:
    rows = rows_of("my_tasks.py:sums", {"count": 2, "right": 5}, builders)
    assert rows == [{"question": "0+5", "answer": 5}, {"question": "1+5", "answer": 6}]
    source = make_source("my_tasks.py:split", {}, builders)
    assert isinstance(Split([], []), Split)
    assert [row.columns["answer"] for row in source.rows()] == [2]
    assert [row.columns["answer"] for row in held_out_of(source)] == [4]
    (builders / "rows.json").write_text(json.dumps(TWO), encoding="utf-8")
    assert rows_of("my_tasks.py:beside", {"path": "rows.json"}, builders) == TWO


def test_builders_by_module(builders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(builders))
    assert len(rows_of("my_tasks:sums", {"count": 3})) == 3


@pytest.mark.parametrize(
    ("name", "args", "expected"),
    [
        ("my_tasks.py:smus", {}, "my_tasks.py has no 'smus'. Did you mean 'sums'?"),
        ("absent.py:sums", {}, "There is no file"),
        ("no_such_module_here:sums", {}, "there is no module 'no_such_module_here'"),
        ("json.absent:load", {}, "there is no module 'json.absent'"),
        ("my_tasks.py:sums", {"cuont": 1}, "has no argument 'cuont'. Did you mean 'count'?"),
        ("my_tasks.py:number", {}, "is no function but a int"),
        ("my_tasks.py:broken", {}, "broken, index 1: a row must be a dict of columns, got str"),
        ("my_tasks.py:single", {}, "must return an iterable of row dicts"),
    ],
)
def test_bad_builders(name: str, args: dict, expected: str, builders: Path) -> None:
    assert expected in message(name, args, builders)


# reasoning-gym and the hub


def test_reasoning_gym_rows_keep_the_entry_for_the_tasks_scorer() -> None:
    import reasoning_gym

    config = {"min_terms": 3, "max_terms": 3, "min_digits": 2, "max_digits": 2}
    args = {"task": "chain_sum", "size": 5, "seed": 7, "config": config}
    rows = rows_of("reasoning_gym", args)
    assert rows == rows_of("reasoning_gym", args) != rows_of("reasoning_gym", args | {"seed": 8})
    assert len(rows) == 5
    for row in rows:
        expression = row["reasoning_gym"]["entry"]["metadata"]["expression"]
        assert len(re.findall(r"\b\d\d\b", expression)) == 3
        terms = re.findall(r"[-+]?\d+", expression.replace(" ", ""))
        assert row["answer"] == str(sum(map(int, terms)))
        score = reasoning_gym.get_score_answer_fn(row["reasoning_gym"]["task"])
        assert score(row["answer"], row["reasoning_gym"]["entry"]) == 1.0
        assert score("x", row["reasoning_gym"]["entry"]) < 1.0


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ({"task": "chain_sums"}, "Did you mean 'chain_sum'?"),
        ({"task": "chain_sum", "config": {"minterms": 2}}, "Did you mean 'min_terms'?"),
        ({"task": "chain_sum", "config": {"min_terms": 9}}, "max_terms must be >= min_terms"),
        ({"task": "chain_sum", "config": {"seed": 9}}, "no knob 'seed'"),
    ],
)
def test_bad_reasoning_gym_settings(args: dict, expected: str) -> None:
    assert expected in message("reasoning_gym", args)


def test_reasoning_gym_tasks_without_a_gold_answer() -> None:
    """Such rows are graded by the task's scorer alone; a builder may rewrite their question."""
    (row,) = reasoning_gym_rows("graph_color", 1, seed=3)
    assert row["answer"] is None and row["question"] == row["reasoning_gym"]["entry"]["question"]
    source = as_source([row | {"question": "Color it."}], "short")
    (read,) = load_distributions([DistributionSpec("graphs", source)])["graphs"].train
    assert (read.columns["question"], read.columns["answer"]) == ("Color it.", None)


def test_the_hub_source_reads_through_datasets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A local dataset folder takes the same way through `datasets` as a hub id."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "mine").mkdir()
    write_jsonl(tmp_path / "mine" / "train.jsonl", [{"problem": "1+1", "answer": "#### 2"}])
    write_jsonl(tmp_path / "mine" / "test.jsonl", [{"problem": "2+1", "answer": "#### 3"}])
    args = {
        "path": "mine",
        "held_out_split": "test",
        "columns": {"question": "problem"},
        "answer_pattern": "#### (.+)",
    }
    source = make_source("hub", args, tmp_path)
    (train,), (held_out,) = source.rows(), held_out_of(source)
    assert (train.columns["question"], train.columns["answer"]) == ("1+1", "2")
    assert (held_out.columns["question"], held_out.columns["answer"]) == ("2+1", "3")
    assert str(train.place) == "mine (train), index 0"
    said = message("hub", {**args, "split": "trian"}, tmp_path)
    assert "'mine'" in said and "trian" in said and "cannot be loaded" in said


def test_a_hub_id_that_cannot_be_reached_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    said = message("hub", {"path": "some/where"})
    assert "'some/where'" in said and "no route" in said and "source `file`" in said
