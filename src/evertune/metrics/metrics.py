"""Metrics of a stream from its matrix R, each with the formula that is printed beside it.

R[t][i] is the score on task i after stage t; row 0 is the base model; rows 0..T for T new tasks. Tasks that the
model knows before the stream are the first K columns: column i becomes known at row a_i, 0 for a known task and its own
stage for a new one. A metric that a matrix can't give (one task, no reference row, `joint`'s single stage, a cell that
was not measured) is None, never a made-up number.

    evertune metrics matrix.json
    metrics_of([[0, 0], [80, 10], [60, 75]])        # or a numpy array, or matrix.to_frame()
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from evertune.utils.errors import UserError, kind_of

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

MOST = 1e15
EXPECTED = "expected rows of scores, for example [[0, 0], [80, 10], [60, 75]]"
"""A score is one of 100, a caption's may be some hundreds; beyond this, sums of squares lose their meaning."""
Matrix = Sequence[Sequence[float | None]]
"""None: not measured."""
Scores = Sequence[Sequence[float]]
"""NaN: not measured, so that whatever is computed from it is NaN too."""


@dataclass(frozen=True)
class Metric:
    """One number about a stream.

    Attributes:
        formula: for a stream that starts from nothing known.
        with_known: the formula for one with known tasks.
        needs: the cells that it is computed from, in words.
        compute: from R and the number of known tasks; NaN where a score that it needs was not measured.
    """

    name: str
    formula: str
    with_known: str
    needs: str
    compute: Callable[[Scores, int], float | None]


def known_from(column: int, known: int) -> int:
    """The row a_i at which the task of a column is known: 0 for the first `known` ones, else its own stage."""
    return max(0, column - known + 1)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _highest(values: Sequence[float]) -> float:
    """NaN if one of them is: the highest may be the one that was not measured."""
    return math.nan if any(map(math.isnan, values)) else max(values)


def _columns(R: Scores) -> range:
    return range(len(R[0]))


def _new(R: Scores, known: int) -> range:
    return range(known, len(R[0]))


def _earlier(R: Scores, known: int) -> list[int]:
    """Columns that are known before the last row: what can be forgotten."""
    return [i for i in _columns(R) if known_from(i, known) < len(R) - 1]


def _final_average(R: Scores, known: int) -> float | None:
    del known
    return _mean(R[-1])


def _mean_average(R: Scores, known: int) -> float | None:
    return _mean([sum(R[t][: known + t]) / (known + t) for t in range(1, len(R))])


def _learning(R: Scores, known: int) -> float | None:
    return _mean([R[known_from(i, known)][i] for i in _new(R, known)])


def _bwt(R: Scores, known: int) -> float | None:
    return _mean([R[-1][i] - R[known_from(i, known)][i] for i in _earlier(R, known)])


def _bwt_paper(R: Scores, known: int) -> float | None:
    """Over all rows, the base model's too, as the authors' code has it."""
    del known
    return _mean([R[-1][i] - _highest([row[i] for row in R]) for i in _columns(R)])


def _forgetting(R: Scores, known: int) -> float | None:
    return _mean([_highest([row[i] for row in R[known_from(i, known) : -1]]) - R[-1][i] for i in _earlier(R, known)])


def _forward_transfer(R: Scores, known: int) -> float | None:
    return _mean([R[known_from(i, known) - 1][i] - R[0][i] for i in _new(R, known)[1:]])


def _zero_shot(R: Scores, known: int) -> float | None:
    return _mean([R[0][i] for i in _new(R, known)])


