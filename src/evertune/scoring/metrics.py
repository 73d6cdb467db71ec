"""Metrics of a stream from its matrix R, each with the formula that is printed beside it.

R[t][i] is the score on task i after stage t; row 0 is the untouched model; rows 0..T, T tasks. A metric that a matrix
can't give (one task, no reference row, `joint`'s single stage) is None, never a made-up number.

    evertune metrics matrix.json
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from evertune.errors import UserError

Matrix = Sequence[Sequence[float]]


@dataclass(frozen=True)
class Metric:
    """One number about a stream."""

    name: str
    title: str
    aliases: tuple[str, ...]
    formula: str
    better: str
    compute: Callable[[Matrix], float | None]


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _final_average(R: Matrix) -> float | None:
    return _mean(R[-1])


def _mean_average(R: Matrix) -> float | None:
    return _mean([sum(R[t][:t]) / t for t in range(1, len(R))])


def _learning(R: Matrix) -> float | None:
    return _mean([R[i + 1][i] for i in range(_tasks(R))])


def _bwt(R: Matrix) -> float | None:
    return _mean([R[-1][i] - R[i + 1][i] for i in range(_tasks(R) - 1)])


def _bwt_paper(R: Matrix) -> float | None:
    """Rows from the moment a task is known (its own stage) to the last."""
    count = _tasks(R)
    return _mean([min(R[-1][i] - R[t][i] for t in range(i + 1, count + 1)) for i in range(count)])


def _forgetting(R: Matrix) -> float | None:
    count = _tasks(R)
    return _mean([max(R[t][i] for t in range(i + 1, count)) - R[-1][i] for i in range(count - 1)])


def _forward_transfer(R: Matrix) -> float | None:
    return _mean([R[i][i] - R[0][i] for i in range(1, _tasks(R))])


def _zero_shot(R: Matrix) -> float | None:
    return _mean(R[0])


def _tasks(R: Matrix) -> int:
    return len(R[0])


METRICS = (
    Metric(
        "final_average", "final average", ("ACC", "AP", "Last", "MFN", "AA"), "1/T Σ_i R[T,i]", "higher", _final_average
    ),
    Metric(
        "mean_average", "mean average", ("MAA", "AIA", "MAP"), "1/T Σ_t 1/t Σ_{i≤t} R[t,i]", "higher", _mean_average
    ),
    Metric("learning", "learning", ("MFT", "LA"), "1/T Σ_i R[i,i]", "higher", _learning),
    Metric("bwt", "backward transfer", ("BWT",), "1/(T-1) Σ_{i<T} (R[T,i] - R[i,i])", "higher", _bwt),
    Metric(
        "bwt_paper",
        "backward transfer (He et al. 2023)",
        (),
        "1/N Σ_j min_{t≥j} (R[T,j] - R[t,j])",
        "higher",
        _bwt_paper,
    ),
    Metric(
        "forgetting",
        "forgetting (Chaudhry et al. 2018)",
        ("F", "FM"),
        "1/(T-1) Σ_{i<T} (max_{i≤l<T} R[l,i] - R[T,i])",
        "lower",
        _forgetting,
    ),
    Metric(
        "forward_transfer",
        "forward transfer",
        ("FWT",),
        "1/(T-1) Σ_{i≥2} (R[i-1,i] - R[0,i])",
        "higher",
        _forward_transfer,
    ),
    Metric("zero_shot", "zero-shot average", (), "1/T Σ_i R[0,i]", "", _zero_shot),
)
REFERENCE_METRICS = {
    "intransigence": ("1/T Σ_i (R*_i - R[i,i]), R* = the task tuned alone", "lower"),
    "relative_average": ("1/T Σ_i R[T,i] / R*_i", "higher"),
    "gap_to_joint": ("final average of joint - final average", "lower"),
}
SQUARE = {"mean_average", "learning", "bwt", "bwt_paper", "forgetting", "forward_transfer"}


def formulas() -> dict[str, str]:
    """The formula of every metric, by name."""
    return {m.name: m.formula for m in METRICS} | {n: f for n, (f, _) in REFERENCE_METRICS.items()}


def metrics_of(
    R: Matrix, *, direct: Sequence[float] | None = None, joint_average: float | None = None
) -> dict[str, float | None]:
    """All metrics of one matrix.

    Args:
        R: rows 0..T of T scores each. A matrix of another shape (`joint` has one stage) gets the metrics that need
            its last and first row only.
        direct: R*, each task's score when it is tuned alone.
        joint_average: final average of joint training.

    Raises:
        UserError: R is empty, ragged, not numbers, or has a NaN.
    """
    check_matrix(R)
    square = len(R) == _tasks(R) + 1
    result = {m.name: m.compute(R) if square or m.name not in SQUARE else None for m in METRICS}
    final = result["final_average"]
    assert final is not None
    if direct is not None and len(direct) != _tasks(R):
        raise UserError(f"the reference has {len(direct)} scores for {_tasks(R)} tasks")
    learned = [R[i + 1][i] for i in range(_tasks(R))] if square else None
    result["intransigence"] = (
        _mean([best - got for best, got in zip(direct, learned, strict=True)]) if direct and learned else None
    )
    result["relative_average"] = (
        _mean([got / best for got, best in zip(R[-1], direct, strict=True)]) if direct and all(direct) else None
    )
    result["gap_to_joint"] = joint_average - final if joint_average is not None else None
    return result


def check_matrix(R: Matrix) -> None:
    """Refuse what is no matrix of scores, naming the place."""
    if len(R) < 2 or not R[0]:
        raise UserError("the matrix needs row 0 (the untouched model) and at least one row after training")
    for number, row in enumerate(R):
        if len(row) != len(R[0]):
            raise UserError(f"row {number} of the matrix has {len(row)} scores, row 0 has {len(R[0])}")
        for task, score in enumerate(row):
            if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
                raise UserError(f"row {number}, task {task} of the matrix is {score!r}: not a finite number")


def standard_error(score: float, n: int) -> float:
    """Standard error of a share in points of 100: 100 sqrt(p (1 - p) / n)."""
    share = min(max(score / 100, 0.0), 1.0)
    return 100 * math.sqrt(share * (1 - share) / n) if n else math.nan
