"""What a rank holds (rlcurric/plan/memory.py) and sends, by formula: docs/scaling.md states them, tests/test_scaling.py
holds them to tensors.

    python -m benchmarks.ranks_formulas     prints the worked examples of the page

Bytes throughout. `N` parameters, `P` of them trained (all, or the adapter's), `W` ranks.
"""

from __future__ import annotations

from rlcurric.plan.memory import (
    BF16,
    BUCKET,
    F32,
    Numbers,
    activations,
    cast_copies,
    fused_head,
    gathered,
    held,
)
from rlcurric.plan.shapes import Shape

__all__ = ["BUCKET", "MODELS", "held", "sent", "table"]
GPU = Numbers(cuda=True, width=F32, autocast=True)


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


MODELS = {
    "1.5B": Shape("1.5B", 1_544_000_000, 28, 1536, 8960, 12, 2, 128, 151_936),
    "7B": Shape("7B", 7_616_000_000, 28, 3584, 18_944, 28, 4, 128, 152_064),
    "70B": Shape("70B", 70_550_000_000, 80, 8192, 28_672, 64, 8, 128, 128_256),
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
    acts = activations(model, TOKENS, GPU, True) + fused_head(model, TOKENS, GPU)
    extra = cast_copies(model) + gathered(model, kind) + acts
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
