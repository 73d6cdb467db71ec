"""The mean of R over the seeds of a method, cell by cell, and how many seeds each cell has."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from evertune.reporting.matrix import Matrix


@dataclass(frozen=True, slots=True)
class MeanMatrix:
    """R of a method, the mean over its finished runs.

    Attributes:
        method: with what tells variants apart.
        seeds: of the runs, in order.
        R: `R[t][i]` is the mean score on task i after stage t over the seeds that evaluated the cell; points of 100.
            None where none did.
        counts: as R, how many seeds evaluated the cell.
    """

    method: str
    seeds: tuple[int, ...]
    tasks: list[str]
    stages: list[str]
    known: list[str]
    R: list[list[float | None]]
    counts: list[list[int]]

    @property
    def seed_list(self) -> str:
        """`0, 1, 2`."""
        return ", ".join(map(str, self.seeds))

    @property
    def partial(self) -> int:
        """How many cells have some of the seeds only."""
        return sum(0 < count < len(self.seeds) for row in self.counts for count in row)

    def shares(self) -> dict[tuple[int, int], str]:
        """`1/2` by (row, column), for the cells that have some of the seeds only."""
        return {
            (stage, column): f"{count}/{len(self.seeds)}"
            for stage, row in enumerate(self.counts)
            for column, count in enumerate(row)
            if 0 < count < len(self.seeds)
        }


def mean_matrix(method: str, group: Sequence[Matrix]) -> MeanMatrix | None:
    """The mean over the finished runs of `group`; None where fewer than two are, or their stages differ."""
    finished = sorted((matrix for matrix in group if matrix.finished), key=lambda matrix: matrix.seed)
    if len(finished) < 2 or any(matrix.stages != finished[0].stages for matrix in finished):
        return None
    rows = [
        [[score for score in cell if score is not None] for cell in zip(*row, strict=True)]
        for row in zip(*(matrix.R for matrix in finished), strict=True)
    ]
    first = finished[0]
    return MeanMatrix(
        method=method,
        seeds=tuple(matrix.seed for matrix in finished),
        tasks=first.tasks,
        stages=first.stages,
        known=first.known,
        R=[[statistics.fmean(cell) if cell else None for cell in row] for row in rows],
        counts=[[len(cell) for cell in row] for row in rows],
    )
