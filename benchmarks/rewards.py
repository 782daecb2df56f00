"""What the runner costs: verdicts of math-verify through workers against a bare loop.

    RLCURRIC_DATA=... python benchmarks/rewards.py [--problems 400] [--repeats 5] [--group 8]
    python benchmarks/rewards.py --quick

Every problem of MATH-500 gives two verdicts: its answer in a box behind some text, and another problem's answer. The bare
loop calls math-verify on them in this process. `runner` gives the same function the same samples through one worker, in
calls of up to 32; `rubric` as training does, a group at a time. `verifier` is the shipped reward through the runner.
Contenders take turns on the same samples; each has seen other samples of the kind before. Seconds are processor seconds of
this process, the worker and all children of it, so that work of others on the machine does not count as ours: verdicts per
second and core. Verdicts of the same function must be the same.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from rlcurric.rewards.calls import CHUNK, Ask
from rlcurric.rewards.protocol import discover_builtin, get_reward, load_reward_file
from rlcurric.rewards.rubric import Component, GradeRequest, Rubric
from rlcurric.rewards.runner import RewardRunner
from rlcurric.types import GroupId, Prompt, Rollout

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "rewards.json"
GOAL = 0.8  # of the bare loop's verdicts per second and core
TICKS = os.sysconf("SC_CLK_TCK")
Sample = tuple[str, str]  # completion, gold answer
Contender = Callable[[Sequence[Sample]], list[float | None]]


def samples_of(problems: int, quick: bool) -> list[Sample]:
    """Right and wrong completions of MATH-500, in an order that mixes them."""
    answers = [f"\\frac{{{k}}}{{7}}" for k in range(problems)]
    if not quick:
        file = Path(os.environ["RLCURRIC_DATA"], "math", "test500.json")
        answers = [row["answer"] for row in json.loads(file.read_text("utf-8"))][:problems]
    shifted = answers[1:] + answers[:1]
    pairs = [*zip(answers, answers, strict=True), *zip(shifted, answers, strict=True)]
    order = np.random.default_rng(0).permutation(len(pairs))
    text = "We work through the problem step by step and find \\boxed{%s}."
    return [(text % pairs[k][0], pairs[k][1]) for k in order]


class Contenders:
    """Three ways to the same verdicts, and the shipped reward."""

    def __init__(self, runner: RewardRunner, group: int) -> None:
        self._runner, self._group = runner, group
        self._equal = get_reward("plain_math_verify").function.__globals__["equal"]
        component = Component(
            "plain_math_verify", get_reward("plain_math_verify"), "plain_math_verify"
        )
        self._rubric = Rubric([component], component.name, runner, deadline=60.0)

    def named(self) -> dict[str, Contender]:
        return {
            "bare": self.bare,
            "runner": lambda samples: self.runner("plain_math_verify", samples),
            "rubric": self.rubric,
            "verifier": lambda samples: self.runner("verifier", samples),
        }

    def bare(self, samples: Sequence[Sample]) -> list[float | None]:
        return [self._equal(text, gold) for text, gold in samples]

    def runner(self, name: str, samples: Sequence[Sample]) -> list[float | None]:
        texts, golds = zip(*samples, strict=True)
        asked = Ask(
            get_reward(name),
            name,
            [""] * len(texts),
            texts,
            {"answer": golds},
            {},
            [range(len(texts))],
            60.0,
        )
        return [score.value for score in self._runner.ask(asked).scores]

    def rubric(self, samples: Sequence[Sample]) -> list[float | None]:
        """Groups of samples of several problems: what they are compared with is a column."""
        nothing = np.zeros(0, dtype=np.int64)
        values: list[float | None] = []
        requests = []
        for start in range(0, len(samples), self._group):
            chosen = samples[start : start + self._group]
            group = GroupId("bench", start, 0)
            for k, (text, gold) in enumerate(chosen):
                prompt = Prompt(start + k, "math", (), "", {"answer": gold})
                rollout = Rollout(group, k, nothing, nothing, nothing, "stop", text)
                requests.append(GradeRequest(group, prompt, (rollout,)))
        for outcomes in self._rubric.score(requests, {}, {}):
            values += [one.correct for one in outcomes]
        return values


def cpu_seconds(pids: Sequence[int]) -> float:
    """Of this process, and of the workers with the children that they have waited for."""
    total = time.process_time()
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += sum(map(int, fields[11:15])) / TICKS
    return total


def measure(
    contenders: Contenders, runner: RewardRunner, samples: Sequence[Sample], repeats: int
) -> list[dict[str, Any]]:
    """Processor and wall seconds of every contender, in turns."""
    first = min(4 * CHUNK, len(samples) // 2)
    warm_up, rest = samples[:first], samples[first:]
    for contender in contenders.named().values():
        contender(warm_up)
    rows: list[dict[str, Any]] = []
    for repeat in range(repeats):
        part = rest[repeat::repeats]
        found: dict[str, list[float | None]] = {}
        for name, contender in contenders.named().items():
            started, cpu = time.perf_counter(), cpu_seconds(runner.pids())
            found[name] = contender(part)
            rows.append(
                {
                    "contender": name,
                    "verdicts": len(part),
                    "cpu_s": cpu_seconds(runner.pids()) - cpu,
                    "wall_s": time.perf_counter() - started,
                }
            )
        assert found["bare"] == found["runner"] == found["rubric"], "the runner changed a verdict"
    return rows


def table(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Verdicts per processor second of every contender, and their ratio to the bare loop of the same turn."""
    rates: dict[str, list[float]] = {}
    for row in rows:
        rates.setdefault(row["contender"], []).append(row["verdicts"] / row["cpu_s"])
    print("| contender | verdicts a second and core | of the bare loop | least | most |")
    print("|---|---|---|---|---|")
    found = {}
    for name, own in rates.items():
        ratios = [mine / bare for mine, bare in zip(own, rates["bare"], strict=True)]
        rate, ratio = statistics.median(own), statistics.median(ratios)
        found[name] = {"verdicts_per_core_s": round(rate, 1), "of_bare": round(ratio, 3)}
        print(f"| {name} | {rate:.0f} | {ratio:.2f} | {min(ratios):.2f} | {max(ratios):.2f} |")
    print(f"\nThe goal for `runner` is {GOAL}.")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--problems", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    if options.quick:
        options.problems, options.repeats = 60, 1
    if not options.quick and "RLCURRIC_DATA" not in os.environ:
        parser.error("set RLCURRIC_DATA to the folder that has math/test500.json, or give --quick")
    discover_builtin()
    load_reward_file(HERE / "rewards_task.py")
    rewards = [get_reward(name) for name in ("plain_math_verify", "verifier")]
    with RewardRunner(rewards, workers=1) as runner:
        runner.layers()
        samples = samples_of(options.problems, options.quick)
        rows = measure(Contenders(runner, options.group), runner, samples, options.repeats)
        layers = runner.layers()
    found = table(rows)
    if options.quick:
        return
    result = {
        "date": date.today().isoformat(),
        "machine": platform.processor() or platform.machine(),
        "load": os.getloadavg(),
        "versions": {name: version(name) for name in ("math-verify", "sympy")},
        "layers": layers,
        "options": vars(options),
        "summary": found,
        "turns": rows,
    }
    RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
