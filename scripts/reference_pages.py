"""Reference pages of the site that are made from the code: every command, every configuration key.

`scripts/site_pages.py` adds them to the site. `describe` gives a key its type, default, unit and meaning; a key without
a meaning, or a number without a unit, fails a test. The unit 1, of a plain number, is left out of the tables.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import click
import typer.main
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

COMMANDS = """# Commands

For users of a terminal: every command with its arguments and options. `evertune COMMAND --help`
prints the same.
[Exit codes](environment.md#exit-codes) are the same for all."""
CONFIGURATION = """# Configuration

For users who look for a setting: every key with its type, default, unit and meaning, made from the code.

`--set KEY=VALUE` of `run`, `plan`, `new` and `learn` takes the keys of a run as they stand here.
The YAML of `evertune run FILE.yaml` takes the same names, or groups (`train: {epochs: 2}`). Some models have recipes,
which take the place of defaults ([models](models.md)). `config.yaml` in a run folder has the values that were used.
A number without a unit is a plain number."""
TITLES = {"train": "Training", "evaluation": "Evaluation", "stages": "Stages", "features": "Vision features"}
"""Headings of the groups of keys of a run."""
UNITS = {
    "buffer": "samples",
    "samples": "samples",
    "ratio": "share of samples",
    "repeat": "times",
    "tokens": "tokens",
    "top": "logits",
    "experts": "experts",
    "covered": "share",
    "energy": "share",
    "share": "share",
}
"""Of the options of methods, by their names; others are plain numbers."""


@dataclass(frozen=True, slots=True)
class Key:
    """A configuration key as a row of a table."""

    name: str
    kind: str
    default: str
    unit: str
    meaning: str


def commands_page() -> str:
    """Every command with its arguments and options."""
    from evertune.cli.main import app

    parts = [COMMANDS]
    for path, command in commands_of(typer.main.get_command(app)):
        parts.append(f"## {' '.join(path)}\n\n{(command.help or '').strip()}\n\n{parameters_of(command)}")
    return "\n\n".join(parts)


def commands_of(group: Any, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    """The leaves of the tree of commands, with their words."""
    found = []
    for name, command in group.commands.items():
        deeper = (*path, name)
        found += commands_of(command, deeper) if hasattr(command, "commands") else [(deeper, command)]
    return found


def parameters_of(command: Any) -> str:
    """A table of what a command takes."""
    context = click.Context(command)
    rows = []
    for parameter in command.params:
        words, meaning = parameter.get_help_record(context) or (parameter.make_metavar(context), parameter.help or "")
        if words != "--help":
            rows.append(f"| `{words}` | {meaning} |".replace("\n", " "))
    return "| | |\n|---|---|\n" + "\n".join(rows) if rows else ""


def configuration_page() -> str:
    """Every configuration key, by the file or group that it belongs to."""
    parts = [CONFIGURATION]
    parts += [f"## {title}\n\n{table(keys)}" for title, keys in groups().items()]
    return "\n\n".join(parts) + "\n"


def groups() -> dict[str, list[Key]]:
    """The keys of a run, of its methods, of a stream and of a grid."""
    from evertune.data.stream import StreamFile
    from evertune.data.task_file import TaskFile
    from evertune.experiments.grid.cells import GridFile
    from evertune.experiments.study.file import Questions, StudyFile, StudyGrid
    from evertune.methods import METHODS
    from evertune.runs.config import RunConfig, SharedSettings

    shared = {name.partition(".")[0] for name in SharedSettings.model_fields}
    run = sorted(keys_of(RunConfig), key=lambda key: key.name in shared)  # the run's own first
    named = {name: [key for key in run if key.name.startswith(f"{name}.")] for name in sections(RunConfig)}
    plugins = Key("plugins", "list of text", "[]", "", "plug-ins, in the YAML only: files, or `package:Name`")
    only_in_grids = set(GridFile.model_fields) - set(SharedSettings.model_fields)
    only_in_studies = set(StudyGrid.model_fields) - set(GridFile.model_fields)
    return {
        "A run": [*(key for key in run if "." not in key.name), plugins],
        **{f"{TITLES[name]} (`{name}.*`)": keys for name, keys in named.items()},
        "What trains in a model (`model.*`)": list(model_keys()),
        **{f"Options of {name}": found for name in METHODS if (found := list(option_keys(name)))},
        "The YAML of a stream": list(keys_of(StreamFile)),
        "A task in the YAML of a stream": list(keys_of(TaskFile)),
        "The YAML of a grid (and all keys of a run)": [key for key in keys_of(GridFile) if key.name in only_in_grids],
        "The YAML of a study": list(keys_of(StudyFile)),
        "A grid in the YAML of a study": [key for key in keys_of(StudyGrid) if key.name in only_in_studies],
        "Questions of a study": list(keys_of(Questions)),
    }


def sections(schema: type[BaseModel]) -> list[str]:
    """The groups of a schema: fields that are schemas themselves."""
    return [name for name, field in schema.model_fields.items() if is_schema(field.annotation)]


def keys_of(schema: type[BaseModel], prefix: str = "") -> Iterator[Key]:
    """The keys of a schema, those of its groups with a dot."""
    for name, field in schema.model_fields.items():
        if is_schema(field.annotation):
            yield from keys_of(field.annotation, f"{prefix}{name}.")
        elif prefix or name not in ("options", "model_options") or "task" in schema.__name__.lower():
            yield describe(prefix + name, field)


def is_schema(annotation: Any) -> bool:
    """Whether a field is a group of keys."""
    return inspect.isclass(annotation) and issubclass(annotation, BaseModel)


def describe(name: str, field: FieldInfo) -> Key:
    """A key of a schema."""
    if field.is_required():
        default = "required"
    else:
        value = (
            field.default
            if field.default is not PydanticUndefined
            else field.get_default(call_default_factory=True, validated_data={})
        )
        default = in_words(value)
    extra = field.json_schema_extra
    unit = str(extra.get("unit", "")) if isinstance(extra, dict) else ""
    return Key(name, kind_of(field.annotation), default, unit, field.description or "")


def model_keys() -> Iterator[Key]:
    """The options of a model, from the fields and the docstring of `Scope`."""
    from evertune.models.scopes import Scope

    meanings = attributes_of(Scope)
    for field in fields(Scope):
        kind = type(field.default)
        meaning = meanings[field.name].removesuffix(".")
        yield Key(f"model.{field.name}", kind_of(kind), in_words(field.default), "1" if kind is int else "", meaning)


def attributes_of(documented: type) -> dict[str, str]:
    """The part `Attributes:` of a docstring, by name."""
    text = inspect.cleandoc(documented.__doc__ or "").partition("Attributes:\n")[2]
    entries = re.split(r"\n(?=    \w)", "\n" + text)
    pairs = (" ".join(entry.split()).partition(": ") for entry in entries if entry.strip())
    return {name: meaning for name, _, meaning in pairs}


def option_keys(method: str) -> Iterator[Key]:
    """The options of a method, from its constructor and the docstring of its class."""
    from evertune.cli.catalogue import meanings_of
    from evertune.methods import METHODS, options_of

    made, meanings = METHODS[method](), meanings_of(METHODS[method])
    for name, option in options_of(method).items():
        kind = kind_of(option.annotation)
        unit = UNITS.get(name, "1") if kind in ("integer", "number") else ""
        yield Key(f"{method}.{name}", kind, in_words(getattr(made, name)), unit, meanings.get(name, ""))


def kind_of(annotation: Any) -> str:
    """A type in words: `number`, `true or false`, `a` or `b`."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{choice}`" for choice in inner)
    if origin in (Union, UnionType):
        return " or ".join(kind_of(one) for one in inner if one is not NoneType)
    if origin is list:
        return f"list of {kind_of(inner[0])}"
    if origin is dict:
        return "mapping"
    words = {int: "integer", float: "number", str: "text", bool: "true or false", Any: "value"}
    return words.get(annotation, "mapping" if is_schema(annotation) else str(annotation))


def in_words(value: Any) -> str:
    """A default as it would be typed."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`" if value != "" else "none"


def table(keys: list[Key]) -> str:
    """The keys as a table of Markdown."""
    rows = []
    for key in keys:
        unit = "" if key.unit == "1" else key.unit
        row = f"| `{key.name}` | {key.kind} | {key.default} | {unit} | {' '.join(key.meaning.split())} |"
        rows.append(row.replace("<", "&lt;"))
    return "| key | type | default | unit | meaning |\n|---|---|---|---|---|\n" + "\n".join(rows)
