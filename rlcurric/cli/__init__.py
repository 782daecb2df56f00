"""The command line: `rlcurric --help`."""

from __future__ import annotations

import os
import sys
import traceback

from rlcurric.ending import STOPPED, launched, tell_launcher

INTERRUPTED = 130  # what typer makes of a KeyboardInterrupt


def main(args: list[str] | None = None) -> None:
    """Entry point. Exit codes: 0 done, 2 user error, 75 stopped with a checkpoint written, 1 anything else."""
    code = _run(sys.argv[1:] if args is None else args)
    if code in (0, STOPPED) and launched():
        tell_launcher(code)
        code = 0  # with any other, torchrun would end the ranks that are not through yet
    sys.exit(code)


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
        return _failed(2, str(error), error)
    except RankLost as error:
        if os.environ.get("RLCURRIC_DEBUG"):
            raise
        if launched():  # which tells the first cause alone
            tell_launcher(error.code, str(error), told=True)
        else:
            print(f"rlcurric: rank {os.environ.get('RANK', '0')}: {error}", file=sys.stderr)
        return error.code
    except RunError as error:
        if os.environ.get("RLCURRIC_DEBUG"):
            raise
        return _failed(1, f"the run stopped: {error}", error)
    except Exception as error:
        if not launched() or os.environ.get("RLCURRIC_DEBUG"):
            raise
        return _failed(1, f"{type(error).__name__}: {error}", error, traceback.format_exc())


def _failed(code: int, message: str, error: Exception, detail: str = "") -> int:
    """Say why, once: a launcher tells it for its ranks, the rank that failed first ahead of the others."""
    told = getattr(error, "told", False)
    if launched():
        tell_launcher(code, message, detail, told)
    elif not told:
        print(f"rlcurric: {message}", file=sys.stderr)
    return code
