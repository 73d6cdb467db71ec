"""Limits of a connection: seconds for headers, bodies and replies, bytes of each, and how many connections are open.

uvicorn waits forever for a request that never comes or never ends, and for a client that does not read its reply. Here
each connection watches the phase it is in. A connection has one request at a time: uvicorn keeps requests that arrive
before the reply to the last one (pipelining), and keeps reading them, so a client that reads no reply fills the memory.
Always uvicorn's protocol on h11, which is installed with it: it parses no request before the last one is answered.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from evertune.apps.auth import ConnectionLimits

HEADER, BODY, ANSWER = "header", "body", "answer"
SLICE = 16 << 10
"""Bytes that are parsed at once; one read from a socket is up to 256 KiB."""
LEAST_READ = 64 << 10
"""Bytes of a reply that a client has to take within the time for writing."""


def protocol(limits: ConnectionLimits) -> Any:
    """What makes a connection, for `uvicorn.Config(http=...)`."""
    return partial(Connection, limits, set())


class Connection(asyncio.Protocol):
    """uvicorn's protocol behind limits.

    Args:
        limits: of each connection and of their number.
        connections: all that are open.
        given: for uvicorn's protocol.
    """

    def __init__(self, limits: ConnectionLimits, connections: set[Connection], **given: Any) -> None:
        from uvicorn.protocols.http.h11_impl import H11Protocol

        self._inner: Any = H11Protocol(**given)
        self._limits, self._connections = limits, connections
        self._loop = asyncio.get_running_loop()
        self._place: tuple[Any, str] = (None, HEADER)
        self._since, self._size = self._loop.time(), 0
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Register the connection; if too many are open, one is closed (`_rank`)."""
        self._transport = transport
        transport.set_write_buffer_limits(
            high=0
        )  # `pause_writing` is then called for every byte that a client does not read
        self._inner.connection_made(transport)
        self._connections.add(self)
        self._watch()
        if len(self._connections) > self._limits.most:
            others = [each for each in self._connections if each is not self and each._rank is not None]
            leaves = min(others, key=lambda each: (each._rank, each._since), default=self)
            leaves._transport.abort()
            self._connections.discard(leaves)

    def data_received(self, data: bytes) -> None:
        """Forward the data, unless it exceeds the limit of a request or arrives before the reply to the last one."""
        for start in range(0, len(data), SLICE):
            if self._transport.is_closing():
                return
            if self.phase == ANSWER:
                self._read_no_more()
                return
            self._received(data[start : start + SLICE])

    def _received(self, data: bytes) -> None:
        before = self._inner.cycle
        self._inner.data_received(data)
        place = (self._inner.cycle, self.phase)
        if place != self._place:
            self._place, self._since, self._size = place, self._loop.time(), 0
            self._watch()
        self._size += len(data)
        if place[0] is not before and any(name == b"transfer-encoding" for name, _ in self._inner.headers):
            self._refuse("411 Length Required")  # h11 takes seconds for a MiB in chunks of one byte
        elif self._size > (self._limits.body_bytes if place[1] == BODY else self._limits.header_bytes):
            self._refuse("431 Request Header Fields Too Large" if place[1] == HEADER else "413 Content Too Large")
        elif place[1] == ANSWER and self._inner.conn.trailing_data[0]:
            self._read_no_more()

    def eof_received(self) -> bool | None:
        """Pass it on."""
        ended: bool | None = self._inner.eof_received()
        return ended

    def connection_lost(self, exc: Exception | None) -> None:
        """Leave."""
        self._connections.discard(self)
        for timer in (self._timer, self._writing):
            if timer:
                timer.cancel()
        self._inner.connection_lost(exc)

    def pause_writing(self) -> None:
        """Pass it on: the client reads more slowly than the reply is made."""
        self._inner.pause_writing()
        self._watch_writing()

    def resume_writing(self) -> None:
        """Pass it on: the client has read."""
        if self._writing:
            self._writing.cancel()
        self._writing = None
        self._inner.resume_writing()

    @property
    def phase(self) -> str:
        """What is waited for: a request's headers, its body, or the answer."""
        cycle = self._inner.cycle
        if cycle is not None and cycle.more_body:  # also of a request that was refused before all of it was there
            return BODY
        return HEADER if cycle is None or cycle.response_complete else ANSWER

    @property
    def _rank(self) -> int | None:
        """The order of closing: clients that do not read, then silent ones, then streams, which have no end.

        None for one whose request is being answered: it is never closed.
        """
        if self._writing:
            return 0
        if self.phase != ANSWER:
            return 1
        return 2 if self._inner.cycle.response_started else None

    def _read_no_more(self) -> None:
        """A client sent data before its reply: it gets that reply, and what it sent since is dropped."""
        self._inner.cycle.keep_alive = False
        self._transport.pause_reading()

    def _watch_writing(self) -> None:
        left = self._transport.get_write_buffer_size()
        self._writing = self._loop.call_later(self._limits.write, self._end_writing, left)

    def _end_writing(self, before: int) -> None:
        """The time for a part of a reply is over."""
        if before - self._transport.get_write_buffer_size() < LEAST_READ:
            self._transport.abort()
        else:
            self._watch_writing()

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
        """Send an error, if no reply has begun, and close without waiting for a client that does not read."""
        cycle = self._inner.cycle
        if cycle is None or cycle.response_complete or not cycle.response_started:
            self._transport.write(f"HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n".encode())
        if cycle is not None:  # nothing more is written: to a closed transport it is an error
            cycle.disconnected = True
            cycle.message_event.set()
        self._transport.close()
        self._loop.call_later(1, self._transport.abort)
