"""Scores of a reward model: a transformers sequence classifier in the trainer's process."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import rlcurric
from rlcurric.types import Score, Status

# torch and transformers are imported by the functions that need them: workers and `rewards list` load this file too.
_lock = threading.Lock()
_loaded: dict[tuple[Any, ...], RewardModel] = {}

Dtype = Literal["auto", "float32", "bfloat16", "float16"]


def _check(path: str, tokens_per_batch: int, max_tokens: int) -> None:
    """ValueError for what is wrong whatever the model is."""
    if not path:
        raise ValueError("reward_model needs path: a folder in Hugging Face format, or a hub id")
    if tokens_per_batch < 1 or max_tokens < 0:
        raise ValueError(
            f"tokens_per_batch >= 1 and max_tokens >= 0 (0: as many as the model takes) are required, got "
            f"{tokens_per_batch} and {max_tokens}"
        )


def _validate(
    path: str,
    tokens_per_batch: int,
    max_tokens: int,
    label: int,
    trust_remote_code: bool,
    **others: Any,
) -> None:
    """Before anything is loaded: the model's configuration is all that is read."""
    from transformers import AutoConfig

    _check(path, tokens_per_batch, max_tokens)
    with _told(path):
        config = AutoConfig.from_pretrained(_place(path), trust_remote_code=trust_remote_code)
    _check_label(config, label, path)


@rlcurric.reward("reward_model", where="service", validate=_validate)
def reward_model(
    prompts: list[str],
    completions: list[str],
    question: Sequence[Any] = (),
    path: str = "",
    device: str = "auto",
    dtype: Dtype = "auto",
    chat: bool = True,
    system: str = "",
    tokens_per_batch: int = 16_384,
    max_tokens: int = 0,
    label: int = -1,
    output: Literal["logit", "probability"] = "logit",
    trust_remote_code: bool = False,
    **columns: Any,
) -> list[Score]:
    """The score of a sequence classifier (`path`: a folder or hub id) for question and completion.

    They go through the model's chat template, after `system` if given; without `chat` they are put one behind the
    other, the prompt as the policy saw it. `device: auto` takes a GPU where there is one, `dtype: auto` bfloat16 there
    and float32 elsewhere. A model of several labels needs `label`. A text of more than `max_tokens` (0: what the model
    takes) is an error, never cut.
    """
    _check(path, tokens_per_batch, max_tokens)
    model = _model(path, device, dtype, trust_remote_code)
    _check_label(model.model.config, label, path)
    users = [str(text) for text in (question or prompts)] if chat else prompts
    with model.lock:
        texts = [
            model.chat_ids(user, completion, system) if chat else model.plain_ids(user + completion)
            for user, completion in zip(users, completions, strict=True)
        ]
        limit = max_tokens or model.longest
        fits = [place for place, ids in enumerate(texts) if 0 < len(ids) <= limit]
        values = model.scores(
            [texts[place] for place in fits], tokens_per_batch, max(label, 0), output
        )
    scores = [_refused(len(ids), limit) for ids in texts]
    for place, value in zip(fits, values, strict=True):
        scores[place] = (
            Score(value)
            if math.isfinite(value)
            else Score(None, Status.ERROR, f"the model's score is {value}")
        )
    return scores


def _refused(length: int, limit: int) -> Score:
    detail = f"the text has {length} tokens, and the model is given 1 to {limit}: see max_tokens"
    return Score(None, Status.ERROR, detail)


@dataclass(frozen=True)
class RewardModel:
    """A loaded classifier with its tokenizer."""

    model: Any
    tokenizer: Any
    path: str
    lock: threading.Lock  # one forward at a time

    @property
    def longest(self) -> int:
        """Most tokens of a text."""
        config = self.model.config.get_text_config()
        positions = getattr(config, "max_position_embeddings", None)
        return int(min(positions or 1 << 30, self.tokenizer.model_max_length))

    def chat_ids(self, user: str, completion: str, system: str) -> list[int]:
        """Token ids of the conversation, in the model's template."""
        if not self.tokenizer.chat_template:
            raise ValueError(
                f"reward_model: the tokenizer of {self.path!r} has no chat template; set chat: false"
            )
        turns = [{"role": "user", "content": user}, {"role": "assistant", "content": completion}]
        if system:
            turns.insert(0, {"role": "system", "content": system})
        text = self.tokenizer.apply_chat_template(turns, tokenize=False)
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def plain_ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text)["input_ids"])

    def scores(
        self, texts: Sequence[list[int]], tokens_per_batch: int, label: int, output: str
    ) -> list[float]:
        """One number a text. Batches depend on the texts alone, not on their order."""
        import torch

        values: dict[tuple[int, ...], float] = {}
        for batch in batches(texts, tokens_per_batch):
            pad = _unused_id(batch, self.tokenizer.pad_token_id)
            longest = max(map(len, batch))
            ids = torch.tensor([[*row, *[pad] * (longest - len(row))] for row in batch])
            mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in batch])
            device = self.model.device
            # The classifier reads the last token that is no padding. An end-of-sequence token that pads too would be
            # taken for padding, so the batch is padded with a token that it does not hold.
            self.model.config.get_text_config().pad_token_id = pad
            with torch.inference_mode():
                inputs = {"input_ids": ids.to(device), "attention_mask": mask.to(device)}
                logits_BL = self.model(**inputs).logits.float()
            if output == "probability":
                logits_BL = logits_BL.sigmoid() if logits_BL.shape[1] == 1 else logits_BL.softmax(1)
            values.update(zip(batch, logits_BL[:, label].tolist(), strict=True))
        return [values[tuple(ids)] for ids in texts]


