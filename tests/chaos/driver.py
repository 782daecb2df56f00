"""Has jobs killed and starts them again with the same command until they are done; checks each time, and at the end."""

from __future__ import annotations

import random
import shutil
import signal
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlcurric.ending import STOPPED
from rlcurric.recipe.schema import Recipe
from rlcurric.report.difference import first_difference
from rlcurric.train.checkpoint import CheckpointStore
from rlcurric.train.rundir import METRICS, read_jsonl
from tests.chaos import accounts
from tests.chaos.jobs import Broken, Ended, Job
from tests.chaos.plan import ENDS, ON_RANK_0, PHASES, SURVIVED, Strike
from tests.tiny import tiny_recipe

STAGE_STEPS = 3
STEPS = 2 * STAGE_STEPS
REWARDS: list[Any] = ["last_digit", {"name": "format", "weight": 0.1}]
VLLM_LEAVES = "vllm_dist_"  # a file of 2 kB in the temporary folder, where its process is killed
AT_MOST_LOST = 2  # steps: one whose save is in flight, and one that goes on meanwhile


def chaos_recipe(*overrides: str) -> Recipe:
    """Two RL stages from random weights with refill, groups that are carried, statistics and a value model."""
    common = {"prompts_per_step": 3, "group_size": 4, "oversample": 1.5, "refill_rounds": 2}
    gate = {"name": "zero_variance", "metric": "correct"}
    stages: list[dict[str, Any]] = [
        {"name": "first", "curriculum": {**common, "sampler": "ucb", "gate": gate}},
        {
            "name": "second",
            "carry": ["optimizer", "statistics"],
            "curriculum": {
                **common,
                "sampler": "ucb",
                "gate": {"name": "pass_rate_range", "low": 0.2, "high": 0.6},
                "scorer": {"name": "pcl", "warmup_steps": 1},
                "refill_fallback": "train_gated",
            },
            "objective": {"name": "dapo"},
        },
    ]
    optim = {"learning_rate": 1e-3, "minibatches": 2, "tokens_per_microbatch": 60}
    for stage in stages:
        stage |= {
            "optim": optim,
            "rewards": REWARDS,
            "evaluation": {"prompts": 4, "every": 1},
            "grading": {"workers": 1, "deadline": 60.0},
            "until": {"steps": STAGE_STEPS},
        }
    run = {
        "checkpoints": {"every": 1, "keep_last": 2},
        "rollouts": {"every": 1, "include": "all", "max_per_step": 1000},
        "threads": 1,
        "watchdog": 200.0,
    }
    files = ["chaos/rewards.py"]
    return tiny_recipe(*overrides, reward_files=files, stages=stages, run=run)


@dataclass
class Lengths:
    """How long phases are, as the undisturbed run took: seconds, lines of Python."""

    seconds: dict[str, float]
    lines: dict[str, int]

    @classmethod
    def of(cls, measured: Sequence[dict[str, Any]]) -> Lengths:
        by_phase: dict[str, list[dict[str, Any]]] = {}
        for one in measured:
            by_phase.setdefault(one["phase"], []).append(one)
        seconds = {
            name: statistics.median(one["seconds"] for one in rows)
            for name, rows in by_phase.items()
        }
        lines = {
            name: max(int(statistics.median(one["lines"] or 0 for one in rows)), 1)
            for name, rows in by_phase.items()
        }
        return cls(seconds, lines)


