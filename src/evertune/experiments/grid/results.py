"""What a grid leaves: its runs in one small file, the comparison, the curves, and what a reader must know.

The last is for readers of the comparison: runs that were not made alike, and settings that were chosen on test seeds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from evertune.experiments.grid.cells import Cell, GridFile, held_out_note
from evertune.experiments.grid.run import Grid
from evertune.reporting.curves import Curve, curves
from evertune.reporting.matrix import Matrix, load_matrix
from evertune.reporting.tables import ComparisonRow, compare, metrics_with_references
from evertune.utils.errors import RunFolderError
from evertune.utils.files import read_json, write_atomically

FORMAT = 2
KEPT = ("stream", "model", "method", "seed", "settings", "known", "tasks", "stages", "R", "relaxed", "cost", "warnings")
ONE_OF_ITS_KIND = ("model_fingerprint", "dtype", "device", "threads", "torch")


@dataclass(frozen=True, slots=True)
class Summary:
    """How a grid ended. `failed` says why, by the name of the run."""

    name: str
    results: Path
    finished: list[str]
    failed: dict[str, str]
    rows: list[ComparisonRow]
    curves: list[Curve]
    notes: list[str]


def summary(spec: GridFile, made: Grid, *, results: Path) -> Summary:
    """Compare the finished runs of a grid and draw a curve over each varied setting."""
    matrices = [load_matrix(cell.folder) for cell in made.finished]
    held_out = held_out_note(spec)
    return Summary(
        name=spec.name,
        results=results,
        finished=[cell.name for cell in made.finished],
        failed=made.failed,
        rows=compare(matrices),
        curves=[curve for key in spec.vary for curve in curves(matrices, key)],
        notes=[*([held_out] if held_out else []), *not_alike(read_results(results))],
    )


def write_results(path: Path, made: Grid, *, name: str, cells: Sequence[Cell] | None = None) -> Path:
    """Write what is worth keeping of finished runs, one per line: settings, metrics, R and cost, without answers.

    Metrics against a bound (`intransigence`, `gap_to_joint`) use the bounds among the same runs. A run that `made`
    counts as done without its folder keeps the line that the file has of it.

    Args:
        path: the file.
        made: the grid.
        name: of the grid, in the file.
        cells: its runs that belong into this file; None: all.
    """
    wanted = list(made.cells.values()) if cells is None else cells
    finished = {cell.name: load_matrix(cell.folder) for cell in made.finished if cell in wanted}
    earlier = {row["key"]: row for row in read_results(path) if "key" in row}
    rows = []
    for cell in wanted:
        if cell.name in finished:
            rows.append(_kept(cell, finished[cell.name], list(finished.values())) | {"key": made.keys[cell.name]})
        elif made.done[cell.name] and made.keys[cell.name] in earlier:
            rows.append(earlier[made.keys[cell.name]])
    lines = ",\n".join(json.dumps(row, ensure_ascii=False, allow_nan=False) for row in rows)
    head = json.dumps({"format": FORMAT, "name": name, "evertune": version("evertune")})
    write_atomically(path, f'{head[:-1]}, "runs": [\n{lines}\n]}}\n')
    return path


def read_results(path: Path) -> list[dict[str, Any]]:
    """The runs in a `results.json`; none where there is no such file.

    Raises:
        RunFolderError: it is damaged, or of another version.
    """
    if not path.exists():
        return []
    content: Any = read_json(path)
    runs = content.get("runs") if isinstance(content, Mapping) and content.get("format") == FORMAT else None
    if not isinstance(runs, list) or not all(isinstance(run, dict) for run in runs):
        raise RunFolderError(f"{path} is not the result of a grid, or of another version; run it again")
    return runs


def _kept(cell: Cell, matrix: Matrix, others: Sequence[Matrix]) -> dict[str, Any]:
    provenance = read_json(cell.folder / "provenance.json")
    return {
        **{key: getattr(matrix, key) for key in KEPT},
        **({"held_out": matrix.held_out.to_dict()} if matrix.held_out else {}),
        "metrics": metrics_with_references(matrix, others),
        "made_with": {key: provenance.get(key) for key in ONE_OF_ITS_KIND},
    }


def not_alike(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Notes about runs of a `results.json` of the same model, made with other weights, dtypes or versions."""
    recorded = [(run["model"], run["made_with"]) for run in runs if "made_with" in run]
    found = []
    for key in ONE_OF_ITS_KIND:
        pairs = {(model, str(made_with.get(key))) for model, made_with in recorded}
        if len(pairs) > len({model for model, _ in pairs}):
            values = ", ".join(sorted({value[:16] for _, value in pairs}))
            found.append(f"not all runs of a model were made with the same {key}: {values}")
    return found


def state_of(cell: Cell) -> str:
    """`finished`, `begun` or `waiting`, by what lies in the run folder; whose it is, is not checked."""
    try:
        return "finished" if Matrix.read(cell.folder).finished else "begun"
    except RunFolderError:
        return "begun" if cell.folder.exists() else "waiting"
