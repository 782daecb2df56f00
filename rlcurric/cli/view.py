"""What is shown of a run that goes on: a view for a terminal, drawn anew each time, and plain lines for everything else.

Names and messages come from recipes, data and graders: they are text, never markup, and no control character of theirs
reaches the terminal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rlcurric.cli.clock import clock
from rlcurric.report.events import Event
from rlcurric.report.standing import StageStanding, Standing, value_of

MARGIN = 2  # lines of the terminal that the view leaves to what is printed above it
FIXED = 4  # lines that are no entry of a list: title, head of a table, last step, what goes on
WARNINGS = 3  # shown at most
FEWEST = 4  # lines that stages get before distributions take from them
LOW = 18  # lines below which no line is left empty, and one warning shown
NAME = 24  # columns of a name
BAR = 26

_MEASURED = (  # label, key, form
    ("loss", "loss/sft/mean", ".3f"),
    ("loss", "loss/dpo/mean", ".3f"),
    ("loss", "loss/policy/mean", ".3f"),
    ("reward", "reward/total/mean", ".3f"),
    ("correct", "reward/correct/mean", ".3f"),
    ("length", "length/completion/mean", ".1f"),
)


@dataclass(frozen=True)
class Look:
    """What a view draws at a moment."""

    standing: Standing
    doing: str  # what goes on, in words
    going: bool  # whether there is time left at all


class View:
    """Draws whatever `look` returns by then, as large as the terminal is by then. A renderable of rich."""

    def __init__(self, look: Callable[[], Look]) -> None:
        self._look = look

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield draw(self._look(), max(1, console.size.height - MARGIN))


def plain(text: str) -> str:
    """As one line without control characters."""
    return "".join(one if one.isprintable() else " " for one in text)


def draw(look: Look, height: int) -> RenderableType:
    """The view in so many lines at most."""
    standing = look.standing
    if not standing.stages:
        return _line(look.doing)
    names, low = standing.distributions, height < LOW
    warned = standing.warnings[-(1 if low else WARNINGS) :]
    room = height - FIXED - len(warned) - (0 if low else 4 + bool(warned))
    asked = len(names) + ("mean" in standing.held_out)
    n_stages = max(2, min(len(standing.stages), max(FEWEST, room - asked), room - 3))
    blocks: list[RenderableType] = [_title(standing), _stages(look, n_stages)]
    if names:
        blocks.append(_distributions(standing, names, max(1, room - n_stages)))
    measured = "  ".join(_measured(standing))
    if measured:
        blocks.append(_line(measured))
    blocks.append(_line("   ".join(filter(None, (look.doing, _left(look)))), "bold"))
    if warned:
        blocks.append(Group(*map(_warning, warned)))
    return Group(*blocks) if low else Group(*_spaced(blocks))


def _spaced(blocks: Sequence[RenderableType]) -> Iterator[RenderableType]:
    """With an empty line between them."""
    for place, block in enumerate(blocks):
        if place:
            yield ""
        yield block


def _line(text: str, style: str = "") -> Text:
    return Text(plain(text), style=style, no_wrap=True, overflow="ellipsis")


def _title(standing: Standing) -> Text:
    said = f"step {standing.step}"
    if standing.stage is not None:
        place = f"stage {standing.current + 1} of {len(standing.stages)}"
        said = f"{place}, {said}"
    return _line(f"{standing.name}  {said}" if standing.name else said, "bold")


def _stages(look: Look, room: int) -> Table:
    """A row a stage; of more than there is room for, those around the one under way."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(max_width=NAME, no_wrap=True, overflow="ellipsis")
    for _ in range(4):
        table.add_column(no_wrap=True, overflow="ellipsis")
    standing = look.standing
    first = standing.current - (1 if room > 2 else 0)
    shown = _window(len(standing.stages), room, first)
    for place in shown:
        stage, status = standing.stages[place], standing.status(place)
        style = {"done": "green", "running": "bold", "to come": "dim"}[status]
        state: RenderableType = Text(_state(stage, status), style=style)
        left = ""
        if status == "running" and look.going:
            if stage.planned is not None:
                state = ProgressBar(total=max(1, stage.planned), completed=stage.steps, width=BAR)
            left = "" if stage.left is None else f"{clock(stage.left)} left"
        elif status == "running":
            state = Text("not ended", style=style)
        steps = _steps(stage, status)
        cells = (plain(stage.name), stage.kind, state, steps, left)
        table.add_row(*(Text(one, style=style) if isinstance(one, str) else one for one in cells))
    hidden = len(standing.stages) - len(shown)
    if hidden:
        table.add_row(Text(f"… and {hidden} more", style="dim"))
    return table


