"""The report over HTTP, to this machine alone: made anew whenever the run has written something.

The server listens on 127.0.0.1. It answers only requests that were addressed to this machine by one of its own names,
so that a page elsewhere cannot read a run by pointing a name of its own at 127.0.0.1.
"""

from __future__ import annotations

import hashlib
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from rlcurric.report.digest import digest_run
from rlcurric.report.page import render
from rlcurric.train.rundir import DECISIONS, EVENTS, METRICS

LOOPBACK = "127.0.0.1"
NAMES = ("127.0.0.1", "localhost")


class ReportServer(ThreadingHTTPServer):
    """Serves `/`, the page, and `/version`, a mark that changes when the run wrote something."""

    daemon_threads = True

    def __init__(self, run_dir: Path, port: int, groups: int) -> None:
        self.run_dir, self.groups = run_dir, groups
        self._one = threading.Lock()
        self._made: tuple[str, bytes] = ("", b"")
        super().__init__((LOOPBACK, port), _Handler)

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.server_port}/"

    def mark(self) -> str:
        """Changes with size and time of any file that the report reads."""
        names = (METRICS, DECISIONS, EVENTS, "recipe.yaml", "run.json", "rollouts")
        seen = []
        for name in names:
            path = self.run_dir / name
            stat = path.stat() if path.exists() else None
            seen.append((name, stat and (stat.st_size, stat.st_mtime_ns)))
        return hashlib.blake2b(repr(seen).encode(), digest_size=8).hexdigest()

    def page(self) -> bytes:
        """The page as of now; one thread at a time makes it."""
        with self._one:
            mark = self.mark()
            if self._made[0] != mark:
                text = render(digest_run(self.run_dir, self.groups), live=mark)
                self._made = (mark, text.encode("utf-8", errors="replace"))
            return self._made[1]


class _Handler(BaseHTTPRequestHandler):
    server: ReportServer
    server_version, sys_version = "rlcurric", ""

    def do_GET(self) -> None:
        host = self.headers.get("Host", "").rsplit(":", 1)[0]
        path = self.path.split("?")[0]
        if host not in NAMES:
            self._answer(HTTPStatus.FORBIDDEN, b"This server answers to 127.0.0.1 and localhost.")
        elif path == "/":
            try:
                page = self.server.page()
            except (OSError, ValueError) as error:  # the folder is gone, or another one's
                self._answer(HTTPStatus.SERVICE_UNAVAILABLE, f"No report: {error}".encode())
            else:
                self._answer(HTTPStatus.OK, page, "text/html; charset=utf-8")
        elif path == "/version":
            self._answer(HTTPStatus.OK, self.server.mark().encode())
        else:
            self._answer(HTTPStatus.NOT_FOUND, b"Nothing is here; the report is at /")

    def _answer(self, status: HTTPStatus, body: bytes, kind: str = "text/plain") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("X-Frame-Options", "DENY")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Requests are not told."""
