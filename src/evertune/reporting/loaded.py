"""`matrix.json` of a run, checked as a whole before anything is said of it: a stranger may have made it.

What the tables, plots and pages take for granted about its values is looked at here, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from evertune.metrics.metrics import check_matrix, is_score
from evertune.training.run_origin import FORMAT
from evertune.utils.errors import RunFolderError, UserError
from evertune.utils.files import read_json
from evertune.utils.links import refuse_links

Loaded = dict[str, Any]

REQUIRED = {"model": str, "stream": str, "method": str, "seed": int, "tasks": list, "stages": list, "R": list}
MOST_TASKS = 10_000
MOST_SECONDS = 1e12
IN_CELL: Mapping[str, Callable[[Any], bool]] = {
    "stage": lambda value: type(value) is int,
    "task": lambda value: isinstance(value, str),
    "n": lambda value: value is None or (type(value) is int and 0 <= value < 1 << 53),
    "score_rule": lambda value: isinstance(value, str),
    "standard_error": lambda value: value is None or is_score(value),
    "own_expert": lambda value: isinstance(value, str | None),
    "experts": lambda value: (
        value is None or _is_table(value, lambda count: type(count) is int and 0 <= count < 1 << 53)
    ),
}
"""By key, what a cell's value must be where there is one."""


def load_matrix(run: Path) -> Loaded:
    """Read the matrix of the run folder `run`, whole or in progress; adds `folder`, the name of the run.

    Raises:
        RunFolderError: missing, damaged, or not a matrix, or a link is in the folder; the message names the file.
    """
    refuse_links(run)
    path = run / "matrix.json"
    matrix = read_json(path)
    try:
        _check(matrix)
    except UserError as problem:
        raise RunFolderError(f"{path} is not the matrix of a run: {problem}") from problem
    return {**matrix, "folder": run.resolve().name}


def _check(matrix: Any) -> None:
    if not isinstance(matrix, dict):
        raise UserError("expected an object")
    if matrix.get("format") != FORMAT:
        raise UserError(f"format {matrix.get('format')!r:.60}, this version reads {FORMAT}")
    for key, kind in REQUIRED.items():
        if not isinstance(matrix.get(key), kind) or isinstance(matrix[key], bool):
            raise UserError(f"'{key}' is missing or not of type {kind.__name__}")
    for key in ("tasks", "stages"):
        if not all(isinstance(name, str) for name in matrix[key]) or len(matrix[key]) > MOST_TASKS:
            raise UserError(f"'{key}' must be names, at most {MOST_TASKS:,}")
    if len(set(matrix["tasks"])) != len(matrix["tasks"]):
        raise UserError("'tasks' names one of them twice")
    known = matrix.get("known") or []
    if not isinstance(known, list) or matrix["tasks"][: len(known)] != known or known == matrix["tasks"]:
        raise UserError("'known' must name the first of the tasks, and not all of them")
    _check_scores(matrix["R"], matrix, "R")
    if matrix.get("relaxed") is not None:
        _check_scores(matrix["relaxed"], matrix, "relaxed")
        if len(matrix["relaxed"]) != len(matrix["R"]):
            raise UserError("'relaxed' and 'R' differ in their number of rows")
    _check_cells(matrix.get("cells") or [])
    _check_tables(matrix)


def _check_scores(rows: Any, matrix: Loaded, name: str) -> None:
    """Rows of one finite score per task, at most one row per stage and one for the base model."""
    if not isinstance(rows, list) or not rows or not all(isinstance(row, list) for row in rows):
        raise UserError(f"'{name}' has no rows")
    if len(rows) > len(matrix["stages"]) + 1:
        raise UserError(f"'{name}' has {len(rows)} rows for {len(matrix['stages'])} stages")
    if not matrix["tasks"] or len(rows[0]) != len(matrix["tasks"]):
        raise UserError(f"'{name}' has {len(rows[0])} columns for {len(matrix['tasks'])} tasks")
    check_matrix(rows if len(rows) > 1 else rows * 2)  # a run in progress may have row 0 only


def _check_cells(cells: Any) -> None:
    if not isinstance(cells, list) or not all(isinstance(c, dict) and {"stage", "task"} <= c.keys() for c in cells):
        raise UserError("'cells' holds something that is no cell")
    for number, cell in enumerate(cells, start=1):
        for key, is_sound in IN_CELL.items():
            if key in cell and not is_sound(cell[key]):
                raise UserError(f"'cells', {number}: '{key}' is {cell[key]!r:.60}")


def _check_tables(matrix: Loaded) -> None:
    """What is shown beside the scores."""
    if not _is_table(matrix.get("metrics") or {}, lambda value: value is None or is_score(value)):
        raise UserError("'metrics' must be numbers by name")
    if not _is_table(matrix.get("cost") or {}, lambda value: is_score(value) and 0 <= value < MOST_SECONDS):
        raise UserError("'cost' must be numbers by name")
    for key in ("formulas", "settings"):
        if not isinstance(matrix.get(key) or {}, dict):
            raise UserError(f"'{key}' must be an object")
    if not isinstance(matrix.get("warnings") or [], list):
        raise UserError("'warnings' must be a list")


def _is_table(value: Any, is_sound: Callable[[Any], bool]) -> bool:
    return isinstance(value, dict) and all(is_sound(one) for one in value.values())
