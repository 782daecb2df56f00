"""What a decision costs against the size of the pool, and what a million visited prompts take of memory.

    python benchmarks/scale.py [--visited 1000000] [--quick]

A pool of 10 million prompts (rows are made from their index, so the pool itself takes no memory), a curriculum with a
bandit, a posterior over prompts, a gate that retires solved ones and a pool filter; 64 prompts a step from 16 times as
many candidates. Prompts are visited by asking for them, with made-up verdicts. Then: the time of a decision (drawing
candidates, scores, choice) and of learning from its outcomes, the memory of the process, and the state saved, loaded and
compared. And the decision's time on pools of 1e3 to 1e7 prompts. Writes benchmarks/results/scale.json.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from rlcurric import seeds
from rlcurric.curriculum.composition import Composition, ControllerSettings
from rlcurric.curriculum.controller import Controller
from rlcurric.curriculum.gates import Retire, ZeroVariance
from rlcurric.curriculum.samplers import Ucb
from rlcurric.curriculum.scorers import Mopps
from rlcurric.curriculum.state import as_json, join_arrays, split_arrays
from rlcurric.schedules import Progress
from rlcurric.types import Candidate, Delivery, Prompt, Request, SampleOutcome, Status

RESULTS = Path(__file__).parent / "results" / "scale.json"
NAMES = [f"d{k}" for k in range(10)]
GOAL_MS, GOAL_GIB = 50.0, 1.0


@dataclass(frozen=True)
class MadePool:
    """Prompts made from their index."""

    sizes: Mapping[str, int]

    def candidate(self, distribution: str, index: int) -> Candidate:
        return Candidate(seeds.hash64(distribution, index), distribution, index, {})

    def prompt(
        self, distribution: str, index: int, progress: Progress | None = None, hint: int = 0
    ) -> Prompt:
        return Prompt(seeds.hash64(distribution, index), distribution, (1,), "", {})


def controller_of(size: int, prompts: int) -> Controller:
    pool = MadePool(dict.fromkeys(NAMES, size // len(NAMES)))
    parts = Composition(
        Ucb(dict.fromkeys(NAMES, 1.0)), Mopps(ratio=16), (ZeroVariance(), Retire()), ()
    )
    return Controller(pool, parts, ControllerSettings(prompts, 8, refill_rounds=0), 0, "scale")


def deliver(requests: list[Request]) -> list[Delivery]:
    """Verdicts by the sample's seed, at a rate that belongs to the prompt."""
    made = []
    for request in requests:
        rate = request.prompt.uid / 2**64
        samples = []
        for number in request.samples:
            right = float(seeds.sample_seed(request.seed_key, number) / 2**63 < rate)
            samples.append(SampleOutcome(number, right, right, Status.SCORED, 9, False, 0))
        made.append(Delivery(request.group_id, request.prompt.distribution, tuple(samples)))
    return made


def step(controller: Controller, number: int) -> tuple[float, float]:
    """Seconds of the decision, and of learning from it."""
    controller.begin(number, Progress(number, number, 10**6))
    started = time.perf_counter()
    requests = controller.requests()
    decided = time.perf_counter() - started
    answers = deliver(requests)
    started = time.perf_counter()
    controller.deliver(answers)
    controller.take()
    return decided, time.perf_counter() - started


def median_ms(controller: Controller, first: int, steps: int) -> tuple[float, float]:
    """Medians over `steps` steps after one to warm up, in milliseconds."""
    timed = [step(controller, first + k) for k in range(steps + 1)][1:]
    decided, learned = (statistics.median(column) * 1000 for column in zip(*timed, strict=True))
    return decided, learned


def visit(controller: Controller, visited: int) -> int:
    """Ask for prompts in large steps until so many were visited; the steps it took."""
    number = 0
    while len(controller._ledger.visits) < visited:
        step(controller, number)
        number += 1
        if number % 20 == 0:
            print(f"\r{len(controller._ledger.visits):,} visited", end="", file=sys.stderr)
    print(file=sys.stderr)
    return number


def resident_gib() -> float:
    """The largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def save_and_restore(controller: Controller, size: int) -> dict[str, Any]:
    """The state through files into a fresh controller: seconds, size, and whether both decide the same next."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        plain, arrays = split_arrays(controller.state_dict())
        file = Path(folder) / "state.npz"
        np.savez(file, allow_pickle=False, **arrays)
        (Path(folder) / "state.json").write_text(json.dumps(plain))
        saved = time.perf_counter() - started
        megabytes = sum(one.stat().st_size for one in Path(folder).iterdir()) / 1e6
        again = controller_of(size, controller._settings.prompts_per_step)
        started = time.perf_counter()
        with np.load(file, allow_pickle=False) as loaded:
            state = join_arrays(json.loads((Path(folder) / "state.json").read_text()), loaded)
        again.load_state_dict(state)
        restored = time.perf_counter() - started
    number = 10**6
    for one in (controller, again):
        step(one, number)
    same = controller.decisions() == again.decisions()
    equal = as_json(controller.state_dict()) == as_json(again.state_dict())
    return {
        "save_s": round(saved, 3),
        "restore_s": round(restored, 3),
        "state_mb": round(megabytes, 1),
        "restored_decides_the_same": same and equal,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--visited", type=int, default=1_000_000)
    parser.add_argument("--steps", type=int, default=30, help="timed steps of each measurement")
    parser.add_argument("--quick", action="store_true", help="20,000 visits, pools to 1e5")
    options = parser.parse_args()
    sizes = [10**k for k in ((3, 4, 5) if options.quick else (3, 4, 5, 6, 7))]
    visited = 20_000 if options.quick else options.visited
    by_size = {}
    for size in sizes:
        decided, learned = median_ms(controller_of(size, 64), 0, options.steps)
        by_size[str(size)] = {"decision_ms": round(decided, 2), "learning_ms": round(learned, 2)}
        print(f"pool {size:>10,}: decision {decided:.1f} ms, learning {learned:.1f} ms")
    empty = resident_gib()
    controller = controller_of(sizes[-1], 2048)
    number = visit(controller, visited)
    many = controller._settings
    controller._settings = ControllerSettings(64, many.group_size, refill_rounds=0)
    decided, learned = median_ms(controller, number, options.steps)
    found = {
        "date": date.today().isoformat(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "machine": platform.machine(),
        "pool": sizes[-1],
        "visited": len(controller._ledger.visits),
        "decision_ms": round(decided, 2),
        "learning_ms": round(learned, 2),
        "resident_gib_before": round(empty, 3),
        "resident_gib": round(resident_gib(), 3),
        **save_and_restore(controller, sizes[-1]),
        "by_pool_size": by_size,
    }
    print(json.dumps(found, indent=1))
    print(
        f"decision {decided:.1f} ms (goal {GOAL_MS:.0f}), {found['resident_gib']} GiB (goal below {GOAL_GIB:.0f})"
    )
    if not options.quick:
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
