"""Names that callers misspell: arguments of the public functions, and hooks of classes of their own.

Python's own `TypeError` for an unknown argument does not say which ones there are, and a hook with a wrong name is
never called, which nothing else would notice.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from evertune.utils.errors import UserError, kind_of, nearest

P = ParamSpec("P")
Value = TypeVar("Value")
LIKE_A_HOOK = 0.75
"""Similarity from which a method counts as a misspelt hook: `after_taks` has 0.9, `before_backward` 0.76."""


class ArgumentError(UserError, TypeError):
    """A call has an argument that the function does not take, or lacks one."""


def named_arguments(function: Callable[P, Value]) -> Callable[P, Value]:
    """The function, which names the nearest argument where a call has one that it does not take."""

    @wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> Value:
        signature = inspect.signature(function)
        try:
            signature.bind(*args, **kwargs)
        except TypeError as problem:
            raise ArgumentError(_explained(function, signature, kwargs, problem)) from None
        return function(*args, **kwargs)

    return checked


def _explained(
    function: Callable[..., Any], signature: inspect.Signature, given: Mapping[str, Any], problem: TypeError
) -> str:
    """What is wrong with a call, and what would be right."""
    name = function.__qualname__.removesuffix(".__init__")
    known = [parameter.name for parameter in signature.parameters.values() if parameter.name not in ("self", "cls")]
    if unknown := [each for each in given if each not in known]:
        return f"{name}() has no argument '{unknown[0]}'; {nearest(unknown[0], known)}"
    by_name = [p.name for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY]
    example = f"; pass by name: {', '.join(f'{each}=...' for each in by_name)}" if by_name else ""
    return f"{name}(): {problem}{example}"


def path_of(value: Any, *, what: str, example: str = "runs/first") -> Path:
    """What a caller passed as a path.

    Raises:
        UserError: it is something else.
    """
    if not isinstance(value, str | Path):
        raise UserError(f"{what} is {kind_of(value)}; taken is a path, such as {what}={example!r}")
    return Path(value)


def typed_options(function: Callable[P, Value]) -> Callable[P, Value]:
    """`named_arguments` of a method's `__init__`, which also stops a value that is no number, text or flag as declared.

    A number of numpy becomes one of Python.

    Raises:
        ArgumentError: when it is called.
    """

    @wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> Value:
        values = {option: plain_number(value) for option, value in kwargs.items()}
        for option, value in values.items():
            parameter = inspect.signature(function).parameters.get(option)
            declared = parameter.annotation if parameter else None
            taken = _PLAIN.get(str(getattr(declared, "__name__", declared)))
            if taken is not None and not isinstance(value, taken[1]):
                raise ArgumentError(f"{type(args[0]).__name__}({option}=...) is {kind_of(value)}; taken is {taken[0]}")
        return named(*args, **values)

    named = named_arguments(function)
    return checked


def plain_number(value: Any) -> Any:
    """A number of numpy as one of Python; anything else as it is."""
    is_scalar = type(value).__module__ == "numpy" and getattr(value, "shape", None) == ()
    return value.item() if is_scalar else value  # numpy is not imported for it


_PLAIN: dict[str, tuple[str, tuple[type, ...]]] = {
    "float": ("a number", (int, float)),
    "int": ("a whole number", (int,)),
    "str": ("a text", (str,)),
    "bool": ("True or False", (bool,)),
}


def refuse_wrong_hooks(cls: type, base: type, *, prefixes: tuple[str, ...]) -> None:
    """Raise where a class has a method that looks like a hook of `base` and is none, or a hook of other arguments.

    Args:
        cls: extends `base`. What begins with `_`, and classes of evertune itself, are not looked at.
        base: its public methods are the hooks.
        prefixes: with which hooks begin.

    Raises:
        UserError: the message has the hook.
    """
    hooks = {name: value for name, value in vars(base).items() if inspect.isfunction(value) and name[0] != "_"}
    for kind in cls.__mro__:
        if not kind.__module__.startswith("evertune.") and issubclass(kind, base):
            for name, value in vars(kind).items():
                if inspect.isfunction(value) and not name.startswith("_"):
                    _refuse_wrong_hook(f"{kind.__name__}.{name}", value, hooks, base, prefixes)
                elif name in hooks and (isinstance(value, property) or not hasattr(value, "__get__")):
                    raise UserError(f"{kind.__name__}.{name} is {kind_of(value)}; it is a hook: def {name}(...)")


def _refuse_wrong_hook(
    what: str, value: Callable[..., Any], hooks: Mapping[str, Any], base: type, prefixes: tuple[str, ...]
) -> None:
    name = what.rpartition(".")[2]  # of the class: that of a function may be another, such as <lambda>
    if name in hooks:
        wanted = inspect.signature(hooks[name]).parameters.values()
        by_name = {each.name: None for each in wanted if each.kind is each.KEYWORD_ONLY}
        try:
            inspect.signature(value).bind(*[None] * (len(wanted) - len(by_name)), **by_name)
        except TypeError as problem:
            takes = ", ".join(str(each).split(":")[0] for each in wanted)
            raise UserError(f"{what} is called as {name}({takes}), which it does not take: {problem}") from None
    elif not hasattr(base, name):
        close = difflib.get_close_matches(name, hooks, n=1, cutoff=LIKE_A_HOOK)
        if close or name.startswith(prefixes):
            known = f"did you mean '{close[0]}'?" if close else f"the hooks are {', '.join(hooks)}."
            raise UserError(
                f"{what} looks like a hook of evertune.{base.__name__} and is none, so nothing would call it: {known} "
                f"If it is your own, call it '_{name}'"
            )
