"""Reference of every command and option, from the command line itself, by typer's own writer."""

from __future__ import annotations

import re
from typing import Any

import typer
from typer.cli import get_docs_for_click
from typer.main import get_command

from rlcurric.cli.app import app


def page() -> str:
    """Markdown: a heading for each command, with its usage, arguments and options."""
    command = get_command(app)
    _tell_whole_sentences(command)
    context = typer.Context(command, info_name="rlcurric")
    text: str = get_docs_for_click(
        obj=command, ctx=context, name="rlcurric", title="The command line"
    )
    # Help is no Markdown: a name between angle brackets must not become a tag. In code it cannot.
    return re.sub(r"```.*?```|`[^`]*`|<", _escaped, text, flags=re.DOTALL)


def _escaped(found: re.Match[str]) -> str:
    return "&lt;" if found[0] == "<" else found[0]


def _tell_whole_sentences(command: Any) -> None:
    """In lists of commands the first sentence of each, which the library would cut after 45 characters."""
    for one in getattr(command, "commands", {}).values():
        one.short_help = (one.help or "").split("\n\n")[0]
        _tell_whole_sentences(one)
