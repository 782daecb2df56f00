"""Tables and sentences on simulations and replays: plain values, for a terminal, CSV and JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlcurric.recipe.schema import Recipe
from rlcurric.recipe.stages import RlStage
from rlcurric.simulate.replay import KINDS, Covered, Replayed
from rlcurric.simulate.run import STOPPED, SeedResult, unknowable
from rlcurric.simulate.steps import StageEnd, StepShare
from rlcurric.simulate.world import World

SLICES = 5  # of a stage, in which shares are told


@dataclass(frozen=True)
class Table:
    """Something to print."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def simulation_tables(recipe: Recipe, world: World, results: Sequence[SeedResult]) -> list[Table]:
    """One line a stage, then for every RL stage one a distribution."""
    tables = [_stage_table(recipe, results)]
    for stage in recipe.stages:
        if isinstance(stage, RlStage):
            shares = [one for result in results for one in result.shares if one.stage == stage.name]
            if shares:
                tables.append(_shares_table(stage, world, results, shares))
    return tables


def simulation_sentences(recipe: Recipe, results: Sequence[SeedResult]) -> list[str]:
    """What a reader must know beside the tables: where a run would stop, what starves, what could not be known."""
    said = []
    for stage in recipe.stages:
        ends = [one for result in results for one in result.ends if one.stage == stage.name]
        stopped = [one for one in ends if one.reason == STOPPED]
        if stopped:
            said.append(
                f"stage {stage.name}: the run would end at step {stopped[0].last_step + 1}"
                f"{_of(len(stopped), len(results))}: {stopped[0].values['said']}"
            )
        said += _starving(stage.name, results)
        said += _warned(stage.name, ends, len(results))
    for name, conditions in unknowable(recipe).items():
        said.append(
            f"stage {name}: not simulated, so that it ends nothing here: until.{', until.'.join(conditions)}"
        )
    return said


def simulation_rows(results: Sequence[SeedResult]) -> list[dict[str, Any]]:
    """A row for every seed, step and distribution."""
    return [one.to_row() for result in results for one in result.shares]


def stage_rows(results: Sequence[SeedResult]) -> list[dict[str, Any]]:
    """A row for every seed and stage."""
    return [
        {
            **{key: getattr(one, key) for key in ("seed", "stage", "kind", "steps", "last_step")},
            "ends_by": one.reason,
            "seen": dict(one.values),
            "tokens": one.tokens,
            "solve_rate_before": dict(one.before),
            "solve_rate_after": dict(one.after),
            "warnings": [vars(said) for said in one.warnings],
        }
        for result in results
        for one in result.ends
    ]


def _stage_table(recipe: Recipe, results: Sequence[SeedResult]) -> Table:
    rows = []
    for stage in recipe.stages:
        ends = [one for result in results for one in result.ends if one.stage == stage.name]
        if not ends:
            rows.append((stage.name, stage.kind, "not reached", *[""] * 5))
            continue
        shares = [one for result in results for one in result.shares if one.stage == stage.name]
        steps = sum(one.steps for one in ends)
        chosen = isinstance(stage, RlStage)
        rows.append(
            (
                *(stage.name, stage.kind, _spread([one.steps for one in ends])),
                _reasons(ends),
                _number(sum(one.tokens for one in ends) / len(ends)) if chosen else "",
                _number(sum(one.rollouts for one in shares) / len(ends)) if chosen else "",
                f"{sum(one.trained for one in shares) / steps:.1f}" if chosen and steps else "",
                _solved(ends) if chosen else "",
            )
        )
    columns = (
        "stage",
        "kind",
        "steps",
        "ends by",
        "tokens",
        "rollouts",
        "trained/step",
        "solve rate",
    )
    return Table(f"{recipe.name}: stages, mean of {len(results)} seeds", columns, rows)


def _shares_table(
    stage: RlStage, world: World, results: Sequence[SeedResult], shares: Sequence[StepShare]
) -> Table:
    ends = [one for result in results for one in result.ends if one.stage == stage.name]
    rows = []
    for name in stage.mixture:
        own = [one for one in shares if one.distribution == name]
        asked, size = sum(one.asked for one in own), world.sizes[name]
        trained, refused = sum(one.trained for one in own), sum(one.refused for one in own)
        visited = sum(one.visited.get(name, 0) for one in ends) / len(ends)
        rows.append(
            (
                *(name, str(size), " ".join(_slices(shares, name))),
                _number(asked / len(ends)),
                f"{visited / size:.0%}",
                f"{refused / (trained + refused):.0%}" if trained + refused else "-",
                f"{_mean(one.before[name] for one in ends):.2f} > {_mean(one.after[name] for one in ends):.2f}",
                str(max(_gap(result, stage.name, name) for result in results)),
                _number(sum(one.tokens for one in own) / len(ends)),
            )
        )
    columns = (
        *("distribution", "rows", f"share, by {SLICES} parts of the stage", "groups", "visited"),
        *("refused", "solve rate", "longest gap", "tokens"),
    )
    return Table(f"stage {stage.name}", columns, rows)


