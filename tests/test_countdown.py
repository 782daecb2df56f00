"""Countdown: the parser of expressions against trees of known value, its bounds, and the reward on reasoning-gym's rows."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlcurric.registry import registry
from rlcurric.rewards.expressions import (
    MAX_CHARACTERS,
    MAX_DEPTH,
    ExpressionError,
    parse_equation,
    parse_expression,
)
from rlcurric.rewards.protocol import discover_builtin
from rlcurric.types import Score, Status

discover_builtin()
countdown: Callable[..., list[Score]] = registry("reward").get("countdown").function

Tree = int | tuple[str, Any, Any]
BINDS = {"+": 1, "-": 1, "*": 2, "/": 2}

trees = st.recursive(
    st.integers(0, 99),
    lambda inner: st.tuples(st.sampled_from("+-*/"), inner, inner),
    max_leaves=12,
)


def value(tree: Tree) -> Fraction | None:
    """Computed on the tree, without the text."""
    if isinstance(tree, int):
        return Fraction(tree)
    operator, a, b = tree[0], value(tree[1]), value(tree[2])
    if a is None or b is None or (operator == "/" and b == 0):
        return None
    return {"+": a + b, "-": a - b, "*": a * b}[operator] if operator != "/" else a / b


def leaves(tree: Tree) -> list[int]:
    return [tree] if isinstance(tree, int) else leaves(tree[1]) + leaves(tree[2])


def shortest(tree: Tree) -> str:
    """With the brackets that it needs and no other."""
    if isinstance(tree, int):
        return str(tree)
    operator, left, right = tree
    a, b = shortest(left), shortest(right)
    if isinstance(left, tuple) and BINDS[left[0]] < BINDS[operator]:
        a = f"({a})"
    if isinstance(right, tuple) and BINDS[right[0]] <= BINDS[operator]:
        b = f"({b})"
    return a + operator + b


def bracketed(tree: Tree) -> str:
    return (
        str(tree)
        if isinstance(tree, int)
        else f"({bracketed(tree[1])}{tree[0]}{bracketed(tree[2])})"
    )


def latex(tree: Tree) -> str:
    if isinstance(tree, int):
        return str(tree)
    operator, a, b = tree[0], latex(tree[1]), latex(tree[2])
    if operator == "/":
        return rf"\frac{{{a}}}{{{b}}}"
    return rf"\left({a} {operator.replace('*', chr(92) + 'times')} {b}\right)"


def spaced(tree: Tree) -> str:
    return " ".join(shortest(tree)) if all(leaf < 10 for leaf in leaves(tree)) else shortest(tree)


def other_signs(tree: Tree) -> str:
    return shortest(tree).translate(str.maketrans("*/-()", "×÷−[]"))


def full_width(tree: Tree) -> str:
    return shortest(tree).translate({ord(c): ord(c) + 0xFEE0 for c in "0123456789+-*/()"})


PRINTERS = (shortest, bracketed, latex, spaced, other_signs, full_width)


@settings(max_examples=300, deadline=None)
@given(tree=trees, printer=st.sampled_from(PRINTERS))
def test_every_printed_tree_has_the_value_of_the_tree(
    tree: Tree, printer: Callable[[Tree], str]
) -> None:
    found = parse_expression(printer(tree))
    assert found.value == value(tree)
    assert [int(number) for number in found.numbers] == leaves(tree)


@settings(max_examples=300, deadline=None)
@given(tree=trees, goal=st.integers(-50, 50))
def test_the_verdict_is_the_trees_value_whatever_the_spelling(tree: Tree, goal: int) -> None:
    right = value(tree)
    for target in (goal, right if right is not None else goal):
        texts = [rf"<answer>{printer(tree)}</answer>" for printer in PRINTERS]
        rows = {"nums": [leaves(tree)] * len(texts), "target": [str(target)] * len(texts)}
        wanted = float(right == Fraction(target))
        assert {one.value for one in countdown([""] * 6, texts, **rows)} == {wanted}


@settings(max_examples=500, deadline=None)
@given(
    text=st.one_of(
        st.text(max_size=200),
        st.text(alphabet="0123456789+-*/()=.,xX {}[]\\fracdiv٣²½\n", max_size=400),
    )
)
def test_no_text_makes_it_raise(text: str) -> None:
    try:
        parse_equation(text)
    except ExpressionError:
        pass
    (score,) = countdown([""], [f"<answer>{text}</answer>"], nums=[[3, 7]], target=[21])
    assert score.value in (0.0, 1.0)


@pytest.mark.parametrize(
    "text",
    ["(" * 10**6, "-" * 10**6 + "1", "1/" * 10**6, "9" * 10**6, "1+" * 400 + "1" + ")" * 300, "(" * 99 + "1" + ")" * 99,
     "9**9**9**9", "1" + "/3" * 450, r"\frac{1}{" * 90, "=" * 10**5],
)  # fmt: skip
def test_long_and_deep_texts_are_refused_or_computed_and_end(text: str) -> None:
    for marked in (f"<answer>{text}</answer>", f"\\boxed{{{text}}}", text):
        (score,) = countdown([""], [marked], nums=[[3, 7]], target=[21])
        assert score.value == 0.0


def test_the_bounds_are_where_they_are_said_to_be() -> None:
    assert parse_expression("(" * MAX_DEPTH + "1" + ")" * MAX_DEPTH).value == 1
    with pytest.raises(ExpressionError, match="deeper than 50"):
        parse_expression("(" * (MAX_DEPTH + 1) + "1" + ")" * (MAX_DEPTH + 1))
    assert parse_expression("1" * MAX_CHARACTERS).value == int("1" * MAX_CHARACTERS)
    with pytest.raises(ExpressionError, match="longer than 1000"):
        parse_expression("1" * (MAX_CHARACTERS + 1))


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("1/3+1/3+1/3", 1), ("0.1+0.2", Fraction(3, 10)), ("8-3-2", 3), ("8/4/2", 1), ("2-3*4", -10), ("-3+5", 2),
        ("2*-3", -6), ("1,000+24", 1024), (".5*4", 2), ("٣+٤", 7), ("3 x 4", 12), (r"$3 \cdot 4$", 12), (r"\[3\div4\]", Fraction(3, 4)),
        ("6/(1-3/4)", 24), ("1/0", None), ("1/(2-2)+3", None), (r"\{[(1+2)]\}*3", 9),
    ],
)  # fmt: skip
def test_values_are_exact(text: str, result: Fraction | int | None) -> None:
    assert parse_expression(text).value == result


@pytest.mark.parametrize(
    "text",
    ["", " ", "2^3", "2**3", "3²", "2½", "2(3+4)", "(2)(3)", "1 2", "3!", "sqrt(4)", "abs(-1)", "1+", "(1", "1)", "1e3",
     "1,00", "1_0", "__import__('os')", "a", "1;2", r"\sqrt{4}", r"\frac12", "3 or 4", "5%", "²"],
)  # fmt: skip
def test_what_is_no_expression_is_refused(text: str) -> None:
    with pytest.raises(ExpressionError):
        parse_expression(text)


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        ("(25-1)*3+2", 1.0),
        ("2 + 3 * (25 − 1)", 1.0),
        ("(25-1)*3+2 = 74", 1.0),
        ("74 = (25-1)*3+2", 1.0),
        ("(25-1)*3+2.", 1.0),
        ("(25-1)*3+2 = 75", 0.0),  # the target is met, and the claim is wrong
        ("74", 0.0),  # not from the numbers
        ("25*3-1", 0.0),  # the value is right, one number is left out
        ("25*3-1+2-2", 0.0),  # a number twice
        ("25*3-2+1", 1.0),
        ("25*3-1*2+1", 0.0),
        ("25*3-2", 0.0),
        ("24*3=72, 72+2=74", 0.0),
        ("none", 0.0),
        ("", 0.0),
    ],
)
def test_every_number_is_used_once_and_the_target_is_met(answer: str, verdict: float) -> None:
    rows: dict[str, Any] = {"nums": [[1, 2, 3, 25]], "target": [74]}
    for text in (f"<answer>{answer}</answer>", f"<think>25*3</think>so \\boxed{{{answer}}}"):
        assert countdown([""], [text], **rows)[0].value == verdict


def test_numbers_may_be_left_out_where_the_recipe_says_so() -> None:
    texts = ["<answer>25*3-1</answer>", "<answer>25*3-1+2-2</answer>", "<answer>75-1</answer>"]
    rows: dict[str, Any] = {"nums": [[1, 2, 3, 25]] * 3, "target": [74] * 3}
    assert [one.value for one in countdown([""] * 3, texts, **rows, use="some")] == [1, 0, 0]
    assert [one.value for one in countdown([""] * 3, texts, **rows)] == [0, 0, 0]


def test_operators_can_be_fewer() -> None:
    row: dict[str, Any] = {"nums": [[2, 3]], "target": [6]}
    assert countdown([""], ["<answer>2*3</answer>"], **row)[0].value == 1
    assert countdown([""], ["<answer>2*3</answer>"], **row, operators="+-")[0].value == 0
    with pytest.raises(ValueError, match=r"operators out of"):
        countdown([""], ["<answer>2*3</answer>"], **row, operators="^")


def test_no_answer_and_no_expression_are_unparseable() -> None:
    row: dict[str, Any] = {"nums": [[2, 3]], "target": [6]}
    assert countdown([""], ["2*3 is 6"], **row)[0].status is Status.UNPARSEABLE
    (score,) = countdown([""], ["<answer>two times three</answer>"], **row)
    assert score.status is Status.UNPARSEABLE and score.detail.startswith(
        "no expression: unexpected"
    )


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"nums": [None], "target": [6]}, "a list of numbers in the column 'nums'"),
        ({"nums": [[2, "b"]], "target": [6]}, "numbers in the column 'nums', got 'b'"),
        ({"nums": [[2, -3]], "target": [6]}, "not negative"),
        ({"nums": [[2, 3]], "target": [None]}, "numbers in the column 'target', got None"),
    ],
)
def test_wrong_rows_are_named(row: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        countdown([""], ["<answer>2*3</answer>"], **row)


def test_generated_problems_accept_their_own_solutions_and_no_others() -> None:
    """Of reasoning-gym's generator: sympy printed the solutions, not we."""
    import reasoning_gym

    entries = list(reasoning_gym.create_dataset("countdown", size=400, seed=11))
    golds = [f"<think>try</think><answer>{entry['answer']}</answer>" for entry in entries]
    rows = {
        "nums": [entry["metadata"]["numbers"] for entry in entries],
        "target": [entry["metadata"]["target"] for entry in entries],
    }
    blank = [""] * len(entries)
    assert [one.value for one in countdown(blank, golds, **rows)] == [1.0] * len(entries)
    moved = golds[1:] + golds[:1]
    assert [one.value for one in countdown(blank, moved, **rows)] == [0.0] * len(entries)
