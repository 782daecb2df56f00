"""`rlcurric train`."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from rlcurric.cli.console import make_console
from rlcurric.cli.live import TerminalReporter
from rlcurric.ending import STOPPED
from rlcurric.recipe.load import load_recipe


def run_train(
    recipe: str,
    overrides: Sequence[str],
    overlay: str | None,
    run_dir: Path | None,
    start_from: str | None,
) -> int:
    """Train, draw progress, say at the end what came of it."""
    console = make_console()
    # A mistake in the recipe is told before anything heavy is imported.
    resolved = load_recipe(recipe, overrides, overlay)
    from rlcurric.train.coordinator import is_main_rank
    from rlcurric.train.reporter import Reporter, Silent
    from rlcurric.train.session import train

    # One rank draws: two live views would write over each other.
    folder = run_dir or Path("runs") / resolved.name
    watching: contextlib.AbstractContextManager[Reporter] = contextlib.nullcontext(Silent())
    if is_main_rank():
        watching = TerminalReporter(console, resolved, folder)
    with watching as reporter:
        result = train(
            recipe,
            folder,
            overrides=overrides,
            overlay=overlay,
            start_from=start_from,
            reporter=reporter,
        )
    stopped = result.status == "stopped"
    if is_main_rank():
        if stopped:
            console.print(
                f"Stopped after step {result.step} with a checkpoint. The same command goes on from there.",
                highlight=False,
            )
        else:
            from rlcurric.report.summary import print_summary

            print_summary(result.run_dir, console)
    return STOPPED if stopped else 0
