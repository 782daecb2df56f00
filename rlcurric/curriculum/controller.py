"""The curriculum's side of a step: ask for groups, take what comes, decide what is trained.

    while not controller.ready():
        controller.deliver(score(engine.run(controller.requests())))
    batch = controller.take()

Refill after a gate, surplus carried to the next step and repeated steps all happen inside these four calls. Lives on
rank 0 alone.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rlcurric import seeds
from rlcurric.curriculum.gates import Gate
from rlcurric.curriculum.ledger import Entry, GroupState, Ledger
from rlcurric.curriculum.samplers import Sampler
from rlcurric.errors import RunError
from rlcurric.schedules import Progress
from rlcurric.types import (
    AdmittedGroup,
    Batch,
    Delivery,
    Disposition,
    GroupId,
    GroupOutcome,
    PromptPool,
    Request,
)

STATE_VERSION = 1


@dataclass(frozen=True)
class ControllerSettings:
    """How much a step asks for."""

    prompts_per_step: int
    group_size: int
    refill_rounds: int = 3  # extra rounds for groups that a gate refused or that failed
    refill_fallback: Literal["train_smaller", "train_gated"] = "train_smaller"
    oversample: float = 1.0  # groups asked for, relative to those missing
    max_empty_steps: int = 5  # steps in a row without an admitted group before the run stops

    def __post_init__(self) -> None:
        if (
            self.prompts_per_step < 1
            or self.group_size < 2
            or self.refill_rounds < 0
            or self.oversample < 1
        ):
            raise ValueError(
                "A curriculum needs prompts_per_step >= 1, group_size >= 2, refill_rounds >= 0 and oversample >= 1, "
                f"got {self}"
            )


class Controller:
    """Composes sampler and gate over one stage's pool, with the ledger of the run."""

    def __init__(
        self,
        pool: PromptPool,
        sampler: Sampler,
        gate: Gate | None,
        settings: ControllerSettings,
        run_seed: int,
        stage: str,
    ) -> None:
        self._pool, self._sampler, self._gate, self._settings = pool, sampler, gate, settings
        self._run_seed, self._stage = run_seed, stage
        self._ledger = Ledger()
        self._drawn = dict.fromkeys(
            pool.sizes, 0
        )  # prompts drawn from each distribution in this stage
        self._seen = dict.fromkeys(pool.sizes, 0)  # of them for the first time
        self._empty_steps = 0
        self._step, self._progress = 0, Progress(0, 0)
        self._round = 0
        self._log: list[dict[str, Any]] = []
        self._metrics: dict[str, float] = {}
        self._refused: dict[GroupId, Disposition] = {}
        self._delivered: dict[GroupId, AdmittedGroup] = {}
        self._snapshot: dict[str, Any] = self.state_dict()

    def begin(self, step: int, progress: Progress) -> None:
        """Start a step. What `abandon` goes back to is noted here."""
        self._snapshot = copy.deepcopy(self.state_dict())
        self._step, self._progress, self._round = step, progress, 0
        self._log, self._refused, self._delivered = [], {}, {}

    def ready(self) -> bool:
        """Whether the batch can be taken: enough admitted groups, or the refill budget is spent."""
        if self._ledger.of(GroupState.REQUESTED, GroupState.PARTIAL):
            return False
        if self._missing() <= 0:
            return True
        return self._round > self._settings.refill_rounds

    def requests(self) -> list[Request]:
        """Groups to sample now: what is still missing, drawn anew."""
        assert not self.ready(), "requests() after ready()"
        wanted = -int(-self._missing() * self._settings.oversample // 1)
        probabilities = self._sampler.probabilities(self._progress)
        names = self._draw_distributions(self._step, self._round, probabilities, wanted)
        chosen = [(name, self._next_index(name)) for name in names]
        opened = []
        for name, index in chosen:
            prompt = self._pool.prompt(name, index)
            opened.append(
                self._ledger.open(self._stage, prompt, self._settings.group_size, self._step)
            )
        self._log.append(
            {
                "kind": "draw",
                "step": self._step + 1,
                "stage": self._stage,
                "round": self._round,
                "part": "sampler",
                "probabilities": probabilities,
                "groups": [
                    {
                        "distribution": name,
                        "index": index,
                        "uid": f"{group.uid:016x}",
                        "visit": group.visit,
                    }
                    for (name, index), group in zip(chosen, opened, strict=True)
                ],
            }
        )
        self._round += 1
        return [
            self._ledger.request(group_id, seeds.hash64(self._run_seed, *group_id))
            for group_id in sorted(opened)
        ]

    def delivered(self) -> tuple[AdmittedGroup, ...]:
        """Every group that became complete in this step, whatever became of it, failed samples included."""
        return tuple(self._delivered[group] for group in sorted(self._delivered))

    def deliver(self, deliveries: Iterable[Delivery]) -> None:
        """Take scored rollouts, in any order; a group whose samples are complete is admitted or refused."""
        for delivery in sorted(deliveries, key=lambda delivery: delivery.group_id):
            entry = self._ledger.deliver(delivery)
            if len(entry.samples) == entry.wanted:
                whole = AdmittedGroup(delivery.group_id, entry.prompt, entry.samples)
                self._delivered[delivery.group_id] = whole
                self._judge(delivery.group_id, entry)

    def take(self) -> Batch:
        """The step's batch in group_id order. Every group that ended is observed, once, in group_id order."""
        assert self.ready(), "take() before ready()"
        admitted = self._in_line()
        batch_ids = admitted[: self._settings.prompts_per_step]
        if self._settings.refill_fallback == "train_gated":
            gated = sorted(group for group, why in self._refused.items() if why == "gated")
            spare = gated[: self._settings.prompts_per_step - len(batch_ids)]
            for group in spare:
                del self._refused[group]
            batch_ids = [*batch_ids, *spare]
        groups = tuple(self._admitted(group_id) for group_id in sorted(batch_ids))
        ended: dict[GroupId, Disposition] = {**dict.fromkeys(batch_ids, "trained"), **self._refused}
        outcomes = [
            self._outcome(group, self._ledger.entries[group], ended[group])
            for group in sorted(ended)
        ]
        for outcome in outcomes:
            state = GroupState.TRAINED if outcome.disposition == "trained" else GroupState.DROPPED
            self._ledger.end(outcome.group_id, state)
        self._sampler.observe(outcomes)
        self._ledger.balance()
        self._log.append(
            {
                "kind": "outcomes",
                "step": self._step + 1,
                "stage": self._stage,
                "groups": [_log_outcome(o) for o in outcomes],
            }
        )
        self._metrics = self._measure(outcomes, groups)
        self._watch_empty_steps(groups, outcomes)
        return Batch(self._step, groups)

    def abandon(self) -> None:
        """Go back to the start of the step, as if it had never begun."""
        self.load_state_dict(self._snapshot)
        self._log, self._refused, self._round = [], {}, 0

    def decisions(self) -> list[dict[str, Any]]:
        """The step's lines of decisions.jsonl. `replay_draw` recomputes a draw from its line."""
        return list(self._log)

    def metrics(self) -> dict[str, float]:
        """`curriculum/...` of the last batch taken."""
        return dict(self._metrics)

    def carried(self) -> list[GroupId]:
        """Admitted groups that wait for the next step: their tokens must be kept."""
        return self._ledger.of(GroupState.ADMITTED)

    def state_dict(self) -> dict[str, Any]:
        """All that the next decision depends on, as JSON."""
        return {
            "version": STATE_VERSION,
            "ledger": self._ledger.state_dict(),
            "drawn": dict(self._drawn),
            "seen": dict(self._seen),
            "empty_steps": self._empty_steps,
            "sampler": self._sampler.state_dict(),
            "gate": self._gate.state_dict() if self._gate else {},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse; ValueError if the state is of another release or of other distributions."""
        if state["version"] != STATE_VERSION:
            raise ValueError(
                f"The curriculum's state has version {state['version']}, this release reads {STATE_VERSION}"
            )
        if set(state["drawn"]) != set(self._drawn):
            raise ValueError(
                f"The curriculum's state is of the distributions {sorted(state['drawn'])}, the stage has "
                f"{sorted(self._drawn)}"
            )
        self._ledger.load_state_dict(state["ledger"])
        self._drawn = dict(state["drawn"])
        self._seen = dict(state["seen"])
        self._empty_steps = state["empty_steps"]
        self._sampler.load_state_dict(state["sampler"])
        if self._gate:
            self._gate.load_state_dict(state["gate"])

    def carry_over(self, state: Mapping[str, Any], statistics: bool) -> None:
        """Begin a stage from the state of the one before: visits always, the sampler's statistics if asked.

        Groups carried over from a stage that ended are dropped: they were asked for under its settings.
        """
        self._ledger.load_state_dict(state["ledger"], with_entries=False)
        if statistics:
            self._sampler.load_state_dict(state["sampler"])

    def _missing(self) -> int:
        return self._settings.prompts_per_step - len(self._ledger.of(GroupState.ADMITTED))

    def _in_line(self) -> list[GroupId]:
        """Admitted groups, those of earlier steps first."""
        admitted = self._ledger.of(GroupState.ADMITTED)
        return sorted(admitted, key=lambda group: (self._ledger.entries[group].step, group))

    def _draw_distributions(
        self, step: int, round_: int, probabilities: Mapping[str, float], count: int
    ) -> list[str]:
        return draw_distributions(self._run_seed, self._stage, step, round_, probabilities, count)

    def _next_index(self, name: str) -> int:
        """Without replacement within an epoch of the distribution, by a keyed permutation: no stored order."""
        size = self._pool.sizes[name]
        epoch, cursor = divmod(self._drawn[name], size)
        self._drawn[name] += 1
        self._seen[name] = min(size, self._drawn[name])
        return prompt_index(self._run_seed, self._stage, name, epoch, cursor, size)

    def _judge(self, group_id: GroupId, entry: Entry) -> None:
        outcome = self._outcome(group_id, entry, "trained")
        entry.state = GroupState.ADMITTED
        if len(outcome.correct) < 2:
            self._refuse(group_id, entry, "failed")
        elif self._gate is not None and not self._gate.admits(outcome):
            self._refuse(group_id, entry, "gated")

    def _refuse(self, group_id: GroupId, entry: Entry, why: Disposition) -> None:
        entry.state = GroupState.DROPPED
        self._refused[group_id] = why

    def _outcome(self, group_id: GroupId, entry: Entry, disposition: Disposition) -> GroupOutcome:
        judged = [sample for sample in entry.samples if not sample.status.is_failure]
        return GroupOutcome(
            group_id=group_id,
            distribution=entry.prompt.distribution,
            step=self._step,
            rewards=tuple(sample.reward for sample in judged),
            correct=tuple(0.0 if sample.correct is None else sample.correct for sample in judged),
            lengths=tuple(sample.length for sample in judged),
            n_failed=len(entry.samples) - len(judged),
            policy_version=min((sample.policy_version for sample in entry.samples), default=0),
            disposition=disposition,
        )

    def _admitted(self, group_id: GroupId) -> AdmittedGroup:
        entry = self._ledger.entries[group_id]
        judged = tuple(sample for sample in entry.samples if not sample.status.is_failure)
        return AdmittedGroup(group_id, entry.prompt, judged)

    def _measure(
        self, outcomes: Sequence[GroupOutcome], groups: Sequence[AdmittedGroup]
    ) -> dict[str, float]:
        draws = [line for line in self._log if line["kind"] == "draw"]
        metrics: dict[str, float] = {
            "curriculum/rounds": len(draws),
            "curriculum/groups/ended": len(outcomes),
            "curriculum/groups/gated": sum(outcome.disposition == "gated" for outcome in outcomes),
            "curriculum/groups/failed": sum(
                outcome.disposition == "failed" for outcome in outcomes
            ),
            "curriculum/groups/carried": len(self.carried()),
            "curriculum/samples/failed": sum(outcome.n_failed for outcome in outcomes),
            "curriculum/coverage": sum(self._seen.values()) / sum(self._pool.sizes.values()),
        }
        if outcomes:
            informative = sum(len(set(outcome.correct)) > 1 for outcome in outcomes)
            metrics["curriculum/informative"] = informative / len(outcomes)
        probabilities = (
            draws[-1]["probabilities"] if draws else self._sampler.probabilities(self._progress)
        )
        metrics |= {
            f"curriculum/probability/{name}": value for name, value in probabilities.items()
        }
        for name in self._pool.sizes:
            rates = [
                o.pass_rate for o in outcomes if o.distribution == name and o.pass_rate is not None
            ]
            if rates:
                metrics[f"curriculum/pass_rate/{name}"] = sum(rates) / len(rates)
        return {
            **metrics,
            **self._sampler.metrics(),
            **(self._gate.metrics() if self._gate else {}),
        }

    def _watch_empty_steps(
        self, groups: Sequence[AdmittedGroup], outcomes: Sequence[GroupOutcome]
    ) -> None:
        self._empty_steps = 0 if groups else self._empty_steps + 1
        if self._empty_steps >= self._settings.max_empty_steps:
            rates = {
                name: [
                    o.pass_rate
                    for o in outcomes
                    if o.distribution == name and o.pass_rate is not None
                ]
                for name in self._pool.sizes
            }
            shown = (
                ", ".join(f"{name} {sum(r) / len(r):.2f}" for name, r in rates.items() if r)
                or "none was judged"
            )
            raise RunError(
                f"no group was admitted in {self._empty_steps} steps in a row (curriculum.max_empty_steps). Pass rates in "
                f"the last step: {shown}. Where all are 0 or 1 the prompts are too hard or too easy for the policy: "
                "change the mixture, raise curriculum.group_size, or leave out the gate. Where none was judged, look at "
                "the rewards' failures in events.jsonl."
            )


def draw_distributions(
    run_seed: int,
    stage: str,
    step: int,
    round_: int,
    probabilities: Mapping[str, float],
    count: int,
) -> list[str]:
    """The distributions of one round: a pure function of the run's seed, the place and the probabilities."""
    names = list(probabilities)
    generator = seeds.philox(run_seed, f"sampler/{stage}", step, round_)
    cumulative, total = [], 0.0
    for name in names:
        total += probabilities[name]
        cumulative.append(total)
    points = generator.random(count) * total
    return [
        names[min(len(names) - 1, sum(point >= edge for edge in cumulative))]
        for point in points.tolist()
    ]


def prompt_index(run_seed: int, stage: str, name: str, epoch: int, cursor: int, size: int) -> int:
    """The `cursor`-th prompt of an epoch over a distribution."""
    return seeds.permuted_index(cursor, size, seeds.hash64(run_seed, "prompts", stage, name, epoch))


def replay_draw(run_seed: int, line: Mapping[str, Any]) -> list[str]:
    """Recompute the distributions that a `draw` line of the decision log chose."""
    return draw_distributions(
        run_seed,
        line["stage"],
        line["step"] - 1,
        line["round"],
        line["probabilities"],
        len(line["groups"]),
    )


def _log_outcome(outcome: GroupOutcome) -> dict[str, Any]:
    return {
        "uid": f"{outcome.group_id.uid:016x}",
        "visit": outcome.group_id.visit,
        "distribution": outcome.distribution,
        "pass_rate": outcome.pass_rate,
        "reward": sum(outcome.rewards) / len(outcome.rewards) if outcome.rewards else None,
        "n": len(outcome.correct),
        "failed": outcome.n_failed,
        "disposition": outcome.disposition,
        "policy_version": outcome.policy_version,
    }
