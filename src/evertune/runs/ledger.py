"""`ledger.jsonl`, the append-only log of finished work: one event per line; and which of the events are still valid.

A ledger may be damaged or hostile: a line without the fields of its event counts as damaged, and no file outside of the
run folder is opened.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evertune.utils.errors import RunFolderError
from evertune.utils.files import has_digest, read_text
from evertune.utils.parsing import json_value, written_lines
from evertune.utils.regular_files import MOST_TEXT
from evertune.utils.safe_names import below

FILE = "ledger.jsonl"
MOST = 1e15
NEEDED: Mapping[str, Mapping[str, type]] = {
    "rollback": {"to": int},
    "forget": {"to": int, "task": str},
    "stage": {"stage": int, "task": str},
    "cell": {"cell": dict, "sha256": str, "seconds": float},
    "text": {"stage": int, "losses": list},
}
"""The required fields of each event."""
IN_CELL: Mapping[str, type] = {"stage": int, "task": str, "score": float, "relaxed": float, "answers": str}


GONE = ("rollback", "forget")
"""Events after which the stages after `to` are gone, or others; of a forgetting, all cells of its task too."""


def read_ledger(folder: Path) -> list[dict[str, Any]]:
    """Rows of the append-only ledger; a last line that a crash cut short does not count."""
    path = folder / FILE
    text = read_text(path) if path.exists() else ""
    rows, torn = [], None
    for number, line in written_lines(text):
        if torn or ((row := ledger_row(line)) is None and text.endswith("\n")):
            raise RunFolderError(f"{path}:{torn or number} is damaged: run evertune doctor {folder} --repair")
        if row is None:
            torn = number
        else:
            rows.append(row)
    return rows


def ledger_row(line: str) -> dict[str, Any] | None:
    """The event of a line of the ledger; None for one that is damaged or lacks required fields."""
    try:
        row = json_value(line)
    except ValueError:
        return None
    if not isinstance(row, dict) or not isinstance(row.get("event"), str):
        return None
    kind = row["event"]
    sound = _has(row, NEEDED.get(kind, {})) and (kind != "cell" or _has(row["cell"], IN_CELL))
    return row if sound else None


def _has(row: Mapping[str, Any], needed: Mapping[str, type]) -> bool:
    return all(_is_of(row.get(key), kind) for key, kind in needed.items())


def _is_of(value: Any, kind: type) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MOST
    return isinstance(value, kind) and not isinstance(value, bool)


def finished_cells(folder: Path) -> dict[tuple[int, str], dict[str, Any]]:
    """Cells of the ledger whose answers exist unchanged and whose stage was not rolled back since."""
    cells: dict[tuple[int, str], dict[str, Any]] = {}
    for key, row in cells_of(read_ledger(folder)).items():
        path = below(folder, row["cell"]["answers"])
        if has_digest(path, row["sha256"], most=MOST_TEXT):
            cells[key] = {**row["cell"], "seconds": row["seconds"]}
    return cells


def cells_of(ledger: Sequence[Mapping[str, Any]]) -> dict[tuple[int, str], Mapping[str, Any]]:
    """The last row of each cell whose stage was not rolled back since."""
    cells: dict[tuple[int, str], Mapping[str, Any]] = {}
    for row in ledger:
        if row["event"] in GONE:
            cells = {key: cell for key, cell in cells.items() if key[0] <= row["to"] and key[1] != row.get("task")}
        if row["event"] == "cell":
            cells[row["cell"]["stage"], row["cell"]["task"]] = row
    return cells


def without_clock(cell: Mapping[str, Any]) -> dict[str, Any]:
    """A cell without its duration, for comparing two runs."""
    return {key: value for key, value in cell.items() if key != "seconds"}
