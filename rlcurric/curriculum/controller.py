"""The curriculum's side of a step: ask for groups, take what comes, decide what is trained.

    while not controller.ready():
        predicted = value_model(controller.to_predict())
        controller.deliver(score(engine.run(controller.requests(predicted))))
    batch = controller.take()

Refill after a gate, probes and continuations, surplus carried to the next step and repeated steps all happen inside
these calls. Lives on rank 0 alone.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from rlcurric import seeds
from rlcurric.curriculum import answers
from rlcurric.curriculum.composition import Composition, ControllerSettings
from rlcurric.curriculum.decisions import draw_fields, group_key, outcome_line
from rlcurric.curriculum.draws import draw_copies
from rlcurric.curriculum.evidence import PassRates
from rlcurric.curriculum.exclusion import Excluding
from rlcurric.curriculum.gates import strongest
from rlcurric.curriculum.guards import Guards, GuardWarning, StepView
from rlcurric.curriculum.ledger import GroupState, Ledger
from rlcurric.curriculum.measure import batch_metrics, selection_metrics
from rlcurric.curriculum.parts import Part, Verdict
from rlcurric.curriculum.rounds import Round, Rounds
from rlcurric.errors import RunError
from rlcurric.schedules import Progress
from rlcurric.types import (
    AdmittedGroup,
    Batch,
    Candidate,
    Delivery,
    Disposition,
    GroupId,
    GroupOutcome,
    Prompt,
    PromptPool,
    Request,
    judged,
)

STATE_VERSION = 2
Values = Mapping[tuple[GroupId, int], float]  # a number for each rollout of a batch


@dataclass
class _Now:
    """What belongs to the step that goes on, and is forgotten with it."""

    round: int = 0
    openings: int = 0  # rounds that opened groups
    opened: int = 0  # groups
    hinted: int = 0  # of these, groups that show a hint
    prepared: Round | None = None  # drawn, not yet asked for
    log: list[dict[str, Any]] = field(default_factory=list)
    refused: dict[GroupId, Disposition] = field(default_factory=dict)
    delivered: dict[GroupId, AdmittedGroup] = field(default_factory=dict)
    outcomes: list[GroupOutcome] = field(default_factory=list)
    ended: tuple[tuple[Prompt, float, float], ...] = ()  # with pass rate and weight
    ages: list[float] = field(default_factory=list)  # steps since a chosen prompt was last observed


class Controller:
    """Composes the parts over one stage's pool, with the ledger of the run."""

    def __init__(
        self,
        pool: PromptPool,
        parts: Composition,
        settings: ControllerSettings,
        run_seed: int,
        stage: str,
    ) -> None:
        self._pool, self._parts, self._settings = pool, parts, settings
        self._run_seed, self._stage = run_seed, stage
        self._ledger = Ledger()
        self._rounds = Rounds(pool, parts, run_seed, stage)
        self._history = PassRates()
        self._guards = Guards(settings.guards)
        self._begun = False  # the pool filters have seen what there was before the stage
        self._empty_steps = 0
        self._step, self._progress, self._version = 0, Progress(0, 0), 0
        self._metrics: dict[str, float] = {}
        self._beforehand: list[dict[str, Any]] = []  # lines for the log of the first step
        self._told_pool = False  # what is out of the pool at the stage's start is among them
        self._forget_step()
        self._before = (self._rounds.stream.state_dict(), 0, False)

    def begin(self, step: int, progress: Progress, policy_version: int = 0) -> None:
        """Start a step. What `abandon` goes back to is noted here: of the parts nothing, since asking changes nothing."""
        if self._now.outcomes:  # the step before was taken, and its log written
            self._beforehand = []
        begun, self._begun = self._begun, True
        if not begun:
            for one in self._parts.pool_filters:
                one.begin_stage(self._history)
            if not self._told_pool:  # else the step is repeated, and the lines are there
                self._beforehand += self._pool_lines(step + 1)
                self._told_pool = True
        self._ledger.mark()
        self._before = (self._rounds.stream.state_dict(), self._empty_steps, begun)
        self._step, self._progress, self._version = step, progress, policy_version
        self._forget_step()

    def ready(self) -> bool:
        """Whether the batch can be taken: enough admitted groups, or the refill budget is spent."""
        if self._ledger.of(GroupState.REQUESTED, GroupState.PARTIAL, GroupState.CONTINUED):
            return False
        return self._missing() <= 0 or self._now.openings > self._settings.refill_rounds

    def to_predict(self) -> tuple[Prompt, ...]:
        """Prompts whose pass rates the scorer of the next round wants predicted; empty where it asks for none."""
        if not self._parts.predicts:
            return ()
        return tuple(
            self._pool.prompt(one.distribution, one.index, self._progress)
            for one in self._next_round().candidates
        )

    def requests(self, predicted: Sequence[float] = ()) -> list[Request]:
        """Samples to draw now: of groups that go on, and of new ones for what is still missing.

        Args:
            predicted: the pass rate of each prompt of `to_predict`, in its order.
        """
        assert not self.ready(), "requests() after ready()"
        asked = self._ledger.of(GroupState.CONTINUED)
        asked += self._open(self._next_round(), predicted)
        self._now.round, self._now.prepared = self._now.round + 1, None
        return [
            self._ledger.request(group_id, seeds.hash64(self._run_seed, *group_id))
            for group_id in sorted(asked)
        ]

    def deliver(self, deliveries: Iterable[Delivery]) -> None:
        """Take scored rollouts, in any order. When nothing is outstanding, groups are continued, admitted or refused."""
        for delivery in sorted(deliveries, key=lambda delivery: delivery.group_id):
            self._ledger.deliver(delivery)
        if not self._ledger.of(GroupState.REQUESTED, GroupState.PARTIAL):
            self._settle()

    def delivered(self) -> tuple[AdmittedGroup, ...]:
        """Every group that became complete in this step, whatever became of it, failed samples included."""
        return tuple(self._now.delivered[group] for group in sorted(self._now.delivered))

    def take(self) -> Batch:
        """The step's batch in group_id order. Every group that ended is observed, once, in group_id order."""
        assert self.ready(), "take() before ready()"
        copies = self._composed()
        ended: dict[GroupId, Disposition] = {
            **dict.fromkeys(copies, "trained"),
            **self._now.refused,
        }
        outcomes = [self._outcome(group_id, ended[group_id]) for group_id in sorted(ended)]
        weights = self._weights([one for one in outcomes if one.group_id in copies], copies)
        groups = tuple(
            self._admitted(group_id, weights[group_id], copies[group_id])
            for group_id in sorted(copies)
        )
        self._now.ended = tuple(
            (self._ledger.entries[one.group_id].prompt, one.pass_rate, one.weight)
            for one in outcomes
            if one.pass_rate is not None and one.weight
        )
        for one in outcomes:
            trained = one.disposition == "trained"
            self._ledger.end(one.group_id, GroupState.TRAINED if trained else GroupState.DROPPED)
        self._learn(outcomes)
        self._ledger.balance()
        self._finish(outcomes, groups)
        return Batch(self._step, groups)

    @property
    def screening(self) -> int:
        """Samples of every prompt of the pool that a pool filter wants before the first step; 0: none."""
        if self._begun:
            return 0
        return max((getattr(part, "screens", 0) for part in self._parts.pool_filters), default=0)

    def learn_measured(self, outcomes: Sequence[GroupOutcome]) -> None:
        """Let every part observe what was measured of prompts before the first step, and log it with that step."""
        if not outcomes:
            return
        self._learn(outcomes)
        step = outcomes[0].step + 2
        line = {"kind": "measured", "step": step, "stage": self._stage, "n": len(outcomes)}
        if len(outcomes) <= self._settings.log_candidates:
            line["groups"] = [outcome_line(one) for one in outcomes]
        self._beforehand += [line, *self._pool_lines(step)]

    def _learn(self, outcomes: Sequence[GroupOutcome]) -> None:
        for part in self._parts.named().values():
            part.observe(outcomes)
        self._history.observe(outcomes)

    def to_fit(self) -> tuple[tuple[Prompt, float, float], ...]:
        """`(prompt, pass rate, weight of the evidence)` of the groups that ended, for the value model."""
        return self._now.ended if self._parts.predicts else ()

    @property
    def selects(self) -> Literal["reward", "advantage"] | None:
        """What the selector of rollouts reads; None without one."""
        return self._parts.selector.signal if self._parts.selector else None

    def select(self, batch: Batch, values: Values) -> Batch:
        """The batch with the rollouts that the selector keeps."""
        selector = self._parts.selector
        assert selector is not None
        table = [[values[g.group_id, one.sample] for one in g.samples] for g in batch.groups]
        found = selector.select(table, self._progress)
        kept = answers.kept(selector, found, [len(row) for row in table])
        self._now.log.append(
            {
                **self._place("select"),
                "signal": selector.signal,
                "groups": [
                    {
                        **group_key(group.group_id),
                        "samples": [one.sample for one in group.samples],
                        "values": own,
                        "kept": [group.samples[k].sample for k in keep],
                    }
                    for group, own, keep in zip(batch.groups, table, kept, strict=True)
                ],
            }
        )
        self._metrics |= selection_metrics(table, kept)
        groups = tuple(
            group.keeping(keep) for group, keep in zip(batch.groups, kept, strict=True) if keep
        )
        return Batch(batch.step, groups)

    def watch(self, held_out: float | None) -> list[GuardWarning]:
        """What the guard-rails have to say of the step; `held_out`: accuracy, if it was measured after it."""
        draws = [line for line in self._now.log if line["kind"] == "draw"]
        ages = self._now.ages
        excluding = {
            place: part.excluded()
            for place, part in self._parts.named().items()
            if isinstance(part, Excluding)
        }
        warnings = self._guards.observe(
            StepView(
                step=self._step,
                probabilities=self._probabilities(),
                drawn=Counter(group["distribution"] for line in draws for group in line["groups"]),
                outcomes=self._now.outcomes,
                pool=sum(self._pool.sizes.values()),
                excluded=excluding,
                statistics_age=sum(ages) / len(ages) if self._parts.scorer and ages else None,
                held_out=held_out,
            )
        )
        self._metrics |= self._guards.metrics()
        return warnings

    def _probabilities(self) -> dict[str, float]:
        """The latest ones that the step drew by; what the sampler says now, if it drew nothing."""
        for line in reversed(self._now.log):
            if line["kind"] == "draw":
                drawn: dict[str, float] = line["probabilities"]
                return drawn
        return self._parts.sampler.probabilities(self._progress)

    def abandon(self) -> None:
        """Go back to the start of the step, as if it had never begun."""
        self._ledger.rollback()
        stream, self._empty_steps, self._begun = self._before
        self._rounds.stream.load_state_dict(stream)
        self._forget_step()

    def decisions(self) -> list[dict[str, Any]]:
        """The step's lines of decisions.jsonl (`curriculum.decisions` reads them)."""
        return [*self._beforehand, *self._now.log]

    def metrics(self) -> dict[str, float]:
        """`curriculum/...` of the last batch taken."""
        return dict(self._metrics)

    def carried(self) -> list[GroupId]:
        """Admitted groups that wait for the next step: their tokens must be kept."""
        return self._ledger.of(GroupState.ADMITTED)

    def state_dict(self) -> dict[str, Any]:
        """All that the next decision depends on: JSON values and numpy arrays."""
        return {
            "version": STATE_VERSION,
            "ledger": self._ledger.state_dict(),
            "stream": self._rounds.stream.state_dict(),
            "history": self._history.state_dict(),
            "guards": self._guards.state_dict(),
            "begun": self._begun,
            "empty_steps": self._empty_steps,
            "parts": {
                place: {"class": answers.name_of(part), "state": part.state_dict()}
                for place, part in self._parts.named().items()
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse; ValueError if the state is of another release or of other distributions."""
        self._check_version(state)
        self._rounds.stream.load_state_dict(state["stream"])
        self._ledger.load_state_dict(state["ledger"])
        self._history.load_state_dict(state["history"])
        self._guards.load_state_dict(state["guards"])
        self._begun = state["begun"]
        self._empty_steps = state["empty_steps"]
        for place, part in self._parts.named().items():
            saved = state["parts"].get(place, {"class": "nothing"})
            if saved["class"] != answers.name_of(part):
                raise ValueError(
                    f"The curriculum's state has {saved['class']} at {place}, the stage {answers.name_of(part)}"
                )
            part.load_state_dict(saved["state"])

    def carry_over(
        self, state: Mapping[str, Any], statistics: bool, policy_version: int = 0, step: int = 0
    ) -> None:
        """Begin a stage from the state of the one before: visits and pass rates always, the parts' statistics if asked.

        A part goes on where the earlier stage had one of its class at the same place. Groups that still waited when the
        stage ended were asked for under its settings: they end here, dropped, and what goes on observes them.
        """
        self._check_version(state)
        self._ledger.load_state_dict(state["ledger"])
        self._history.load_state_dict(state["history"])
        kept: dict[str, Part] = {}
        for place, part in self._parts.named().items():
            saved = state["parts"].get(place)
            if statistics and saved is not None and saved["class"] == answers.name_of(part):
                part.load_state_dict(saved["state"])
                kept[place] = part
        waited = sorted(self._ledger.entries)
        if not waited:
            return
        self._version, self._step = policy_version, step - 1
        outcomes = [self._outcome(group_id, "surplus") for group_id in waited]
        for group_id in waited:
            self._ledger.end(group_id, GroupState.DROPPED)
        self._ledger.mark()
        for part in kept.values():
            part.observe(outcomes)
        self._history.observe(outcomes)
        line = {"kind": "surplus", "step": step + 1, "stage": waited[0].stage}
        line |= {"observed_by": list(kept), "groups": [outcome_line(one) for one in outcomes]}
        self._beforehand.append(line)

    @staticmethod
    def _check_version(state: Mapping[str, Any]) -> None:
        if state["version"] != STATE_VERSION:
            raise ValueError(
                f"The curriculum's state has version {state['version']}, this release reads {STATE_VERSION}"
            )

    def _forget_step(self) -> None:
        self._now = _Now()
        self._rounds.stream.begin_step()

    def _place(self, kind: str) -> dict[str, Any]:
        now = self._progress
        return {
            "kind": kind,
            "step": self._step + 1,
            "stage": self._stage,
            "progress": [now.step, now.stage_step, now.stage_steps, now.tokens],
        }

    def _missing(self) -> int:
        """Groups that the batch still lacks, those that go on or wait for a verdict not counted."""
        states = (GroupState.ADMITTED, GroupState.REPLACED, GroupState.CONTINUED)
        return self._settings.prompts_per_step - len(self._ledger.of(*states))

    def _in_line(self) -> list[GroupId]:
        """Admitted groups, those of earlier steps first."""
        admitted = self._ledger.of(GroupState.ADMITTED)
        return sorted(admitted, key=lambda group: (self._ledger.entries[group].step, group))

    def _next_round(self) -> Round:
        """The candidates of the round that comes, drawn once."""
        if self._now.prepared is None:
            spent = self._now.openings > self._settings.refill_rounds
            missing = 0 if spent else max(0, self._missing())
            wanted = math.ceil(missing * self._settings.oversample)
            in_flight = {group_id.uid for group_id in self._ledger.entries}
            self._now.prepared = self._rounds.draw(
                self._step,
                self._now.round,
                self._parts.plan.groups(wanted) if wanted else 0,
                self._progress,
                in_flight,
            )
        return self._now.prepared

    def _open(self, round_: Round, predicted: Sequence[float]) -> list[GroupId]:
        """New groups of the chosen candidates, with the line of the log that tells how they were chosen."""
        if not round_.count:
            return []
        choice = self._rounds.choose(round_, predicted, self._progress)
        first = self._parts.plan.first(self._settings.group_size)
        levels, shown = self._hints([one for one, _ in choice.prompts])
        opened = [
            self._ledger.open(
                self._stage,
                self._pool.prompt(one.distribution, one.index, self._progress, hint),
                first,
                self._step,
                one.index,
                expected,
                self._version,
            )
            for (one, expected), hint in zip(choice.prompts, shown, strict=True)
        ]
        ages = self._history.ages([one.uid for one, _ in choice.prompts], self._step).tolist()
        self._now.ages += [age for age in ages if not math.isnan(age)]
        self._now.log.append(
            {
                **self._place("draw"),
                **draw_fields(round_, choice, self._parts.scorer, self._settings.log_candidates),
                "groups": [
                    {
                        "distribution": one.distribution,
                        "index": one.index,
                        **group_key(group_id),
                        **({"level": level, "hint": hint} if self._parts.hints else {}),
                    }
                    for (one, _), group_id, level, hint in zip(
                        choice.prompts, opened, levels, shown, strict=True
                    )
                ],
            }
        )
        self._now.openings += 1
        return opened

    def _hints(self, chosen: Sequence[Candidate]) -> tuple[list[int], list[int]]:
        """The level of each prompt of a round, and the hint that it shows."""
        hints = self._parts.hints
        if hints is None:
            return [0] * len(chosen), [0] * len(chosen)
        levels = hints.levels(chosen)
        shown = hints.shown(levels, self._now.opened, self._now.hinted)
        self._now.opened += len(chosen)
        self._now.hinted += sum(hint > 0 for hint in shown)
        return levels, shown

    def _settle(self) -> None:
        """Every sample that was asked for has come: the plan continues or drops groups, gates judge what is complete."""
        size = self._settings.group_size
        outcomes = []
        for group_id in self._ledger.of(GroupState.PROBED):
            outcome = self._outcome(group_id, "trained")
            entry = self._ledger.entries[group_id]
            if entry.phase and entry.wanted >= size:  # else the plan has not seen it yet
                self._judge(outcome)
            else:
                outcomes.append(outcome)
        missing = max(0, self._missing())
        plan = self._parts.plan
        more = answers.more(plan, plan.then(outcomes, missing, size), len(outcomes))
        said: list[dict[str, Any]] = []
        for outcome, samples in zip(outcomes, more, strict=True):
            if samples:
                self._ledger.ask_more(outcome.group_id, samples)
            elif samples is None:
                self._refuse(outcome.group_id, "probed")
            else:
                self._judge(outcome)
            said.append({**outcome_line(outcome), "more": samples})
        if any(one["more"] != 0 for one in said):
            line = {**self._place("continue"), "round": self._now.round}
            self._now.log.append({**line, "missing": missing, "group_size": size, "groups": said})

    def _judge(self, outcome: GroupOutcome) -> None:
        group_id = outcome.group_id
        entry = self._ledger.entries[group_id]
        self._now.delivered[group_id] = AdmittedGroup(group_id, entry.prompt, entry.samples)
        entry.state = GroupState.ADMITTED
        if len(outcome.rewards) < 2:
            self._refuse(group_id, "failed")
            return
        verdict = strongest(gate.judge(outcome) for gate in self._parts.gates)
        if verdict is Verdict.REFUSE:
            self._refuse(group_id, "gated")
        elif verdict is Verdict.REPLACE:
            entry.state = GroupState.REPLACED

    def _refuse(self, group_id: GroupId, why: Disposition) -> None:
        self._ledger.entries[group_id].state = GroupState.DROPPED
        self._now.refused[group_id] = why

    def _composed(self) -> dict[GroupId, int]:
        """The groups of the batch and how often each stands in it. Those that were replaced end here."""
        size = self._settings.prompts_per_step
        admitted, replaced = self._in_line(), self._ledger.of(GroupState.REPLACED)
        for group_id in replaced:
            self._refuse(group_id, "replaced")
        if replaced and len(admitted) <= self._least_share() * (len(admitted) + len(replaced)):
            return {}  # nothing is trained; the admitted ones wait
        copies = dict.fromkeys(admitted[:size], 1)
        spare = min(size - len(copies), len(replaced)) if copies else 0
        if spare:
            place = (self._run_seed, self._stage, self._step)
            for number in draw_copies(*place, len(copies), spare):
                copies[admitted[number]] += 1
        if self._settings.refill_fallback == "train_gated":
            gated = sorted(group for group, why in self._now.refused.items() if why == "gated")
            for group_id in gated[: size - sum(copies.values())]:
                del self._now.refused[group_id]
                copies[group_id] = 1
        return copies

    def _least_share(self) -> float:
        """Largest share of admitted groups at which a gate that replaces skips the batch."""
        return max((getattr(gate, "min_share", 0.0) for gate in self._parts.gates), default=0.0)

    def _weights(
        self, trained: Sequence[GroupOutcome], copies: Mapping[GroupId, int]
    ) -> dict[GroupId, float]:
        """Factor on the advantages of each group of the batch: the product over the weight parts."""
        raw = {one.group_id: self._parts.weight(one, self._progress) for one in trained}
        factor = 1.0
        if self._settings.normalise_weights:
            total = sum(raw[group] * times for group, times in copies.items())
            factor = sum(copies.values()) / total if total > 0 else 1.0
        weights = {group: weight * factor for group, weight in raw.items()}
        if any(weights[group] != 1 or times != 1 for group, times in copies.items()):
            gated = self._ledger.of(GroupState.DROPPED)  # that fill the batch all the same
            self._now.log.append(
                {
                    **self._place("take"),
                    "admitted": len(copies) - sum(group in copies for group in gated),
                    "groups": [
                        {
                            **group_key(group),
                            "raw_weight": raw[group],
                            "weight": weights[group],
                            "copies": times,
                        }
                        for group, times in copies.items()
                    ],
                }
            )
        return weights

    def _outcome(self, group_id: GroupId, disposition: Disposition) -> GroupOutcome:
        entry = self._ledger.entries[group_id]
        versions = [one.policy_version for one in entry.samples if one.policy_version >= 0]
        version = min(versions, default=entry.version)  # recorded samples are of no version
        lag = max(0, self._version - version)
        late = lag > self._settings.max_lag
        return GroupOutcome.of(
            group_id,
            entry.prompt.distribution,
            entry.samples,
            step=self._step,
            policy_version=version,
            disposition=disposition,
            weight=0.0 if late or entry.prompt.hint else self._settings.lag_discount**lag,
            expected=entry.expected,
            hint=entry.prompt.hint,
        )

    def _admitted(self, group_id: GroupId, weight: float, copies: int) -> AdmittedGroup:
        entry = self._ledger.entries[group_id]
        return AdmittedGroup(group_id, entry.prompt, judged(entry.samples), weight, copies)

    def _finish(self, outcomes: Sequence[GroupOutcome], groups: Sequence[AdmittedGroup]) -> None:
        """The rest of the step's log, its metrics, and the watch over steps without a batch."""
        self._now.outcomes = list(outcomes)
        self._now.log += self._pool_lines(self._step + 1)
        self._now.log.append(
            {**self._place("outcomes"), "groups": [outcome_line(one) for one in outcomes]}
        )
        self._metrics = {
            "curriculum/rounds": self._now.round,
            "curriculum/groups/carried": len(self.carried()),
            "curriculum/candidates/sum": self._rounds.stream.looked,
            "curriculum/candidates/excluded": self._rounds.stream.excluded,
            "curriculum/candidates/forced": self._rounds.stream.forced,
            **{f"curriculum/probability/{name}": p for name, p in self._probabilities().items()},
            **batch_metrics(outcomes, groups, list(self._pool.sizes)),
            **self._ledger.metrics(self._pool.sizes),
        }
        for part in self._parts.named().values():
            self._metrics |= part.metrics()
        self._watch_empty_steps(groups, outcomes)

    def _pool_lines(self, step: int) -> list[dict[str, Any]]:
        """What went out of the pool and came back by the last thing that the parts were told, a line a part."""
        lines = []
        for place, part in self._parts.named().items():
            changes = part.changes() if isinstance(part, Excluding) else []
            if changes:
                line = {"kind": "pool", "step": step, "stage": self._stage, "part": place}
                line["n"] = len(changes)
                if len(changes) <= self._settings.log_candidates:
                    line["prompts"] = changes
                lines.append(line)
        return lines

    def _watch_empty_steps(
        self, groups: Sequence[AdmittedGroup], outcomes: Sequence[GroupOutcome]
    ) -> None:
        self._empty_steps = 0 if groups else self._empty_steps + 1
        if self._empty_steps < self._settings.max_empty_steps:
            return
        rates: dict[str, list[float]] = {}
        for one in outcomes:
            if one.pass_rate is not None:
                rates.setdefault(one.distribution, []).append(one.pass_rate)
        shown = ", ".join(f"{name} {sum(r) / len(r):.2f}" for name, r in rates.items())
        raise RunError(
            f"no group was admitted in {self._empty_steps} steps in a row (curriculum.max_empty_steps). Pass rates in "
            f"the last step: {shown or 'none was judged'}. Where all are 0 or 1 the prompts are too hard or too easy for "
            "the policy: change the mixture, raise curriculum.group_size, or leave out the gate. Where none was judged, "
            "look at the rewards' failures in events.jsonl."
        )
