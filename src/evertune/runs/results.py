"""What a run ends with, as objects: `Result` has one `Run` per method, a `Run` its matrix and its predictions.

result = evertune.load_run("runs/first")                  # or what evertune.run(...) returned
result.to_frame().groupby(["method", "task"]).score.max()
result.runs["replay"].matrix.to_frame()
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evertune.reporting.matrix import SHOWN, Matrix, load_matrix
from evertune.utils.arguments import path_of
from evertune.utils.errors import RunFolderError, UserError, kind_of
from evertune.utils.files import write_atomically

if TYPE_CHECKING:
    import pandas as pd

    from evertune.reporting.canvas import Drawing

COLUMNS = ("method", "seed", "stage", "task", "score", "relaxed", "n", "se", "probe")
"""Of the table of all cells."""
MOST_NAMED = 8
Scores = Sequence[Sequence[float | None]]
"""By stage and task."""


@dataclass(frozen=True, slots=True, repr=False)
class Run:
    """One method of a run.

    Attributes:
        method: as requested, e.g. `replay+ewc`.
        folder: the run folder.
        matrix: the scores R, metrics, cost and settings.
    """

    method: str
    folder: Path
    matrix: Matrix

    def answers(self, stage: int | str, task: str) -> list[dict[str, Any]]:
        """The predictions of one cell of R, one row per question.

        A row has `id`, `image` (or `images`), `instruction`, `gold` (the right answers), `answer` (the prediction),
        `expert`, and `score` and `relaxed` in points of 100.

        Args:
            stage: a row of R by number, by the name of its task, or "base" for the base model.
            task: a column of R, or a probe.

        Raises:
            UserError: R has no such row or column, or the cell was not evaluated. RunFolderError: the file is missing
                or damaged.
        """
        from evertune.training.answer_files import read_answers

        number = self.matrix.row_of(stage)
        if self.matrix.score_of(number, task) is None:
            raise UserError(
                f"'{task}' was not evaluated after stage {number} of {self.folder}: run the same command with "
                "evaluation.cells=all"
            )
        return read_answers(self.folder / "answers" / f"{number:02d}" / f"{task}.jsonl")

    def plot(self) -> Drawing:
        """R as a heat map, which a notebook shows and `.save("r.svg")` writes (or .png, .pdf)."""
        from evertune.reporting.plots import matrix_drawing

        return matrix_drawing(self.matrix)

    def __repr__(self) -> str:
        return f"Run in {str(self.folder)!r}\n{self.matrix!r}"

    def rows(self) -> list[tuple[Any, ...]]:
        """One row per cell of R, then one per score of a probe, as `COLUMNS` names them."""
        matrix, held_out = self.matrix, self.matrix.held_out
        rows = self._rows_of(matrix.tasks, matrix.R, matrix.relaxed, probe=False)
        if held_out:
            rows += self._rows_of(held_out.probes, held_out.scores, held_out.relaxed, probe=True)
        return rows

    def _rows_of(
        self, names: Sequence[str], R: Scores, relaxed: Scores | None, *, probe: bool
    ) -> list[tuple[Any, ...]]:
        known = {(cell["stage"], cell["task"]): cell for cell in self.matrix.cells}
        rows = []
        for stage, scores in enumerate(R):
            for column, (task, score) in enumerate(zip(names, scores, strict=True)):
                cell = known.get((stage, task), {})
                more = (relaxed[stage][column] if relaxed else None, cell.get("n"), cell.get("standard_error"), probe)
                rows.append((self.method, self.matrix.seed, stage, task, score, *more))
        return rows


@dataclass(frozen=True, slots=True, repr=False)
class Result:
    """What `evertune.run` and `evertune.load_run` return: one `Run` per method.

    Attributes:
        runs: by method, e.g. `result.runs["replay"].matrix.metrics["forgetting"]`.
        folder: holds everything; with several methods each has a folder in it.
        report: the HTML page.
    """

    runs: dict[str, Run]
    folder: Path
    report: Path

    @classmethod
    def of(cls, folders: Mapping[str, Path], matrices: Mapping[str, Matrix], folder: Path) -> Result:
        """From the folder and the matrix of each method."""
        runs = {method: Run(method, folders[method], matrix) for method, matrix in matrices.items()}
        return cls(runs, folder, page_of(folder))

    def to_frame(self) -> pd.DataFrame:
        """All cells of all methods as a tidy pandas frame, one row per cell.

        Columns: `method`, `seed`, `stage` (0 is the base model), `task`, `score` and `relaxed` in points of 100, `n`
        questions, `se`, the standard error of `score`, and `probe`, whether the task is one that no stage trains.

        Raises:
            UserError: pandas is not installed.
        """
        from evertune.reporting.frames import long_frame

        return long_frame(COLUMNS, self._rows())

    def to_csv(self, path: str | Path | None = None) -> str:
        """The rows of `to_frame` as CSV, without pandas; returns the text, and writes it to `path` if one is given."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([COLUMNS, *self._rows()])
        if path is not None:
            write_atomically(path_of(path, what="path", example="cells.csv"), text.getvalue())
        return text.getvalue()

    def to_latex(self) -> str:
        r"""The comparison of the methods as a LaTeX table, methods by metrics; it needs `\usepackage{booktabs}`."""
        from evertune.reporting.latex import as_latex
        from evertune.reporting.tables import compare

        return as_latex(compare([run.matrix for run in self.runs.values()]))

    def plot(self) -> Drawing:
        """A plot, which a notebook shows and `.save("plot.svg")` writes (or .png, .pdf).

        Of one method it is the heat map of R, of several the average over the tasks learned so far, after each stage.

        Raises:
            UserError: the methods have nothing to compare yet.
        """
        from evertune.reporting.plots import average_drawing

        runs = list(self.runs.values())
        if len(runs) == 1:
            return runs[0].plot()
        drawing = average_drawing([run.matrix for run in runs])
        if drawing is None:
            raise UserError(
                "no curve over the tasks yet: it needs a stream of two tasks and a finished stage; "
                f"result.runs[{runs[0].method!r}].plot() draws the matrix of one method"
            )
        return drawing

    def _rows(self) -> list[tuple[Any, ...]]:
        return [row for run in self.runs.values() for row in run.rows()]

    def __repr__(self) -> str:
        width = max(map(len, self.runs), default=0)
        about = next((f": {m.stream}, {m.model}, seed {m.seed}" for m in (r.matrix for r in self.runs.values())), "")
        lines = [f"Result in {str(self.folder)!r}{about}"]
        return "\n".join([*lines, *(f"  {name:<{width}}  {_in_short(run.matrix)}" for name, run in self.runs.items())])


