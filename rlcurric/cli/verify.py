"""`rlcurric verify-resume`: an undisturbed run against one that is killed and resumed, compared bit for bit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rlcurric.cli.console import make_console
from rlcurric.errors import RunError
from rlcurric.recipe.load import load_recipe
from rlcurric.report.difference import first_difference


def run_verify(
    recipe: str,
    overrides: Sequence[str],
    overlay: str | None,
    steps: int,
    kill_at: int | None,
    work_dir: Path | None,
) -> int:
    """Run `steps` steps undisturbed; again with a kill -9 in the step after `kill_at`, resumed; compare."""
    console = make_console()
    resolved = load_recipe(recipe, overrides, overlay)
    steps = min(steps, resolved.total_steps) if resolved.is_planned else steps
    kill_at = steps // 2 if kill_at is None else kill_at
    if not 0 < kill_at < steps:
        raise ValueError(
            f"--kill-at must lie between 1 and {steps - 1} (the run has {steps} steps), got {kill_at}"
        )
    with tempfile.TemporaryDirectory(prefix="rlcurric-verify-") as temporary:
        folder = work_dir or Path(temporary)
        whole, broken = folder / "undisturbed", folder / "killed"
        for path in (whole, broken):
            if path.exists():
                raise ValueError(f"{path} exists already; give an empty --work-dir")
        every = [
            "run.checkpoints.every=1",
            "run.rollouts.every=1",
            f"run.checkpoints.keep_last={steps + 1}",
        ]
        args = [overlay or "", recipe, *overrides, *every]
        console.print(f"1/3 undisturbed run of {steps} steps", highlight=False)
        _finish(args, whole, steps)
        console.print(
            f"2/3 the same, killed with SIGKILL during step {kill_at + 1}", highlight=False
        )
        _kill_during(args, broken, steps, kill_at)
        console.print("3/3 resumed", highlight=False)
        _finish(args, broken, steps)
        difference = first_difference(whole, broken)
    if difference is not None:
        console.print(f"DIFFERENT: {difference}", highlight=False, markup=False)
        return 1
    console.print(
        f"Equal bit for bit over {steps} steps: prompts, rollouts, rewards, curriculum state, losses, weights.",
        highlight=False,
    )
    return 0


def _command(args: Sequence[str], run_dir: Path, steps: int) -> list[str]:
    program = "import sys; from rlcurric.cli.verify import child; sys.exit(child(sys.argv[1:]))"
    return [sys.executable, "-c", program, str(run_dir), str(steps), *args]


def child(args: Sequence[str]) -> int:
    """In the child process: train up to a step. Exit code 2 and the message alone for a mistake of the user's."""
    from rlcurric.train.session import train

    run_dir, steps, overlay, recipe, *overrides = args
    try:
        train(recipe, run_dir, overrides=overrides, overlay=overlay or None, stop_at=int(steps))
    except ValueError as error:
        print(f"rlcurric: {error}", file=sys.stderr)
        return 2
    return 0


def _finish(args: Sequence[str], run_dir: Path, steps: int) -> None:
    done = subprocess.run(_command(args, run_dir, steps), capture_output=True, text=True)
    if done.returncode == 2:
        raise ValueError(done.stderr.rpartition("rlcurric: ")[2].strip())
    if done.returncode:
        raise RunError(f"the run in {run_dir} failed:\n{done.stderr.strip()[-2000:]}")


def _kill_during(args: Sequence[str], run_dir: Path, steps: int, kill_at: int) -> None:
    """SIGKILL the whole process group as soon as the log shows step `kill_at`: the next step is then under way."""
    log = run_dir / "metrics.jsonl"
    with tempfile.TemporaryFile() as output:
        child = subprocess.Popen(
            _command(args, run_dir, steps),
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        while child.poll() is None:
            if log.exists() and log.read_bytes().count(b"\n") >= kill_at:
                os.killpg(child.pid, signal.SIGKILL)
                break
            time.sleep(0.005)
        if child.wait() == -signal.SIGKILL:
            return
        output.seek(0)
        said = output.read().decode(errors="replace").strip()[-2000:]
    raise RunError(f"the run in {run_dir} ended before it could be killed:\n{said}")
