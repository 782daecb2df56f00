"""Two published recipes in small, over seeds: Train Long, Think Short (2508.08940) and AutoThink (2505.10832).

    python benchmarks/papers_small.py run tlts|autothink [--seeds 1 2 3 4 5] [--runs FOLDER]
    python benchmarks/papers_small.py report
    python benchmarks/papers_small.py --quick

Every arm of a case goes on from one shared cold start and takes equal steps; seeds decide data order and sampling.
Resumable: a run that was cut short goes on, one whose result is in benchmarks/results/papers_small/ is not run again
unless its recipe changed. `report` prints tables and writes docs/tlts_small.png and docs/autothink_small.png. `--quick`
takes two steps a stage of the first and keeps nothing: its numbers mean nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any

from rlcurric.recipe.load import dump, load_recipe
from rlcurric.report.tables import read_run

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "papers_small"
DOCS = HERE.parent / "docs"
COLD_START = "cold_start"
KINDS = ("accuracy", "length", "think_rate")

# Case -> arm -> what it changes of the recipe.
CASES: dict[str, dict[str, list[str]]] = {
    "tlts": {
        "decaying": [],
        "fixed": ["stages.shorten.rewards.length_budget.target=16"],
    },
    "autothink": {
        "autothink": [],
        "no balance": ["stages.balance.rewards.mode_balance.weight=0"],
        "always think": [
            "stages.balance.rewards.mode_balance.weight=0",
            *(
                f"stages.{stage}.rewards.mode_table.{key}={value}"
                for stage in ("balance", "reinforce", "prune")
                for key, value in (("no_think_right", 0), ("no_think_wrong", 0))
            ),
        ],
    },
}
QUICK = [
    "stages.cold_start.until.steps=2",
    "stages.shorten.until.steps=2",
    "evaluation.prompts=4",
    "curriculum.prompts_per_step=2",
    *(f"distributions.sum-{terms}.source.size=300" for terms in (4, 5, 6)),
]
EASY, HARD = ("sum-2", "sum-3"), ("sum-5", "sum-6")  # of autothink_small.yaml

Result = Mapping[str, Any]


def recipe_file(case: str) -> Path:
    return HERE / f"{case}_small.yaml"


def digest(case: str, recipe: Mapping[str, Any]) -> str:
    """What a result is of: the resolved recipe and the tasks that it reads."""
    kept = {k: v for k, v in recipe.items() if k not in ("base_dir", "run", "description")}
    tasks = [HERE / f"{case}_small_tasks.py", HERE.parent / "recipes" / "demo_tasks.py"]
    text = json.dumps([kept, *(file.read_text() for file in tasks)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def run(
    case: str,
    seeds: Sequence[int],
    runs: Path,
    results: Path = RESULTS,
    shortened: Sequence[str] = (),
) -> None:
    """All arms over all seeds, each in a process of its own."""
    start = cold_start(case, runs, shortened)
    for seed in seeds:
        for arm, overrides in CASES[case].items():
            asked = [f"seed={seed}", *overrides, *shortened]
            version = digest(case, dump(load_recipe(recipe_file(case), asked)))
            file = results / f"{case}-{arm.replace(' ', '-')}-{seed}.json"
            if file.exists() and json.loads(file.read_text())["recipe"] == version:
                continue
            folder = runs / f"{case}-{arm.replace(' ', '-')}-{seed}-{version}"
            train(case, asked, folder, start)
            found = {"case": case, "arm": arm, "seed": seed, "recipe": version, **result(folder)}
            results.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(found, indent=1) + "\n")
            print(f"{case}, {arm}, seed {seed}: {found['points'][-1]}", flush=True)


def cold_start(case: str, runs: Path, shortened: Sequence[str] = ()) -> Path:
    """The run whose cold start all arms share."""
    recipe = dump(load_recipe(recipe_file(case), shortened))
    recipe["stages"] = recipe["stages"][:1]
    folder = runs / f"{case}-cold-start-{digest(case, recipe)}"
    file = runs / f"{case}-cold-start.yaml"
    runs.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(recipe))  # JSON is YAML
    subprocess.run([*_rlcurric("train"), str(file), "--run-dir", str(folder)], check=True)
    return folder


def train(case: str, overrides: Sequence[str], folder: Path, start: Path) -> None:
    """Run or resume one arm from the cold start."""
    command = [*_rlcurric("train"), str(recipe_file(case)), *overrides, "--run-dir", str(folder)]
    begun = (folder / "run.json").exists()
    subprocess.run([*command, *([] if begun else ["--from", f"{start}:{COLD_START}"])], check=True)


def _rlcurric(command: str) -> list[str]:
    return [sys.executable, "-m", "rlcurric", command]


def result(folder: Path) -> dict[str, Any]:
    """Held-out accuracy, length and rate of thinking after every evaluation."""
    found = read_run(folder)
    launch = found.info["launches"][-1]
    points = [
        {
            "step": row["step"],
            "stage": row["stage"],
            **{
                kind: {
                    key.rpartition("/")[2]: round(value, 4)
                    for key, value in row.items()
                    if key.startswith(f"eval/{kind}/")
                }
                for kind in KINDS
            },
        }
        for row in found.evaluations()
    ]
    seconds = sum(row["time/step/s"] for row in found.metrics)
    return {
        "points": points,
        "tokens": found.metrics[-1]["tokens/total/sum"],
        "seconds": round(seconds, 1),
        "versions": launch["versions"],
        "date": date.today().isoformat(),
    }


def report(results: Path = RESULTS, plots: Path = DOCS) -> str:
    """Markdown tables of what has been measured; the plots beside the docs."""
    parts = []
    for case, told in (("tlts", tell_tlts), ("autothink", tell_autothink)):
        found = [json.loads(file.read_text()) for file in sorted(results.glob(f"{case}-*.json"))]
        if found:
            parts.append(told(found))
            plot(case, found, plots / f"{case}_small.png")
    return "\n\n".join(parts)


def quick() -> str:
    """One case in small; of the other, that its recipes load."""
    for overrides in CASES["autothink"].values():
        load_recipe(recipe_file("autothink"), overrides)
    with tempfile.TemporaryDirectory() as folder:
        run("tlts", [1], Path(folder) / "runs", Path(folder), QUICK)
        return report(Path(folder), Path(folder))


def tell_tlts(results: Sequence[Result]) -> str:
    """Accuracy and length at the end by seed, and the difference of the arms."""
    lines = [
        "| seed | accuracy, decaying | accuracy, fixed | tokens, decaying | tokens, fixed | "
        "accuracy, fixed, where it wrote as many tokens |",
        "|---|---|---|---|---|---|",
    ]
    gains, ratios, equal = [], [], []
    for seed, arms in _by_seed(results).items():
        ours, other = (arms[arm]["points"][-1] for arm in ("decaying", "fixed"))
        accuracy = [one["accuracy"]["mean"] for one in (ours, other)]
        length = [one["length"]["mean"] for one in (ours, other)]
        gains.append(accuracy[0] - accuracy[1])
        ratios.append(length[0] / length[1])
        there = at_length(arms["fixed"]["points"], length[0])
        equal.append(accuracy[0] - there)
        lines.append(
            f"| {seed} | {accuracy[0]:.3f} | {accuracy[1]:.3f} | {length[0]:.1f} | {length[1]:.1f} | {there:.3f} |"
        )
    return "\n".join(
        [
            *lines,
            "",
            f"Accuracy: {spread(gains, '+.3f')}; tokens, decaying over fixed: {spread(ratios, '.2f')}; "
            f"accuracy at equal tokens: {spread(equal, '+.3f')}.",
        ]
    )


def tell_autothink(results: Sequence[Result]) -> str:
    """Rate of thinking by difficulty, accuracy and tokens at the end of every arm, by seed."""
    lines = [
        "| arm | seed | think rate, easy | think rate, hard | accuracy | tokens | think rate by stage |",
        "|---|---|---|---|---|---|---|",
    ]
    for arm in CASES["autothink"]:
        for seed, arms in _by_seed(results).items():
            points = arms[arm]["points"]
            last = points[-1]
            ends = {point["stage"]: point["think_rate"]["mean"] for point in points}
            lines.append(
                f"| {arm} | {seed} | {over(last['think_rate'], EASY):.2f} | {over(last['think_rate'], HARD):.2f} | "
                f"{last['accuracy']['mean']:.3f} | {last['length']['mean']:.1f} | "
                f"{', '.join(f'{stage} {rate:.2f}' for stage, rate in ends.items())} |"
            )
    return "\n".join(lines)


def _by_seed(results: Sequence[Result]) -> dict[int, dict[str, Result]]:
    """Results by seed and arm, of the seeds that have every arm."""
    found: dict[int, dict[str, Result]] = {}
    for one in results:
        found.setdefault(one["seed"], {})[one["arm"]] = one
    arms = CASES[results[0]["case"]]
    return {seed: found[seed] for seed in sorted(found) if len(found[seed]) == len(arms)}


def at_length(points: Sequence[Mapping[str, Any]], length: float) -> float:
    """Accuracy where a run's completions were that long, between its evaluations; NaN where they never were."""
    found = [(point["length"]["mean"], point["accuracy"]["mean"]) for point in points]
    for (before, left), (after, right) in pairwise(found):
        if min(before, after) <= length <= max(before, after) and before != after:
            return float(left + (right - left) * (length - before) / (after - before))
    return math.nan


