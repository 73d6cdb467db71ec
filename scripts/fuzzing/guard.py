"""What a reader may do with an input: read, and write below its own folder. Everything else ends it and is a finding.

An audit hook of Python sees every file that is opened for writing, renamed, removed or made, every process and
connection, every unpickling. A timer ends what takes too long, a limit on the address space what takes too much.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NEVER = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "pty.spawn")
WORKERS = {"arrow_process.py", "image_decoder.py", "template_worker.py"}
STARTS = ("subprocess.Popen", "os.posix_spawn")
"""Events of a new process: Python 3.13 has both for one."""
"""Processes of our own that read where the limits are."""
NETWORK = ("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.sendto", "urllib.Request")
CODE = ("pickle.find_class", "compile", "ctypes.dlopen", "webbrowser.open")
COMPILES = ("/typing.py", "/inspect.py", "/ast.py", "/dataclasses.py", "/jinja2/environment.py")
PATHS = (
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.mkdir",
    "os.link",
    "os.symlink",
    "os.truncate",
    "os.chmod",
    "os.chown",
)
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Forbidden(BaseException):
    """A reader did what no reader may; not an `Exception`, so that no `except` in between takes it."""


class TooSlow(BaseException):
    """A reader took longer than it may."""


class Guard:
    """Watches while `watched` is entered; `place` is where writing is allowed."""

    def __init__(self, place: Path) -> None:
        self._place = os.path.realpath(place)
        self._watching = False
        self.seen: list[str] = []
        sys.addaudithook(self._heard)
        signal.signal(signal.SIGALRM, self._late)
        signal.signal(signal.SIGPROF, self._late)

    @contextmanager
    def watched(self, *, seconds: float) -> Iterator[None]:
        """One input. The time is the processor's, and ten times as much of the clock's."""
        self.seen.clear()
        signal.setitimer(signal.ITIMER_PROF, seconds)
        signal.setitimer(signal.ITIMER_REAL, 10 * seconds)
        self._watching = True
        try:
            yield
        finally:
            self._watching = False
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)
        if self.seen:  # it was raised, and something swallowed it all the same
            raise Forbidden(self.seen[0])

    def _late(self, *_: Any) -> None:
        if self._watching:
            raise TooSlow

    def _heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._watching:
            return
        if event == "open":
            path, mode, flags = arguments
            writes = any(letter in (mode or "") for letter in "wax+") or bool((flags or 0) & WRITES)
            if writes and isinstance(path, str | bytes):
                self._inside(event, path)
        elif event in PATHS or event.startswith("shutil."):
            for path in arguments[:2]:
                if isinstance(path, str | bytes):
                    self._inside(event, path)
        elif event in STARTS and WORKERS.intersection(map(os.path.basename, map(str, arguments[1]))):
            return
        elif event in NEVER or event in NETWORK or (event in CODE and not _is_of_a_library()):
            self._refuse(f"{event} {arguments!r:.200}")

    def _inside(self, event: str, path: str | bytes) -> None:
        found = os.path.realpath(os.fsdecode(path))
        if found != self._place and not found.startswith(self._place + os.sep) and found != os.devnull:
            self._refuse(f"{event} {found:.200}")

    def _refuse(self, what: str) -> None:
        self.seen.append(what)
        raise Forbidden(what)


def _is_of_a_library() -> bool:
    """Whether code is compiled because a module is imported late, or for annotations and templates, which are ours."""
    frame = sys._getframe(2)
    if frame.f_code.co_filename.endswith(COMPILES):
        return True
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


def limit_memory(more: int) -> None:
    """From now on this process gets at most `more` bytes of address space beside those it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + more
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
