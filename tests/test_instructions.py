"""Instructions that a program checks: each of IFEval's 25 followed and not, its loose criterion, languages, and bad rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlcurric.registry import registry
from rlcurric.rewards.instructions import CHECKS, compare, followed, relaxed, sentences, words
from rlcurric.rewards.languages import language, language_code
from rlcurric.rewards.protocol import discover_builtin, get_reward
from rlcurric.rewards.runner import RewardRunner
from rlcurric.types import Score, Status

discover_builtin()
judge: Callable[..., list[Score]] = registry("reward").get("instructions").function

# name, arguments, responses that follow it, responses that do not
CASES: list[tuple[str, dict[str, Any], list[str], list[str]]] = [
    ("keywords:existence", {"keywords": ["ocean", "deep"]}, ["The Ocean is deep."], ["The ocean.", "deep"]),
    ("keywords:frequency", {"keyword": "sea", "frequency": 2, "relation": "at least"}, ["sea, Sea", "sea sea sea"], ["sea"]),
    ("keywords:frequency", {"keyword": "sea", "frequency": 2, "relation": "less than"}, ["sea", "none"], ["sea sea"]),
    ("keywords:forbidden_words", {"forbidden_words": ["cat", "dog"]}, ["A concatenation."], ["The Cat sat.", "hot dog"]),
    ("keywords:letter_frequency", {"letter": "e", "let_frequency": 3, "let_relation": "at least"}, ["Eel eye"], ["eel"]),
    ("language:response_language", {"language": "de"},
     ["Das Wetter ist heute schön, und wir gehen im Park spazieren."], ["The weather is nice today.", "42", ""]),
    ("length_constraints:number_words", {"num_words": 3, "relation": "at least"}, ["one two three", "a, b - c!"], ["one two", "..."]),
    ("length_constraints:number_words", {"num_words": 3, "relation": "less than"}, ["one two"], ["one two three"]),
    ("length_constraints:number_sentences", {"num_sentences": 2, "relation": "at least"},
     ["One. Two!", "One?! Then two.", "一。二。"], ["One, e.g. this one.", "Dr. Who came", "3.14 is pi."]),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, ["a\n***\nb", "***\na\n***\nb\n***"], ["a", "a\n***\n***\nb", "a***b***c"]),
    ("length_constraints:nth_paragraph_first_word", {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "weekend"},
     ["One.\n\nWeekend plans.", 'One.\n\n\n"Weekend, then.'], ["Weekend.\n\nOne.", "One.\n\nWeekends.", "a\n\nb\n\nweekend"]),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, ["[name], [address]"], ["[name]", "[a\nb] [c]"]),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, ["Bye.\nP.S. Write!", "Bye.\n p. s. Write"], ["Bye.", "PS no points"]),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, ["Bye.\nP.P.S more"], ["Bye.\nP.S. Write!"]),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, ["* a\n* b", "- a\n  - b"], ["* a", "* a\n* b\n* c", "**a**\n**b**", "---\n---"]),
    ("detectable_format:constrained_response", {}, ["My answer is maybe."], ["Maybe.", "my answer is yes"]),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, ["*a* and **b c**"], ["*a*", "* * and **", "*a\nb* *c*"]),
    ("detectable_format:multiple_sections", {"section_spliter": "SECTION", "num_sections": 2},
     ["SECTION 1\na\nSECTION 2\nb"], ["SECTION 1\na", "SECTION one, SECTION two"]),
    ("detectable_format:json_format", {}, ['{"a": [1]}', '```json\n{"a": 1}\n```'], ["a", '{"a": 1', '{"a": 1} and more']),
    ("detectable_format:title", {}, ["<<Poem of joy>>\ntext"], ["<Poem>", "<<>>", "<< >>", "Poem"]),
    ("combination:two_responses", {}, ["One.\n******\nTwo."], ["One.", "One.\n******\nOne.", "a******b******c", "a******"]),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Write a poem."}, ["write a poem.\nRoses"], ["Roses. Write a poem."]),
    ("startend:end_checker", {"end_phrase": "Any other questions?"}, ["Yes. any other questions? ", '"Any other questions?"'], ["Any other questions? No."]),
    ("change_case:capital_word_frequency", {"capital_frequency": 2, "capital_relation": "at least"}, ["NASA and ESA", "I AM"], ["NASA", "nasa esa"]),
    ("change_case:english_capital", {}, ["THE WEATHER IS NICE TODAY, AND WE GO TO THE PARK."],
     ["The weather is nice today.", "DAS WETTER IST HEUTE SCHÖN, UND WIR GEHEN IN DEN PARK."]),
    ("change_case:english_lowercase", {}, ["the weather is nice today, and we go to the park."],
     ["The weather is nice today.", "das wetter ist heute schön, und wir gehen in den park."]),
    ("punctuation:no_comma", {}, ["No commas here."], ["Well, one."]),
    ("startend:quotation", {}, ['"All of it."', ' "x" '], ['"Half of it.', '"']),
]  # fmt: skip


def graded(text: str, *wanted: tuple[str, dict[str, Any]], **arguments: Any) -> Score:
    names, kwargs = [name for name, _ in wanted], [given for _, given in wanted]
    return judge([""], [text], instruction_id_list=[names], kwargs=[kwargs], **arguments)[0]


def test_every_instruction_has_a_case() -> None:
    assert {name for name, *_ in CASES} == set(CHECKS)
    assert len(CHECKS) == 25


@pytest.mark.parametrize(("name", "arguments", "right", "wrong"), CASES)
def test_each_instruction_is_told_followed_from_not(
    name: str, arguments: dict[str, Any], right: list[str], wrong: list[str]
) -> None:
    for text in right:
        assert followed(text, name, arguments), text
        # The thought does not count, nor do the arguments that tables fill with nulls.
        nulls = {**arguments, "num_highlights_of_another": None}
        assert graded(f"<think>a, B\n* c</think>\n{text}", (name, nulls)).value == 1.0
    for text in wrong:
        assert not followed(text, name, arguments), text
        assert graded(text, (name, arguments)).value == 0.0


def test_several_instructions_are_all_or_a_fraction() -> None:
    wanted: list[tuple[str, dict[str, Any]]] = [
        ("punctuation:no_comma", {}),
        ("keywords:existence", {"keywords": ["sea"]}),
        ("startend:quotation", {}),
        ("length_constraints:number_words", {"num_words": 2, "relation": "at most"}),
    ]
    assert graded('"sea"', *wanted) == Score(1.0)
    score = graded("the sea, the sea", *wanted)
    missed = "punctuation:no_comma, startend:quotation, length_constraints:number_words"
    assert (score.value, score.detail) == (0.0, missed)
    assert graded("the sea, the sea", *wanted, score="fraction").value == 0.25
    assert graded('"the blue sea"', *wanted, score="fraction").value == 0.75
    with pytest.raises(ValueError, match="all or fraction"):
        graded("a", *wanted, score="some")


def test_arguments_may_be_json_and_the_verifier_judges_such_rows_too() -> None:
    columns: dict[str, Any] = {
        "instruction_id_list": [["punctuation:no_comma"], None],
        "kwargs": ['[{"keywords": null}]', None],
        "answer": ["", "4"],
    }
    scores = get_reward("verifier").function(["", ""], ["no comma", "4"], **columns)
    assert [score.value for score in scores] == [1.0, 1.0]
    scores = get_reward("verifier").function(["", ""], ["one, two", "5"], **columns)
    assert [(score.value, score.detail) for score in scores] == [
        (0.0, "punctuation:no_comma"),
        (0.0, ""),
    ]


def test_the_loose_criterion_takes_off_a_first_and_a_last_line_and_asterisks() -> None:
    assert relaxed("a\nb\nc") == ["a\nb\nc", "b\nc", "a\nb", "b"]
    wanted: tuple[str, dict[str, Any]] = ("startend:quotation", {})
    text = 'Sure, here it is:\n**"The sea."**\nI hope this helps!'
    assert graded(text, wanted).value == 0.0
    assert graded(text, wanted, loose=True).value == 1.0
    assert graded("Sure.\nNo quotes.", wanted, loose=True).value == 0.0


def test_an_empty_response_follows_nothing() -> None:
    for text in ("", " \n", "<think>a</think>", "<think>no comma"):
        score = graded(text, ("punctuation:no_comma", {}), loose=True)
        assert score == Score(0.0, Status.UNPARSEABLE, "no response")


@pytest.mark.parametrize(
    ("names", "kwargs", "message"),
    [
        (["punctuation:no_comas"], [{}], r"unknown instruction 'punctuation:no_comas'. Did you mean 'punctuation:no_comma'"),
        (["keywords:existence"], [{}], r"'keywords:existence' takes keywords: missing a required argument"),
        (["punctuation:no_comma"], [{"words": 3}], r"'punctuation:no_comma' takes no arguments: .*words"),
        (["keywords:existence"], [{"keywords": "sea"}], "needs a list of words, got 'sea'"),
        (["keywords:letter_frequency"], [{"letter": "ab", "let_frequency": 1}], "needs one letter"),
        (["length_constraints:number_words"], [{"num_words": 3, "relation": "about"}], "a relation out of at least, less than"),
        (["length_constraints:number_words"], [{"num_words": 2.5}], "a whole number, got 2.5"),
        (["startend:end_checker"], [{"end_phrase": " "}], "text that is not empty"),
        (["language:response_language"], [{"language": "klingon"}], "unknown language 'klingon'"),
        (["punctuation:no_comma"], [], "one object for each of 1 instructions in the column 'kwargs', got "),
        (["punctuation:no_comma"], None, "in the column 'kwargs', got None"),
        ([], [], "a list of names in the column 'instruction_id_list'"),
        (None, [], "a list of names in the column 'instruction_id_list', got None"),
    ],
)  # fmt: skip
def test_wrong_rows_are_named(names: Any, kwargs: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        judge([""], ["text"], instruction_id_list=[names], kwargs=[kwargs])


def test_relations() -> None:
    table = {
        "at least": (0, 1, 1),
        "less than": (1, 0, 0),
        "at most": (1, 1, 0),
        "exactly": (0, 1, 0),
    }
    for relation, expected in table.items():
        assert tuple(compare(count, 3.0, relation) for count in (2, 3, 4)) == expected


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0), ("No end", 1), ("One. Two. Three.", 3), ("One... two!", 2), ("\"Go!\" he said.", 2), ("Mr. A. Smith paid $3.50 to Inc. two.", 1),
        ("First\n\nSecond", 2), ("- a\n- b", 1), ("e.g. this, i.e. that.", 1), ("Is it? Yes.", 2), ("これは本です。あれはペンです。", 2), ("...", 0),
    ],
)  # fmt: skip
def test_sentences_are_counted_as_it_is_said(text: str, count: int) -> None:
    assert len(sentences(text)) == count


@settings(max_examples=100, deadline=None)
@given(
    tokens=st.lists(st.sampled_from(["sea", "Sky", "rain", "sun"]), min_size=1, max_size=30),
    space=st.sampled_from([" ", "\n", "\t", "  ", ", ", " - "]),
)
def test_white_space_and_punctuation_change_no_count_of_words(
    tokens: list[str], space: str
) -> None:
    text = space.join(tokens)
    assert len(words(text)) == len(tokens)
    exactly = {"num_words": len(tokens), "relation": "exactly"}
    assert followed(text, "length_constraints:number_words", exactly)
    frequency = {"keyword": "sea", "frequency": tokens.count("sea"), "relation": "exactly"}
    assert followed(text, "keywords:frequency", frequency)


@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=300), case=st.sampled_from(CASES))
def test_no_text_makes_a_check_raise(
    text: str, case: tuple[str, dict[str, Any], list[str], list[str]]
) -> None:
    assert graded(text, (case[0], case[1]), loose=True).value in (0.0, 1.0)


def test_long_texts_end() -> None:
    for piece in ("*", "[", "<<", '"', "a.", " ", "\n", "SECTION 1", "P.S.", "```json\n", "é"):
        for name, arguments, *_ in CASES:
            followed(piece * 20_000, name, arguments)


# --- languages --------------------------------------------------------------------------------------------------------

# The first article of the Universal Declaration of Human Rights, in the languages of IFEval and a few more.
ARTICLE = {
    "en": "All human beings are born free and equal in dignity and rights.",
    "de": "Alle Menschen sind frei und gleich an Würde und Rechten geboren.",
    "fr": "Tous les êtres humains naissent libres et égaux en dignité et en droits.",
    "es": "Todos los seres humanos nacen libres e iguales en dignidad y derechos.",
    "pt": "Todos os seres humanos nascem livres e iguais em dignidade e em direitos.",
    "it": "Tutti gli esseri umani nascono liberi ed eguali in dignità e diritti.",
    "ru": "Все люди рождаются свободными и равными в своем достоинстве и правах.",
    "uk": "Всі люди народжуються вільними і рівними у своїй гідності та правах.",
    "bg": "Всички хора се раждат свободни и равни по достойнство и права.",
    "pl": "Wszyscy ludzie rodzą się wolni i równi pod względem swej godności i swych praw.",
    "fi": "Kaikki ihmiset syntyvät vapaina ja tasavertaisina arvoltaan ja oikeuksiltaan.",
    "nl": "Alle mensen worden vrij en gelijk in waardigheid en rechten geboren.",
    "sv": "Alla människor äro födda fria och lika i värde och rättigheter.",
    "tr": "Bütün insanlar hür, haysiyet ve haklar bakımından eşit doğarlar.",
    "vi": "Tất cả mọi người sinh ra đều được tự do và bình đẳng về nhân phẩm và quyền.",
    "sw": "Watu wote wamezaliwa huru, hadhi na haki zao ni sawa.",
    "zh": "人人生而自由,在尊严和权利上一律平等。",
    "ja": "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。",
    "ko": "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.",
    "ar": "يولد جميع الناس أحرارًا متساوين في الكرامة والحقوق.",
    "fa": "تمام افراد بشر آزاد به دنیا می‌آیند و از لحاظ حیثیت و حقوق با هم برابرند.",
    "ur": "تمام انسان آزاد اور حقوق و عزت کے اعتبار سے برابر پیدا ہوئے ہیں۔",
    "he": "כל בני האדם נולדו בני חורין ושווים בערכם ובזכויותיהם.",
    "hi": "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।",
    "mr": "सर्व मानवी व्यक्ति जन्मतःच स्वतंत्र आहेत व त्यांना समान प्रतिष्ठा व समान अधिकार आहेत.",
    "ne": "सबै व्यक्तिहरू जन्मजात स्वतन्त्र हुन् ती सबैको समान अधिकार र महत्व छ।",
    "bn": "সমস্ত মানুষ স্বাধীনভাবে সমান মর্যাদা এবং অধিকার নিয়ে জন্মগ্রহণ করে।",
    "pa": "ਸਾਰਾ ਮਨੁੱਖੀ ਪਰਿਵਾਰ ਆਪਣੀ ਮਹਿਮਾ, ਸ਼ਾਨ ਅਤੇ ਹੱਕਾਂ ਦੇ ਪੱਖੋਂ ਜਨਮ ਤੋਂ ਹੀ ਆਜ਼ਾਦ ਹੈ।",
    "gu": "પ્રતિષ્ઠા અને અધિકારોની દૃષ્ટિએ સર્વ માનવો જન્મથી સ્વતંત્ર અને સમાન હોય છે.",
    "ta": "மனிதப் பிறவியினர் சகலரும் சுதந்திரமாகவே பிறக்கின்றனர்.",
    "te": "ప్రతిపత్తిస్వత్వముల విషయమున మానవులెల్లరును జన్మతః స్వతంత్రులును సమానులును నగుదురు.",
    "kn": "ಎಲ್ಲಾ ಮಾನವರೂ ಸ್ವತಂತ್ರರಾಗಿಯೇ ಜನಿಸಿದ್ದಾರೆ.",
    "ml": "മനുഷ്യരെല്ലാവരും തുല്യാവകാശങ്ങളോടും അന്തസ്സോടും സ്വാതന്ത്ര്യത്തോടുംകൂടി ജനിച്ചവരാണ്.",
    "th": "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ",
}


@pytest.mark.parametrize("code", ARTICLE)
def test_a_sentence_tells_its_language_and_no_other(code: str) -> None:
    assert language(ARTICLE[code]) == code
    name = "language:response_language"
    assert [other for other in ARTICLE if followed(ARTICLE[code], name, {"language": other})] == [
        code
    ]


def test_formulas_code_and_addresses_are_of_no_language() -> None:
    noise = " $x + y = z$ `print(value)` https://example.org/the/english/page ```\nfor item in range(3): print(item)\n```"
    assert language(ARTICLE["fi"] + noise) == "fi"
    assert language("$x + y = z$") is None


@pytest.mark.parametrize("text", ["", "42", "x = 3", "ok", "...", "🙂"])
def test_what_cannot_be_told_is_not_guessed(text: str) -> None:
    assert language(text) is None
    assert not followed(text, "language:response_language", {"language": "en"})


def test_codes_have_one_spelling() -> None:
    codes = [language_code(code) for code in ("EN", "zh-CN", "zh-tw", "iw", "nb", "arz")]
    assert codes == ["en", "zh", "zh", "he", "no", "ar"]


def test_it_runs_closed_off_in_a_worker() -> None:
    """The model of languages is read before the worker loses its files."""
    found = get_reward("instructions")
    rows: dict[str, list[Any]] = {
        "instruction_id_list": [["language:response_language"]] * 2,
        "kwargs": [[{"language": "fi"}]] * 2,
    }
    with RewardRunner([found], workers=1) as pool:
        texts = [ARTICLE["fi"], ARTICLE["sv"]]
        scores = pool.run(found, [""] * 2, texts, rows, {}, [[0, 1]], "instructions", 10.0)
    assert [one.value for one in scores] == [1.0, 0.0]