LAST_ROW, OWN, SINCE = "the last row", "each task right after its stage", "each task from its stage on"
METRICS = (
    Metric("final_average", "1/T Σ_i R[T,i]", "mean of R[T,i] over all i", LAST_ROW, _final_average),
    Metric("mean_average", "1/T Σ_t 1/t Σ_{i≤t} R[t,i]", "1/T Σ_t (mean of R[t,i] over a_i≤t)", SINCE, _mean_average),
    Metric("learning_accuracy", "1/T Σ_i R[i,i]", "1/T Σ_{i new} R[a_i,i]", OWN, _learning),
    Metric(
        "bwt",
        "1/(T-1) Σ_{i<T} (R[T,i] - R[i,i])",
        "mean of R[T,i] - R[a_i,i] over a_i<T",
        f"{OWN} and {LAST_ROW}",
        _bwt,
    ),
    Metric(
        "bwt_paper",
        "1/N Σ_j min_{0≤t≤T} (R[T,j] - R[t,j])",
        "mean of min_{0≤t≤T} (R[T,i] - R[t,i]) over all i",
        "all cells",
        _bwt_paper,
    ),
    Metric(
        "forgetting",
        "1/(T-1) Σ_{i<T} (max_{i≤l<T} R[l,i] - R[T,i])",
        "mean of max_{a_i≤l<T} R[l,i] - R[T,i] over a_i<T",
        SINCE,
        _forgetting,
    ),
    Metric(
        "forward_transfer",
        "1/(T-1) Σ_{i≥2} (R[i-1,i] - R[0,i])",
        "1/(T-1) Σ_{i new, a_i≥2} (R[a_i-1,i] - R[0,i])",
        "the base model's row and each task right before its stage",
        _forward_transfer,
    ),
    Metric("zero_shot", "1/T Σ_i R[0,i]", "1/T Σ_{i new} R[0,i]", "the base model's row", _zero_shot),
)
REFERENCE_METRICS = {
    "intransigence": "1/T Σ_i (R*_i - R[i,i]), R* = the task tuned alone",
    "relative_average": "1/T Σ_i R[T,i] / R*_i",
    "gap_to_joint": "final average of joint - final average",
}
REFERENCE_METRICS_WITH_KNOWN = {
    "intransigence": "1/T Σ_{i new} (R*_i - R[a_i,i]), R* = the task tuned alone",
    "relative_average": "mean of R[T,i] / R*_i over the tasks that have R*_i",
    "gap_to_joint": "final average of joint - final average",
}
NEEDS = {m.name: m.needs for m in METRICS} | {
    "intransigence": OWN,
    "relative_average": LAST_ROW,
    "gap_to_joint": LAST_ROW,
}
"""By name, the cells of R that a metric is computed from."""
SQUARE = {"mean_average", "learning_accuracy", "bwt", "bwt_paper", "forgetting", "forward_transfer"}


def formulas(*, known: int = 0) -> dict[str, str]:
    """The formula of every metric, by name; as it is for a stream with so many known tasks."""
    if known:
        return {m.name: m.with_known for m in METRICS} | REFERENCE_METRICS_WITH_KNOWN
    return {m.name: m.formula for m in METRICS} | REFERENCE_METRICS


def metrics_of(
    R: Matrix | NDArray[Any] | pd.DataFrame,
    *,
    known: int = 0,
    direct: Sequence[float | None] | NDArray[Any] | pd.Series | None = None,
    joint_average: float | None = None,
) -> dict[str, float | None]:
    """All metrics of one matrix.

    Args:
        R: rows 0..T of one score per task, T the number of new tasks, as lists, a numpy array or a DataFrame (rows are
            stages, columns tasks). Row 0 is the base model's. None was not measured, and so is a NaN of an array or a
            DataFrame; a matrix without the base model's row has None in all of row 0. A matrix of another shape
            (`joint` has one stage) gets the metrics that need its last and first row only.
        known: how many of the first columns are tasks that the model knew before the stream.
        direct: R*, each task's score when it is tuned alone; None for a task without.
        joint_average: final average of joint training.

    Raises:
        UserError: R is empty, ragged, not numbers, or has a NaN; or no column is left for a new task.
    """
    values = _computed(R, known, direct, joint_average)
    return {name: None if value is None or math.isnan(value) else value for name, value in values.items()}


def reasons_of(
    R: Matrix | NDArray[Any] | pd.DataFrame,
    *,
    known: int = 0,
    direct: Sequence[float | None] | NDArray[Any] | pd.Series | None = None,
    joint_average: float | None = None,
) -> dict[str, str]:
    """Why a metric of `metrics_of` is None, by name; takes the same arguments."""
    values = _computed(R, known, direct, joint_average)
    rows = rows_of(R)
    square = len(rows) == len(rows[0]) - known + 1
    without = {"intransigence": "direct", "relative_average": "direct"} if direct is None else {}
    without |= {"gap_to_joint": "joint"} if joint_average is None else {}
    return {
        name: _reason(name, value, square=square, reference=without.get(name))
        for name, value in values.items()
        if value is None or math.isnan(value)
    }


def _reason(name: str, value: float | None, *, square: bool, reference: str | None) -> str:
    if value is not None:  # NaN
        return f"needs {NEEDS[name]}, and not all of it was evaluated"
    if reference:
        return f"needs a run of {reference} on the same tasks"
    if name in {*SQUARE, "intransigence"} and not square:
        return "needs one stage for each new task"
    if name in ("intransigence", "relative_average"):
        return "needs the score of each task tuned alone, other than 0"
    return "needs two tasks"


