"""A leaderboard as text: the same numbers and words in the terminal, in Markdown and on the page."""

from __future__ import annotations

from collections.abc import Sequence

from evertune.experiments.leaderboard.board import COSTS, SCORES, Benchmark, Board, Line
from evertune.reporting.labels import METRIC_TITLES, duration, number, plain, signed
from evertune.reporting.tables import markdown_table, markdown_text
from evertune.utils.sizes import size

TITLES = {name: METRIC_TITLES[name] for name in SCORES} | {
    "trained_parameters": "trained parameters",
    "stored_per_task": "stored per task",
    "replayed": "replayed samples",
    "train_seconds": "training",
}
EXPLANATIONS = {
    "final_average": "Mean score over all tasks after the last one, points of 100, with Student's 95 % interval of the "
    "mean over seeds.",
    "forgetting": "How far each earlier task fell from its best score to the end. Lower is better.",
    "learning_accuracy": "Mean score of each task right after it was learned.",
    "held_out_change": "What abilities that no task trains gained or lost, from the base model to the end.",
    "trained_parameters": "Parameters that train in the last stage.",
    "stored_per_task": "Tensors that the method keeps after the last task, divided by the number of tasks. Bytes of "
    "kept samples are not among them: “+ samples” marks a method that keeps some.",
    "replayed": "Samples of earlier tasks that one epoch of all stages trains on, beyond the task's own.",
    "train_seconds": "Seconds of training, as the runs recorded them. Machines and their load differ between files.",
}
NOT_RECORDED = "not recorded"
ABSENT = "-"
INTERVALS = (
    "Intervals of two lines may overlap although one is better with every seed: evertune compare --paired compares two "
    "methods on the same questions"
)


def shown(line: Line, name: str) -> str:
    """A score or a cost without its interval."""
    value = line.value(name)
    if value is None:
        missing = name in COSTS or name == "held_out_change"
        return NOT_RECORDED if missing and not line.reference else ABSENT
    if name == "held_out_change":
        return signed(value, name)
    if name in SCORES:
        return number(name, value)
    if name == "train_seconds":
        return duration(value)
    if name == "stored_per_task":
        return (size(value) if value else "0") + (" + samples" if line.stores_samples else "")
    return f"{value:,.0f}"


def interval_of(line: Line, name: str, *, between: str) -> str:
    """Both ends of the interval of a score; empty without one."""
    score = line.scores.get(name)
    return between.join(plain(end, digits=1) for end in score.interval) if score and score.interval else ""


def columns_of(benchmark: Benchmark) -> list[str]:
    """The scores and costs that at least one line has."""
    return [name for name in (*SCORES, *COSTS) if any(line.value(name) is not None for line in benchmark.lines)]


def missing_note(benchmark: Benchmark) -> str:
    """Which columns are left out since no file records them; empty where there is none."""
    columns = columns_of(benchmark)
    missing = [TITLES[name] for name in (*SCORES, *COSTS) if name not in columns]
    return f"{NOT_RECORDED} in these files: {', '.join(missing)}" if missing else ""


def properties(line: Line) -> list[str]:
    """What a line is filtered by, in words."""
    found = ["stores samples"] if line.stores_samples else []
    return [*found, *(["task id given"] if line.needs_task_id else [])]


def marked_lines(benchmark: Benchmark) -> list[str]:
    """Properties and marks, each with the methods that have it: `stores samples: replay, replay+ewc`."""
    found: dict[str, list[str]] = {}
    for line in benchmark.lines:
        for word in (*properties(line), *line.marks):
            found.setdefault(word, []).append(line.method)
    return [f"{word}: {'; '.join(methods)}" for word, methods in found.items()]


def table_of(benchmark: Benchmark) -> tuple[list[str], list[list[str]]]:
    """Header and cells; the last column has properties and marks."""
    columns = columns_of(benchmark)
    header = ["", "method", "seeds", *(TITLES[name] for name in columns), "marks"]
    return header, [_cells(line, columns) for line in benchmark.lines]


def _cells(line: Line, columns: Sequence[str]) -> list[str]:
    cells = [_with_interval(line, name) for name in columns]
    rank = str(line.rank or ABSENT) if not line.reference else ""
    return [rank, line.method, str(len(line.seeds)), *cells, ", ".join([*properties(line), *line.marks])]


def _with_interval(line: Line, name: str) -> str:
    ends = interval_of(line, name, between=", ") if name == "final_average" else ""
    return shown(line, name) + (f" [{ends}]" if ends else "")


def as_markdown(board: Board, *, level: int = 2) -> str:
    """A heading of this level and a table per benchmark, with notes."""
    parts = []
    for benchmark in board.benchmarks:
        header, cells = table_of(benchmark)
        notes = [f"{note[:1].upper()}{note[1:]}." for note in (*benchmark.notes, missing_note(benchmark)) if note]
        table = markdown_table(header, cells, names=2, notes=notes)
        parts.append(f"{'#' * level} {markdown_text(benchmark.title)}\n\n{table}")
    parts += [f"{note[:1].upper()}{markdown_text(note[1:])}.\n" for note in (*board.notes, INTERVALS)]
    return "\n".join(parts)
