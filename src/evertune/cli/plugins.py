"""`--plugin` for a command: what it names is loaded before the command begins. Imports nothing heavy."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any, get_type_hints

import typer

from evertune.cli.options import loading

PluginOption = Annotated[
    list[str] | None,
    typer.Option("--plugin", metavar="CODE", help="A method or more of your own: FILE.py or PACKAGE:NAME."),
]


def with_plugins(command: Callable[..., None]) -> Callable[..., None]:
    """The same command with the option `--plugin`, which may be given several times."""

    @wraps(command)
    def wrapped(*, plugin: list[str] | None = None, **given: Any) -> None:
        if plugin:
            with loading():
                from evertune.utils.plugins import load_plugin

                for spec in plugin:
                    load_plugin(spec)
        command(**given)

    hints = get_type_hints(command, include_extras=True)
    own = [part.replace(annotation=hints[name]) for name, part in inspect.signature(command).parameters.items()]
    option = inspect.Parameter("plugin", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=PluginOption)
    vars(wrapped)["__signature__"] = inspect.Signature([*own, option])
    wrapped.__annotations__ = {part.name: part.annotation for part in (*own, option)}
    del wrapped.__wrapped__  # typer would look at what is wrapped
    return wrapped
