"""How far a paired difference can be trusted: Student's t-interval, which decides, and a bootstrap beside it.

With six units a percentile bootstrap is too narrow (it can't draw what it never saw); the t-interval is honest there.
No statistics package is needed: for whole degrees of freedom Student's distribution is a finite sum.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Literal

import numpy as np

LEVEL = 0.95
RESAMPLES = 10_000

Interval = tuple[float, float]
Verdict = Literal["confirmed", "not confirmed", "contradicted", "not measured"]


def t_share(t: float, freedom: int) -> float:
    """P(|T| < t) for Student's T with `freedom` degrees (Abramowitz and Stegun 1964, 26.7.3 and 26.7.4)."""
    angle = math.atan(t / math.sqrt(freedom))
    odd = freedom % 2
    term, total = (math.cos(angle) if odd else 1.0), 0.0
    for power in range(1 if odd else 0, freedom - 1, 2):
        total += term
        term *= math.cos(angle) ** 2 * (power + 1) / (power + 2)
    inner = math.sin(angle) * total
    return (angle + inner) * 2 / math.pi if odd else inner


def t_quantile(level: float, freedom: int) -> float:
    """The t with P(|T| < t) = `level`, by bisection over the angle atan(t / sqrt(freedom)).

    Args:
        level: 0 < level < 1, e.g. 0.95.
        freedom: degrees of freedom, 1 or more.
    """
    low, high = 0.0, math.pi / 2
    for _ in range(100):
        middle = (low + high) / 2
        if t_share(math.tan(middle) * math.sqrt(freedom), freedom) < level:
            low = middle
        else:
            high = middle
    return math.tan(low) * math.sqrt(freedom)


def t_interval(differences: Sequence[float], *, level: float = LEVEL) -> Interval | None:
    """The mean ± t · s / √n, s the sample standard deviation; None for fewer than two units."""
    if len(differences) < 2:
        return None
    mean = statistics.fmean(differences)
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    reach = t_quantile(level, len(differences) - 1) * error
    return mean - reach, mean + reach


def bootstrap_interval(differences: Sequence[float], *, level: float = LEVEL) -> Interval | None:
    """Percentiles of the means of units drawn with replacement, the draws fixed; None for fewer than two units.

    Efron 1979, doi 10.1214/aos/1176344552.
    """
    if len(differences) < 2:
        return None
    values = np.asarray(differences, dtype=float)
    drawn = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.quantile(values[drawn].mean(axis=1), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def verdict_of(interval: Interval | None) -> Verdict:
    """By the side of zero on which the whole interval lies; what is claimed is a difference above zero."""
    if interval is None:
        return "not measured"
    if interval[0] > 0:
        return "confirmed"
    return "contradicted" if interval[1] < 0 else "not confirmed"
