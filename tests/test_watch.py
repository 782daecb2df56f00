"""The live view of a run: what is known of it, how it is drawn, and following it from another process."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from rlcurric.cli import _run
from rlcurric.cli.clock import clock
from rlcurric.cli.live import Every, TerminalReporter
from rlcurric.cli.view import Look, View
from rlcurric.recipe.load import dump_yaml
from rlcurric.report.following import Follower, LogTail
from rlcurric.report.standing import Standing
from rlcurric.train.rundir import EVENTS, METRICS, RunDirectory
from rlcurric.train.session import train
from tests.tiny import TINY, tiny_recipe

STEPS = {"cold": 2, "first": 2, "second": 2}


def a_row(step: int, seconds: float = 2.0, **more: Any) -> dict[str, Any]:
    """A line of metrics.jsonl of the tiny recipe: two steps of SFT, two and two of RL."""
    stage = list(STEPS)[(step - 1) // 2]
    row: dict[str, Any] = {"step": step, "stage": stage, "stage_step": (step - 1) % 2 + 1}
    row |= {"time/step/s": seconds}
    if stage == "cold":
        return row | {"loss/sft/mean": 1.5, "tokens/trained/sum": 100} | more
    row |= {
        "reward/total/mean": 0.625,
        "reward/correct/mean": 0.25,
        "length/completion/mean": 11.5,
        "throughput/generated/tokens_per_s": 321.0,
        "curriculum/probability/two": 0.75,
        "curriculum/probability/three": 0.25,
        "curriculum/pass_rate/two": step / 10,
    }
    return row | more


def started(stage: str, step: int) -> dict[str, Any]:
    return {"event": "stage_started", "step": step, "stage": stage, "stage_step": 0}


def ended(stage: str, first: int, last: int, reason: str = "steps") -> dict[str, Any]:
    return {
        "event": "stage_ended",
        "step": last,
        "stage": stage,
        "first_step": first,
        "last_step": last,
        "reason": reason,
    }


def guard(step: int, message: str) -> dict[str, Any]:
    return {"event": "guard", "step": step, "guard": "starved", "message": message}


def up_to(step: int) -> Standing:
    """The tiny recipe's run after so many steps."""
    standing = Standing.of(tiny_recipe()).heard({"event": "started", "step": 0})
    for at in range(1, step + 1):
        row = a_row(at)
        if row["stage_step"] == 1:
            standing = standing.heard(started(row["stage"], at - 1))
        standing = standing.stepped(row)
        if row["stage_step"] == 2:
            standing = standing.heard(ended(row["stage"], at - 1, at))
    return standing


def screen(standing: Standing, doing: str = "rollout, 0:03", height: int = 24) -> list[str]:
    """Lines of the view on a terminal of 80 columns."""
    console = Console(
        file=io.StringIO(), width=80, height=height, force_terminal=True, color_system=None
    )
    console.print(View(lambda: Look(standing, doing, going=True)))
    return [line.rstrip() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]


