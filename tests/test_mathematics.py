"""Mathematical answers: what is equal, what is not, however it is written; and every answer of the real sets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from rlcurric.rewards.latex import clean
from rlcurric.rewards.mathematics import grade, same
from rlcurric.rewards.quantities import quantity, unit_of
from rlcurric.rewards.symbolic import explodes
from rlcurric.types import Score, Status
from tests import real_answers

# What is right for a gold answer, and what is wrong though it looks alike. The graders that are known for each mistake
# are those of the issues of math-verify and of public training code.
ANSWERS: list[tuple[str, list[str], list[str]]] = [
    # numbers
    ("18", ["18", "$18", r"\$18.00", "+18", "018", "18.", "(18)", "eighteen", "x = 18", "9+9=18", r"3 \cdot 6 = 18"], ["9+8=18", "9+9=19", "19", "-18", "1 8", "1.8", "2=18", "18 or 19", "18x", ""]),
    ("1000", ["1,000", r"1{,}000", r"1,\!000", r"1\,000", "1 000", "1e3", r"1 \times 10^3", r"10^{3}", "1000.0"], ["1,00", "100", "1.000", "10,000"]),
    ("0.5", ["1/2", r"\frac12", r"\dfrac{1}{2}", "½", ".5", "50%", r"50\%", "0.50"], ["0.05", "5", "2", r"\frac{1}{5}"]),
    ("5/2", ["2.5", r"2\frac{1}{2}", "2 1/2", "2½", r"\frac{-5}{-2}", r"\frac{10}{4}"], ["2", "1", r"\frac{2}{5}", "21/2"]),
    ("1/3", [r"\frac{1}{3}", "0.333333", "0.3333333333", r"\tfrac13"], ["0.33", "0.333334", "0.3", "3"]),
    ("-5", ["−5", "(-5)", "- 5", r"-\frac{10}{2}"], ["5", "--5", "+5"]),
    (r"50\%", ["50%", "50", "0.5", "50 percent", r"\frac{1}{2}", r"50\text{ percent}"], ["0.5%", "5", "0.05", "500"]),
    ("0.0000001", ["1e-7", r"10^{-7}"], ["0.0000002", "0"]),
    (r"\frac{1}{2^{99}}", [r"2^{-99}"], [r"\frac{1}{2^{98}}"]),
    (r"\frac{1}{2004!}", [], [r"\frac{1}{2006!}"]),
    ("2^{2008}-2", [r"2(2^{2007}-1)"], ["2^{2008}-3", "2^{2008}"]),
    ("10000000000000000000000", ["10^{22}"], ["10000000000000000000001"]),
    (r"0.56 = 56\%", ["56%", "0.56"], ["0.57"]),
    (r"\$\dfrac23 \approx \$0.67", [r"\frac{2}{3}", "0.67"], ["0.68", "3/2"]),
    ("0", ["0.0", "-0", "zero"], ["5/0", "1/0", "00001", r"\infty"]),
    # units and money
    (r"10\text{ cm}", ["10", "10 cm", "10cm", r"10\,\mathrm{cm}", "10 centimeters"], ["10 inches", "11 cm", r"10\text{ cm}^2"]),
    (r"15\mbox{ cm}^2", ["15", "15 square cm", r"15\text{ sq. cm}", "15 cm^2", "15 cm²"], ["15 cm^3", "16"]),
    (r"6\frac{1}{6}\text{ feet}", [r"\frac{37}{6}", "6 1/6 ft"], [r"\frac{36}{6}", "6 1/6 yards"]),
    (r"30^\circ", ["30", "30°", "30 degrees", r"30^{\circ}"], ["31", "30 radians"]),
    (r"5\text{ m}", ["5", "5 m", "5m"], ["5 km", "6 m"]),
    ("5m", ["5 m", r"5 \cdot m"], ["5", "5n"]),
    (r"5.4 \text{ cents}", ["5.4", "5.4 cents"], ["5.4 dollars"]),
    (r"12\sqrt{13}\text{ feet}", [r"12\sqrt{13}", "12√13 ft"], [r"13\sqrt{12}"]),
    # times and ratios
    ("9:24", ["9:24", "09:24", "9:24 p.m.", r"9\!:\!24"], ["9:25", "24:9", "924"]),
    (r"8\!:\!34 \text{ p.m.}", ["8:34", "8:34 PM"], ["8:34 a.m."]),
    ("3:5", ["3 : 5", r"\frac{3}{5}"], ["5:3", "3", "0.61"]),
    # lists, tuples, sets, intervals
    ("3, -3", ["-3, 3", r"\pm 3", "3 and -3", r"3 \text{ or } -3", r"\{3,-3\}", "(3,-3)", "x=3, x=-3"], ["3", "3, 3", "3,-3,0", "3,-4"]),
    (r"\pm 2021", ["2021, -2021"], ["2021"]),
    ("(1,2)", ["(1, 2)", r"\left(1,2\right)", "(1.0, 4/2)", "x=1, y=2", "(x,y)=(1,2)"], ["(2,1)", "[1,2]", "(1,2,3)", "1"]),
    ("[0,1)", [r"\left[0,1\right)", r"0\le x<1", r"x \in [0,1)"], ["[0,1]", "(0,1)", "0<x<1", "0", "(0,1]"]),
    (r"(-\infty,3] \cup [4,\infty)", [r"x\le 3 \text{ or } x\ge 4", "[4,∞) ∪ (−∞,3]"], [r"(-\infty,3) \cup [4,\infty)", r"(-\infty,3]"]),
    (r"m \geq \sqrt{2}", [r"[\sqrt{2}, \infty)", r"\sqrt2 \le m"], [r"(\sqrt{2}, \infty)", r"\sqrt{2}"]),
    (r"19, 46, \text{ and } 82", ["19, 46, and 82", "82,46,19"], ["21, 36, and 82", "82"]),
    ("n=2, 3, 4", ["2,3,4"], ["n=1, 2, 3", "4"]),
    (r"\{1\pm\sqrt{5},-2\}", [r"-2, 1+\sqrt5, 1-\sqrt5"], [r"1+\sqrt5, -2"]),
    # matrices and vectors
    (r"\begin{pmatrix} 1/2 \\ -3 \end{pmatrix}", [r"\begin{bmatrix}0.5\\-3\end{bmatrix}", r"(\frac12,-3)"], [r"\begin{pmatrix} -3 \\ 1/2 \end{pmatrix}", r"\begin{pmatrix} 1/2 & -3 \end{pmatrix}", "(1/2, 3)"]),
    (r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", [r"\begin{array}{cc}1&2\\3&4\end{array}"], [r"\begin{pmatrix} 1 & 3 \\ 2 & 4 \end{pmatrix}", r"\begin{pmatrix} 1 & 2 \end{pmatrix}", "(1,2,3,4)", "10"]),
    # other bases
    ("1011_2", ["1011_{2}", "1011"], ["1011_3", "1101_2", "11"]),
    (r"\text{A5}_{11}", ["A5_{11}", r"\text{A5}_{11}"], ["A6_{11}", "A5_{12}"]),
    # expressions and equations
    (r"\frac{1}{\sqrt{2}}", [r"\frac{\sqrt2}{2}", "√2/2", "0.70710678"], ["0.707", r"\sqrt{2}", r"-\frac{\sqrt2}{2}"]),
    (r"(x+1)^2", ["x^2+2x+1", "(1+x)²", r"(x+1)\cdot(x+1)"], ["x^2+1", "x^2+2x", "(y+1)^2"]),
    ("y=2x+3", ["2x+3", "y = 3 + 2x", "2x-y+3=0"], ["y=2x+4", "y=3", "2x"]),
    ("2x + z - 5 = 0", ["4x+2z=10", "2x+z=5"], ["2x+z=6", "2x + z - 5", "0"]),
    (r"1 - \frac{1}{\mathrm{e}}", ["1-e^{-1}", r"\frac{e-1}{e}"], [r"1 + \frac{1}{\mathrm{e}}"]),
    (r"\tan 15^\circ", [r"2-\sqrt{3}", r"\tan(15^\circ)"], ["15", r"\tan 30^\circ"]),
    ("-8 + 2i", ["2i-8", r"-8+2\mathrm{i}"], ["8+2i", "-8", "-8-2i"]),
    (r"\log\left(\frac{2007}{2006}\right)", [r"\log\frac{2007}{2006}"], [r"\frac{2007}{2006}", "2007"]),
    (r"F_n = \sum_{k=0}^{n-1} F_k F_{n-k-1}", [], [r"F_n = \sum_{k=0}^{n-2} F_k F_{n-k-2}"]),
    ("4", [r"\sqrt{16}", "2^2", r"\binom{4}{1}"], [r"4\sqrt(2)", r"4\pi", "4x"]),
    # words
    (r"\text{Tuesday}", ["Tuesday", "tuesday", r"\textbf{Tuesday}.", r"\mathrm{Tuesday}"], ["Monday", "Tues", "2"]),
    (r"\text{(C)}", ["C", "(C)", r"\textbf{(C)}", "c"], ["B", "(B)", "C, D"]),
    (r"\text{A, B}", ["A,B", "B and A", r"\text{B}, \text{A}"], ["A", "A, C"]),
    (r"\mbox{four}", ["4", "four"], ["5", "five"]),
    (r"\text{even}", ["even"], ["odd"]),
]  # fmt: skip
RIGHT = [(gold, given) for gold, rights, _ in ANSWERS for given in rights]
WRONG = [(gold, given) for gold, _, wrongs in ANSWERS for given in wrongs]


@pytest.mark.parametrize(("gold", "given"), RIGHT)
def test_the_same_answer_in_another_spelling_is_right(gold: str, given: str) -> None:
    assert same(given, gold)


@pytest.mark.parametrize(("gold", "given"), WRONG)
def test_another_answer_is_wrong_however_like_it_looks(gold: str, given: str) -> None:
    assert not same(given, gold)


# --- metamorphic: what changes the text and not the answer changes no verdict -------------------------------------------

TRANSFORMATIONS: dict[str, Callable[[str], str]] = {
    "as it is": lambda a: f"<answer>{a}</answer>",
    "white space": lambda a: f"\n\n  <answer> \n\t {a} \n </answer>\n\n ",
    "thought first": lambda a: f"<think>Is it 77? \\boxed{{78}} #### 79</think><answer>{a}</answer>",
    "tag inside out": lambda a: f"<answer>$\\boxed{{{a}}}$</answer>",
    "tag after a box": lambda a: f"\\boxed{{77}} <answer>{a}</answer> #### 78",
    "box after hashes": lambda a: f"#### 77\n so \\boxed{{{a}}} it is, 78",
    "trailing text": lambda a: f"\\boxed{{{a}}}. I hope it is correct. Checked in 3 ways, 100% sure.",
    "trailing tag": lambda a: f"<answer>{a}</answer></answer> 5",
    "an earlier try": lambda a: f"<answer>77</answer> No. <answer>{a}</answer>",
    "an empty tag behind": lambda a: f"<answer>{a}</answer> <answer> </answer>",
    "repeated box": lambda a: f"\\boxed{{{a}}} so $\\boxed{{{a}}}$",
    "hashes": lambda a: f"3 + 4 = 7\n#### {a}\n",
    "dollars": lambda a: f"<answer>${a}$</answer>",
    "display": lambda a: f"<answer>\\[ {a} \\]</answer>",
    "markdown": lambda a: f"#### **{a}**",
    "full stop": lambda a: f"<answer>{a}.</answer>",
    "introduced": lambda a: f"<answer>The final answer is: {a}</answer>",
    "display style": lambda a: f"\\boxed{{\\displaystyle {a}}}",
    "full-width digits": lambda a: "<answer>" + a.translate(str.maketrans("0123456789", "０１２３４５６７８９")) + "</answer>",
    "Arabic digits": lambda a: "<answer>" + a.translate(str.maketrans("0123456789", "٠١٢٣٤٥٦٧٨٩")) + "</answer>",
    "minus sign": lambda a: f"<answer>{a.replace('-', '−')}</answer>",
    "stretched brackets": lambda a: "<answer>" + a.replace("(", "\\left(").replace(")", "\\right)") + "</answer>",
}  # fmt: skip
STURDY = [
    ("18", "18", "19"),
    ("70000", "70,000", "7,000"),
    ("-0.25", "-1/4", "-1/5"),
    (r"\frac{3}{4}", "0.75", "0.7"),
    (r"10\text{ cm}", "10 cm", "11 cm"),
    (r"2\sqrt{3}", r"\sqrt{12}", r"\sqrt{13}"),
    ("(3,-4)", "(3, -4)", "(-4, 3)"),
    ("x^2-1", "(x-1)(x+1)", "(x-1)(x-1)"),
    (r"\text{Friday}", "Friday", "Sunday"),
    ("3:5", "3:5", "5:3"),
]


@pytest.mark.parametrize("change", TRANSFORMATIONS)
@pytest.mark.parametrize(("gold", "right", "wrong"), STURDY)
def test_how_an_answer_is_presented_changes_no_verdict(
    gold: str, right: str, wrong: str, change: str
) -> None:
    present = TRANSFORMATIONS[change]
    assert grade(present(right), gold) == Score(1.0)
    assert grade(present(wrong), gold) == Score(0.0)


@pytest.mark.parametrize("number", [7, 12, 1234, 98765, 1234567, 40000000])
def test_separators_units_and_zeros_change_no_number(number: int) -> None:
    forms = [
        f"{number:,}", f"{number:,}".replace(",", "{,}"), f"{number:,}".replace(",", r",\!"), f"{number:,}".replace(",", r"\,"),
        f"{number:,}".replace(",", " "), f"{number}.00", f"${number:,}", rf"\${number}", f"{number} apples", f"{number:,} cm",
        rf"{number}\text{{ square units}}", f"{number}/1", rf"\frac{{{2 * number}}}{{2}}", f"0{number}", f"n = {number}",
    ]  # fmt: skip
    for form in forms:
        assert grade(f"<answer>{form}</answer>", str(number)) == Score(1.0), form
        assert grade(f"<answer>{form}</answer>", str(number + 1)) == Score(0.0), form
        assert grade(f"<answer>{number}</answer>", form) == Score(1.0), form


@pytest.mark.parametrize("decimals", [1, 2, 3, 4])
def test_fractions_and_decimals_are_the_same_numbers(decimals: int) -> None:
    below = 10**decimals
    for above in (1, 3, 7, 9, below + 1, 2 * below + 3):
        decimal = f"{above // below}.{above % below:0{decimals}d}"
        for fraction in (
            f"{above}/{below}",
            rf"\frac{{{above}}}{{{below}}}",
            rf"\dfrac{{{3 * above}}}{{{3 * below}}}",
        ):
            assert (
                same(decimal, fraction)
                and same(fraction, decimal)
                and same("-" + decimal, "-" + fraction)
            )
            assert not same(decimal, rf"\frac{{{above + 1}}}{{{below}}}") and not same(
                "-" + decimal, fraction
            )


# --- prose, no answer, no gold answer -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("completion", "gold", "score"),
    [
        ("<answer>She makes 18 dollars a day.</answer>", "18", Score(1.0)),
        ("<answer>She makes 18 dollars in 2 days.</answer>", "18", Score(0.0)),
        ("So it costs $18.", "18", Score(1.0)),
        ("So it is \\frac{1}{2}", "2", Score(0.0)),
        ("So it is \\frac{1}{2}", "0.5", Score(1.0)),
        ("$\\boxed{3}$ and $\\boxed{5}$", "3, 5", Score(1.0)),
        ("$\\boxed{3}$ or $\\boxed{5}$", "5", Score(0.0)),
        ("<think>It is 18", "18", Score(0.0, Status.UNPARSEABLE, "no answer found")),
        ("<think>\\boxed{18} but", "18", Score(1.0)),
        ("no idea", "18", Score(0.0, Status.UNPARSEABLE, "no answer found")),
        ("<answer>18</answer>", ["17", "18"], Score(1.0)),
        ("<answer>18</answer>", 18, Score(1.0)),
        ("<answer>18</answer>", 18.0, Score(1.0)),
    ],
)
def test_answers_in_sentences_and_none(completion: str, gold: Any, score: Score) -> None:
    assert grade(completion, gold) == score


@pytest.mark.parametrize("gold", [None, "", " ", []])
def test_a_row_without_an_answer_is_an_error_and_never_a_wrong_completion(gold: Any) -> None:
    score = grade("<answer>18</answer>", gold)
    assert (score.value, score.status) == (None, Status.ERROR) and "`answer`" in score.detail


def test_an_answer_that_is_a_mapping_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must be text.*got a mapping with \['text'\]"):
        grade("<answer>18</answer>", {"text": "18"})


# --- what must not hang -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bomb",
    [
        r"5^{\left(5^{\left(5^{\left(5^5\right)}\right)} - 4\right)}", "9^9^9^9", "9^{9^{9^9}}", "10^{10^{10}}", "(9^{999})^{9999}",
        "1000000!", "5!!!!", "(3!)!^{100}", r"\binom{100000}{50000}", "2^{99999999999}", "1e999999999", r"\frac{1}{10^{999999}}",
        "((((" * 300, "{" * 1000, r"\frac{" * 300, "1" * 1900, "x^2+" * 400 + "1", ",".join("1" * 500), r"\sqrt{" * 300 + "2" + "}" * 300,
    ],
)  # fmt: skip
def test_answers_that_would_take_all_time_or_memory_are_wrong_and_cheap(bomb: str) -> None:
    """Each takes milliseconds; had one reached sympy the test would not end."""
    assert not same(bomb, "7")
    assert not same(bomb, "x+7")


def test_no_text_makes_the_comparison_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random heaps of the marks that the code looks for, against gold answers of every kind."""
    monkeypatch.setattr("rlcurric.rewards.symbolic.equal", lambda given, gold: explodes(given))
    marks = r"\frac { } ( ) [ ] 1 2 0 , . = < \le \cup \pm \text{ and x \sqrt ^ _ \circ % $ \boxed{ <answer> #### - / * ! : \\ & \{"
    marks += r" \begin{pmatrix} \end{pmatrix} \approx \left cm ½ ² − 1,000 \! 10^{ \binom 3:4 _2"
    random = Random(0)
    for gold, _, _ in ANSWERS:
        for size in (2, 5, 12, 40):
            text = "".join(random.choices(marks.split(), k=size))
            assert grade(text, gold).value in (0.0, 1.0)
            assert grade(f"<answer>{text}</answer>", text).value in (0.0, 1.0, None)


