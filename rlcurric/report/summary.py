"""What a run achieved: held-out accuracy and length by distribution, before RL and after; a table and a plot."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from rlcurric.report.tables import RunTables, read_run


@dataclass(frozen=True)
class Change:
    """One distribution before RL (None where there was no evaluation then) and after."""

    name: str
    accuracy_before: float | None
    accuracy_after: float
    length_before: float | None
    length_after: float


def changes(run: RunTables) -> list[Change]:
    """Last evaluation of the run against the last one before its first RL step, or its first one where it has none.

    The mean comes last.
    """
    evaluations = run.evaluations()
    if not evaluations:
        return []
    after = evaluations[-1]
    before = _before_rl(run, evaluations[:-1])
    names = [
        key.removeprefix("eval/accuracy/") for key in after if key.startswith("eval/accuracy/")
    ]
    return [
        Change(
            name,
            before.get(f"eval/accuracy/{name}"),
            after[f"eval/accuracy/{name}"],
            before.get(f"eval/length/{name}"),
            after[f"eval/length/{name}"],
        )
        for name in sorted(names, key=lambda name: name == "mean")
    ]


def _before_rl(run: RunTables, evaluations: list[dict[str, Any]]) -> dict[str, Any]:
    """The last of these evaluations that no RL stage made, of a run without such a stage the first.

    A fork without one has that of the run it was forked from.
    """
    rl = {stage.name for stage in run.recipe.stages if stage.kind == "rl"}
    if not rl:
        return evaluations[0] if evaluations else {}
    earlier = [row for row in evaluations if row["stage"] not in rl]
    origin = run.info.get("origin")
    if earlier or not origin:
        return earlier[-1] if earlier else {}
    checkpoint = Path(origin)
    ancestor = checkpoint.parent.parent
    if not (ancestor / "recipe.yaml").is_file():  # moved or deleted since
        return {}
    parent, step = read_run(ancestor), int(checkpoint.name.removeprefix("step-"))
    return _before_rl(parent, [row for row in parent.evaluations() if row["step"] <= step])


def print_summary(run_dir: Path, console: Console) -> None:
    """Print the table, write `summary.png` beside the logs; nothing for a run that has no steps of its own."""
    run = read_run(run_dir)
    if not run.metrics:
        return
    rows = changes(run)
    if not rows:
        console.print(
            f"Done: {run_dir}. No evaluation was asked for (evaluation.at_end, evaluation.every)."
        )
        return
    table = Table(title=f"{run.recipe.name}: held-out prompts, greedy")
    table.add_column("distribution")
    before = "before RL" if any(stage.kind == "rl" for stage in run.recipe.stages) else "before"
    for column in (f"accuracy {before}", "after", "change", f"length {before}", "after"):
        table.add_column(column, justify="right")
    for row in rows:
        if row.name == "mean":
            table.add_section()
        delta = None if row.accuracy_before is None else row.accuracy_after - row.accuracy_before
        table.add_row(
            row.name,
            _number(row.accuracy_before, "{:.3f}"),
            _number(row.accuracy_after, "{:.3f}"),
            _number(delta, "{:+.3f}"),
            _number(row.length_before, "{:.1f}"),
            _number(row.length_after, "{:.1f}"),
        )
    console.print(table)
    plot(run, rows, run_dir / "summary.png")
    seconds = sum(row.get("time/step/s", 0.0) for row in run.metrics)
    parity = [row for row in run.metrics if "parity/tokens/sum" in row]
    if parity:
        largest = max(row["parity/logprob/max_abs"] for row in parity)
        tokens = sum(row["parity/tokens/sum"] for row in parity)
        console.print(
            f"Trainer and engine agree on the log-probs of {tokens:,} trained tokens to {largest:.1e} nat.",
            highlight=False,
        )
    console.print(
        f"{len(run.metrics)} steps in {seconds:.0f} s. Run directory: {run_dir}, plot: {run_dir / 'summary.png'}",
        highlight=False,
        soft_wrap=True,
    )


def plot(run: RunTables, rows: list[Change], file: Path) -> None:
    """Held-out accuracy and length before and after by distribution; pass rates and sampling over RL steps."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(12, 7.6), constrained_layout=True)
    named = [row for row in rows if row.name != "mean"]
    before_after = (
        (axes[0, 0], "accuracy", [(row.accuracy_before, row.accuracy_after) for row in named]),
        (
            axes[0, 1],
            "mean length, tokens",
            [(row.length_before, row.length_after) for row in named],
        ),
    )
    places = range(len(named))
    for axis, label, pairs in before_after:
        axis.bar(
            [p - 0.2 for p in places], [pair[0] or 0 for pair in pairs], 0.4, label="before RL"
        )
        axis.bar([p + 0.2 for p in places], [pair[1] for pair in pairs], 0.4, label="after RL")
        axis.set_xticks(list(places), [row.name for row in named], rotation=30, ha="right")
        axis.set(title="Held-out prompts, greedy", ylabel=label)
        axis.legend(loc="upper left", bbox_to_anchor=(0, -0.16), ncols=2, frameon=False)
    for axis, kind, title in (
        (axes[1, 0], "pass_rate", "Training rollouts (moving average)"),
        (axes[1, 1], "probability", "What the curriculum samples (moving average)"),
    ):
        for row in named:
            key = f"curriculum/{kind}/{row.name}"
            if not run.measures(key):  # a run without RL, or a distribution that it never drew
                continue
            steps, values = run.series(key)
            axis.plot(steps, _smooth(values), label=row.name, linewidth=1.3)
        axis.set(xlabel="step", ylabel=kind.replace("_", " "), title=title, ylim=(0, None))
    if axes[1, 1].lines:
        axes[1, 1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    figure.savefig(file, dpi=100)
    plt.close(figure)


def _smooth(values: list[float], weight: float = 0.7) -> list[float]:
    """Exponential moving average, for the eye."""
    smoothed: list[float] = []
    for value in values:
        smoothed.append(value if not smoothed else weight * smoothed[-1] + (1 - weight) * value)
    return smoothed


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)
