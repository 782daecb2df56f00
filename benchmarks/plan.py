"""What `rlcurric plan` says against what runs take: peak memory by stage and phase, and tokens.

    python benchmarks/plan.py [--cases demo demo_25M ...] [--threads 1] [--again]
    python benchmarks/plan.py --profiler [--cases demo]
    python benchmarks/plan.py --quick

Every case runs in a process of its own, on the CPU, a few steps of each stage: first the same recipe once as a warm-up, so
that libraries are loaded and their memory is not counted, then the run that is measured. Two numbers are taken between
any two things that a run reports (a stage, a phase), both beyond what there was before the run: the peak of the resident memory, and
the most bytes that the C allocator had given out, looked at every millisecond. Tensors on a CPU are allocated by it. The
tokens are those of metrics.jsonl. With `--profiler` it is torch's own counter in place of the allocator's: every
allocation of a tensor, none missed however short it lives, at a gigabyte of memory for a million of them; no warm-up is needed. The demo's tokens over whole runs are those of benchmarks/results/demo_seeds.

Resumable: a case whose result is in benchmarks/results/plan.json with the same settings is not measured again unless
`--again` is given. The tiny overlays need RLCURRIC_TINY_MODEL (recipes/overlays/tiny.yaml).
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).parent / "results" / "plan.json"
DEMO_SEEDS = Path(__file__).parent / "results" / "demo_seeds"
GOAL = 0.2
MIB = 2**20


@dataclass(frozen=True)
class Case:
    """A recipe with few steps."""

    recipe: str
    overrides: tuple[str, ...]
    warm: tuple[str, ...]  # overrides beside these of the warm-up: fewer steps, nothing else
    overlay: str | None = None


_FEW = (
    "stages.cold_start.until.steps=3",
    "stages.cold_start.evaluation.samples=0",
    "stages.explore.until.steps=2",
    "stages.tighten.until.steps=1",
    "evaluation.prompts=4",
)
_ONE = (
    "stages.cold_start.until.steps=1",
    "stages.explore.until.steps=1",
    "stages.tighten.until.steps=1",
)


def model_of(layers: int, width: int) -> tuple[str, ...]:
    """Overrides: random weights of this size, with the tokenizer of the tiny overlays."""
    base = yaml.safe_load((ROOT / "recipes" / "tiny_base.yaml").read_text(encoding="utf-8"))
    sizes = {"hidden_size": width, "intermediate_size": 3 * width, "layers": layers}
    heads = {"heads": width // 32, "kv_heads": width // 64, "head_dim": 32}
    return (
        "model.path=null",
        f"model.architecture={json.dumps({**sizes, **heads})}",
        f"model.tokenizer={json.dumps(base['model']['tokenizer'])}",
    )


CASES = {
    "demo": Case("demo", _FEW, _ONE),
    "demo_10M": Case(
        "demo",
        (
            *_FEW,
            *_ONE,
            *(f"model.architecture.{key}={value}" for key, value in {"hidden_size": 384}.items()),
            *("model.architecture.intermediate_size=1152", "model.architecture.layers=6"),
            *("model.architecture.heads=8", "model.architecture.kv_heads=4"),
            *("model.architecture.head_dim=48", "model.gradient_checkpointing=true"),
            *("curriculum.prompts_per_step=8", "curriculum.group_size=4"),
            "stages.cold_start.batch_size=32",
        ),
        (),
    ),
    "tulu3_rlvr": Case("tulu3_rlvr", model_of(6, 256), (), "tiny"),
    "pods_gsm8k": Case("pods_gsm8k", model_of(6, 256), (), "tiny"),
    "pods_gsm8k_lora": Case("pods_gsm8k", (*model_of(6, 256), "model.lora={rank: 8}"), (), "tiny"),
    "tulu3_rlvr_taught": Case("tulu3_rlvr", (), (), "tiny"),
    "pods_gsm8k_taught": Case("pods_gsm8k", (), (), "tiny"),
    "sec_math_taught": Case("sec_math", (), (), "tiny"),
}


def main() -> None:
    options = parsed()
    if options.worker:
        work = profiled if options.profiler else watched
        options.worker.write_text(json.dumps(work(CASES[options.cases[0]])))
        return
    known = json.loads(options.output.read_text()) if options.output.exists() else {}
    keys = {name: f"{name}, profiler" if options.profiler else name for name in options.cases}
    for name, key in keys.items():
        settings = {
            "case": [str(part) for part in vars(CASES[name]).values()],
            "threads": options.threads,
        }
        if options.again or known.get(key, {}).get("settings") != settings:
            print(f"{key} ...", flush=True, file=sys.stderr)
            found = {"planned": planned(CASES[name]), "measured": measured(name, options)}
            known[key] = {"settings": settings, **about(), **found}
            if not options.quick:
                options.output.write_text(json.dumps(known, indent=1) + "\n")
    print(tables({key: known[key] for key in keys.values()}))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    add("--threads", type=int, default=1)
    add("--profiler", action="store_true", help="torch's counter of tensors, not the allocator's")
    add("--again", action="store_true", help="measure what is known too")
    add("--quick", action="store_true", help="the demo alone; writes no result")
    add("--output", type=Path, default=RESULTS)
    add("--worker", type=Path, help=argparse.SUPPRESS)  # where the result goes
    options = parser.parse_args()
    if options.quick:
        options.cases, options.again = ["demo"], True
    return options


def environment(threads: int) -> dict[str, str]:
    path = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    more = {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    return {**os.environ, **more, "PYTHONPATH": path}


def planned(case: Case) -> dict[str, Any]:
    """The command's own output, but for what is this machine's alone."""
    words = ["plan", case.recipe, *case.overrides, "--memory", "1000", "--json"]
    words += ["--overlay", case.overlay] if case.overlay else []
    done = subprocess.run(
        [sys.executable, "-m", "rlcurric", *words],
        env=environment(1),
        stdout=subprocess.PIPE,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    del found["disk"]["folder"], found["disk"]["free"]
    return found


def measured(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """From a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "result.json"
        command = [sys.executable, __file__, "--cases", name, "--worker", str(file)]
        command += ["--profiler"] if options.profiler else []
        subprocess.run(command, env=environment(options.threads), check=True)
        found: dict[str, Any] = json.loads(file.read_text())
    return found


