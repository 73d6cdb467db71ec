"""A hash of the code of functions that a user has written: a changed function is another one."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from evertune.utils.files import digest

PLAIN = (bool, int, float, str, bytes, type(None))


def code_digest(*functions: Callable[..., Any] | None) -> str:
    """Short hash of the sources of functions or classes; of the byte code where there is no source."""
    return digest(*("" if function is None else _code_of(function) for function in functions))[:12]


def _code_of(function: Callable[..., Any]) -> str:
    try:
        return inspect.getsource(function) + _bound_to(function)
    except (OSError, TypeError):  # typed into a prompt, made by exec, or an object that can be called
        code = getattr(function, "__code__", None)
        if code is None:
            return repr(type(function))
        return f"{code.co_code.hex()} {code.co_consts!r} {code.co_names!r} {_bound_to(function)}"


def _bound_to(function: Callable[..., Any]) -> str:
    """Plain values that a function got from outside: defaults, and variables of the function around it."""
    cells = [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
    values = [*(getattr(function, "__defaults__", None) or ()), *cells]
    return repr([value for value in values if isinstance(value, PLAIN)])
