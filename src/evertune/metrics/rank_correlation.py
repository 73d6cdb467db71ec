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
Draws = NDArray[np.int64]


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
    found: Values = _ranks_of(np.asarray(values, dtype=float), _as_it_is(len(values)))[0]
    return found


def spearman(x: Sequence[float] | Values, y: Sequence[float] | Values) -> float | None:
    """Pearson's correlation of the ranks; None where it is undefined.

    Raises:
        ValueError: the two sides differ in length.
    """
    if len(x) != len(y):
        raise ValueError(f"{len(x)} values against {len(y)}")
    if len(x) < FEWEST_POINTS:
        return None
    found = _rank_correlations(np.asarray(x, dtype=float), np.asarray(y, dtype=float), _as_it_is(len(x)))
    return float(found[0]) if len(found) else None


def correlation(
    x: Sequence[float], y: Sequence[float], *, resamples: int = RESAMPLES, level: float = LEVEL, seed: int = 0
) -> Correlation:
    """Rank correlation of the points (x, y) with its interval: points are drawn with replacement, `resamples` times.

    Resamples without a correlation (one side is constant) do not count; when most have none, there is no interval.
    """
    rho = spearman(x, y)
    if rho is None:
        return Correlation(None, None, None, len(x))
    draws = np.random.default_rng(seed).integers(0, len(x), size=(resamples, len(x)))
    found = _rank_correlations(np.asarray(x, dtype=float), np.asarray(y, dtype=float), draws)
    if 2 * len(found) < resamples:
        return Correlation(rho, None, None, len(x))
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return Correlation(rho, float(low), float(high), len(x))


def _as_it_is(count: int) -> Draws:
    """The one draw that takes every point once."""
    return np.arange(count)[None]


def _rank_correlations(x: Values, y: Values, draws: Draws) -> Values:
    """Correlation of the ranks of each row of `draws`, (R, n) places; rows without one are left out."""
    a, b = (ranked - ranked.mean(1, keepdims=True) for ranked in (_ranks_of(x, draws), _ranks_of(y, draws)))
    size = np.sqrt((a * a).sum(1) * (b * b).sum(1))
    defined = size > 0
    found: Values = np.clip((a * b).sum(1)[defined] / size[defined], -1.0, 1.0)
    return found


def _ranks_of(values: Values, draws: Draws) -> Values:
    """(R, n) ranks of what each row draws: a value's rank is how many lie below it, and half of its equals."""
    _, place = np.unique(values, return_inverse=True)
    rows, width = len(draws), int(place.max(initial=-1)) + 1
    drawn = place[draws]
    counts = np.bincount((drawn + width * np.arange(rows)[:, None]).ravel(), minlength=rows * width)
    counts = counts.reshape(rows, width)
    mean_rank: Values = counts.cumsum(1) - (counts - 1) / 2
    return np.take_along_axis(mean_rank, drawn, axis=1)
