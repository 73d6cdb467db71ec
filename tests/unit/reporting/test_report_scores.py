"""The report under other scores than exact ones: marks by the task's rule, its own standard error, CIDEr above 100."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from report_runs import SEQUENTIAL, Page, make_run

from evertune.metrics.rules import rule_of
from evertune.reporting.examples import Thumbnails, examples_of, marks_of
from evertune.reporting.matrix import load_matrix
from evertune.reporting.page import write_report
from evertune.reporting.plots import average_curve


def with_cells(run: Path, **facts: Any) -> Path:
    """Change every cell of a run's matrix."""
    matrix = json.loads((run / "matrix.json").read_text())
    matrix["cells"] = [cell | facts for cell in matrix["cells"]]
    (run / "matrix.json").write_text(json.dumps(matrix))
    return run


def test_marks_go_by_the_rule_of_the_task() -> None:
    def marks(rule: str, *predictions: str, gold: list[str]) -> list[str]:
        return marks_of([{"answer": text, "gold": gold} for text in predictions], rule_of(rule))

    annotators = ["red"] * 2 + ["dark red"] * 8
    assert marks("vqa", "Dark red.", "red", "it is dark red", "blue", gold=annotators) == [
        "right",
        "right",  # 0.6
        "form",
        "wrong",
    ]
    assert marks("vqa", "red", gold=["red"] + ["blue"] * 9) == ["partly"]
    assert marks("exact", "red", "Red.", "blue", gold=["red"]) == ["right", "form", "wrong"]
    assert marks("option", "(b)", "b", "c", gold=["(b)"]) == ["right", "form", "wrong"]


@pytest.mark.slow
def test_captions_are_not_compared_letter_by_letter(tmp_path: Path) -> None:
    run = with_cells(make_run(tmp_path / "s", SEQUENTIAL, answer="The circle!"), score_rule="normalised")
    examples = examples_of(run, load_matrix(run), "shapes", Thumbnails())
    assert examples.rule == "normalised" and examples.forgotten == 0
    assert {row.after.mark for row in examples.rows} == {"right"}
    assert "the task's score (normalised)" in Page(write_report([run], tmp_path / "out.html")).text


def test_a_rule_that_nobody_knows_is_said(tmp_path: Path) -> None:
    run = with_cells(make_run(tmp_path / "s", SEQUENTIAL), score_rule="bleu")
    assert "unknown score 'bleu'" in Page(write_report([run], tmp_path / "out.html")).text


@pytest.mark.slow
def test_the_interval_of_a_score_stays_where_scores_are(tmp_path: Path) -> None:
    old = Page(write_report([make_run(tmp_path / "old", SEQUENTIAL)], tmp_path / "old.html")).text
    assert "50.2 to 69.1" in old, "100 answers, 60 points, Wilson"
    full = make_run(tmp_path / "full", [[0.0, 0.0], [100.0, 0.0], [100.0, 0.0]], tasks=["a", "b"])
    predictions = Page(write_report([full], tmp_path / "full.html")).text
    assert "96.3 to 100.0" in predictions and "0.0 to 3.7" in predictions, "not 100 and 0 for certain"
    run = with_cells(make_run(tmp_path / "new", SEQUENTIAL), score_rule="cider", standard_error=12.34)
    assert "35.8 to 84.2" in Page(write_report([run], tmp_path / "new.html")).text, "60 - 1.96 x 12.34"
    few = with_cells(make_run(tmp_path / "few", SEQUENTIAL), n=5, score_rule="vqa", standard_error=12.34)
    assert "too few questions" in Page(write_report([few], tmp_path / "few.html")).text
    whole = with_cells(make_run(tmp_path / "whole", SEQUENTIAL), score_rule="bleu-4", standard_error=None)
    assert " to 69.1" not in Page(write_report([whole], tmp_path / "whole.html")).text, "BLEU is no mean of answers"


def test_scores_above_100_stay_on_the_curve(tmp_path: Path) -> None:
    R = [[0.0, 0.0], [180.0, 0.0], [150.0, 120.0]]
    svg = average_curve([load_matrix(make_run(tmp_path / "s", R, tasks=["a", "b"]))])
    assert ">180<" in svg and ">135<" in svg and ">100<" not in svg
    assert ">75<" in average_curve([load_matrix(make_run(tmp_path / "t", SEQUENTIAL))])
