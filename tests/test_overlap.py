"""Overlap of evaluation sets with training data: by hand, against a plain count, and on real problem sets."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from rlcurric.cli import _run
from rlcurric.data import Place, Row, overlaps, trained_texts
from rlcurric.data.overlap import words_of
from tests.test_bad_input import recipe_file

SENTENCE = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"


def _rows(file: str, *questions: str, **columns: object) -> list[Row]:
    return [
        Row(k, k, {"question": one, **columns}, Place(f"{file}, line", k + 1))
        for k, one in enumerate(questions)
    ]


def test_thirteen_words_in_a_row_and_whole_questions() -> None:
    twelve = " ".join(SENTENCE.split()[:12])
    trained = [
        *_rows("a", "nothing of it", demonstration=f"Well: {SENTENCE.upper()}!"),
        *_rows("b", "short one?"),
        *_rows("c", "talk", messages=[{"role": "user", "content": f"x {SENTENCE} y"}]),
    ]
    asked = _rows("t", f"Say: {SENTENCE}?", "Short ONE", f"{twelve} 13", SENTENCE, "fresh words")
    found = overlaps(trained_texts(trained), {"test": asked, "none": _rows("n", "fresh words")})
    one = found["test"]
    assert (one.rows, one.exact, one.ngrams, one.short) == (5, 1, 3, 2)
    assert one.example is not None
    assert (one.example.question, one.example.words) == ("t, line 2", "short one")
    assert one.example.trained == "b, line 1, question"
    assert found["none"].example is None
    only = overlaps(trained_texts(trained), {"test": asked[:1]})["test"].example
    assert only is not None and only.trained == "a, line 1, demonstration"
    assert only.words == " ".join(SENTENCE.split()[:13])


def test_counts_are_those_of_a_plain_search() -> None:
    draw = random.Random(5)
    texts = [" ".join(draw.choices("ab", k=draw.randint(1, 40))) for _ in range(60)]
    trained, asked = _rows("a", *texts[:30]), _rows("t", *texts[30:])
    for n in (3, 7):
        found = overlaps(trained_texts(trained), {"t": asked}, n)["t"]
        known = {
            tuple(w[k : k + n]) for w in map(words_of, texts[:30]) for k in range(len(w) - n + 1)
        }
        whole = {tuple(words_of(one)) for one in texts[:30]}
        expected = 0
        for words in map(words_of, texts[30:]):
            grams = {tuple(words[k : k + n]) for k in range(len(words) - n + 1)}
            expected += bool(grams & known) or tuple(words) in whole
        assert found.ngrams == expected > 0


def test_check_tells_what_a_demonstration_gives_away(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A question that is held out stands in another row's demonstration: a caution, and exit code 0."""
    plain = "1+2+3+4+5+6+7+8+9+1+2+3+4="
    rows = [{"question": f"{k}+1=", "answer": str(k + 1), "demonstration": "2"} for k in range(8)]
    rows[0]["demonstration"] = f"{plain}55"
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    held_out = {"question": plain, "answer": "55"}
    (tmp_path / "test.jsonl").write_text(json.dumps(held_out) + "\n")
    source = f"{{name: file, path: {tmp_path}/train.jsonl, held_out_path: {tmp_path}/test.jsonl}}"
    file = recipe_file(
        tmp_path, f"distributions.two.source={source}", "distributions.two.held_out=0"
    )
    assert _run(["check", str(file)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "caution: 1 of 1 questions of two overlap with training data" in said
    assert "train.jsonl, line 1, demonstration: '1 2 3 4 5 6 7 8 9 1 2 3 4'" in said
