"""A chat endpoint in OpenAI's form, for rewards that ask a model.

Every process has one event loop for all endpoints, in a thread of its own, so that limits hold over all calls of the
process, whichever thread makes them. An answer is kept on disk under the content of its request: a repeated step asks
nothing and gets the same verdict. What cannot be had is a failure with its cause, never an answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from hashlib import sha256
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, ValidationError

from rlcurric.seeds import hash64
from rlcurric.types import Status

if TYPE_CHECKING:
    import httpx

Body = Mapping[str, Any]  # of a chat completion request
Reader = Callable[[str], object]  # ValueError for an answer that is not as asked

_RETRIED = (408, 409, 425, 429)  # and everything from 500 on
_LONGEST_PAUSE = 30.0  # seconds of backoff, where the server names none
_MAX_BYTES = 4 << 20  # of one answer
_EXCERPT = 200  # characters of an answer that a message shows


@dataclass(frozen=True)
class Endpoint:
    """Where and how to ask. Equal ones share connections, limits and what is under way."""

    url: str  # base, e.g. http://localhost:8000/v1
    key_env: str = ""  # environment variable that holds the key; "": no key is sent
    concurrency: int = 16  # requests at a time, of this process
    per_minute: float = 0.0  # requests started in a minute, of this process; 0: no limit
    attempts: int = 5  # of one request, the first included
    timeout: float = 60.0  # seconds of one attempt
    deadline: float = (
        180.0  # seconds of one answer, pauses included; waiting for a place does not count
    )
    cache: str = ""  # folder of answers; "": none
    backoff: float = 0.5  # seconds before the second attempt, doubled for each further one

    def check(self) -> None:
        """ValueError for settings that cannot work."""
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(
                f"url: the base address of an endpoint is required, like http://localhost:8000/v1, got {self.url!r}"
            )
        if parts.username is not None or parts.query or parts.fragment:
            raise ValueError(
                "url: an address without user, password, ? and # is required; a key goes into the environment variable "
                "that key_env names"
            )
        if self.concurrency < 1 or self.attempts < 1:
            raise ValueError(
                f"concurrency and attempts must be at least 1, got {self.concurrency} and {self.attempts}"
            )
        for name in ("timeout", "deadline", "backoff"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be a number of seconds above 0, got {value}")
        if not (math.isfinite(self.per_minute) and self.per_minute >= 0):
            raise ValueError(f"per_minute must be 0 (no limit) or more, got {self.per_minute}")
        self.key()
        if self.cache:
            try:
                Path(self.cache).expanduser().mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ValueError(
                    f'cache: a folder that can be written is required: {error}; "" keeps nothing'
                ) from None

    def key(self) -> str:
        """The key itself, of which nothing else may keep a copy."""
        if not self.key_env:
            return ""
        value = os.environ.get(self.key_env, "").strip()
        if not value:
            raise ValueError(
                f"key_env: the environment variable {self.key_env!r} is not set; put the endpoint's key there, or leave "
                "key_env out"
            )
        if not (value.isascii() and value.isprintable()) or " " in value:
            raise ValueError(
                f"key_env: what stands in the environment variable {self.key_env!r} is no key: it must be one word of "
                "ASCII characters"
            )
        return value


@dataclass(frozen=True)
class Failure:
    """Why there is no answer."""

    status: Status  # timeout, or error
    detail: str


async def ask(endpoint: Endpoint, bodies: Sequence[Body], read: Reader) -> list[str | Failure]:
    """The endpoint's answer to every request, in order. An answer that `read` refuses is asked for again."""
    endpoint.check()
    asking = _client(endpoint).ask(bodies, read)
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(asking, _loop()))


_lock = threading.Lock()
_clients: dict[Endpoint, _Client] = {}
_loops: list[asyncio.AbstractEventLoop] = []


def _loop() -> asyncio.AbstractEventLoop:
    with _lock:
        if not _loops:
            _loops.append(asyncio.new_event_loop())
            threading.Thread(target=_loops[0].run_forever, name="endpoints", daemon=True).start()
        return _loops[0]


