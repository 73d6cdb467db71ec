"""Every metric against numbers worked out by hand, and matrices that must be refused."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matrices import matrix

from evertune.metrics.matrix_files import read_matrix
from evertune.metrics.metrics import REFERENCE_METRICS, formulas, metrics_of
from evertune.utils.errors import UserError

# Rows after task 1..3 of the example in the literature's quarrel about "forgetting"; row 0 is all zero.
R = [[0, 0, 0], [80, 5, 10], [60, 70, 12], [75, 72, 65]]


def test_the_example_by_hand():
    got = metrics_of(R, direct=[85, 75, 60], joint_average=80.0)
    assert got["final_average"] == pytest.approx((75 + 72 + 65) / 3)
    assert got["mean_average"] == pytest.approx((80 + (60 + 70) / 2 + (75 + 72 + 65) / 3) / 3)
    assert got["learning_accuracy"] == pytest.approx((80 + 70 + 65) / 3)
    assert got["bwt"] == pytest.approx(-1.5)
    assert got["forgetting"] == pytest.approx(1.5)
    # task 1: min over t of 75-80, 75-60, 0 = -5; task 2: min(72-70, 0) = 0; task 3: 0
    assert got["bwt_paper"] == pytest.approx(-5 / 3)
    assert got["forward_transfer"] == pytest.approx((5 + 12) / 2)
    assert got["intransigence"] == pytest.approx(((85 - 80) + (75 - 70) + (60 - 65)) / 3)
    assert got["relative_average"] == pytest.approx((75 / 85 + 72 / 75 + 65 / 60) / 3)
    assert got["gap_to_joint"] == pytest.approx(80 - 212 / 3)
    assert got["zero_shot"] == 0


# One task is known before, then two are learned: rows 0..2, the known task's column first.
WITH_KNOWN = [[60, 5, 10], [65, 80, 20], [55, 70, 90]]


def test_one_known_task_by_hand():
    got = metrics_of(WITH_KNOWN, known=1, direct=[None, 85, 88], joint_average=75.0)
    assert got["final_average"] == pytest.approx((55 + 70 + 90) / 3)
    assert got["mean_average"] == pytest.approx(((65 + 80) / 2 + (55 + 70 + 90) / 3) / 2)
    assert got["learning_accuracy"] == pytest.approx((80 + 90) / 2), "of the new tasks"
    assert got["bwt"] == pytest.approx(((55 - 60) + (70 - 80)) / 2)
    # known: min(55-60, 55-65, 0) = -10; first: min(70-80, 0) = -10; second: 0
    assert got["bwt_paper"] == pytest.approx(-20 / 3)
    # known: max(60, 65) - 55; first: 80 - 70; the last had no time
    assert got["forgetting"] == pytest.approx((10 + 10) / 2)
    assert got["forward_transfer"] == pytest.approx(20 - 10), "of the second new task"
    assert got["zero_shot"] == pytest.approx((5 + 10) / 2), "of the new tasks"
    assert got["intransigence"] == pytest.approx(((85 - 80) + (88 - 90)) / 2)
    assert got["relative_average"] == pytest.approx((70 / 85 + 90 / 88) / 2), "where there is a reference"
    assert got["gap_to_joint"] == pytest.approx(75 - 215 / 3)


def test_with_one_new_task_the_known_ones_can_be_forgotten():
    got = metrics_of([[60, 50, 0], [40, 45, 90]], known=2)
    assert got["forgetting"] == pytest.approx((20 + 5) / 2) and got["bwt"] == pytest.approx(-12.5)
    assert got["learning_accuracy"] == 90 and got["forward_transfer"] is None


def test_joint_with_known_tasks_has_no_stage_metrics():
    got = metrics_of([[60, 5, 10], [62, 80, 90]], known=1)
    assert got["zero_shot"] == 7.5 and got["final_average"] == pytest.approx(232 / 3)
    assert got["learning_accuracy"] is None and got["forgetting"] is None


def test_a_missing_reference_of_a_new_task_gives_no_intransigence():
    got = metrics_of(WITH_KNOWN, known=1, direct=[50, None, 88])
    assert got["intransigence"] is None
    assert got["relative_average"] == pytest.approx((55 / 50 + 90 / 88) / 2)


def test_as_many_known_tasks_as_columns_are_refused():
    with pytest.raises(UserError, match="3 known tasks in a matrix of 3 columns"):
        metrics_of(R, known=3)


def test_formulas_without_known_tasks_stay_as_they_are():
    assert formulas()["forgetting"] == "1/(T-1) Σ_{i<T} (max_{i≤l<T} R[l,i] - R[T,i])"
    assert (
        set(formulas(known=2)) == set(formulas())
        and formulas(known=2)["learning_accuracy"] != formulas()["learning_accuracy"]
    )


def test_the_papers_transfer_is_measured_from_the_base_model_too():
    # task 1: min(65-70, 65-60, 0) = -5; task 2: min(80-5, 80-4, 0) = 0
    assert metrics_of([[70, 5], [60, 4], [65, 80]])["bwt_paper"] == -2.5
    assert metrics_of([[None, None], [60, 4], [65, 80]])["bwt_paper"] is None, "without the base model's row"


def test_what_needs_a_score_that_was_not_measured_is_none():
    rows = [[None] * 3, [80, None, None], [60, 70, None], [75, 72, 65]]
    got, whole = metrics_of(rows, direct=[85, 75, 60], joint_average=80.0), metrics_of(R, direct=[85, 75, 60])
    needs_more = {"bwt_paper", "forward_transfer", "zero_shot", "gap_to_joint"}
    assert {name: got[name] for name in got.keys() - needs_more} == {n: whole[n] for n in whole.keys() - needs_more}
    assert got["gap_to_joint"] == 80 - got["final_average"]
    assert all(got[name] is None for name in needs_more - {"gap_to_joint"})
    missing = metrics_of([*R[:2], [None, 70, 12], R[3]])
    assert missing["forgetting"] is None and missing["bwt"] == -1.5, "the highest may be the one that is missing"
    assert metrics_of([*R[:3], [75, 72, None]], joint_average=80.0)["gap_to_joint"] is None


def test_forgetting_is_not_clipped():
    better_later = [[0, 0], [50, 0], [60, 40]]
    assert metrics_of(better_later)["forgetting"] == pytest.approx(-10)


def test_one_task_has_no_forgetting():
    got = metrics_of([[1.0], [90.0]])
    assert got["learning_accuracy"] == 90
    assert got["forgetting"] is None and got["bwt"] is None and got["forward_transfer"] is None


def test_the_single_stage_of_joint_has_no_stage_metrics():
    got = metrics_of([[0, 0, 0], [70, 80, 90]])
    assert got["final_average"] == 80
    assert got["learning_accuracy"] is None and got["forgetting"] is None and got["intransigence"] is None


def test_a_direct_score_of_zero_gives_no_relative_average():
    assert metrics_of(R, direct=[0, 75, 60])["relative_average"] is None


def test_every_metric_has_a_formula():
    assert set(metrics_of(R)) == set(formulas())


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ([], "row 0"),
        ([[1.0, 2.0]], "row 0"),
        ([[0, 0], [1]], "row 1"),
        ([[0, 0], [1, math.nan]], "row 1, task 1"),
        ([[0, 0], [1, "x"]], "row 1, task 1"),
        ([[0, 0], [1, True]], "row 1, task 1"),
    ],
)
def test_what_is_no_matrix_is_refused(given, complaint):
    with pytest.raises(UserError, match=complaint):
        metrics_of(given)


def test_a_reference_of_another_length_is_refused():
    with pytest.raises(UserError, match="2 scores for 3 tasks"):
        metrics_of(R, direct=[1, 2])


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


@pytest.mark.parametrize("known", [1, ["old"]])
def test_a_matrix_file_may_say_what_was_known(tmp_path, known):
    path = tmp_path / "m.json"
    path.write_text(json.dumps({"R": WITH_KNOWN, "known": known, "direct": [None, 85, 88]}))
    content = read_matrix(path)
    assert (content.known, content.direct) == (1, [None, 85, 88])


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("m.json", '{"R": [[0, 0], [1, 1]], "known": "one"}', "'known' is 'one'"),
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


RESULTS = Path(__file__).parents[3] / "docs" / "results"


@pytest.mark.parametrize("path", sorted(RESULTS.rglob("*.json")), ids=lambda path: path.relative_to(RESULTS).as_posix())
def test_committed_metrics_follow_from_their_matrix(path):
    content = json.loads(path.read_text(encoding="utf-8"))
    runs = content.get("runs", [content]) if isinstance(content, dict) else content
    for run in (run for run in runs if "R" in run and run.get("metrics")):
        computed = metrics_of(run["R"], known=len(run.get("known") or []))
        for name in computed.keys() - REFERENCE_METRICS.keys():
            assert run["metrics"][name] == pytest.approx(computed[name], abs=1e-9), (run["method"], run["seed"], name)


ROWS = [[0, 5.0, None], [80.0, 10, None], [60.0, 75.0, 2.5], [50.0, 70.0, 90.0]]
"""As a person types it: ints among floats, and two cells that were not measured."""


def frame_of(rows, **more):
    return pd.DataFrame(rows, columns=["a", "b", "c"], **more)


GIVEN = {
    "tuples": lambda: tuple(map(tuple, ROWS)),
    "numpy": lambda: np.array(ROWS, dtype=float),
    "float32": lambda: np.array(ROWS, dtype=np.float32),
    "rows of numpy": lambda: [np.array(row, dtype=float) for row in ROWS],
    "numpy scalars": lambda: [[None if v is None else np.float32(v) for v in row] for row in ROWS],
    "torch": lambda: torch.tensor(np.array(ROWS, dtype=float)),
    "frame": lambda: frame_of(ROWS, index=["base", "a", "b", "c"]),
    "frame of objects": lambda: frame_of(ROWS, dtype=object),
    "frame with NA": lambda: frame_of(ROWS).convert_dtypes(),
}


@pytest.mark.parametrize("kind", GIVEN)
def test_lists_arrays_and_frames_have_the_same_metrics(kind):
    wanted = metrics_of(ROWS, direct=[80.0, 80.0, 90.0])
    assert wanted["bwt"] == pytest.approx((50 - 80 + 70 - 75) / 2) and wanted["zero_shot"] is None
    for direct in ([80.0, 80.0, 90.0], np.array([80.0, 80.0, 90.0]), pd.Series([80, 80, 90])):
        found = metrics_of(GIVEN[kind](), direct=direct)
        assert found == pytest.approx(wanted)
        json.dumps(found)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (np.zeros(3), "ndarray of 1 dimensions: expected rows of scores"),
        (np.zeros((2, 2, 2)), "3 dimensions"),
        (np.array([[0, np.inf], [1, 2], [3, 4]]), "row 0, task 1 of the matrix is inf"),
        (np.array([[True, False], [True, True]]), "is True: not a finite number"),
        (frame_of(ROWS, index=["a", "b", "c", "base"]), "row 'base' of the matrix is not its first"),
        (pd.DataFrame({"task": ["a", "b"], "score": [1, 2]}), "'task' of the matrix|is 'a': not a finite number"),
        (matrix(), "the matrix is a Matrix: pass its R"),
        ("0,1", "the matrix is a str"),
        ([[0.0, math.nan], [1.0, 2.0]], "is nan: not a finite number; None stands for a score that was not measured"),
    ],
)
def test_what_is_no_array_or_frame_of_scores_is_refused(given, complaint):
    with pytest.raises(UserError, match=complaint):
        metrics_of(given)
