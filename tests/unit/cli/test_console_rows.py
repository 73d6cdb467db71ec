"""The rows of R as they come: nine tasks stand in a terminal of 80 columns without a break."""

from __future__ import annotations

import io
import threading
from dataclasses import replace

import pytest
from rich.console import Console

from evertune.cli.console import TerminalCallback
from evertune.cli.pairs_view import square_table
from evertune.cli.plan_view import show_plans
from evertune.cli.service_view import _table
from evertune.reporting.blocks import BlockTable
from evertune.runs.plan.outline import FeaturePlan, StagePlan
from evertune.runs.plan.planner import Plan
from evertune.runs.runner import few_steps
from evertune.service.regression_report import Change, RegressionReport
from evertune.utils.terminal import Terminal

TASKS = ["okvqa", "aokvqa", "gqa", "textcaps", "vqav2", "ocrvqa", "flickr30k", "vizwiz", "textvqa"]


def rows_of(console, tasks=TASKS):
    callback = TerminalCallback(console)
    callback.on_run_begin("sequential on pocket-b1, seed 0", training=[1], answers=1)
    callback.on_row_end(0, "base", [100.0] * len(tasks), tasks)
    callback.on_row_end(7, tasks[-1], [99.5] * len(tasks), tasks)
    return console.file.getvalue().splitlines()[2:]


def test_nine_tasks_in_eighty_columns():
    """Titles were cut to `text…` and numbers to `100…`."""
    legend, *rest, header, base, row = rows_of(Console(file=io.StringIO(), width=80))
    text = " ".join([legend, *rest])
    assert all(f"{number} {task}" in text for number, task in enumerate(TASKS, start=1))
    assert len(header) == len(base) == len(row) <= 80
    assert header.split() == ["after", *map(str, range(1, 10))]
    assert row.split() == ["7", "textvqa", *["99.5"] * 9]


def test_titles_are_names_where_they_fit_and_break_at_hyphens_first():
    header, base, _ = rows_of(Console(file=io.StringIO(), width=140))
    assert header.split() == ["after", *TASKS] and len(header) == len(base)
    first, second, _, _ = rows_of(Console(file=io.StringIO(), width=50), ["shapes-yesno", "digits", "shapes-open"])
    assert first.split() == ["shapes-", "shapes-"] and second.split() == ["after", "yesno", "digits", "open"]


def test_many_tasks_lose_a_decimal_before_a_row_breaks():
    *_, row = rows_of(Console(file=io.StringIO(), width=80), [f"task-{n}" for n in range(12)])
    assert row.split() == ["7", "task-11", *["100"] * 12] and len(row) <= 80


def test_a_row_of_thirty_tasks_takes_lines_that_fit():
    """The terminal broke it inside a number."""
    lines = rows_of(Console(file=io.StringIO(), width=80), [f"task-{n}" for n in range(30)])
    assert max(map(len, lines)) <= 80
    assert lines[-3].split() == ["7", "task-29", *["100"] * 13] and lines[-1].split() == ["100"] * 4
    assert lines[-1].startswith(" " * lines[-3].index("100"))


def test_the_legend_breaks_between_its_tasks():
    """It broke inside of `flickr30k`."""
    legend, more, *_ = rows_of(Console(file=io.StringIO(), width=80))
    assert legend.endswith("6 ocrvqa") and more.startswith("7 flickr30k · 8 vizwiz") and len(legend) <= 80


