"""Jobs killed at random moments, in every phase, until they are done; each must end like one that nothing disturbed.

    python benchmarks/chaos.py [--seed 0] [--one-rank 35] [--two-ranks 15] [--vllm 5] [--a-run 7] [--folder FOLDER]
    python benchmarks/chaos.py --quick

The driver and its checks are those of tests/chaos: a run of two RL stages as a real job (`rlcurric train`, or
`rlcurric launch` with cpu_2_ranks and with cpu_2_ranks_fsdp2), a kill at a random moment of the phase that was struck least
often so far, the same command again, `--a-run` times and then in peace. SIGKILL of one rank, of all processes, of the
launcher, of a reward worker while it judges; SIGTERM to the process, to the launcher, to one rank; the stop file; the
engine's death. The engine is the torch engine, and for `--vllm` kills of one rank a vLLM, whose core is shut down under it.

Resumable: a run that was done under the same seed and with the same settings is not repeated. A run that breaks a
promise is told, its folder is kept, and the others go on; it is repeated the next time. Results lie in
benchmarks/results/chaos.json. Moments are drawn from the seed; what a moment then hits depends on the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from datetime import date
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # the driver is with the tests

from tests.chaos.driver import Campaign, table  # noqa: E402
from tests.chaos.jobs import Broken  # noqa: E402
from tests.chaos.plan import ENDS, PHASES  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "chaos.json"
ONE_RANK, VLLM = "one rank", "one rank with vLLM"
TWO_RANKS = ("cpu_2_ranks", "cpu_2_ranks_fsdp2")
GOAL = 50  # kills in all


def main() -> None:
    options = parsed()
    known: dict[str, Any] = {}
    if options.output and options.output.exists() and not options.again:
        known = json.loads(options.output.read_text())
    settings = {"seed": options.seed, "a_run": options.a_run}
    cases = known.get("cases", {}) if known.get("settings") == settings else {}
    folder = options.folder or Path(tempfile.mkdtemp(prefix="rlcurric-chaos-"))
    broken = 0
    for case, kills in wanted(options).items():
        runs = cases.setdefault(case, [])
        campaign = Campaign(
            folder / case.replace(" ", "-"),
            options.seed,
            case if case in TWO_RANKS else None,
            lambda text: print(text, flush=True),
            ("rollout.engine=vllm", "rollout.vllm.max_num_seqs=16") if case == VLLM else (),
            [kill for run in runs for kill in run["kills"]],
        )
        for number in range(1, 4 * kills):
            done = sum(len(run["kills"]) for run in runs)
            if done >= kills:
                break
            if number in [run["number"] for run in runs]:
                continue
            try:
                runs.append(one_run(campaign, number, min(options.a_run, kills - done)))
            except (Broken, AssertionError) as error:
                broken += 1
                print(f"{case}, run {number}: {error}", flush=True)
                if broken == options.give_up:
                    raise SystemExit(f"{broken} runs broke a promise: {folder}") from None
            if options.output:
                text = json.dumps({**about(), "settings": settings, "cases": cases}, indent=1)
                options.output.write_text(text + "\n")
    print(report(cases, broken))
    raise SystemExit(1 if broken else 0)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--seed", type=int, default=0)
    add("--one-rank", type=int, default=35, help="kills of a job of one rank")
    add("--two-ranks", type=int, default=15, help="kills of jobs of two ranks")
    add("--vllm", type=int, default=5, help="kills of a job of one rank with vLLM")
    add("--a-run", type=int, default=7, help="kills before a run may end in peace")
    add("--give-up", type=int, default=3, help="after so many runs that broke a promise")
    add("--folder", type=Path, help="where jobs run; default: a temporary folder")
    add("--again", action="store_true", help="repeat runs that have results")
    add("--quick", action="store_true", help="two kills of one rank; writes no result")
    add("--output", type=Path, help=f"default: {RESULTS.relative_to(ROOT)}")
    options = parser.parse_args()
    if options.quick:
        options.one_rank, options.two_ranks, options.vllm = 2, 0, 0
    options.output = options.output or (None if options.quick else RESULTS)
    return options


def wanted(options: argparse.Namespace) -> dict[str, int]:
    """Kills for each case."""
    half = -(-options.two_ranks // len(TWO_RANKS))
    shares = {ONE_RANK: options.one_rank, TWO_RANKS[0]: half}
    shares[TWO_RANKS[1]] = options.two_ranks - half
    if find_spec("vllm") is not None:
        shares[VLLM] = options.vllm
    return {case: kills for case, kills in shares.items() if kills}


def one_run(campaign: Campaign, number: int, kills: int) -> dict[str, Any]:
    if campaign.lengths is None:
        campaign.prepare()
    launches, ends = campaign.launches, len(campaign.lost_steps)
    first = []
    if campaign.overrides:  # of vLLM it is its own death that counts
        first = [[campaign.survived("engine"), campaign.strike("rank", "update", 2)]]
    found = campaign.run(number, first, kills)
    return {
        "number": number,
        "launches": campaign.launches - launches,
        "lost_steps": campaign.lost_steps[ends:],
        "kills": found,
    }


def about() -> dict[str, Any]:
    return {
        "date": date.today().isoformat(),
        "versions": {name: version(name) for name in ("torch", "transformers", "accelerate")},
        "cpus": os.cpu_count(),
        "machine": platform.machine(),
    }


def report(cases: dict[str, list[dict[str, Any]]], broken: int) -> str:
    """Markdown: kills by phase and kind for each case, then what became of the runs."""
    lines: list[str] = []
    for case, runs in cases.items():
        kills = kills_of(runs)
        lost = Counter(steps for run in runs for steps in run["lost_steps"])
        launches = sum(run["launches"] for run in runs)
        spread = ", ".join(f"{steps}: {count}" for steps, count in sorted(lost.items()))
        lines += [
            f"{case}: {len(kills)} kills in {len(runs)} runs of {launches} launches; steps lost, and how often: {spread}",
            "",
            table(kills),
            "",
        ]
    total = sum(len(kills_of(runs)) for runs in cases.values())
    struck = {kill["phase"] for kill in kills_of(cases.get(ONE_RANK, [])) if kill["kind"] in ENDS}
    spared = [phase for phase in PHASES if phase not in struck]
    if spared:
        lines.append(f"Phases of one rank in which no launch was ended: {', '.join(spared)}")
    verdict = "reached" if total >= GOAL and not broken and not spared else "missed"
    lines.append(
        f"{total} kills (goal {GOAL}, every phase: {verdict}); every run that was done equals the undisturbed one, with two ranks in prompts and counts"
        + (f"; {broken} runs broke a promise" if broken else "")
    )
    return "\n".join(lines)


def kills_of(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [kill for run in runs for kill in run["kills"]]


if __name__ == "__main__":
    main()
