"""Connections that wait for ever neither for a request to begin nor for an answer to be taken."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol


def connection_class(read_seconds: float, answer_seconds: float) -> type[H11Protocol]:
    """uvicorn's, which hangs up on a client that has not sent the whole head of a request within `read_seconds`, or for
    `answer_seconds` does not read what it is sent."""

    class Connection(H11Protocol):
        _head: asyncio.TimerHandle | None = None
        _answer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            self._forget()
            self._taken()
            super().connection_lost(exc)

        def pause_writing(self) -> None:
            super().pause_writing()
            self._answer = self.loop.call_later(answer_seconds, self.transport.abort)

        def resume_writing(self) -> None:
            self._taken()
            super().resume_writing()

        def _taken(self) -> None:
            if self._answer is not None:
                self._answer.cancel()
                self._answer = None

        def _between_requests(self) -> bool:
            cycle: Any = self.cycle
            return cycle is None or bool(cycle.response_complete)

        def _watch(self) -> None:
            if not self._between_requests():
                self._forget()
            elif self._head is None:
                self._head = self.loop.call_later(read_seconds, self._hang_up)

        def _forget(self) -> None:
            if self._head is not None:
                self._head.cancel()
                self._head = None

        def _hang_up(self) -> None:
            self._head = None
            if self._between_requests():
                self.transport.close()

    return Connection
