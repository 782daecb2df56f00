"""What prompts are made of: variables, worked examples, hints by level, modes; and what recipes may not say of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlcurric.build import Parts, RunData
from rlcurric.curriculum.hints import HintLevels
from rlcurric.data import (
    Modes,
    PromptTemplate,
    Renderer,
    Variables,
    draw_examples,
    number_text,
    tokenize_modes,
)
from rlcurric.data.rows import Place, Row
from rlcurric.recipe.schema import Recipe
from rlcurric.schedules import Progress, StepExp
from rlcurric.train.models import tokenizer_of
from rlcurric.types import Candidate, GroupId, GroupOutcome
from tests.test_docs import blocks
from tests.test_prompt_stages import HARD, HINTED, MODES, one_stage
from tests.tiny import tiny_recipe

TOKENIZER = tokenizer_of(tiny_recipe())
TLTS = StepExp(256, 0.7, 150)
DOCS = Path(__file__).parent.parent / "docs"


def row(question: str = "1+1=", number: int = 0, **columns: Any) -> Row:
    return Row(number, number, {"question": question, "answer": "2", **columns}, Place("sums, index", number))  # fmt: skip


def rendered(template: PromptTemplate, one: Row, **more: Any) -> str:
    return Renderer(template, TOKENIZER).prompt(one, "sums", **more)[1]


# --- variables --------------------------------------------------------------------------------------------------------


def test_numbers_read_as_people_write_them() -> None:
    numbers = [(87.0, "87"), (-3, "-3"), (0.5, "0.5"), (1 / 3, "0.333333"), (125.44, "125.44")]
    assert [number_text(number) for number, _ in numbers] == [text for _, text in numbers]


def test_a_prompt_says_the_budget_of_its_step() -> None:
    """The budgets of Train Long, Think Short: 256, 179, 125, 87 at the drops."""
    variables = Variables({"token_budget": TLTS, "unit": "tokens", "half": 0.5})
    template = PromptTemplate("{question}({token_budget})", system="-{half}-", prefill="={half}")
    tokenizer = tokenizer_of(one_stage(HARD, mixture=["hard"]))  # knows the dot
    for step, budget in ((0, 256), (149, 256), (150, 179), (300, 125), (450, 87)):
        values = variables.at(Progress(step, step))
        assert values == {"token_budget": str(budget), "unit": "tokens", "half": "0.5"}
        ids, text = Renderer(template, tokenizer).prompt(row(), "sums", values)
        assert text == f"-0.5-\n\n1+1=({budget})=0.5"
        assert tokenizer.decode(ids) == text
        assert Renderer(template, tokenizer).prefill(row(), "sums", values) == "=0.5"
    # what `check` renders: the start, every drop, the end
    assert [one["token_budget"] for one in variables.over(0, 600)] == ["256", "179", "125", "87"]
    assert [one["token_budget"] for one in variables.over(150, 200)] == ["179", "125"]
    assert len(Variables({"x": TLTS}).over(0, None)) == 1


def test_of_many_values_the_longest_is_among_those_that_are_tried() -> None:
    points = [[0, 5], [500, 1234.5], [1000, 7]]
    recipe = one_stage(prompt={"vars": {"x": {"schedule": "piecewise", "points": points, "on": "step"}}})  # fmt: skip
    found = [one["x"] for one in Variables(recipe.stages[0].prompt.vars).over(0, 1001)]
    assert 20 < len(found) < 30 and found[0] == "5" and found[-1] == "7"
    assert max(map(len, found)) == len("100.901")


def test_a_column_and_a_variable_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError) as caught:
        rendered(PromptTemplate("{question}{level}"), row(level="3"), values={"level": "4"})
    said = str(caught.value)
    assert (
        "'sums', sums, index 0: the row has a column 'level', and prompt.vars sets {level}" in said
    )
    with pytest.raises(ValueError, match=r"column 'hint', and prompt\.hints fill in \{hint\} too"):
        rendered(PromptTemplate(hint="{hint}"), row(hint="3"))
    with pytest.raises(ValueError, match=r"prompt\.vars\.hint: \{hint\} is where prompt\.hints"):
        one_stage(prompt={"vars": {"hint": 3}, "hints": {}})


def checked(recipe: Recipe, context: int = 128) -> list[str]:
    """What `check` says of the prompts and curricula of a recipe's RL stages."""
    parts = Parts(recipe)
    try:
        data = RunData(recipe, tokenizer_of(recipe), context)
        said = []
        for stage in recipe.stages:
            data.check_prompts(stage, parts.columns(stage))
            said += parts.try_curriculum(stage, data.pool(stage))
        return said
    finally:
        parts.close()


