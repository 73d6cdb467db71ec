"""What a run ends with, as objects: `Result` has one `Run` per method, a `Run` its matrix and its predictions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evertune.reporting.matrix import Matrix


@dataclass(frozen=True, slots=True)
class Run:
    """One method of a run.

    Attributes:
        method: as it was asked for, e.g. `replay+ewc`.
        folder: the run folder.
        matrix: the scores R, metrics, cost and settings.
    """

    method: str
    folder: Path
    matrix: Matrix

    def answers(self, stage: int | str, task: str) -> list[dict[str, Any]]:
        """The predictions of one cell of R, one row per question: `id`, `instruction`, `gold`, `answer`, ...

        Args:
            stage: a row of R by number, by the name of its task, or "base" for the base model.
            task: a column of R.

        Raises:
            UserError: R has no such row or column. RunFolderError: the file is missing or damaged.
        """
        from evertune.training.evaluator import read_answers

        number = self.matrix.row_of(stage)
        self.matrix.column_of(task)
        return read_answers(self.folder / "answers" / f"{number:02d}" / f"{task}.jsonl")


@dataclass(frozen=True, slots=True)
class Result:
    """What `evertune.run` returns: one `Run` per method, in the order in which they ran.

    Attributes:
        runs: by method, e.g. `result.runs["replay"].matrix.metrics["forgetting"]`.
        folder: holds everything; with several methods each has a folder in it.
        report: the HTML page.
    """

    runs: dict[str, Run]
    folder: Path
    report: Path

    @classmethod
    def of(cls, folders: dict[str, Path], matrices: dict[str, Matrix], folder: Path) -> Result:
        """From the folder and the matrix of each method."""
        runs = {method: Run(method, folders[method], matrix) for method, matrix in matrices.items()}
        return cls(runs, folder, page_of(folder))


def page_of(folder: Path) -> Path:
    """Where a run's report lies."""
    return folder / "report" / "index.html"
