"""The variables of a prompt: text, numbers and schedules that the recipe fills in beside a row's columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rlcurric.schedules import Progress, Schedule, clock_of, span_of, value_at

_LOOKS = 5000  # steps of a stage that are looked at
_MOST = 24  # different sets of values that are kept of them
Variable = str | float | Schedule


class Variables:
    """What every variable reads at any point of the run: a pure function of it, so there is nothing to save."""

    def __init__(self, given: Mapping[str, Variable] | None = None) -> None:
        self._given = dict(given or {})

    def __len__(self) -> int:
        return len(self._given)

    @property
    def scheduled(self) -> dict[str, Schedule]:
        """Those that change over a run."""
        return {
            name: value
            for name, value in self._given.items()
            if isinstance(value, Schedule) and clock_of(value) is not None
        }

    def at(self, progress: Progress) -> dict[str, str]:
        """Every variable as text."""
        return {
            name: value if isinstance(value, str) else number_text(value_at(value, progress))
            for name, value in self._given.items()
        }

    def over(self, before: int, steps: int | None) -> list[dict[str, str]]:
        """The different values of a stage of `steps` after `before` others: its first, its last, each drop between.

        Of more than a few, the longest and some evenly between. Of a schedule on tokens, over its own span.
        """
        seen: dict[tuple[str, ...], dict[str, str]] = {}
        for progress in stage_points(self.scheduled.values(), before, steps):
            values = self.at(progress)
            seen.setdefault(tuple(values.values()), values)
        found = list(seen.values())
        if len(found) <= _MOST:
            return found
        chosen = {k * (len(found) - 1) // (_MOST - 1) for k in range(_MOST)}
        chosen.add(
            max(range(len(found)), key=lambda k: sum(len(text) for text in found[k].values()))
        )
        return [found[k] for k in sorted(chosen)]


def stage_points(
    schedules: Iterable[Schedule], before: int, steps: int | None, looks: int = _LOOKS
) -> list[Progress]:
    """Where in a stage schedules are looked at: every step, of a very long one steps evenly between."""
    last = max(1, steps or 1) - 1
    count = min(last, looks)
    places = sorted({last * k // max(1, count) for k in range(count + 1)})
    points = [Progress(before + place, place, steps) for place in places]
    spans = [span_of(one) or 0.0 for one in schedules if clock_of(one) == "tokens"]
    if spans:
        points += [
            Progress(before + last, last, steps, int(max(spans) * k / 100)) for k in range(101)
        ]
    return points


def number_text(value: float) -> str:
    """A number as a prompt shows it: whole ones without a fraction, others with six digits at most."""
    return str(int(value)) if float(value).is_integer() else f"{value:g}"
