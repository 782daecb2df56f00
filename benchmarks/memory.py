"""Peak memory and time of log-probs and entropies with gradients, from hidden states and an output head.

    python benchmarks/memory.py [--tokens 2048 8192] [--variants dense ours trl liger] [--threads 2]
    python benchmarks/memory.py --cuda
    python benchmarks/memory.py --quick

Forward and backward of `sum(a * logprobs + b * entropies)`, gradients to hidden states and to the head's weight. Each
variant runs in a process of its own. The peak is what the call adds to what was there before it, inputs included:
resident memory on CPU, torch's allocator on CUDA. It is given twice, with everything and less the gradient of the
weight, which no variant can avoid. On CPU the other variants run at the first number of tokens only. Variants that are
not installed are left out. Results lie in benchmarks/results/memory.json, by device.

`N` tokens, `D` hidden width, `V` vocabulary.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results" / "memory.json"
GOAL = 1 / 8  # peak of ours / peak of dense, at the first number of tokens
MIB = 1 << 20
PARTS = ("logprobs", "entropies", "grad_hidden", "grad_weight")

Function = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def dense() -> Function:
    """All logits at once, gradients by autograd."""

    def call(
        hidden_ND: torch.Tensor, weight_VD: torch.Tensor, targets_N: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        log_p_NV = (hidden_ND @ weight_VD.T).float().log_softmax(-1)
        logprobs_N = log_p_NV.gather(-1, targets_N[:, None])[:, 0]
        return logprobs_N, -(log_p_NV.exp() * log_p_NV).sum(-1)

    return call


def ours() -> Function:
    from rlcurric.objective.fused import logprobs_and_entropy

    return logprobs_and_entropy


def trl() -> Function:
    """The function behind GRPOTrainer's fused head, with the trainer's settings."""
    from trl.trainer import utils

    def call(
        hidden_ND: torch.Tensor, weight_VD: torch.Tensor, targets_N: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        size = utils._CHUNKED_LOGPROB_CHUNK_SIZE
        logprobs_N, entropy_N, *_ = utils._ChunkedLogProbFunction.apply(
            *(hidden_ND, weight_VD, None, targets_N, 1.0, size, None, 1.0, ("log_probs", "entropy"))
        )
        return logprobs_N, entropy_N

    return call


def liger() -> Function:
    """Liger's log-probs and entropies; what it does on a device without its own kernel is its choice."""
    scaled = importlib.import_module("liger_kernel.ops").LigerFusedLinearScaledCrossEntropyFunction

    def call(
        hidden_ND: torch.Tensor, weight_VD: torch.Tensor, targets_N: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        nll_N, entropy_N = scaled.apply(hidden_ND, weight_VD, targets_N, return_entropy=True)
        return -nll_N, entropy_N

    return call


VARIANTS: dict[str, Callable[[], Function]] = {
    "dense": dense,
    "ours": ours,
    "trl": trl,
    "liger": liger,
}


def main() -> None:
    options = parsed()
    if options.worker:
        print(json.dumps(worker(options)))
        return
    device = "cuda" if options.cuda else "cpu"
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for tokens in options.tokens:
            for variant in options.variants:
                if variant != "ours" and tokens != options.tokens[0] and not options.cuda:
                    continue
                print(f"{variant} at {tokens} tokens ...", flush=True)
                found = in_process(options, variant, tokens, folder)
                if "unavailable" in found:
                    print(f"  left out: {found['unavailable']}")
                else:
                    results.append({"variant": variant, "tokens": tokens, **found})
    if options.output:
        known = json.loads(options.output.read_text()) if options.output.exists() else {}
        known[device] = {**about(options), "results": results}
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(known, indent=1) + "\n")
    print(table(results, judged=not options.quick))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--tokens", type=int, nargs="+", help="default: 2048 8192; with --cuda 8192")
    add("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    add("--vocab", type=int, default=151_936)
    add("--width", type=int, default=1024)
    add("--dtype", choices=["float32", "bfloat16"], help="default: float32; with --cuda bfloat16")
    add("--threads", type=int, default=2)
    add("--repeats", type=int, default=3, help="timed calls, after the one whose peak is measured")
    add("--cuda", action="store_true")
    add("--quick", action="store_true", help="a small head, a few tokens; writes no result")
    add("--output", type=Path, help=f"default: {RESULTS.relative_to(Path(__file__).parent.parent)}")
    add("--worker", choices=list(VARIANTS), help=argparse.SUPPRESS)
    add("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.vocab, options.width, options.repeats, options.threads = 70_000, 32, 1, 1
        options.tokens = [256]
    options.tokens = options.tokens or ([8192] if options.cuda else [2048, 8192])
    options.dtype = options.dtype or ("bfloat16" if options.cuda else "float32")
    options.output = options.output or (None if options.quick else RESULTS)
    if options.cuda and not torch.cuda.is_available():
        raise SystemExit("--cuda: torch sees no CUDA device")
    return options


def in_process(
    options: argparse.Namespace, variant: str, tokens: int, folder: str
) -> dict[str, Any]:
    """The result of one variant, from a process of its own."""
    settings = {
        "--worker": variant,
        "--tokens": tokens,
        "--folder": folder,
        **{f"--{name}": getattr(options, name) for name in ("vocab", "width", "dtype")},
        **{f"--{name}": getattr(options, name) for name in ("threads", "repeats")},
    }
    command = [sys.executable, __file__, *(str(part) for pair in settings.items() for part in pair)]
    if options.cuda:
        command.append("--cuda")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "DS_ACCELERATOR": "cpu"}
    if options.cuda:
        del environment["DS_ACCELERATOR"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def worker(options: argparse.Namespace) -> dict[str, Any]:
    """Peak, then times, then differences to the dense form where it ran before."""
    torch.set_num_threads(options.threads)
    device = "cuda" if options.cuda else "cpu"
    place: dict[str, Any] = {"device": device, "dtype": getattr(torch, options.dtype)}
    N, D, V = options.tokens[0], options.width, options.vocab
    torch.manual_seed(0)
    hidden_ND = torch.randn(N, D, **place).requires_grad_()
    weight_VD = torch.randn(V, D, **place).mul_(2 / D**0.5).requires_grad_()
    targets_N = torch.randint(V, (N,), device=device)
    factors_2N = torch.randn(2, N, device=device)

    def run(function: Function, n: int, v: int) -> list[torch.Tensor]:
        """`PARTS`, of the first n tokens and v words."""
        h, w = (hidden_ND, weight_VD) if n == N else (hidden_ND[:n], weight_VD[:v])
        logprobs_N, entropy_N = function(h, w, targets_N[:n].clamp(max=v - 1))
        loss = (factors_2N[0, :n] * logprobs_N + factors_2N[1, :n] * entropy_N).sum()
        grads = torch.autograd.grad(loss, (h, w))
        return [logprobs_N.detach(), entropy_N.detach(), *grads]

    try:
        function = VARIANTS[options.worker]()
        run(function, 8, 64)  # libraries load what they need
    except ImportError as error:
        return {"unavailable": str(error).splitlines()[0]}
    before = start_peak(device)
    results = run(function, N, V)
    peak = read_peak(device) - before
    unavoidable = weight_VD.numel() * weight_VD.element_size()
    found: dict[str, Any] = {
        "peak_bytes": peak,
        "peak_bytes_without_weight_gradient": peak - unavoidable,
        **compared(results, options.worker, options.folder / f"dense-{N}.pt"),
    }
    del results
    times = []
    for _ in range(options.repeats):
        synchronise(device)
        start = time.perf_counter()
        run(function, N, V)
        synchronise(device)
        times.append(time.perf_counter() - start)
    return {**found, "seconds": times, "median": statistics.median(times)}


def compared(results: Sequence[torch.Tensor], variant: str, file: Path) -> dict[str, Any]:
    """Largest differences to the dense form; of the dense form itself the largest values, for scale."""
    if variant == "dense":
        torch.save([value.cpu() for value in results], file)
        return {"largest": {n: float(v.abs().max()) for n, v in zip(PARTS, results, strict=True)}}
    if not file.exists():
        return {}
    pairs = zip(PARTS, results, torch.load(file), strict=True)
    return {"difference": {name: float((a.cpu() - b).abs().max()) for name, a, b in pairs}}


def start_peak(device: str) -> int:
    """Forget the peak so far; bytes in use now."""
    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    with contextlib.suppress(
        OSError
    ):  # refused: the peak so far stays, so that of the call is at most too high
        Path("/proc/self/clear_refs").write_text("5")
    return status("VmRSS")


def read_peak(device: str) -> int:
    return torch.cuda.max_memory_allocated() if device == "cuda" else status("VmHWM")


def status(name: str) -> int:
    """A size of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def about(options: argparse.Namespace) -> dict[str, Any]:
    versions = {}
    for name in ("torch", "transformers", "trl", "liger-kernel"):
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    names = ("vocab", "width", "dtype", "threads", "repeats")
    return {
        "date": date.today().isoformat(),
        "versions": versions,
        "cpus": os.cpu_count(),
        "machine": torch.cuda.get_device_name() if options.cuda else platform.machine(),
        "settings": {name: getattr(options, name) for name in names},
    }


def table(results: Sequence[dict[str, Any]], judged: bool) -> str:
    """Markdown: a row a variant and number of tokens, then the goal."""
    lines = [
        "| variant | tokens | peak MiB | of dense | peak less weight gradient, MiB | of dense | seconds | "
        + "".join(f"diff. {name} | " for name in PARTS).rstrip(),
        "|" + "---|" * 11,
    ]
    keys = ("peak_bytes", "peak_bytes_without_weight_gradient")
    dense_at = {one["tokens"]: one for one in results if one["variant"] == "dense"}
    verdicts = []
    for one in results:
        row = f"| {one['variant']} | {one['tokens']} "
        shares = []
        for key in keys:
            row += f"| {one[key] / MIB:.0f} "
            if one["tokens"] in dense_at:
                shares.append(one[key] / dense_at[one["tokens"]][key])
                row += f"| 1/{1 / shares[-1]:.1f} "
            else:
                row += "| - "
        row += f"| {one['median']:.2f} |"
        for name in PARTS:
            row += f" {one['difference'][name]:.1e} |" if "difference" in one else " - |"
        lines.append(row)
        if one["variant"] == "ours" and shares and judged:
            reached = "reached" if shares[0] <= GOAL else "missed"
            verdicts.append(
                f"\nours at {one['tokens']} tokens: 1/{1 / shares[0]:.1f} of dense with everything, 1/{1 / shares[1]:.1f} "
                f"less the weight gradient in both (goal 1/8 with everything: {reached})"
            )
    return "\n".join(lines + verdicts)


if __name__ == "__main__":
    main()