def test_sizes_that_people_write_are_no_bombs() -> None:
    assert not any(
        explodes(text)
        for text in (
            "2^{2008}-2",
            "x^{11}+10x^9+7x^8",
            "20!",
            r"\binom{20}{10}",
            "a^{b^2}"[:1],
            "3^{500}",
        )
    )
    assert all(explodes(text) for text in ("2^{10^{10}}", "99999!", "2^{123456}", "3!!"))


def test_plain_answers_never_reach_sympy(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> bool:
        raise AssertionError("sympy was asked")

    monkeypatch.setattr("rlcurric.rewards.symbolic.equal", refuse)
    answers = [
        "18",
        "1,000",
        "-3/4",
        "0.5",
        r"\frac{1}{3}",
        "50%",
        "3, 5",
        "(1,2)",
        "10 cm",
        "9:24",
        "1011_2",
        "x=5",
        "[0,1]",
    ]
    answers += ["The total is 18 dollars.", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}"]
    equal = [{"0.5", "50%"}, {"(1,2)", answers[-1]}, {"18", answers[-2]}]
    for gold in answers[:-2]:
        for given in answers:
            score = grade(f"<answer>{given}</answer>", gold)
            assert score == Score(float(given == gold or {given, gold} in equal)), (given, gold)


# --- parts --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1,000", "1000"), ("7.50", "15/2"), ("007", "7"), ("-0", "0"), (".5", "1/2"), ("3.", "3"), ("1/2", "1/2"), ("10%", "10"),
        (r"\frac{-3}{4}", "-3/4"), (r"-\frac{3}{4}", "-3/4"), ("2 1/2", "5/2"), ("1.5e-3", "3/2000"), ("(5)", "5"), ("1 000 000", "1000000"),
        ("1,00", None), ("x", None), ("", None), ("1/0", None), ("2x", None), ("1,2", None), ("0,100", None), ("3 5/4", None),
        ("1e1000", None), ("9" * 500, None), ("(1", None),
    ],
)  # fmt: skip
def test_numbers_are_read_exactly(text: str, value: str | None) -> None:
    found = quantity(text)
    assert (None if found is None else str(found.value)) == value


