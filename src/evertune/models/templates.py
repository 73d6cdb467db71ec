"""Chat templates, rendered in a process with limits: a model's template is a program by the model's author.

A sandbox keeps a template from files and attributes, not from loops without end, from `10**10**10` or from strings that
double. So one process per process of ours renders (`template_worker.py`); it is started at the first prompt and takes
about 0.1 ms per prompt.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evertune.utils.errors import UserError
from evertune.utils.worker_process import Worker, WorkerEndedError, worker_of

CPU_SECONDS = 5.0
WALL_SECONDS = 60.0
MEMORY = 512 << 20
"""Bytes of address space, Python's and jinja2's share (about 40 MB) included."""
SPARE_CHARACTERS = 1 << 16
GROWTH = 4
"""A prompt has at most `GROWTH` times the characters of its messages, and `SPARE_CHARACTERS` more."""
WORKER = Path(__file__).with_name("template_worker.py")


def render(template: str, values: Mapping[str, Any]) -> str:
    """What a chat template makes of its values (messages, special tokens ...).

    Raises:
        UserError: the template is broken, refuses the messages, or takes too much time, memory or text.
    """
    size = len(json.dumps(values["messages"], ensure_ascii=False))
    request = {"template": template, "values": values, "longest": GROWTH * size + SPARE_CHARACTERS}
    try:
        answer, _ = renderer().ask(request)
    except WorkerEndedError as problem:
        answer = {"error": _ending(problem.signal)}
    if "text" in answer:
        return str(answer["text"])
    raise UserError(f"the model's chat template can't be used: {answer['error']}")


def renderer() -> Worker:
    """The process that renders; threads of a server wait for each other."""
    return worker_of(WORKER, str(CPU_SECONDS), str(WALL_SECONDS), str(MEMORY))


def _ending(number: int) -> str:
    if number in (signal.SIGPROF, signal.SIGALRM):
        return f"it takes more than {CPU_SECONDS if number == signal.SIGPROF else WALL_SECONDS:g} s"
    return f"the process that renders it ended (signal {number})"
