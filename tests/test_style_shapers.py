"""Rewards on form: tags, repetition, language, thinking modes, their balance, HGPO's scores."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlcurric.objective.advantages import hgpo
from rlcurric.rewards.modes import mode_of
from rlcurric.rewards.ngrams import ngram_ids, repeated_items
from rlcurric.rewards.scripts import SCRIPTS, prose, share_in
from rlcurric.rewards.spans import only_pair, statement, thought
from tests.shapers import NO_THINK, THINK, entry, shaped

# --- tags -------------------------------------------------------------------------------------------------------------

GOOD = "<think>a</think> <answer>b</answer>"
OBSERVE: dict[str, Any] = {"observe_tag": "observe", "observe": 0.25}


@pytest.mark.parametrize(
    ("text", "soft", "together", "strict"),
    [
        (GOOD, 1, 1, 1),
        (f"\n {GOOD} \n", 1, 1, 1),
        (f"so: {GOOD}", 1, 1, 0),
        (f"{GOOD} done", 1, 1, 0),
        ("<think>a</think>b<answer>c</answer>", 1, 1, 0),
        ("<think>a</think>", 0.5, 0, 0),
        ("<answer>b</answer><think>a</think>", 0, 0, 0),
        ("<think>a<answer>b</answer></think>", 0, 0, 0),
        (GOOD + GOOD, 0, 0, 0),
        ("", 0, 0, 0),
    ],
)
def test_format_pays_pairs_or_the_whole(
    text: str, soft: float, together: float, strict: float
) -> None:
    paid = [shaped("format", [text], form=form)[0] for form in ("soft", "together", "strict")]
    assert paid == [soft, together, strict]


@pytest.mark.parametrize(
    ("text", "soft", "together", "strict"),
    [
        (f"<observe>o</observe>{GOOD}", 1.25, 1.25, 1.25),
        ("<think><observe>o</observe>a</think><answer>b</answer>", 1.25, 1.25, 1.25),
        ("<think>a</think><observe>o</observe><answer>b</answer>", 1, 0, 0),
        (f"{GOOD}<observe>o</observe>", 1, 0, 0),
        ("<observe><think>a</observe></think><answer>b</answer>", 1, 0, 0),
        ("<think>a</think><answer><observe>o</observe>b</answer>", 1, 0, 0),
        (f"<observe>o</observe><observe>o</observe>{GOOD}", 1, 0, 0),
        (GOOD, 1, 0, 0),
        ("<answer>b</answer><observe>o</observe>", 0.5, 0, 0),
        ("<observe>o</observe><answer>b</answer>", 0.75, 0, 0),
        (f"x<observe>o</observe>{GOOD}", 1.25, 1.25, 0),
    ],
)
def test_an_observation_stands_before_the_thought_or_inside_it(
    text: str, soft: float, together: float, strict: float
) -> None:
    forms = ("soft", "together", "strict")
    assert [shaped("format", [text], form=form, **OBSERVE)[0] for form in forms] == [
        soft,
        together,
        strict,
    ]


def test_tags_may_have_other_names_and_must_be_names() -> None:
    text = "<reason>a</reason><final-1>b</final-1>"
    own: dict[str, Any] = {"think_tag": "reason", "answer_tag": "final-1"}
    assert shaped("format", [text, GOOD], form="strict", **own) == [1, 0]
    bad: list[dict[str, Any]] = [{"think_tag": "<t>"}, {"answer_tag": ""}, {"think_tag": "a.*"}]
    for wrong in bad:
        with pytest.raises(ValueError, match="a tag is a letter, then"):
            shaped("format", [], **wrong)
    for name in ("mode", "mode_table", "mode_balance", "hgpo_inter", "hgpo_intra"):
        with pytest.raises(ValueError, match="tags must differ, got think, think"):
            entry(name).check({"no_think_tag": "think"})
    with pytest.raises(ValueError, match="tags must differ, got answer, answer"):
        shaped("format", [], think_tag="answer")
    with pytest.raises(ValueError, match="name its observe_tag"):
        shaped("format", [], observe=0.5)


# --- repetition -------------------------------------------------------------------------------------------------------


def test_dense_repetition_costs_every_token_of_a_run_that_stood_before() -> None:
    """1 2 3 | 9 | 1 2 3: the second three. 7 7 7 7: all but the first, each once."""
    ids = [[1, 2, 3, 9, 1, 2, 3], [7, 7, 7, 7], [1, 2, 3, 4], [1], []]
    cost = shaped("repetition", [""] * 5, completion_ids=ids, n=2)
    assert cost == pytest.approx([-0.15, -0.15, 0, 0, 0])
    assert shaped("repetition", [""] * 2, completion_ids=ids[:2], n=3) == pytest.approx(
        [-0.15, -0.15]
    )
    assert shaped("repetition", [""] * 2, completion_ids=ids[:2], n=4) == [0, 0]


def test_sparse_repetition_is_the_share_of_runs_that_are_no_news() -> None:
    ids = [[1, 2, 1, 2, 1], [5, 5, 5, 5, 5], [1, 2, 3], [1], []]
    cost = shaped("repetition", [""] * 5, completion_ids=ids, n=2, form="sparse", penalty=-1.0)
    assert cost == pytest.approx([-0.5, -0.75, 0, 0, 0])


def test_repetition_may_count_words_and_spare_right_answers() -> None:
    texts = ["So we so WE", "so we", "a a a"]
    words = shaped("repetition", texts, unit="words", n=2, penalty=-1.0)
    assert words == [-2, 0, -2]
    spared = shaped(
        "repetition",
        texts,
        correct=[1, 0, None],
        unit="words",
        n=2,
        penalty=-1.0,
        apply_to="wrong_only",
    )
    assert spared == [0, 0, -2]


@settings(deadline=None, max_examples=150)
@given(items=st.lists(st.integers(0, 2), max_size=40), n=st.integers(1, 9))
def test_runs_are_numbered_as_tuples_would_be(items: list[int], n: int) -> None:
    runs = [tuple(items[k : k + n]) for k in range(len(items) - n + 1)]
    order = list(dict.fromkeys(runs))
    ids = ngram_ids(items, n).tolist()
    assert len(ids) == len(runs) and len(set(ids)) == len(order)
    assert {(one, run) for one, run in zip(ids, runs, strict=True)} == {
        (ids[runs.index(run)], run) for run in order
    }
    repeated = {
        k for start, run in enumerate(runs) if run in runs[:start] for k in range(start, start + n)
    }
    assert repeated_items(items, n) == len(repeated)


# --- language ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "language", "share"),
    [
        ("We add two apples.", "en", 1.0),
        ("So wir addieren", "en", 1.0),  # Latin as well: the stated limit
        ("so we 相加 the", "en", 3 / 5),
        ("so we 相加 the", "zh", 2 / 5),
        ("设 x 为 θ", "zh", 1.0),
        ("足し算をする", "ja", 1.0),
        ("足し算", "zh", 2 / 3),
        ("Мы складываем two", "ru", 2 / 3),
        ("मैं जोड़ता हूँ", "hi", 1.0),
        ("जोड़ता two", "hi", 1 / 2),
        ("angle θ and φ", "en", 1.0),
        ("angle αβγ", "en", 1.0),
        ("η γωνία two", "el", 1 / 2),
        ("café naïve", "en", 1.0),
        ("12 + 30 = 42", "en", None),
        ("", "en", None),
    ],
)
def test_words_are_told_by_their_script(text: str, language: str, share: float | None) -> None:
    assert share_in(text, language) == (None if share is None else pytest.approx(share))


def test_code_latex_and_tags_are_no_prose() -> None:
    text = "<think>设 $abc$ 为 \\(def\\) 与 $$ghi$$ 和 `jkl` 的 \\frac{1}{2} \\[mno\\]\n```pqr\nstu```</think>"
    assert not any(sign.isascii() and sign.isalpha() for sign in prose(text))
    assert shaped("language_consistency", [text], language="zh") == [1.0]
    assert "open" in prose("```open") and "to pay" in prose("has $5 to pay\nand $6")


def test_the_language_is_that_of_the_thought_or_of_the_whole_by_row_or_for_all() -> None:
    text = "<think>two words</think>四个汉字"
    assert shaped("language_consistency", [text]) == [1.0]
    assert shaped("language_consistency", [text], part="completion") == [pytest.approx(2 / 6)]
    rows = shaped("language_consistency", [text] * 2, language_column="tongue", tongue=["en", "zh"])
    assert rows == [1.0, 0.0]
    with pytest.raises(ValueError, match=r"got 'english'. It knows: .*\ben\b"):
        shaped("language_consistency", [], language="english")
    with pytest.raises(ValueError, match=r"got \['en'\]"):
        shaped("language_consistency", [text], language_column="tongue", tongue=[["en"]])
    with pytest.raises(ValueError, match=r"needs the column 'tounge'\. Did you mean 'tongue'"):
        shaped("language_consistency", [text], language_column="tounge", tongue=["en"])


# --- modes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        (THINK, "think"),
        (NO_THINK, "no_think"),
        ("</think>\n\nanswer", "no_think"),
        ("\n…\n</think>answer", "no_think"),
        ("<think></think>answer", "no_think"),
        ("<think>\n\n</think>\n\nlong reasoning <think>more</think>", "no_think"),
        ("thought, the tag in the prompt</think>answer", "think"),
        ("<think>\n...\nreally</think>answer", "think"),
        ("<think>\n...\n", "think"),
        ("answer", "think"),
        ("", "think"),
        ("<no_think>answer</no_think>", "no_think"),
        ("<think>not <no_think></think>answer", "think"),
    ],
)
def test_the_mode_is_what_stands_in_the_completion(text: str, mode: str) -> None:
    assert mode_of(text) == mode
    assert shaped("mode", [text]) == [float(mode == "think")]


def test_the_mode_table_is_that_of_autothink() -> None:
    texts = [THINK, THINK, NO_THINK, NO_THINK]
    assert shaped("mode_table", texts, correct=[1, 0, 1, 0]) == [1, 0, 2, -1]
    own: dict[str, Any] = {
        "think_right": 3.0,
        "think_wrong": 4.0,
        "no_think_right": 5.0,
        "no_think_wrong": 6.0,
    }
    assert shaped("mode_table", texts, correct=[1, 0.5, 1, 0], **own) == [3, 4, 5, 6]


def test_what_closes_no_tag_or_marks_no_answer_is_malformed() -> None:
    texts = [
        "<think>\n...\n\\boxed{1}",
        "<think>open",
        "<no_think>\\boxed{1}",
        "<think>\n...\n</think>none",
        "<think>\\boxed{1}</think>",
        "<no_think>\\boxed{1}</no_think>",
    ]
    paid = shaped("mode_table", texts, correct=[0] * 6, malformed=7.0, think_wrong=8.0)
    assert paid == [7, 7, 7, 7, 7, -1]
    assert shaped("mode_table", texts, correct=[1] * 6, malformed=7.0) == [7, 7, 7, 2, 1, 2]
    assert shaped("mode_table", [THINK], correct=[None]) == [None]


# --- balance ----------------------------------------------------------------------------------------------------------


def balanced(thinking: int, plain: int, **arguments: Any) -> dict[tuple[str, bool], float]:
    """The table's rewards after balancing a batch of so many completions, by mode and verdict."""
    texts = [THINK] * thinking + [NO_THINK] * plain
    correct = [float(k % 2 == 0) for count in (thinking, plain) for k in range(count)]
    rewards = shaped("mode_table", texts, correct=correct)
    moves = shaped("mode_balance", texts, correct=correct, rewards=rewards, **arguments)
    return {
        (mode_of(text), bool(right)): reward + move
        for text, right, reward, move in zip(texts, correct, rewards, moves, strict=True)
    }