def test_check_renders_at_every_drop_and_says_where_text_and_target_part() -> None:
    grows = {"schedule": "step_exp", "start": 9, "gamma": 20, "every": 2}  # 9, 180
    prompt = {"template": "{question}({token_budget})", "vars": {"token_budget": {"schedule": "b"}}}
    target = {"name": "length_budget", "weight": 0.5, "target": {"schedule": "b"}}
    named = one_stage({"schedules": {"b": grows}}, prompt=prompt, rewards=["verifier", target])
    assert checked(named) == []
    # three terms, "(9)" and 12 tokens to sample fit 21 tokens; "(180)" does not
    with pytest.raises(ValueError, match="the prompt has 11 tokens; with 12 more"):
        checked(named, context=22)
    parted = [
        "verifier",
        {**target, "target": 9},
        {"name": "repetition", "weight": 0.1},
    ]
    said = checked(one_stage({"schedules": {"b": grows}}, prompt=prompt, rewards=parted))
    assert said == [
        "stages.rl.prompt.vars: token_budget parts from rewards.length_budget.target: in step 3 the prompt says 180 and the "
        "reward asks 9. Name one schedule for both ({schedule: NAME}, with NAME under `schedules:` of the recipe)"
    ]
    idle = one_stage(prompt={"vars": {"unit": "tokens"}})
    assert checked(idle) == [
        "stages.rl.prompt.vars.unit: neither template, system nor prefill has {unit}"
    ]


def test_a_held_out_prompt_reads_as_its_step_does_or_as_it_is_asked_to() -> None:
    budget = {"schedule": "step_exp", "start": 12, "gamma": 0.5, "every": 1}
    prompt = {"template": "{question}({b})", "vars": {"b": budget}}
    recipe = one_stage(prompt=prompt)
    data, stage = RunData(recipe, TOKENIZER, 128), recipe.stages[0]

    def ends(*args: Any) -> set[str]:
        return {one.text.partition("=")[2] for one in data.held_out(stage, *args)}

    assert ends(Progress(0, 0, 3)) == {"(12)"} and ends(Progress(1, 1, 3)) == {"(6)"}
    assert ends() == {"(3)"}  # the stage's last step
    stage = one_stage(prompt=prompt, evaluation={"vars": {"b": 87}}).stages[0]
    assert ends() == {"(87)"}


# --- worked examples --------------------------------------------------------------------------------------------------


def test_examples_stand_in_front_of_the_prompt() -> None:
    shots = {"examples": [{"question": "1+2=", "demonstration": "<answer>3</answer>"}], "separator": " "}  # fmt: skip
    prompt = {"template": "({question})", "prefill": "<think>", "shots": shots}
    recipe = one_stage(prompt=prompt)
    pool = RunData(recipe, TOKENIZER, 128).pool(recipe.stages[0])
    one = pool.prompt("two", 0)
    assert one.text == f"(1+2=)<answer>3</answer> ({one.columns['question']})<think>"
    assert one.prefill == "<think>"


def test_examples_are_training_rows_drawn_by_hash_and_never_the_row_itself() -> None:
    recipe = one_stage(prompt={"shots": {"count": 2, "separator": " "}})
    data = RunData(recipe, TOKENIZER, 512)
    pool = data.pool(recipe.stages[0])
    rows = pool.rows["two"]
    chosen = draw_examples(rows, 2, "two")
    texts = [f"{one.columns['question']}{one.columns['demonstration']} " for one in chosen]
    assert len(set(texts)) == 3
    drawn = {one.uid for one in chosen}
    for index, one in enumerate(rows):
        prompt = pool.prompt("two", index)
        own = f"{one.columns['question']}{one.columns['demonstration']} "
        shown = [text for text in texts if text != own][:2] if one.uid in drawn else texts[:2]
        assert prompt.text == "".join(shown) + one.columns["question"]
    held_out = {one.columns["question"] for one in data.rows("two")[len(rows) :]}
    for one in data.held_out(recipe.stages[0]):
        assert one.distribution != "two" or one.text.startswith(texts[0] + texts[1])
    assert not held_out & {one.columns["question"] for one in chosen}
    with pytest.raises(ValueError, match="40 examples need at least 41 training rows"):
        draw_examples(rows, 40, "two")


