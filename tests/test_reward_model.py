"""The reward model, with tiny random sequence classifiers as real checkpoints."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3ForSequenceClassification,
)

from rlcurric.data import character_tokenizer
from rlcurric.rewards.protocol import Reward, discover_builtin, get_reward
from rlcurric.types import Score, Status

discover_builtin()
MODEL: Reward = get_reward("reward_model")
INSIDE = MODEL.function.__globals__
CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789 .:"
TEMPLATE = "{% for m in messages %}{{ m['role'][0] }}:{{ m['content'] }}{{ eos_token }}{% endfor %}"


def saved(
    folder: Path, family: str = "qwen3", labels: int = 1, template: str | None = TEMPLATE
) -> str:
    """A random classifier in `folder`, whose end-of-sequence token pads too."""
    tokenizer = character_tokenizer(CHARACTERS, [])
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.chat_template = template
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    common = {"vocab_size": len(tokenizer), "intermediate_size": 48, "num_labels": labels, **sizes}
    torch.manual_seed(3)
    model: Any
    if family == "bert":
        config = BertConfig(max_position_embeddings=96, pad_token_id=0, **common)
        model = BertForSequenceClassification(config)
    else:
        eos = tokenizer.eos_token_id
        more = {"num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 96}
        qwen = Qwen3Config(pad_token_id=eos, eos_token_id=eos, **common, **more)
        model = Qwen3ForCausalLM(qwen) if family == "causal" else None
        model = model or Qwen3ForSequenceClassification(qwen)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return saved(tmp_path_factory.mktemp("classifier"))


def scored(completions: list[str], **arguments: Any) -> list[Score]:
    function: Any = MODEL.function
    prompts = arguments.pop("prompts", ["what is it"] * len(completions))
    scores: list[Score] = function(prompts, completions, **arguments)
    return scores


def values(completions: list[str], **arguments: Any) -> list[float]:
    found = [score.value for score in scored(completions, **arguments)]
    assert all(value is not None for value in found)
    return [value for value in found if value is not None]


def texts(count: int, longest: int = 60) -> list[str]:
    draw = random.Random(5)
    return ["".join(draw.choices(CHARACTERS, k=draw.randrange(0, longest))) for _ in range(count)]


def test_a_score_is_the_logit_at_the_last_token_of_the_conversation(path: str) -> None:
    """By hand: the base model, its last hidden state, the head."""
    model = Qwen3ForSequenceClassification.from_pretrained(path).eval()
    tokenizer = character_tokenizer(CHARACTERS, [])
    for system, head in (("", ""), ("be kind", f"s:be kind{tokenizer.eos_token}")):
        whole = f"{head}u:what is it{tokenizer.eos_token}a:a cat{tokenizer.eos_token}"
        ids = tokenizer(whole, add_special_tokens=False, return_tensors="pt")["input_ids"]
        assert ids[0, -1] == tokenizer.eos_token_id
        with torch.no_grad():
            wanted = model.score(model.model(ids).last_hidden_state[0, -1]).item()
        (value,) = values(["a cat"], path=path, system=system)
        assert value == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("family", ["qwen3", "bert"])
@pytest.mark.parametrize("chat", [True, False])
def test_padding_does_not_change_a_score(tmp_path: Path, family: str, chat: bool) -> None:
    """Also where padding and end of sequence are one token, with which every conversation ends."""
    where = saved(tmp_path / family, family)
    many = [text + "x" for text in texts(24)]
    together = values(many, path=where, chat=chat, tokens_per_batch=10_000)
    alone = values(many, path=where, chat=chat, tokens_per_batch=1)
    assert together == pytest.approx(alone, abs=2e-5)
    assert max(alone) - min(alone) > 0.02


def test_the_order_of_texts_changes_no_bit(path: str) -> None:
    many = texts(30)
    order = random.Random(1).sample(range(30), 30)
    straight = values(many, path=path, tokens_per_batch=200)
    shuffled = values([many[k] for k in order], path=path, tokens_per_batch=200)
    assert shuffled == [straight[k] for k in order]


def test_batches_hold_their_tokens_and_every_text_once() -> None:
    draw = random.Random(2)
    many = [[draw.randrange(9) for _ in range(draw.randrange(1, 40))] for _ in range(60)]
    cut = list(INSIDE["batches"](many + many[:5], 100))
    assert sorted(ids for batch in cut for ids in batch) == sorted(set(map(tuple, many)))
    assert all(len(batch) * max(map(len, batch)) <= 100 for batch in cut)
    assert len(cut) < 30


def test_the_question_goes_into_the_template_and_the_prompt_where_there_is_none(path: str) -> None:
    by_prompt = values(["yes"], path=path, prompts=["is it"])
    assert values(["yes"], path=path, prompts=["tagged: is it"], question=["is it"]) == by_prompt
    assert values(["yes"], path=path, prompts=["tagged: is it"]) != by_prompt


def test_without_a_template_texts_stand_one_behind_the_other(tmp_path: Path) -> None:
    where = saved(tmp_path, template=None)
    with pytest.raises(ValueError, match="no chat template; set chat: false"):
        scored(["a"], path=where)
    first = values(["cd"], path=where, chat=False, prompts=["ab"])
    assert values(["d"], path=where, chat=False, prompts=["abc"]) == first


def test_several_labels_need_one_that_pays(tmp_path: Path) -> None:
    where = saved(tmp_path, labels=3)
    with pytest.raises(ValueError, match=r"set label to the number of the one that pays.*3 labels"):
        scored(["a"], path=where)
    with pytest.raises(ValueError, match="label 3 is required to be one of them"):
        scored(["a"], path=where, label=3)
    shares = [values(["a"], path=where, label=k, output="probability")[0] for k in range(3)]
    logits = [values(["a"], path=where, label=k)[0] for k in range(3)]
    assert sum(shares) == pytest.approx(1)
    assert [math.exp(one) for one in logits] == pytest.approx(
        [share * sum(map(math.exp, logits)) for share in shares]
    )


def test_a_probability_of_one_label_is_a_sigmoid(path: str) -> None:
    (logit,), (share,) = values(["a"], path=path), values(["a"], path=path, output="probability")
    assert share == pytest.approx(1 / (1 + math.exp(-logit)))


def test_a_text_that_is_too_long_is_an_error_and_is_not_cut(path: str) -> None:
    (long, short) = scored(["x" * 90, "x"], path=path)
    assert (long.value, long.status) == (None, Status.ERROR)
    assert "the model is given 1 to 96" in long.detail
    assert short.value is not None
    (score,) = scored(["x"], path=path, max_tokens=5)
    assert score.status is Status.ERROR and "1 to 5" in score.detail


def test_a_score_that_is_no_number_is_an_error(tmp_path: Path) -> None:
    where = saved(tmp_path)
    model = Qwen3ForSequenceClassification.from_pretrained(where)
    torch.nn.init.constant_(model.score.weight, float("nan"))
    model.save_pretrained(where)
    (score,) = scored(["a"], path=where)
    assert score == Score(None, Status.ERROR, "the model's score is nan")


def test_a_model_is_loaded_once_and_leaves_the_generator_alone(tmp_path: Path) -> None:
    where = saved(tmp_path)
    torch.manual_seed(11)
    before = torch.get_rng_state()
    first = values(["a"], path=where)
    assert torch.equal(torch.get_rng_state(), before)
    for file in tmp_path.iterdir():
        if file.name != "config.json":
            file.unlink()
    assert values(["a"], path=where) == first


def test_a_model_without_a_trained_head_is_refused(tmp_path: Path) -> None:
    """transformers would make one of random numbers, and warn."""
    with pytest.raises(ValueError, match=r"no trained sequence classifier: it lacks score\.weight"):
        scored(["a"], path=saved(tmp_path, "causal"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"path": ""}, "needs path"),
        ({"path": "./absent"}, r"no folder './absent'"),
        ({"path": "a/b/c"}, "no folder"),
        ({"path": "."}, "no config.json"),
        ({"path": "nobody-here/no-such-model"}, "cannot load 'nobody-here/no-such-model'.*HF_HUB_OFFLINE"),
        ({"tokens_per_batch": 0}, "tokens_per_batch >= 1"),
        ({"max_tokens": -1}, "max_tokens >= 0"),
        ({"label": -2}, "label -2"),
        ({"device": "abacus"}, "device 'abacus'"),
    ],
)  # fmt: skip
def test_arguments_that_cannot_work_are_refused(
    path: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        scored(["a"], **{"path": path, **changes})


def test_a_recipe_is_told_of_a_model_that_is_not_there(path: str) -> None:
    assert MODEL.validate is not None
    defaults = {name: parameter.default for name, parameter in MODEL.arguments.items()}
    MODEL.validate(**{**defaults, "path": path})
    for changes, message in (({"path": "./absent"}, "no folder"), ({"label": 4}, "label 4")):
        with pytest.raises(ValueError, match=message):
            MODEL.validate(**{**defaults, "path": path, **changes})


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="there is no CUDA here"):
        scored(["a"], path=path, device="cuda")
