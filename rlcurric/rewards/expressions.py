r"""Arithmetic expressions in model text: read by a parser of its own and computed in fractions; nothing is evaluated.

    sum     = product { ("+" | "-") product }
    product = signed { ("*" | "/") signed }
    signed  = ("+" | "-") signed | atom
    atom    = number | "(" sum ")" | \frac "{" sum "}" "{" sum "}"

`×`, `·`, `÷`, `−` and their LaTeX commands, brackets and braces are other spellings. There are no powers and no juxtaposed
factors: `3²` and `2(3+4)` are refused, not guessed at. Length and depth are bounded, so is the time of every text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

MAX_CHARACTERS = 1_000
MAX_DEPTH = 50  # of brackets and signs

_SPELLINGS = str.maketrans(
    {
        **dict.fromkeys("×✕✖·⋅∙∗＊xX", "*"),
        **dict.fromkeys("÷∕⁄／", "/"),
        **dict.fromkeys("−–—－﹣", "-"),
        "＋": "+",
        "＝": "=",
        **dict.fromkeys("[{（", "("),
        **dict.fromkeys("]}）", ")"),
    }
)
_COMMANDS = {
    **dict.fromkeys((r"\times", r"\cdot", r"\ast"), "*"),
    r"\div": "/",
    r"\{": "(",
    r"\}": ")",
    **dict.fromkeys((r"\frac", r"\dfrac", r"\tfrac", r"\cfrac"), "frac"),
    **dict.fromkeys((r"\left", r"\right", r"\,", r"\;", r"\:", r"\!", r"\ ", r"\quad"), ""),
    **dict.fromkeys((r"\(", r"\)", r"\[", r"\]", "$"), ""),
}
_NUMBER = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?(?!\d)|\d+(?:\.\d+)?|\.\d+"
_TOKEN = re.compile(rf"\s*(?:({_NUMBER})|(\\[A-Za-z]+|\\.|\$)|(.))", re.DOTALL)


class ExpressionError(ValueError):
    """A text is no expression, with the reason."""


@dataclass(frozen=True)
class Expression:
    """What an expression comes to and what it is made of."""

    value: Fraction | None  # None: it divides by zero
    numbers: tuple[Fraction, ...]  # as written, in order, without signs
    operators: frozenset[str]  # of + - * /; a sign counts as its operator


def parse_expression(text: str) -> Expression:
    """Read an expression; ExpressionError for what is none, too long or too deep."""
    if len(text) > MAX_CHARACTERS:
        raise ExpressionError(f"longer than {MAX_CHARACTERS} characters")
    return _Parser(_tokens(text)).expression()


def parse_equation(text: str) -> tuple[Expression, Expression | None]:
    """An expression alone, or `expression = number` either way round: the expression and what it is said to be."""
    sides = text.strip().rstrip(".").translate(_SPELLINGS).split("=")
    if len(sides) > 2:
        raise ExpressionError("more than one equals sign")
    found = [parse_expression(side) for side in sides]
    if len(found) == 1:
        return found[0], None
    expression, claim = found if len(found[1].numbers) == 1 else reversed(found)
    if len(claim.numbers) != 1:
        raise ExpressionError("an equation needs a number on one side")
    return expression, claim


def _tokens(text: str) -> list[str]:
    """Numbers without separators, operators, brackets and `frac`."""
    found = []
    for number, command, other in _TOKEN.findall(text.rstrip()):
        if number:
            found.append(number.replace(",", ""))
        elif command:
            if command not in _COMMANDS:
                raise ExpressionError(f"unexpected {command!r}")
            found += [_COMMANDS[command]] if _COMMANDS[command] else []
        else:
            found.append(other.translate(_SPELLINGS))
    return found


class _Parser:
    """One pass over the tokens, with one token of foresight."""

    def __init__(self, tokens: list[str]) -> None:
        self._tokens, self._place, self._depth = tokens, 0, 0
        self._numbers: list[Fraction] = []
        self._operators: set[str] = set()

    def expression(self) -> Expression:
        value = self._sum()
        if self._next():
            raise ExpressionError(f"unexpected {self._next()!r}")
        return Expression(value, tuple(self._numbers), frozenset(self._operators))

    def _next(self) -> str:
        return self._tokens[self._place] if self._place < len(self._tokens) else ""

    def _take(self) -> str:
        token = self._next()
        self._place += 1
        return token

    def _expect(self, token: str) -> None:
        if self._take() != token:
            raise ExpressionError(f"{token!r} is missing")

    def _sum(self) -> Fraction | None:
        value = self._product()
        while self._next() in ("+", "-"):
            value = self._apply(self._take(), value, self._product())
        return value

    def _product(self) -> Fraction | None:
        value = self._signed()
        while self._next() in ("*", "/"):
            value = self._apply(self._take(), value, self._signed())
        return value

    def _signed(self) -> Fraction | None:
        if self._next() not in ("+", "-"):
            return self._atom()
        sign = self._take()
        self._operators.add(sign)
        self._go_deeper()
        value = self._signed()
        self._depth -= 1
        return -value if sign == "-" and value is not None else value

    def _atom(self) -> Fraction | None:
        token = self._take()
        if token == "(":
            return self._bracketed()
        if token == "frac":
            self._expect("(")
            above = self._bracketed()
            self._expect("(")
            return self._apply("/", above, self._bracketed())
        if not token or not (token[0].isdecimal() or (token[0] == "." and len(token) > 1)):
            raise ExpressionError(
                f"unexpected {token!r}" if token else "it ends where a number is due"
            )
        number = Fraction(token)
        self._numbers.append(number)
        return number

    def _bracketed(self) -> Fraction | None:
        self._go_deeper()
        value = self._sum()
        self._depth -= 1
        self._expect(")")
        return value

    def _go_deeper(self) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ExpressionError(f"deeper than {MAX_DEPTH} brackets")

    def _apply(
        self, operator: str, left: Fraction | None, right: Fraction | None
    ) -> Fraction | None:
        self._operators.add(operator)
        if left is None or right is None:
            return None
        if operator == "+":
            return left + right
        if operator == "-":
            return left - right
        if operator == "*":
            return left * right
        return left / right if right else None
