"""Tests of a solution, as data columns hold them, and the judge that compares its answers with what is expected.

Forms of a test, also as JSON text: `{"input", "output"}` (standard input and output), `{"function", "args", "kwargs",
"output"}` (a call), or a line `assert f(1) == 2`; a list of those; or `{"inputs", "outputs", "fn_name"}` as APPS has it.

The judge never runs the solution: it sees plain values that a sandbox sent. An assert is read as a syntax tree: calls
of names that are not Python's own go to the sandbox, all else is computed here by a small evaluator.
"""

from __future__ import annotations

import ast
import contextlib
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rlcurric.rewards.asserts import calls_a_solution, holds
from rlcurric.rewards.sandbox.program import Ended, Program, Raised, Stopped
from rlcurric.rewards.sandbox.tiers import Tier


@dataclass(frozen=True)
class Streams:
    """Text for standard input, and what standard output must then be."""

    input: str
    output: str


@dataclass(frozen=True)
class FunctionCall:
    """A call of a function of the solution, and what it must answer."""

    function: str
    args: tuple[Any, ...]
    output: Any
    kwargs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Assertion:
    """An assert statement on what the solution's functions answer."""

    text: str
    tree: ast.expr


Test = Streams | FunctionCall | Assertion


@dataclass(frozen=True)
class Limits:
    """What a solution may use."""

    tier: Tier
    seconds: float  # for one test
    budget: (
        float  # seconds that it may run in all tests; those that are not reached count as failed
    )
    memory: int  # bytes, of one process


@dataclass(frozen=True)
class Verdict:
    """How many tests a solution passed, and why it failed the first one that it did not pass."""

    passed: int
    total: int
    problem: str = ""
    in_time: bool = True  # whether every test was reached


def read_tests(raw: Any) -> tuple[Test, ...]:
    """The tests of one row; ValueError for what is none."""
    if isinstance(raw, str) and not raw.lstrip().startswith("assert"):
        try:
            raw = json.loads(raw)
        except ValueError as error:
            raise ValueError(f"tests: not JSON: {error}") from None
    if isinstance(raw, Mapping) and "inputs" in raw:
        raw = _from_columns(raw)
    if isinstance(raw, str | Mapping):
        raw = [raw]
    if not isinstance(raw, Sequence) or isinstance(raw, bytes) or not raw:
        raise ValueError(
            f"tests: a list of tests is required, with one at least; got {str(raw)[:80]!r}"
        )
    return tuple(_test(one, k) for k, one in enumerate(raw))


def judge(source: str, tests: Sequence[Test], limits: Limits) -> Verdict:
    """Run the solution on every test, in order. SandboxError where that is not possible."""
    watch = _Watch(limits.budget)
    loaded = _Loaded(source, limits, watch)
    passed, problem = 0, ""
    try:
        for k, test in enumerate(tests):
            seconds = min(limits.seconds, watch.left)
            if seconds <= 0:
                return Verdict(passed, len(tests), problem or _late(k, limits), in_time=False)
            found = _problem(source, test, limits, seconds, loaded, watch)
            passed += not found
            if found and not problem:
                problem = f"test {k + 1}: {found}"
    finally:
        loaded.end()
    return Verdict(passed, len(tests), problem)


def same_output(given: str, expected: str) -> bool:
    """Equal but for blanks at the ends of lines and empty lines at the end."""
    return _lines(given) == _lines(expected)


def same_value(given: Any, expected: Any) -> bool:
    """Equality of plain values with an expected one from JSON, which knows lists for tuples and text for keys."""
    if isinstance(expected, bool) or isinstance(given, bool):
        return given is expected
    if isinstance(expected, int | float) and isinstance(given, int | float):
        both_nan = given != given and expected != expected
        return both_nan or given == expected or _close(given, expected)
    if isinstance(expected, list | tuple):
        pairs = isinstance(given, list | tuple) and len(given) == len(expected)
        return pairs and all(map(same_value, given, expected))
    if isinstance(expected, dict):
        if not isinstance(given, dict) or len(given) != len(expected):
            return False
        own = {key if isinstance(key, str) else _as_key(key): value for key, value in given.items()}
        return own.keys() == expected.keys() and all(
            same_value(own[key], value) for key, value in expected.items()
        )
    return type(given) is type(expected) and bool(given == expected)


class _Watch:
    """Seconds that a solution may still run. Those in which its sandboxes are set up and emptied are not its own."""

    def __init__(self, budget: float) -> None:
        self.left = budget

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            self.left -= time.monotonic() - started


