"""Paired intervals: Student's distribution against SciPy, the bootstrap against all its draws, verdicts by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from evertune.metrics.statistics import bootstrap_interval, t_interval, t_quantile, t_share, verdict_of


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 6, 7, 11, 30])
def test_students_distribution_is_scipys(freedom):
    for t in (0.0, 0.3, 1.0, 2.5, 12.0):
        assert t_share(t, freedom) == pytest.approx(1 - 2 * stats.t.sf(t, freedom), abs=1e-12)
    for level in (0.5, 0.9, 0.95, 0.99375):
        assert t_quantile(level, freedom) == pytest.approx(stats.t.ppf((1 + level) / 2, freedom), rel=1e-9)


def test_the_interval_is_that_of_a_paired_t_test():
    rng = np.random.default_rng(3)
    for count in (2, 3, 6, 20):
        first, second = rng.normal(5, 3, count), rng.normal(4, 2, count)
        theirs = stats.ttest_rel(first, second).confidence_interval(0.95)
        ours = t_interval(list(first - second))
        assert ours == pytest.approx((theirs.low, theirs.high))


def test_the_interval_by_hand():
    # mean 3, s = 2, t(2) = 4.302653: 3 ± 4.302653 * 2 / sqrt(3)
    assert t_interval([1.0, 3.0, 5.0]) == pytest.approx((3 - 4.968275, 3 + 4.968275), abs=1e-5)
    # a normal interval would be 3 ± 1.96 * 2 / sqrt(3), and exclude zero
    assert verdict_of(t_interval([1.0, 3.0, 5.0])) == "not confirmed"


def test_the_bootstrap_is_near_all_its_draws():
    values = [1.0, 2.0, 4.0, 9.0]
    means = [np.mean(draw) for draw in itertools.product(values, repeat=4)]
    expected = np.quantile(means, [0.025, 0.975])
    assert bootstrap_interval(values) == pytest.approx(tuple(expected), abs=0.26)
    assert bootstrap_interval(values) == bootstrap_interval(values), "the draws are fixed"
    low, high = t_interval(values)
    assert low < expected[0] and expected[1] < high, "with four units it is the narrower one"


@pytest.mark.parametrize("differences", [[], [4.0]])
def test_one_unit_has_no_interval(differences):
    assert t_interval(differences) is None and bootstrap_interval(differences) is None
    assert verdict_of(None) == "not measured"


def test_units_that_are_all_alike_have_an_interval_without_width():
    assert t_interval([2.0, 2.0, 2.0]) == (2.0, 2.0)
    assert verdict_of((2.0, 2.0)) == "confirmed" and verdict_of((0.0, 0.0)) == "not confirmed"
    assert all(math.isfinite(end) for end in bootstrap_interval([0.0, 0.0]))


def test_a_verdict_is_the_side_of_zero():
    assert verdict_of((0.1, 3.0)) == "confirmed"
    assert verdict_of((-0.1, 3.0)) == "not confirmed"
    assert verdict_of((0.0, 3.0)) == "not confirmed"
    assert verdict_of((-3.0, -0.1)) == "contradicted"
