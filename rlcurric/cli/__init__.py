"""The command line: `rlcurric --help`."""

from __future__ import annotations

import os
import sys


def main(args: list[str] | None = None) -> None:
    """Entry point. Exit codes: 0 done, 2 user error, 75 stopped with a checkpoint written, 1 anything else."""
    sys.exit(_run(sys.argv[1:] if args is None else args))


def _run(args: list[str]) -> int:
    import click

    from rlcurric.cli.app import app
    from rlcurric.errors import RunError

    try:
        result = app(args, standalone_mode=False, prog_name="rlcurric")
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as ending:
        return ending.exit_code
    except click.ClickException as error:
        error.show()
        return 2
    except (KeyboardInterrupt, click.Abort):
        print("interrupted", file=sys.stderr)
        return 1
    except ValueError as error:
        if os.environ.get("RLCURRIC_DEBUG"):
            raise
        print(f"rlcurric: {error}", file=sys.stderr)
        return 2
    except RunError as error:
        if os.environ.get("RLCURRIC_DEBUG"):
            raise
        print(f"rlcurric: the run stopped: {error}", file=sys.stderr)
        return 1
