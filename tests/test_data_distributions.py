"""Distributions: identities, duplicates, limits, and a split that no two distributions can leak
through.
"""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlcurric.data import (
    Distribution,
    DistributionSpec,
    as_source,
    content_hash,
    held_out_rows,
    load_distributions,
    make_source,
    require_columns,
    select,
    training_rows,
)
from rlcurric.data.sources import Split


def rows(*questions: str) -> list[dict]:
    return [{"question": question, "answer": f"a of {question}"} for question in questions]


def numbered(start: int, stop: int) -> list[dict]:
    return rows(*(f"question {number}" for number in range(start, stop)))


def spec(name: str, made: object, **settings: Any) -> DistributionSpec:
    return DistributionSpec(name, as_source(made, name), **settings)


def load(*specs: DistributionSpec) -> dict[str, Distribution]:
    return load_distributions(specs)


def message(*specs: DistributionSpec) -> str:
    with pytest.raises(ValueError) as caught:
        training_rows(load(*specs))
    return str(caught.value)


def mangle(question: str, draw: random.Random) -> str:
    """The same question in another spelling: case, white space, full-width digits."""
    wide = {ord("0") + digit: 0xFF10 + digit for digit in range(10)}
    forms = [
        question,
        question.upper(),
        f"  {question.replace(' ', '  ')} ",
        question.replace(" ", "\n"),
    ]
    form = draw.choice(forms)
    return form.translate(wide) if draw.random() < 0.5 else form


@pytest.mark.parametrize("case", range(60))
def test_no_question_is_trained_on_and_held_out(case: int) -> None:
    """Random recipes: overlapping distributions, respellings, every way to hold out, limits."""
    draw = random.Random(case)
    specs = []
    for number in range(draw.randint(1, 5)):
        start = draw.randrange(60)
        pool = numbered(start, start + draw.randint(3, 80))
        for row in draw.sample(pool, k=len(pool) // 3):
            pool.append({**row, "question": mangle(row["question"], draw)})
        draw.shuffle(pool)
        settings: dict = {"max_rows": draw.choice([None, 1, 10, 1000])}
        made: object = pool
        distinct = len({content_hash(row["question"]) for row in pool})
        match draw.choice(["none", "fraction", "count", "explicit"]):
            case "fraction":
                settings["held_out"] = 0.4
                if not any(content_hash(row["question"]) < 0.4 * 2**64 for row in pool):
                    settings["held_out"] = 1
            case "count":
                settings["held_out"] = draw.randint(1, distinct)
            case "explicit":
                cut = draw.randrange(len(pool))
                made = Split(train=pool[cut:], held_out=pool[:cut])
        specs.append(spec(f"d{number}", made, **settings))
    loaded = load_distributions(specs)

    held_out = {
        content_hash(row.columns["question"]) for one in loaded.values() for row in one.held_out
    }
    trained = {
        content_hash(row.columns["question"]) for one in loaded.values() for row in one.train
    }
    assert not held_out & trained
    uids = [row.uid for one in loaded.values() for row in (*one.train, *one.held_out)]
    assert len(uids) == len(set(uids))
    for one in loaded.values():
        counts = one.counts
        parts = (counts.unanswered, counts.duplicates, counts.overlapping, counts.limited)
        assert counts.read == sum(parts) + counts.train + counts.held_out
        assert (counts.train, counts.held_out) == (len(one.train), len(one.held_out))
    again = load_distributions(specs)
    assert again == loaded


def test_held_out_in_one_distribution_leaves_all_others() -> None:
    loaded = load(
        spec("a", Split(numbered(0, 10), rows("Question  11", "QUESTION 12"))),
        spec("b", numbered(5, 15)),
    )
    assert [row.columns["question"] for row in loaded["b"].train] == [
        f"question {number}" for number in (5, 6, 7, 8, 9, 10, 13, 14)
    ]
    assert loaded["b"].counts.overlapping == 2
    assert loaded["a"].counts.overlapping == 0


def test_a_fraction_holds_out_by_the_questions_own_hash() -> None:
    """So rows added later move no other, and two distributions agree on every shared question."""
    small = load(spec("x", numbered(0, 1000), held_out=0.2))["x"]
    large = load(spec("x", numbered(0, 2000), held_out=0.2))["x"]
    assert {row.uid for row in small.held_out} <= {row.uid for row in large.held_out}
    # 400 expected of 2000, standard deviation 18
    assert 330 < len(large.held_out) < 470
    two = load(
        spec("x", numbered(0, 1000), held_out=0.2), spec("y", numbered(500, 1500), held_out=0.2)
    )
    assert [one.counts.overlapping for one in two.values()] == [0, 0]


def test_a_count_holds_out_that_many_questions() -> None:
    loaded = load(spec("x", numbered(0, 50) + numbered(0, 50), held_out=7))["x"]
    assert (len(loaded.train), len(loaded.held_out), loaded.counts.duplicates) == (43, 7, 50)


def test_limits_keep_a_nested_sample_in_source_order() -> None:
    numbers = {
        limit: [
            int(row.columns["question"].split()[1])
            for row in load(spec("x", numbered(0, 100), max_rows=limit))["x"].train
        ]
        for limit in (10, 30)
    }
    assert len(numbers[10]) == 10 and len(numbers[30]) == 30
    assert set(numbers[10]) < set(numbers[30])
    assert numbers[30] == sorted(numbers[30]) != list(range(30))


def test_duplicates_are_the_same_question_answer_and_demonstration() -> None:
    one = {"question": "q", "answer": "a", "demonstration": "so a"}
    made = [one, dict(one), one | {"demonstration": "a"}, one | {"answer": "b"}, one | {"extra": 1}]
    loaded = load(spec("x", made))["x"]
    assert (len(loaded.train), loaded.counts.duplicates) == (3, 2)
    assert len({row.uid for row in loaded.train}) == 3
    assert len({row.content for row in loaded.train}) == 1


def test_identities_are_stable_and_differ_between_distributions() -> None:
    loaded = load(spec("x", rows("q")), spec("y", rows("q")))
    (first,), (second,) = loaded["x"].train, loaded["y"].train
    assert first.uid != second.uid and first.content == second.content
    assert first.content == content_hash(" Q\n") == 11466284356475156638
    assert 0 <= first.uid < 2**64


def test_numbers_as_answers_become_text() -> None:
    made = [
        {"question": f"q{number}", "answer": answer}
        for number, answer in enumerate([51.0, 2.5, 7, True, ["knight"], "8"])
    ]
    answers = [row.columns["answer"] for row in load(spec("x", made))["x"].train]
    assert answers == ["51", "2.5", "7", True, ["knight"], "8"]


def test_evaluation_takes_the_same_rows_every_time() -> None:
    loaded = load(
        spec("x", numbered(0, 100), held_out=50), spec("y", numbered(200, 210), held_out=3)
    )
    few, many = held_out_rows(loaded, 10), held_out_rows(loaded, 20)
    assert {name: len(chosen) for name, chosen in few.items()} == {"x": 10, "y": 3}
    assert {row.uid for row in few["x"]} < {row.uid for row in many["x"]}
    assert held_out_rows(loaded)["x"] == loaded["x"].held_out


def test_names_are_looked_up_with_a_hint() -> None:
    loaded = load(spec("sums", rows("q")), spec("gsm8k", rows("p")))
    assert list(select(loaded, ["gsm8k", "sums"])) == ["gsm8k", "sums"]
    with pytest.raises(ValueError, match=r"'gsm8'. Did you mean 'gsm8k'\? Known: gsm8k, sums"):
        select(loaded, ["gsm8"])


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"quiz": "q", "answer": "a"}, "x, index 1: no column 'question'"),
        ({"question": "q", "solution": "a"}, "x, index 1: no column 'answer'"),
        ({"question": " ", "answer": "a"}, "x, index 1: the question must be text, got ' '"),
        ({"question": ["q"], "answer": "a"}, "the question must be text, got ['q']"),
        ({"question": "q", "answer": None}, "x, index 1: the answer is null"),
        ({"question": "q", "answer": "a", "demonstration": 3}, "demonstration must be text, got 3"),
    ],
)
def test_rows_without_what_they_need_are_named(row: dict, expected: str) -> None:
    said = message(spec("x", [{"question": "fine", "answer": "yes"}, row]))
    assert f"distribution 'x', {expected}" in said or expected in said
    assert "distribution 'x'" in said


