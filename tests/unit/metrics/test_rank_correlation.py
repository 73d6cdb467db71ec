"""Rank correlation and its bootstrap interval against SciPy, and where they are undefined."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from evertune.metrics.statistics import correlation, spearman


@pytest.mark.parametrize("seed", range(5))
def test_spearman_equals_scipy_with_many_ties(seed):
    generator = np.random.default_rng(seed)
    x = generator.integers(0, 5, size=30).astype(float)
    y = x * generator.choice([-1, 0, 1], size=30) + generator.integers(0, 3, size=30)
    assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)


def test_ties_by_hand():
    # ranks 1.5, 4, 1.5, 3 against 1, 2, 3, 4: 1 / sqrt(4.5 * 5)
    assert spearman([10, 30, 10, 20], [1, 2, 3, 4]) == pytest.approx(1 / math.sqrt(4.5 * 5))
    assert spearman([1, 2, 3, 4], [1, 2, 3, 100]) == 1, "only the order counts"
    assert spearman([1, 2, 3, 4], [8, 4, 2, 1]) == -1


def test_undefined_is_none_and_never_not_a_number():
    for x, y in (([1, 1, 1], [1, 2, 3]), ([1, 2, 3], [5, 5, 5]), ([1, 2], [1, 2]), ([], [])):
        found = correlation(x, y)
        assert (found.rho, found.low, found.high) == (None, None, None) and found.n == len(x)
    with pytest.raises(ValueError, match="3 values against 2"):
        spearman([1, 2, 3], [1, 2])


@pytest.mark.slow
def test_the_interval_is_the_percentiles_of_resampled_pairs():
    """The same draws, correlated by SciPy; x and y drawn apart, or 90 % instead of 95, would differ."""
    generator = np.random.default_rng(7)
    x = generator.normal(size=20)
    y = x + generator.normal(size=20)
    draws = np.random.default_rng(0).integers(0, 20, size=(300, 20))
    resampled = [stats.spearmanr(x[draw], y[draw]).statistic for draw in draws]
    found = correlation(x.tolist(), y.tolist(), resamples=300)
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(resampled, [2.5, 97.5])), abs=1e-9)
    assert found.low < found.rho < found.high


@pytest.mark.slow
def test_the_interval_agrees_with_scipys_own_bootstrap():
    generator = np.random.default_rng(3)
    x = generator.normal(size=40)
    y = x + generator.normal(size=40)
    theirs = stats.bootstrap(
        (x, y),
        lambda a, b: stats.spearmanr(a, b).statistic,
        paired=True,
        vectorized=False,
        n_resamples=1500,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    found = correlation(x.tolist(), y.tolist())
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=0.03)


def test_no_interval_when_most_resamples_are_constant():
    found = correlation([0.0, 0.0, 1.0], [0.0, 0.0, 1.0])
    assert found.rho == pytest.approx(1)
    assert found.low is None or not math.isnan(found.low)
    one_stands_out = correlation([0.0] * 29 + [1.0], [0.0] * 29 + [1.0])
    assert one_stands_out.rho == pytest.approx(1) and one_stands_out.low == pytest.approx(1)