def batches(texts: Sequence[list[int]], tokens: int) -> Iterator[list[tuple[int, ...]]]:
    """Different texts by length, in batches of at most `tokens` with padding; a longer text stands alone."""
    batch: list[tuple[int, ...]] = []
    for ids in sorted({tuple(ids) for ids in texts}, key=lambda ids: (len(ids), ids)):
        if batch and len(ids) * (len(batch) + 1) > tokens:
            yield batch
            batch = []
        batch.append(ids)
    if batch:
        yield batch


def _unused_id(batch: Sequence[tuple[int, ...]], preferred: int | None) -> int:
    """The padding token if no text holds it, else the first token that none holds."""
    used = {one for ids in batch for one in ids}
    if preferred is not None and preferred not in used:
        return preferred
    return next(one for one in range(len(used) + 1) if one not in used)


def _model(path: str, device: str, dtype: str, trust_remote_code: bool) -> RewardModel:
    """The model, loaded at the first call."""
    with _lock:
        key = (path, device, dtype, trust_remote_code)
        if key not in _loaded:
            _loaded[key] = _load(path, device, dtype, trust_remote_code)
        return _loaded[key]


def _load(path: str, device: str, dtype: str, trust_remote_code: bool) -> RewardModel:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    where = _place(path)
    try:
        target = torch.device(_device(device))
    except RuntimeError as error:
        raise ValueError(f"reward_model: device {device!r}: {str(error).splitlines()[0]}") from None
    if target.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"reward_model: device {device!r} is asked for, and there is no CUDA here")
    chosen = dtype if dtype != "auto" else "bfloat16" if target.type == "cuda" else "float32"
    generators = [target] if target.type == "cuda" else []
    with torch.random.fork_rng(generators), _told(path):
        tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=trust_remote_code)
        model, loading = AutoModelForSequenceClassification.from_pretrained(
            where,
            dtype=getattr(torch, chosen),
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
        )
    absent = sorted(loading["missing_keys"])
    if absent:
        raise ValueError(
            f"reward_model: {path!r} is no trained sequence classifier: it lacks {', '.join(absent[:3])}, which would be "
            "random"
        )
    return RewardModel(model.to(target).eval(), tokenizer, path, threading.Lock())


def _device(asked: str) -> str:
    import torch

    return asked if asked != "auto" else "cuda" if torch.cuda.is_available() else "cpu"


def _check_label(config: Any, label: int, path: str) -> None:
    """ValueError where the label is not one of the model's."""
    count = config.num_labels
    known = f"{path!r} has {count} labels: {dict(config.id2label)}"
    if label >= count or label < -1:
        raise ValueError(f"reward_model: label {label} is required to be one of them; {known}")
    if label < 0 and count > 1:
        raise ValueError(f"reward_model: set label to the number of the one that pays; {known}")


def _place(path: str) -> str:
    """A folder, or a hub id; ValueError for what looks like a folder and is none."""
    folder = Path(path).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ValueError(
                f"reward_model: {path!r} is no Hugging Face model: it has no config.json"
            )
        return str(folder)
    if path.startswith(("/", ".", "~")) or path.count("/") != 1:
        raise ValueError(
            f"reward_model: there is no folder {path!r}. Give a folder with config.json, seen from the working folder, "
            "or a hub id ('owner/name')"
        )
    return path


@contextlib.contextmanager
def _told(path: str) -> Iterator[None]:
    """What transformers says of a model that cannot be loaded, as the user's mistake."""
    try:
        yield
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ValueError(
            f"reward_model: cannot load {path!r}: {reason} A hub id needs the network: check it and HF_HUB_OFFLINE, or "
            "give a folder"
        ) from None
