"""Read a file of JSON objects row by row, a list or JSON Lines, and continue after an invalid row.

`json.JSONDecoder.raw_decode` over pieces of 1 MiB (`json_lists`): measured as fast as ijson's C backend (42 MB in
0.58 s and 0.70 s), and it knows the column of a mistake. `benchmarks/data_scale.py` measures the whole way.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import IO

from evertune.data.images import short
from evertune.data.json_lists import LONGEST_ITEM, PIECE, opening
from evertune.data.layouts import layout_of
from evertune.data.records import Record, entries, entry_of
from evertune.utils.errors import DataError
from evertune.utils.parsing import data_value
from evertune.utils.regular_files import open_regular

LIST = "data"
"""The key under which a file that is one object has its rows."""
MOST_KEYS = 1000
"""Of an object among which that list is looked for."""
LONGEST_LINE = 4 * LONGEST_ITEM
"""Bytes: no character of UTF-8 has more than four."""
LONGEST_REST = 1 << 30
"""Bytes of such a line that are passed over, in search of the next one."""


def read_entries(path: Path) -> Iterator[Record | DataError]:
    """The objects of a JSON list, of one under "data", or of JSON Lines; `key` is the number in the list, or the line.

    A broken line, or a row that is no object, is yielded as a `DataError`; reading continues after it.

    Raises:
        DataError: the file is missing or not UTF-8, or a list's JSON is broken; the message names line and column.
    """
    first = "" if path.suffix.lower() == ".jsonl" else _first_character(path)
    if first == "[":
        return entries(path)
    return entries(path, under=LIST) if first == "{" and _is_wrapped(path) else _lines(path)


def _is_wrapped(path: Path) -> bool:
    """Whether a file that begins as an object is `{"data": [...]}`; else its objects stand one a line.

    Raises:
        DataError: it is one object over several lines without such a list.
    """
    opened: dict[str, int] = {}
    with suppress(DataError):  # each line says what is broken
        for key, begins, line in islice(opening(path), MOST_KEYS):
            if key == LIST and begins == "[":
                return True
            opened[key] = line
    if len(set(opened.values())) < 2:
        return False
    names = ", ".join(map(short, list(opened)[:5]))
    complaint = layout_of(opened) or f'the rows must be a list, {{"{LIST}": [...]}}, or one object a line'
    raise DataError(f"{path} is one object ({names} ...): {complaint}", kind="another layout")


def _opened(path: Path) -> IO[bytes]:
    try:
        return open_regular(path)
    except FileNotFoundError as problem:
        raise DataError(f"{path} does not exist", kind="missing file") from problem
    except (OSError, ValueError) as problem:
        raise DataError(f"{path} can't be read: {problem}", kind="missing file") from problem


def _first_character(path: Path) -> str:
    with _opened(path) as stream:
        return stream.read(4096).decode("utf-8-sig", errors="replace").lstrip()[:1]


def _lines(path: Path) -> Iterator[Record | DataError]:
    with _opened(path) as stream:
        number = 0
        while line := stream.readline(LONGEST_LINE):
            number += 1
            origin = f"{path}:{number}"
            if len(line) == LONGEST_LINE and not line.endswith(b"\n"):
                left = LONGEST_REST
                while (part := stream.readline(PIECE)) and not part.endswith(b"\n"):
                    left -= len(part)
                    if left < 0:  # a sparse file, or none of lines
                        raise DataError(f"{origin}: the line has no end within {LONGEST_REST >> 20:,} MiB")
                yield DataError(f"{origin}: the line is longer than any row", kind="huge text")
            elif line.strip():
                yield _entry(line, origin, key=str(number))


def _entry(line: bytes, origin: str, *, key: str) -> Record | DataError:
    kind = "broken JSON"
    try:
        return entry_of(data_value(line.rstrip(b"\r\n").decode("utf-8-sig")), origin, key=key)
    except DataError as problem:
        return problem
    except json.JSONDecodeError as problem:
        return DataError(f"{origin}: not valid JSON (column {problem.colno}: {problem.msg})", kind=kind)
    except UnicodeDecodeError as problem:
        return DataError(f"{origin}: not UTF-8 text (byte {problem.start + 1} of the line)", kind=kind)
    except ValueError as problem:
        return DataError(f"{origin}: not valid JSON ({problem})", kind=kind)
