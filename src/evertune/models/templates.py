"""Chat templates, rendered in a process with limits: a model's template is a program by the model's author.

A sandbox keeps a template from files and attributes, not from loops without end, from `10**10**10` or from strings that
double. So one process per process of ours renders (`template_worker.py`); it is started at the first prompt and takes
about 0.1 ms per prompt.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

from evertune.utils.errors import UserError

CPU_SECONDS = 5.0
WALL_SECONDS = 60.0
MEMORY = 512 << 20
"""Bytes of address space, Python's and jinja2's share (about 40 MB) included."""
SPARE_CHARACTERS = 1 << 16
GROWTH = 4
"""A prompt has at most `GROWTH` times the characters of its messages, and `SPARE_CHARACTERS` more."""
_WORKER = Path(__file__).with_name("template_worker.py")


def render(template: str, values: Mapping[str, Any]) -> str:
    """What a chat template makes of its values (messages, special tokens ...).

    Raises:
        UserError: the template is broken, refuses the messages, or takes too much time, memory or text.
    """
    size = len(json.dumps(values["messages"], ensure_ascii=False))
    request = {"template": template, "values": values, "longest": GROWTH * size + SPARE_CHARACTERS}
    answer = _renderer(os.getpid()).ask(json.dumps(request, default=_type_name))
    if "text" in answer:
        return answer["text"]
    raise UserError(f"the model's chat template can't be used: {answer['error']}")


@lru_cache(maxsize=1)
def _renderer(_process: int) -> _Renderer:
    """The renderer of the process that asks: a forked one must not use its parent's pipes."""
    made = _Renderer()
    atexit.register(made.close)
    return made


def _type_name(value: Any) -> str:
    return f"<{type(value).__name__}>"


class _Renderer:
    """The process, and the pipes to it; threads of a server wait for each other."""

    def __init__(self) -> None:
        self._owner = os.getpid()
        self._lock = Lock()
        self._process: subprocess.Popen[str] | None = None

    def ask(self, request: str) -> dict[str, str]:
        """The reply; the process is started when there is none, and forgotten when a limit has ended it."""
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._process = _started()
            try:
                line = _exchanged(self._process, request)
            except BaseException:  # Ctrl-C: the reply that comes later must not be that of the next prompt
                self._forget()
                raise
            if line.endswith("\n"):
                found: dict[str, str] = json.loads(line)
                return found
            ended = -self._process.wait()
            self._forget()
            return {"error": _ending(ended)}

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


def _exchanged(process: subprocess.Popen[str], request: str) -> str:
    assert process.stdin and process.stdout
    with suppress(BrokenPipeError):
        process.stdin.write(request + "\n")
        process.stdin.flush()
        return process.stdout.readline()
    return ""


def _ending(number: int) -> str:
    if number in (signal.SIGPROF, signal.SIGALRM):
        return f"it takes more than {CPU_SECONDS if number == signal.SIGPROF else WALL_SECONDS:g} s"
    return f"the process that renders it ended (signal {number})"


def _started() -> subprocess.Popen[str]:
    limits = (str(CPU_SECONDS), str(WALL_SECONDS), str(MEMORY))
    return subprocess.Popen(
        [sys.executable, "-P", str(_WORKER), *limits],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        encoding="ascii",
    )