class _Loaded:
    """The solution as a module in a sandbox, started when it is first called and again after it stopped."""

    def __init__(self, source: str, limits: Limits, watch: _Watch) -> None:
        self._source, self._limits, self._watch = source, limits, watch
        self._program: Program | None = None

    def call(self, function: str, args: list[Any], kwargs: dict[str, Any], seconds: float) -> Any:
        if self._program is None:
            program = Program(
                self._limits.tier,
                self._source,
                "call",
                seconds,
                self._limits.memory,
                lifetime=self._limits.budget,
            )
            self._program = program.__enter__()
        try:
            with self._watch.running():
                return self._program.call(function, args, kwargs, seconds)
        except Stopped:
            self.end()
            raise

    def end(self) -> None:
        if self._program is not None:
            self._program.__exit__(None, None, None)
            self._program = None


def _problem(
    source: str, test: Test, limits: Limits, seconds: float, loaded: _Loaded, watch: _Watch
) -> str:
    """Why the solution fails a test; empty where it passes."""
    if isinstance(test, Streams):
        with Program(limits.tier, source, "run", seconds, limits.memory) as program:
            with watch.running():
                ended = program.run(test.input.encode())
            return _output_problem(ended, test.output)
    try:
        if isinstance(test, FunctionCall):
            given = loaded.call(test.function, list(test.args), dict(test.kwargs), seconds)
            return "" if same_value(given, test.output) else "another answer than expected"
        kept = holds(test.tree, lambda name, args, kw: loaded.call(name, args, kw, seconds))
        return "" if kept else "the assertion does not hold"
    except Raised as error:
        return f"it raised {error}"
    except Stopped as error:
        return str(error)


def _output_problem(ended: Ended, expected: str) -> str:
    if ended.problem:
        return ended.problem
    given = ended.output.decode(errors="replace")
    return "" if same_output(given, expected) else "another output than expected"


def _late(number: int, limits: Limits) -> str:
    return f"test {number + 1} and those after it were not reached within {limits.budget:g} s"


def _from_columns(raw: Mapping[str, Any]) -> list[dict[str, Any]]:
    inputs, outputs, name = raw["inputs"], raw.get("outputs"), raw.get("fn_name")
    if not isinstance(inputs, list) or not isinstance(outputs, list) or len(inputs) != len(outputs):
        raise ValueError("tests: `inputs` and `outputs` must be lists of one length")
    if name is None:
        return [
            {"input": _text(one), "output": _text(out)}
            for one, out in zip(inputs, outputs, strict=True)
        ]
    return [
        {"function": name, "args": args, "output": output}
        for args, output in zip(inputs, outputs, strict=True)
    ]


def _text(value: Any) -> Any:
    """Some rows hold lines instead of one text."""
    return "\n".join(map(str, value)) if isinstance(value, list) else value


def _test(one: Any, index: int) -> Test:
    where = f"tests[{index}]"
    if isinstance(one, str):
        return _assertion(one, where)
    if not isinstance(one, Mapping) or "output" not in one:
        raise ValueError(
            f"{where}: an assert, or an object with `output` and either `input` or `function` is required; "
            f"got {str(one)[:80]!r}"
        )
    if "function" in one:
        unknown = set(one) - {"function", "args", "kwargs", "output"}
        name, args, kwargs = one["function"], one.get("args", []), one.get("kwargs", {})
        right = isinstance(args, list | tuple) and isinstance(kwargs, Mapping)
        if unknown or not right or not isinstance(name, str) or not name.isidentifier():
            raise ValueError(
                f"{where}: `function` must be a name, `args` a list, `kwargs` an object, and nothing else but `output`; "
                f"got {str(dict(one))[:80]}"
            )
        return FunctionCall(name, tuple(args), one["output"], dict(kwargs))
    given, wanted = one.get("input"), one["output"]
    if not isinstance(given, str) or not isinstance(wanted, str):
        raise ValueError(f"{where}: `input` and `output` must be text; got {str(dict(one))[:80]}")
    return Streams(given, wanted)


def _assertion(text: str, where: str) -> Assertion:
    try:
        body = ast.parse(text.strip()).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"{where}: not Python: {error}; got {text[:80]!r}") from None
    if len(body) != 1 or not isinstance(body[0], ast.Assert):
        raise ValueError(f"{where}: one assert statement is required; got {text[:80]!r}")
    tree = body[0].test
    if not calls_a_solution(tree, where):
        raise ValueError(f"{where}: calls no function of a solution; got {text[:80]!r}")
    return Assertion(text.strip(), tree)


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]


def _close(given: float, expected: float) -> bool:
    """Whether a float differs from the expected one by rounding only; whole numbers must be equal."""
    if not (isinstance(given, float) or isinstance(expected, float)):
        return False
    try:
        return math.isclose(given, expected, rel_tol=1e-9, abs_tol=1e-12)
    except OverflowError:
        return False


def _as_key(key: Any) -> str:
    """How JSON writes a key that is no text."""
    return json.dumps(key) if key is None or isinstance(key, bool | int | float) else repr(key)
