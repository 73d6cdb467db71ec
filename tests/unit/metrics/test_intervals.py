"""Intervals of shares and of paired changes: published examples, bounds, coverage, questions that share an image."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from evertune.metrics.statistics import (
    FEWEST,
    change_interval,
    clipped,
    effective_count,
    mean_interval,
    share_interval,
    t_interval,
)


def pairs(both, lost, won, neither):
    """Scores before and after, by the cells of a 2 x 2 table."""
    before = [1.0] * both + [1.0] * lost + [0.0] * won + [0.0] * neither
    after = [1.0] * both + [0.0] * lost + [1.0] * won + [0.0] * neither
    return before, after


def alone(scores):
    return [str(place) for place in range(len(scores))]


def test_a_share_has_wilsons_interval():
    for right, n in ((0, 18), (9, 18), (18, 18), (81, 263), (1, 29)):
        theirs = stats.binomtest(right, n).proportion_ci(0.95, method="wilson")
        assert share_interval(100 * right / n, n) == pytest.approx((100 * theirs.low, 100 * theirs.high))
    low, high = share_interval(100, 18)
    assert low == pytest.approx(82.4, abs=0.1) and high == 100


def test_a_change_has_newcombes_interval():
    # Newcombe 1998, doi 10.1002/(SICI)1097-0258(19981130)17:22<2635, table II, method 10
    before, after = pairs(36, 2, 12, 0)
    assert change_interval(before, after, alone(before)) == pytest.approx((5.69, 34.04), abs=0.01)
    before, after = pairs(36, 12, 2, 0)
    assert change_interval(before, after, alone(before)) == pytest.approx((-34.04, -5.69), abs=0.01)


def test_answers_that_go_together_are_corrected_for_continuity():
    # a = 9, d = 9 of 18, nothing changed: phi = (81 - 18 / 2) / 81 in Newcombe's method 10, not 1
    before, after = pairs(9, 0, 0, 9)
    reach = share_interval(50, 18)[1] - 50
    low, high = change_interval(before, after, alone(before))
    assert high == pytest.approx(-low) and high == pytest.approx(reach * (2 - 2 * 72 / 81) ** 0.5)
    before, after = pairs(3, 2, 2, 3)
    low, high = change_interval(before, after, alone(before))
    reach = share_interval(50, 10)[1] - 50
    assert high == pytest.approx(reach * 2**0.5), "(9 - 4 - 5) / 25 = 0: what chance makes does not count"


def test_a_variance_over_few_images_is_itself_uncertain():
    images = [place // 2 for place in range(20)]
    after = [float(place // 2 % 2) for place in range(20)]
    n = effective_count(after, images) * (stats.norm.ppf(0.975) / stats.t.ppf(0.975, 9)) ** 2
    low, high = change_interval([0.0] * 20, after, images)
    assert low == pytest.approx(50 - ((50 - share_interval(50, n)[0]) ** 2 + share_interval(0, n)[1] ** 2) ** 0.5)
    assert high == pytest.approx(share_interval(50, n)[1])


def test_eighteen_questions_all_learned_leave_room_and_stay_below_100():
    low, high = change_interval([0.0] * 18, [1.0] * 18, alone([0] * 18))
    assert low == pytest.approx(75.1, abs=0.1) and high == 100
    low, high = change_interval([1.0] * 18, [1.0] * 18, alone([0] * 18))
    assert low == pytest.approx(-high) and high == pytest.approx(17.6, abs=0.1), "nothing changed, of 18"
    t = t_interval([100.0] * 13 + [0.0] * 5)
    assert t[0] < 50 and change_interval([0.0] * 18, [1.0] * 13 + [0.0] * 5, alone([0] * 18))[1] < 95


SCORES = st.lists(st.tuples(*[st.sampled_from([0.0, 0.3, 0.6, 0.9, 1.0])] * 2, st.integers(0, 9)), min_size=1)


@pytest.mark.slow
@settings(max_examples=300, deadline=None, derandomize=True)
@given(SCORES)
def test_an_interval_holds_the_change_and_stays_within_100(rows):
    before, after, images = zip(*rows, strict=True)
    interval = change_interval(before, after, images)
    if interval is None:
        assert effective_count([b - a for a, b, _ in rows], images) < FEWEST
        return
    difference = 100 * (sum(after) - sum(before)) / len(rows)
    assert -100 <= interval[0] <= difference + 1e-9 and difference - 1e-9 <= interval[1] <= 100
    assert interval[1] - interval[0] > 1, "no interval of some questions has no width"
    back = change_interval(after, before, images)
    assert back == pytest.approx((-interval[1], -interval[0]))


def test_fewer_than_six_questions_say_nothing_at_95_percent():
    assert change_interval([0.0] * 5, [1.0] * 5, alone([0] * 5)) is None
    assert change_interval([0.0] * 6, [1.0] * 6, alone([0] * 6)) is not None
    assert stats.binomtest(5, 5).pvalue > 0.05 > stats.binomtest(6, 6).pvalue, "the sign test"


def test_questions_about_one_image_count_as_one_where_they_agree():
    images = [place // 5 for place in range(100)]
    same = [float(place // 5 % 2) for place in range(100)]
    assert effective_count(same, images) == pytest.approx(20, abs=1)
    assert effective_count(same, alone(same)) == 100
    assert effective_count([0.0] * 100, images) == 20, "no difference at all says nothing about what they share"
    mixed = [float(place % 2) for place in range(100)]
    assert effective_count(mixed, images) == 100, "never more than there are"
    assert effective_count(same, [0] * 100) == 1
    zero = [0.0] * 100
    wide, narrow = change_interval(zero, same, images), change_interval(zero, same, alone(same))
    assert wide[1] - wide[0] > 1.8 * (narrow[1] - narrow[0])
    few = [place // 20 for place in range(100)]
    assert change_interval(zero, [1.0] * 100, few) is None, "a hundred questions about five images"


@pytest.mark.slow
@pytest.mark.parametrize(("images", "each"), [(20, 1), (60, 1), (20, 5), (100, 2)])
def test_coverage(images, each):
    """95 % intervals hold the true change in about 95 % of draws, clustered by image or not."""
    generator = np.random.default_rng(images + each)
    hit, draws = 0, 500
    truth = 100 * (0.75 - 0.5)
    for _ in range(draws):
        start, end = 0.5 + generator.uniform(-0.4, 0.4, images), 0.75 + generator.uniform(-0.2, 0.2, images)
        before = (generator.random((images, each)) < start[:, None]).astype(float).ravel()
        after = (generator.random((images, each)) < end[:, None]).astype(float).ravel()
        low, high = change_interval(before.tolist(), after.tolist(), np.repeat(np.arange(images), each).tolist())
        hit += low <= truth <= high
    assert 0.92 <= hit / draws <= 0.99


def test_scores_beyond_100_have_students_interval_over_images():
    before, after = [1.0, 2.0, 3.0, 1.5, 0.2, 4.0, 2.0], [1.5, 2.2, 3.9, 1.6, 0.1, 4.4, 2.9]
    differences = [100 * (b - a) for a, b in zip(before, after, strict=True)]
    assert change_interval(before, after, alone(before)) == pytest.approx(t_interval(differences))
    twice = [x for x in before for _ in range(2)], [x for x in after for _ in range(2)]
    images = [place // 2 for place in range(14)]
    assert change_interval(*twice, images) == pytest.approx(t_interval(differences))
    assert mean_interval(1.0, 40.0)[0] == 0, "a score is never below 0"
    assert mean_interval(50.0, 10.0) == pytest.approx((50 - 19.6, 50 + 19.6), abs=0.01)


def test_an_interval_is_cut_where_no_value_can_be():
    assert clipped((-120.0, 117.0), 100) == (-100, 100) and clipped((26.0, 117.0), 100) == (26, 100)
    assert clipped(None, 100) is None