def _client(endpoint: Endpoint) -> _Client:
    with _lock:
        if endpoint not in _clients:
            _clients[endpoint] = _Client(endpoint)
        return _clients[endpoint]


class _Again(Exception):
    """An attempt failed in a way that another one may not. `after`: seconds that the server asks to wait."""

    def __init__(self, detail: str, after: float = 0.0, outage: bool = True) -> None:
        super().__init__(detail)
        self.after, self.outage = after, outage


class _FailedError(Exception):
    """No further attempt is made."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.detail)
        self.failure = failure


class _Client:
    """One endpoint's connections, limits and requests under way. Used on the loop of all endpoints only."""

    def __init__(self, endpoint: Endpoint) -> None:
        import httpx

        self._endpoint = endpoint
        limits = httpx.Limits(max_connections=endpoint.concurrency)
        self._http = httpx.AsyncClient(timeout=None, limits=limits)
        self._slots = asyncio.Semaphore(endpoint.concurrency)
        self._under_way: dict[str, asyncio.Task[str]] = {}
        self._next_start = self._paused_until = 0.0  # on the loop's clock
        self._down = (
            False  # the last request used up its attempts: others get one, until one succeeds
        )

    async def ask(self, bodies: Sequence[Body], read: Reader) -> list[str | Failure]:
        return await asyncio.gather(*(self._one(body, read) for body in bodies))

    async def _one(self, body: Body, read: Reader) -> str | Failure:
        """From the disk, from a request that asks the same, or from the endpoint."""
        key = _content_key(self._endpoint.url, body)
        kept = _kept(self._endpoint.cache, key, read)
        if kept is not None:
            return kept
        if key not in self._under_way:
            task = asyncio.ensure_future(self._fetch(key, body, read))
            self._under_way[key] = task
            task.add_done_callback(lambda _: self._under_way.pop(key))
        try:
            return await asyncio.shield(self._under_way[key])
        except _FailedError as error:
            return error.failure

    async def _fetch(self, key: str, body: Body, read: Reader) -> str:
        async with self._slots:
            await self._turn()
            text = await self._attempts(key, body, read)
        if self._endpoint.cache:
            _keep(self._endpoint.cache, key, body, text)
        return text

    async def _attempts(self, key: str, body: Body, read: Reader) -> str:
        """Ask until it works, the attempts are used up or the deadline has come."""
        clock, settings = asyncio.get_running_loop().time, self._endpoint
        end = clock() + settings.deadline
        attempts = 1 if self._down else settings.attempts
        for attempt in range(attempts):
            after, outage = 0.0, True
            limit = min(settings.timeout, end - clock())
            try:
                async with asyncio.timeout(limit):
                    text = await self._post(body)
                _check_answer(text, read)
                self._down = False
                return text
            except TimeoutError:
                last = Failure(Status.TIMEOUT, f"no answer within {limit:.3g} s")
            except _Again as error:
                last = Failure(Status.ERROR, self._hidden(str(error)))
                after, outage = error.after, error.outage
            pause = max(after, _pause(settings.backoff, attempt, key))
            if clock() + pause >= end:
                if after:
                    detail = f"{last.detail}; the server asks to wait {after:.4g} s"
                    last = Failure(last.status, detail)
                break
            if after:
                self._paused_until = max(self._paused_until, clock() + after)
            if attempt + 1 < attempts:
                await asyncio.sleep(pause)
        self._down = self._down or outage
        raise _FailedError(last)

    async def _turn(self) -> None:
        """Wait until a further request may start: they are spaced evenly, and a server's request to wait holds for all."""
        clock = asyncio.get_running_loop().time
        start = max(clock(), self._next_start)
        if self._endpoint.per_minute:
            self._next_start = start + 60.0 / self._endpoint.per_minute
        while (wait := max(start, self._paused_until) - clock()) > 0:
            await asyncio.sleep(wait)

    async def _post(self, body: Body) -> str:
        """The message of one chat completion."""
        import httpx

        key = self._endpoint.key()
        headers = {"Content-Type": "application/json"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        content = json.dumps(body).encode()
        address = self._endpoint.url.rstrip("/") + "/chat/completions"
        data = b""
        try:
            async with self._http.stream(
                "POST", address, content=content, headers=headers
            ) as response:
                async for part in response.aiter_bytes():
                    data += part
                    if len(data) > _MAX_BYTES:
                        raise _Again(f"an answer of more than {_MAX_BYTES >> 20} MiB")
        except httpx.HTTPError as error:
            raise _Again(f"{type(error).__name__}: {error}") from None
        said = " ".join(data[: 4 * _EXCERPT].decode(errors="replace").split())[:_EXCERPT]
        code = response.status_code
        if code in _RETRIED or code >= 500:
            raise _Again(f"HTTP {code}: {said}", _retry_after(response.headers))
        if code != 200:
            raise _FailedError(Failure(Status.ERROR, self._hidden(f"HTTP {code}: {said}")))
        try:
            choice = _Completion.model_validate_json(data).choices[0]
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(map(str, first["loc"])) or "JSON"
            raise _Again(f"no chat completion ({place}: {first['msg']}): {said}") from None
        if choice.finish_reason == "length":
            detail = "the answer was cut at max_tokens; raise it"
            raise _FailedError(Failure(Status.ERROR, detail))
        return choice.message.content

    def _hidden(self, text: str) -> str:
        """The text without the key, which servers and libraries may repeat."""
        with contextlib.suppress(ValueError):
            key = self._endpoint.key()
            return text.replace(key, "[key]") if key else text
        return text


class _Message(BaseModel):
    content: str


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Completion(BaseModel):
    """What of a chat completion is read."""

    choices: list[_Choice] = Field(min_length=1)


def _check_answer(text: str, read: Reader) -> None:
    try:
        read(text)
    except ValueError as error:
        raise _Again(f"{error}", outage=False) from None


def _pause(base: float, attempt: int, key: str) -> float:
    """Doubled with every attempt, and spread by the request so that not all come back at once."""
    spread = 0.5 + hash64(key, attempt) / 2**64
    return float(min(_LONGEST_PAUSE, base * 2**attempt) * spread)


def _retry_after(headers: httpx.Headers) -> float:
    """Seconds that the server asks to wait (RFC 9110, 10.2.3: a number or a date); 0 if it does not."""
    text = headers.get("retry-after", "").strip()
    if not text:
        return 0.0
    try:
        seconds = float(text)
    except ValueError:
        try:
            when = parsedate_to_datetime(text)
        except ValueError:
            return 0.0
        when = when if when.tzinfo else when.replace(tzinfo=UTC)
        seconds = (when - datetime.now(UTC)).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else 0.0


def _content_key(url: str, body: Body) -> str:
    whole = json.dumps({"url": url.rstrip("/"), "body": body}, sort_keys=True)
    return sha256(whole.encode()).hexdigest()


def _file(cache: str, key: str) -> Path:
    return Path(cache).expanduser() / key[:2] / f"{key}.json"


def _kept(cache: str, key: str, read: Reader) -> str | None:
    """The answer on disk; None if there is none, or what is there is none (any more)."""
    if not cache:
        return None
    try:
        text = str(json.loads(_file(cache, key).read_text(encoding="utf-8"))["answer"])
        read(text)
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return text


def _keep(cache: str, key: str, body: Body, text: str) -> None:
    """Write the answer whole or not at all; a full disk costs the answer's place, not the answer."""
    file = _file(cache, key)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(
            "w", dir=file.parent, prefix=".", delete=False, encoding="utf-8"
        ) as part:
            json.dump({"request": body, "answer": text}, part)
        os.replace(part.name, file)
    except OSError as error:
        warnings.warn(f"answers of the endpoint are not kept: {error}")
