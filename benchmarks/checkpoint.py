"""How long training waits for a checkpoint: written in line, against copied at once and written in the background.

    python benchmarks/checkpoint.py [--megabytes 10 100 1000 2000] [--repeats 5] [--threads 2] [--folder FOLDER]
    python benchmarks/checkpoint.py --quick

A learner with AdamW's moments, so that its state (weights and moments, float32) has the size asked for, is saved by the
run's own code: copies, files, hashes, flush to the disk, reading back, commit. In line, the run waits for all of it. In
the background it waits for the copies, for what is written before training goes on, and for the commit once the files
are there. The two take turns; between the beginning of a save in the background and its commit nothing else runs here, so
that the writing itself is timed undisturbed. After every save in the background the parameters are changed in place as
soon as it has begun, and the file must hold what was there before. Medians. Results lie in
benchmarks/results/checkpoint.json, a size at a time: what is there already is not measured again unless --again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from rlcurric.objective.presets import grpo
from rlcurric.recipe.load import load_recipe
from rlcurric.recipe.settings import Optim
from rlcurric.rollout.parity import ParityLimits
from rlcurric.train.checkpoint import CheckpointStore, StateFiles
from rlcurric.train.coordinator import SingleProcess
from rlcurric.train.learner import Learner, LearnerSettings
from rlcurric.train.models import random_model
from rlcurric.train.pieces import PieceReader
from rlcurric.train.saving import Extras, Saver

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "checkpoint.json"
GOAL = 0.05  # what training waits beside the copy, of the time that a save in line takes
JUDGED = 1000  # megabytes from which on the goal holds
STATE = {"stage": "rl", "stage_step": 1, "policy_version": 1}


def main() -> None:
    options = parsed()
    torch.set_num_threads(options.threads)
    known: dict[str, Any] = {}
    if options.output and options.output.exists() and not options.again:
        known = json.loads(options.output.read_text())
    sizes = known.get("sizes", {})
    for megabytes in options.megabytes:
        if str(megabytes) in sizes:
            print(f"{megabytes} MB: measured already", flush=True)
            continue
        print(f"{megabytes} MB ...", flush=True)
        sizes[str(megabytes)] = measured(megabytes, options)
        if options.output:
            options.output.parent.mkdir(parents=True, exist_ok=True)
            text = json.dumps({**about(options), "sizes": sizes}, indent=1)
            options.output.write_text(text + "\n")
    print(table({size: sizes[size] for size in map(str, options.megabytes)}, not options.quick))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--megabytes", type=int, nargs="+", default=[10, 100, 1000, 2000])
    add(
        "--repeats", type=int, default=5, help="saves of each kind; the first of all is not counted"
    )
    add("--threads", type=int, default=2)
    add("--folder", type=Path, help="where checkpoints are written; default: a temporary folder")
    add("--again", action="store_true", help="measure sizes again that have results")
    add("--quick", action="store_true", help="2 MB, once; writes no result")
    add("--output", type=Path, help=f"default: {RESULTS.relative_to(ROOT)}")
    options = parser.parse_args()
    if options.quick:
        options.megabytes, options.repeats = [2], 1
    options.output = options.output or (None if options.quick else RESULTS)
    return options


def measured(megabytes: int, options: argparse.Namespace) -> dict[str, Any]:
    """Saves of both kinds in turn, of one learner."""
    learner = learner_of(megabytes * 1_000_000)
    folder = Path(tempfile.mkdtemp(prefix="rlcurric-checkpoints-", dir=options.folder))
    store = CheckpointStore(folder, keep_last=1)
    saver = Saver(store)
    lined: list[dict[str, float]] = []
    background: list[dict[str, float]] = []
    step = 0
    try:
        for turn in range(options.repeats + 1):
            for save, found in ((in_line, lined), (in_background, background)):
                step += 1
                times = save(step, learner, saver, store)
                store.finish()
                if turn:  # the first makes the buffers
                    found.append(times)
    finally:
        saver.close()
        shutil.rmtree(folder, ignore_errors=True)
    return {
        "bytes": saver_bytes(learner),
        "in_line": medians(lined),
        "background": medians(background),
        "repeats": options.repeats,
    }


def in_line(step: int, learner: Learner, saver: Saver, store: CheckpointStore) -> dict[str, float]:
    """Everything before training goes on."""
    started = time.perf_counter()
    begun = saver.begin(step, learner, extras(step))
    commit(step, saver, store)
    return {"wait": time.perf_counter() - started, "copy": begun.copy_seconds}


def in_background(
    step: int, learner: Learner, saver: Saver, store: CheckpointStore
) -> dict[str, float]:
    """As between two steps of a run: begin, change the parameters, look, commit."""
    before = sample(learner)
    started = time.perf_counter()
    begun = saver.begin(step, learner, extras(step))
    saver.before_update()
    wait = time.perf_counter() - started
    change(learner)
    assert any(
        not torch.equal(a, b)
        for a, b in zip(before.values(), sample(learner).values(), strict=True)
    )
    looked = 0.0
    while True:
        look = time.perf_counter()
        status = saver.status(wait=False)
        looked = time.perf_counter() - look
        if status is not None:
            break
        time.sleep(0.01)
    written = time.perf_counter() - started
    committing = time.perf_counter()
    commit(step, saver, store)
    wait += looked + time.perf_counter() - committing
    hold_what_was_there(store, step, before)
    return {"wait": wait, "copy": begun.copy_seconds, "write": written - begun.copy_seconds}


def commit(step: int, saver: Saver, store: CheckpointStore) -> None:
    written = saver.status(wait=True)
    assert written is not None and written.error is None, written
    store.commit(step, {**STATE, "step": step}, written.files)


def extras(step: int) -> Extras:
    return Extras(writes=[StateFiles({**STATE, "step": step}).write])


def learner_of(size: int) -> Learner:
    """A learner whose weights and moments take about so many bytes."""
    width = 512 if size >= 50_000_000 else 128
    layer = 12 * width * width * 12  # bytes of a layer's weights and moments, about
    settings = {
        "hidden_size": width,
        "intermediate_size": 8 * width // 3,
        "heads": 4,
        "kv_heads": 4,
        "head_dim": width // 4,
        "layers": max(round(size / layer), 1),
    }
    recipe = load_recipe(
        "demo", [f"model.architecture.{key}={value}" for key, value in settings.items()]
    )
    settings_ = LearnerSettings(1.0, 8, "no", ParityLimits(None, None))
    model = random_model(recipe)
    learner = Learner(model, Optim(learning_rate=1e-3), grpo(), SingleProcess(), settings_)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 1e-3)
    learner.sharding.step(max_grad_norm=1e9)
    return learner


@torch.no_grad()
def change(learner: Learner) -> None:
    """In place, as an optimizer does."""
    for parameter in learner.model.parameters():
        parameter.add_(1.0)
        for part in learner.sharding.moments(parameter).values():
            part.values.add_(1.0)


def sample(learner: Learner) -> dict[str, torch.Tensor]:
    """Copies of the first, a middle and the last tensor of the weights, and of their moments."""
    model = [*learner.model_tensors()]
    named = dict(learner.model.named_parameters())
    found = {}
    for name, tensor in (model[0], model[len(model) // 2], model[-1]):
        found[name] = tensor.detach().clone()
        found[f"{name}::exp_avg"] = learner.sharding.moments(named[name])["exp_avg"].values.clone()
    return found


def hold_what_was_there(store: CheckpointStore, step: int, before: dict[str, torch.Tensor]) -> None:
    """The checkpoint has the values from before the parameters changed."""
    folder = store.folder / f"step-{step:06d}"
    reader = PieceReader(folder)
    with safe_open(folder / "model" / "model.safetensors", "pt") as opened:
        for name, tensor in before.items():
            if "::" in name:
                found = reader.read(name, 0, tensor.numel()).view(tensor.shape)
            else:
                found = opened.get_tensor(name)
            assert torch.equal(found, tensor), f"{name} is not what was there when the save began"


def saver_bytes(learner: Learner) -> int:
    whole: Callable[[Any], int] = lambda tensors: sum(tensor.nbytes for tensor in tensors)  # noqa: E731
    weights = whole(tensor for _, tensor in learner.model_tensors())
    return weights + whole(piece.part for piece in learner.pieces())


def medians(times: Sequence[dict[str, float]]) -> dict[str, float]:
    return {key: statistics.median(one[key] for one in times) for key in times[0]}


def about(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "date": date.today().isoformat(),
        "versions": {name: version(name) for name in ("torch", "safetensors")},
        "cpus": os.cpu_count(),
        "machine": platform.machine(),
        "threads": options.threads,
    }


def table(sizes: dict[str, Any], judged: bool) -> str:
    """Markdown: a row a size, then the goal."""
    lines = [
        "| state | in line: waits | background: waits | of it the copy | the rest | of in line | written after |",
        "|" + "---|" * 7,
    ]
    verdicts = []
    for size, found in sizes.items():
        whole, wait = found["in_line"]["wait"], found["background"]["wait"]
        rest = wait - found["background"]["copy"]
        share = rest / whole
        lines.append(
            f"| {found['bytes'] / 1e6:,.0f} MB | {whole:.3f} s | {wait:.3f} s | {found['background']['copy']:.3f} s | "
            f"{rest * 1000:.1f} ms | {share:.1%} | {found['background']['write']:.2f} s |"
        )
        if judged and int(size) >= JUDGED:
            reached = "reached" if share <= GOAL else "missed"
            verdicts.append(
                f"\n{size} MB: {share:.1%} beside the copy (goal {GOAL:.0%}: {reached})"
            )
    return "\n".join(lines + verdicts)


if __name__ == "__main__":
    main()
