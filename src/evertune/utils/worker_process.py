"""Work on untrusted files in processes with limits: what a file does to such a process, it does to no other.

A worker is a Python script that imports nothing of evertune, so that it starts in a tenth of a second, and sets its own
limits. Each request is a line of JSON with `bytes` of content behind it; each reply is the same.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any


class WorkerEndedError(Exception):
    """The process ended before it replied; `signal` is what ended it, 0 for none."""

    def __init__(self, signal: int) -> None:
        super().__init__(f"the process ended (signal {signal})")
        self.signal = signal


class Worker:
    """One process; threads that ask it wait for each other."""

    def __init__(self, script: Path, *arguments: str) -> None:
        self._command = [sys.executable, "-P", str(script), *arguments]
        self._owner = os.getpid()
        self._lock = Lock()
        self._process: subprocess.Popen[bytes] | None = None
        atexit.register(self.close)

    def ask(self, request: Mapping[str, Any], content: bytes = b"") -> tuple[dict[str, Any], bytes]:
        """The reply and the content behind it; the process is started when there is none.

        Raises:
            WorkerEndedError: a limit, or a crash, has ended it; the next request starts another one.
        """
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._process = subprocess.Popen(
                    self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
                )
            try:
                found = _exchanged(self._process, request, content)
            except BaseException:  # Ctrl-C: the reply that comes later must not be that of the next request
                self._forget()
                raise
            if found is None:
                ended = -self._process.wait()
                self._forget()
                raise WorkerEndedError(ended)
            return found

    def close(self) -> None:
        """End the process; what was forked from its parent leaves it alone."""
        if os.getpid() == self._owner:
            with self._lock:
                self._forget()

    def _forget(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            for pipe in (process.stdin, process.stdout):
                with suppress(OSError):
                    assert pipe
                    pipe.close()
            process.wait()


class WorkerPool:
    """As many workers as threads ask at once."""

    def __init__(self, script: Path, *arguments: str) -> None:
        self._script, self._arguments = script, arguments
        self._idle: list[Worker] = []

    def ask(self, request: Mapping[str, Any], content: bytes = b"") -> tuple[dict[str, Any], bytes]:
        """As `Worker.ask`."""
        try:
            worker = self._idle.pop()
        except IndexError:
            worker = Worker(self._script, *self._arguments)
        try:
            return worker.ask(request, content)
        finally:
            self._idle.append(worker)


def worker_of(script: Path, *arguments: str) -> Worker:
    """The one worker of this process for a script: a forked one must not use its parent's pipes."""
    return _worker(os.getpid(), script, *arguments)


def pool_of(script: Path, *arguments: str) -> WorkerPool:
    """The workers of this process for a script."""
    return _pool(os.getpid(), script, *arguments)


@lru_cache(maxsize=8)
def _worker(_process: int, script: Path, *arguments: str) -> Worker:
    return Worker(script, *arguments)


@lru_cache(maxsize=8)
def _pool(_process: int, script: Path, *arguments: str) -> WorkerPool:
    return WorkerPool(script, *arguments)


def _exchanged(
    process: subprocess.Popen[bytes], request: Mapping[str, Any], content: bytes
) -> tuple[dict[str, Any], bytes] | None:
    """The reply; None when the process ends before it is whole."""
    assert process.stdin and process.stdout
    with suppress(BrokenPipeError):
        head = json.dumps({**request, "bytes": len(content)}, default=lambda value: f"<{type(value).__name__}>")
        process.stdin.write(head.encode() + b"\n")
        process.stdin.write(content)
        process.stdin.flush()
        line = process.stdout.readline()
        if line.endswith(b"\n"):
            reply = json.loads(line)
            size = reply.get("bytes", 0)
            behind = process.stdout.read(size) if size else b""
            return (reply, behind) if len(behind) == size else None
    return None
