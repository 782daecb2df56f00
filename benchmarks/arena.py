"""Curricula compared at equal generated tokens: one pool, one cold start, one budget, several seeds a method.

    python benchmarks/arena.py run [--methods NAME ...] [--seeds 0 1 ...] [--runs FOLDER]
    python benchmarks/arena.py report
    python benchmarks/arena.py --quick

benchmarks/arena.yaml is the pool and the base recipe, benchmarks/arena_methods.yaml what each method changes of it. The
cold start is made once and kept under a digest of what it depends on; every run begins from its weights, so that a seed
decides the order of the prompts and the sampling alone. A run stops at its first evaluation beyond the budget of
generated tokens, gated and down-sampled ones counted, and curves are read off at the budget between two evaluations.

`run` is resumable: a run that was cut short goes on, one whose result lies in benchmarks/results/arena/ is left alone
unless the recipe, the data, the budget or the method changed. Compute is CPU time of the training process, rollouts
and updates, without evaluations and without the workers that grade: other work on the machine does not change it much.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks import arena_report
from rlcurric.recipe.load import dump, load_recipe, parse_yaml
from rlcurric.recipe.schema import Recipe
from rlcurric.report.tables import RunTables, read_run

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "arena"
COMPUTE = "compute.jsonl"  # in a run directory: CPU and wall seconds of every step
QUICK = (
    "stages.cold_start.until.steps=6",
    "stages.cold_start.optim.warmup_steps=1",
    "stages.arena.evaluation.every=1",
    "stages.arena.curriculum.prompts_per_step=4",
    "rollout.max_new_tokens=8",
    "evaluation.prompts=2",
)


@dataclass(frozen=True)
class Arena:
    """The spec of all runs: `benchmarks/arena_methods.yaml` over `benchmarks/arena.yaml`."""

    budget: int  # generated tokens
    rows: int  # training prompts a distribution has in RL; the cold start has them all
    methods: Mapping[str, Sequence[str]]  # name -> overrides of the recipe
    seeds: Mapping[str, int]  # name -> number of seeds
    quick: tuple[str, ...] = ()  # overrides of the quick form

    def cold_start(self) -> dict[str, Any]:
        """The recipe of the cold start alone."""
        return only_stages(load_recipe(HERE / "arena.yaml", self.quick), "sft")

    def recipe(self, method: str, seed: int, start: Path) -> dict[str, Any]:
        """The recipe of one run, from the weights in the folder `start`."""
        names = load_recipe(HERE / "arena.yaml").distributions
        pool = [f"distributions.{name}.max_rows={self.rows}" for name in names]
        changes = [*self.quick, *pool, f"seed={seed}", f"stages.arena.init={start}"]
        changes += self.methods[method]
        return only_stages(load_recipe(HERE / "arena.yaml", changes), "rl")

    def cold_start_digest(self) -> str:
        """What the cold start depends on. The stages of RL are no part of it."""
        raw = _raw_recipe()
        raw["stages"] = [stage for stage in raw["stages"] if stage["kind"] == "sft"]
        return digest(raw, _data_text(), self.quick)

    def digest(self, method: str) -> str:
        """What the results of a method depend on: other methods may come and go."""
        settings = [self.budget, self.rows, list(self.methods[method])]
        return digest(_raw_recipe(), _data_text(), self.quick, settings)


def read_arena(file: Path) -> Arena:
    """The spec from its file. A method is a list of overrides, or a mapping of `seeds` and `overrides`."""
    raw = parse_yaml(file.read_text(encoding="utf-8"), str(file))
    methods: dict[str, dict[str, Any]] = {
        name: {
            "seeds": raw["seeds"],
            **(entry if isinstance(entry, dict) else {"overrides": entry}),
        }
        for name, entry in raw["methods"].items()
    }
    return Arena(
        raw["tokens"],
        raw["rows"],
        {name: tuple(entry["overrides"]) for name, entry in methods.items()},
        {name: entry["seeds"] for name, entry in methods.items()},
    )


def only_stages(recipe: Recipe, kind: str) -> dict[str, Any]:
    """The recipe without its stages of other kinds. Every distribution stays: what one holds out, none trains on."""
    whole = dump(recipe)
    return {**whole, "stages": [stage for stage in whole["stages"] if stage["kind"] == kind]}


def digest(*parts: Any) -> str:
    """Eight hex digits of plain data, the same whatever the order of its keys."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:8]


