"""The process that renders chat templates: an untrusted template can exhaust this process, and nothing else.

`evertune.models.templates` starts it by its path. It imports jinja2 and the standard library only, so that it starts
in a tenth of a second. Each line of its input is a request, each line of its output the reply, both JSON.

A request has as much CPU time, wall-clock time and memory as the command line says (`CPU WALL MEMORY`). They are the
system's limits, which hold inside a single operation, too (`10**10**10`, `'%1000000000d'`). The environment is that of
transformers (`transformers.utils.chat_template_utils`); `tests/unit/models/test_chat_bounds.py` compares the two.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from datetime import datetime
from functools import lru_cache
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

LONGEST_REASON = 300
IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Its parent decides what they mean; this process ends with its input."""


class Generation(Extension):
    """`{% generation %}`: marks what is trained on for other trainers; here its content and nothing else."""

    tags = {"generation"}  # noqa: RUF012  as jinja2 declares it

    def parse(self, parser: Any) -> nodes.Node:
        """The block, as a call that returns its content."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_content"), [], [], body).set_lineno(line)

    def _content(self, caller: Any) -> Any:
        return caller()


class Dictionary:
    """`dict` without the attributes of a class."""

    def __call__(self, *values: Any, **named: Any) -> dict[Any, Any]:
        """A dictionary."""
        return dict(*values, **named)

    def fromkeys(self, *values: Any) -> dict[Any, Any]:
        """As of `dict`."""
        return dict.fromkeys(*values)


class SafeNamespace(Namespace):
    """A namespace without names that begin with an underscore."""

    def __init__(*values: Any, **named: Any) -> None:
        self, *rest = values
        content = dict(*rest, **named)
        for name in content:
            _refuse_private(name)
        Namespace.__init__(self, content)

    def __setitem__(self, name: str, value: Any) -> None:
        _refuse_private(name)
        super().__setitem__(name, value)


def _refuse_private(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace has no attribute {name!r}")


def _raise_exception(message: str) -> None:
    raise jinja2.exceptions.TemplateError(message)


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


def environment() -> ImmutableSandboxedEnvironment:
    """What transformers renders chat templates in."""
    made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    made.filters["tojson"] = _tojson
    made.globals |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now}
    made.globals |= {"dict": Dictionary(), "namespace": SafeNamespace}
    return made


@lru_cache(maxsize=8)
def _compiled(template: str) -> jinja2.Template:
    return environment().from_string(template)


def reply(line: str) -> dict[str, str]:
    """The rendered text of a request, or in one line why there is none."""
    try:
        request = json.loads(line)
        text = _compiled(request["template"]).render(**request["values"])
        if len(text) > request["longest"]:
            return {"error": f"it makes more than {request['longest']:,} characters of these messages"}
    except MemoryError:
        return {"error": "it needs too much memory"}
    except Exception as problem:  # a template can raise whatever Python can
        message = " ".join(str(problem).split())[:LONGEST_REASON]
        known = isinstance(problem, jinja2.TemplateError) and message
        return {"error": message if known else f"{type(problem).__name__}: {message}".rstrip(": ")}
    return {"text": text}


def main(cpu: float, wall: float, memory: int) -> None:
    """Answer requests until the input ends or a limit ends this process."""
    for name in IGNORED:
        signal.signal(name, signal.SIG_IGN)
    for name in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(name, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGPROF, signal.SIGALRM))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_PROF, cpu)
        signal.setitimer(signal.ITIMER_REAL, wall)
        answer = json.dumps(reply(line))
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(answer, flush=True)


if __name__ == "__main__":
    main(float(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))
