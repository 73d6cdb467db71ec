"""The leaderboard as one HTML file that sorts and filters without a script: radio buttons, check boxes and CSS."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from evertune.experiments.leaderboard.board import LOWER_IS_BETTER, Benchmark, Board, Line
from evertune.experiments.leaderboard.pareto import pareto_plot
from evertune.experiments.leaderboard.text import (
    EXPLANATIONS,
    INTERVALS,
    NOT_RECORDED,
    TITLES,
    columns_of,
    interval_of,
    missing_note,
    properties,
    shown,
)
from evertune.reporting.page import environment
from evertune.utils.config_io import value_text
from evertune.utils.files import write_atomically

LAST = 10_000
"""The place of a line without a value; references stand behind."""
FILTERS = {"samples": "without stored samples", "ids": "without task ids at test time"}


@dataclass(frozen=True, slots=True)
class View:
    """A plot, and the classes that say with which filters it is seen."""

    classes: str
    svg: Markup


def write_page(board: Board, out: Path) -> Path:
    """Write the page about `board` to `out` and return `out`."""
    page = (
        environment(Path(__file__).parent)
        .get_template("leaderboard.html.j2")
        .render(
            board=board,
            benchmarks=[_benchmark(benchmark) for benchmark in board.benchmarks],
            columns=list(TITLES),
            titles=TITLES,
            explanations=EXPLANATIONS,
            filters=FILTERS,
            notes=[*board.notes, INTERVALS],
            lower=LOWER_IS_BETTER,
        )
    )
    write_atomically(out, page.encode(errors="replace"))
    return out


def _benchmark(benchmark: Benchmark) -> dict[str, Any]:
    columns = columns_of(benchmark)
    return {
        "title": benchmark.title,
        "about": _about(benchmark),
        "columns": columns,
        "lines": [_line(line, benchmark, columns) for line in benchmark.lines],
        "notes": [note for note in (*benchmark.notes, missing_note(benchmark)) if note],
        "views": list(_views(benchmark)),
        "origins": [_origin(line) for line in benchmark.lines if line.files],
    }


def _about(benchmark: Benchmark) -> str:
    count, known = len(benchmark.tasks), len(benchmark.known)
    tasks = f"{count} task{'s' if count != 1 else ''}: {', '.join(benchmark.tasks)}."
    return f"{tasks} Known before: {', '.join(benchmark.known)}." if known else tasks


def _line(line: Line, benchmark: Benchmark, columns: Sequence[str]) -> dict[str, Any]:
    cells = [_cell(line, name) for name in columns]
    name, _, variant = line.method.partition(" (")
    order = {name: _order(line, name, benchmark.lines) for name in ("method", "seeds", *columns)}
    return {
        "line": line,
        "name": name,
        "variant": variant.removesuffix(")"),
        "cells": cells,
        "classes": " ".join(_classes(line)),
        "style": "; ".join(f"--{name}: {place}" for name, place in order.items()),
        "tags": properties(line),
    }


def _cell(line: Line, name: str) -> dict[str, Any]:
    """A value, with its interval or what stands beside it in a smaller line below."""
    text, _, more = shown(line, name).partition(" + ")
    below = interval_of(line, name, between=" to ") if name == "final_average" else more and f"+ {more}"
    return {"name": name, "text": text, "below": below, "missing": text == NOT_RECORDED}


def _classes(line: Line) -> Iterator[str]:
    """What hides a line: a property that it has, or may have where its method is not known."""
    if line.reference:
        yield "bound"
        return
    yield from ["has-samples"] * (line.stores_samples is not False)
    yield from ["has-ids"] * (line.needs_task_id is not False)


def _order(line: Line, name: str, lines: Sequence[Line]) -> int:
    """The place of a line when the table is sorted by a column, best first; as it is where values are equal."""
    if line.reference:
        return LAST + lines.index(line)
    if name == "method":
        return sorted(one.method for one in lines if not one.reference).index(line.method)
    sign = 1 if name in LOWER_IS_BETTER else -1
    keys = {id(one): _key(one, name, sign) for one in lines if not one.reference}
    own = keys[id(line)]
    return LAST - 1 if own is None else sum(key is not None and key < own for key in keys.values())


def _key(line: Line, name: str, sign: int) -> float | None:
    value = float(len(line.seeds)) if name == "seeds" else line.value(name)
    return None if value is None else sign * value


def _views(benchmark: Benchmark) -> Iterator[View]:
    """The plot for each combination of filters; the front is another one in each."""
    ranked = [line for line in benchmark.lines if not line.reference]
    for samples, ids in ((False, False), (True, False), (False, True), (True, True)):
        kept = [
            line
            for line in ranked
            if not (samples and line.stores_samples is not False) and not (ids and line.needs_task_id is not False)
        ]
        words = [FILTERS["samples"]] * samples + [FILTERS["ids"]] * ids
        label = ", ".join([f"Final average over stored bytes per task on {benchmark.title}", *words])
        if svg := pareto_plot(kept, looks=ranked, label=label):
            yield View(f"view samples-{int(samples)} ids-{int(ids)}", Markup(svg))


def _origin(line: Line) -> dict[str, Any]:
    made = {key: value[:16] for key, value in line.made_with.items()}
    return {
        "method": line.method,
        "seeds": ", ".join(map(str, line.seeds)),
        "settings": ", ".join(f"{key}={value_text(value)}" for key, value in line.settings.items()),
        "made_with": ", ".join(f"{key} {value}" for key, value in made.items()) or NOT_RECORDED,
        "held_out": f"seeds {', '.join(map(str, line.held_out_seeds))}" if line.held_out_seeds else ABSENT_TRIALS,
        "files": ", ".join(line.files),
    }


ABSENT_TRIALS = "no such run in these files"
