"""What a grid leaves: its runs in one small file, the comparison, the curves, and what a reader must know.

The last is for readers of the comparison: runs that were not made alike, and settings that were chosen on test seeds.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
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
KEPT = ("stream", "model", "method", "seed", "settings", "known", "tasks", "stages", "R", "cost", "warnings")
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
        notes=[*([held_out] if held_out else []), *not_alike(made.finished)],
    )


def write_results(path: Path, cells: Sequence[Cell], *, name: str) -> Path:
    """Write what is worth keeping of finished runs, one per line: settings, metrics, R and cost, without answers.

    Metrics against a bound (`intransigence`, `gap_to_joint`) use the bounds among the same runs.
    """
    matrices = [load_matrix(cell.folder) for cell in cells]
    lines = ",\n".join(json.dumps(_kept(m, matrices), ensure_ascii=False, allow_nan=False) for m in matrices)
    head = json.dumps({"format": FORMAT, "name": name, "evertune": version("evertune")})
    write_atomically(path, f'{head[:-1]}, "runs": [\n{lines}\n]}}\n')
    return path


def _kept(matrix: Matrix, others: Sequence[Matrix]) -> dict[str, Any]:
    return {key: getattr(matrix, key) for key in KEPT} | {"metrics": metrics_with_references(matrix, others)}


def not_alike(cells: Sequence[Cell]) -> list[str]:
    """Notes about finished runs of the same model that were made with other weights, dtypes or versions."""
    recorded = [(cell.config.model, read_json(cell.folder / "provenance.json")) for cell in cells]
    found = []
    for key in ONE_OF_ITS_KIND:
        pairs = {(model, str(provenance.get(key))) for model, provenance in recorded}
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
