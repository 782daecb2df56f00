"""What a rank holds and sends, by formula: docs/scaling.md states them, tests/test_scaling.py holds them to tensors.

    python -m benchmarks.ranks_formulas     prints the worked examples of the page

Bytes throughout. `N` parameters, `P` of them trained (all, or the adapter's), `W` ranks.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

F32, BF16 = 4, 2
BUCKET = 500_000_000  # elements of DeepSpeed's reduce_bucket_size, its default
SUB_GROUP = 1_000_000_000  # of its stage3 sub_group_size
TILE = 1 << 27  # logits that exist at a time on CUDA, in elements


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
) -> Held:
    """Bytes of a rank under a sharding, whatever the number of micro-batches in a window."""
    p = n if trained is None else trained
    share = 1 if kind in ("none", "ddp") else world
    weights = F32 * n / (world if kind in ("fsdp2", "zero3") else 1)
    whole_gradients = kind in ("none", "ddp", "zero1")
    return Held(
        weights=weights,
        master=F32 * p / world if kind.startswith("zero") else 0,
        moments=2 * F32 * p / share,
        gradients=F32 * p / (1 if whole_gradients else share),
        flattened=F32 * {"zero2": p / world, "zero3": min(p / world, SUB_GROUP)}.get(kind, 0),
        reference=(F32 * p / (world if kind in ("fsdp2", "zero3") else 1)) if reference else 0,
        buffers={"ddp": F32 * p, "zero2": F32 * bucket, "zero3": F32 * bucket}.get(kind, 0),
    )


def sent(
    kind: str, n: int, world: int, micro_batches: int = 1, trained: int | None = None
) -> float:
    """Bytes that a rank sends in the update of one window, by ring collectives over float32."""
    p = n if trained is None else trained
    ring = (world - 1) / world
    m = micro_batches
    return {
        "none": 0.0,
        "ddp": 2 * ring * F32 * p,
        "zero1": 3 * ring * F32 * p,
        "zero2": ring * F32 * p * (2 * m + 1),
        "zero3": ring * F32 * (2 * m * n + m * p),
        "fsdp2": ring * F32 * (2 * m * n + m * p),
    }[kind]


@dataclass(frozen=True)
class Model:
    """A decoder-only language model."""

    name: str
    n: int
    layers: int
    width: int
    inner: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int

    @property
    def kv_bytes(self) -> int:
        """Of the key-value cache, a token, in bfloat16."""
        return 2 * self.layers * self.kv_heads * self.head_dim * BF16

    @property
    def layer(self) -> int:
        """Parameters of one layer."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return self.width * (2 * q + 2 * kv + 3 * self.inner)

    @property
    def root(self) -> int:
        """Parameters outside of the layers: embedding and head."""
        return self.n - self.layers * self.layer

    @property
    def copies(self) -> int:
        """bfloat16 copies of one layer's weights, made for its forward pass and again where it is recomputed."""
        return BF16 * self.layer

    def gathered(self, kind: str) -> int:
        """Whole weights on a rank while it computes: two layers, under FSDP2 embedding and head too."""
        if kind not in ("fsdp2", "zero3"):
            return 0
        return F32 * (2 * self.layer + self.root)

    @property
    def head(self) -> int:
        """Of the fused head's backward pass: four tiles of logits and the gradient of its weight, float32."""
        return F32 * (4 * TILE + self.vocab * self.width)

    def activations(self, tokens: int, checkpointing: bool) -> int:
        """Kept for the backward pass of a micro-batch (float32 residual stream, bfloat16 products); within 15 %."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        layer = tokens * (24 * self.width + 8 * self.inner + 14 * q + 4 * kv)
        if not checkpointing:
            return self.layers * layer
        return self.layers * F32 * tokens * self.width + layer


MODELS = {
    "1.5B": Model("1.5B", 1_544_000_000, 28, 1536, 8960, 12, 2, 128, 151_936),
    "7B": Model("7B", 7_616_000_000, 28, 3584, 18_944, 28, 4, 128, 152_064),
    "70B": Model("70B", 70_550_000_000, 80, 8192, 28_672, 64, 8, 128, 128_256),
}
EXAMPLES = (
    ("1.5B", 8, ("ddp", "zero2", "fsdp2", "zero3")),
    ("7B", 8, ("ddp", "zero1", "zero2", "fsdp2", "zero3")),
    ("7B", 64, ("zero1", "zero2", "fsdp2", "zero3")),
    ("70B", 256, ("zero2", "fsdp2", "zero3")),
    ("70B", 1024, ("zero2", "fsdp2", "zero3")),
)
DEVICE, USED = 80e9, 0.95  # of which torch, NCCL and CUDA leave so much
TOKENS = 8192


def example(name: str, world: int, kind: str) -> str:
    """A row: GB of a rank."""
    model = MODELS[name]
    one = held(kind, model.n, world)
    acts = model.activations(TOKENS, True) + model.head
    extra = model.copies + model.gathered(kind) + acts
    starts = F32 * model.n if kind.startswith("zero") or kind == "ddp" else one.weights
    width = next(
        (w for w in (1, 2, 4, 8) if one.lasting + BF16 * model.n / w + 4e9 < USED * DEVICE), 0
    )
    limit = USED * DEVICE
    problems = [
        what
        for what, count in (
            ("start", starts),
            ("held", one.lasting),
            ("update", one.lasting + one.buffers + extra),
        )
        if count > limit
    ]
    counts = (starts, one.lasting, one.buffers, extra, one.lasting + one.buffers + extra)
    cells = [f"{count / 1e9:.1f}" for count in counts]
    told = "fits" if not problems else f"no: {', '.join(problems)}"
    return f"| {name} | {world:,} | {kind} | {' | '.join(cells)} | {width or '-'} | {told} |"


HEAD = (
    "| model | ranks | sharding | at start | held | buffers | gathered, copies and activations | update | "
    "tensor_parallel, at least | 80 GB |"
)


def table() -> str:
    """Markdown: the worked examples."""
    rows = [example(name, world, kind) for name, world, kinds in EXAMPLES for kind in kinds]
    return "\n".join([HEAD, "|---" * 10 + "|", *rows])


if __name__ == "__main__":
    print(table())
