"""The rows of R as they come: nine tasks stand in a terminal of 80 columns without a break."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from evertune.cli.console import TerminalCallback, show_plan
from evertune.cli.service_view import _table
from evertune.runs.plan.planner import Plan, StagePlan
from evertune.service.regression_report import Change, RegressionReport

TASKS = ["okvqa", "aokvqa", "gqa", "textcaps", "vqav2", "ocrvqa", "flickr30k", "vizwiz", "textvqa"]


def test_nine_tasks_in_eighty_columns():
    out = io.StringIO()
    callback = TerminalCallback(Console(file=out, width=80))
    callback.on_run_begin("sequential on pocket-b1, seed 0", training=[1], answers=1)
    callback.on_row_end(0, "base", [100.0] * 9, TASKS)
    callback.on_row_end(7, "flickr30k", [99.5] * 9, TASKS)
    *_, header, untouched, row = out.getvalue().splitlines()
    assert header.split("  ")[-1].strip() == ", ".join(TASKS)
    assert len(untouched) == len(row) <= 80
    assert row.split() == ["7", "flickr30k", *["99.5"] * 9]


def test_a_plan_says_seconds_and_stages_that_are_too_short():
    """A run warns of them; a plan of 29 samples said `1 step`, `0:00 training` and nothing else."""
    out = io.StringIO()
    stages = [StagePlan("what", 29, 1, 7), StagePlan("long", 2900, 91, 700)]
    made = Plan("eproj", stages, 9, 10, 0.24, 95.0, 10**9, "float32", 1)
    show_plan(Console(file=out, width=200), made)
    text = out.getvalue()
    assert "about 0.2 s training and at most 1:35 answering" in text and "1 thread ·" in text
    assert "note  what: 1 optimizer step on 29 samples, too few to learn much from: set train.min_steps" in text
    assert "long: " not in text


@pytest.mark.parametrize("since", ["before", "best ever"])
def test_a_verdict_of_few_questions_in_eighty_columns(since):
    """A row broke inside its last word, `too few questions`."""
    out = io.StringIO()
    wide = (-100.0, 100.0)
    new = Change("july", "exact", 120, 100.0, 100.0, 100.0, wide, new=True)
    verdict = RegressionReport(new, (Change("scienceqa", "exact", 12345, 100.0, 100.0, 100.0, wide),))
    Console(file=out, width=80).print(_table(verdict, since=since))
    header, *rows = out.getvalue().splitlines()
    assert header.split() == ["task", "questions", *since.split(), "now", "change", "95", "%", "interval"]
    assert [row.split()[0] for row in rows] == ["scienceqa", "july"], "one line per task"
    assert rows[0].rstrip().endswith("-100.0 to +100.0  too few") and rows[1].rstrip().endswith("not learned")


def test_only_the_name_of_a_task_is_ever_broken():
    out = io.StringIO()
    change = Change("a-task-with-a-very-long-name", "exact", 12, 50.0, 60.0, 60.0, (-20.0, 40.0))
    Console(file=out, width=80).print(_table(RegressionReport(None, (change,)), since="best ever"))
    _, first, *rest = out.getvalue().splitlines()
    assert first.split()[1:] == ["12", "50.0", "60.0", "+10.0", "-20.0", "to", "+40.0", "too", "few"]
    assert first.split()[0] + "".join(rest).replace(" ", "") == change.task
