"""What stands before every route: who may come in, how much and how slowly, and until when an answer is waited for."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import logging
import re
import time
from collections.abc import Collection
from contextlib import suppress

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rm_experiments.config.serve_schema import LimitsConfig
from rm_experiments.serving.errors import RequestError, error_response
from rm_experiments.serving.metrics import Metrics

_log = logging.getLogger(__name__)
OPEN_ROUTES = frozenset({"/", "/health", "/ready", "/docs", "/openapi.json"})
"""They tell nothing that is not in this package, and need no token."""
_ALWAYS = frozenset({"/health", "/ready", "/metrics"})
"""Answered while the server ends, too."""
_GONE = 499
"""How a request counts whose client did not wait for the answer."""
_BODIES = 32
"""Bodies of the largest size that are held at a time, all requests together."""
_LINGER_SECONDS, _LINGER_BODIES = 1.0, 16
"""How much of a body that is too large is still read, so that its client comes to read the answer."""


class _ClientGone(Exception):
    """Nobody waits for the answer."""


class Gate:
    """An ASGI application around the routes."""

    def __init__(
        self, app: ASGIApp, limits: LimitsConfig, token: str | None, metrics: Metrics, only_local: bool = False
    ) -> None:
        self._app, self._limits, self._metrics = app, limits, metrics
        self.routes: frozenset[str] = frozenset()
        """The paths that are counted by their name; others count as one."""
        self._token = None if token is None else token.encode()
        self._only_local = only_local
        self._held = 0
        self.connections: Collection[object] = ()
        """All that are open."""
        self.open = 0
        """Requests that are being read or answered."""
        self.draining = False
        """Whether no more is taken, because the server ends."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer, begun = _Answer(send), time.monotonic()
        route = scope["path"] if scope["path"] in self.routes else "other"
        self.open += 1
        try:
            await self._take(scope, receive, answer)
        except _ClientGone:
            answer.status = _GONE
        except RequestError as error:
            # What is left of the request on this connection is not read.
            error.headers.setdefault("Connection", "close")
            await answer.refuse(scope, receive, error)
        except Exception:
            _log.exception("%s %s failed", scope["method"], route)
            await answer.refuse(scope, receive, RequestError(500, "the server failed; its log says why"))
        finally:
            self.open -= 1
            self._metrics.request(route, answer.status or _GONE, time.monotonic() - begun)

    async def _take(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        headers = {name.lower(): value for name, value in scope["headers"]}
        self._admit(scope, headers)
        body = bytearray()
        try:
            await self._read(headers, receive, body)
            if scope["method"] == "POST" and not _is_json(headers):
                raise RequestError(415, "the body must be JSON: send the header Content-Type: application/json")
            if scope["method"] == "HEAD":
                # The connection leaves the body out.
                scope = {**scope, "method": "GET"}
            await self._run(scope, bytes(body), receive, answer)
        finally:
            self._held -= len(body)

    def _admit(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        path = scope["path"]
        if self.draining and path not in _ALWAYS:
            raise RequestError(503, "the server is ending; ask another one", {"Retry-After": "5"})
        if len(self.connections) > self._limits.connections and path not in _ALWAYS:
            raise RequestError(
                503, f"more connections than limits.connections={self._limits.connections}", {"Retry-After": "1"}
            )
        if self._only_local and self._token is None and not _is_local(headers.get(b"host", b"localhost")):
            # A page of another site, whose name was pointed here, could read the answers otherwise.
            raise RequestError(
                403,
                "without a token only localhost is answered: call it so, or start the server with RM_SERVE_TOKEN set",
            )
        if self._token is None or path in OPEN_ROUTES:
            return
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() != b"bearer" or not hmac.compare_digest(given.strip(), self._token):
            raise RequestError(
                401, "a bearer token is needed: send the header Authorization: Bearer TOKEN",
                {"WWW-Authenticate": "Bearer"},
            )  # fmt: skip

    async def _read(self, headers: dict[bytes, bytes], receive: Receive, body: bytearray) -> None:
        """The whole body into `body`, within the limits of size and time."""
        most = self._limits.body_bytes
        length = headers.get(b"content-length", b"0")
        parts = _Parts(receive)
        too_large = length.isdigit() and int(length) > most
        if too_large and headers.get(b"expect", b"").lower() == b"100-continue":
            raise _too_large(most)
        try:
            async with asyncio.timeout(self._limits.read_seconds):
                async for part in parts:
                    if too_large or len(body) + len(part) > most:
                        too_large = True
                        break
                    body += part
                    self._held += len(part)
                    if self._held > _BODIES * most:
                        raise RequestError(429, "too many large requests at a time", {"Retry-After": "1"})
        except TimeoutError as error:
            raise RequestError(
                408, f"the request did not come in whole within limits.read_seconds={self._limits.read_seconds:g}"
            ) from error
        if too_large:
            await _linger(parts, most)
            raise _too_large(most)

    async def _run(self, scope: Scope, body: bytes, receive: Receive, answer: _Answer) -> None:
        """The route, until it has answered, its time is over, or nobody waits any more."""

        async def replay() -> Message:
            nonlocal body
            if body is not None:
                given, body = body, None  # type: ignore[assignment]
                return {"type": "http.request", "body": given, "more_body": False}
            return await asyncio.get_running_loop().create_future()

        handler = asyncio.ensure_future(_call(self._app, scope, replay, answer))
        gone = asyncio.ensure_future(_disconnect(receive))
        try:
            await asyncio.wait(
                {handler, gone}, timeout=self._limits.answer_seconds, return_when=asyncio.FIRST_COMPLETED
            )
            if handler.done():
                handler.result()
                return
            if gone.done():
                raise _ClientGone
            raise RequestError(
                504, f"no answer within limits.answer_seconds={self._limits.answer_seconds:g}; its work is dropped"
            )
        finally:
            for one in (handler, gone):
                one.cancel()
            with suppress(BaseException):
                await asyncio.gather(handler, gone, return_exceptions=True)


class _Answer:
    """The way back, and what went along it."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status: int | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        await self._send(message)

    async def refuse(self, scope: Scope, receive: Receive, error: RequestError) -> None:
        """Unless an answer has begun."""
        if self.status is None:
            # A client that is gone hears nothing.
            with suppress(OSError):
                await error_response(error)(scope, receive, self)


async def _call(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    await app(scope, receive, send)


class _Parts:
    """The parts of a body, which may be asked for again where they were left."""

    def __init__(self, receive: Receive) -> None:
        self._receive, self._more = receive, True

    def __aiter__(self) -> _Parts:
        return self

    async def __anext__(self) -> bytes:
        while self._more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise _ClientGone
            self._more = message.get("more_body", False)
            if part := message.get("body", b""):
                return bytes(part)
        raise StopAsyncIteration


async def _disconnect(receive: Receive) -> None:
    """Wait until the client goes away."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _linger(parts: _Parts, most: int) -> None:
    """Throw away what follows, for a moment."""
    size = 0
    with suppress(TimeoutError, _ClientGone):
        async with asyncio.timeout(_LINGER_SECONDS):
            async for part in parts:
                size += len(part)
                if size > _LINGER_BODIES * most:
                    return


def _too_large(most: int) -> RequestError:
    return RequestError(413, f"the body is larger than limits.body_bytes={most}; send fewer rows at a time")


def _is_local(host: bytes) -> bool:
    """Whether it is a name of this machine; the port is not looked at."""
    name = re.sub(r":\d*$", "", host.decode("latin-1").strip().lower()).strip("[]")
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _is_json(headers: dict[bytes, bytes]) -> bool:
    kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    return kind == b"application/json" or (kind.startswith(b"application/") and kind.endswith(b"+json"))
