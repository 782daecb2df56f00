"""The console that commands print to."""

from __future__ import annotations

import os
import sys

from rich.console import Console

WIDE = 160  # columns, where no terminal sets them: tables stay whole in files and pipes


def make_console() -> Console:
    """As wide as the terminal, or wide enough for the tables.

    What it is given is text: recipes, data and folders may be called `[red]`, `[/]` or `:fire:`.
    """
    known = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(width=None if known else WIDE, highlight=False, markup=False, emoji=False)
