"""The formulas and the worked examples of docs/scaling.md: held to tensors on two ranks, and to what is sent."""

from __future__ import annotations

import argparse
import pickle
from pathlib import Path

import pytest

from benchmarks import ranks, ranks_formulas
from benchmarks.ranks_formulas import MODELS, held, sent

PAGE = Path(__file__).parent.parent / "docs" / "scaling.md"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["none", "ddp", "fsdp2", "zero2", "zero3"])  # zero1: the benchmark
def test_a_rank_holds_what_the_formulas_say(kind: str) -> None:
    """With one micro-batch a window and with three: within 5 %, DeepSpeed's reduction buffers apart.

    Autocast keeps no copies of weights through a micro-batch.
    """
    found = ranks.launched(kind, argparse.Namespace(threads=1, repeats=1))
    assert found["kind"] == kind
    assert found["copies"] < 0.01 * found["parameters"]
    wanted = held(kind, found["parameters"], found["ranks"])
    for name in ("one", "three"):
        measured = found["held"][name]["held"]
        assert measured == pytest.approx(wanted.total - wanted.buffers, rel=0.05), name
        if kind == "zero3":  # the others' come and go with the backward pass
            assert found["held"][name]["buffers"] == wanted.buffers


def test_more_ranks_hold_less_where_weights_are_sharded_and_as_much_where_they_are_not() -> None:
    n = MODELS["7B"].n
    for kind in ("fsdp2", "zero3"):
        assert held(kind, n, 64).lasting == pytest.approx(held(kind, n, 8).lasting / 8)
    assert held("ddp", n, 64) == held("ddp", n, 8)
    assert held("zero2", n, 10**6).lasting == pytest.approx(4 * n, rel=1e-3)
    assert held("ddp", n, 8, trained=n // 100).moments == pytest.approx(0.08 * n, rel=1e-6)


def test_what_an_update_sends_by_hand() -> None:
    """Two ranks, 100 float32 parameters: a ring passes half of them in a reduce-scatter or an all-gather."""
    assert sent("ddp", 100, 2) == 400  # an all-reduce is both
    assert sent("fsdp2", 100, 2, micro_batches=3) == 200 * (2 * 3 + 3)
    assert sent("zero3", 100, 2, micro_batches=3) == 200 * (2 * 3 + 3)
    assert sent("zero1", 100, 2, micro_batches=3) == 200 * 3  # reduced once, then what was updated
    assert sent("zero2", 100, 2, micro_batches=3) == 200 * (2 * 3 + 1)


def test_the_models_of_the_examples_have_the_parameters_that_their_shapes_give() -> None:
    """Embedding, and a head of its own for all but the smallest; norms and biases are left out."""
    for name, model in MODELS.items():
        embeddings = model.vocab * model.width * (1 if name == "1.5B" else 2)
        assert model.root == pytest.approx(embeddings, rel=0.01)


def test_messages_are_as_large_as_the_page_says() -> None:
    """Bytes of a step's messages, a group and a sample, and that they do not depend on the pool's size."""
    one = ranks.steps(512, 1)
    assert 1000 < one["request_bytes"] / one["prompts"] < 2500
    assert 50 < one["answer_bytes"] / 512 < 150
    assert 20 < one["update_bytes"] / one["trained"] < 60
    assert len(pickle.dumps(ranks.MadePool(dict.fromkeys(ranks.NAMES, 10**9)))) < 500


def test_the_worked_examples_of_the_page_are_those_of_the_formulas() -> None:
    assert ranks_formulas.table() in PAGE.read_text(encoding="utf-8")