@dataclass
class Campaign:
    """Jobs of one kind under fire. Everything that is drawn comes from `seed`."""

    folder: Path
    seed: int
    config: str | None = None
    say: Callable[[str], None] = print
    overrides: Sequence[str] = ()  # of the recipe
    kills: list[dict[str, Any]] = field(default_factory=list)
    launches: int = 0
    lengths: Lengths | None = None  # once the undisturbed run is done
    lost_steps: list[int] = field(default_factory=list)  # at every end but the last of a run

    def __post_init__(self) -> None:
        self.ranks = 2 if self.config else 1
        self._draw = random.Random(f"{self.seed}/{self.config}")
        self.recipe = chaos_recipe(*self.overrides)
        self.whole = Job(self.folder / "whole", self.recipe, self.config)

    def prepare(self) -> None:
        """The run that nothing disturbs, and what it tells of phases."""
        self.say(f"{self.config or 'one rank'}, seed {self.seed}: the undisturbed run")
        ended = self.whole.launch(measure=True)
        if ended.code != 0:
            raise Broken(f"the undisturbed run ended with {ended.code}:\n{ended.output[-3000:]}")
        self.lengths = Lengths.of(ended.measured)
        missing = {*PHASES} - {*self.lengths.seconds}
        if missing:
            raise Broken(f"the undisturbed run has no phase {', '.join(sorted(missing))}")
        if not self.overrides:
            accounts.interesting(self.whole.run_dir)
        accounts.every_group_once(self.whole.run_dir)

    def run(
        self, number: int, planned: Sequence[Sequence[Strike]] = (), least: int = 0
    ) -> list[dict[str, Any]]:
        """Run `number` from its start to its end; the kills in it.

        A launch for each of `planned`, then drawn ones until there were `least` kills, then in peace.
        """
        self._draw = random.Random(f"{self.seed}/{self.config}/{number}")
        job = Job(self.folder / f"run-{number}", self.recipe, self.config)
        kills, launch, known, ahead = len(self.kills), 0, 0, list(planned)
        while True:
            strikes: Sequence[Strike] = ()
            if ahead:
                strikes = ahead.pop(0)
            elif len(self.kills) - kills < least and launch < 4 * least:
                strikes = self.drawn(known)
            launch += 1
            events = len(_events(job))
            ended = job.launch(strikes)
            self.launches += 1
            self.kills += ended.strikes
            came = [(one["kind"], one["phase"]) for one in ended.strikes]
            spared = [one for one in strikes if (one.kind, one.phase) not in came]
            self.say(
                f"run {number}, launch {launch}: {_spelled(ended.strikes) or 'in peace'}; exit code {ended.code}"
                + "".join(f"; did not come: {one}" for one in spared)
            )
            _resumed_where_it_was(job, events, known)
            over = _check_end(ended, self.ranks)
            known = self._check_directory(job, known, over)
            if over == "done":
                break
        self._compare(job)
        usual = {one.name for one in (self.whole.folder / "tmp").iterdir()}
        found = {one.name for one in (job.folder / "tmp").iterdir()}
        left = {name for name in found - usual if not name.startswith(VLLM_LEAVES)}
        if left:
            raise Broken(f"{job.folder / 'tmp'}: left behind: {', '.join(sorted(left))}")
        shutil.rmtree(job.folder)
        return self.kills[kills:]

    def drawn(self, known: int) -> list[Strike]:
        """What strikes a launch that goes on after step `known`: what came least often is likelier."""
        hit = Counter(one["phase"] for one in self.kills if one["kind"] in ENDS)
        kinds = Counter(one["kind"] for one in self.kills)
        one_rank = ("rank", "all", "sigterm", "stop")
        possible = [
            phase for phase in PHASES if phase != "stage change" or known in range(STAGE_STEPS + 1)
        ]
        phase = self._rarest(possible, hit)
        kind = self._rarest(one_rank if self.ranks == 1 else ENDS, kinds)
        entry = min(self._draw.randint(1, 2), max(STEPS - known, 1))
        strikes = [self.strike(kind, phase, entry)]
        strikes += [self.survived(one) for one in SURVIVED if self._draw.random() < 0.5]
        return strikes

    def survived(self, kind: str, rank: int | None = None) -> Strike:
        """A kill that a launch lives through, early in it."""
        rank = self._draw.randrange(self.ranks) if rank is None else rank
        if kind == "worker":
            entry = self._draw.randint(1, 2)
            return Strike(kind, "grade", rank, entry, delay=self._draw.uniform(0, 0.03))
        phase = self._draw.choice(("rollout", "rollout", "evaluate", "sync"))
        calls = {"rollout": 8, "evaluate": 3, "sync": 1}[phase]
        return Strike(kind, phase, rank, line=self._draw.randint(1, calls))

    def strike(self, kind: str, phase: str, entry: int = 1, rank: int | None = None) -> Strike:
        """At a random moment of a phase, on a random rank unless it is given."""
        assert self.lengths is not None, "prepare() first"
        seconds = self.lengths.seconds[phase]
        if phase in ("resume", "stage change"):  # come once in a launch: what is late is too late
            entry, seconds = 1, seconds / 2
        drawn = 0 if phase in ON_RANK_0 else self._draw.randrange(self.ranks)
        rank = drawn if rank is None else rank
        if phase in self.lengths.lines and self.lengths.lines[phase] > 1:
            return Strike(
                kind, phase, rank, entry, line=self._draw.randint(1, self.lengths.lines[phase])
            )
        return Strike(kind, phase, rank, entry, delay=self._draw.uniform(0, seconds))

    def _rarest(self, names: Sequence[str], count: Counter[str]) -> str:
        least = min(count[name] for name in names)
        return self._draw.choice([name for name in names if count[name] == least])

    def _check_directory(self, job: Job, known: int, over: str) -> int:
        """The newest checkpoint is good and no older than before; hardly a step is lost. Its step."""
        store = CheckpointStore(job.run_dir / "checkpoints", 1)
        newest = store.newest(lambda damage: _broken(f"{job.run_dir}: {damage}"))
        step = newest.step if newest is not None else 0
        steps = [row["step"] for row in read_jsonl(job.run_dir / METRICS)]
        reached = max(steps, default=0)
        if step < known:
            raise Broken(f"{job.run_dir}: the checkpoint of step {known} is gone, there is {step}")
        lost = reached - step
        if lost > (AT_MOST_LOST if over == "killed" else 0):
            raise Broken(f"{job.run_dir}: {lost} steps lost at step {reached} ({over})")
        if over != "done":
            self.lost_steps.append(max(lost, 0))
        return step

    def _compare(self, job: Job) -> None:
        accounts.every_group_once(job.run_dir)
        if self.ranks == 1:
            found = first_difference(self.whole.run_dir, job.run_dir)
        else:
            found = accounts.first_difference_of_counts(self.whole.run_dir, job.run_dir)
        if found is not None:
            raise Broken(f"{job.run_dir} is not the undisturbed run: {found}")


