"""Open other people's JSON: what is broken is named with file, line and column.

Apart from the layouts, because every one of them needs it and can fail in the same ways.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from evertune.utils.errors import DataError
from evertune.utils.parsing import data_value, refuse_many, written_lines
from evertune.utils.regular_files import read_regular


def read_text(path: Path) -> str:
    """The text of a file; a byte order mark is dropped.

    Raises:
        DataError: missing, a folder, empty, not UTF-8, or with more values than `parsing.refuse_many` allows.
    """
    try:
        text = read_regular(path).decode("utf-8-sig")
        refuse_many(text)
    except OSError as problem:
        raise DataError(f"{path} can't be read: {problem.strerror}") from problem
    except UnicodeDecodeError as problem:
        raise DataError(f"{path}, byte {problem.start}: not UTF-8; save the file as UTF-8") from problem
    except ValueError as problem:
        raise DataError(f"{path} can't be read: {problem}") from problem
    if not text.strip():
        raise DataError(f"{path} is empty")
    return text


def read_json(path: Path) -> Any:
    """The content of a JSON file."""
    return parsed(read_text(path), path)


def read_rows(path: Path) -> Any:
    """The rows of a JSON list, or those of JSON Lines: several objects, one a line; else the content of the file."""
    text = read_text(path)
    lines = [line for _, line in islice(written_lines(text), 2)]
    several = len(lines) > 1
    if (
        lines[0].lstrip().startswith("{")
        and lines[0].rstrip().endswith("}")
        and (several or path.suffix.lower() == ".jsonl")
    ):
        return [row for _, row in read_lines(text, path)]
    return parsed(text, path)


def read_lines(text: str, path: Path) -> Iterator[tuple[int, Any]]:
    """Number and content of every line of a JSONL text; blank lines are passed over."""
    return ((number, parsed(line, path, line=number)) for number, line in written_lines(text))


def parsed(text: str, path: Path, *, line: int = 1) -> Any:
    """`text` as JSON; `line` is where it begins in the file.

    Raises:
        DataError: broken, nested too deeply, or with a number that is too long.
    """
    try:
        return data_value(text)
    except json.JSONDecodeError as problem:
        where = f"line {line + problem.lineno - 1}, column {problem.colno}"
        raise DataError(f"{path}, {where}: broken JSON ({problem.msg})") from problem
    except ValueError as problem:
        raise DataError(f"{path}, line {line}: JSON that can't be read ({problem})") from problem


def name_of(value: Any) -> str | None:
    """An id as text: numbers and texts are the same to everybody's files; None when it is neither."""
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else None


def first_of(row: dict[str, Any], keys: tuple[str, ...]) -> tuple[str, Any] | None:
    """The first of `keys` that `row` has, and its value."""
    return next(((key, row[key]) for key in keys if key in row), None)
