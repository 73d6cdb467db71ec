"""How far a paired difference can be trusted: Student's t-interval, which decides, and a bootstrap beside it.

With six units a percentile bootstrap is too narrow (it can't draw what it never saw); the t-interval is honest there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from evertune.metrics.intervals import LEVEL, Interval

RESAMPLES = 10_000

Verdict = Literal["confirmed", "not confirmed", "contradicted", "not measured"]


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