def _slices(shares: Sequence[StepShare], name: str) -> list[str]:
    """Share of the groups that were asked of a distribution, in equal parts of every seed's stage."""
    last: dict[int, int] = {}
    for one in shares:
        last[one.seed] = max(last.get(one.seed, 0), one.stage_step)
    mine, every = [0] * SLICES, [0] * SLICES
    for one in shares:
        place = (one.stage_step - 1) * SLICES // last[one.seed]
        every[place] += one.asked
        mine[place] += one.asked if one.distribution == name else 0
    return [f"{a / b:.2f}" if b else " -  " for a, b in zip(mine, every, strict=True)]


def _gap(result: SeedResult, stage: str, name: str) -> int:
    """Most steps in a row of a stage in which nothing was asked of a distribution."""
    longest = now = 0
    for one in result.shares:
        if one.stage == stage and one.distribution == name:
            now = 0 if one.asked else now + 1
            longest = max(longest, now)
    return longest


def _starving(stage: str, results: Sequence[SeedResult]) -> list[str]:
    """Distributions of which nothing was drawn, or all that was drawn was refused."""
    undrawn: Counter[str] = Counter()
    untrained: Counter[str] = Counter()
    for result in results:
        asked: Counter[str] = Counter()
        trained: Counter[str] = Counter()
        for one in result.shares:
            if one.stage == stage:
                asked[one.distribution] += one.asked
                trained[one.distribution] += one.trained
        undrawn.update(name for name, count in asked.items() if not count)
        untrained.update(name for name in asked if asked[name] and not trained[name])
    said = [
        f"stage {stage}: {name} starves: it is never drawn{_of(count, len(results))}"
        for name, count in undrawn.items()
    ]
    return said + [
        f"stage {stage}: {name} starves: it is drawn, and no group of it is ever trained{_of(count, len(results))}"
        for name, count in untrained.items()
    ]


def _warned(stage: str, ends: Sequence[StageEnd], seeds: int) -> list[str]:
    """What guard-rails would say: each once, as it is first said."""
    first: dict[str, tuple[int, str]] = {}
    count: Counter[str] = Counter()
    for end in ends:
        count.update({one.guard for one in end.warnings})
        for one in end.warnings:
            first.setdefault(one.guard, (one.step, one.message))
    return [
        f"stage {stage}: guard {guard}{_of(count[guard], seeds)}, step {step}: {message}"
        for guard, (step, message) in first.items()
    ]


def _reasons(ends: Sequence[StageEnd]) -> str:
    counts = Counter("the run would end" if one.reason == STOPPED else one.reason for one in ends)
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{reason} ({count})" for reason, count in counts.most_common())


def _solved(ends: Sequence[StageEnd]) -> str:
    """Mean over distributions and seeds, before and after, with the spread over seeds."""
    before = [_mean(one.before.values()) for one in ends]
    after = [_mean(one.after.values()) for one in ends]
    spread = f" ±{_deviation(after):.3f}" if len(after) > 1 else ""
    return f"{_mean(before):.3f} > {_mean(after):.3f}{spread}"


def _of(count: int, seeds: int) -> str:
    return "" if count == seeds else f" (in {count} of {seeds} seeds)"


def replay_tables(found: Replayed, given: Mapping[str, Any]) -> list[Table]:
    """Coverage by distribution, and over the steps, stage by stage."""
    tables = [
        Table(
            f"{given['recipe']} on the record of {given['run']}",
            ("stage", "steps", "decisions as recorded", "ended"),
            [
                (
                    one.stage,
                    f"{one.steps} of {one.recorded_steps}",
                    f"{one.identical} of {one.steps} steps",
                    one.ended,
                )
                for one in found.stages
            ],
        )
    ]
    for stage in found.stages:
        own = [one for one in found.covered if one.stage == stage.stage]
        names = dict.fromkeys(one.distribution for one in own)
        rows = [
            _covered_row(name, [one for one in own if one.distribution == name]) for name in names
        ]
        columns = (
            *("distribution", "asked", "recorded", *KINDS, "covered", "probability", "recorded"),
            *("pass rate", "recorded", "signal", "tokens"),
        )
        tables.append(Table(f"stage {stage.stage}: by distribution", columns, rows))
        slices = _by_slice(own)
        tables.append(
            Table(
                f"stage {stage.stage}: over the steps",
                ("steps", "asked", "covered", "pass rate", "recorded", "distance of probabilities"),
                slices,
            )
        )
    return tables


