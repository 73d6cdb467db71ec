"""The rows of R as they come: nine tasks stand in a terminal of 80 columns without a break."""

from __future__ import annotations

import io

from rich.console import Console

from evertune.console import TerminalWatcher

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
