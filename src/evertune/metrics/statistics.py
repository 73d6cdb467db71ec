"""Statistics: 95 % intervals of shares, of changes of paired scores and of mean differences, and rank correlation.

What are the units? Questions about one image (`clustered_intervals`, `change_interval`), or seeds (`t_interval`).

Scores of questions lie between 0 and 1, often at an end: there Student's interval has no width, or goes beyond 100
points. Wilson's and Newcombe's do neither. For whole degrees of freedom Student's distribution is a finite sum. SciPy
is too large a dependency for these functions; the tests compare them with SciPy's.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
Z = statistics.NormalDist().inv_cdf((1 + LEVEL) / 2)
FEWEST = 6
"""Independent questions that an interval needs: of five, even five changes of one sign are chance (p = 0.06)."""

FEWEST_POINTS = 3
"""Of a correlation: two points always correlate perfectly, which says nothing."""
MEAN_RESAMPLES, CORRELATION_RESAMPLES = 10_000, 2000
"""Draws of a bootstrap."""

Interval = tuple[float, float]
Verdict = Literal["confirmed", "not confirmed", "contradicted", "not measured"]
Values = NDArray[np.float64]
Draws = NDArray[np.int64]
Clustered = tuple[Sequence[float], Sequence[Hashable]]
"""Values, and the cluster of each."""
MOST_DRAWN = 1 << 21
"""Clusters drawn at once: 16 MiB."""


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


def bootstrap_interval(differences: Sequence[float]) -> Interval | None:
    """Percentiles of the means of units drawn with replacement, the draws fixed; None for fewer than two units.

    Efron 1979, doi 10.1214/aos/1176344552. With six units it is too narrow (it can't draw what it never saw): the
    t-interval decides there.
    """
    if len(differences) < 2:
        return None
    values = np.asarray(differences, dtype=float)
    drawn = np.random.default_rng(0).integers(len(values), size=(MEAN_RESAMPLES, len(values)))
    low, high = np.quantile(values[drawn].mean(axis=1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def clustered_intervals(samples: Sequence[Clustered]) -> tuple[list[Interval | None], Interval | None]:
    """The interval of each sample's mean, and of the mean of these means, by a bootstrap that draws clusters.

    Values of one cluster (questions about one image) may be alike: to draw them one by one would make an interval too
    narrow. Samples that share a cluster are drawn together, others independently. Of few clusters a percentile interval
    is too narrow, so its levels are widened to the reach of Student's t (Hesterberg 2015, doi
    10.1080/00031305.2015.1089789), with Satterthwaite's degrees of freedom where several parts are drawn.

    Returns:
        None for a sample with fewer than `FEWEST` clusters, and for the mean if there is one.
    """
    random = np.random.default_rng(0)
    own: dict[int, Interval | None] = {}
    total, parts = np.zeros(MEAN_RESAMPLES), []
    for part in _parts(samples):
        draws, units = _draws_of([samples[at] for at in part], random)
        for column, at in enumerate(part):
            few = len(set(samples[at][1])) < FEWEST
            own[at] = None if few else _expanded(draws[:, column], len(set(samples[at][1])) - 1)
        total += draws.sum(axis=1) / len(samples)
        parts.append((units, float(np.nanvar(draws.sum(axis=1)))))
    each = [own[at] for at in range(len(samples))]
    return each, None if None in each else _expanded(total, _satterthwaite(parts))


def _expanded(draws: Values, freedom: int) -> Interval:
    """Percentiles that reach as far as Student's t: 2.5 % and 97.5 % for very many degrees of freedom."""
    reach = t_quantile(LEVEL, freedom) * math.sqrt((freedom + 1) / freedom)
    tail = statistics.NormalDist().cdf(-reach)
    low, high = np.nanquantile(draws, [tail, 1 - tail])
    return float(low), float(high)


def _parts(samples: Sequence[Clustered]) -> list[list[int]]:
    """The places of the samples in groups that share no cluster with each other."""
    parts: list[tuple[set[Hashable], list[int]]] = []
    for at, (_, named) in enumerate(samples):
        clusters, members = set(named), [at]
        for part in [part for part in parts if part[0] & clusters]:
            parts.remove(part)
            clusters, members = clusters | part[0], [*part[1], *members]
        parts.append((clusters, members))
    return [members for _, members in parts]


def _draws_of(part: Sequence[Clustered], random: np.random.Generator) -> tuple[Values, int]:
    """Per resample of the clusters, the mean of each sample, NaN where none of it was drawn; and how many clusters."""
    place = {cluster: n for n, cluster in enumerate(dict.fromkeys(c for _, clusters in part for c in clusters))}
    sums, counts = np.zeros((len(place), len(part))), np.zeros((len(place), len(part)))
    for column, (values, clusters) in enumerate(part):
        rows = [place[cluster] for cluster in clusters]
        np.add.at(sums[:, column], rows, values)
        np.add.at(counts[:, column], rows, 1)
    found = []
    step = max(1, MOST_DRAWN // len(place))
    for start in range(0, MEAN_RESAMPLES, step):
        count = min(step, MEAN_RESAMPLES - start)
        drawn = random.integers(len(place), size=(count, len(place))) + len(place) * np.arange(count)[:, None]
        times = np.bincount(drawn.ravel(), minlength=count * len(place)).reshape(count, -1).astype(float)
        with np.errstate(invalid="ignore"):
            found.append((times @ sums) / (times @ counts))
    return np.concatenate(found), len(place)


def _satterthwaite(parts: Sequence[tuple[int, float]]) -> int:
    """Degrees of freedom of a sum of parts, each of so many units and with this variance."""
    total = sum(variance for _, variance in parts)
    if total <= 0:
        return sum(units - 1 for units, _ in parts)
    return max(1, int(total**2 / sum(variance**2 / (units - 1) for units, variance in parts)))


def verdict_of(interval: Interval | None) -> Verdict:
    """By the side of zero on which the whole interval lies; what is claimed is a difference above zero."""
    if interval is None:
        return "not measured"
    if interval[0] > 0:
        return "confirmed"
    return "contradicted" if interval[1] < 0 else "not confirmed"


def clipped(interval: Interval | None, limit: float) -> Interval | None:
    """An interval without what lies beyond -`limit` and `limit`, where no value can be."""
    return None if interval is None else (max(-limit, interval[0]), min(limit, interval[1]))


def share_interval(score: float, n: float) -> Interval:
    """Wilson's interval of a score of 0..100 points over n independent questions (Wilson 1927).

    For scores between right and wrong it is a little too wide: their variance is at most that of a share.
    """
    share = min(max(score / 100, 0.0), 1.0)
    centre = (share + Z * Z / (2 * n)) / (1 + Z * Z / n)
    reach = Z * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n)) / (1 + Z * Z / n)
    return 100 * min(share, max(0.0, centre - reach)), 100 * max(share, min(1.0, centre + reach))