CELLS = [("think", True), ("think", False), ("no_think", True), ("no_think", False)]


@pytest.mark.parametrize(
    ("thinking", "plain", "expected"),
    [
        (8, 0, (0, -1, None, None)),
        (6, 2, (0.5, -0.5, 2, -1)),
        (4, 4, (1, 0, 2, -1)),
        (2, 6, (1, 0, 1.5, -1.5)),
        (0, 8, (None, None, 1, -2)),
    ],
)
def test_the_more_frequent_mode_is_worth_less(
    thinking: int, plain: int, expected: tuple[float | None, ...]
) -> None:
    found = balanced(thinking, plain)
    assert tuple(found.get(cell) for cell in CELLS) == expected


def test_the_other_modes_share_is_compared_with_what_is_left_of_the_target() -> None:
    """1 - z = 1/4: within the 1 - 0.8 = 0.2 that are left it is 0.05 too much, and nothing against 0.8."""
    assert balanced(6, 2, target_think=0.8)["no_think", True] == pytest.approx(2 - 0.1)
    legacy = balanced(6, 2, target_think=0.8, legacy_symmetric=True)
    assert legacy["no_think", True] == 2
    assert balanced(2, 6, target_think=0.2, legacy_symmetric=True)["no_think", True] == 1
    assert balanced(2, 6, target_think=0.2)["no_think", True] == 2


