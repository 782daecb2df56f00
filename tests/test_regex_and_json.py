"""The rewards `regex` and `json_schema`, and what happens to a pattern that does not end."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlcurric.registry import registry
from rlcurric.rewards.passages import response, tagged
from rlcurric.rewards.protocol import discover_builtin, get_reward
from rlcurric.rewards.runner import RewardRunner
from rlcurric.types import Score, Status

discover_builtin()
regex: Callable[..., list[Score]] = registry("reward").get("regex").function
json_schema: Callable[..., list[Score]] = registry("reward").get("json_schema").function


# --- where they read --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("completion", "text"),
    [
        ("<think>a</think> b ", "b"),
        ("plain", "plain"),
        ("<think>open", ""),
        ("<think>a</think>b</think>c", "c"),
        ("", ""),
    ],
)
def test_the_response_stands_behind_the_thought(completion: str, text: str) -> None:
    assert response(completion) == text


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        ("<answer> 1 </answer>", "1"),
        ("<answer>1</answer><answer>2</answer>", "2"),
        ("<answer>1</answer><answer>2", "1"),
        ("<answer></answer>", ""),
        ("</answer><answer>", None),
        ("1", None),
    ],
)
def test_the_last_pair_of_tags_counts(text: str, inside: str | None) -> None:
    assert tagged(text) == inside


# --- regular expressions ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "arguments", "value"),
    [
        ("<answer>AB-12</answer>", {}, 1.0),
        ("\\boxed{AB-12}", {}, 1.0),
        ("<think>XX-99</think>#### AB-12", {}, 1.0),
        ("<answer>AB-123</answer>", {}, 0.0),
        ("<answer>it is AB-12</answer>", {}, 0.0),
        ("<answer>it is AB-12</answer>", {"match": "search"}, 1.0),
        ("<answer>ab-12</answer>", {}, 0.0),
        ("<answer>ab-12</answer>", {"ignore_case": True}, 1.0),
        ("AB-12", {}, 0.0),
        ("<think>no</think>AB-12", {"of": "response"}, 1.0),
        ("<think>AB-12</think>no", {"of": "response", "match": "search"}, 0.0),
        ("", {"of": "response", "match": "search"}, 0.0),
    ],
)
def test_what_must_match(text: str, arguments: dict[str, Any], value: float) -> None:
    (score,) = regex([""], [text], expression="[A-Z]{2}-[0-9]{2}", **arguments)
    assert score.value == value


def test_a_row_may_bring_its_own_pattern() -> None:
    scores = regex([""] * 2, ["<answer>b</answer>"] * 2, pattern=["b", None], expression="a")
    assert [one.value for one in scores] == [1.0, 0.0]


def test_the_flags_are_those_of_re() -> None:
    text = ["<answer>a\nb</answer>"]
    assert regex([""], text, expression="a.b")[0].value == 0
    assert regex([""], text, expression="a.b", dotall=True)[0].value == 1
    assert regex([""], text, expression="^b$", match="search")[0].value == 0
    assert regex([""], text, expression="^b$", match="search", multiline=True)[0].value == 1


@pytest.mark.parametrize("pattern", ["(", "*", "[a"])
def test_a_pattern_that_is_none_is_named(pattern: str) -> None:
    with pytest.raises(ValueError, match="is no regular expression: "):
        regex([""], ["<answer>a</answer>"], expression=pattern)


def test_no_pattern_is_an_error_and_no_answer_is_not() -> None:
    with pytest.raises(ValueError, match="needs a regular expression"):
        regex([""], ["<answer>a</answer>"])
    assert regex([""], ["a"], expression="a") == [Score(0.0, Status.UNPARSEABLE, "no answer found")]


@pytest.mark.parametrize(
    ("name", "own", "columns"),
    [
        ("regex", {"expression": "(a+)+$"}, {}),
        ("json_schema", {}, {"schema": {"type": "string", "pattern": "(a+)+$"}}),
    ],
)
def test_a_pattern_that_does_not_end_is_a_timeout_and_leaves_the_others_alone(
    name: str, own: dict[str, Any], columns: dict[str, Any]
) -> None:
    endless = json.dumps("a" * 60 + "b") if name == "json_schema" else "a" * 60 + "b"
    short = '"aaa"' if name == "json_schema" else "aaa"
    texts = [f"<answer>{text}</answer>" for text in (short, endless, short)]
    found = get_reward(name)
    rows = {key: [value] * 3 for key, value in columns.items()}
    with RewardRunner([found], workers=1) as pool:
        scores = pool.run(found, [""] * 3, texts, rows, own, [[0, 1, 2]], name, 1.0)
    assert [one.status for one in scores] == [Status.SCORED, Status.TIMEOUT, Status.SCORED]
    assert [scores[0].value, scores[2].value] == [1.0, 1.0]


# --- JSON -------------------------------------------------------------------------------------------------------------

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
ANNA = '{"name": "Anna", "age": 3}'


@pytest.mark.parametrize(
    "text",
    [
        ANNA,
        f"  {ANNA}\n",
        f"<answer>{ANNA}</answer>",
        f"<think>{{}}</think>{ANNA}",
        f"<think><answer>1</answer></think><answer>\n{ANNA}\n</answer> done",
        f"Here it is:\n```json\n{ANNA}\n```\nGood luck.",
        f"```\n{{}}\n```\nor rather\n```JSON\n{ANNA}\n```",
        f"<answer>```json\n{ANNA}\n```</answer>",
        '{"age": 3,\n\t"name": "Anna"}',
        '{"age": 3.0, "name": "\\u0041nna"}',
    ],
)
def test_a_document_is_right_wherever_it_stands_and_however_it_is_spaced(text: str) -> None:
    assert json_schema([""], [text], schema=[PERSON]) == [Score(1.0)]
    assert json_schema([""], [text], schema=[json.dumps(PERSON)]) == [Score(1.0)]


@pytest.mark.parametrize(
    ("text", "status", "detail"),
    [
        ('{"name": "Anna"}', Status.SCORED, "$: 'age' is a required property"),
        ('{"name": "Anna", "age": "3"}', Status.SCORED, "$.age: '3' is not of type 'integer'"),
        ('{"name": "Anna", "age": true}', Status.SCORED, "$.age: True is not of type 'integer'"),
        ('{"name": "Anna", "age": -1}', Status.SCORED, "$.age: -1 is less than the minimum of 0"),
        ('{"name": "Anna", "age": 3, "more": 1}', Status.SCORED, "Additional properties"),
        ('{"name": "Anna", "age": 3, "age": 4}', Status.UNPARSEABLE, "a key stands twice"),
        ('{"name": "Anna", "age": NaN}', Status.UNPARSEABLE, "NaN is no JSON"),
        ("{'name': 'Anna', 'age': 3}", Status.UNPARSEABLE, "no JSON: "),
        (f"Here: {ANNA}", Status.UNPARSEABLE, "no JSON: "),
        (f"<think>{ANNA}", Status.UNPARSEABLE, "no answer found"),
        ("", Status.UNPARSEABLE, "no answer found"),
        ("[" * 50_000, Status.UNPARSEABLE, "no JSON: "),
        ("9" * 5_000, Status.UNPARSEABLE, "no JSON: "),
        ("```\n" + " " * 90_000, Status.UNPARSEABLE, "no JSON: "),
    ],
)
def test_what_is_wrong_is_said(text: str, status: Status, detail: str) -> None:
    (score,) = json_schema([""], [text], schema=[PERSON])
    assert (score.value, score.status) == (0.0, status) and detail in score.detail


def test_formats_are_checked_if_the_recipe_says_so() -> None:
    row: dict[str, Any] = {"schema": [{"type": "string", "format": "date"}]}
    assert json_schema([""], ['"2026-02-30"'], **row)[0].value == 1
    assert json_schema([""], ['"2026-02-30"'], **row, formats=True)[0].value == 0
    assert json_schema([""], ['"2026-02-28"'], **row, formats=True)[0].value == 1


def test_the_draft_is_the_one_that_the_schema_names() -> None:
    """Draft 4 has `exclusiveMaximum: true` beside `maximum`; 2020-12 has a number."""
    old = {
        "$schema": "http://json-schema.org/draft-04/schema#",
        "maximum": 3,
        "exclusiveMaximum": True,
    }
    assert [one.value for one in json_schema([""] * 2, ["2", "3"], schema=[old] * 2)] == [1, 0]
    with pytest.raises(ValueError, match="holds no schema"):
        json_schema([""], ["2"], schema=[{"maximum": 3, "exclusiveMaximum": True}])


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (None, "needs an object in the column 'schema', got None"),
        ("{", "the column 'schema' holds no JSON"),
        ({"type": "strin"}, "holds no schema: "),
        ({"$ref": "https://example.org/other.json"}, "is not followed"),
    ],
)
def test_a_schema_that_cannot_be_used_is_named(schema: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        json_schema([""], ["1"], schema=[schema])


def test_references_inside_the_schema_and_to_its_draft_are_followed() -> None:
    tree = {"$defs": {"n": {"type": "array", "items": {"$ref": "#/$defs/n"}}}, "$ref": "#/$defs/n"}
    assert [
        one.value for one in json_schema([""] * 2, ["[[],[[]]]", "[1]"], schema=[tree] * 2)
    ] == [1, 0]
    meta = {"$ref": "https://json-schema.org/draft/2020-12/schema"}
    texts = ['{"type": "string"}', '{"type": "strin"}']
    assert [one.value for one in json_schema([""] * 2, texts, schema=[meta] * 2)] == [1, 0]


documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(document=documents, other=documents, indent=st.sampled_from([None, 2]))
def test_every_document_is_the_only_one_that_equals_itself(
    document: Any, other: Any, indent: int | None
) -> None:
    texts = [f"<think>a</think>\n{json.dumps(one, indent=indent)}" for one in (document, other)]
    (own, different) = json_schema([""] * 2, texts, schema=[{"const": document}] * 2)
    assert own.value == 1.0
    if json.dumps(document, sort_keys=True) != json.dumps(other, sort_keys=True):
        assert different.value == 0.0 or document == other


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=200))
def test_no_text_makes_them_raise(text: str) -> None:
    for completion in (text, f"<answer>{text}</answer>", f"```json\n{text}\n```"):
        assert json_schema([""], [completion], schema=[PERSON])[0].value == 0.0
        assert regex([""], [completion], expression="(?!)")[0].value == 0.0
