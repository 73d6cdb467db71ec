"""What a client can't do with its connections: fill memory with requests or replies, keep others out."""

from __future__ import annotations

import asyncio
import gc
import http.client
import socket
import threading
import time
from contextlib import suppress

import pytest
from serving import running

from evertune.apps.auth import ConnectionLimits
from evertune.apps.serving import Server, socket_at

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
START = {"type": "http.response.start", "status": 200, "headers": []}


class App:
    """An application: `/` answers at once, `/large` with 64 MiB, `/slow` when `go_on` is set, `/stream` without end."""

    def __init__(self):
        self.requests, self.sent, self.go_on = [], 0, threading.Event()

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return
        self.requests.append(scope["path"])
        while (await receive()).get("more_body"):
            pass
        listening = asyncio.ensure_future(receive())  # as Starlette's responses do, to notice who leaves
        while scope["path"] == "/slow" and not self.go_on.is_set():
            await asyncio.sleep(0.02)
        await send(START)
        for _ in range(1024 if scope["path"] == "/large" else 0):
            await send({"type": "http.response.body", "body": b"x" * (64 << 10), "more_body": True})
            self.sent += 64 << 10
        while scope["path"] == "/stream" and not listening.done():
            await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
            await asyncio.sleep(0.1)
        await send({"type": "http.response.body", "body": b"ok"})
        listening.cancel()


@pytest.fixture
def app():
    return App()


def served(app, **limits):
    return running(Server(app, socket_at("127.0.0.1", 0), patience=1, connections=ConnectionLimits(**limits)))


def opened(address, *, path=None, buffer=None):
    """A connection that has asked for `path`."""
    host, port = address.removeprefix("http://").split(":")
    line = socket.socket()
    if buffer:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    line.settimeout(10)
    line.connect((host, int(port)))
    if path:
        line.sendall(REQUEST.replace(b"/", path.encode(), 1))
    return line


def status_of(address, path="/", **how):
    line = http.client.HTTPConnection(address.removeprefix("http://"), timeout=5)
    line.request("GET", path, **how)
    status = line.getresponse().status
    line.close()
    return status


def flood(line, seconds=4.0):
    """Send requests and read nothing; how many were taken before the other side stopped or closed."""
    blob, sent, until = REQUEST * 10_000, 0, time.monotonic() + seconds
    line.setblocking(False)
    while time.monotonic() < until:
        try:
            sent += line.send(blob[sent % len(blob) :])
        except BlockingIOError:
            time.sleep(0.01)
        except OSError:
            break
    return sent // len(REQUEST)


def kept():
    """Requests that uvicorn has in memory."""
    gc.collect()
    return sum(type(each).__name__ == "RequestResponseCycle" for each in gc.get_objects())


def wait_for(done, seconds=8):
    until = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.slow
def test_requests_without_end_whose_replies_are_not_read(app):
    before = kept()
    with served(app) as address:
        with opened(address) as line:
            flood(line)
            assert kept() - before < 10
        assert len(app.requests) < 10 and status_of(address) == 200


@pytest.mark.slow
def test_requests_without_end_before_the_first_reply(app):
    before = kept()
    with served(app) as address, opened(address, path="/slow") as line:
        wait_for(lambda: app.requests)
        flood(line, 2)
        assert kept() - before < 10 and app.requests == ["/slow"]
        app.go_on.set()
        line.settimeout(5)
        with suppress(ConnectionResetError):  # what it sent was not read: the reply may be lost with it
            assert line.recv(1000).startswith(b"HTTP/1.1 200")
        assert app.requests == ["/slow"] and status_of(address) == 200


def test_a_request_that_comes_with_the_last_one_is_dropped_and_the_connection_closed(app):
    with served(app) as address, opened(address) as line:
        line.sendall(REQUEST * 2)
        reply = b""
        while part := line.recv(1000):
            reply += part
        assert reply.count(b"HTTP/1.1 200") == 1 == len(app.requests)


def test_requests_one_after_another_share_a_connection(app):
    with served(app) as address:
        line = http.client.HTTPConnection(address.removeprefix("http://"), timeout=5)
        for body in (None, b"x" * 300_000, None):
            line.request("POST" if body else "GET", "/", body)
            assert line.getresponse().read() == b"ok"
            own = line.sock
        assert own is not None and len(app.requests) == 3


@pytest.mark.slow
def test_a_client_that_does_not_read_is_closed(app):
    with served(app, write=0.5) as address, opened(address, path="/large", buffer=4096) as line:
        time.sleep(3)
        received = 0
        with suppress(ConnectionResetError):
            while part := line.recv(1 << 20):
                received += len(part)
        assert received < 32 << 20


@pytest.mark.slow
def test_a_client_that_reads_slowly_is_served(app):
    with served(app, write=1) as address, opened(address, path="/large", buffer=256 << 10) as line:
        received, start = 0, time.monotonic()
        while part := line.recv(1 << 20):
            received += len(part)
            time.sleep(0.02 if time.monotonic() - start < 3 else 0)
            if part.endswith(b"ok\r\n0\r\n\r\n"):
                break
        assert received > 64 << 20 and time.monotonic() - start > 3


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/large", "/stream"])
def test_connections_that_stay_lock_nobody_out(app, path):
    with served(app, most=8) as address:
        lines = [opened(address, path=path, buffer=4096) for _ in range(8)]
        wait_for(lambda: len(app.requests) == 8)
        time.sleep(0.5)
        for _ in range(3):
            assert status_of(address) == 200
        for line in lines:
            line.close()


@pytest.mark.slow
def test_who_does_not_read_leaves_before_who_does(app):
    with served(app, most=4) as address:
        stream = opened(address, path="/stream")
        silent = opened(address)
        time.sleep(0.2)
        deaf = [opened(address, path="/large", buffer=4096) for _ in range(2)]
        wait_for(lambda: len(app.requests) == 3)
        time.sleep(0.5)
        more = [opened(address) for _ in range(2)]
        silent.sendall(REQUEST)
        assert silent.recv(100).startswith(b"HTTP/1.1 200") and b"data: 1" in stream.recv(1 << 16)
        for line in (stream, silent, *deaf, *more):
            line.close()


def test_a_request_that_is_being_answered_is_not_closed_for_another(app):
    with served(app, most=4) as address:
        waiting = [opened(address, path="/slow") for _ in range(4)]
        wait_for(lambda: len(app.requests) == 4)
        with pytest.raises(OSError):
            status_of(address)
        app.go_on.set()
        assert [line.recv(100)[:12] for line in waiting] == [b"HTTP/1.1 200"] * 4
        for line in waiting:
            line.close()


def test_a_body_in_chunks_is_refused(app):
    with served(app) as address, opened(address) as line:
        line.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 100_000)
        assert line.recv(1000).startswith(b"HTTP/1.1 411") and status_of(address) == 200
