"""The rows of R as they come: nine tasks stand in a terminal of 80 columns without a break."""

from __future__ import annotations

import io

from rich.console import Console

from evertune.console import TerminalWatcher, show_plan
from evertune.planner import Plan, StagePlan

TASKS = ["okvqa", "aokvqa", "gqa", "textcaps", "vqav2", "ocrvqa", "flickr30k", "vizwiz", "textvqa"]


def test_nine_tasks_in_eighty_columns():
    out = io.StringIO()
    watcher = TerminalWatcher(Console(file=out, width=80))
    watcher.run_started("sequential on pocket-b1, seed 0", training=[1], answers=1)
    watcher.row_done(0, "untouched", [100.0] * 9, TASKS)
    watcher.row_done(7, "flickr30k", [99.5] * 9, TASKS)
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
