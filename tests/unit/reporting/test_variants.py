"""Variants side by side, and the curve over a setting with its best value."""

from __future__ import annotations

import statistics
from dataclasses import replace

import pytest
from made_up import run
from matrices import matrix

from evertune.reporting.curves import choose, curves, rich_curve
from evertune.reporting.tables import compare, metrics_with_references
from evertune.reporting.variants import settings_of, variant_names


def test_settings_are_flat_and_named_as_on_the_command_line():
    assert settings_of(matrix(strength=2.0)) == {"limit": None, "train.epochs": 1.0, "ewc.strength": 2.0}


def test_a_variant_is_named_by_what_differs():
    runs = [matrix(strength=1e3, samples=4), matrix(strength=1e6, samples=4), matrix(strength=1e3, samples=4, seed=101)]
    assert variant_names(runs) == ["strength=1e3", "strength=1e6", "strength=1e3"]
    assert variant_names(runs[::2]) == ["", ""]


def test_variants_are_averaged_over_their_own_seeds():
    runs = [matrix(seed=s, strength=v, final=v + s) for s in (0, 2) for v in (10.0, 20.0)]
    rows = {row.method: row for row in compare(runs)}
    assert set(rows) == {"zero-shot", "ewc (strength=10)", "ewc (strength=20)"}
    assert rows["ewc (strength=20)"].values["final_average"].mean == 21 and rows["ewc (strength=20)"].seeds == (0, 2)


def test_the_same_settings_and_seed_twice_are_told_apart_by_folder():
    runs = [replace(matrix(strength=1.0), folder=folder) for folder in ("one", "two")]
    assert {row.method for row in compare(runs)} == {"zero-shot", "ewc (one)", "ewc (two)"}


def test_a_bound_that_was_trained_otherwise_is_no_reference():
    mine = matrix(epochs=2.0)
    assert metrics_with_references(mine, [matrix("direct", epochs=1.0)])["intransigence"] is None
    assert metrics_with_references(mine, [matrix("direct", epochs=2.0)])["intransigence"] is not None


def test_a_bound_in_progress_is_no_reference():
    mine, joint = run("s", "m"), run("s", "m", "joint")
    assert metrics_with_references(mine, [joint])["gap_to_joint"] is not None
    begun = replace(joint, R=joint.R[:1])
    assert metrics_with_references(mine, [begun])["gap_to_joint"] is None, "its row 0 is the base model"


def test_a_curve_has_a_point_per_value_with_mean_and_deviation_over_seeds():
    finals = {(1.0, 100): 40.0, (1.0, 101): 50.0, (9.0, 100): 60.0, (9.0, 101): 44.0}
    runs = [matrix(seed=s, strength=v, final=f) for (v, s), f in finals.items()] + [matrix("sequential")]
    (curve,) = curves(runs, "ewc.strength")
    assert [(p.value, p.seeds) for p in curve.points] == [(1.0, (100, 101)), (9.0, (100, 101))]
    for point in curve.points:
        expected = [f for (v, _), f in finals.items() if v == point.value]
        assert point.spreads["final_average"].mean == pytest.approx(statistics.mean(expected))
        assert point.spreads["final_average"].deviation == pytest.approx(statistics.stdev(expected))
    assert curve.best is curve.points[1] and curve.method == "ewc"


def test_other_varied_settings_make_other_curves():
    runs = [matrix(strength=v, epochs=e) for v in (1.0, 2.0) for e in (1.0, 3.0)]
    assert [curve.method for curve in curves(runs, "ewc.strength")] == ["ewc (train.epochs=1)", "ewc (train.epochs=3)"]
    assert [len(curve.points) for curve in curves(runs, "train.epochs")] == [2, 2]


def test_of_equal_values_the_first_is_chosen_and_none_while_a_seed_is_missing():
    (curve,) = curves([matrix(strength=v, final=50.0) for v in (3.0, 1.0)], "ewc.strength")
    assert curve.best.value == 3.0
    (curve,) = curves([matrix(strength=v) for v in (1.0, 2.0)] + [matrix(strength=2.0, seed=101)], "ewc.strength")
    assert curve.best is None and "no best yet" in str(rich_curve(curve).renderables[-1])
    assert choose(curve.points[:1]) is None
