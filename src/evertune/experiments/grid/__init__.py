"""Many independent runs side by side, written as one YAML; the same command again resumes it.

OUT/STREAM-MODEL/METHOD[,varied settings]/s0/       a run folder like any other, one per seed
                                          s0.yaml   its configuration: `evertune run` takes it
                                          s0.log    what its worker printed
                                          s0.lock   held by its worker
                                          s0.checked  that it is finished, and of which configuration
OUT/results.json                                    settings, metrics, R and cost of all finished runs

evertune grid benchmarks/table.yaml --out runs/table
"""

from __future__ import annotations

from evertune.experiments.grid.cells import Cell, GridFile, cells_of, read_grid, settled
from evertune.experiments.grid.results import Summary, not_alike, state_of, summary, write_results
from evertune.experiments.grid.run import Grid, GridCallback, Running, Status, check_methods
from evertune.experiments.grid.totals import Totals, totals_of
from evertune.experiments.grid.workers import JobResult

__all__ = [
    "Cell",
    "Grid",
    "GridCallback",
    "GridFile",
    "JobResult",
    "Running",
    "Status",
    "Summary",
    "Totals",
    "cells_of",
    "check_methods",
    "not_alike",
    "read_grid",
    "settled",
    "state_of",
    "summary",
    "totals_of",
    "write_results",
]
