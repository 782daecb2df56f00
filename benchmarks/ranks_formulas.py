"""What a rank holds and sends, by formula: docs/scaling.md states them, tests/test_scaling.py holds them to tensors.

    python -m benchmarks.ranks_formulas     prints the worked examples of the page

Bytes throughout. `N` parameters, `P` of them trained (all, or the adapter's), `W` ranks.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

F32, BF16 = 4, 2
BUCKET = 500_000_000  # elements of DeepSpeed's reduce_bucket_size, its default
GIB = 1 << 30


@dataclass(frozen=True)
class Held:
    """What lies on a rank's device while the optimizer steps, by kind."""

    weights: float
    master: float  # ZeRO's second copy of what is trained, float32 like the first
    moments: float
    gradients: float
    reference: float
    buffers: float

    @property
    def total(self) -> float:
        return sum(getattr(self, field.name) for field in fields(self))

    @property
    def lasting(self) -> float:
        """What stays while the engine samples, as the check before the engine's start counts it."""
        return self.total - self.buffers


def held(
    kind: str,
    n: int,
    world: int,
    trained: int | None = None,
    micro_batches: int = 1,
    reference: bool = False,
    bucket: int = BUCKET,
) -> Held:
    """Bytes of a rank under a sharding; `micro_batches` of a window."""
    p = n if trained is None else trained
    share = 1 if kind in ("none", "ddp") else world
    weights = F32 * n / (world if kind in ("fsdp2", "zero3") else 1)
    whole_gradients = kind in ("none", "ddp", "zero1") or (kind == "fsdp2" and micro_batches > 1)
    return Held(
        weights=weights,
        master=F32 * p / world if kind.startswith("zero") else 0,
        moments=2 * F32 * p / share,
        gradients=F32 * p / (1 if whole_gradients else share),
        reference=(F32 * p / (world if kind in ("fsdp2", "zero3") else 1)) if reference else 0,
        buffers={"ddp": F32 * p, "zero2": F32 * bucket, "zero3": F32 * bucket}.get(kind, 0),
    )


def sent(kind: str, n: int, world: int, micro_batches: int = 1, trained: int | None = None) -> float:
    """Bytes that a rank sends in the update of one window, by ring collectives over float32."""
    p = n if trained is None else trained
    ring = (world - 1) / world
    m = micro_batches
    return {
        "none": 0.0,
        "ddp": 2 * ring * F32 * p,
        "zero1": 2 * ring * F32 * p,
        "zero2": ring * F32 * p * (m + 1),
        "zero3": ring * F32 * (2 * m * n + m * p),
        "fsdp2": ring * F32 * (2 * m * n + p),
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

    def activations(self, tokens: int, checkpointing: bool) -> float:
        """Of a micro-batch: what is kept for the backward pass (float32 residual stream, bfloat16 products)."""
        d, i = self.width, self.inner
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        layer = tokens * (LAYER_D * d + LAYER_I * i + LAYER_Q * q + LAYER_KV * kv)
        if not checkpointing:
            return self.layers * layer
        return self.layers * F32 * tokens * d + layer
