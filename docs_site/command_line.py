"""Reference of every command and option, from the command line itself, by typer's own writer."""

from __future__ import annotations

import re

import typer
from typer.cli import get_docs_for_click
from typer.main import get_command

from rlcurric.cli.app import app


def page() -> str:
    """Markdown: a heading for each command, with its usage, arguments and options."""
    command = get_command(app)
    context = typer.Context(command, info_name="rlcurric")
    text: str = get_docs_for_click(
        obj=command, ctx=context, name="rlcurric", title="The command line"
    )
    # What it prints is no Markdown: a name between angle brackets must not become a tag.
    return re.sub(r"<(?=[A-Za-z/])", "&lt;", text)
