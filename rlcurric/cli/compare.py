"""`rlcurric compare`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rlcurric.cli.console import make_console
from rlcurric.cli.files import check_output

if TYPE_CHECKING:
    from rlcurric.report.compare.comparison import Comparison

SHOWN = 6  # keys of recipes that are named


def run_compare(
    runs: Sequence[Path],
    output: Path,
    against: str,
    target: str | None,
    groups: Sequence[str],
    png: Path | None,
    csv: Path | None,
) -> int:
    """Write the comparison of runs as one HTML file, and as an image and tables where these are asked for."""
    check_output("--output", output, ".html")
    check_output("--png", png, ".png")
    check_output("--csv", csv, ".csv")
    console = make_console()
    from rlcurric.report.compare.comparison import compare

    found = compare(runs, groups=_asked(groups), target=target, against=against)
    from rlcurric.report.compare.page import write_comparison

    with _writing(output):
        size = write_comparison(found, output)
    if png is not None:
        from rlcurric.report.compare.image import write_image

        with _writing(png):
            write_image(found, png)
    beside = None
    if csv is not None:
        from rlcurric.report.compare.tables import write_tables

        with _writing(csv):
            beside = write_tables(found, csv)[1]
    for line in _told(found):
        console.print(line, markup=False, soft_wrap=True)
    written = [str(file) for file in (png, csv, beside) if file is not None]
    console.print(
        f"{output}: {len(found.runs)} runs, {size / 1e6:.1f} MB{''.join(f'; {one}' for one in written)}",
        markup=False,
        soft_wrap=True,
    )
    return 0


def _asked(groups: Sequence[str]) -> dict[str, list[str]]:
    """`NAME=RUN,...` as a mapping; a name that is given again adds runs."""
    asked: dict[str, list[str]] = {}
    for text in groups:
        name, _, patterns = text.partition("=")
        named = [one.strip() for one in patterns.split(",") if one.strip()]
        if not name.strip() or not named:
            raise ValueError(
                f"--group is written NAME=RUN,... with runs or patterns such as bandit-*, got {text!r}"
            )
        asked.setdefault(name.strip(), []).extend(named)
    return asked


def _told(found: Comparison) -> Iterator[str]:
    for run in found.runs:
        for gap in run.missing:
            yield f"{run.name}: {gap.file} {gap.problem}"
    for group in found.groups:
        yield f"{group.name}: {', '.join(run.name for run in group.runs)}"
    if len(found.groups) > 1 and found.differences:
        keys = [one.key for one in found.differences]
        more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
        yield f"their recipes differ in {', '.join(keys[:SHOWN])}{more}"


@contextmanager
def _writing(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ValueError(f"{file} cannot be written: {error.strerror}. Name another file") from None