# ---- in the process that is measured


class Mallinfo(ctypes.Structure):
    """glibc's mallinfo2: counts of chunks, then bytes."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()
    ]


LIBC = ctypes.CDLL("libc.so.6")
LIBC.mallinfo2.restype = Mallinfo


def given_out() -> int:
    """Bytes that the C allocator has given out and not got back."""
    info = LIBC.mallinfo2()
    return int(info.uordblks + info.hblkhd)


def status(name: str) -> int:
    """A size of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


class Marks:
    """A run's reporter that keeps the peaks between what it is told; a supervised stage's own steps are its phase update."""

    def __init__(self) -> None:
        self.peaks: dict[str, dict[str, int]] = {}
        self._stage, self._phase = "", "start"
        self._highest = 0
        self._before = {"rss": status("VmRSS"), "given": given_out()}
        Path("/proc/self/clear_refs").write_text("5")
        self._going = True
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while self._going:
            self._highest = max(self._highest, given_out())
            time.sleep(0.001)

    def _mark(self) -> None:
        found = {
            "rss": status("VmHWM") - self._before["rss"],
            "given": max(self._highest, given_out()) - self._before["given"],
        }
        key = f"{self._stage}, {self._phase}"
        known = self.peaks.setdefault(key, found)
        self.peaks[key] = {name: max(known[name], value) for name, value in found.items()}
        self._highest = 0
        Path("/proc/self/clear_refs").write_text("5")

    def message(self, text: str) -> None: ...

    def event(self, row: Mapping[str, Any]) -> None: ...

    def stage(self, name: str, kind: str, *_: Any) -> None:
        self._mark()
        self._stage, self._phase = name, "update" if kind in ("sft", "dpo") else "load"

    def phase(self, name: str) -> None:
        name = name.split(",")[0]
        if name.startswith("reference"):  # of a dpo stage, before its steps
            name = "update"
        if name != self._phase:
            self._mark()
            self._phase = name

    def step(self, row: Mapping[str, Any]) -> None:
        self._mark()
        self._phase = "update" if "tokens/generated/sum" not in row else "log"

    def close(self) -> None:
        self._mark()
        self._going = False


def watched(case: Case) -> dict[str, Any]:
    """Peaks by stage and phase of allocator and resident memory, and tokens."""
    import torch

    import rlcurric

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    with tempfile.TemporaryDirectory() as folder:
        warm = [*case.overrides, *case.warm]
        rlcurric.train(case.recipe, Path(folder) / "warm", overrides=warm, overlay=case.overlay)
        gc.collect()
        LIBC.malloc_trim(0)
        marks = Marks()
        overrides = list(case.overrides)
        run = Path(folder) / "run"
        rlcurric.train(case.recipe, run, overrides=overrides, overlay=case.overlay, reporter=marks)
        marks.close()
        tokens = tokens_of(rlcurric.read_run(run))
    return {"peaks": marks.peaks, "tokens": tokens}