def _raw_recipe() -> dict[str, Any]:
    """The recipe file without what changes no result."""
    text = (HERE / "arena.yaml").read_text(encoding="utf-8")
    raw = parse_yaml(text, "arena.yaml")
    return {key: value for key, value in raw.items() if key not in ("name", "description", "run")}


def _data_text() -> str:
    return (HERE / "arena_tasks.py").read_text(encoding="utf-8")


# --- runs ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Start:
    """What every run begins from."""

    model: Path  # folder
    evaluation: Mapping[str, float]  # on the pool's held-out prompts, greedy and sampled


def run(arena: Arena, jobs: Sequence[tuple[str, int]], runs: Path, results: Path) -> None:
    """Make every result that is missing, one process at a time."""
    results.mkdir(parents=True, exist_ok=True)
    start = make_start(arena, runs)
    for method, seed in jobs:
        file = results / f"{method}-seed-{seed}.json"
        version = arena.digest(method)
        if file.exists() and json.loads(file.read_text())["digest"] == version:
            continue
        print(f"{method}, seed {seed} ...", flush=True)
        run_dir = runs / f"arena-{method}-{version}-seed-{seed}"
        if not passed(run_dir, arena.budget):
            in_process(arena.recipe(method, seed, start.model), run_dir, arena.budget)
        found: dict[str, Any] = {"method": method, "seed": seed, "digest": version}
        found |= result(read_run(run_dir), start, arena.budget)
        file.write_text(json.dumps(found, indent=1) + "\n")
        curve = found["curve"]
        print(f"  {curve[0]['mean']:.3f} to {curve[-1]['mean']:.3f}, {found['cpu_s']:.0f} s of CPU")


def make_start(arena: Arena, runs: Path) -> Start:
    """The cold start and its evaluation, made if they are not there."""
    run_dir = runs / f"arena-cold-{arena.cold_start_digest()}"
    recipe = arena.cold_start()
    steps = recipe["stages"][0]["until"]["steps"]
    if not (run_dir.exists() and len(read_run(run_dir).metrics) == steps):
        print("cold start ...", flush=True)
        in_process(recipe, run_dir, None)
    model = max((run_dir / "checkpoints").glob("step-*")).resolve() / "model"
    file = run_dir / f"evaluation-{arena.digest('uniform')}.json"
    if not file.exists():
        evaluated = load_recipe(arena.recipe("uniform", 0, model), ["evaluation.samples=4"])
        with recipe_file(dump(evaluated)) as path:
            command = [sys.executable, "-m", "rlcurric", "eval", str(path)]
            command += ["--checkpoint", str(model), "--output", str(file)]
            subprocess.run(command, check=True, env=environment(recipe), stdout=subprocess.DEVNULL)
    return Start(model, json.loads(file.read_text()))


def passed(run_dir: Path, budget: int) -> bool:
    """Whether a run has an evaluation at or beyond the budget."""
    if not (run_dir / "recipe.yaml").exists():
        return False
    return any(row["tokens/total/sum"] >= budget for row in read_run(run_dir).evaluations())


def in_process(recipe: Mapping[str, Any], run_dir: Path, budget: int | None) -> None:
    """Run or resume one recipe in a process of its own."""
    with recipe_file(recipe) as path:
        command = [sys.executable, __file__, "one", str(path), str(run_dir.resolve())]
        if budget is not None:
            command += ["--tokens", str(budget)]
        subprocess.run(command, check=True, env=environment(recipe))