def test_a_pipe_gets_whole_lines_without_blanks_at_their_end(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    console = Terminal(file=io.StringIO())
    header, *_ = rows_of(console)
    assert header.split() == ["after", *TASKS] and len(header) > 80
    console.print(BlockTable(["method", "a long title", "b"], [["ewc", "35.7 ± 2.0", "1"]] * 2))
    console.print("x" * 200)
    lines = console.file.getvalue().splitlines()
    assert lines[-1] == "x" * 200 and lines[-2].split() == ["ewc", "35.7", "±", "2.0", "1"]
    assert not [line for line in lines if line != line.rstrip()]


@pytest.mark.parametrize("width", [40, 80, 140])
def test_a_comparison_cuts_no_number_and_breaks_no_cell(width):
    header = ["method", "seeds", "final average", "learning accuracy", "forgetting", "intransigence", "gap to joint"]
    rows = [[name, "3", *["35.7 ± 2.0"] * 5] for name in ("sequential", "replay+ewc")]
    out = io.StringIO()
    Console(file=out, width=width).print(BlockTable(header, rows, names=1))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= width and "…" not in out.getvalue()
    assert sum(line.count("35.7 ± 2.0") for line in lines) == 10
    blocks = [line for line in lines if line.startswith("replay+ewc")]
    assert len(blocks) == {40: 3, 80: 1, 140: 1}[width]


def test_names_are_whole_where_they_take_up_to_half_of_the_terminal():
    """`tiny-aligned` was broken into `tiny-aligne` and `d`."""
    header = ["stream", "model", "method", "seeds", "final average", "learning accuracy", "forgetting", "training"]
    out = io.StringIO()
    rows = [["pocket-b1", "tiny-aligned", "sequential", "1", "67.8", "51.0", "3.3", "2.5 s"]]
    Console(file=out, width=80).print(BlockTable(header, rows, names=3))
    lines = [line for line in out.getvalue().splitlines() if line.startswith("pocket-b1")]
    assert [line.split()[:3] for line in lines] == [["pocket-b1", "tiny-aligned", "sequential"]] * 2


@pytest.mark.parametrize("width", [80, 140])
def test_bars_have_fixed_widths(width):
    """A bar jumped with the length of a task's name and of its counts."""
    console = Terminal(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    places = set()
    with TerminalCallback(console) as callback:
        for what, total in (("images of a", 5), ("images of a task with a long name", 123_456)):
            callback.fetching(what, 1, total)
            rendered = console.render_lines(callback._progress.get_renderable(), pad=False)
            lines = ["".join(segment.text for segment in line) for line in rendered]
            places |= {(line.index("━"), len(line.rstrip()) <= 80) for line in lines if "━" in line}
    assert len(places) == 1 and next(iter(places))[1], "one place for the bar; 23 or 24 by the version of rich"


def test_counts_of_half_a_million_images_are_whole():
    """`120064/500…` was shown while the images of a large task were encoded."""
    console = Terminal(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    with TerminalCallback(console) as callback:
        callback.on_run_begin("sequential on coin", training=[500_000], answers=1)
        callback.on_encode(120_064, 500_000)
        rendered = console.render_lines(callback._progress.get_renderable(), pad=False)
    text = "\n".join("".join(segment.text for segment in line) for line in rendered)
    assert "120064/500000 encoding images" in text


def test_a_warning_is_said_once_and_the_same_one_of_several_tasks_together():
    out = io.StringIO()
    callback = TerminalCallback(Console(file=out, width=200))
    (warning,) = few_steps([("a", 1, 8), ("b", 1, 8), ("c", 400, 8)])
    for _ in range(2):
        callback.on_warning(warning)
    assert out.getvalue().startswith("note  a, b: 1 optimizer step on 8 samples each, too few")
    assert len(out.getvalue().splitlines()) == 1


def test_a_plan_says_seconds_and_stages_that_are_too_short():
    """A run warns of them; a plan of 29 samples said `1 step`, `0:00 training` and nothing else."""
    out = io.StringIO()
    stages = [StagePlan("what", 29, 1, 7), StagePlan("long", 2900, 91, 700)]
    made = replace(planned("eproj"), stages=stages, train_seconds=0.24, evaluate_seconds=95.0, encode_seconds=75.0)
    show_plans(Console(file=out, width=200), [made])
    text = out.getvalue()
    assert "features=disk (900 images x 1.0 MB = 0.9 GB); encoding takes 1 min 15 s where the cache has none" in text
    assert ["eproj", "9", "(90", "%)", "92", "0.2", "s", "1", "min", "35", "s", "80", "bytes"] in map(
        str.split, text.splitlines()
    )
    assert "float32, 1 thread, 1.0 GB of memory" in text
    assert "note  what: 1 optimizer step on 29 samples, too few to learn much from: raise train.min_steps" in text
    assert "long: " not in text


def test_plans_of_methods_with_the_same_stages_share_one_table():
    """`plan` printed the same table of stages for each method."""
    out = io.StringIO()
    plans = [planned("sequential"), planned("replay"), planned("joint", stages=1)]
    show_plans(Console(file=out, width=80), plans)
    lines = out.getvalue().splitlines()
    assert next(line for line in lines if line.startswith("sequential")).strip() == "sequential, replay"
    assert [line.split() for line in lines if line.startswith("task-0")] == [["task-0", "400", "100", "70"]] * 2
    assert ["total", "800", "200", "140"] in map(str.split, lines)
    assert ["total", "500", "4", "min", "0", "s", "6", "min", "0", "s", "200", "bytes"] in map(str.split, lines)
    assert max(map(len, lines)) <= 80


def planned(method, stages=2):
    made = [StagePlan(f"task-{n}", 400, 100, 70) for n in range(stages)]
    return Plan(
        method=method,
        stages=made,
        trained_parameters=9,
        all_parameters=10,
        train_seconds=80.0,
        evaluate_seconds=120.0,
        encode_seconds=0.0,
        peak_memory_bytes=10**9,
        dtype="float32",
        threads=1,
        answers=0,
        stage_bytes=40,
        stages_kept=stages,
        features=FeaturePlan("disk", 900, 10**6, 900, 9 * 10**8, "features=disk (900 images x 1.0 MB = 0.9 GB)"),
    )


@pytest.mark.parametrize("since", ["before", "best ever"])
def test_a_verdict_of_few_questions_in_eighty_columns(since):
    """A row broke inside its last word, `too few questions`."""
    out = io.StringIO()
    wide = (-100.0, 100.0)
    new = Change("july", "exact", 120, 100.0, 100.0, 100.0, wide, new=True)
    verdict = RegressionReport(new, (Change("scienceqa", "exact", 12345, 100.0, 100.0, 100.0, wide),))
    Console(file=out, width=80).print(_table(verdict, since=since))
    header, _, *rows = out.getvalue().splitlines()
    assert header.split() == ["task", "questions", *since.split(), "now", "change", "95", "%", "interval"]
    assert [row.split()[0] for row in rows] == ["scienceqa", "july"], "one line per task"
    assert rows[0].rstrip().endswith("−100.0 to +100.0  too few") and rows[1].rstrip().endswith("not learned")


def test_only_the_name_of_a_task_is_ever_broken():
    out = io.StringIO()
    change = Change("a-task-with-a-very-long-name", "exact", 12, 50.0, 60.0, 60.0, (-20.0, 40.0))
    Console(file=out, width=80).print(_table(RegressionReport(None, (change,)), since="best ever"))
    _, _, first, *rest = out.getvalue().splitlines()
    assert first.split()[1:] == ["12", "50.0", "60.0", "+10.0", "−20.0", "to", "+40.0", "too", "few"]
    assert first.split()[0] + "".join(rest).replace(" ", "") == change.task


def test_a_bar_without_a_total_shows_no_count():
    """`loading data and model ... 0/?` was the first line of every command."""
    console = Console(file=io.StringIO(), width=80, force_terminal=True)
    with TerminalCallback(console):
        pass
    shown = console.file.getvalue()
    assert "loading data and model" in shown and "0/?" not in shown


def test_no_thread_draws_bars_while_a_line_is_printed():
    """Two of the three bars of a run stayed on the screen above the rows of the next one."""
    console = Terminal(file=io.StringIO(), width=80, force_terminal=True)
    before = threading.active_count()
    with TerminalCallback(console) as callback:
        assert threading.active_count() == before
        callback.on_run_begin("sequential on coin", training=[4], answers=1)
        callback._drawn = 0.0
        callback.on_encode(3, 4)
    assert "3/4" in console.file.getvalue(), "an update draws them"


def test_a_name_takes_what_the_numbers_leave_and_keeps_its_number():
    """A long name was folded at half of the terminal, and `3` stood on a line of its own."""
    out = io.StringIO()
    tasks = ["july", "a-very-long-name-of-a-task-that-hardly-fits-here"]
    console = Console(file=out, width=80)
    console.print(square_table(tasks, [[None, 0.5], [0.5, None]], digits=2, width=80))
    assert [line.split() for line in out.getvalue().splitlines()][2:] == [
        *(["1", "july", "·", "0.50"], ["2", tasks[1], "0.50", "·"]),
    ]