def _in_short(matrix: Matrix) -> str:
    if not matrix.finished:
        return f"in progress: {len(matrix.R) - 1} of {len(matrix.stages)} stages"
    known = [(name, value) for name in SHOWN if (value := matrix.metrics.get(name)) is not None]
    return ", ".join(f"{name.replace('_', ' ')} {value:.1f}" for name, value in known)


def page_of(folder: Path) -> Path:
    """Where a run's report lies."""
    return folder / "report" / "index.html"


def load_run(path: str | Path) -> Result:
    """The result of a run from its folder, as `evertune.run` returned it; also of a run in progress.

    Args:
        path: a run folder, or a folder with one run folder per method.

    Raises:
        UserError: there is no run in it, or several of one method. RunFolderError: a run is damaged.
    """
    base = folder_of(path)
    found = [base] if (base / "matrix.json").is_file() else sorted(p.parent for p in base.glob("*/matrix.json"))
    if not found:
        raise UserError(f"{base} holds no run (no matrix.json in it){_elsewhere(base)}")
    runs: dict[str, Run] = {}
    for folder in found:
        run = read_run(folder)
        if run.method in runs:
            raise UserError(
                f"{base} holds several runs of {run.method} ({runs[run.method].folder.name}, {folder.name}): load one "
                "of them, or compare them all with evertune compare"
            )
        runs[run.method] = run
    return Result(runs, base, page_of(base))


def read_run(folder: Path) -> Run:
    """The run in `folder`, which has a `matrix.json`.

    Raises:
        RunFolderError: it is damaged, or holds a link.
    """
    matrix = load_matrix(folder)
    return Run(matrix.method, folder, matrix)


def run_folder_of(given: Any) -> Path:
    """The folder of one run: a path, a `Run`, or a `Result` with one method.

    Raises:
        UserError: it is something else, or has several methods.
    """
    if isinstance(given, Run):
        return given.folder
    if isinstance(given, Result):
        if len(given.runs) != 1:
            raise UserError(
                f"the result has {len(given.runs)} methods: pass one, result.runs[{next(iter(given.runs))!r}]"
            )
        return next(iter(given.runs.values())).folder
    if not isinstance(given, str | Path):
        raise UserError(
            f"the run is {kind_of(given)}; taken are a run folder, such as 'runs/first', or result.runs[...]"
        )
    return Path(given)


def folder_of(path: Any) -> Path:
    """A path that is a folder.

    Raises:
        UserError: it is no path. RunFolderError: there is no such folder.
    """
    if not isinstance(path, str | Path):
        raise UserError(f"{kind_of(path)} is no run folder: expected a path, for example 'runs/first'")
    folder = Path(path)
    if not folder.is_dir():
        raise RunFolderError(f"{folder} is not a folder" if folder.exists() else f"{folder} does not exist")
    return folder


def _elsewhere(base: Path) -> str:
    """Where the runs are, or what makes the folder one: the end of a sentence."""
    if (base / "eval_set").exists():
        return f": it learned task by task, first evertune check {base} --every-stage"
    if (base / "config.yaml").exists():
        return ": the run in it has not finished its first row"
    below = [str(place.parent) for place in islice(base.glob("*/*/**/matrix.json"), MOST_NAMED)]
    return f"; load one of {', '.join(sorted(below))}" if below else ""