def mean_interval(score: float, error: float) -> Interval:
    """Score ± 1.96 standard errors, for scores that may exceed 100; never below 0."""
    return max(0.0, score - Z * error), score + Z * error


def effective_count(values: Sequence[float], groups: Sequence[Hashable]) -> float:
    """How many independent values have a mean as uncertain as theirs, where those of a group may be alike.

    n / (variance of the mean over groups / variance of the mean as if all were independent), at most n. Where all
    values are equal groups have no visible effect, and each value counts once.
    """
    n, mean = len(values), statistics.fmean(values)
    sums: dict[Hashable, float] = {}
    for value, group in zip(values, groups, strict=True):
        sums[group] = sums.get(group, 0.0) + value - mean
    total = sum((value - mean) ** 2 for value in values)
    if len(sums) in (1, n):
        return len(sums)
    if total <= 1e-12 * n:
        return len(sums)
    between = sum(part * part for part in sums.values()) * len(sums) / (len(sums) - 1)
    plain = total * n / (n - 1)
    return n if between <= plain else n * plain / between


def change_interval(before: Sequence[float], after: Sequence[float], images: Sequence[Hashable]) -> Interval | None:
    """The change of the mean score in points, from the same questions before and after.

    Newcombe's interval for paired shares (1998, method 10), for n the effective number of questions: those about one
    image are not independent, and a variance over few images is itself uncertain (Korn and Graubard 1998: n times
    (z / t)²). Scores above 1 (CIDEr) have Student's interval over images.

    Args:
        before: scores, 1 being 100 points.
        after: of the same questions.
        images: what each question is about.

    Returns:
        None for too few questions (`FEWEST`).
    """
    differences = [b - a for a, b in zip(before, after, strict=True)]
    n = effective_count(differences, images)
    if n < FEWEST:
        return None
    if max(*before, *after) > 1:
        mean, error = statistics.fmean(differences), statistics.stdev(differences) / math.sqrt(n)
        reach = t_quantile(LEVEL, len(set(images)) - 1) * error
        return 100 * (mean - reach), 100 * (mean + reach)
    if (units := len(set(images))) < len(images):
        n *= (Z / t_quantile(LEVEL, units - 1)) ** 2
    first, last = statistics.fmean(before), statistics.fmean(after)
    low_a, high_a = (end / 100 for end in share_interval(100 * first, n))
    low_b, high_b = (end / 100 for end in share_interval(100 * last, n))
    together = statistics.fmean((a - first) * (b - last) for a, b in zip(before, after, strict=True))
    if together > 0:
        together = max(0.0, together - 1 / (2 * n))
    scale = math.sqrt(first * (1 - first) * last * (1 - last))
    phi = together / scale if scale > 1e-12 else 0.0
    down = _joined(last - low_b, high_a - first, phi)
    up = _joined(high_b - last, first - low_a, phi)
    return 100 * max(-1.0, last - first - down), 100 * min(1.0, last - first + up)


def _joined(a: float, b: float, phi: float) -> float:
    """The reach of a difference from the reaches of its two sides."""
    return math.sqrt(max(0.0, a * a - 2 * phi * a * b + b * b))


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


def spearman(x: Sequence[float] | Values, y: Sequence[float] | Values) -> float | None:
    """Pearson's correlation of the ranks; None where it is undefined.

    Raises:
        ValueError: the two sides differ in length.
    """
    if len(x) != len(y):
        raise ValueError(f"{len(x)} values against {len(y)}")
    if len(x) < FEWEST_POINTS:
        return None
    every_point_once = np.arange(len(x))[None]
    found = _rank_correlations(np.asarray(x, dtype=float), np.asarray(y, dtype=float), every_point_once)
    return float(found[0]) if len(found) else None


def correlation(x: Sequence[float], y: Sequence[float], *, resamples: int = CORRELATION_RESAMPLES) -> Correlation:
    """Rank correlation of the points (x, y) with its interval: points are drawn with replacement, `resamples` times.

    Resamples without a correlation (one side is constant) do not count; when most have none, there is no interval.
    """
    rho = spearman(x, y)
    if rho is None:
        return Correlation(None, None, None, len(x))
    draws = np.random.default_rng(0).integers(0, len(x), size=(resamples, len(x)))
    found = _rank_correlations(np.asarray(x, dtype=float), np.asarray(y, dtype=float), draws)
    if 2 * len(found) < resamples:
        return Correlation(rho, None, None, len(x))
    low, high = np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Correlation(rho, float(low), float(high), len(x))


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
