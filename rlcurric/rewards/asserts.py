"""The condition of an assert statement, computed from its syntax tree: no text is run.

Calls of names that are Python's own functions on plain values are computed here. All other calls of a plain name are
calls of the solution, which somebody else answers with plain values.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable
from typing import Any

Answer = Callable[[str, list[Any], dict[str, Any]], Any]  # function, arguments, keywords

_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "abs": abs, "all": all, "any": any, "bool": bool, "dict": dict, "float": float, "frozenset": frozenset, "int": int,
    "len": len, "list": list, "max": max, "min": min, "round": round, "set": set, "sorted": sorted, "str": str,
    "sum": sum, "tuple": tuple, "isclose": math.isclose, "math.isclose": math.isclose, "sqrt": math.sqrt,
    "math.sqrt": math.sqrt,
}  # fmt: skip
_CONSTANTS = {"math.pi": math.pi, "math.e": math.e, "math.inf": math.inf, "math.nan": math.nan}
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt,
    ast.GtE: operator.ge, ast.Is: operator.is_, ast.IsNot: operator.is_not,
    ast.In: lambda one, many: one in many, ast.NotIn: lambda one, many: one not in many,
}  # fmt: skip
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.UAdd: operator.pos, ast.USub: operator.neg, ast.Not: operator.not_, ast.Invert: operator.invert,
}  # fmt: skip
_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Div: operator.truediv, ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod, ast.BitAnd: operator.and_, ast.BitOr: operator.or_,
}  # fmt: skip
_UNSUPPORTED = (ast.MatMult, ast.LShift, ast.RShift, ast.BitXor)
_LARGEST = 1 << 20  # items of a repeated list, bits of a power
_KNOWN = (
    ast.Constant, ast.List, ast.Tuple, ast.Set, ast.Dict, ast.UnaryOp, ast.BinOp, ast.BoolOp, ast.Compare, ast.Subscript,
    ast.Slice, ast.keyword, ast.expr_context, ast.operator, ast.unaryop, ast.boolop, ast.cmpop,
)  # fmt: skip


def calls_a_solution(tree: ast.expr, where: str) -> bool:
    """Whether it calls a function that is not Python's own; ValueError for what cannot be computed here."""
    if isinstance(tree, ast.Call):
        own = _name(tree.func) in _FUNCTIONS
        if not own and not isinstance(tree.func, ast.Name):
            raise _unknown(tree, where)
        parts: list[ast.AST] = [*tree.args, *tree.keywords]
        if any(isinstance(part, ast.keyword) and part.arg is None for part in parts):
            raise _unknown(tree, where)
        inside = [_within(part, where) for part in parts]
        return not own or any(inside)
    if _name(tree) in _CONSTANTS:
        return False
    if not isinstance(tree, _KNOWN) or isinstance(getattr(tree, "op", None), _UNSUPPORTED):
        raise _unknown(tree, where)
    inside = [_within(part, where) for part in ast.iter_child_nodes(tree)]  # every one is looked at
    return any(inside)


def holds(tree: ast.expr, answer: Answer) -> bool:
    """Whether the condition is true. Where it cannot be computed from the answers it is not."""
    try:
        return bool(_value(tree, answer))
    except (TypeError, ValueError, ArithmeticError, RecursionError, IndexError, KeyError):
        return False


def _within(part: ast.AST, where: str) -> bool:
    if isinstance(part, ast.keyword):
        part = part.value
    if isinstance(part, ast.expr):
        return calls_a_solution(part, where)
    return False


def _value(node: ast.expr, answer: Answer) -> Any:
    def of(part: ast.expr) -> Any:
        return _value(part, answer)

    match node:
        case ast.Constant():
            return node.value
        case ast.List():
            return [of(item) for item in node.elts]
        case ast.Tuple():
            return tuple(of(item) for item in node.elts)
        case ast.Set():
            return {of(item) for item in node.elts}
        case ast.Dict():
            pairs = zip(node.keys, node.values, strict=True)
            return {of(key): of(value) for key, value in pairs if key is not None}
        case ast.UnaryOp():
            return _UNARY[type(node.op)](of(node.operand))
        case ast.BinOp():
            return _arithmetic(node.op, of(node.left), of(node.right))
        case ast.BoolOp():
            return _junction(node, answer)
        case ast.Compare():
            return _comparison(node, answer)
        case ast.Subscript(slice=ast.Slice() as cut):
            ends = (cut.lower, cut.upper, cut.step)
            return of(node.value)[slice(*(None if end is None else of(end) for end in ends))]
        case ast.Subscript():
            return of(node.value)[of(node.slice)]
        case ast.Call():
            args = [of(argument) for argument in node.args]
            kwargs = {one.arg: of(one.value) for one in node.keywords if one.arg is not None}
            name = _name(node.func)
            if name in _FUNCTIONS:
                return _FUNCTIONS[name](*args, **kwargs)
            return answer(name, args, kwargs)
    return _CONSTANTS[_name(node)]


def _junction(node: ast.BoolOp, answer: Answer) -> Any:
    """`and` and `or`, which leave out what no longer matters."""
    value: Any = None
    for part in node.values:
        value = _value(part, answer)
        if bool(value) == isinstance(node.op, ast.Or):
            break
    return value


def _comparison(node: ast.Compare, answer: Answer) -> bool:
    left = _value(node.left, answer)
    for kind, part in zip(node.ops, node.comparators, strict=True):
        right = _value(part, answer)
        if not _COMPARE[type(kind)](left, right):
            return False
        left = right
    return True


def _arithmetic(kind: ast.operator, left: Any, right: Any) -> Any:
    """Of operands that may be a solution's answers: a result that would be huge is refused."""
    if isinstance(kind, ast.Mult):
        for one, other in ((left, right), (right, left)):
            if hasattr(one, "__len__") and isinstance(other, int) and len(one) * other > _LARGEST:
                raise ValueError("too long")
        return left * right
    if isinstance(kind, ast.Pow):
        bits = left.bit_length() if isinstance(left, int) else 1
        if isinstance(right, int) and bits * abs(right) > _LARGEST:
            raise ValueError("too large")
        return left**right
    if isinstance(kind, ast.Mod) and isinstance(left, str | bytes):
        raise TypeError("no formatting")
    return _BINARY[type(kind)](left, right)


def _name(node: ast.AST) -> str:
    """`name` or `module.name`; empty for any other expression."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return f"{node.value.id}.{node.attr}"
    return ""


def _unknown(node: ast.AST, where: str) -> ValueError:
    return ValueError(
        f"{where}: an assert may hold calls of the solution's functions, literals, comparisons, arithmetic and "
        f"{', '.join(_FUNCTIONS)}; got {ast.unparse(node)[:80]!r}. Write such a test as a program on standard input"
    )
