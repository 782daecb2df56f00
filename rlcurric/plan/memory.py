"""Bytes that a rank holds and needs at a time, by formula: docs/plan.md and docs/scaling.md state them.

`n` parameters, `p` of them trained (all, or the adapter's), `world` ranks, `tokens` of a micro-batch. Weights, gradients
and moments are float32 under every sharding (float64 where the recipe says so); bfloat16 is autocast's.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from rlcurric.plan.shapes import Shape

F32, BF16 = 4, 2
SHARDINGS = ("none", "ddp", "zero1", "zero2", "zero3", "fsdp2")
BUCKET = 500_000_000  # elements of DeepSpeed's reduce_bucket_size, its default
SUB_GROUP = 1_000_000_000  # of its stage3 sub_group_size
TILE = {True: 1 << 27, False: 1 << 20}  # logits that exist at a time, in elements: on CUDA, on CPU
KEPT = 1 << 24  # logits of a call up to which they are kept for its backward pass
TRL_TOKENS, TRL_COLUMNS = 4096, 32_768  # of the tile of TRL's fused head
PAGE = 4096


@dataclass(frozen=True)
class Held:
    """What lies on a rank's device while the optimizer steps, by kind."""

    weights: float
    master: float  # ZeRO's second copy of what is trained, float32 like the first
    moments: float
    gradients: float
    flattened: float  # gradients a second time, while ZeRO-2 and 3 step
    reference: float
    buffers: float

    @property
    def total(self) -> float:
        return sum(getattr(self, field.name) for field in fields(self))

    @property
    def lasting(self) -> float:
        """What stays from one micro-batch to the next."""
        return self.total - self.buffers - self.flattened


def held(
    kind: str,
    n: int,
    world: int,
    trained: int | None = None,
    reference: bool = False,
    bucket: int = BUCKET,
    width: int = F32,
) -> Held:
    """Bytes of a rank under a sharding, whatever the number of micro-batches in a window; `width`: of a number."""
    p = n if trained is None else trained
    share = 1 if kind in ("none", "ddp") else world
    whole_gradients = kind in ("none", "ddp", "zero1")
    over = world if kind in ("fsdp2", "zero3") else 1
    return Held(
        weights=width * n / over,
        master=width * p / world if kind.startswith("zero") else 0,
        moments=2 * width * p / share,
        gradients=width * p / (1 if whole_gradients else share),
        flattened=width * {"zero2": p / world, "zero3": min(p / world, SUB_GROUP)}.get(kind, 0),
        reference=width * p / over if reference else 0,
        buffers={"ddp": width * p, "zero2": width * bucket, "zero3": width * bucket}.get(kind, 0),
    )


@dataclass(frozen=True)
class Numbers:
    """How a device computes."""

    cuda: bool
    width: int  # bytes of a weight: 4, or 8
    autocast: bool  # products in bfloat16

    @property
    def product(self) -> int:
        """Bytes of a number that a product takes and gives."""
        return BF16 if self.autocast else self.width


def kv_bytes(shape: Shape, width: int = BF16) -> int:
    """Of the key-value cache, a token."""
    return 2 * shape.layers * shape.kv * width


def cast_copies(shape: Shape) -> int:
    """bfloat16 copies of one layer's weights, made for its forward pass and again where it is recomputed."""
    return BF16 * shape.layer


def gathered(shape: Shape, kind: str) -> int:
    """Whole weights on a rank while it computes: two layers, under FSDP2 embedding and head too."""
    if kind not in ("fsdp2", "zero3"):
        return 0
    return F32 * (2 * shape.layer + shape.root)


def layer_bytes(shape: Shape, numbers: Numbers) -> int:
    """What one layer keeps of a token for its backward pass: norms and residual stream at full width, products as they are."""
    width, inner, q, kv = shape.width, shape.inner, shape.q, shape.kv
    if numbers.autocast:
        return 24 * width + 8 * inner + 14 * q + 4 * kv
    expanded = (
        0 if numbers.cuda else 2 * q
    )  # keys and values for every query head: the CPU's kernel has no grouped form
    return numbers.width * (6 * width + 4 * inner + 5 * q + expanded + 3 * kv)


def activations(shape: Shape, tokens: int, numbers: Numbers, checkpointing: bool) -> int:
    """Kept for the backward pass of a micro-batch; fitted to what small Qwen2 and Qwen3 layers save."""
    layer = tokens * layer_bytes(shape, numbers)
    if not checkpointing:
        return shape.layers * layer
    return shape.layers * numbers.width * tokens * shape.width + layer


def fused_head(shape: Shape, predicted: int, numbers: Numbers) -> int:
    """Of the fused head's forward and backward pass: tiles of logits, those that are kept, and the gradient of its weight."""
    logits = predicted * shape.vocab
    tile = min(logits, TILE[numbers.cuda])
    kept = logits if logits <= KEPT else 0
    return F32 * (4 * tile + kept + shape.vocab * shape.width)


def trl_head(shape: Shape, positions: int, numbers: Numbers) -> int:
    """The same of TRL's fused head: one buffer of 4,096 tokens by 32,768 columns whatever the vocabulary is.

    On a CPU only the pages that are written count, and tiles exist six times; a GPU's allocator gives all of it.
    """
    rows, columns = min(positions, TRL_TOKENS), min(shape.vocab, TRL_COLUMNS)
    weight = F32 * shape.vocab * shape.width
    if numbers.cuda:
        buffer = rows * TRL_COLUMNS * numbers.product
        return buffer + columns * shape.width * numbers.product + weight
    written = -(-columns * numbers.width // PAGE) * PAGE
    return rows * written + 6 * rows * columns * numbers.width + weight