def _events(job: Job) -> list[dict[str, Any]]:
    return read_jsonl(job.run_dir / "events.jsonl")


def _broken(text: str) -> None:
    raise Broken(text)


def _resumed_where_it_was(job: Job, events: int, known: int) -> None:
    """A launch went on from the newest checkpoint, if it came so far."""
    for event in _events(job)[events:]:
        if event["event"] == "resumed" and event["step"] != known:
            raise Broken(f"{job.run_dir}: resumed after step {event['step']}, not {known}")


def _check_end(ended: Ended, ranks: int) -> str:
    """How the launch ended, as its exit code must say: "done", "stopped" or "killed"."""
    last = next((one["kind"] for one in ended.strikes if one["kind"] in ENDS), None)
    killed = -signal.SIGKILL
    expected = {
        None: {0: "done"},
        "all": {killed: "killed"},
        "rank": {killed if ranks == 1 else 1: "killed"},
        # Ranks whose launcher is gone stop with a checkpoint; their code is nobody's.
        "launcher": {killed: "killed"},
        "sigterm": {STOPPED: "stopped", 0: "done"},
        "stop": {STOPPED: "stopped", 0: "done"},
        "sigterm_rank": {STOPPED: "stopped", 0: "done"},
    }[last]
    if ended.code not in expected:
        raise Broken(f"{_spelled(ended.strikes)}: exit code {ended.code}\n{ended.output[-4000:]}")
    if last == "rank" and ranks > 1 and "was killed by SIGKILL" not in ended.output:
        raise Broken(f"the launcher does not say who was killed:\n{ended.output[-4000:]}")
    return expected[ended.code]


def _spelled(strikes: Sequence[dict[str, Any]]) -> str:
    return ", ".join(
        f"{one['kind']} of rank {one['rank']} in {one['phase']}"
        + (f" (also in {', '.join(also)})" if (also := _also(one)) else "")
        for one in strikes
    )


def _also(strike: dict[str, Any]) -> list[str]:
    return sorted({*strike["active"]} - {strike["phase"]})


def table(kills: Sequence[dict[str, Any]]) -> str:
    """Markdown: kills by phase and kind."""
    kinds = [kind for kind in (*ENDS, *SURVIVED) if any(one["kind"] == kind for one in kills)]
    count = Counter((one["phase"], one["kind"]) for one in kills)
    lines = [f"| phase | {' | '.join(kinds)} | all |", "|---" * (len(kinds) + 2) + "|"]
    for phase in PHASES:
        cells = [count[phase, kind] for kind in kinds]
        if sum(cells):
            lines.append(
                f"| {phase} | {' | '.join(str(one or '-') for one in cells)} | {sum(cells)} |"
            )
    cells = [sum(count[phase, kind] for phase in PHASES) for kind in kinds]
    lines.append(f"| all | {' | '.join(map(str, cells))} | {sum(cells)} |")
    return "\n".join(lines)
