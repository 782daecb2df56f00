"""A chat endpoint in a thread of the test, which answers and misbehaves as it is told."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Said:
    """One response."""

    text: str | None = None  # the message of a chat completion
    status: int = 200
    raw: bytes | None = None  # the whole content instead
    headers: dict[str, str] = field(default_factory=dict)
    finish_reason: str = "stop"
    seconds: float = 0.0  # before it is sent
    drop: bool = False  # close the connection without a word

    def content(self) -> bytes:
        if self.raw is not None:
            return self.raw
        message = {"role": "assistant", "content": self.text}
        choice = {"index": 0, "message": message, "finish_reason": self.finish_reason}
        return json.dumps({"object": "chat.completion", "choices": [choice]}).encode()


@dataclass
class Heard:
    """One request."""

    body: dict[str, Any]
    headers: dict[str, str]
    path: str
    time: float


class Chat:
    """What a server heard, and what it says: the responses in turn, then `reply` of each request."""

    def __init__(self, reply: Callable[[dict[str, Any]], Said], *first: Said) -> None:
        self.reply, self.first = reply, list(first)
        self.heard: list[Heard] = []
        self.at_once = self.most_at_once = 0
        self.url = ""
        self.lock = threading.Lock()
        self.ending = threading.Event()

    def answer(self, heard: Heard) -> Said:
        with self.lock:
            self.heard.append(heard)
            return self.first.pop(0) if self.first else self.reply(heard.body)


@contextmanager
def serving(chat: Chat) -> Iterator[Chat]:
    """The endpoint on a port of its own."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with chat.lock:
                chat.at_once += 1
                chat.most_at_once = max(chat.most_at_once, chat.at_once)
            said = chat.answer(Heard(body, dict(self.headers), self.path, time.monotonic()))
            chat.ending.wait(said.seconds)
            with chat.lock:
                chat.at_once -= 1
            if said.drop:
                self.close_connection = True
                return
            content = said.content()
            self.send_response(said.status)
            for name, value in {"Content-Length": str(len(content)), **said.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None: ...

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None: ...  # clients that gave up

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    chat.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield chat
    finally:
        chat.ending.set()
        server.shutdown()
        server.server_close()
        thread.join()


def closed_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
