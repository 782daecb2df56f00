"""What a run recorded of its curriculum: decisions by step, and of every group how it was asked for and how it ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlcurric.curriculum.decisions import read_outcome, read_outcomes
from rlcurric.curriculum.measured import read_measured
from rlcurric.recipe.load import load_run_recipe
from rlcurric.recipe.schema import Recipe
from rlcurric.recipe.stages import RlStage
from rlcurric.train.rundir import DECISIONS, EVENTS, METRICS, read_jsonl, screened_name
from rlcurric.types import GroupId, GroupOutcome, SampleOutcome, Status

Line = Mapping[str, Any]


@dataclass
class RecordedGroup:
    """One group of rollouts."""

    group_id: GroupId
    distribution: str
    step: int  # of the run, from 1, in which it was asked for
    hint: int = 0
    looks: list[GroupOutcome] = field(default_factory=list)  # by phase, before its end
    end: GroupOutcome | None = None  # None: it still waited when the record ended
    selected: tuple[tuple[int, float], ...] = ()  # sample and value, where rollouts were selected

    @property
    def samples(self) -> int:
        """How many were drawn."""
        last = self.end or (self.looks[-1] if self.looks else None)
        return 0 if last is None else len(last.rewards) + last.n_failed

    @property
    def pass_rate(self) -> float | None:
        return None if self.end is None else self.end.pass_rate

    def after(self, phase: int) -> list[SampleOutcome]:
        """Every sample that had come after a phase, with its verdict at that time; empty where nothing was recorded.

        Which of them no grader could judge is not recorded: the last ones of their phase.
        """
        seen = [*self.looks[: phase + 1]]
        if phase >= len(self.looks) and self.end is not None:
            seen.append(self.end)
        if not seen:
            return []
        last = seen[-1]
        judged = {
            number: SampleOutcome(
                number,
                last.rewards[k],
                last.correct[k] if k < len(last.correct) else None,
                Status.SCORED,
                last.lengths[k],
                truncated=False,
                policy_version=last.policy_version,
            )
            for k, number in enumerate(self._judged(seen))
        }
        total = len(last.rewards) + last.n_failed
        return [
            judged.get(number) or unjudged(number, last.policy_version) for number in range(total)
        ]

    def _judged(self, seen: Sequence[GroupOutcome]) -> list[int]:
        """Numbers of the samples that were judged, by what was known after every phase."""
        last = seen[-1]
        if self.selected and len(self.selected) == len(last.rewards):
            return [number for number, _ in self.selected]
        numbers: list[int] = []
        start = 0
        for look in seen:
            new, total = len(look.rewards) - len(numbers), len(look.rewards) + look.n_failed
            if new < 0 or start + new > total:  # verdicts were changed by a later phase
                return list(range(len(last.rewards)))
            numbers += range(start, start + new)
            start = total
        return numbers


def unjudged(number: int, version: int) -> SampleOutcome:
    """A sample that no grader could judge: it says nothing of its prompt."""
    return SampleOutcome(
        number, 0.0, None, Status.ERROR, 0, truncated=False, policy_version=version
    )


@dataclass(frozen=True)
class RecordedStage:
    """The steps of one RL stage, in order."""

    name: str
    steps: tuple[int, ...]
    rolled_back: int | None = None  # the step whose curriculum it handed over, if not its last


class Record:
    """A run directory, for replays. ValueError for a folder that is none, or that has no decisions."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recipe: Recipe = load_run_recipe(path)
        self.lines: dict[int, list[Line]] = {}
        try:
            self._read()
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"{path}: logs as the run wrote them are required, and {DECISIONS}, {METRICS} or {EVENTS} has a line that lacks "
                f"something ({type(error).__name__}: {error}); `rlcurric report` tells which can be read"
            ) from None

    def _read(self) -> None:
        path = self.path
        for line in read_jsonl(path / DECISIONS):
            self.lines.setdefault(line["step"], []).append(line)
        if not self.lines:
            raise ValueError(f"{path} has no decisions: {DECISIONS} is absent or empty")
        self.versions = {
            row["step"]: row["policy_version"]
            for row in read_jsonl(path / METRICS)
            if "policy_version" in row
        }
        self.groups: dict[GroupId, RecordedGroup] = {}
        self.by_uid: dict[int, list[RecordedGroup]] = {}
        self._read_groups()
        self.by_distribution: dict[str, list[RecordedGroup]] = {}
        for one in self.groups.values():
            if one.end is not None and one.end.correct:
                self.by_distribution.setdefault(one.distribution, []).append(one)
        self.stages = self._stages()

    def _read_groups(self) -> None:
        for step, lines in self.lines.items():
            for line in lines:
                if line["kind"] == "draw":
                    for one in line["groups"]:
                        self._open(line["stage"], one, step)
                elif line["kind"] in ("outcomes", "surplus"):
                    for outcome in read_outcomes(line):
                        self._known(outcome).end = outcome
                elif line["kind"] == "continue":
                    for one in line["groups"]:
                        look = read_outcome(one, line["stage"], step - 1)
                        if one["more"]:
                            self._known(look).looks.append(look)
                        elif one["more"] == 0:
                            self._known(look).end = look
                elif line["kind"] == "select":
                    for one in line["groups"]:
                        pairs = zip(one["samples"], one["values"], strict=True)
                        group_id = GroupId(line["stage"], int(one["uid"], 16), one["visit"])
                        self.groups[group_id].selected = tuple(pairs)

    def _open(self, stage: str, one: Mapping[str, Any], step: int) -> None:
        group_id = GroupId(stage, int(one["uid"], 16), one["visit"])
        group = RecordedGroup(group_id, one["distribution"], step, one.get("hint", 0))
        self.groups[group_id] = group
        self.by_uid.setdefault(group_id.uid, []).append(group)

    def _known(self, outcome: GroupOutcome) -> RecordedGroup:
        """The group of an outcome; one of before the record is made up from it."""
        if outcome.group_id not in self.groups:
            key = {"uid": f"{outcome.group_id.uid:016x}", "visit": outcome.group_id.visit}
            about = {**key, "distribution": outcome.distribution, "hint": outcome.hint}
            self._open(outcome.group_id.stage, about, outcome.step + 1)
        return self.groups[outcome.group_id]

    def _stages(self) -> list[RecordedStage]:
        steps: dict[str, list[int]] = {}
        for step in sorted(self.lines):
            name = self.place(step)["stage"]
            steps.setdefault(name, []).append(step)
        rolled = {
            row["stage"]: row["to"]
            for row in read_jsonl(self.path / EVENTS)
            if row["event"] == "rolled_back"
        }
        return [RecordedStage(name, tuple(own), rolled.get(name)) for name, own in steps.items()]

    def place(self, step: int) -> Line:
        """A line of the step itself: it has stage and progress."""
        found = next((line for line in self.lines[step] if "progress" in line), None)
        if found is None:
            raise ValueError(
                f"{self.path}: step {step} of {DECISIONS} has no line with its progress; the log was cut or edited"
            )
        return found

    def version(self, step: int) -> int:
        """The policy's at the start of a step."""
        if step in self.versions:
            return self.versions[step]
        earlier = [one for one in self.versions if one < step]
        return self.versions[max(earlier)] + 1 if earlier else 0

    def recipe_stage(self, name: str) -> RlStage:
        """A stage as the run's recipe has it."""
        found = next((one for one in self.recipe.stages if one.name == name), None)
        if not isinstance(found, RlStage):
            raise ValueError(
                f"{self.path}: {DECISIONS} is of a stage {name!r}, which recipe.yaml does not have as one of kind rl"
            )
        return found

    def measured(self, stage: RecordedStage) -> tuple[list[GroupOutcome], list[GroupOutcome]]:
        """What was known of prompts before a stage's first step: by its warm start, and by its screening.

        ValueError where the log has only their number, and no file of the run has them.
        """
        first = stage.steps[0]
        lines = [line for line in self.lines[first] if line["kind"] == "measured"]
        recorded = self.recipe_stage(stage.name)
        warm = recorded.curriculum.warm_start is not None
        found: dict[bool, list[GroupOutcome]] = {True: [], False: []}
        for number, line in enumerate(lines):
            screened = not (warm and number == 0)
            if "groups" in line:
                found[screened] = read_outcomes(line)
                continue
            file = self.path / screened_name(stage.name)
            if not screened or not file.is_file():
                read_outcomes(line)  # says what to do
            found[screened] = read_measured(file, first - 2)
        return found[False], found[True]

    def predictions(self, step: int, round_: int) -> dict[int, float]:
        """What a value model predicted of the candidates of a round, by uid."""
        for line in self.lines.get(step, ()):
            if line["kind"] == "draw" and line["round"] == round_ and "predicted" in line:
                uids = [int(uid, 16) for _, _, uid in line["candidates"]]
                return dict(zip(uids, line["predicted"], strict=True))
        return {}


def nearest_step(groups: Sequence[RecordedGroup], step: int) -> list[RecordedGroup]:
    """The groups, those nearest in time first; of two as near, the earlier."""
    return sorted(groups, key=lambda one: (abs(one.step - step), one.step, one.group_id))
