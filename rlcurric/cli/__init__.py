"""The command line: `rlcurric --help`."""

from __future__ import annotations

import os
import sys

INTERRUPTED = 130  # what typer makes of a KeyboardInterrupt


def main(args: list[str] | None = None) -> None:
    """Entry point. Exit codes: 0 done, 2 user error, 75 stopped with a checkpoint written, 1 anything else."""
    sys.exit(_run(sys.argv[1:] if args is None else args))


def _run(args: list[str]) -> int:
    import typer

    from rlcurric.cli.app import app
    from rlcurric.errors import RankLost, RunError

    # typer brings click along under a private name; what it exports leads to the base of all usage errors.
    usage_error: type[typer.BadParameter] = typer.BadParameter.__bases__[0]

    try:
        result = app(args, standalone_mode=False, prog_name="rlcurric")
        if result == INTERRUPTED:
            raise KeyboardInterrupt
        return result if isinstance(result, int) else 0
    except typer.Exit as ending:
        return int(ending.exit_code)
    except usage_error as error:
        error.show()
        return 2
    except (KeyboardInterrupt, typer.Abort):
        print("interrupted", file=sys.stderr)
        return 1
    except ValueError as error:
        if os.environ.get("RLCURRIC_DEBUG"):
            raise
        _tell(error, str(error))
        return 2
    except RankLost as error:
        if os.environ.get("RLCURRIC_DEBUG"):
            raise
        print(f"rlcurric: rank {os.environ.get('RANK', '0')}: {error}", file=sys.stderr)
        return error.code
    except RunError as error:
        if os.environ.get("RLCURRIC_DEBUG"):
            raise
        _tell(error, f"the run stopped: {error}")
        return 1


def _tell(error: Exception, text: str) -> None:
    """Once: in a job of several ranks the rank that failed has told it already, ahead of the others."""
    if not getattr(error, "told", False):
        print(f"rlcurric: {text}", file=sys.stderr)
