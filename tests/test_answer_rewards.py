"""The rewards that compare an answer with the row's: which name does what, gold answers, tolerance, choices, words."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from rlcurric.registry import registry
from rlcurric.rewards.extraction import extract_answer, final_statement, last_boxed, only_number
from rlcurric.rewards.protocol import Reward, discover_builtin, get_reward
from rlcurric.rewards.rubric import Component, GradeRequest, Rubric
from rlcurric.rewards.runner import RewardRunner
from rlcurric.types import GroupId, Prompt, Rollout, Score, Status

discover_builtin()
NONE = Score(0.0, Status.UNPARSEABLE, "no answer found")
ALL = ("verifier", "mathematics", "exact", "exact_match", "word_f1", "numeric", "multiple_choice")


def grade(name: str, completion: str, answer: Any, **arguments: Any) -> Score:
    found: Reward = registry("reward").get(name)
    (score,) = found.function([""], [completion], answer=[answer], **arguments)
    assert isinstance(score, Score)
    return score


GOLD: dict[str, tuple[Any, str, str]] = {  # answer, right, wrong
    "verifier": (r"\frac{1}{2}", "<answer>0.5</answer>", "<answer>0.6</answer>"),
    "mathematics": (r"\frac{1}{2}", "\\boxed{0.5}", "\\boxed{5}"),
    "exact": ("Ada Lovelace", "<answer>Ada  Lovelace</answer>", "<answer>ada lovelace</answer>"),
    "exact_match": ("The Beatles", "<answer>beatles.</answer>", "<answer>beatles one</answer>"),
    "word_f1": ("Ada Lovelace", "<answer>ada lovelace</answer>", "<answer>Charles</answer>"),
    "numeric": ("3.14159", "#### 3.141590", "#### 3.15"),
    "multiple_choice": ("B", "The answer is (B).", "The answer is (A)."),
}


@pytest.mark.parametrize("name", ALL)
def test_gold_is_1_another_answer_0_and_none_is_unparseable(name: str) -> None:
    answer, right, wrong = GOLD[name]
    assert grade(name, right, answer) == Score(1.0)
    assert grade(name, wrong, answer) == Score(0.0)
    assert grade(name, "", answer) == NONE
    assert grade(name, "<think>hm", answer) == NONE


@pytest.mark.parametrize("name", ALL)
def test_every_one_verifies_correctness_and_refuses_rows_without_an_answer(name: str) -> None:
    entry: Reward = registry("reward").get(name)
    assert entry.correctness and entry.scope == "sample" and entry.columns == ["answer"]
    score = grade(name, GOLD[name][1], None)
    assert (score.value, score.status) == (None, Status.ERROR)


@pytest.mark.parametrize("name", ["verifier", "mathematics", "multiple_choice"])
def test_what_may_reach_sympy_runs_in_workers(name: str) -> None:
    entry: Reward = registry("reward").get(name)
    assert entry.where == "worker" and "rlcurric.rewards.symbolic" in entry.preload


@pytest.mark.parametrize("name", ["mathematics", "exact", "exact_match", "word_f1", "numeric"])
def test_a_list_of_answers_means_any_of_them(name: str) -> None:
    assert grade(name, "<answer>18</answer>", ["17", "18"]) == Score(1.0)
    assert grade(name, "<answer>19</answer>", ["17", "18"]) == Score(0.0)


def test_through_the_workers_scores_are_the_same() -> None:
    prompt = Prompt(1, "d", (1,), "q", {"question": "q", "answer": r"2\sqrt{3}"})
    texts = ["\\boxed{\\sqrt{12}}", "\\boxed{\\sqrt{13}}", "none", "\\boxed{9^{9^{9^9}}}"]
    ids = np.arange(3)
    group = GroupId("s", 1, 0)
    rollouts = tuple(
        Rollout(group, k, ids, ids.astype(np.float32), ids, "stop", text)
        for k, text in enumerate(texts)
    )
    entry: Reward = registry("reward").get("mathematics")
    with RewardRunner([entry], workers=1) as pool:
        rubric = Rubric([Component("mathematics", entry, "mathematics")], "mathematics", pool)
        (scored,) = rubric.score([GradeRequest(group, prompt, rollouts)], {"mathematics": 1.0}, {})
    assert [one.correct for one in scored] == [1.0, 0.0, 0.0, 0.0]
    assert [one.status for one in scored] == [Status.SCORED] * 2 + [
        Status.UNPARSEABLE,
        Status.SCORED,
    ]


# --- exact, exact_match, word_f1 ------------------------------------------------------------------------------------------


def test_exact_can_ignore_case_and_marks() -> None:
    assert grade("exact", "<answer>ADA</answer>", "ada", ignore_case=True) == Score(1.0)
    assert grade("exact", " ada\n", "ada") == NONE
    assert grade("exact", "<think>x</think> ada\n", "ada", marked=False) == Score(1.0)
    assert grade("exact", "ada <answer>bob</answer>", "ada", marked=False) == Score(0.0)


@pytest.mark.parametrize(
    ("given", "gold", "value"),
    [
        ("the cat sat", "cat sat", 1.0),
        ("cat", "cat sat", 2 * 1 * 0.5 / 1.5),
        ("a big cat sat down", "cat sat", 2 * 0.5 * 1 / 1.5),
        ("cat cat", "cat dog", 0.5),  # one of the two cats counts
        ("U.S.A.", "USA", 1.0),
        ("don't", "dont", 1.0),
        ("ＣＡＴ", "cat", 1.0),
        ("dog", "cat", 0.0),
        ("the", "The", 1.0),
        ("the", "an", 0.0),
        ("...", "cat", 0.0),
    ],
)
def test_word_f1(given: str, gold: str, value: float) -> None:
    score = grade("word_f1", f"<answer>{given}</answer>", gold)
    assert score.value == pytest.approx(value, abs=1e-12) and score.status is Status.SCORED
    assert grade("exact_match", f"<answer>{given}</answer>", gold).value == float(value == 1.0)


def test_word_order_counts_for_exact_match_only() -> None:
    assert grade("word_f1", "<answer>sat cat</answer>", "cat sat") == Score(1.0)
    assert grade("exact_match", "<answer>sat cat</answer>", "cat sat") == Score(0.0)


def test_the_best_of_several_golds_counts_for_word_f1() -> None:
    score = grade("word_f1", "<answer>cat</answer>", ["dog", "cat sat", "a fat cat sat"])
    assert score.value == pytest.approx(2 / 3)


# --- numeric ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "gold", "arguments", "value"),
    [
        ("100", "100", {"relative": 0.0}, 1.0),
        ("100.1", "100", {"relative": 0.0}, 0.0),
        ("101", "100", {"relative": 0.01}, 1.0),
        ("101.0001", "100", {"relative": 0.01}, 0.0),
        ("99", "100", {"relative": 0.01}, 1.0),
        ("-101", "-100", {"relative": 0.01}, 1.0),
        ("101", "-100", {"relative": 0.01}, 0.0),
        ("0.3", "0", {"absolute": 0.5}, 1.0),
        ("0.6", "0", {"absolute": 0.5}, 0.0),
        ("1/3", "0.3333333", {}, 1.0),
        (r"\frac{1}{3}", "0.33", {"absolute": 0.01}, 1.0),
        ("12.5%", "0.125", {}, 1.0),
        ("12.5%", "12.5", {}, 1.0),
        ("12.5%", "1.25", {}, 0.0),
        ("1,234.5 km", "1234.5", {}, 1.0),
        ("v = 3.0 \\times 10^{8} \\text{ m}", "3e8", {}, 1.0),
        ("It is 42 metres high", "42", {}, 1.0),
        ("1e-9", "2e-9", {}, 0.0),
    ],
)
def test_numeric(given: str, gold: str, arguments: dict[str, float], value: float) -> None:
    assert grade("numeric", f"<answer>{given}</answer>", gold, **arguments) == Score(value)


def test_numeric_wants_numbers() -> None:
    assert grade("numeric", "<answer>many</answer>", "18") == NONE
    assert grade("numeric", "it is 18", "18") == Score(1.0)
    assert grade("numeric", "it is 18", "18", numbers=False) == NONE
    score = grade("numeric", "<answer>18</answer>", "x+1")
    assert score.status is Status.ERROR and "needs a number as `answer`, got 'x+1'" in score.detail
    for wrong in (
        {"relative": -0.1},
        {"relative": 1.0},
        {"absolute": -1.0},
        {"absolute": float("inf")},
    ):
        with pytest.raises(ValueError, match="numeric needs 0 <= relative < 1"):
            grade("numeric", "1", "1", **wrong)


# --- multiple choice ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("completion", "chosen"),
    [
        ("<answer>B</answer>", "B"), ("<answer>(B)</answer>", "B"), ("<answer>b</answer>", "B"), ("<answer>B.</answer>", "B"),
        ("<answer>B) the sun</answer>", "B"), ("<answer>(B) A sun</answer>", ""), ("<answer>Option B</answer>", "B"),
        ("<answer>The answer is B</answer>", "B"), ("\\boxed{\\text{(B)}}", "B"), ("$\\boxed{\\textbf{B}}$", "B"), ("#### B", "B"),
        ("The answer is (B). I am sure.", "B"), ("The correct answer is **B**", "B"), ("Answer: B", "B"), ("I choose option B.", "B"),
        ("A is hot, C is cold, so the answer is B.", "B"), ("(A) no. (B)", "B"), ("the answer is Bees", None), ("A cat", None),
        ("<answer>A, B</answer>", ""), ("<answer>A or B</answer>", ""), ("<answer>K</answer>", ""), ("<answer>bees</answer>", ""),
        ("<think>The answer is B</think>", None), ("<think>so \\boxed{B}</think>", "B"), ("I'm done", None),
    ],
)  # fmt: skip
def test_choices_are_found(completion: str, chosen: str | None) -> None:
    scores = {letter: grade("multiple_choice", completion, letter) for letter in "ABC"}
    if chosen is None:
        assert set(scores.values()) == {NONE}
    else:
        assert scores == {letter: Score(float(letter == chosen)) for letter in "ABC"}


@pytest.mark.parametrize(
    ("given", "value"),
    [("B", 1.0), ("the Moon", 1.0), ("moon.", 1.0), ("(B) the Moon", 1.0), ("the Sun", 0.0), ("A", 0.0), ("C", 0.0)],
)  # fmt: skip
@pytest.mark.parametrize("gold", ["B", "(b)", "The Moon", 1])
def test_texts_of_choices_stand_for_their_letters(gold: Any, given: str, value: float) -> None:
    choices = ["The Sun", "The Moon"]
    score = grade("multiple_choice", f"<answer>{given}</answer>", gold, choices=[choices])
    assert score == Score(value)


def test_choices_that_are_numbers() -> None:
    score = grade("multiple_choice", "\\boxed{0.5}", "A", choices=[[r"$\frac{1}{2}$", "$2$"]])
    assert score == Score(1.0)


@pytest.mark.parametrize(
    ("gold", "choices"),
    [("K", None), (1, None), (2, ["x", "y"]), ("C", ["x", "y"]), ("sun", ["x"])],
)
def test_a_gold_that_is_no_choice_is_an_error(gold: Any, choices: list[str] | None) -> None:
    score = grade("multiple_choice", "<answer>A</answer>", gold, choices=[choices])
    assert (score.value, score.status) == (
        None,
        Status.ERROR,
    ) and "needs as `answer` one of" in score.detail


def test_letters_must_be_letters() -> None:
    for letters in ("abc", "AA", ""):
        with pytest.raises(ValueError, match="needs letters such as ABCD"):
            grade("multiple_choice", "A", "A", letters=letters)


# --- extraction -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("<ANSWER> 5 </Answer>", "5"),
        ("<answer>\\boxed{5} apples</answer>", "5"),
        ("<answer>5</answer> <answer></answer>", "5"),
        ("<answer><answer>5</answer>", "5"),
        ("<answer></answer> \\boxed{} #### 5", "5"),
        ("\\boxed{\\boxed{5}}", "5"),
        ("\\fbox{4} \\fboxed{5}", "5"),
        ("\\boxed 5", "5"),
        ("\\boxed {5}", "5"),
        ("\\boxed{\\{4,5\\}}", "\\{4,5\\}"),
        ("\\boxed{\\left\\{ x}", "\\left\\{ x"),
        ("\\boxed{3}, \\boxed{4} and $\\boxed{5}$", "3, 4, 5"),
        ("\\boxed{3}. Then \\boxed{5}", "5"),
        ("#### **5**", "5"),
        ("#### Final answer: 5", "5"),
        ("it is -3/4.", "-3/4"),
        ("it is 2 1/2.", "2 1/2"),
        ("it is \\frac{1}{2}.", "\\frac{1}{2}"),
        ("it is 1,234,567.", "1,234,567"),
        ("it is 6e23", "6e23"),
        ("<think>7", None),
        ("<think>7 <answer>8</answer>", "8"),
        ("a </think> b </think> 5", "5"),
    ],
)
def test_marks_in_marks_and_broken_ones(completion: str, answer: str | None) -> None:
    assert extract_answer(completion) == answer


def test_final_statements_and_only_numbers() -> None:
    assert final_statement("<think>a</think> b ") == "b"
    assert final_statement("<think>a") is None
    assert final_statement("b \\boxed{c}") == "c"
    assert [only_number(text) for text in ("a 5", "5 and 6", "5 and 5", "a")] == [
        "5",
        None,
        "5",
        None,
    ]


@pytest.mark.parametrize(
    "part",
    [
        "<answer>",
        "</answer>",
        "\\boxed{",
        "}",
        "####",
        "1,",
        "<answer>1</answer>",
        "\\boxed{1}, ",
        "{\\",
    ],
)
def test_extraction_is_quick_whatever_is_repeated(part: str) -> None:
    """Each is linear in the text; a quadratic one would not come back from a fifth of a million characters."""
    text = part * (200_000 // len(part))
    assert extract_answer(text) == extract_answer(text)
    assert last_boxed(text[:20_000]) in (None, "1")


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("numeric", {"relative": 2.0}, "0 <= relative < 1"),
        ("multiple_choice", {"letters": "AAB"}, "each once, got 'AAB'"),
        ("countdown", {"operators": "+^"}, "operators out of"),
        ("regex", {"expression": "(a"}, "is no regular expression"),
    ],
)
def test_arguments_that_make_no_sense_are_refused_before_anything_is_judged(
    name: str, arguments: dict[str, Any], words: str
) -> None:
    entry = get_reward(name)
    entry.check({})
    with pytest.raises(ValueError, match=re.escape(words)):
        entry.check(arguments)
