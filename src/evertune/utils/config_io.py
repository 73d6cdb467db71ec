"""Read YAML, check it against a schema, and print values as users write them.

Unknown keys are errors that name the nearest valid one.
"""

from __future__ import annotations

from collections.abc import Mapping
from io import TextIOWrapper
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from evertune.utils.errors import UserError, nearest, shortage
from evertune.utils.parsing import LONGEST_YAML, YamlError, yaml_value
from evertune.utils.regular_files import open_regular

Schema = TypeVar("Schema", bound=BaseModel)

LARGEST_INT, LARGEST_FLOAT = 2**32 - 1, 1e18
"""Largest numbers of a setting. Products of two still fit in the 64-bit integers and 32-bit floats of torch."""


def refuse_extremes(value: Any, name: str = "") -> None:
    """Stop at a number that is not finite or too large, in a setting or in the lists and mappings that it holds.

    Raises:
        ValueError: there is one; the message says where below `name`.
    """
    if isinstance(value, Mapping):
        for key, inner in value.items():
            refuse_extremes(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple):
        for inner in value:
            refuse_extremes(inner, name)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        largest = LARGEST_INT if isinstance(value, int) else LARGEST_FLOAT
        if not -largest <= value <= largest:  # also NaN; an int may be too long to be written
            where = f"{name}: " if name else ""
            raise ValueError(f"{where}the number must be finite and its magnitude at most {largest:,}")


class Settings(BaseModel):
    """A schema without unknown keys and without numbers that nothing can compute with."""

    model_config = ConfigDict(extra="forbid")

    @field_validator("*")
    @classmethod
    def _no_extremes(cls, value: Any) -> Any:
        refuse_extremes(value)
        return value


def unit(name: str) -> dict[str, Any]:
    """The unit of a setting, for its `json_schema_extra`: the reference of the docs shows it."""
    return {"unit": name}


def read_yaml(path: Path) -> Any:
    """Read a YAML file with the safe loader.

    Raises:
        UserError: the file is missing or not YAML; the message names the line.
    """
    try:
        with TextIOWrapper(open_regular(path), encoding="utf-8") as file:
            return yaml_value(file.read(LONGEST_YAML + 1))
    except FileNotFoundError as problem:
        raise UserError(f"{path} does not exist") from problem
    except YamlError as problem:
        line = f":{problem.line}" if problem.line else ""
        raise UserError(f"{path}{line}: not valid YAML ({problem})") from problem
    except (OSError, ValueError) as problem:
        if isinstance(problem, OSError) and shortage(problem):
            raise
        raise UserError(f"{path} can't be read: {problem}") from problem


def validated(schema: type[Schema], content: Any, *, where: str) -> Schema:
    """Check `content` against `schema`; the first mistake becomes one clear line that starts with `where`."""
    if not isinstance(content, dict):
        raise UserError(f"{where}: expected 'key: value' lines, found {type(content).__name__}")
    try:
        return schema.model_validate(content)
    except ValidationError as problem:
        first = problem.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise UserError(f"{where}: unknown key '{place}'; {_nearest_key(schema, first['loc'])}") from problem
        message = first["msg"].removeprefix("Value error, ")
        raise UserError(f"{where}: {place + ': ' if place else ''}{message}") from problem
    except UnicodeEncodeError as problem:  # of the schema's own library, which has the value in its message
        raise UserError(f"{where}: half of a surrogate pair (\\ud800 ...) is no text") from problem


def scalar(text: str) -> Any:
    """A YAML scalar; `5e-4` is a number for people, though not for YAML 1.1."""
    try:
        return float(text) if "e" in text.lower() else yaml_value(text)
    except ValueError:
        return text


def setting_text(key: str, value: Any, *, method: str) -> str:
    """`strength=1e6` for `ewc.strength` of the method `ewc`; the whole key where it would not say whose it is."""
    return f"{key.removeprefix(f'{method}.')}={value_text(value)}"


def value_text(value: Any) -> str:
    """A setting's value as short as people write it: `1e6`, `0.05`, `all`; different values differ."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) <= 1e300:
        return str(value)
    plain, digits = f"{value:g}", f"{value:e}".replace("e+0", "e").replace("e-0", "e-").replace("e+", "e")
    mantissa, _, exponent = digits.partition("e")
    short = f"{mantissa.rstrip('0').rstrip('.')}e{exponent}"
    exact = [text for text in (plain, short) if float(text) == value]
    return min(exact, key=len) if exact else repr(value)


def _nearest_key(schema: type[BaseModel], location: tuple[int | str, ...]) -> str:
    """The nearest key at the level where the unknown one stands."""
    level: Any = schema
    for part in location[:-1]:
        field = getattr(level, "model_fields", {}).get(part)
        level = field.annotation if field else level
        level = next(iter(getattr(level, "__args__", ())), level) if not hasattr(level, "model_fields") else level
    prefix = "".join(f"{part}." for part in location[:-1])
    return nearest(str(location[-1]), getattr(level, "model_fields", {}), prefix=prefix)