class TestStanding:
    def test_before_anything_has_happened(self) -> None:
        standing = Standing.of(tiny_recipe())
        assert [(one.name, one.kind, one.planned) for one in standing.stages] == [
            *(("cold", "sft", 2), ("first", "rl", 2), ("second", "rl", 2))
        ]
        assert [standing.status(place) for place in range(3)] == ["to come"] * 3
        assert standing.left is None and standing.stage is None

    def test_stages_come_and_go(self) -> None:
        standing = up_to(3)
        assert [standing.status(place) for place in range(3)] == ["done", "running", "to come"]
        assert [one.steps for one in standing.stages] == [2, 1, 0]
        assert standing.pass_rates == {"two": 0.3}
        assert standing.distributions == ("two", "three")

    def test_time_left_takes_the_pace_of_the_kind(self) -> None:
        """Steps of 2 s: one left here, two in the stage after it, which is of the same kind."""
        assert up_to(3).left == 6.0
        assert up_to(3).stages[1].left == 2.0
        assert up_to(1).stages[0].left == 2.0
        assert up_to(1).left is None  # no step of RL was taken

    def test_no_time_left_where_nothing_bounds_a_later_stage(self) -> None:
        until = {"any": [{"plateau": {"metric": "reward/total/mean", "patience": 3}}]}
        later = {**TINY["stages"][2], "until": {**until, "tokens": 1_000_000}}
        stages = [*TINY["stages"][:2], later]
        standing = Standing.of(tiny_recipe(stages=stages)).stepped(a_row(3))
        assert standing.stages[1].left == 2.0
        assert standing.left is None

    def test_the_wait_for_checkpoints_counts(self) -> None:
        standing = Standing.of(tiny_recipe()).stepped(a_row(3, **{"checkpoint/wait/s": 1.5}))
        assert standing.left == 10.5

    def test_the_order_of_events_and_steps_does_not_matter(self) -> None:
        events = [
            *({"event": "started", "step": 0}, started("cold", 0), ended("cold", 1, 2)),
            *(started("first", 2), guard(3, "x")),
        ]
        rows = [a_row(step) for step in (1, 2, 3)]
        one, other = Standing.of(tiny_recipe()), Standing.of(tiny_recipe())
        for row in events:
            one = one.heard(row)
        for row in rows:
            one, other = one.stepped(row), other.stepped(row)
        for row in events[1:]:
            other = other.heard(row)
        assert one.stages == other.stages
        assert (one.current, one.step, one.row) == (other.current, other.step, other.row)
        assert one.pass_rates == other.pass_rates == {"two": 0.3}

    def test_a_resume_forgets_what_came_after_its_step(self) -> None:
        standing = up_to(5).heard({"event": "resumed", "step": 3})
        assert [standing.status(place) for place in range(3)] == ["done", "to come", "to come"]
        assert [one.steps for one in standing.stages] == [2, 0, 0]
        assert standing.step == 3

    def test_a_finished_run_keeps_its_last_step(self) -> None:
        standing = up_to(6).heard({"event": "done", "step": 6})
        assert [standing.status(place) for place in range(3)] == ["done"] * 3
        assert standing.row["step"] == 6

    def test_throughput_of_written_rows_is_that_of_trained_tokens(self) -> None:
        assert up_to(1).tokens_per_second == 50.0
        assert up_to(3).tokens_per_second == 321.0

    def test_warnings_are_the_events_that_matter(self) -> None:
        standing = up_to(3).heard(guard(3, "two gets no samples"))
        standing = standing.heard({"event": "stopped", "step": 3, "reason": "SIGTERM"})
        assert [(one.step, one.severity, one.text) for one in standing.warnings] == [
            (3, "warning", "starved: two gets no samples")
        ]

    def test_without_a_recipe_the_records_name_what_there_is(self) -> None:
        standing = Standing().stepped(a_row(2)).stepped(a_row(3, **{"eval/accuracy/two": 0.5}))
        assert [one.name for one in standing.stages] == ["cold", "first"]
        assert standing.distributions == ("two", "three")
        assert standing.stages[1].left is None

    @pytest.mark.parametrize(
        "odd", [None, "x", float("nan"), float("inf"), 10**400], ids=lambda odd: f"{odd}"[:5]
    )
    def test_what_is_no_finite_number_is_not_known(self, odd: Any) -> None:
        known = up_to(2).stepped(a_row(3))
        names = [key for key in a_row(3) if "/" in key]
        row = {**dict.fromkeys([*names, "eval/accuracy/mean", "checkpoint/wait/s"], odd)}
        standing = known.stepped(a_row(4) | row | {"stage_step": odd})
        assert standing.step == 4 and standing.stages[1].steps == 2
        assert standing.stages[1].seconds == known.stages[1].seconds
        assert standing.pass_rates == known.pass_rates and standing.held_out == {}
        assert standing.probabilities == {} and standing.tokens_per_second is None
        assert "rollout, 0:03" in "\n".join(screen(standing))
        assert standing.heard(started("second", 4) | {"stage_step": odd}).stages[2].steps == 0


