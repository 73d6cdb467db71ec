"""What the runs of a grid take together, before they are started: by the finished ones among them."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from evertune.experiments.grid.cells import Cell
from evertune.experiments.grid.results import state_of
from evertune.utils.files import read_json


@dataclass(frozen=True, slots=True)
class Totals:
    """Runs of a grid, and what is left.

    Attributes:
        states: runs that are finished, begun or waiting.
        seconds: of all runs left, one after another, by the mean of finished ones; None where none is finished.
        stored_bytes: what their folders will take, by the same mean.
    """

    states: dict[str, int]
    seconds: float | None
    stored_bytes: float | None


def totals_of(cells: Sequence[Cell]) -> Totals:
    """Each run left takes the mean of the finished runs of its stream, model and method, else of all finished ones."""
    states = {cell.name: state_of(cell) for cell in cells}
    finished = [cell for cell in cells if states[cell.name] == "finished"]
    left = [cell for cell in cells if states[cell.name] != "finished"]
    counts = dict(Counter(states.values()))
    if not finished:
        return Totals(counts, None, None)
    costs = {cell.name: _cost(cell) for cell in finished}
    seconds = stored = 0.0
    for cell in left:
        near = [costs[other.name] for other in finished if _kind(other) == _kind(cell)] or list(costs.values())
        seconds += statistics.fmean(each[0] for each in near)
        stored += statistics.fmean(each[1] for each in near)
    return Totals(counts, seconds, stored)


def _kind(cell: Cell) -> tuple[str, str, str]:
    return cell.config.stream, cell.config.model, cell.config.method


def _cost(cell: Cell) -> tuple[float, int]:
    """Seconds of training and answering, and bytes of the folder."""
    cost = read_json(cell.folder / "matrix.json").get("cost") or {}
    return cost.get("train_seconds", 0.0) + cost.get("evaluate_seconds", 0.0), _bytes(cell.folder)


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