def test_columns_that_rewards_need() -> None:
    loaded = load(spec("x", [{"question": "q", "answer": "a", "names": []}]))["x"]
    require_columns(loaded.train, {"names": "the reward 'people'"})
    with pytest.raises(
        ValueError, match=r"x, index 0: no column 'name', which the reward 'p' needs"
    ):
        require_columns(loaded.train, {"name": "the reward 'p'"})
    with pytest.raises(ValueError, match=r"Did you mean 'names'\?"):
        require_columns(loaded.train, ["name"])


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"held_out": 11}, "held_out is 11, but the source has 10 different questions"),
        ({"held_out": 2.5}, "must be a fraction below 1 or a whole number, got 2.5"),
        ({"held_out": -1}, "must be a fraction below 1 or a whole number, got -1"),
        ({"held_out": 1e-6}, "which of 10 questions chooses none"),
        ({"held_out": 10}, "'x' has no training rows: of 10 rows 10 are held out"),
    ],
)
def test_bad_splits(settings: dict, expected: str) -> None:
    assert expected in message(spec("x", numbered(0, 10), **settings))


def test_empty_sources_and_two_kinds_of_held_out() -> None:
    assert "distribution 'x' gives no rows; at least one is required" in message(spec("x", []))
    said = message(spec("x", Split(rows("q"), rows("p")), held_out=0.5))
    assert "has held-out rows of its own; leave out its `held_out: 0.5`" in said
    said = message(spec("x", rows("q")), spec("y", Split(rows("p"), rows("q"))))
    assert "'x' has no training rows" in said and "1 share a question with a held-out row" in said


def test_the_real_sets_do_not_leak(data_file: Callable[[str], Path]) -> None:
    people = [3, 4, 5, 6, 7]
    specs = [
        DistributionSpec(
            f"people{number}",
            make_source(
                "file",
                {
                    "path": str(data_file(f"knights_knaves/people{number}.jsonl")),
                    "columns": {"question": "quiz", "answer": "solution_text"},
                },
            ),
            held_out=0.1,
        )
        for number in people
    ]
    problem = {"columns": {"question": "problem"}, "drop_unanswered": True}
    math = {
        "path": str(data_file("math/train.json")),
        "held_out_path": str(data_file("math/test500.json")),
    }
    specs.append(DistributionSpec("math", make_source("file", problem | math)))
    body = {"columns": {"question": "{Body} {Question}", "answer": "Answer"}}
    svamp = {"path": str(data_file("svamp/svamp.json"))}
    specs.append(DistributionSpec("svamp", make_source("file", body | svamp), held_out=100))
    loaded = load_distributions(specs)
    held_out = {row.content for one in loaded.values() for row in one.held_out}
    assert not held_out & {row.content for one in loaded.values() for row in one.train}
    assert len(loaded["math"].held_out) == 500 and len(loaded["svamp"].held_out) == 100
    assert sum(len(loaded[f"people{number}"].train) for number in people) > 4000
    uids = [row.uid for one in loaded.values() for row in (*one.train, *one.held_out)]
    assert len(uids) == len(set(uids))