def test_what_no_grader_could_judge_is_not_counted() -> None:
    texts, correct = [THINK, NO_THINK, THINK, THINK], [1.0, 1.0, None, None]
    moves = shaped("mode_balance", texts, correct=correct, rewards=[1.0, 2.0, 0.0, 0.0])
    assert moves == [0, 0, None, None]
    assert shaped("mode_balance", [], rewards=[]) == []
    assert (entry("mode_balance").scope, entry("mode_balance").where) == ("batch", "inline")


# --- hgpo -------------------------------------------------------------------------------------------------------------

FOUR = [THINK, THINK, NO_THINK, NO_THINK]


@pytest.mark.parametrize(
    ("correct", "inter", "intra"),
    [
        ([1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]),
        ([1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 0, 0]),
        ([1, 0, 1, 0], [0, 0, 1, 1], [1, 0, 1, 0]),
        ([0.9, 0.9, 0.7, 0.7], [0, 0, 1, 1], [0, 0, 0, 0]),
        ([0.5, 0.3, 0.2, 0.1], [1, 1, 0, 0], [1, 0, 1, 0]),
        ([None, 1, 0, 0], [None, 1, 0, 0], [None, 0, 0, 0]),
        ([None, None, 1, 0], [None, None, 0, 0], [None, None, 1, 0]),
    ],
)
def test_the_better_mode_and_the_best_of_each(
    correct: list[float | None], inter: list[float | None], intra: list[float | None]
) -> None:
    assert shaped("hgpo_inter", FOUR, correct=correct) == inter
    assert shaped("hgpo_intra", FOUR, correct=correct) == intra