def _computed(R: Any, known: int, direct: Any, joint_average: float | None) -> dict[str, float | None]:
    """All metrics; NaN where a score that one needs was not evaluated, None where the matrix can't give it."""
    R, direct = rows_of(R), None if direct is None else values_of(direct)
    check_matrix(R, gaps=True)
    count = len(R[0])
    if not 0 <= known < count:
        raise UserError(f"{known} known tasks in a matrix of {count} columns: at least one must be new")
    if direct is not None and not (isinstance(direct, list | tuple) and all(v is None or is_score(v) for v in direct)):
        raise UserError(f"the reference is {direct!r:.60}: expected a score per task, or null")
    if joint_average is not None and not is_score(joint_average):
        raise UserError(f"the average of joint is {joint_average!r:.60}: expected a number")
    if direct is not None and len(direct) != count:
        raise UserError(f"the reference has {len(direct)} scores for {count} tasks")
    square = len(R) == count - known + 1
    scores = [[math.nan if score is None else score for score in row] for row in R]
    result = {m.name: m.compute(scores, known) if square or m.name not in SQUARE else None for m in METRICS}
    final = result["final_average"]
    result["intransigence"] = _intransigence(scores, known, direct) if direct and square else None
    result["relative_average"] = _relative_average(scores, direct) if direct else None
    result["gap_to_joint"] = joint_average - final if joint_average is not None and final is not None else None
    return result


def _intransigence(R: Scores, known: int, direct: Sequence[float | None]) -> float | None:
    """None when a new task has no reference: over some of them it would be another number."""
    lower = [(direct[i], R[known_from(i, known)][i]) for i in _new(R, known)]
    differences = [best - got for best, got in lower if best is not None]
    return _mean(differences) if len(differences) == len(lower) else None


def _relative_average(R: Scores, direct: Sequence[float | None]) -> float | None:
    """None when a reference is 0."""
    shares = [(got, best) for got, best in zip(R[-1], direct, strict=True) if best is not None]
    return _mean([got / best for got, best in shares]) if all(best for _, best in shares) else None


def rows_of(R: Any) -> Matrix:
    """A matrix as rows of numbers: lists stay as they are, NaN of an array or a DataFrame becomes None.

    Raises:
        UserError: it has no rows and columns, or a DataFrame has other columns than scores.
    """
    if hasattr(R, "columns") and hasattr(R, "to_numpy"):
        return _rows_of_frame(R)
    if isinstance(R, list | tuple):
        return [values_of(row) for row in R]
    if hasattr(R, "R"):
        raise UserError(f"the matrix is {kind_of(R)}: pass its R, for example metrics_of(matrix.R)")
    rows = np.asarray(R)
    if rows.ndim != 2:
        what = f"{kind_of(R)} of {rows.ndim} dimensions" if rows.ndim else kind_of(R)
        raise UserError(f"the matrix is {what}: {EXPECTED}")
    return [values_of(row) for row in rows]


def _rows_of_frame(frame: pd.DataFrame) -> Matrix:
    """Rows are stages, the base model's first, and columns tasks, as `Matrix.to_frame` has it."""
    if odd := [name for name, kind in zip(frame.columns, frame.dtypes, strict=True) if kind.kind not in "iufO"]:
        raise UserError(f"column {odd[0]!r:.60} of the matrix has no scores: rows are stages, columns tasks")
    if "base" in frame.index[1:]:
        raise UserError("row 'base' of the matrix is not its first: put the base model's scores in row 0")
    return [values_of(row) for row in frame.to_numpy(dtype=object, na_value=None)]


def values_of(row: Any) -> Any:
    """The values of a list, an array or a Series as Python has them; NaN of the latter two becomes None."""
    if isinstance(row, list | tuple):
        return [value.item() if isinstance(value, np.generic) else value for value in row]
    if not hasattr(row, "tolist"):
        return row
    return [None if isinstance(value, float) and math.isnan(value) else value for value in row.tolist()]


def check_matrix(R: Matrix, *, gaps: bool = False) -> None:
    """Refuse what is no matrix of scores, naming the place; `gaps`: None may stand for one."""
    if len(R) < 2 or R[0] in ([], ()):
        raise UserError("the matrix needs row 0 (the base model) and at least one row after training")
    for number, row in enumerate(R):
        if not isinstance(row, list | tuple):
            raise UserError(f"row {number} of the matrix is {kind_of(row)}: {EXPECTED}")
        if len(row) != len(R[0]):
            raise UserError(f"row {number} of the matrix has {len(row)} scores, row 0 has {len(R[0])}")
        for task, score in enumerate(row):
            if not (is_score(score) or (gaps and score is None)):
                hint = "; None stands for a score that was not measured" if gaps and str(score) == "nan" else ""
                raise UserError(f"row {number}, task {task} of the matrix is {score!r:.60}: not a finite number{hint}")


def is_score(value: Any) -> bool:
    """Whether a value is a finite number within the bounds of a score."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -MOST <= value <= MOST
