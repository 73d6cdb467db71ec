"""What a grid says on a terminal and in a log."""

from __future__ import annotations

import io
from pathlib import Path

from matrices import matrix
from rich.console import Console

from evertune.cli.grid_view import GridView, show_grid
from evertune.experiments.grid import JobResult, Running, Status, Summary
from evertune.experiments.grid.workers import Job
from evertune.reporting.curves import curves
from evertune.reporting.tables import compare

STATUS = Status(
    done=3,
    failed=1,
    running=[Running("toy-random/ewc,strength=1e6/s0", "row 2: 1 of 5 tasks answered", 75)],
    elsewhere=2,
    waiting=4,
    seconds_left=3700,
)


def output(*, terminal):
    console = Console(file=io.StringIO(), force_terminal=terminal, width=120, color_system=None)
    with GridView(console) as view:
        view.changed(STATUS)
        view.run_ended("toy-random/direct/s0", JobResult(Job("a", (), Path("a")), 61, None))
        view.run_ended("toy-random/[x]/s0", JobResult(Job("b", (), Path("b")), 5, "first line\nlast [line]"))
    return console.file.getvalue()


def test_a_terminal_shows_counts_time_left_and_what_each_worker_is_at():
    text = output(terminal=True)
    assert "3 finished · 1 running · 4 waiting · 1 failed · 2 in another process · about 1:01:40 left" in text
    assert "toy-random/ewc,strength=1e6/s0  row 2: 1 of 5 tasks answered  1:15" in text


def test_a_log_gets_one_line_per_run_and_the_end_of_a_failure():
    assert output(terminal=False).splitlines() == [
        "finished  toy-random/direct/s0  1:01",
        "failed    toy-random/[x]/s0",
        "          first line",
        "          last [line]",
    ]


def test_the_end_shows_the_table_the_curve_with_its_best_and_what_failed():
    runs = [matrix(strength=v, final=f) for v, f in ((1.0, 40.0), (1e6, 60.0))]
    rows, found = compare(runs), curves(runs, "ewc.strength")
    result = Summary("toy", Path("out/results.json"), ["a", "b"], {"c": "why"}, rows, found, ["be careful"])
    console = Console(file=io.StringIO(), width=140)
    show_grid(console, result)
    text = console.file.getvalue()
    (best,) = [line for line in text.splitlines() if line.rstrip().endswith("best")]
    assert best.split()[:2] == ["1e6", "1"]
    assert "ewc (strength=1)" in text and "note  be careful" in text and "1 failed: c" in text
