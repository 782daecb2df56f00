"""Time and memory of `rlcurric report` on a large run, and the size of its page.

    python benchmarks/report.py [--steps 1000] [--quick]

The run is made up (`made_runs.py`): 1,000 steps of 13 groups of 8 rollouts from eight distributions, every rollout logged,
its completion of 1,000 characters. To be quick it is 40 copies of 25 steps, every fourth with other prompts. The command
runs in a process of its own, as a user calls it. Writes benchmarks/results/report.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # for benchmarks.made_runs

from benchmarks.made_runs import Made, recipe_of, write_run  # noqa: E402
from rlcurric.recipe.load import dump_yaml  # noqa: E402
from rlcurric.train.rundir import read_jsonl  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "report.json"
GOAL_MB, GOAL_GB = 15.0, 2.0
BLOCK = 25  # steps that are simulated; the others are their copies
SAME = 4  # copies that share their prompts


def long_text(step: int, distribution: str, tokens: int) -> str:
    """About 1,000 characters."""
    return (
        f"step {step} of {distribution}: " + "1 + 2 = 3, so the next one is 4. " * 30 + str(tokens)
    )


def enlarge(run: Path, made: Made, times: int) -> None:
    """Append copies of the RL steps until there are `times` as many."""
    whole = replace(made, steps=made.steps * times)
    (run / "recipe.yaml").write_text(dump_yaml(recipe_of(whole)))
    for name in ("metrics.jsonl", "decisions.jsonl"):
        rows = [row for row in read_jsonl(run / name) if row["step"] > made.warm]
        with (run / name).open("a") as file:
            for copy in range(1, times):
                for row in rows:
                    for group in row.get("groups", ()):
                        group["uid"] = other(group["uid"], copy)
                    file.write(json.dumps({**row, "step": row["step"] + copy * made.steps}) + "\n")
    for source in sorted((run / "rollouts").glob("*.parquet")):
        table = pq.read_table(source)
        step, uids = table.column("step")[0].as_py(), table.column("uid").to_pylist()
        for copy in range(1, times):
            at = step + copy * made.steps
            uids = [other(uid, copy) for uid in uids]
            moved = table.set_column(0, "step", pa.array([at] * len(uids)))
            moved = moved.set_column(moved.column_names.index("uid"), "uid", pa.array(uids))
            pq.write_table(moved, source.with_name(f"step-{at:06d}.parquet"))


def other(uid: str, copy: int) -> str:
    """Another prompt every fourth copy, else the same."""
    return uid if copy % SAME else f"{int(uid, 16) * 0x9E3779B97F4A7C15 % 2**64:016x}"


def measure(run: Path, page: Path) -> dict[str, Any]:
    """The command on a run: seconds, processor seconds, largest resident memory, size of the page."""
    command = [sys.executable, "-m", "rlcurric", "report", str(run), "--output", str(page)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    subprocess.run(command, env=environment, check=True)
    seconds = time.perf_counter() - started
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
    return {
        "seconds": round(seconds, 1),
        "processor_seconds": round(processor, 1),
        "resident_gb": round(used.ru_maxrss * 1024 / 1e9, 3),
        "page_mb": round(page.stat().st_size / 1e6, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--quick", action="store_true", help="50 steps, nothing is written")
    options = parser.parse_args()
    made = Made(steps=BLOCK, groups=13, group_size=8, distributions=8, prompts=2000, evaluate=20)
    times = 2 if options.quick else max(1, options.steps // BLOCK)
    with tempfile.TemporaryDirectory() as folder:
        run = write_run(Path(folder) / "run", made, long_text)
        enlarge(run, made, times)
        files = [file for file in run.rglob("*") if file.is_file()]
        found = {
            "steps": made.warm + made.steps * times,
            "rollouts": made.steps * times * made.groups * made.group_size,
            "run_mb": round(sum(file.stat().st_size for file in files) / 1e6, 1),
            "files": len(files),
            **measure(run, Path(folder) / "report.html"),
        }
    print("| steps | rollouts | run, MB | seconds | of the processor | memory, GB | page, MB |")
    print("|---|---|---|---|---|---|---|")
    print(
        f"| {found['steps']:,} | {found['rollouts']:,} | {found['run_mb']} | {found['seconds']} | "
        f"{found['processor_seconds']} | {found['resident_gb']} | {found['page_mb']} |"
    )
    if not options.quick:
        about = {"date": str(date.today()), "python": platform.python_version()}
        about |= {name: version(name) for name in ("plotly", "pyarrow", "numpy")}
        RESULTS.write_text(json.dumps({**about, "cpus": os.cpu_count(), **found}, indent=1) + "\n")
        assert found["page_mb"] < GOAL_MB and found["resident_gb"] < GOAL_GB, found


if __name__ == "__main__":
    main()