class TestView:
    def test_it_shows_stages_distributions_and_numbers(self) -> None:
        evaluated = {"eval/accuracy/two": 0.5, "eval/accuracy/mean": 0.375}
        standing = up_to(2).heard(started("first", 2)).stepped(a_row(3, **evaluated))
        lines = screen(standing.heard(guard(3, "three gets no samples")))
        text = "\n".join(lines)
        assert lines[0] == "tiny  stage 2 of 3, step 3"
        assert re.search(r"^cold +sft +done +2 steps$", text, re.M)
        assert re.search(r"^first +rl +[━╸╺]+ +1/2 +0:02 left$", text, re.M)
        assert re.search(r"^second +rl +to come +2 steps$", text, re.M)
        assert re.search(r"^distribution +probability +pass rate +held-out \(step 3\)$", text, re.M)
        assert re.search(r"^two +0\.75 +0\.30 +0\.50$", text, re.M)
        assert re.search(r"^three +0\.25 +- +-$", text, re.M)
        assert re.search(r"^mean +0\.38$", text, re.M)
        assert "reward 0.625  correct 0.250  length 11.5  tokens/s 321" in lines
        assert "rollout, 0:03   run: about 0:06 left" in lines
        assert lines[-1] == "step 3: guard: starved: three gets no samples"
        assert len(lines) <= 22 and max(map(len, lines)) <= 80

    @pytest.mark.parametrize("height", [40, 24, 17, 12])
    def test_many_of_everything_fit(self, height: int) -> None:
        """Twenty stages and thirty distributions with long names, and more warnings than are shown."""
        names = [f"a-distribution-with-a-long-name-{n}" for n in range(30)]
        source = TINY["distributions"]["two"]
        stages = [{**TINY["stages"][1], "name": f"stage-number-{n}"} for n in range(20)]
        recipe = tiny_recipe(
            distributions=dict.fromkeys(names, source),
            defaults={**TINY["defaults"], "mixture": names},
            stages=stages,
        )
        shares = {f"curriculum/probability/{name}": 1 / 30 for name in names}
        row = {**shares, "step": 23, "stage": "stage-number-11", "stage_step": 1}
        standing = Standing.of(recipe).stepped(row)
        for step in range(5):
            standing = standing.heard(guard(step, "a long message " * 20))
        lines = screen(standing, height=height)
        text = "\n".join(lines)
        assert len(lines) <= height - 2
        assert max(map(len, lines)) <= 80
        assert re.search(r"^stage-number-11 +rl .*1/2$", text, re.M)
        hidden = [int(found) for found in re.findall(r"^… and (\d+) more", text, re.M)]
        assert len(hidden) == 2
        assert hidden[0] == 20 - len(re.findall(r"^stage-number", text, re.M))
        assert hidden[1] == 30 - len(re.findall(r"^a-distribution", text, re.M))
        assert text.count("guard: starved") == (3 if height >= 20 else 1)

    def test_names_and_messages_are_text(self) -> None:
        standing = up_to(3).heard(guard(3, "[red]no[/red] \x1b[2J\r\nlines [/]"))
        lines = screen(standing, doing="[bold]rollout")
        assert lines[-1] == "step 3: guard: starved: [red]no[/red]  [2J  lines [/]"
        assert "[bold]rollout   run: about 0:06 left" in lines

    def test_a_stage_says_what_ended_it(self) -> None:
        standing = up_to(2).heard(ended("cold", 1, 2, "any.0.plateau"))
        assert "done (any.0.plateau)" in "\n".join(screen(standing))

    def test_a_changed_recipe_is_told_in_words(self) -> None:
        changes = {"stages.first.optim.learning_rate": [0.001, 0.01], "run.threads": [1, 2]}
        event = {"event": "recipe_changed", "step": 2, "changes": changes}
        said = "stages.first.optim.learning_rate from 0.001 to 0.01; run.threads from 1 to 2"
        (warning,) = up_to(2).heard(event).warnings
        assert warning.text == said

    def test_the_clock(self) -> None:
        seconds = (0, 5.4, 59.6, 3723, 360_000)
        assert [clock(one) for one in seconds] == ["0:00", "0:05", "1:00", "1:02:03", "100:00:00"]