@contextmanager
def recipe_file(recipe: Mapping[str, Any]) -> Iterator[Path]:
    """A file with the recipe, for as long as a process needs it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.yaml"
        path.write_text(json.dumps(recipe), encoding="utf-8")  # JSON is YAML
        yield path


def environment(recipe: Mapping[str, Any]) -> dict[str, str]:
    """Of a child: this checkout's package, and as many threads as the recipe names."""
    threads = str(recipe["run"]["threads"] or os.cpu_count())
    path = os.pathsep.join(filter(None, (str(HERE.parent), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "OMP_NUM_THREADS": threads, "PYTHONPATH": path}


class Watch:
    """Hears of every step: notes its seconds, and asks for a stop once an evaluation lies beyond the budget."""

    def __init__(self, run_dir: Path, budget: int | None) -> None:
        self._run_dir, self._budget = run_dir, budget
        self._evaluation_began: tuple[float, float] | None = None
        self._last = _clocks()

    def message(self, text: str) -> None: ...

    def stage(
        self, name: str, kind: str, number: int, of: int, steps: int | None, done: int
    ) -> None:
        self._last = _clocks()

    def event(self, row: Mapping[str, Any]) -> None: ...

    def phase(self, name: str) -> None:
        if name == "evaluate":
            self._evaluation_began = _clocks()

    def step(self, row: Mapping[str, Any]) -> None:
        now = _clocks()
        trained = self._evaluation_began or now
        line = {
            "step": row["step"],
            "cpu_s": trained[0] - self._last[0],
            "wall_s": trained[1] - self._last[1],
            "evaluation_cpu_s": now[0] - trained[0],
        }
        with (self._run_dir / COMPUTE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self._last, self._evaluation_began = now, None
        spent = row.get("tokens/total/sum", 0)
        if self._budget is not None and "eval/accuracy/mean" in row and spent >= self._budget:
            (self._run_dir / "stop").touch()


def _clocks() -> tuple[float, float]:
    return time.process_time(), time.perf_counter()


def one(recipe: Path, run_dir: Path, budget: int | None) -> None:
    """What the process of a run does."""
    import rlcurric

    done = rlcurric.train(recipe, run_dir, reporter=Watch(run_dir, budget))
    if budget is not None and not passed(run_dir, budget):
        sys.exit(
            f"{run_dir} is {done.status} after step {done.step}, before {budget} generated tokens: start it again if it "
            "was stopped, else raise stages.arena.until.steps in benchmarks/arena.yaml"
        )


def result(run: RunTables, start: Start, budget: int) -> dict[str, Any]:
    """What is kept of a run: its curve over tokens, what it sampled, what it ran on."""
    seconds = compute(run.path / COMPUTE)
    curve = [point(start.evaluation, 0, 0.0, 0.0)]
    for row in run.evaluations():
        until = [line for step, line in seconds.items() if step <= row["step"]]
        cpu, wall = (sum(line[key] for line in until) for key in ("cpu_s", "wall_s"))
        curve.append(point(row, row["tokens/total/sum"], cpu, wall))
    launch = run.info["launches"][-1]
    informative = [value for _, value in zip(*run.series("curriculum/informative"), strict=True)]
    return {
        "date": date.today().isoformat(),
        "budget": budget,
        "start": hashlib.sha256((start.model / "model.safetensors").read_bytes()).hexdigest()[:8],
        "start_pass_rates": {
            key.removeprefix("eval/pass_rate/"): round(value, 4)
            for key, value in start.evaluation.items()
            if key.startswith("eval/pass_rate/")
        },
        "versions": launch["versions"],
        "machine": f"{platform.machine()}, {launch['cpus']} cores, {launch['threads']} threads",
        "steps": run.metrics[-1]["step"],
        "cpu_s": round(curve[-1]["cpu_s"], 1),
        "evaluation_cpu_s": round(sum(line["evaluation_cpu_s"] for line in seconds.values()), 1),
        "informative": round(sum(informative) / len(informative), 4),
        "sampled": sampled(run.decisions),
        "curve": curve,
    }


def compute(file: Path) -> dict[int, dict[str, float]]:
    """Seconds by step. A step that was repeated after a resume counts as it was the last time."""
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return {line["step"]: line for line in lines}


def point(row: Mapping[str, Any], tokens: int, cpu_s: float, wall_s: float) -> dict[str, Any]:
    """One evaluation."""
    prefix = "eval/accuracy/"
    accuracy = {
        key.removeprefix(prefix): round(value, 4)
        for key, value in row.items()
        if key.startswith(prefix)
    }
    mean = accuracy.pop("mean")
    times = {"cpu_s": round(cpu_s, 2), "wall_s": round(wall_s, 2)}
    return {"tokens": tokens, **times, "mean": mean, "accuracy": accuracy}


def sampled(decisions: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Share of the groups by distribution, of all that ended, trained or not."""
    ended = Counter(
        group["distribution"]
        for line in decisions
        if line["kind"] == "outcomes"
        for group in line["groups"]
    )
    return {name: round(count / ended.total(), 4) for name, count in sorted(ended.items())}


# --- command line -------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="two tiny runs and their table")
    verbs = parser.add_subparsers(dest="verb")
    make = verbs.add_parser("run", help="make the results that are missing")
    make.add_argument("--methods", nargs="+")
    make.add_argument("--seeds", type=int, nargs="+", help="default: 0 to the method's number")
    make.add_argument("--runs", type=Path, default=Path("runs"))
    show = verbs.add_parser("report", help="table and plot of the results there are")
    show.add_argument("--plot", type=Path, default=HERE.parent / "docs" / "arena.png")
    single = verbs.add_parser("one")  # what `run` starts
    single.add_argument("recipe", type=Path)
    single.add_argument("run_dir", type=Path)
    single.add_argument("--tokens", type=int)
    options = parser.parse_args()
    arena = read_arena(HERE / "arena_methods.yaml")
    if options.quick:
        quick(arena)
    elif options.verb == "run":
        run(arena, jobs_of(arena, options.methods, options.seeds), options.runs, RESULTS)
    elif options.verb == "report":
        print(arena_report.report(current(arena, RESULTS), arena.budget, options.plot))
    elif options.verb == "one":
        one(options.recipe, options.run_dir, options.tokens)
    else:
        parser.error("run, report or --quick is required")


def jobs_of(
    arena: Arena, methods: Sequence[str] | None, seeds: Sequence[int] | None
) -> list[tuple[str, int]]:
    """Methods and seeds, seed by seed, so that an early stop leaves all methods alike."""
    for name in methods or ():
        if name not in arena.methods:
            sys.exit(f"Unknown method {name!r}. Known: {', '.join(arena.methods)}")
    names = list(methods or arena.methods)
    wanted = {name: list(seeds or range(arena.seeds[name])) for name in names}
    every = sorted({seed for some in wanted.values() for seed in some})
    return [(name, seed) for seed in every for name in names if seed in wanted[name]]


def current(arena: Arena, results: Path) -> list[dict[str, Any]]:
    """Results of the spec as it stands; others are told of and left out."""
    found = []
    for file in sorted(results.glob("*-seed-*.json")):
        one = json.loads(file.read_text(encoding="utf-8"))
        known = one["method"] in arena.methods
        if known and one["digest"] == arena.digest(one["method"]):
            found.append(one)
        else:
            print(f"{file.name} is of another state of the spec", file=sys.stderr)
    return found


def quick(arena: Arena) -> None:
    """Two methods, a few steps each: that everything runs, and no more."""
    names = load_recipe(HERE / "arena.yaml").distributions
    few = (f"distributions.{name}.source.size=200" for name in names)
    small = Arena(300, 8, arena.methods, arena.seeds, (*QUICK, *few))
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results"
        jobs = [("uniform", 0), ("dump", 0)]
        run(small, jobs, Path(folder) / "runs", results)
        print(arena_report.report(current(small, results), small.budget, Path(folder) / "a.png"))


if __name__ == "__main__":
    main()
