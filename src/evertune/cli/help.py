"""How the help of a command looks: arguments and options with names for their values and one form of default.

typer's own changes with its version, and shows Python's types (`<list[Path]>`). Imports nothing but typer.
"""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand


class Command(TyperCommand):
    """A command whose help names values, not types."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """`[OPTIONS] DIR IMAGE... QUESTION`; what may be left out stands in brackets."""
        arguments = [param for param in self.get_params(ctx) if param.param_type_name == "argument"]
        return ["[OPTIONS]", *(_value(each) if each.required else f"[{_value(each)}]" for each in arguments)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """A section of arguments and one of options."""
        params = [param for param in self.get_params(ctx) if not getattr(param, "hidden", False)]
        for title, kind in (("Arguments", "argument"), ("Options", "option")):
            rows = [(_names(param), _meaning(param)) for param in params if param.param_type_name == kind]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


def _value(param: Any) -> str:
    """What stands for the value: the given name, or the parameter's own."""
    return str(param.metavar or param.name.replace("_", "-").upper())


def _names(param: Any) -> str:
    if param.param_type_name == "argument":
        return _value(param)
    names = ", ".join(sorted((*param.opts, *param.secondary_opts), key=lambda name: name.startswith("--")))
    return names if param.is_flag or param.count else f"{names} {_value(param)}"


def _meaning(param: Any) -> str:
    """The text, and the default; a text that names its own has it in the same brackets."""
    text = param.help or ""
    if param.param_type_name == "option" and param.required:
        return f"{text.removesuffix('.')} [required]."
    default = getattr(param.default, "value", param.default)
    if isinstance(default, bool):
        default = (param.opts if default else param.secondary_opts)[0] if param.secondary_opts else None
    if default is None or callable(default):
        return text
    return f"{text.removesuffix('.')} [default: {default}]."
