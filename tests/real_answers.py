"""The gold answers of the real problem sets, as models write them, and others that are wrong for them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

Find = Callable[[str], Path]


def gsm8k(find: Find) -> list[str]:
    lines = [
        line
        for part in ("train", "test")
        for line in find(f"gsm8k/{part}.jsonl").read_text().splitlines()
    ]
    return [json.loads(line)["answer"].rpartition("####")[2].strip() for line in lines]


def math(find: Find) -> list[str | None]:
    return [
        row["answer"]
        for part in ("train", "test500")
        for row in json.loads(find(f"math/{part}.json").read_text())
    ]


def aime(find: Find) -> list[str]:
    return [row["answer"] for row in json.loads(find("math/aime24.json").read_text())]


def svamp(find: Find) -> list[float]:
    return [row["Answer"] for row in json.loads(find("svamp/svamp.json").read_text())]


def numbers_written(answer: str | float) -> list[str]:
    """A whole number or a decimal in the ways of models."""
    plain = str(answer).replace(",", "")
    value = Fraction(plain)
    short = str(int(value)) if value.denominator == 1 else plain
    grouped = f"{int(value):,}" if value.denominator == 1 else plain
    return [
        f"<think>\nFirst 3, then 4.\n</think>\n\n<answer>{short}</answer>",
        f"<think>7 and 8</think> <answer> ${grouped}.00 </answer>"
        if value.denominator == 1
        else short,
        f"We get 12 of them.\nThe answer is $\\boxed{{{grouped}}}$.",
        f"It is \\(\\boxed{{{short}\\text{{ apples}}}}\\). I hope it is correct.",
        f"6 * 7 = 42\n#### {grouped}",
        f"**Answer:** she makes 2 trips, so the total is {grouped}.",
        f"<answer>The total is {short} dollars.</answer>",
    ]


def written(answer: str) -> list[str]:
    """A LaTeX answer in the ways of models: as it is, dressed up, pressed together, and in plain Unicode."""
    flat = answer.replace("\n", " ").strip()
    return [
        f"<think>\nLet us see: 3, then 4.\n</think>\n<answer>{flat}</answer>",
        f"Therefore, the final answer is $\\boxed{{{dressed(flat)}}}$.",
        f"So it is 17 at last.\n#### ${pressed(flat)}$",
        f"<answer>\\({plain(flat)}\\)</answer>",
    ]


def dressed(text: str) -> str:
    """Display fractions, stretched brackets, other matrices, spaces."""
    for pattern, other in [
        (r"\\[dt]?frac(?![a-z])", r"\\dfrac"),
        (r"\\(?:mbox|textnormal)\{", r"\\text{"),
        (r",\\!|\{,\}", ","),
        (r"pmatrix", "bmatrix"),
        (r"(?<!\\left)(?<!\\right)\(", r"\\left("),
        (r"(?<!\\right)\)", r"\\right)"),
        (r"\^\\circ", r"^{\\circ}"),
        (r"(?<=[\w}])\s*([+=])\s*(?=[\w\\])", r" \1 "),
    ]:
        text = re.sub(pattern, other, text)
    return text


def pressed(text: str) -> str:
    """No more white space than TeX needs."""
    text = re.sub(r"\\left|\\right(?![a-z])|(?<!\\)\\[!, ]", "", text)
    text = re.sub(r"\\tfrac|\\dfrac", r"\\frac", text)
    parts = re.split(r"(\\(?:text|mbox|textnormal)\{[^}]*\})", text)
    return "".join(
        part
        if part.startswith("\\") and "{" in part and k % 2
        else re.sub(r"(?<![a-zA-Z\\\d])\s+|\s+(?![a-zA-Z\d])", "", part)
        for k, part in enumerate(parts)
    )


def plain(text: str) -> str:
    """Unicode and ASCII in the place of commands."""
    for pattern, other in [
        (r"\\[dt]?frac\{(\d+)\}\{(\d+)\}(?!\s*[\\\w(])", r" \1/\2"),
        (r"\\pi(?![a-z])\s*", "π"),
        (r"\\sqrt\{(\d+)\}", r"√\1 "),
        (r"\^\{?\\circ\}?", "°"),
        (r"\\infty(?![a-z])", "∞"),
        (r"\\cup(?![a-z])", "∪"),
        (r"\\cdot(?![a-z])", "·"),
        (r"\\leq?(?![a-z])", "≤"),
        (r"\\pm(?![a-z])", "±"),
        (r"\\%", "%"),
        (r"\\\$\s*", "$"),
        (r",\\!|\{,\}", ","),
        (r"\^(?:\{2\}|2(?!\d))", "²"),
        (r"-", "−"),
        (r"^\\(?:text|mbox)\{([^}]*)\}$", r"\1"),
    ]:
        text = re.sub(pattern, other, text)
    return text.strip()


def key(answer: str | float) -> str:
    """Two answers with different keys are surely different ones, as far as reading can tell.

    Bases, units, signs of percent and the like are left out: those who grade leniently pass over them.
    """
    text = re.sub(r"\\[dt]frac", r"\\frac", str(answer))
    text = re.sub(r"(?<=\d)\s*\\(?:text|mbox|textnormal)\{[^}]*\}(?:\^2)?$", "", text.strip())
    text = re.sub(r"\\(?:text|mbox|textnormal)\{([^}]*)\}|^\w{1,2}\s*=\s*", r"\1", text)
    text = re.sub(r"\^\{?\\circ\}?|\\(?:left|right|%|\$|!|,|;| )|[\s$%.]+$", "", text)
    text = text.replace("{,}", ",")
    try:
        return str(Fraction(text.replace(",", "").replace("$", "").strip()))
    except (ValueError, ZeroDivisionError):
        return re.sub(r"[\s{}$]|_\d+$", "", text).lower()


def others(answers: list[str]) -> Iterator[tuple[str, str]]:
    """Each answer, and the answer of one of the next problems that is a different one."""
    keys = [key(answer) for answer in answers]
    for k, answer in enumerate(answers):
        step = next(s for s in range(1, len(answers)) if keys[(k + s) % len(answers)] != keys[k])
        yield answer, answers[(k + step) % len(answers)]