def replay_sentences(found: Replayed, window: int, missing: str) -> list[str]:
    """Whether the record was reproduced, and what to make of the estimates."""
    asked = sum(one.asked for one in found.covered)
    covered = sum(one.answered for one in found.covered)
    said = list(found.notes)
    if found.identical:
        said.append(
            f"every decision of the record's {found.steps} steps came out again, line by line"
        )
    else:
        said.append(f"decisions first differ from the record at {found.first_difference}")
        said.append(
            f"the record answers for {covered} of {asked} groups ({covered / max(1, asked):.0%}), prompts that it sampled "
            f"within {window} steps; pass rates, signal and tokens are of these alone. Of the others: --missing {missing}"
        )
    return said


def replay_rows(found: Replayed) -> list[dict[str, Any]]:
    """A row for every step and distribution."""
    return [one.to_row() for one in found.covered]


def _covered_row(name: str, own: Sequence[Covered]) -> tuple[str, ...]:
    asked, answered = sum(one.asked for one in own), sum(one.answered for one in own)
    waits = sum(one.open for one in own)
    return (
        *(name, str(asked), str(sum(one.recorded_asked for one in own))),
        *(str(sum(getattr(one, kind) for one in own)) for kind in KINDS),
        f"{(answered + waits) / asked:.0%}" if asked else "-",
        *(
            f"{_mean(getattr(one, key) for one in own):.3f}"
            for key in ("probability", "recorded_probability")
        ),
        f"{sum(one.right for one in own) / answered:.3f}" if answered else "-",
        _recorded(own),
        f"{sum(one.informative for one in own) / answered:.0%}" if answered else "-",
        _number(sum(one.tokens for one in own)) if answered else "-",
    )


def _recorded(own: Sequence[Covered]) -> str:
    """Pass rate of what the run itself asked, every group alike."""
    known = [
        (one.recorded_pass_rate, one.recorded_asked)
        for one in own
        if one.recorded_pass_rate is not None
    ]
    groups = sum(count for _, count in known)
    return f"{sum(rate * count for rate, count in known) / groups:.3f}" if groups else "-"


def _by_slice(own: Sequence[Covered]) -> Sequence[tuple[str, ...]]:
    steps = sorted({one.step for one in own})
    rows = []
    for part in range(SLICES):
        mine = steps[part * len(steps) // SLICES : (part + 1) * len(steps) // SLICES]
        if not mine:
            continue
        here = [one for one in own if mine[0] <= one.step <= mine[-1]]
        asked, answered = sum(one.asked for one in here), sum(one.answered for one in here)
        distance = (
            sum(abs(one.probability - one.recorded_probability) for one in here) / 2 / len(mine)
        )
        rows.append(
            (
                f"{mine[0]}-{mine[-1]}" if len(mine) > 1 else str(mine[0]),
                str(asked),
                f"{(answered + sum(one.open for one in here)) / asked:.0%}" if asked else "-",
                f"{sum(one.right for one in here) / answered:.3f}" if answered else "-",
                _recorded(here),
                f"{distance:.3f}",
            )
        )
    return rows


def learner_table(spec: Any, names: Sequence[str]) -> Table:
    """The curves that were assumed."""
    rows = []
    for name in names:
        one = spec.curves[name]
        given = ", ".join(f"{other} {share:g}" for other, share in one.transfer.items())
        rows.append(
            (
                *(name, f"{one.ability:g}", f"{one.difficulty:.2f}", f"{one.spread:g}"),
                *(f"{one.discrimination:g}", f"{one.guess:g}", f"{one.slip:g}", f"{one.rate:g}"),
                *(f"{one.forgetting:g}", given or "-"),
                "-" if one.length.median is None else f"{one.length.median:g}",
            )
        )
    columns = (
        *("distribution", "ability", "difficulty", "spread", "slope", "guess", "slip", "rate"),
        *("forgetting", "transfer", "median length"),
    )
    return Table("the learner (logits)", columns, rows)


def _number(value: float) -> str:
    """A count in few digits."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= size:
            return f"{value / (1e3 if unit == 'k' else size):.3g}{unit}"
    return f"{value:.0f}"


def _spread(values: Sequence[int]) -> str:
    if min(values) == max(values):
        return str(values[0])
    return f"{_mean(values):.1f} ({min(values)}-{max(values)})"


def _mean(values: Iterable[float]) -> float:
    known = list(values)
    return sum(known) / len(known) if known else 0.0


def _deviation(values: Sequence[float]) -> float:
    """Of the sample, over seeds."""
    mean = _mean(values)
    return float((sum((one - mean) ** 2 for one in values) / max(1, len(values) - 1)) ** 0.5)
