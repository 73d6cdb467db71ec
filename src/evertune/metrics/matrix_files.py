"""Read any matrix: JSON (rows, or an object with `R`) or a table of text. For `evertune metrics`."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evertune.metrics.matrix_tables import Rows, Table, parsed, read_table
from evertune.metrics.metrics import SQUARE, is_score
from evertune.utils.errors import UserError
from evertune.utils.parsing import json_value
from evertune.utils.regular_files import read_regular

MOST_BYTES = 64 << 20
"""Of a file; a thousand tasks have a million scores."""


@dataclass(frozen=True, slots=True)
class MatrixFile:
    """A matrix and what else the file says.

    Attributes:
        R: rows 0..T; None where the file has no score. Row 0, the base model's, is all None where the file lacks it.
        known: how many of the first columns are tasks that were known before the stream.
        notes: how the file was understood, where that is not certain.
    """

    R: Rows
    known: int = 0
    direct: list[float | None] | None = None
    joint_average: float | None = None
    notes: tuple[str, ...] = ()


def read_matrix(path: Path, *, known: int | None = None, base: bool | None = None) -> MatrixFile:
    """Read a matrix; header, index column, BOM, % and blank cells are understood.

    A JSON object may hold `known` (how many tasks, or their names), `direct` (R*, one score per task) and
    `joint_average` beside `R`. Lower triangles may leave the cells above the diagonal out.

    Args:
        path: a file whose text begins with [ or {, or whose name ends in .json, is JSON; any other is a table.
        known: how many of the first columns are known tasks; default: what the file says, else none.
        base: whether the first row is the base model's; default: by names and shape, T rows for T tasks having none.

    Raises:
        UserError: missing, not JSON or a table, or not numbers; the message names file and line.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder: give the file of a matrix, e.g. matrix.json of a run")
    try:
        text = read_regular(path, most=MOST_BYTES).decode("utf-8-sig")
    except FileNotFoundError as problem:
        raise UserError(f"{path} does not exist") from problem
    except (OSError, UnicodeDecodeError) as problem:
        raise UserError(f"{path} can't be read as UTF-8 text: {problem}") from problem
    if path.suffix.lower() == ".json" or text.lstrip()[:1] in ("[", "{"):
        content = _json(text, path)
        known = _known(content, path) if known is None else known
        table = Table([[_cell(cell) for cell in row] for row in content["R"]], (), (), ())
        if isinstance(content.get("stages"), list):  # of a run of ours
            base = True
    else:
        content, known = {}, known or 0
        table = read_table(text, path, known=known)
    R, notes = _with_row_0(table, path, known=known, base=base)
    return MatrixFile(R, known, content.get("direct"), content.get("joint_average"), (*table.notes, *notes))


def _json(text: str, path: Path) -> dict[str, Any]:
    try:
        content = json_value(text)
    except json.JSONDecodeError as problem:
        raise UserError(f"{path}:{problem.lineno}: not valid JSON ({problem.msg})") from problem
    except ValueError as problem:
        raise UserError(f"{path}: not valid JSON ({problem})") from problem
    if isinstance(content, list):
        content = {"R": content}
    if not isinstance(content, dict) or not _is_matrix(content.get("R")):
        raise UserError(f"{path}: expected rows of numbers, or an object with 'R'; row 0 is the base model's")
    return content


def _known(content: dict[str, Any], path: Path) -> int:
    known = content.get("known", 0)
    if isinstance(known, list):
        known = len(known)
    if isinstance(known, bool) or not isinstance(known, int):
        raise UserError(f"{path}: 'known' is {known!r}: expected how many of the first tasks are known, or their names")
    return known


def _is_matrix(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, list) and row for row in value)


def _cell(value: Any) -> Any:
    """A value of a JSON matrix as a score where it can be one."""
    if isinstance(value, str):
        try:
            return parsed(value)
        except ValueError:
            return value
    return None if isinstance(value, float) and math.isnan(value) else value


def _with_row_0(table: Table, path: Path, *, known: int, base: bool | None) -> tuple[Rows, list[str]]:
    """The rows 0..T, and what was decided about them."""
    rows = _squared(table.rows, path, known=known)
    new = len(rows[0]) - known
    if base is None:
        base = _begins_with_base(table, rows=len(rows), new=new)
    notes = []
    stages = rows[1:] if base else rows
    if _is_upper(stages, known):
        raise UserError(f"{path} has scores above the diagonal only: rows are stages, columns tasks; transpose it")
    labels = list(table.labels[1:] if base else table.labels)
    order = _order(labels, list(table.columns), known)
    if order:
        rows = [[row[place] for place in order] for row in rows]
        notes.append(f"the columns are put in the order in which the tasks were learned: {', '.join(labels)}")
    if not base:
        rows = [[None] * len(rows[0]), *rows]
        notes.append(
            f"{len(rows) - 1} rows for {new} tasks: the row of the base model is missing, and metrics that need it are "
            "null; if the first row is the base model's, say --base"
        )
    if len(rows) != new + 1:
        notes.append(
            f"{len(rows)} rows for {len(rows[0])} columns, {known} of them known: not one stage for each new task, so "
            f"{', '.join(sorted(SQUARE))} are null"
        )
    return rows, notes


def _squared(rows: Rows, path: Path, *, known: int) -> Rows:
    """Rows of one length: a triangle may leave out what is above the diagonal."""
    width = max(map(len, rows))
    for count in (len(rows), len(rows) - 1):  # below the base model's row, or without it
        lengths = [len(row) for row in rows[-count:]] if count else []
        if lengths == list(range(known + 1, known + count + 1)) and known + count == width:
            rows = [[*row, *[None] * (width - len(row))] for row in rows]
    for number, row in enumerate(rows, start=1):
        if len(row) != len(rows[0]):
            raise UserError(f"{path}: row {number} of the matrix has {len(row)} scores, row 1 has {len(rows[0])}")
        for column, value in enumerate(row, start=1):
            if value is not None and not is_score(value):
                raise UserError(
                    f"{path}: row {number}, column {column} of the matrix is {value!r:.60}: not a finite number"
                )
    return rows


def _begins_with_base(table: Table, *, rows: int, new: int) -> bool:
    """By the names of the rows where they are those of the columns, else by their number."""
    if table.labels and set(table.labels[1:]) <= set(table.columns):
        return table.labels[0] not in table.columns
    return rows != new


def _is_upper(stages: Rows, known: int) -> bool:
    """Whether a square has something above its diagonal and nothing below."""
    square = [row[known:] for row in stages]
    if len(square) < 2 or len(square) != len(square[0]):
        return False
    below = [value for t, row in enumerate(square) for value in row[:t]]
    above = [value for t, row in enumerate(square) for value in row[t + 1 :]]
    return all(value is None for value in below) and any(value is not None for value in above)


def _order(labels: Sequence[str], columns: Sequence[str], known: int) -> list[int]:
    """Where the columns of known tasks, then of the rows' tasks are; empty when they are there, or names don't tell."""
    if not labels or len(set(columns)) != len(columns) or sorted(labels) != sorted(columns[known:]):
        return []
    places = {column: place for place, column in enumerate(columns)}
    order = [*range(known), *(places[label] for label in labels)]
    return order if order != list(range(len(columns))) else []
