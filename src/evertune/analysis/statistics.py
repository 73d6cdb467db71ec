"""Rank correlation with ties, and a bootstrap interval around it: does one quantity rise with another?

Own functions, for SciPy is too large a dependency for twenty lines; the tests compare them with SciPy's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
LEVEL = 0.95
FEWEST_POINTS = 3
"""Two points always correlate perfectly: that says nothing."""

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Correlation:
    """Spearman's rank correlation of n points, with the ends of its percentile bootstrap interval.

    Attributes:
        rho: None when it is undefined: fewer than three points, or one side is constant.
        low: 2.5 % of the resamples lie below; None when `rho` is, or when most resamples have no correlation.
        high: 2.5 % of the resamples lie above.
        n: number of points.
    """

    rho: float | None
    low: float | None
    high: float | None
    n: int

    def as_dict(self) -> dict[str, float | int | None]:
        """For JSON."""
        return asdict(self)


def ranks(values: Sequence[float] | Values) -> Values:
    """Ranks from 1, equal values sharing the mean of theirs."""
    array = np.asarray(values, dtype=float)
    _, place, counts = np.unique(array, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[place]


def spearman(x: Sequence[float] | Values, y: Sequence[float] | Values) -> float | None:
    """Pearson's correlation of the ranks; None where it is undefined.

    Raises:
        ValueError: the two sides differ in length.
    """
    if len(x) != len(y):
        raise ValueError(f"{len(x)} values against {len(y)}")
    if len(x) < FEWEST_POINTS:
        return None
    a, b = (side - side.mean() for side in (ranks(x), ranks(y)))
    size = float(np.sqrt((a @ a) * (b @ b)))
    return None if size == 0 else float(np.clip((a @ b) / size, -1.0, 1.0))


def correlation(
    x: Sequence[float], y: Sequence[float], *, resamples: int = RESAMPLES, level: float = LEVEL, seed: int = 0
) -> Correlation:
    """Rank correlation of the points (x, y) with its interval: points are drawn with replacement, `resamples` times.

    Resamples without a correlation (one side is constant) do not count; when most have none, there is no interval.
    """
    rho = spearman(x, y)
    if rho is None:
        return Correlation(None, None, None, len(x))
    found = _resampled(np.asarray(x, dtype=float), np.asarray(y, dtype=float), resamples, seed)
    if 2 * len(found) < resamples:
        return Correlation(rho, None, None, len(x))
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return Correlation(rho, float(low), float(high), len(x))


def _resampled(x: Values, y: Values, resamples: int, seed: int) -> list[float]:
    choose = np.random.default_rng(seed)
    draws = choose.integers(0, len(x), size=(resamples, len(x)))
    return [rho for draw in draws if (rho := spearman(x[draw], y[draw])) is not None]