def over(values: Mapping[str, float], names: Sequence[str]) -> float:
    return statistics.fmean(values[name] for name in names)


def spread(values: Sequence[float], form: str) -> str:
    """Mean, standard error and range."""
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return f"{statistics.fmean(values):{form}} ± {error:{form.lstrip('+')}} (from {min(values):{form}} to {max(values):{form}})"


def plot(case: str, results: Sequence[Result], file: Path) -> None:
    """A line a run: accuracy and tokens for TLTS, rates of thinking on easy and hard sums for AutoThink."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    sides: dict[str, Callable[[Mapping[str, Any]], float]]
    if case == "tlts":
        sides = {
            "held-out accuracy": lambda point: float(point["accuracy"]["mean"]),
            "tokens a completion": lambda point: float(point["length"]["mean"]),
        }
    else:
        sides = {
            "think rate, easy": lambda point: over(point["think_rate"], EASY),
            "think rate, hard": lambda point: over(point["think_rate"], HARD),
            "held-out accuracy": lambda point: float(point["accuracy"]["mean"]),
        }
    figure, axes = plt.subplots(
        1, len(sides), figsize=(4.2 * len(sides), 3.2), layout="constrained"
    )
    for axis, (label, value) in zip(axes, sides.items(), strict=True):
        for number, arm in enumerate(CASES[case]):
            for place, one in enumerate(one for one in results if one["arm"] == arm):
                axis.plot(
                    [point["step"] - one["points"][0]["step"] for point in one["points"]],
                    [value(point) for point in one["points"]],
                    color=f"C{number}",
                    alpha=0.8,
                    label=arm if place == 0 else None,
                )
        axis.set(xlabel="steps since the first evaluation", ylabel=label)
        if label.startswith("think rate"):
            axis.set_ylim(-0.04, 1.04)
    axes[0].legend(fontsize=8)
    figure.savefig(file, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    commands = parser.add_subparsers(dest="command")
    runner = commands.add_parser("run")
    runner.add_argument("case", choices=list(CASES))
    runner.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    runner.add_argument("--runs", type=Path, default=Path("runs"))
    commands.add_parser("report")
    options = parser.parse_args()
    if options.quick:
        print(quick())
    elif options.command == "run":
        run(options.case, options.seeds, options.runs)
    elif options.command == "report":
        print(report())
    else:
        parser.error("run, report or --quick is required")


if __name__ == "__main__":
    main()