class ProfilerMarks(Marks):
    """The same places, as events of torch's profiler."""

    def __init__(self) -> None:
        self._stage, self._phase = "", "start"

    def _mark(self) -> None: ...

    def stage(self, name: str, kind: str, *more: Any) -> None:
        super().stage(name, kind, *more)
        self._tell()

    def phase(self, name: str) -> None:
        super().phase(name)
        self._tell()

    def step(self, row: Mapping[str, Any]) -> None:
        super().step(row)
        self._tell()

    def _tell(self) -> None:
        from torch.profiler import record_function

        with record_function(f"{MARK}{self._stage}, {self._phase}"):
            pass


MARK = "rlcurric plan: "


def profiled(case: Case) -> dict[str, Any]:
    """Peaks by stage and phase of what torch's allocator has given out, and tokens."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    import rlcurric

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    with tempfile.TemporaryDirectory() as folder:
        marks, overrides = ProfilerMarks(), list(case.overrides)
        run = Path(folder) / "run"
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
            rlcurric.train(
                case.recipe, run, overrides=overrides, overlay=case.overlay, reporter=marks
            )
        tokens = tokens_of(rlcurric.read_run(run))
    events = [
        (one.start_ns(), one.name(), one.nbytes())
        for one in found.profiler.kineto_results.events()
        if one.name() == "[memory]" or one.name().startswith(MARK)
    ]
    peaks: dict[str, dict[str, int]] = {}
    place, now = ", start", 0
    for _, name, size in sorted(events, key=lambda one: one[0]):
        if name.startswith(MARK):
            place = name.removeprefix(MARK)
        now += size if name == "[memory]" else 0
        known = peaks.setdefault(place, {"given": 0, "rss": 0})
        known["given"] = max(known["given"], now)
    return {"peaks": peaks, "tokens": tokens}


def tokens_of(run: Any) -> dict[str, dict[str, float]]:
    """By stage: steps, tokens generated for training, tokens trained, completions, their mean length."""
    passes = {one.name: one.optim.epochs for one in run.recipe.stages if one.kind == "rl"}
    found: dict[str, dict[str, float]] = {}
    for row in run.metrics:
        one = found.setdefault(
            row["stage"], dict.fromkeys(("steps", "generated", "trained", "samples"), 0.0)
        )
        one["steps"] += 1
        one["generated"] += row.get("tokens/generated/sum", 0)
        one["samples"] += row.get("curriculum/samples/ended", 0)
        one["trained"] += row.get("tokens/trained/sum", 0)
        length = row.get("length/completion/mean", 0)
        one["trained"] += row.get("batch/rollouts/sum", 0) * length * passes.get(row["stage"], 1)
    return found


# ---- telling


def about() -> dict[str, Any]:
    return {
        "date": date.today().isoformat(),
        "versions": {name: version(name) for name in ("torch", "transformers", "trl")},
        "cpus": os.cpu_count(),
        "machine": platform.machine(),
    }


def tables(results: Mapping[str, dict[str, Any]]) -> str:
    """Markdown: memory by stage and phase, then tokens by stage."""
    lines: list[str | None] = [
        "| case | stage | phase | planned MiB | allocator MiB | planned / allocator | resident MiB | planned / resident |",
        "|" + "---|" * 8,
    ]
    for name, one in results.items():
        for stage in one["planned"]["stages"]:
            for phase in stage["phases"]:
                lines.append(
                    memory_row(name, stage["counts"]["name"], phase, one["measured"]["peaks"])
                )
    lines += [
        "",
        "| case | stage | steps | generated, planned | measured | planned / measured | trained, planned | measured | planned / measured |",
        "|" + "---|" * 9,
    ]
    for name, one in results.items():
        for stage in one["planned"]["stages"]:
            lines.append(token_row(name, stage["counts"], one["measured"]["tokens"]))
    return "\n".join(line for line in lines if line is not None)


def memory_row(
    case: str, stage: str, phase: dict[str, Any], peaks: Mapping[str, Any]
) -> str | None:
    found = peaks.get(f"{stage}, {phase['name']}")
    if found is None:
        return None
    cells = [case, stage, phase["name"], f"{phase['total'] / MIB:.1f}"]
    for kind in ("given", "rss"):
        cells += [f"{found[kind] / MIB:.1f}", ratio(phase["total"], found[kind])]
    return f"| {' | '.join(cells)} |"


def token_row(case: str, counts: dict[str, Any], tokens: Mapping[str, Any]) -> str | None:
    found = tokens.get(counts["name"])
    if found is None:
        return None
    cells = [case, counts["name"], str(counts["steps"])]
    for key in ("generated", "trained"):
        cells += [f"{counts[key]:,.0f}", f"{found[key]:,.0f}", ratio(counts[key], found[key])]
    return f"| {' | '.join(cells)} |"


def ratio(planned: float, found: float) -> str:
    if not found:
        return "-"
    mark = "" if abs(planned / found - 1) <= GOAL else " (missed)"
    return f"{planned / found:.2f}{mark}"


if __name__ == "__main__":
    main()
