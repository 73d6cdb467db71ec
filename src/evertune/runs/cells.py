"""The cells of R that a run evaluates, `evaluation.cells`: all of them, or those that most metrics need.

With T tasks, `all` evaluates T (T + 1) cells, `learned` about half of them, and `final` 2 T - 1.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from evertune.data.task import Task, fingerprints_of
from evertune.metrics.rules import rule_of
from evertune.training.run_origin import PROBED
from evertune.utils.files import digest

if TYPE_CHECKING:
    from evertune.reporting.matrix import Matrix

Which = Literal["all", "learned", "final"]
Cell = tuple[int, str]
"""Row of R and name of the task."""


def wanted_cells(which: str, tasks: Sequence[str], *, known: int, stages: Sequence[str]) -> list[Cell]:
    """The cells that a run evaluates, row by row.

    Args:
        which: `all`; `learned`: each task from the row before its stage on, and the base model's row; `final`: each
            task right after its stage, and the last row.
        tasks: the columns of R.
        known: how many of the first columns are known tasks.
        stages: the task of each stage; one without a stage of its own (`joint`) is learned at the last.
    """
    last = len(stages)
    at = {name: number for number, name in enumerate(stages, start=1)}
    learned = [0 if column < known else at.get(name, last) for column, name in enumerate(tasks)]
    return [
        (row, name)
        for row in range(last + 1)
        for name, own in zip(tasks, learned, strict=True)
        if _is_wanted(which, row, own=own, last=last)
    ]


def wanted_of_probes(which: str, probes: Sequence[str], *, last: int) -> list[Cell]:
    """The rows in which probes are evaluated: all, and for `final` those of the base model and of the last stage."""
    rows = (0, last) if which == "final" else range(last + 1)
    return [(row, name) for row in rows for name in probes]


def _is_wanted(which: str, row: int, *, own: int, last: int) -> bool:
    if which == "learned":
        return row == 0 or row >= own - 1
    return which == "all" or row in (own, last)


def lacks(matrix: Matrix, which: str, *, without: Collection[int] = ()) -> bool:
    """Whether a cell is wanted that the matrix does not have; those of the stages `without` can't be had."""
    wanted = wanted_cells(which, matrix.tasks, known=len(matrix.known), stages=matrix.stages)
    columns = {name: column for column, name in enumerate(matrix.tasks)}
    open_ones = [(row, columns[name]) for row, name in wanted if row not in without]
    return any(row >= len(matrix.R) or matrix.R[row][column] is None for row, column in open_ones)


def lacks_probes(matrix: Matrix, identity: Mapping[str, Any], *, without: Collection[int] = ()) -> bool:
    """Whether a run with this identity asks other probes than the matrix has, or in more rows, or reads the text."""
    wanted = identity.get(PROBED, {})
    evaluated = {(cell["stage"], cell["task"]): cell.get("questions") for cell in matrix.cells}
    if list(wanted) != (matrix.held_out.probes if matrix.held_out else []):
        return True
    cells = wanted_of_probes(which_of(identity), list(wanted), last=len(matrix.stages))
    return any(evaluated.get((row, name)) != wanted[name] for row, name in cells if row not in without)


def questions_of(task: Task) -> str:
    """Short hash of the test samples, their ids and the score, which identifies the content of a cell."""
    return digest(rule_of(task.score).identity, *(sample.id for sample in task.test), *fingerprints_of(task.test))[:16]


def which_of(identity: Mapping[str, Any]) -> str:
    """The `evaluation.cells` of a configuration as a run folder holds it."""
    evaluation = identity.get("evaluation")
    return str(evaluation.get("cells", "all")) if isinstance(evaluation, Mapping) else "all"
