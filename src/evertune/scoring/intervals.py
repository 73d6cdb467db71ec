"""Student's interval of a mean of paired differences. No statistics package is needed.

For whole degrees of freedom Student's distribution is a finite sum.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

LEVEL = 0.95

Interval = tuple[float, float]


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
