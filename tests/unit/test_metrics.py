"""Every metric against numbers worked out by hand, and matrices that must be refused."""

from __future__ import annotations

import json
import math

import pytest

from evertune.errors import UserError
from evertune.scoring.matrix_files import read_matrix
from evertune.scoring.metrics import formulas, metrics_of, standard_error

# Rows after task 1..3 of the example in the literature's quarrel about "forgetting"; row 0 is all zero.
R = [[0, 0, 0], [80, 5, 10], [60, 70, 12], [75, 72, 65]]


def test_the_example_by_hand():
    got = metrics_of(R, direct=[85, 75, 60], joint_average=80.0)
    assert got["final_average"] == pytest.approx((75 + 72 + 65) / 3)
    assert got["mean_average"] == pytest.approx((80 + (60 + 70) / 2 + (75 + 72 + 65) / 3) / 3)
    assert got["learning"] == pytest.approx((80 + 70 + 65) / 3)
    assert got["bwt"] == pytest.approx(-1.5)
    assert got["forgetting"] == pytest.approx(1.5)
    # task 1: min over t of 75-80, 75-60, 0 = -5; task 2: min(72-70, 0) = 0; task 3: 0
    assert got["bwt_paper"] == pytest.approx(-5 / 3)
    assert got["forward_transfer"] == pytest.approx((5 + 12) / 2)
    assert got["intransigence"] == pytest.approx(((85 - 80) + (75 - 70) + (60 - 65)) / 3)
    assert got["relative_average"] == pytest.approx((75 / 85 + 72 / 75 + 65 / 60) / 3)
    assert got["gap_to_joint"] == pytest.approx(80 - 212 / 3)
    assert got["zero_shot"] == 0


def test_forgetting_is_not_clipped():
    better_later = [[0, 0], [50, 0], [60, 40]]
    assert metrics_of(better_later)["forgetting"] == pytest.approx(-10)


def test_one_task_has_no_forgetting():
    got = metrics_of([[1.0], [90.0]])
    assert got["learning"] == 90
    assert got["forgetting"] is None and got["bwt"] is None and got["forward_transfer"] is None


def test_the_single_stage_of_joint_has_no_stage_metrics():
    got = metrics_of([[0, 0, 0], [70, 80, 90]])
    assert got["final_average"] == 80
    assert got["learning"] is None and got["forgetting"] is None and got["intransigence"] is None


def test_a_direct_score_of_zero_gives_no_relative_average():
    assert metrics_of(R, direct=[0, 75, 60])["relative_average"] is None


def test_every_metric_has_a_formula():
    assert set(metrics_of(R)) == set(formulas())


@pytest.mark.parametrize(
    ("matrix", "complaint"),
    [
        ([], "row 0"),
        ([[1.0, 2.0]], "row 0"),
        ([[0, 0], [1]], "row 1"),
        ([[0, 0], [1, math.nan]], "row 1, task 1"),
        ([[0, 0], [1, "x"]], "row 1, task 1"),
        ([[0, 0], [1, True]], "row 1, task 1"),
    ],
)
def test_what_is_no_matrix_is_refused(matrix, complaint):
    with pytest.raises(UserError, match=complaint):
        metrics_of(matrix)


def test_a_reference_of_another_length_is_refused():
    with pytest.raises(UserError, match="2 scores for 3 tasks"):
        metrics_of(R, direct=[1, 2])


def test_standard_error():
    assert standard_error(50, 100) == pytest.approx(5)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("m.json", json.dumps(R)),
        ("m.json", json.dumps({"R": R, "model": "x"})),
        ("m.csv", "0,0,0\n80,5,10\n60,70,12\n75,72,65\n"),
        ("m.csv", "stage,a,b,c\nnone,0,0,0\na,80,5,10\nb,60,70,12\nc,75,72,65\n"),
    ],
)
def test_matrix_files(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    assert metrics_of(read_matrix(path).R) == metrics_of(R)


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("m.json", "{", "m.json:1"),
        ("m.json", '{"x": 1}', "expected rows"),
        ("m.csv", "0,0\n1,oops\n", "m.csv:2"),
        ("m.csv", "", "no rows"),
    ],
)
def test_bad_matrix_files(tmp_path, name, text, complaint):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(UserError, match=complaint):
        read_matrix(path)
