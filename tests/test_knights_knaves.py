"""Knights and knaves: what answers say, what puzzles say, and the 5,000 real problems."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlcurric.registry import registry
from rlcurric.rewards.knights_knaves import Claim, claims, consistent, inhabitants, stated
from rlcurric.rewards.protocol import discover_builtin
from rlcurric.types import Score, Status

discover_builtin()
judge: Callable[..., list[Score]] = registry("reward").get("knights_knaves").function

NAMES = ["Michael", "Zoey", "Ethan"]
RIGHT = {"Michael": True, "Zoey": False, "Ethan": True}
GOLD = "Michael is a knight, Zoey is a knave, and Ethan is a knight."

WORDINGS = [
    GOLD,
    "(1) Michael is a knight\n(2) Zoey is a knave\n(3) Ethan is a knight",
    "3. Ethan is a knight\n2. Zoey is a knave\n1. Michael is a knight",
    "Michael: knight; Zoey: knave; Ethan: knight",
    "Michael - Knight, Zoey - Knave, Ethan - Knight",
    "Michael (knight), Zoey (knave), Ethan (knight)",
    "Michael = knight, Zoey = knave, Ethan = knight",
    "**Michael** is a **knight**. **Zoey** is a **knave**. **Ethan** is a **knight**.",
    "Michael and Ethan are knights, and Zoey is a knave",
    "Michael and Ethan are both knights. The only knave is Zoey.",
    "The knights are Michael and Ethan, and Zoey is a knave.",
    "The knave is Zoey, Michael is a knight, and Ethan is a knight.",
    "Knights: Michael, Ethan. Knaves: Zoey.",
    "Knights:\n- Michael\n- Ethan\n\nKnaves:\n- Zoey",
    '{"Michael": "knight", "Zoey": "knave", "Ethan": "knight"}',
    '{"Michael": true, "Zoey": false, "Ethan": true}',
    '{"knights": ["Michael", "Ethan"], "knaves": ["Zoey"]}',
    "| Name | Kind |\n|---|---|\n| Michael | Knight |\n| Zoey | Knave |\n| Ethan | Knight |",
    "Michael is not a knave, Zoey isn't a knight, and Ethan is a knight",
    "Michael is a knight, not a knave; Zoey is a knave, Ethan is a knight (a truth-teller)",
    "Zoey is a liar; Michael and Ethan are truth-tellers",
    "Michael always tells the truth. Zoey always lies. Ethan never lies.",
    "MICHAEL IS A KNIGHT, ZOEY IS A KNAVE, ETHAN IS A KNIGHT",
    "michael is a knight, zoey is a knave, ethan is a knight",
    r"\text{Michael is a knight}, \text{Zoey is a knave}, \text{Ethan is a knight}",
    "Michael is a saint, Zoey is a sinner, Ethan is a saint",
    "  Michael  is a\tknight ,Zoey is a knave ,Ethan is a knight  \n\n",
]


@pytest.mark.parametrize("text", WORDINGS)
def test_order_wording_and_form_are_free(text: str) -> None:
    assert stated(text, NAMES) == RIGHT
    marked = [f"<think>hm</think><answer>{text}</answer>", f"<answer>{text}</answer> That is all."]
    scores = judge([""] * 2, marked, answer=[GOLD] * 2, names=[NAMES] * 2)
    assert [one.value for one in scores] == [1.0, 1.0]


@pytest.mark.parametrize("text", WORDINGS)
def test_the_same_wording_of_another_assignment_is_wrong(text: str) -> None:
    other = "Michael is a knight, Zoey is a knave, and Ethan is a knave."
    (score,) = judge([""], [f"<answer>{text}</answer>"], answer=[other], names=[NAMES])
    assert score == Score(0.0)


@pytest.mark.parametrize(
    "text",
    [
        "Michael is a knight or a knave, Zoey is a knave, Ethan is a knight",
        "Michael is a knight. Michael is a knave. Zoey is a knave. Ethan is a knight",
        "If Michael is a knight, Zoey is a knave and Ethan is a knight",
        "Michael is a knight, Zoey is a knave, Ethan is either",
        GOLD + "\n" + "Michael is a knave, Zoey is a knight, and Ethan is a knave.",
        "Knights: Michael, Zoey, Ethan. Knaves: Michael, Zoey, Ethan.",
    ],
)
def test_contradictions_and_conditions_score_nothing(text: str) -> None:
    assert stated(text, NAMES) is None
    (score,) = judge([""], [f"<answer>{text}</answer>"], answer=[GOLD], names=[NAMES])
    assert score == Score(0.0, Status.SCORED, "contradictory or conditional")


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("", Score(0.0, Status.UNPARSEABLE, "no answer found")),
        (GOLD, Score(0.0, Status.UNPARSEABLE, "no answer found")),
        ("<answer>knight, knave, knight</answer>", Score(0.0, Status.UNPARSEABLE, "nobody is given a kind")),
        ("<answer>Michael, Zoey and Ethan</answer>", Score(0.0, Status.UNPARSEABLE, "nobody is given a kind")),
        ("<answer>Michael is a knight</answer>", Score(0.0, detail="not everyone is given a kind")),
        ("<answer>Michaela is a knight, Zoey is a knave, Ethan is a knight</answer>",
         Score(0.0, detail="not everyone is given a kind")),
    ],
)  # fmt: skip
def test_what_is_left_out_is_said(text: str, score: Score) -> None:
    assert judge([""], [text], answer=[GOLD], names=[NAMES]) == [score]


def test_without_marks_the_text_behind_the_thought_is_read_if_the_recipe_says_so() -> None:
    text = f"<think>Michael is a knave</think>So: {GOLD}"
    row: dict[str, Any] = {"answer": [GOLD], "names": [NAMES]}
    assert judge([""], [text], **row)[0].value == 0
    assert judge([""], [text], **row, marked=False)[0].value == 1
    assert judge([""], [f"<think>{GOLD}"], **row, marked=False)[0].value == 0


def test_the_gold_may_be_text_alone_or_booleans() -> None:
    texts = [f"<answer>{GOLD}</answer>"] * 2
    assert [one.value for one in judge([""] * 2, texts, answer=[GOLD] * 2)] == [1, 1]
    solution = [True, False, True]
    rows: dict[str, Any] = {"names": [NAMES] * 2, "answer": [solution, solution[::-1]]}
    assert [one.value for one in judge([""] * 2, texts, **rows)] == [1, 1]
    rows["answer"] = [[False, False, True]] * 2
    assert [one.value for one in judge([""] * 2, texts, **rows)] == [0, 0]


@pytest.mark.parametrize(
    ("gold", "names"), [("42", None), (None, NAMES), ([True], NAMES), (GOLD, ["Michael", "Ann"])]
)
def test_a_row_without_a_usable_gold_is_named(gold: Any, names: Any) -> None:
    with pytest.raises(ValueError, match="knights_knaves needs, in the column 'answer'"):
        judge([""], [f"<answer>{GOLD}</answer>"], answer=[gold], names=[names])


ROLE_OF = {True: "a knight", False: "a knave"}


@settings(max_examples=100, deadline=None)
@given(
    kinds=st.lists(st.booleans(), min_size=3, max_size=3),
    order=st.permutations(range(3)),
    separator=st.sampled_from([", ", "; ", ".\n", "\n", " and ", ". "]),
)
def test_every_assignment_is_read_in_every_order(
    kinds: list[bool], order: list[int], separator: str
) -> None:
    text = separator.join(f"{NAMES[k]} is {ROLE_OF[kinds[k]]}" for k in order)
    assert stated(text, NAMES) == dict(zip(NAMES, kinds, strict=True))


@settings(max_examples=200, deadline=None)
@given(
    text=st.lists(
        st.sampled_from([*NAMES, "knight", "knaves", "is", "not", "a", ":", ",", ".", "\n", "and", "|", "true", "é"]),
        max_size=40,
    ).map(" ".join)
)  # fmt: skip
def test_no_answer_makes_it_raise(text: str) -> None:
    (score,) = judge([""], [f"<answer>{text}</answer>"], answer=[GOLD], names=[NAMES])
    assert score.value == float(stated(text, NAMES) == RIGHT)


def test_long_answers_end() -> None:
    for text in ("Michael " * 50_000, "is a knight" * 50_000, "a\n" * 100_000, "not " * 50_000):
        assert judge([""], [f"<answer>{text}</answer>"], answer=[GOLD])[0].value == 0


# --- what the puzzles say ---------------------------------------------------------------------------------------------

PUZZLE = (
    "A very special island is inhabited only by knights and knaves. You meet 2 inhabitants: Zoey, and Ethan. {} "
    "So who is a knight and who is a knave?"
)


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ('Zoey said, "Ethan is a knave". "Zoey is not a knave," Ethan claimed.',
         [Claim("Zoey", ("Ethan", False)), Claim("Ethan", ("Zoey", True))]),
        ("Zoey told you that if Ethan is a knight then Zoey is a knave. \"Zoey is a knight or Ethan is a knave\" - Ethan.",
         [Claim("Zoey", ("Ethan", True), "then", ("Zoey", False)), Claim("Ethan", ("Zoey", True), "or", ("Ethan", False))]),
        ("According to Zoey, \"Ethan is a knight if and only if Zoey is not a knight\". In Ethan's words: \"Zoey is a knave and Ethan is a knight\".",
         [Claim("Zoey", ("Ethan", True), "if and only if", ("Zoey", False)), Claim("Ethan", ("Zoey", False), "and", ("Ethan", True))]),
    ],
)  # fmt: skip
def test_claims_are_read_with_their_speakers(said: str, found: list[Claim]) -> None:
    assert claims(PUZZLE.format(said), ["Zoey", "Ethan"]) == found


@pytest.mark.parametrize(
    "said",
    [
        "",
        'Zoey said, "Ethan is a knave". Ethan agreed with Zoey.',
        'Zoey said, "Ethan is a knave". "Exactly one of us is a knight," Ethan claimed.',
        'Zoey said, "Ethan is a knave". And also, "Zoey is a knight".',
        'Zoey said, "If Ethan is a knave".',
    ],
)
def test_a_puzzle_that_cannot_be_read_in_full_is_not_read_at_all(said: str) -> None:
    assert claims(PUZZLE.format(said), ["Zoey", "Ethan"]) is None


@pytest.mark.parametrize(
    ("connective", "true"),
    [
        ("and", [False, True, False, False]),
        ("or", [True, True, False, True]),
        ("then", [False, True, True, True]),
        ("if and only if", [False, True, True, False]),
    ],
)
def test_connectives_have_their_truth_tables(connective: str, true: list[bool]) -> None:
    """A is a knight, B a knave; the claims call them knight and knight, knight and knave, knave and knight, two knaves."""
    cases = itertools.product([True, False], repeat=2)
    said = [Claim("A", ("A", a), connective, ("B", b)) for a, b in cases]
    assert [one.holds({"A": True, "B": False}) for one in said] == true


def test_of_several_solutions_every_one_is_right() -> None:
    puzzle = PUZZLE.format('Zoey said, "Ethan is a knight". "Zoey is a knight," Ethan claimed.')
    both = {"yes": "Zoey is a knight, Ethan is a knight", "no": "Zoey is a knave, Ethan is a knave"}
    texts = [
        f"<answer>{text}</answer>"
        for text in [*both.values(), "Zoey is a knave, Ethan is a knight"]
    ]
    rows: dict[str, Any] = {"answer": [both["yes"]] * 3}
    assert [one.value for one in judge([""] * 3, texts, **rows, question=[puzzle] * 3)] == [1, 1, 0]
    assert [one.value for one in judge([""] * 3, texts, **rows)] == [1, 0, 0]


def test_a_question_that_contradicts_the_gold_is_not_believed() -> None:
    puzzle = PUZZLE.format('Zoey said, "Ethan is a knight". "Zoey is a knight," Ethan claimed.')
    texts = [
        f"<answer>Zoey is a {a}, Ethan is a {b}</answer>"
        for a in ("knight", "knave")
        for b in ("knight", "knave")
    ]
    rows: dict[str, Any] = {
        "answer": ["Zoey is a knight, Ethan is a knave"] * 4,
        "question": [puzzle] * 4,
    }
    assert [one.value for one in judge([""] * 4, texts, **rows)] == [0, 1, 0, 0]


# --- real problems ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def problems(data_file: Callable[[str], Path]) -> list[dict[str, Any]]:
    files = [data_file(f"knights_knaves/people{people}.jsonl") for people in range(3, 8)]
    rows = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    assert len(rows) == 5_000
    return rows


def graded(rows: list[dict[str, Any]], texts: list[str]) -> list[float | None]:
    scores = judge(
        [row["quiz"] for row in rows],
        texts,
        answer=[row["solution_text"] for row in rows],
        names=[row["names"] for row in rows],
        question=[row["quiz"] for row in rows],
    )
    return [one.value for one in scores]


def test_the_statements_of_every_real_puzzle_have_one_solution_the_gold_one(
    problems: list[dict[str, Any]],
) -> None:
    for row in problems[::5]:
        names, said = row["names"], claims(row["quiz"], row["names"])
        assert said is not None and [one.speaker for one in said] == names, row["quiz"]
        right = [
            list(kinds)
            for kinds in itertools.product([True, False], repeat=len(names))
            if consistent(said, dict(zip(names, kinds, strict=True)))
        ]
        assert right == [row["solution"]], row["quiz"]


def by_kind(row: dict[str, Any]) -> str:
    """The knights in a list, then the knaves."""
    knights = [name for name, knight in zip(row["names"], row["solution"], strict=True) if knight]
    knaves = [name for name in row["names"] if name not in knights]
    return f"Knights: {', '.join(knights) or 'none'}\nKnaves: {', '.join(knaves) or 'none'}"


@pytest.mark.slow
def test_every_real_gold_answer_is_right_and_another_problems_is_wrong(
    problems: list[dict[str, Any]],
) -> None:
    golds = [
        f"<think>Let us see.</think><answer>{row['solution_text']}</answer>" for row in problems
    ]
    lists = [f"<answer>\n{row['solution_text_format']}\n</answer>" for row in problems]
    kinds = [f"So \\boxed{{\\text{{{by_kind(row)}}}}}." for row in problems]
    for texts in (golds, lists, kinds):
        assert graded(problems, texts) == [1.0] * 5_000
    # The right kinds in another problem's order, said of this problem's people.
    for row, other in zip(problems, problems[1:] + problems[:1], strict=True):
        if len(row["names"]) == len(other["names"]) and row["solution"] != other["solution"]:
            told = dict(zip(row["names"], other["solution"], strict=True))
            text = ", ".join(f"{name} is {ROLE_OF[knight]}" for name, knight in told.items())
            assert graded([row], [f"<answer>{text}</answer>"]) == [0.0], (row["quiz"], text)
    assert graded(problems, golds[1:] + golds[:1]) == [0.0] * 5_000


def test_a_hundred_real_gold_answers_of_each_size(problems: list[dict[str, Any]]) -> None:
    rows = problems[::10]
    assert graded(rows, [f"<answer>{row['solution_text']}</answer>" for row in rows]) == [1.0] * 500
    assert (
        graded(rows, [f"<answer>{row['solution_text']}</answer>" for row in rows[::-1]])
        == [0.0] * 500
    )
    assert [inhabitants(row["solution_text"]) for row in rows] == [row["names"] for row in rows]