def test_modes_may_be_compared_by_reward_and_another_margin() -> None:
    rewards = [0.5, 0.1, 0.2, 0.2]
    by_reward: dict[str, Any] = {"correct": [0.0] * 4, "rewards": rewards, "scores": "reward"}
    assert shaped("hgpo_inter", FOUR, delta=0.05, **by_reward) == [1, 1, 0, 0]
    assert shaped("hgpo_inter", FOUR, **by_reward) == [0, 0, 1, 1]
    assert shaped("hgpo_intra", FOUR, **by_reward) == [1, 0, 0, 0]
    assert shaped("hgpo_inter", [THINK] * 2, correct=[1, 0]) == [0, 0]
    three = shaped("hgpo_intra", [THINK] * 3, correct=[1, 1, 0])
    assert three == [1, 1, 0]


def test_the_scores_are_what_the_advantage_of_hgpo_reads() -> None:
    """Thinking wins 3 : 1; z(inter) is +-sqrt(3)/2, and the one winner of a mode of two has z = 1/sqrt(2)."""
    correct: list[float | None] = [1.0, 0.5, 0.5, 0.0]
    components = {
        name: torch.tensor(shaped(name, FOUR, correct=correct))
        for name in ("hgpo_intra", "hgpo_inter", "mode")
    }
    intra_B, inter_B = hgpo(components, torch.zeros(4, dtype=torch.int64), eps=0.0)
    half, most = 0.5**0.5, 3**0.5 / 2
    assert intra_B.tolist() == pytest.approx([half, -half, half, -half])
    assert inter_B.tolist() == pytest.approx([most, most, -most, -most])


# --- any text ---------------------------------------------------------------------------------------------------------

TEXT_REWARDS = ["format", "mode", "mode_table", "language_consistency", "repetition"]


@pytest.mark.parametrize("name", TEXT_REWARDS)
@settings(deadline=None, max_examples=50)
@given(
    parts=st.lists(
        st.sampled_from(
            ["<think>", "</think>", "<no_think>", "<answer>", "</answer>", "$", "`", "```", "\\[", "\\(", ".", " "]
        )
        | st.text(max_size=3),
        max_size=20,
    ),
    verdict=st.sampled_from([0.0, 0.5, 1.0, None]),
)  # fmt: skip
def test_any_text_gets_a_bounded_number_or_none(
    name: str, parts: list[str], verdict: float | None
) -> None:
    text = "".join(parts)
    ids = [[ord(sign) for sign in text]]
    (value,) = shaped(name, [text], correct=[verdict], completion_ids=ids)
    low = -0.05 * len(text) if name == "repetition" else -1.0
    assert value is None or low <= value <= 2.0


@pytest.mark.parametrize(
    "part", ["<think>", "</think>", "<answer>", "$", "`", "\\[", "\\(", "```", "<", "\\", "a", "é "]
)
def test_a_text_of_one_part_over_and_over_is_read_in_one_pass(part: str) -> None:
    """A search that looked at every pair of places would take many minutes for it."""
    text = part * (1 << 18)
    assert only_pair(text, "think") is None
    assert len(thought(text)) + len(statement(text)) <= len(text)
    assert len(prose(text)) <= len(text) + 1
    assert share_in(text, "en") in (None, 1.0)
    (value,) = shaped("format", [text], form="strict")
    assert value == 0.0


def test_every_language_names_scripts_that_its_words_have() -> None:
    samples = {"en": "word", "ru": "слово", "el": "λέξη", "he": "מילה", "ar": "كلمة", "ko": "단어", "th": "คำ",
               "hi": "शब्द", "bn": "শব্দ", "ta": "சொல்", "te": "పదం", "kn": "ಪದ", "ml": "വാക്ക്", "gu": "શબ્દ",
               "pa": "ਸ਼ਬਦ", "hy": "բառ", "ka": "სიტყვა", "zh": "词", "ja": "ことば"}  # fmt: skip
    assert {SCRIPTS[one] for one in samples} == set(SCRIPTS.values())
    for language, word in samples.items():
        assert share_in(word, language) == 1.0
        others = [one for one in samples if not SCRIPTS[one] & SCRIPTS[language]]
        assert all(share_in(word, other) in (0.0, None) for other in others)