@pytest.mark.parametrize(
    ("words", "unit"),
    [("cm", "centimetre"), (" square feet", "foot2"), ("ft^2", "foot2"), ("apples", ""), ("miles per hour", ""), ("p.m.", "pm")],
)  # fmt: skip
def test_units_have_one_name(words: str, unit: str) -> None:
    assert unit_of(words) == unit


def test_cleaning_is_done_when_it_is_done() -> None:
    for gold, rights, wrongs in ANSWERS:
        for text in (gold, *rights, *wrongs):
            assert clean(clean(text)) == clean(text)


# --- every answer of the real sets ----------------------------------------------------------------------------------------------

# Rows of MATH that nothing can be right for: the problem sets leave the answer out.
WITHOUT_ANSWER = 4


@pytest.mark.parametrize("name", ["gsm8k", "svamp", "aime"])
def test_a_sample_of_the_numbers_of_real_sets_is_graded(
    name: str, data_file: Callable[[str], Path]
) -> None:
    answers = list(getattr(real_answers, name)(data_file))
    check(answers[:: max(1, len(answers) // 150)], real_answers.numbers_written)


def test_a_sample_of_math_is_graded(data_file: Callable[[str], Path]) -> None:
    answers = [answer for answer in real_answers.math(data_file) if answer and answer.strip()]
    check(answers[::40], real_answers.written)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gsm8k", "svamp", "aime"])
def test_all_numbers_of_real_sets_are_graded(name: str, data_file: Callable[[str], Path]) -> None:
    check(list(getattr(real_answers, name)(data_file)), real_answers.numbers_written)


@pytest.mark.slow
def test_all_of_math_is_graded(data_file: Callable[[str], Path]) -> None:
    everything = real_answers.math(data_file)
    answers = [answer for answer in everything if answer and answer.strip()]
    assert len(everything) == 7_974 and len(everything) - len(answers) == WITHOUT_ANSWER
    check(answers, real_answers.written)


def check(answers: list[Any], write: Callable[[Any], list[str]]) -> None:
    """Each answer, in every way of writing it, is 1; the answer of another problem is 0."""
    failures = [
        f"{gold!r} written {text[-120:]!r}: {score}"
        for gold in dict.fromkeys(answers)
        for text in write(gold)
        if (score := grade(text, gold)) != Score(1.0)
    ]
    failures += [
        f"{other!r} for {gold!r}: {score}"
        for gold, other in dict.fromkeys(real_answers.others(answers))
        if (score := grade(f"<answer>{other}</answer>", gold)) != Score(0.0)
    ]
    assert not failures, "\n".join(failures)
