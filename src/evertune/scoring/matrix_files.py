"""Read anybody's matrix: JSON (rows, or an object with `R`) or CSV. For `evertune metrics`."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evertune.errors import UserError
from evertune.parsing import json_value


@dataclass(frozen=True, slots=True)
class MatrixFile:
    """R with rows 0..T, and what else the file says; the first `known` columns are tasks known before the stream."""

    R: list[list[float]]
    known: int = 0
    direct: list[float | None] | None = None
    joint_average: float | None = None


def read_matrix(path: Path) -> MatrixFile:
    """Read a matrix; in a CSV a header line and a first column of names are skipped.

    A JSON object may hold `known` (how many tasks, or their names), `direct` (R*, one score per task) and
    `joint_average` beside `R`.

    Raises:
        UserError: missing, not JSON or CSV, or not numbers; the message names file and line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise UserError(f"{path} can't be read: {problem}") from problem
    return MatrixFile(_from_csv(text, path)) if path.suffix.lower() == ".csv" else _from_json(text, path)


def _from_json(text: str, path: Path) -> MatrixFile:
    try:
        content = json_value(text)
    except json.JSONDecodeError as problem:
        raise UserError(f"{path}:{problem.lineno}: not valid JSON ({problem.msg}); a CSV must end in .csv") from problem
    except ValueError as problem:
        raise UserError(f"{path}: not valid JSON ({problem})") from problem
    if isinstance(content, list):
        content = {"R": content}
    if not isinstance(content, dict) or not _is_matrix(content.get("R")):
        raise UserError(f"{path}: expected rows of numbers, or an object with 'R'; row 0 is the untouched model")
    known = content.get("known", 0)
    if isinstance(known, list):
        known = len(known)
    if isinstance(known, bool) or not isinstance(known, int):
        raise UserError(f"{path}: 'known' is {known!r}: expected how many of the first tasks are known, or their names")
    return MatrixFile(content["R"], known, content.get("direct"), content.get("joint_average"))


def _is_matrix(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, list) and row for row in value)


def _from_csv(text: str, path: Path) -> list[list[float]]:
    rows = []
    for number, row in enumerate(csv.reader(io.StringIO(text)), start=1):
        cells = [cell.strip() for cell in row]
        if not any(cells) or (number == 1 and not any(_number(cell) is not None for cell in cells[1:])):
            continue
        if _number(cells[0]) is None:
            cells = cells[1:]
        values = [_number(cell) for cell in cells]
        if any(value is None for value in values):
            raise UserError(f"{path}:{number}: '{cells[values.index(None)]}' is not a number")
        rows.append([value for value in values if value is not None])
    if not rows:
        raise UserError(f"{path} has no rows of numbers")
    return rows


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
