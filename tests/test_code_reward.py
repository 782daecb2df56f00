"""The code reward: where the program stands, tests of every form, what is compared, and the way through a worker."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from typing import Any

import pytest

from rlcurric.rewards.asserts import holds
from rlcurric.rewards.programs import (
    Assertion,
    FunctionCall,
    Limits,
    Streams,
    Verdict,
    judge,
    read_tests,
    same_output,
    same_value,
)
from rlcurric.rewards.protocol import Reward, discover_builtin, get_reward
from rlcurric.rewards.rubric import Rubric
from rlcurric.rewards.runner import RewardRunner
from rlcurric.rewards.sandbox import SandboxError, Tier, settle
from rlcurric.rewards.sandbox import program as programs_in_sandbox
from rlcurric.rewards.sandbox.inside import DEPTH, decode, encode
from rlcurric.rewards.sandbox.program import Program
from rlcurric.types import SampleOutcome, Status
from tests.test_rewards import builtin, component, request

discover_builtin()
SQUARE = "def square(x):\n    return x * x\n"


@pytest.fixture(scope="module")
def tier() -> Tier:
    try:
        return settle("auto")
    except ValueError as error:
        pytest.skip(f"no sandbox works here: {error}")


@pytest.fixture(scope="module")
def pool(tier: Tier) -> Iterator[RewardRunner]:
    with RewardRunner([get_reward("code")], workers=1) as found:
        yield found


def run(tier: Tier, source: str, tests: Any, seconds: float = 10.0) -> Verdict:
    return judge(source, read_tests(tests), Limits(tier, seconds, 3 * seconds, 512 << 20))


def graded(
    pool: RewardRunner, *completions: str, tests: Any, **args: Any
) -> tuple[SampleOutcome, ...]:
    rubric = Rubric([component("code")], "code", pool, deadline=30.0)
    given = {"code": {"seconds": 10.0, "budget": 20.0, **args}}
    (group,) = rubric.score([request(*completions, tests=tests)], {"code": 1.0}, given)
    return group


def test_the_time_that_sandboxes_take_to_start_is_not_the_solution_s(
    tier: Tier, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = Program.__enter__

    def slowly(self: Program) -> Program:
        time.sleep(2)
        return start(self)

    monkeypatch.setattr(Program, "__enter__", slowly)
    tests = [{"input": f"{k}\n", "output": f"{k}\n"} for k in range(3)]
    limits = Limits(tier, 5.0, 5.0, 512 << 20)
    assert judge("print(input())", read_tests(tests), limits) == Verdict(3, 3)
    late = judge("import time; time.sleep(3); print(input())", read_tests(tests), limits)
    assert (late.passed, late.in_time) == (1, False)


# --- where the program stands -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("completion", "program"),
    [
        ("```python\na\n```", "a\n"),
        ("x\n```py\na\n```\ny\n```python\nb\n```\nz", "b\n"),
        ("```\na\n```", "a\n"),
        ("```python\na\n```\nthen\n```bash\nls\n```", "a\n"),
        ("<think>```python\na\n```</think>```Python3\nb\n```", "b\n"),
        ("<think>```python\na\n```</think>none", None),
        ("<answer>print(1)</answer>", "print(1)"),
        ("```python\na\n```<answer>```python\nb\n```</answer>", "b\n"),
        ("  ```python\n  a\n  ```", "  a\n"),
        ("```python\nopen", None),
        ("<answer>```python\nopen</answer>", None),
        ("<answer> </answer>", None),
        ("print(1)", None),
        ("", None),
    ],
)
def test_where_the_program_stands(completion: str, program: str | None) -> None:
    assert builtin("code").__globals__["find_program"](completion) == program


# --- tests as data ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "tests"),
    [
        ([{"input": "1", "output": "2"}], (Streams("1", "2"),)),
        ({"input": "1", "output": "2"}, (Streams("1", "2"),)),
        ('[{"input": "1", "output": "2"}]', (Streams("1", "2"),)),
        (
            [{"function": "f", "args": [1], "output": 2}],
            (FunctionCall("f", (1,), 2, {}),),
        ),
        (
            {"inputs": ["1", ["2", "3"]], "outputs": ["1", "5"]},
            (Streams("1", "1"), Streams("2\n3", "5")),
        ),
        (
            json.dumps({"inputs": [[1, 2]], "outputs": [3], "fn_name": "add"}),
            (FunctionCall("add", (1, 2), 3, {}),),
        ),
    ],
)
def test_tests_are_read_in_every_form(raw: Any, tests: tuple[Any, ...]) -> None:
    assert read_tests(raw) == tests


def test_asserts_are_read_as_trees() -> None:
    for raw in ("assert f(1) == 2", ["assert f(1) == 2"]):
        (one,) = read_tests(raw)
        assert isinstance(one, Assertion)
        assert one.text == "assert f(1) == 2"


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (None, "a list of tests is required"),
        ([], "with one at least"),
        ("{", "not JSON"),
        ([3], r"tests\[0\]: an assert, or an object"),
        ([{"input": "x"}], "with `output`"),
        ([{"input": 3, "output": "x"}], "must be text"),
        ([{"function": "f", "args": 3, "output": 1}], "`args` a list"),
        ([{"function": "f()", "args": [], "output": 1}], "`function` must be a name"),
        ([{"function": "f", "arguments": [], "output": 1}], "nothing else"),
        ({"inputs": ["1"], "outputs": []}, "lists of one length"),
        (["assert 1 == 1"], "calls no function of a solution"),
        (["assert len([]) == 0"], "calls no function of a solution"),
        (["assert f("], "not Python"),
        (["f(1) == 2"], "not JSON|one assert statement"),
        (["assert f(1) == 2; assert f(2) == 3"], "one assert statement"),
        (["assert f.g(1) == 2"], r"got 'f\.g\(1\)'"),
        (["assert f(*[1]) == 2"], "may hold calls"),
        (["assert f(**{}) == 2"], "may hold calls"),
        (["assert [f(x) for x in range(3)] == []"], "may hold calls"),
        (["assert f(x) == 2"], "may hold calls"),
        (["assert (lambda: f(1))() == 2"], "may hold calls"),
        (["assert __import__('os').system('ls') == f(1)"], "may hold calls"),
    ],
)
def test_what_is_no_test_is_refused(raw: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_tests(raw)


@pytest.mark.parametrize(
    ("text", "answer", "kept"),
    [
        ("f(1) == 2", 2, True),
        ("f(1) == 2", 3, False),
        ("f(1) == (1, 2)", (1, 2), True),
        ("f(1) == (1, 2)", [1, 2], False),
        ("set(f(1)) == {1, 2}", [2, 1, 1], True),
        ("sorted(f(1), reverse=True) == [2, 1]", (1, 2), True),
        ("abs(f(1) - 0.3) < 1e-9", 0.1 + 0.2, True),
        ("math.isclose(f(1), math.pi, rel_tol=1e-3)", 3.1416, True),
        ("f(1) is True", True, True),
        ("f(1) is True", 1, False),
        ("not f(1)", [], True),
        ("f(1)", "x", True),
        ("f(1) in (1, 2) and f(2) is not None", 2, True),
        ("1 < f(1) <= 3 != 4", 3, True),
        ("1 < f(1) <= 3 != 4", 1, False),
        ("f(1)[0] == 5 and f(1)[1:] == [6] and f(1)[-1] == 6", [5, 6], True),
        ("f(1)[3] == 5", [5, 6], False),
        ("f(1) < 5", "x", False),
        ("f(1) == {'a': [1]}", {"a": [1]}, True),
        ("f(f(1)) == 2 or f(0) == 2", 2, True),
        ("f(1) * 10 ** 9 == 1", "x", False),
        ("f(1) ** f(1) ** f(1) > 0", 1000, False),
        ("1 / f(1) == 1", 0, False),
    ],
)
def test_asserts_are_computed_as_python_would(text: str, answer: Any, kept: bool) -> None:
    (one,) = read_tests([f"assert {text}"])
    assert isinstance(one, Assertion)
    assert holds(one.tree, lambda name, args, kwargs: answer) is kept


def test_calls_inside_calls_are_answered_from_within() -> None:
    asked: list[Any] = []

    def answer(name: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
        asked.append((name, args, kwargs))
        return len(asked)

    (one,) = read_tests(["assert decode(encode('x', by=3), -1) == 2"])
    assert isinstance(one, Assertion)
    assert holds(one.tree, answer)
    assert asked == [("encode", ["x"], {"by": 3}), ("decode", [1, -1], {})]


@pytest.mark.parametrize(
    ("given", "expected", "same"),
    [
        ((1, [2]), [1, [2]], True),
        ([1], [1, 2], False),
        (1, True, False),
        (True, 1, False),
        (True, True, True),
        (0.1 + 0.2, 0.3, True),
        (0.3001, 0.3, False),
        (2.0, 2, True),
        (10**30 + 1, 10**30, False),
        (10**400, 1.5, False),
        (math.nan, math.nan, True),
        (math.inf, math.inf, True),
        (math.nan, 1.0, False),
        ({1: 2}, {"1": 2}, True),
        ({"a": (1,)}, {"a": [1]}, True),
        ({"a": 1, "b": 2}, {"a": 1}, False),
        ("1", 1, False),
        (None, None, True),
        (None, 0, False),
        ({1}, [1], False),
    ],
)
def test_what_counts_as_the_expected_value(given: Any, expected: Any, same: bool) -> None:
    assert same_value(given, expected) is same


@pytest.mark.parametrize(
    ("given", "expected", "same"),
    [
        ("1 2 \n3\n\n", "1 2\n3", True),
        ("1\r\n2\r\n", "1\n2\n", True),
        ("1  2", "1 2", False),
        (" 1", "1", False),
        ("", "\n", True),
        ("1\n\n2", "1\n2", False),
    ],
)
def test_what_counts_as_the_expected_output(given: str, expected: str, same: bool) -> None:
    assert same_output(given, expected) is same


# --- what crosses -----------------------------------------------------------------------------------------------------

VALUES: list[Any] = [None, True, 0, -(2**60), 10**4000, 1.5, -math.inf, "é\ud800", b"\0", 1 + 2j, [], (), set(), {},
          [1, (2, {3, "a"}), {"k": {4: b"x"}}], frozenset({(1, 2)}), {(1, 2): 3}]  # fmt: skip


# A set is written in another order by every process, and the workers of a test run must agree on the names of its tests.
@pytest.mark.parametrize(
    "value", VALUES, ids=[f"{type(value).__name__}-{index}" for index, value in enumerate(VALUES)]
)
def test_plain_values_cross_as_they_are(value: Any) -> None:
    back = decode(json.loads(json.dumps(encode(value))))
    assert back == value
    assert type(back) is (set if isinstance(value, frozenset) else type(value))


def test_nan_crosses() -> None:
    assert math.isnan(decode(json.loads(json.dumps(encode(math.nan)))))


def test_what_is_not_plain_does_not_cross() -> None:
    class Number(int):
        pass

    for value in (Number(3), object(), print, [Number(3)], {1: Number(3)}):
        with pytest.raises(TypeError, match="cannot be an answer"):
            encode(value)
    deep: list[Any] = []
    for _ in range(DEPTH):
        deep = [deep]
    with pytest.raises(ValueError, match="nested deeper"):
        encode(deep)


@pytest.mark.parametrize(
    "packed",
    [
        {},
        {"a": 1, "b": 2},
        {"other": 1},
        {"int": "x"},
        {"int": 3},
        {"float": "1"},
        {"bytes": "zz"},
        {"complex": [1]},
        {"complex": ["a", "b"]},
        {"tuple": 3},
        {"set": [[1]]},
        {"dict": [[1]]},
        {"dict": [[[], 1]]},
        {"set": list(range(10_000))},
        json.loads("[" * (DEPTH + 1) + "]" * (DEPTH + 1)),
    ],
    ids=lambda packed: str(packed)[:30],
)
def test_what_is_no_encoded_value_is_refused(packed: Any) -> None:
    with pytest.raises(ValueError):
        decode(packed)


# --- solutions in a sandbox -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "tests", "passed"),
    [
        (SQUARE, ["assert square(2) == 4", "assert square(3) == 8", "assert square(-1) == 1"], 2),
        ("print(int(input()) + 1)", [{"input": "1\n", "output": "2\n"}], 1),
        (
            "import sys\nprint(sum(map(int, sys.stdin)))",
            [{"input": "1\n2\n3", "output": "6"}, {"input": "", "output": "1"}],
            1,
        ),
        ("print(2)\nraise SystemExit(3)", [{"input": "", "output": "2"}], 0),
        ("import sys\nprint(2)\nsys.exit()", [{"input": "", "output": "2"}], 1),
        (
            "class Solution:\n    def add(self, a, b):\n        return a + b",
            {"inputs": [[1, 2], [[1], [2]]], "outputs": [3, [1, 2]], "fn_name": "add"},
            2,
        ),
        ("def f(x): return x", ["assert f(1) == 1", "assert g(1) == 1"], 1),
        ("def f(x):\n    print('x' * 10_000)\n    return x", ["assert f(1) == 1"] * 3, 3),
        ("def f(x): return 1 / x", ["assert f(0) == 1", "assert f(1) == 1"], 1),
        ("def f(x:", ["assert f(0) == 1"], 0),
        (
            "import collections, heapq, itertools, math, re, bisect, functools\ndef f(x): return x",
            ["assert f(1) == 1"],
            1,
        ),
        (
            "import sys, threading\nsys.setrecursionlimit(10**6)\nthreading.stack_size(64 << 20)\n"
            "def main(): print(input())\nt = threading.Thread(target=main); t.start(); t.join()",
            [{"input": "x", "output": "x"}],
            1,
        ),
        ("def f(*, x): return x", [{"function": "f", "kwargs": {"x": 3}, "output": 3}], 1),
        ("print(input())", [{"input": "é ∑\n", "output": "é ∑"}], 1),
        ("print('x' * 500_000)", [{"input": "y" * 500_000, "output": "x" * 500_000}], 1),
        ("n = input()\nprint(len(n))", [{"input": "y" * 500_000, "output": "500000"}], 1),
    ],
)
def test_solutions_pass_the_tests_that_they_should(
    tier: Tier, source: str, tests: Any, passed: int
) -> None:
    assert run(tier, source, tests).passed == passed


def test_tests_that_are_not_reached_count_as_failed(tier: Tier) -> None:
    tests = read_tests(
        ["assert f(1) == 1", "assert f(2) == 2", "assert f(2) == 2", "assert f(1) == 1"]
    )
    source = "def f(x):\n    while x == 2: pass\n    return x"
    verdict = judge(source, tests, Limits(tier, 1.0, 1.9, 512 << 20))
    assert (verdict.passed, verdict.total, verdict.in_time) == (1, 4, False)
    assert verdict.problem == "test 2: no answer within 1 s"


def test_the_same_solution_is_judged_the_same_again(tier: Tier) -> None:
    source = "def f(x): return list({'a', 'b', 'c', 'd', 'e'})"
    with programs_in_sandbox.Program(tier, source, "call", 10.0) as one:
        first = one.call("f", [1], {})
    with programs_in_sandbox.Program(tier, source, "call", 10.0) as one:
        assert one.call("f", [1], {}) == first


# --- the reward -------------------------------------------------------------------------------------------------------


def fenced(source: str) -> str:
    return f"<think>so</think>\n```python\n{source}\n```"


TESTS = ["assert square(3) == 9", {"input": "2", "output": "4"}]


def test_the_score_is_the_fraction_of_tests_passed(pool: RewardRunner) -> None:
    whole = SQUARE + "if __name__ == '__main__': print(square(int(input())))"
    group = graded(pool, fenced(whole), fenced(SQUARE), fenced("x = 1"), "no idea", tests=TESTS)
    assert [one.reward for one in group] == [1.0, 0.5, 0.0, 0.0]
    assert [one.correct for one in group] == [1.0, 0.5, 0.0, 0.0]
    assert [one.status for one in group] == [Status.SCORED] * 3 + [Status.UNPARSEABLE]


def test_without_partial_credit_all_tests_must_pass(pool: RewardRunner) -> None:
    whole = SQUARE + "if __name__ == '__main__': print(square(int(input())))"
    group = graded(pool, fenced(whole), fenced(SQUARE), tests=TESTS, partial=False)
    assert [one.reward for one in group] == [1.0, 0.0]


def test_a_solution_that_hangs_is_wrong_and_no_failure_of_the_grader(pool: RewardRunner) -> None:
    loop = fenced("while True: pass")
    group = graded(
        pool, loop, fenced(SQUARE), loop, tests=["assert square(3) == 9"], seconds=1.0, budget=2.0
    )
    assert [(one.reward, one.status) for one in group] == [
        (0.0, Status.SCORED),
        (1.0, Status.SCORED),
        (0.0, Status.SCORED),
    ]


def test_tests_that_cannot_be_read_are_an_error_that_names_them(pool: RewardRunner) -> None:
    (one,) = graded(pool, fenced(SQUARE), tests=["assert square.f(3) == 9"])
    assert one.status is Status.ERROR
    assert "tests[0]: an assert may hold" in one.detail


def test_a_deadline_that_is_too_short_is_an_error_that_says_so(pool: RewardRunner) -> None:
    rubric = Rubric([component("code")], "code", pool, deadline=3.0)
    (group,) = rubric.score([request(fenced(SQUARE), tests=TESTS)], {"code": 1.0}, {})
    assert group[0].status is Status.ERROR
    assert "grading.deadline must be at least 9 s" in group[0].detail


def test_a_sandbox_that_cannot_be_set_up_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """An outage is no wrong answer."""

    def fails(*_: Any, **__: Any) -> Any:
        raise SandboxError("namespaces: unshare: Operation not permitted")

    function = builtin("code")
    monkeypatch.setitem(function.__globals__, "judge", fails)
    monkeypatch.setattr("rlcurric.rewards.sandbox.tiers._in_use", "namespaces")
    (score,) = function([""], [fenced(SQUARE)], tests=[TESTS])
    assert (score.value, score.status) == (None, Status.ERROR)
    assert "unshare" in score.detail


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seconds": 0.0}, "seconds must be above 0, got 0"),
        ({"budget": -1.0}, "budget must be above 0"),
        ({"seconds": 9.0}, "must be at least seconds"),
        ({"memory_mb": 8}, "memory_mb must be at least 64"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments: dict[str, Any], message: str) -> None:
    found: Reward = get_reward("code")
    with pytest.raises(ValueError, match=message):
        found.check(arguments)


def test_the_bonus_is_for_solutions_that_pass_everything() -> None:
    """The Q language's reward: pass rate + 1[all tests pass], arXiv 2508.06813."""
    bonus = builtin("code_bonus")([""] * 4, [""] * 4, correct=[1.0, 0.75, 0.0, None])
    assert bonus == [1.0, 0.0, 0.0, None]


def test_pass_rate_and_bonus_add_up_in_a_rubric(pool: RewardRunner) -> None:
    rubric = Rubric([component("code"), component("code_bonus")], "code", pool, deadline=30.0)
    requests = [
        request(
            fenced(SQUARE),
            fenced("square = abs"),
            tests=["assert square(1) == 1", "assert square(3) == 9"],
        )
    ]
    (group,) = rubric.score(requests, {"code": 1.0, "code_bonus": 1.0}, {})
    assert [one.reward for one in group] == [2.0, 0.5]
    assert [one.correct for one in group] == [1.0, 0.5]
