"""The demo over several seeds: what RL adds to the cold start on held-out prompts.

    python benchmarks/demo_seeds.py [--seeds 0 1 2] [--runs FOLDER] [key=value ...]

Resumable: a run that was cut short goes on, a seed whose result is in benchmarks/results/demo_seeds/ is not run again unless the recipe changed.
Each result is one small JSON; the table is made from all of them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from rlcurric.report.tables import read_run

RESULTS = Path(__file__).parent / "results" / "demo_seeds"
RECIPE = Path(__file__).parent.parent / "recipes" / "demo.yaml"
GOAL_MEAN, GOAL_WEAKEST = 0.12, 0.20  # gains in accuracy; no seed below half of them


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("overrides", nargs="*", help="changes to the recipe")
    options = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    version = digest(options.overrides)
    for seed in options.seeds:
        file = RESULTS / f"seed-{seed}.json"
        if not (file.exists() and json.loads(file.read_text())["recipe"] == version):
            run_dir = options.runs / f"demo-{version}-seed-{seed}"
            train(seed, run_dir, options.overrides)
            found = {"recipe": version, **result(run_dir, seed, options.overrides)}
            file.write_text(json.dumps(found, indent=1) + "\n")
    results = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("seed-*.json"))]
    print(table([one for one in results if one["recipe"] == version]))


def digest(overrides: list[str]) -> str:
    """What the results are of: the recipe, its data builder and the overrides."""
    text = [RECIPE.read_text(), RECIPE.with_name("demo_tasks.py").read_text(), *overrides]
    return hashlib.sha256(json.dumps(text).encode()).hexdigest()[:8]


def train(seed: int, run_dir: Path, overrides: list[str]) -> None:
    """Run or resume one seed in a process of its own."""
    command = [sys.executable, "-m", "rlcurric", "train", str(RECIPE), f"seed={seed}", *overrides]
    subprocess.run([*command, "--run-dir", str(run_dir)], check=True)


def result(run_dir: Path, seed: int, overrides: list[str]) -> dict[str, Any]:
    """Held-out accuracy, greedy and sampled, after the cold start and after RL."""
    run = read_run(run_dir)
    cold, final = run.evaluations()[0], run.evaluations()[-1]
    names = list(run.recipe.distributions)
    launch = run.info["launches"][-1]
    return {
        "seed": seed,
        "overrides": overrides,
        "engine": run.recipe.stages[0].rollout.engine,
        "versions": launch["versions"],
        "cpus": os.cpu_count(),
        "machine": platform.machine(),
        "seconds": round(sum(row["time/step/s"] for row in run.metrics), 1),
        "rl_tokens": run.metrics[-1]["tokens/total/sum"],
        "max_parity": max(row.get("parity/logprob/max_abs", 0.0) for row in run.metrics),
        "cold_start_samples": {name: cold[f"eval/pass_rate/{name}"] for name in names},
        "before": {name: cold[f"eval/accuracy/{name}"] for name in names},
        "after": {name: final[f"eval/accuracy/{name}"] for name in names},
        "length_before": {name: cold[f"eval/length/{name}"] for name in names},
        "length_after": {name: final[f"eval/length/{name}"] for name in names},
    }


def mean(values: dict[str, float]) -> float:
    return sum(values.values()) / len(values)


def weakest(result: dict[str, Any]) -> str | None:
    """The distribution that the cold start solves least often, among those it solves in 5 to 30 % of samples."""
    samples = result["cold_start_samples"]
    frontier = [name for name, rate in samples.items() if 0.05 <= rate <= 0.30]
    return min(frontier, key=lambda name: samples[name]) if frontier else None


def table(results: list[dict[str, Any]]) -> str:
    """Markdown: a row a seed, then the means against the goals."""
    lines = [
        "| seed | mean before | mean after | gain | weakest (samples) | before | after | gain | seconds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    gains, weak_gains = [], []
    for one in results:
        gain = mean(one["after"]) - mean(one["before"])
        gains.append(gain)
        name = weakest(one)
        row = f"| {one['seed']} | {mean(one['before']):.3f} | {mean(one['after']):.3f} | {gain:+.3f} | "
        if name is None:
            row += "none | - | - | - "
        else:
            weak_gains.append(one["after"][name] - one["before"][name])
            row += f"{name} ({one['cold_start_samples'][name]:.2f}) | {one['before'][name]:.3f} | "
            row += f"{one['after'][name]:.3f} | {weak_gains[-1]:+.3f} "
        lines.append(row + f"| {one['seconds']:.0f} |")
    lines.append("")
    for label, values, goal in (("mean", gains, GOAL_MEAN), ("weakest", weak_gains, GOAL_WEAKEST)):
        average = sum(values) / len(values) if values else float("nan")
        reached = len(values) == len(results) and average >= goal and min(values) >= goal / 2
        verdict = "reached" if reached else "missed"
        lines.append(
            f"gain of the {label}: {average:+.3f} (goal {goal:+.2f} and no seed below half of it: {verdict})"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
