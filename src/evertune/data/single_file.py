"""A single data file in place of a stream: its format by its ending and, for JSON, by its first row.

`data check`, `learn` and `run` accept one.
"""

from __future__ import annotations

import re
from pathlib import Path

from evertune.data.reading import read_entries
from evertune.data.turns import KEYS
from evertune.utils.errors import DataError, UserError

TABLES = (".csv", ".tsv", ".parquet")
SUFFIXES = (".jsonl", ".json", *TABLES)

WHERE = "(of evertune data check, learn and try; format: in a stream's YAML; evertune ls formats lists them)"


def is_yaml(name: str) -> bool:
    """Whether a name is that of a YAML file."""
    return name.lower().endswith((".yaml", ".yml"))


def is_file_of_rows(name: str) -> bool:
    """Whether a name ends as a file of rows does."""
    return name.lower().endswith(SUFFIXES)


def task_name(path: Path) -> str:
    """The name of a single file's task."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", path.stem).strip("-._") or "data"


def guessed(path: Path) -> str | None:
    """The format of a file by its ending, and for JSON by its first row; None for own data, the default.

    Raises:
        UserError: the ending says nothing; DataError: the file can't be read.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder: say with --format whose layout it has {WHERE}")
    if path.suffix.lower() in TABLES:
        return "table"
    if not is_file_of_rows(path.name):
        raise UserError(f"{path}: its ending says no format; say it with --format {WHERE}")
    first = next(iter(read_entries(path)), None)
    dialogue = first is not None and not isinstance(first, DataError) and {*KEYS, "text"} & first.value.keys()
    return "llava" if dialogue else None
