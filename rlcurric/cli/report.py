"""`rlcurric report`."""

from __future__ import annotations

from pathlib import Path

from rlcurric.cli.console import make_console
from rlcurric.cli.files import check_output


def run_report(run_dir: Path, output: Path | None, groups: int, serve: bool, port: int) -> int:
    """Write the report of a run as one HTML file, or serve it to this machine."""
    if serve and output is not None:
        raise ValueError("--serve writes no file: give either --serve or --output")
    console = make_console()
    from rlcurric.report.digest import digest_run

    if serve:
        return _serve(run_dir, groups, port)
    check_output("--output", output, ".html")
    file = output if output is not None else run_dir / "report.html"
    digest = digest_run(run_dir, groups)
    from rlcurric.report.page import write_page

    try:
        size = write_page(digest, file)
    except OSError as error:
        raise ValueError(
            f"{file} cannot be written: {error.strerror}. Name another file with --output"
        ) from None
    for gap in digest.gaps:
        console.print(f"{gap.file} {gap.problem}", markup=False, soft_wrap=True)
    console.print(
        f"{file}: {len(digest.steps):,} steps, {size / 1e6:.1f} MB", markup=False, soft_wrap=True
    )
    return 0


def _serve(run_dir: Path, groups: int, port: int) -> int:
    from rlcurric.report.recorded import read_recorded
    from rlcurric.report.serve import ReportServer

    read_recorded(run_dir)  # a folder that is no run is refused before anything listens
    try:
        server = ReportServer(run_dir, port, groups)
    except OSError as error:
        raise ValueError(
            f"Port {port} of this machine cannot be listened on: {error.strerror}. Name another with --port, or 0 for a free one"
        ) from None
    console = make_console()
    with server:
        console.print(f"{server.url} shows {run_dir}; Ctrl-C ends it.", markup=False)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            console.print("ended")
    return 0