class TestReporter:
    def test_progress_keeps_the_order_of_the_recipe(self, tmp_path: Path) -> None:
        """Also where a distribution is drawn later than one behind it."""
        console = Console(file=io.StringIO(), width=200)
        reporter = TerminalReporter(console, tiny_recipe(), tmp_path)
        reporter.stage("first", "rl", 2, 3, 2, 0)
        later = {"curriculum/pass_rate/three": 0.25}
        first = {**a_row(3), **later}
        del first["curriculum/pass_rate/two"]
        reporter.step(first)
        reporter.step(a_row(4))
        printed = console.file.getvalue()  # type: ignore[attr-defined]
        assert "stage 2/3 first (rl): 2 steps" in printed
        assert "stage 2/3 first (rl) step 1/2  reward 0.625  correct 0.250" in printed
        assert "pass rates: two 0.40  three 0.25" in printed

    def test_a_long_phase_is_told_where_no_view_is(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """After LONG seconds, then after twice as many; a step ends it. The clock is the test's."""
        seconds = iter(range(100, 1000))
        now = SimpleNamespace(read=next(seconds))
        monkeypatch.setattr("rlcurric.cli.live.time", SimpleNamespace(monotonic=lambda: now.read))
        console = Console(file=io.StringIO(), width=200)
        reporter = TerminalReporter(console, tiny_recipe(), tmp_path)
        reporter.phase("loading the model")
        for now.read in islice(seconds, 45):
            reporter.tell_if_long()
        reporter.stage("first", "rl", 2, 3, 2, 0)
        reporter.step(a_row(3))
        for now.read in islice(seconds, 154):
            reporter.tell_if_long()
        printed = console.file.getvalue()  # type: ignore[attr-defined]
        said = re.findall(r"loading the model, 0:(\d\d) so far", printed)
        assert said == ["10", "20", "40"]
        assert printed.index("so far") < printed.index("step 1/2")
        with reporter:  # a thread asks
            reporter.phase("evaluate")
            now.read += 15
            until = time.monotonic() + 30
            while "evaluate, 0:15 so far" not in console.file.getvalue():  # type: ignore[attr-defined]
                assert time.monotonic() < until
                time.sleep(0.05)

    def test_who_tells_is_asked_again_and_again_until_the_end(self) -> None:
        asked = threading.Semaphore(0)
        with Every(0.01, asked.release):
            assert all(asked.acquire(timeout=30) for _ in range(3))
        while asked.acquire(blocking=False):
            pass
        assert not asked.acquire(timeout=0.2)  # the thread is over

    @staticmethod
    def left(reporter: TerminalReporter) -> list[str]:
        """What is said of the stage under way, behind its bar."""
        lines = screen(reporter.look().standing)
        return next(line for line in lines if line.startswith("second")).split()[-3:]

    def test_progress_leaves_out_what_is_not_known(self, tmp_path: Path) -> None:
        console = Console(file=io.StringIO(), width=80, height=24, force_terminal=True)
        with TerminalReporter(console, tiny_recipe(), tmp_path) as reporter:
            reporter.phase("data")
            assert reporter.look().doing == "data, 0:00"
            text = "\n".join(screen(reporter.look().standing))
            assert text.count("to come") == 3 and "reward" not in text and "left" not in text
            reporter.stage("second", "rl", 3, 3, 9, 0)
            reporter.step({**a_row(5), "time/step/s": 2.0})
            assert self.left(reporter) == ["1/9", "0:16", "left"]
            reporter.step({**a_row(6), "time/step/s": 4.0})
            assert self.left(reporter) == ["2/9", "0:21", "left"]
            reporter.event(guard(6, "a warning"))
            assert screen(reporter.look().standing)[-1] == "step 6: guard: starved: a warning"


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    """Three steps into a run of the tiny recipe that no process has."""
    directory = RunDirectory(tmp_path / "run")
    directory.path.mkdir()
    directory.recipe_file.write_text(dump_yaml(tiny_recipe()))
    directory.event("started", 0)
    directory.event("stage_started", 0, stage="cold", stage_step=0)
    directory.append(METRICS, [a_row(1), a_row(2)])
    directory.event("stage_ended", 2, stage="cold", first_step=1, last_step=2, reason="steps")
    directory.event("stage_started", 2, stage="first", stage_step=0)
    directory.append(METRICS, [a_row(3)])
    return directory


class TestFollowing:
    def test_only_what_is_new_is_read(self, directory: RunDirectory) -> None:
        with Follower(directory.path) as run:
            first = run.look()
            assert first.anew and [row["step"] for row in first.rows] == [1, 2, 3]
            assert run.look().rows == [] and not run.look().anew
            directory.append(METRICS, [a_row(4)])
            directory.event("stage_ended", 4, stage="first", first_step=3, last_step=4)
            news = run.look()
            assert not news.anew
            assert [row["step"] for row in news.rows] == [4]
            assert [row["event"] for row in news.events] == ["stage_ended"]
            assert [run.standing.status(place) for place in range(3)] == ["done", "done", "to come"]

    def test_half_a_line_waits_for_its_end(self, directory: RunDirectory) -> None:
        text = json.dumps(a_row(4), ensure_ascii=False).encode() + b"\n"
        with Follower(directory.path) as run, (directory.path / METRICS).open("ab") as log:
            run.look()
            log.write(text[:40])
            log.flush()
            assert run.look().rows == []
            log.write(text[40:])
            log.flush()
            assert [row["step"] for row in run.look().rows] == [4]

    def test_a_line_that_is_none_is_passed_over(self, directory: RunDirectory) -> None:
        with Follower(directory.path) as run:
            run.look()
            with (directory.path / EVENTS).open("ab") as log:
                log.write(b'{"event": "guard", "st')  # a crash
            directory.event("guard", 3, guard="starved", message="seen")
            assert [row["message"] for row in run.look().events] == ["seen"]

    def test_a_log_that_was_cut_back_is_read_again(self, directory: RunDirectory) -> None:
        with Follower(directory.path) as run:
            directory.append(METRICS, [a_row(4), a_row(5)])
            run.look()
            assert run.standing.step == 5
            assert directory.cut_back(3) == 2
            directory.append(METRICS, [a_row(4, seconds=9.0)])
            assert run.look().anew
            directory.event("resumed", 3, dropped_steps=2)
            directory.event("stage_started", 3, stage="first", stage_step=1)
            assert run.look().anew
            assert run.standing.step == 4
            assert run.standing.stages[1].seconds == (2.0, 9.0)
            assert [run.standing.status(place) for place in range(3)] == [
                *("done", "running", "to come")
            ]

    def test_a_log_that_was_cut_in_place_is_read_again(self, tmp_path: Path) -> None:
        log = tmp_path / METRICS
        log.write_text('{"step": 1}\n{"step": 2}\n')
        tail = LogTail(log)
        assert tail.read() == [{"step": 1}, {"step": 2}]
        log.write_text('{"step": 7}\n')
        assert tail.read() is None
        assert tail.read() == [{"step": 7}]
        log.unlink()
        assert tail.read() is None
        assert tail.read() == []

    def test_a_recipe_that_comes_later_is_read(self, directory: RunDirectory) -> None:
        text = directory.recipe_file.read_text()
        directory.recipe_file.unlink()
        with Follower(directory.path) as run:
            run.look()
            assert [one.name for one in run.standing.stages] == ["cold", "first"]
            directory.recipe_file.write_text(text)
            assert run.look().anew
            assert [one.name for one in run.standing.stages] == ["cold", "first", "second"]
            assert run.standing.stages[1].left == 2.0

    def test_a_run_that_failed_says_why(self, directory: RunDirectory) -> None:
        directory.event("rank_failed", 3, failed=1, phase="update", reason="out of memory")
        with Follower(directory.path) as run:
            run.look()
            assert run.condition == "failed"
            assert run.standing.warnings[-1].severity == "failure"


def hold(directory: RunDirectory, **changes: Any) -> None:
    """A lock file of another process."""
    holder = {"host": socket.gethostname(), "pid": 2**22 + 1, "start": ""} | changes
    (directory.path / "run.lock").write_text(json.dumps(holder))


def watch(directory: RunDirectory, capsys: pytest.CaptureFixture[str], *more: str) -> Any:
    code = _run(["watch", str(directory.path), *more])
    return code, capsys.readouterr().out.splitlines()


class TestCommand:
    def test_a_folder_that_is_no_run_is_an_error(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for folder in (tmp_path, tmp_path / "absent"):
            assert _run(["watch", str(folder)]) == 2
            said = capsys.readouterr().err
            assert f"{folder} is no run directory" in said and "Traceback" not in said

    def test_a_log_that_cannot_be_read_is_an_error(
        self, directory: RunDirectory, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (directory.path / EVENTS).unlink()
        (directory.path / EVENTS).mkdir()
        assert _run(["watch", str(directory.path), "--once"]) == 2
        said = capsys.readouterr().err
        assert f"{EVENTS} cannot be read: Is a directory" in said and "Traceback" not in said

    def test_plain_lines_of_a_finished_run(
        self, directory: RunDirectory, capsys: pytest.CaptureFixture[str]
    ) -> None:
        directory.event("done", 6)
        hold(directory)
        code, lines = watch(directory, capsys)
        assert code == 0
        assert lines == [
            "stage 2/3 first (rl): 2 steps, 1 done",
            "stage 2/3 first (rl) step 1/2  reward 0.625  correct 0.250  length 11.5  tokens/s 321  left 0:02",
            "  pass rates: two 0.30",
            "finished",
        ]

    def test_a_stopped_run_and_a_dead_one(
        self, directory: RunDirectory, capsys: pytest.CaptureFixture[str]
    ) -> None:
        hold(directory)
        code, lines = watch(directory, capsys)
        assert code == 1
        assert re.fullmatch(
            r"dead: its process is gone without a word, last line 0:\d\d ago", lines[-1]
        )
        directory.event("stopped", 3, reason="SIGTERM")
        assert watch(directory, capsys)[0] == 75
        code, lines = watch(directory, capsys, "--once")
        assert code == 0
        assert lines[-1] == "stopped after step 3: SIGTERM"
        assert any(line.startswith("first") and "not ended" in line for line in lines)

    def test_a_run_elsewhere_that_is_long_quiet_is_doubted(
        self, directory: RunDirectory, capsys: pytest.CaptureFixture[str]
    ) -> None:
        hold(directory, host="elsewhere")
        for log in (METRICS, EVENTS):
            os.utime(directory.path / log, (time.time() - 7200,) * 2)
        _, lines = watch(directory, capsys, "--once")
        said = r"not on this machine but on elsewhere, last line 2:00:\d\d ago, perhaps dead"
        assert any(re.match(said, line) for line in lines)

    def test_it_writes_nothing_and_takes_no_lock(
        self, directory: RunDirectory, capsys: pytest.CaptureFixture[str]
    ) -> None:
        directory.lock()
        before = {
            file.name: (file.read_bytes(), file.stat().st_mtime_ns)
            for file in directory.path.iterdir()
        }
        code, lines = watch(directory, capsys, "--once")
        assert code == 0 and f"running, pid {os.getpid()}" in lines[-1]
        (directory.path / "stop").touch()
        assert "stopping, as the file stop asks" in watch(directory, capsys, "--once")[1][-1]
        (directory.path / "stop").unlink()
        assert before == {
            file.name: (file.read_bytes(), file.stat().st_mtime_ns)
            for file in directory.path.iterdir()
        }
        directory.unlock()


class Terminal:
    """A command in a terminal of 80 columns and 24 lines, in its foreground: Ctrl-C reaches it, whatever these tests inherit."""

    def __init__(self, *command: str) -> None:
        self._main, other = pty.openpty()
        fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        environment = {**os.environ, "TERM": "xterm-256color"}
        for name in ("COLUMNS", "LINES", "NO_COLOR"):
            environment.pop(name, None)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "rlcurric", *command],
            **dict.fromkeys(("stdin", "stdout", "stderr"), other),
            env=environment,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        os.close(other)
        self.raw = ""

    @property
    def text(self) -> str:
        """What was written, without escape sequences."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.raw)

    def until(self, pattern: str, limit: float = 300.0) -> None:
        """Read on until the text has it."""
        end = time.monotonic() + limit
        while not re.search(pattern, self.text):
            assert time.monotonic() < end and self._read(), self.text[-3000:]

    def end(self) -> int:
        """Read to the end; the exit code."""
        try:
            while self._read():
                pass
            return self.process.wait(300)
        finally:
            os.close(self._main)
            self.process.kill()

    def _read(self) -> bool:
        if not select.select([self._main], [], [], 300.0)[0]:
            return False
        try:
            found = os.read(self._main, 65536)
        except OSError:  # the other end is closed
            return False
        self.raw += found.decode(errors="replace")
        return bool(found)

    def is_clean(self) -> bool:
        """Whether the cursor is shown again, and no other screen or colour is left on."""
        cursor = re.findall(r"\x1b\[\?25([hl])", self.raw)
        colours = re.findall(r"\x1b\[([0-9;]*)m", self.raw)
        return cursor[-1:] == ["h"] and colours[-1:] == ["0"] and "\x1b[?1049h" not in self.raw


@pytest.fixture
def going(directory: RunDirectory) -> Iterator[RunDirectory]:
    """The same, held by this process."""
    directory.lock()
    yield directory
    directory.unlock()


def test_a_terminal_shows_the_run_until_it_ends(going: RunDirectory) -> None:
    terminal = Terminal("watch", str(going.path))
    terminal.until(r"first +rl +[━╸╺]+ +1/2 +0:02 left")
    assert "tiny  stage 2 of 3, step 3" in terminal.text
    assert f"running, pid {os.getpid()}" in terminal.text
    going.append(METRICS, [a_row(4)])
    terminal.until(r"stage 2 of 3, step 4")
    going.event("stage_ended", 4, stage="first", first_step=3, last_step=4, reason="steps")
    going.event("stage_started", 4, stage="second", stage_step=0)
    going.append(METRICS, [a_row(5), a_row(6)])
    going.event("done", 6)
    going.unlock()
    assert terminal.end() == 0
    assert terminal.text.rstrip().splitlines()[-1] == "finished"
    assert terminal.is_clean()


def test_ctrl_c_ends_the_view_and_not_the_run(going: RunDirectory) -> None:
    terminal = Terminal("watch", str(going.path))
    terminal.until("running, pid")
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.end() == 0
    assert "Traceback" not in terminal.text
    assert terminal.is_clean()


class Both(TerminalReporter):
    """Draws what it is told, and looks after every step at what the logs tell somebody else."""

    def __init__(self, folder: Path) -> None:
        console = Console(file=io.StringIO(), width=80, height=24, force_terminal=True)
        super().__init__(console, tiny_recipe(), folder)
        self.log = Follower(folder)
        self.steps: list[tuple[int, list[int]]] = []

    def step(self, row: Any) -> None:
        super().step(row)
        self.log.look()
        assert self.log.condition == "running"
        assert self.log.standing == self.standing
        self.steps.append((self.standing.step, [one.steps for one in self.standing.stages]))


def test_a_run_and_its_logs_tell_the_same(tmp_path: Path) -> None:
    """While it goes; stopped; and resumed with a step's lines cut back, since its checkpoint is gone."""
    folder = tmp_path / "run"
    with Both(folder) as reporter:
        train(tiny_recipe(), folder, reporter=reporter, stop_at=4)
        assert reporter.steps == [(1, [1, 0, 0]), (2, [2, 0, 0]), (3, [2, 1, 0]), (4, [2, 2, 0])]
        reporter.log.look()
        assert reporter.log.condition == "stopped"
    shutil.rmtree(folder / "checkpoints" / "step-000004")
    with Both(folder) as again:
        again.log = reporter.log  # that of somebody who did not look away
        train(tiny_recipe(), folder, reporter=again)
        assert again.steps == [(4, [2, 2, 0]), (5, [2, 2, 1]), (6, [2, 2, 2])]
        again.log.look()
        assert again.log.condition == "finished" and again.log.standing.finished
        assert set(again.log.standing.held_out) == {"two", "three", "mean"}
        again.log.__exit__(None, None, None)


@pytest.mark.slow
def test_terminals_of_train_and_watch_show_one_run(tmp_path: Path) -> None:
    recipe, folder = tmp_path / "tiny.yaml", tmp_path / "run"
    recipe.write_text(dump_yaml(tiny_recipe("stages.second.until.steps=20")))
    trained = Terminal("train", str(recipe), "--run-dir", str(folder))
    trained.until(r"stage 2 of 3, step 2")
    watched = Terminal("watch", str(folder))
    watched.until(rf"running, pid {trained.process.pid}")
    assert trained.end() == 0
    assert watched.end() == 0
    for terminal in (trained, watched):
        assert re.search(r"second +rl +[━╸╺]+ +\d+/20 +0:\d\d left", terminal.text)
        assert re.search(r"two +0\.\d\d +0\.\d\d", terminal.text)
        assert "Traceback" not in terminal.text
        assert terminal.is_clean()
    assert re.search(r"(rollout|update|save|sync), 0:\d\d", trained.text)
    assert watched.text.rstrip().splitlines()[-1] == "finished"


def test_plain_lines_as_steps_come(going: RunDirectory) -> None:
    command = [sys.executable, "-m", "rlcurric", "watch", str(going.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, bufsize=1) as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        assert next(lines) == "stage 2/3 first (rl): 2 steps, 1 done\n"
        assert next(lines).startswith("stage 2/3 first (rl) step 1/2  reward 0.625")
        assert next(lines) == "  pass rates: two 0.30\n"
        evaluated = {"eval/accuracy/mean": 0.5, "eval/length/mean": 9.0}
        going.event("guard", 4, guard="starved", message="three gets no samples")
        going.append(METRICS, [a_row(4, **evaluated)])
        found = [next(lines) for _ in range(4)]
        assert "warning: step 4: guard: starved: three gets no samples\n" in found
        assert "step 4: held-out accuracy 0.500, mean length 9.0 tokens\n" in found
        going.event("stopped", 4, reason="SIGTERM")
        going.unlock()
        assert list(lines) == ["stopped after step 4: SIGTERM\n"]
    assert process.returncode == 75