def _state(stage: StageStanding, status: str) -> str:
    if status == "done" and stage.reason not in ("", "steps", "done"):
        return plain(f"done ({stage.reason})")
    return status


def _steps(stage: StageStanding, status: str) -> str:
    if status == "running":
        return f"{stage.steps}/{stage.planned}" if stage.planned is not None else f"{stage.steps}"
    number = stage.steps if status == "done" else stage.planned
    return f"{number} step{'' if number == 1 else 's'}" if number else ""


def _distributions(standing: Standing, names: Sequence[str], room: int) -> Table:
    """A row a distribution, and the mean of their held-out accuracies."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("distribution", max_width=NAME, no_wrap=True, overflow="ellipsis")
    measured = f" (step {standing.held_out_step})" if standing.held_out else ""
    for head in ("probability", "pass rate", f"held-out{measured}"):
        table.add_column(head, justify="right", no_wrap=True)
    mean = standing.held_out.get("mean")
    shown = _window(len(names), room - (mean is not None), 0)
    for place in shown:
        name = names[place]
        known = (standing.probabilities, standing.pass_rates, standing.held_out)
        table.add_row(Text(plain(name)), *(_number(one.get(name)) for one in known))
    hidden = len(names) - len(shown)
    if hidden:
        table.add_row(Text(f"… and {hidden} more", style="dim"))
    if mean is not None:
        table.add_row("mean", "", "", _number(mean), style="dim")
    return table


def _window(count: int, room: int, first: int) -> range:
    """Places that are shown of a list, from `first` on where that is possible; a line is kept for how many are not."""
    if count <= room:
        return range(count)
    size = max(1, room - 1)
    begin = min(max(0, first), count - size)
    return range(begin, begin + size)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _measured(standing: Standing) -> Iterator[str]:
    """The last step's numbers, those that it has."""
    for label, key, form in _MEASURED:
        value = value_of(standing.row, key)
        if value is not None:
            yield f"{label} {round(value, 4) + 0.0:{form}}"  # no minus in front of a zero
    if standing.tokens_per_second is not None:
        yield f"tokens/s {standing.tokens_per_second:.0f}"


def _left(look: Look) -> str:
    """Time left in the run, where more is left than the stage under way."""
    standing = look.standing
    later = any(not one.over for one in standing.stages[standing.current + 1 :])
    if not look.going or not later or standing.left is None:
        return ""
    return f"run: about {clock(standing.left)} left"


def _warning(event: Event) -> Text:
    style = "red" if event.severity == "failure" else "yellow"
    return _line(warning_line(event), style)


def warning_line(event: Event) -> str:
    """A warning or failure in one line."""
    return plain(f"step {event.step}: {event.kind}: {event.text}")


def stage_line(standing: Standing) -> str:
    """That a stage begins, or goes on."""
    stage = standing.stage
    if stage is None:
        return ""
    planned = [f"{stage.planned} steps"] if stage.planned is not None else []
    if stage.steps:
        planned.append(f"{stage.steps} done" if planned else f"{stage.steps} steps done")
    return ": ".join(filter(None, (_stage_name(standing, stage), ", ".join(planned))))


def step_line(standing: Standing) -> str:
    """The last step in one line."""
    stage = standing.stage
    if stage is None:
        return ""
    parts = [f"{_stage_name(standing, stage)} step {_steps(stage, 'running')}"]
    parts += _measured(standing)
    if stage.left is not None:
        parts.append(f"left {clock(stage.left)}")
    return "  ".join(parts)


def rates_line(standing: Standing) -> str:
    """Pass rates of the stage's distributions; empty where none was sampled."""
    rates = standing.pass_rates
    known = [f"{plain(name)} {rates[name]:.2f}" for name in standing.distributions if name in rates]
    return f"  pass rates: {'  '.join(known)}" if known else ""


def evaluation_line(row: Mapping[str, Any]) -> str:
    """What a step's held-out evaluation found; empty where it had none."""
    accuracy, length = (value_of(row, f"eval/{name}/mean") for name in ("accuracy", "length"))
    if accuracy is None:
        return ""
    said = f"step {row['step']}: held-out accuracy {accuracy:.3f}"
    return said if length is None else f"{said}, mean length {length:.1f} tokens"


def _stage_name(standing: Standing, stage: StageStanding) -> str:
    kind = f" ({stage.kind})" if stage.kind else ""
    return plain(f"stage {standing.current + 1}/{len(standing.stages)} {stage.name}{kind}")
