"""Limits of a connection: seconds for headers and bodies, bytes of each, and how many connections are open.

uvicorn waits for ever for a request that never comes, or never ends. Here each connection watches the phase it is in.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from evertune.apps.auth import ConnectionLimits

HEADER, BODY, ANSWER = "header", "body", "answer"


def protocol(limits: ConnectionLimits) -> Any:
    """What makes a connection, for `uvicorn.Config(http=...)`."""
    return partial(Connection, limits, set())


class Connection(asyncio.Protocol):
    """uvicorn's protocol, whichever is installed, behind limits.

    Args:
        limits: of each connection and of their number.
        connections: all that are open.
        given: for uvicorn's protocol.
    """

    def __init__(self, limits: ConnectionLimits, connections: set[Connection], **given: Any) -> None:
        from uvicorn.protocols.http.auto import AutoHTTPProtocol

        self._inner: Any = AutoHTTPProtocol(**given)
        self._limits, self._connections = limits, connections
        self._loop = asyncio.get_running_loop()
        self._place: tuple[Any, str] = (None, HEADER)
        self._since, self._size = self._loop.time(), 0
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Enter; where too many are open, the one that has been silent longest leaves."""
        self._transport = transport
        self._inner.connection_made(transport)
        self._connections.add(self)
        self._watch()
        if len(self._connections) > self._limits.most:
            silent = [each for each in self._connections if each is not self and each.phase != ANSWER]
            leaves = min(silent, key=lambda each: each._since, default=self)
            leaves._transport.abort()
            self._connections.discard(leaves)

    def data_received(self, data: bytes) -> None:
        """Pass it on, unless it is more than a request may have."""
        self._inner.data_received(data)
        place = (self._inner.cycle, self.phase)
        if place != self._place:
            self._place, self._since, self._size = place, self._loop.time(), 0
            self._watch()
        self._size += len(data)
        if self._size > (self._limits.body_bytes if place[1] == BODY else self._limits.header_bytes):
            self._refuse("431 Request Header Fields Too Large" if place[1] == HEADER else "413 Content Too Large")

    def eof_received(self) -> bool | None:
        """Pass it on."""
        ended: bool | None = self._inner.eof_received()
        return ended

    def connection_lost(self, exc: Exception | None) -> None:
        """Leave."""
        self._connections.discard(self)
        if self._timer:
            self._timer.cancel()
        self._inner.connection_lost(exc)

    def pause_writing(self) -> None:
        """Pass it on."""
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        """Pass it on."""
        self._inner.resume_writing()

    @property
    def phase(self) -> str:
        """What is waited for: a request's headers, its body, or the answer."""
        cycle = self._inner.cycle
        if cycle is not None and cycle.more_body:  # also of a request that was refused before all of it was there
            return BODY
        return HEADER if cycle is None or cycle.response_complete else ANSWER

    def _watch(self) -> None:
        if self._timer:
            self._timer.cancel()
        phase = self._place[1]
        seconds = {HEADER: self._limits.header, BODY: self._limits.body}.get(phase)
        self._timer = None if seconds is None else self._loop.call_later(seconds, self._end)

    def _end(self) -> None:
        """The time of a phase is over."""
        if self._place == (self._inner.cycle, self.phase):
            self._refuse("408 Request Timeout")

    def _refuse(self, status: str) -> None:
        """Say why, if nothing was said yet, and close without waiting for a client that does not read."""
        cycle = self._inner.cycle
        if cycle is None or cycle.response_complete or not cycle.response_started:
            self._transport.write(f"HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n".encode())
        self._transport.close()
        self._loop.call_later(1, self._transport.abort)