def test_examples_in_a_chat_are_turns() -> None:
    from copy import deepcopy

    tokenizer = deepcopy(TOKENIZER)
    tokenizer.chat_template = "{% for m in messages %}({{ m['role'][0] == 'u' and '+' or '-' }}{{ m['content'] }}){% endfor %}="
    template = PromptTemplate(chat=True, prefill="<think>")
    example = {"question": "1+2", "demonstration": "3"}
    renderer = Renderer(template, tokenizer, lambda row, name: [example])
    assert renderer.prompt(row("4+4"), "sums")[1] == "(+1+2)(-3)(+4+4)=<think>"


# --- modes ------------------------------------------------------------------------------------------------------------


def test_samples_take_turns_by_their_number_alone() -> None:
    modes = Modes(("think", "no_think"), ((2,), (3, 4)))
    assert [modes.name(k) for k in range(4)] == ["think", "no_think", "think", "no_think"]
    assert [modes.forced(k) for k in (3, 0)] == [(3, 4), (2,)]
    assert Modes().name(3) is None and Modes().forced(3) == ()


def test_a_mode_s_text_is_tokens_of_its_own() -> None:
    found = tokenize_modes({"think": "<think>", "no_think": "<think></think>1"[7:]}, TOKENIZER, 12)
    assert found == Modes(("think", "no_think"), ((2,), (3, 7)))
    with pytest.raises(ValueError, match="think: the tokenizer has no token for 'x' in '<think>x'"):
        tokenize_modes({"think": "<think>x", "other": "1"}, TOKENIZER, 12)
    with pytest.raises(ValueError, match=r"its tokens \[2\] begin those of b, \[2, 3\]"):
        tokenize_modes({"a": "<think>", "b": "<think></think>"}, TOKENIZER, 12)
    with pytest.raises(ValueError, match="none of them end-of-sequence"):
        tokenize_modes({"a": "<eos>", "b": "1"}, TOKENIZER, 12)
    with pytest.raises(ValueError, match=r"leaves nothing of rollout\.max_new_tokens \(2\)"):
        tokenize_modes({"a": "11", "b": "2"}, TOKENIZER, 2)


def test_a_mode_that_melts_into_what_follows_is_refused() -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    texts = ("t", "n", ">", "\n", ">\n", ">\n\n", "\n\n", "<eos>")
    vocabulary = {text: k for k, text in enumerate(texts)}
    merges = [(">", "\n"), (">\n", "\n"), ("\n", "\n")]
    melting = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(BPE(vocabulary, merges)), eos_token="<eos>"
    )
    with pytest.raises(
        ValueError, match=r"one: 't>' is \[0, 2\] by itself and \[0, 4\] in front of '\\n'"
    ):
        tokenize_modes({"one": "t>", "two": "n>"}, melting, 12)
    found = tokenize_modes({"one": "t>\n", "two": "n>\n"}, melting, 12)
    assert found.ids == ((0, 4), (1, 4))


