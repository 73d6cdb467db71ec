"""The bootstrap over clusters: against one written out with NumPy, against formulas, and by how often it is right."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from evertune.metrics import statistics
from evertune.metrics.statistics import FEWEST, clustered_intervals


def correlated(rng, *, images, noise=0.5):
    """Differences of questions: those about one image have most of their value in common; the mean is 0."""
    counts = rng.integers(1, 6, images)
    clusters = np.repeat(np.arange(images), counts)
    return rng.normal(0, 1, images)[clusters] + rng.normal(0, noise, len(clusters)), clusters


def by_hand(values, clusters, *, freedom, draws=20_000, seed=99):
    """Draw image by image, take all of its questions, average; then the percentiles that reach as far as t."""
    rng = np.random.default_rng(seed)
    groups = [values[clusters == cluster] for cluster in np.unique(clusters)]
    means = []
    for _ in range(draws):
        chosen = rng.integers(len(groups), size=len(groups))
        means.append(np.concatenate([groups[at] for at in chosen]).mean())
    level = stats.norm.cdf(stats.t.ppf(0.975, freedom) * math.sqrt((freedom + 1) / freedom))
    return np.quantile(means, [1 - level, level])


@pytest.mark.slow
@pytest.mark.parametrize("images", [7, 40])
def test_it_is_the_bootstrap_written_out(images):
    values, clusters = correlated(np.random.default_rng(images), images=images)
    (own,), mean = clustered_intervals([(values, list(clusters))])
    assert own == mean == clustered_intervals([(values, list(clusters))])[1], "the draws are fixed"
    width = own[1] - own[0]
    assert own == pytest.approx(tuple(by_hand(values, clusters, freedom=images - 1)), abs=0.06 * width)


@pytest.mark.slow
def test_for_many_images_it_is_the_formula_of_cluster_robust_errors():
    """Liang and Zeger: the variance of a mean is the sum of squared cluster sums of residuals, over n squared."""
    values, clusters = correlated(np.random.default_rng(3), images=400)
    sums = np.bincount(clusters, values - values.mean())
    error = math.sqrt((sums**2).sum()) / len(values)
    (own,), _ = clustered_intervals([(values, list(clusters))])
    assert own == pytest.approx((values.mean() - 1.966 * error, values.mean() + 1.966 * error), abs=0.12 * error)
    alone, _ = clustered_intervals([(values, list(range(len(values))))])
    plain = values.std(ddof=1) / math.sqrt(len(values))
    assert alone[0][1] - alone[0][0] == pytest.approx(2 * 1.96 * plain, rel=0.04)
    assert own[1] - own[0] > 1.6 * (alone[0][1] - alone[0][0])


def covered(monkeypatch, make, *, trials=200):
    """How often the true mean, 0, is inside."""
    monkeypatch.setattr(statistics, "MEAN_RESAMPLES", 1000)
    rng = np.random.default_rng(5)
    ends = [clustered_intervals(make(rng))[1] for _ in range(trials)]
    return np.mean([low <= 0 <= high for low, high in ends])


@pytest.mark.slow
@pytest.mark.parametrize("images", [FEWEST, 12, 40])
def test_it_holds_the_truth_as_often_as_it_says(images, monkeypatch):
    def make(rng):
        values, clusters = correlated(rng, images=images)
        return [(values, list(clusters))]

    assert 0.90 <= covered(monkeypatch, make) <= 0.99


@pytest.mark.slow
def test_without_clusters_it_would_not(monkeypatch):
    def make(rng):
        values, _ = correlated(rng, images=40)
        return [(values, list(range(len(values))))]

    assert covered(monkeypatch, make) < 0.85


@pytest.mark.slow
def test_the_mean_over_tasks_holds_the_truth_too(monkeypatch):
    """Of tasks of different size, apart, and of tasks that ask about the same images, which go up and down together."""

    def apart(rng):
        return [
            (values, [(task, c) for c in clusters])
            for task, images in enumerate((6, 15, 60))
            for values, clusters in [correlated(rng, images=images)]
        ]

    def shared(rng):
        common = rng.normal(0, 1, 30)
        return [(common + rng.normal(0, 0.5, 30), list(range(30))) for _ in range(3)]

    assert 0.90 <= covered(monkeypatch, apart) <= 0.99
    assert 0.90 <= covered(monkeypatch, shared) <= 0.99

    def taken_for_apart(rng):
        return [(values, [(task, c) for c in clusters]) for task, (values, clusters) in enumerate(shared(rng))]

    assert covered(monkeypatch, taken_for_apart) < 0.85


def test_tasks_that_share_images_are_drawn_together():
    """The same differences in both: their mean is as uncertain as one of them, not less by the root of two."""
    values, clusters = correlated(np.random.default_rng(8), images=50)
    own, together = clustered_intervals([(values, list(clusters))] * 2)
    _, apart = clustered_intervals([(values, [(task, c) for c in clusters]) for task in "ab"])
    assert together == pytest.approx(own[0], abs=1e-12) and own[0] == own[1]
    assert apart[1] - apart[0] == pytest.approx((together[1] - together[0]) / math.sqrt(2), rel=0.06)


def test_a_sample_that_is_not_drawn_leaves_the_draw_out():
    """A small task beside a large one that shares one image with it."""
    small = ([1.0] * 6, list(range(6)))
    large = ([0.0] * 300, list(range(300)))
    own, mean = clustered_intervals([small, large])
    assert own == [(1.0, 1.0), (0.0, 0.0)] and mean == (0.5, 0.5)


def test_few_images_have_no_interval():
    many, few = ([1.0, 2.0] * 6, list(range(12))), ([1.0] * 20, [n % (FEWEST - 1) for n in range(20)])
    own, mean = clustered_intervals([many, few])
    assert own[0] is not None and own[1] is None and mean is None


def test_memory_does_not_grow_with_the_draws(monkeypatch):
    values, clusters = correlated(np.random.default_rng(4), images=50)
    whole = clustered_intervals([(values, list(clusters))])[1]
    monkeypatch.setattr(statistics, "MOST_DRAWN", 1000)
    assert clustered_intervals([(values, list(clusters))])[1] == pytest.approx(whole, rel=0.1)
