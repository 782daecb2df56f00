"""Templates, the character tokenizer, lazy pools, and examples for supervised fine-tuning."""

import random
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rlcurric.data import (
    DistributionSpec,
    Pool,
    PromptTemplate,
    Renderer,
    Room,
    Row,
    as_source,
    character_tokenizer,
    load_distributions,
    sft_examples,
    training_rows,
)
from rlcurric.types import Prompt, PromptPool

TAGS = ("<think>", "</think>", "<answer>", "</answer>")
CHARACTERS = "0123456789+-*/=<>;:,. \n" + string.ascii_letters


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return character_tokenizer(CHARACTERS, TAGS)


@pytest.fixture(scope="module")
def chat_tokenizer() -> Any:
    """A byte-level tokenizer that begins texts with <s>; its chat template writes <s> itself."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate(["<s>", "</s>", *alphabet])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    made = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    made.chat_template = (
        "<s>{% for message in messages %}[{{ message.role }}] {{ message.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}[assistant] {% endif %}"
    )
    return made


def distribution(*rows: dict, name: str = "sums") -> dict[str, tuple[Row, ...]]:
    spec = DistributionSpec(name, as_source(list(rows), name))
    return training_rows(load_distributions([spec]))


def render(template: PromptTemplate, tokenizer: Any, **columns: Any) -> tuple[list[int], str]:
    (row,) = distribution({"question": "1+1", "answer": "2"} | columns)["sums"]
    ids, text = Renderer(template, tokenizer).prompt(row, "sums")
    return list(ids), text


# character tokenizer


def test_decoding_gives_back_every_text(tokenizer: Any, tmp_path: Path) -> None:
    from transformers import AutoTokenizer, Qwen3Config

    tokenizer.save_pretrained(tmp_path)
    Qwen3Config().save_pretrained(tmp_path)  # as in a checkpoint, beside the model's configuration
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    draw = random.Random(0)
    texts = ["", " ", "  two  spaces \n\n", "<think>3+4=7</think><answer>7</answer>", "<thin>k>"]
    for _ in range(200):
        texts.append("".join(draw.choice([*CHARACTERS, *TAGS]) for _ in range(draw.randint(1, 40))))
    for text in texts:
        ids = tokenizer(text).input_ids
        assert tokenizer.decode(ids) == text == loaded.decode(ids, skip_special_tokens=True)
        assert loaded(text).input_ids == ids


def test_tags_are_one_token_and_special_tokens_vanish(tokenizer: Any) -> None:
    ids = tokenizer("<think>3</think>").input_ids
    assert ids == [2, len(TAGS) + 2 + CHARACTERS.index("3"), 3]
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id) == (0, 1, None)
    assert len(tokenizer) == 2 + len(TAGS) + len(CHARACTERS)
    assert tokenizer.decode([*ids, 1, 0, 0], skip_special_tokens=True) == "<think>3</think>"


@pytest.mark.parametrize(
    ("characters", "tags", "expected"),
    [
        ("0120", (), "each character once, got '0' more than once"),
        ("", (), "each character once, got none"),
        ("01", ("<a>", "<a>"), "got '<a>'"),
        ("01", ("a",), "got 'a'"),
        ("01", ("<eos>",), "got '<eos>'"),
    ],
)
def test_bad_vocabularies(characters: str, tags: Sequence[str], expected: str) -> None:
    with pytest.raises(ValueError, match=r"model\.tokenizer") as caught:
        character_tokenizer(characters, tags)
    assert expected in str(caught.value)


def test_unknown_characters_are_named_with_their_row(tokenizer: Any, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(tmp_path)
    for one in (tokenizer, AutoTokenizer.from_pretrained(tmp_path)):
        with pytest.raises(ValueError) as caught:
            render(PromptTemplate(), one, question="3½ × 2½ <think>")
        said = str(caught.value)
        assert (
            "distribution 'sums', sums, index 0: the tokenizer has no token for '½', '×' in" in said
        )
        assert "model.tokenizer.characters" in said


def test_other_tokenizers_take_any_character(chat_tokenizer: Any) -> None:
    ids, _ = render(PromptTemplate(), chat_tokenizer, question="3½ × 2")
    assert chat_tokenizer.decode(ids) == "<s>3½ × 2"


# templates


def test_plain_prompts(tokenizer: Any) -> None:
    template = PromptTemplate("{question}=", prefill="<think>")
    ids, text = render(template, tokenizer)
    assert text == "1+1=<think>" and ids == tokenizer(text).input_ids and ids[-1] == 2
    template = PromptTemplate("{question} {level} {names}", system="Add for {level}.")
    _, text = render(template, tokenizer, level=3, names="AB")
    assert text == "Add for 3.\n\n1+1 3 AB"
    assert template.columns == ("question", "level", "names")


def test_plain_prompts_begin_as_the_tokenizer_begins_texts(chat_tokenizer: Any) -> None:
    ids, text = render(PromptTemplate("{question}="), chat_tokenizer)
    assert text == "1+1=" and ids == chat_tokenizer(text).input_ids and ids[0] == 0


def test_chat_prompts(chat_tokenizer: Any) -> None:
    template = PromptTemplate("{question}?", system="Think.", chat=True, prefill="<think>\n")
    ids, text = render(template, chat_tokenizer)
    assert text == "<s>[system] Think.\n[user] 1+1?\n[assistant] <think>\n"
    assert ids.count(0) == 1 and chat_tokenizer.decode(ids) == text
    _, text = render(PromptTemplate(chat=True), chat_tokenizer)
    assert text == "<s>[user] 1+1\n[assistant] "


def test_chat_needs_a_chat_template_that_takes_the_prompt(
    tokenizer: Any, chat_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=r"prompt\.chat is true, but .* no chat template"):
        Renderer(PromptTemplate(chat=True), tokenizer)
    refusing = "{{ raise_exception('System role not supported') }}"
    monkeypatch.setattr(chat_tokenizer, "chat_template", refusing)
    with pytest.raises(ValueError, match="System role not supported"):
        render(PromptTemplate(system="x", chat=True), chat_tokenizer)


def test_braces_that_name_no_column_are_text(chat_tokenizer: Any) -> None:
    template = PromptTemplate(r"{question} in \boxed{}, {{answer}}, {1}, {'a': {}}")
    _, text = render(template, chat_tokenizer)
    assert text == r"1+1 in \boxed{}, {answer}, {1}, {'a': {}}"


def test_values_are_filled_in_once(chat_tokenizer: Any) -> None:
    _, text = render(PromptTemplate(), chat_tokenizer, question=r"find {answer} and \frac{a}{b}")
    assert text == r"find {answer} and \frac{a}{b}"


def test_templates_that_lack_a_column(tokenizer: Any) -> None:
    with pytest.raises(ValueError, match=r"must name a column of the row, such as \{question\}"):
        PromptTemplate("Solve it.")
    with pytest.raises(ValueError) as caught:
        render(PromptTemplate("{qestion}"), tokenizer)
    assert "'sums', sums, index 0: no column 'qestion', which the prompt template needs" in str(
        caught.value
    )
    assert "Did you mean 'question'?" in str(caught.value)


# pools


def sums(count: int) -> list[dict]:
    return [{"question": f"{number}+1=", "answer": number + 1} for number in range(count)]


class Counting(Renderer):
    """Counts how often a prompt is rendered."""

    rendered = 0

    def prompt(self, *args: Any) -> tuple[tuple[int, ...], str]:
        self.rendered += 1
        return super().prompt(*args)


def test_a_pool_renders_on_access_and_keeps_the_latest(tokenizer: Any) -> None:
    renderer = Counting(PromptTemplate(prefill="<think>"), tokenizer)
    rows = distribution(*sums(10)) | distribution(*sums(3), name="more")
    pool = Pool(rows, renderer, Room(context=32, completion=16), cache_size=2)
    protocol: PromptPool = pool
    assert dict(protocol.sizes) == {"sums": 10, "more": 3} and list(pool.sizes) == ["sums", "more"]
    assert renderer.rendered == 0
    prompt = pool.prompt("sums", 4)
    row = rows["sums"][4]
    text = "4+1=<think>"
    ids = tuple(tokenizer(text).input_ids)
    assert prompt == Prompt(row.uid, "sums", ids, text, row.columns, "<think>")
    assert prompt.columns["answer"] == "5"
    assert pool.prompt("sums", 4) is prompt and renderer.rendered == 1
    pool.prompt("sums", 5), pool.prompt("more", 2)
    assert pool.prompt("sums", 4) == prompt and renderer.rendered == 4
    assert pool.check() == {"sums": 5, "more": 5}
    assert [prompt.distribution for prompt in pool] == ["sums"] * 10 + ["more"] * 3
    with pytest.raises(ValueError, match=r"Unknown distribution 'sum'. Did you mean 'sums'\?"):
        pool.prompt("sum", 0)


def test_a_prompt_longer_than_the_context_is_named(tokenizer: Any) -> None:
    rows = distribution(*sums(3), {"question": "1" * 20, "answer": "x"})
    renderer = Renderer(PromptTemplate(), tokenizer)
    pool = Pool(rows, renderer, Room(context=24, completion=4))
    assert pool.check() == {"sums": 20}
    pool = Pool(rows, renderer, Room(context=24, completion=5))
    assert len(pool.prompt("sums", 2).prompt_ids) == 4
    with pytest.raises(ValueError) as caught:
        pool.check()
    said = str(caught.value)
    assert "distribution 'sums', sums, index 3: the prompt has 20 tokens; with 5 more" in said
    assert "context of 24" in said and "rollout.max_new_tokens to at most 4" in said
    with pytest.raises(ValueError, match=r"Raise model\.context, shorten the prompt template"):
        Pool(rows, renderer, Room(context=20, completion=5)).check()


# supervised fine-tuning


def test_examples_have_the_prompt_of_rl_and_a_finished_completion(tokenizer: Any) -> None:
    demonstrations = ["<think>1+1=2</think><answer>2</answer>", "1+1=2</think>"]
    rows = distribution(
        *({"question": "1+1", "answer": "2", "demonstration": text} for text in demonstrations)
    )
    renderer = Renderer(PromptTemplate("{question}:", prefill="<think>"), tokenizer)
    pool = Pool(rows, renderer, Room(64, 8))
    for index, example in enumerate(sft_examples(rows, renderer, context=64)):
        prompt = pool.prompt("sums", index)
        assert (example.uid, example.prompt_ids) == (prompt.uid, prompt.prompt_ids)
        text = demonstrations[index].removeprefix("<think>")
        assert list(example.completion_ids) == [*tokenizer(text).input_ids, tokenizer.eos_token_id]
        features = example.features()
        assert tokenizer.decode(features["input_ids"]) == f"1+1:<think>{text}<eos>"
        size = len(prompt.prompt_ids)
        assert features["completion_mask"] == [0] * size + [1] * len(example.completion_ids)
        assert features["labels"] == [-100] * size + list(example.completion_ids)


def test_examples_that_cannot_be_used_are_named(tokenizer: Any) -> None:
    renderer = Renderer(PromptTemplate(), tokenizer)
    rows = distribution(*sums(1))
    with pytest.raises(ValueError, match="sums, index 0: no column 'demonstration', which superv"):
        list(sft_examples(rows, renderer, 64))
    rows = distribution({"question": "1+1", "answer": "2", "demonstration": "2" * 10})
    assert len(list(sft_examples(rows, renderer, 14))) == 1
    with pytest.raises(ValueError, match="have 14 tokens, 3 and 11, more than the context of 13"):
        list(sft_examples(rows, renderer, 13))
    rows = distribution({"question": "1+1", "answer": "2", "demonstration": "≈2"})
    with pytest.raises(ValueError, match="no token for '≈' in the demonstration"):
        list(sft_examples(rows, renderer, 64))


def test_examples_train_in_trl_with_loss_on_the_completion_only(
    tokenizer: Any, tmp_path: Path
) -> None:
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    rows = distribution(
        {"question": "1+1", "answer": "2", "demonstration": "2"},
        {"question": "1", "answer": "1", "demonstration": "1=1"},
    )
    renderer = Renderer(PromptTemplate(), tokenizer)
    features = [example.features() for example in sft_examples(rows, renderer, 64)]
    batch = DataCollatorForLanguageModeling(pad_token_id=tokenizer.pad_token_id)(features)
    two, one, equal = (tokenizer(text).input_ids[0] for text in "21=")
    assert batch["labels"].tolist() == [[-100, -100, -100, two, 1], [-100, one, equal, one, 1]]
    assert batch["attention_mask"].tolist() == [[1] * 5, [1] * 5]