@pytest.mark.parametrize(
    ("curriculum", "said"),
    [
        ({"group_size": 5}, r"group_size must be divisible by the number of prompt\.modes, .* got 5 for 2"),
        ({"plan": {"name": "speed", "initial": 2}}, "plan speed judges a prompt by its first samples"),
        ({"selector": {"name": "pods", "keep": 2}}, "selector pods would leave a group with unequal"),
    ],
)  # fmt: skip
def test_what_modes_cannot_stand_with(curriculum: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        one_stage(**{**MODES, "curriculum": {"group_size": 4, **curriculum}})


def test_check_says_where_modes_are_not_learned() -> None:
    said = checked(one_stage(**{**MODES, "objective": "grpo"}))
    assert said == [
        "stages.rl.prompt.modes: the objective grpo does not compare modes, so that which mode is chosen is not learned; "
        "objective: hgpo does"
    ]
    (free,) = checked(one_stage(**{**MODES, "prompt": {}}))
    assert "prompt.modes forces none" in free


# --- hints ------------------------------------------------------------------------------------------------------------


def candidate(uid: int, hints: int = 3) -> Candidate:
    return Candidate(uid, "sums", uid, {"hints": ["a", "b", "c", "d"][:hints]})


def ended(uid: int, correct: Sequence[float], hint: int = 0) -> GroupOutcome:
    return GroupOutcome(
        GroupId("s", uid, 0), "sums", 0, tuple(correct), tuple(correct), (1,) * len(correct), 0, 0, "trained", 1.0, None, hint
    )  # fmt: skip


def test_levels_rise_where_nobody_solves_and_fall_where_hints_help() -> None:
    hints = HintLevels("hints", max_level=3, lower_at=0.5, max_share=0.5)
    level = lambda uid=1, rows=3: hints.levels([candidate(uid, rows)])[0]  # noqa: E731
    visits = [((0, 0), 0, 1), ((0, 0), 0, 1), ((0, 0), 1, 2), ((0, 0), 2, 3), ((0, 0), 3, 3)]
    visits += [((0, 0, 0, 1), 3, 3), ((1, 0), 3, 2), ((), 2, 2), ((1, 1), 2, 1), ((1, 0), 0, 0)]
    for correct, shown, wanted in visits:
        hints.observe([ended(1, correct, shown)])
        assert level() == wanted, (correct, shown)
    for shown in (0, 1, 2):
        hints.observe([ended(2, (0, 0), shown)])
    assert (level(2, 3), level(2, 1), level(2, 0)) == (3, 1, 0)
    assert hints.metrics()["curriculum/hints/level"] == 3
    again = HintLevels("hints", 3, 0.5, 0.5)
    again.load_state_dict(hints.state_dict())
    assert again.levels([candidate(2), candidate(1)]) == [3, 0]


def test_at_most_a_share_of_a_step_shows_hints_and_the_neediest_first() -> None:
    hints = HintLevels("hints", 4, 0.5, max_share=0.25)
    assert hints.shown([1, 0, 3, 2, 0, 1, 0, 0], 0, 0) == [0, 0, 3, 2, 0, 0, 0, 0]
    assert hints.shown([1, 1, 2], 8, 2) == [0, 0, 0]  # a second round: 2 of 11
    assert hints.shown([1, 1, 2, 1], 8, 2) == [0, 0, 2, 0]
    assert hints.shown([0, 0], 0, 0) == [0, 0]


def test_what_hints_say_goes_apart() -> None:
    from rlcurric.curriculum.evidence import evidence
    from rlcurric.curriculum.measure import batch_metrics

    hints = HintLevels("hints", 4, 0.5, 0.5)
    outcomes = [ended(1, (1, 1), 2), ended(2, (0, 1)), ended(3, (0, 0))]
    outcomes[0] = GroupOutcome(**{**{k: getattr(outcomes[0], k) for k in GroupOutcome.__dataclass_fields__}, "weight": 0.0})  # fmt: skip
    hints.observe(outcomes)
    assert hints.metrics() == {
        "curriculum/hints/groups": 1,
        "curriculum/hints/raised": 1,
        "curriculum/hints/lowered": 0,
        "curriculum/hints/prompts": 1,
        "curriculum/hints/level": 1.0,
        "curriculum/hints/pass_rate": 1.0,
        "curriculum/hints/plain_pass_rate": 0.25,
    }
    found = batch_metrics(outcomes, [], ["sums"])
    assert found["curriculum/pass_rate/sums"] == 0.25 and found["curriculum/late"] == 0
    assert [one.group_id.uid for one in evidence(outcomes)] == [2, 3]


def test_a_hint_stands_where_the_template_says_or_behind_the_question() -> None:
    one = row("1+1=", hints=["1", "11"])
    assert rendered(PromptTemplate("{question}", hint="({hint})"), one, hint=2) == "1+1=(11)"
    assert rendered(PromptTemplate("{question}", hint="({hint})"), one) == "1+1="
    placed = PromptTemplate("({hint}){question}", hint="-{hint}")
    assert [rendered(placed, one, hint=level) for level in (0, 1)] == ["()1+1=", "(1)1+1="]
    with pytest.raises(ValueError, match="the column 'hints' must be a list of texts"):
        rendered(placed, row(hints="11"), hint=1)


def test_check_renders_every_hint_and_tells_rows_without() -> None:
    said = checked(one_stage(HARD, **HINTED))
    assert said == [
        "stages.rl.prompt.hints: 1 of 8 rows of the distribution 'hard' have no hint (column 'hints'), and never show one"
    ]
    longest = (
        6 + 8 + len("<think>\n...\n") - 6
    )  # "1+2+3=", "(1+2+3=)", the prefill with its tag as one token
    assert checked(one_stage(HARD, **HINTED), longest + 12) == said
    with pytest.raises(ValueError, match=f"the prompt has {longest} tokens; with 12 more"):
        checked(one_stage(HARD, **HINTED), longest + 11)
    with pytest.raises(ValueError, match="is less than one prompt, so that no hint would ever"):
        one_stage(HARD, **{**HINTED, "curriculum": {"prompts_per_step": 1}})
    with pytest.raises(ValueError, match=r"prompt\.hints\.template must have \{hint\}"):
        one_stage(prompt={"hints": {"template": "x", "max_share": 1}})


def test_rows_whose_hints_do_not_fit_are_left_out_where_that_is_asked_for() -> None:
    hard = {**HARD["distributions"]["hard"], "overlong": "drop"}
    recipe = one_stage({**HARD, "distributions": {"hard": hard}}, **HINTED)
    (stage,), tokenizer = recipe.stages, tokenizer_of(recipe)
    whole = RunData(recipe, tokenizer, 128).pool(stage)
    plain = [len(one.prompt_ids) for one in whole]
    hinted = [
        max(
            len(whole.prompt("hard", index, hint=level).prompt_ids)
            for level in range(whole.hints("hard", index) + 1)
        )
        for index in range(len(plain))
    ]
    context = max(hinted) + 11  # one token too few for the longest hint
    assert max(plain) + 12 <= context, "without their hints all rows fit"
    data = RunData(recipe, tokenizer, context)
    kept = sum(length < max(hinted) for length in hinted)
    assert data.pool(stage).sizes == {"hard": kept} and 0 < kept < len(plain)
    (told,) = data.doubts(stage)
    assert f"{len(plain) - kept} of {len(plain)} rows" in told


def test_check_refuses_a_column_of_hints_that_no_row_has() -> None:
    prompt = {**HINTED["prompt"], "hints": {**HINTED["prompt"]["hints"], "column": "hint"}}
    with pytest.raises(ValueError) as caught:
        checked(one_stage(HARD, **{**HINTED, "prompt": prompt}))
    said = "stages.rl.prompt.hints.column: no row of the stage has a hint in the column 'hint'. Did you mean 'hints'?"
    assert said in str(caught.value)


# --- the documents ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", ["recipes.md", "curriculum.md"])
def test_the_prompts_in_the_documentation_are_prompts(page: str) -> None:
    shown = [yaml.safe_load(text) for text in blocks(DOCS / page, "yaml")]
    stages = [{**one, **one.get("defaults", {})} for one in shown if "stages" not in one]
    found = [one for one in stages if "prompt" in one]
    assert len(found) == {"recipes.md": 2, "curriculum.md": 1}[page]
    for one in found:
        keys = ("prompt", "rewards", "objective", "curriculum")
        recipe = {"schedules": one["schedules"]} if "schedules" in one else {}
        stage: Any = one_stage(recipe, **{key: one[key] for key in keys if key in one}).stages[0]
        if "schedules" in one:
            budgets = Variables(stage.prompt.vars).over(0, 600)
            assert [value["token_budget"] for value in budgets] == ["256", "179", "125", "87"]
            assert stage.rewards[1].args["target"] == one["schedules"]["budget"]
