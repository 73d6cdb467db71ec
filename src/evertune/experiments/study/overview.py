"""One table for a whole study: the final average of every method on every stream, the main table of a paper."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from evertune.reporting.tables import BOUNDS, ZERO_SHOT, ComparisonRow, rank_of

FINAL = "final_average"


@dataclass(frozen=True, slots=True)
class Overview:
    """The compared (stream, model), and a line per method: its name, a value for each, and whether it is a bound."""

    places: tuple[tuple[str, str], ...]
    lines: tuple[tuple[str, tuple[str, ...], bool], ...]


def overview_of(rows: Sequence[ComparisonRow]) -> Overview:
    """Final averages: zero-shot, sequential, the others from the lowest to the highest, joint, direct.

    Under `direct` stands its learning, each task tuned alone: the final average of its last model means little. Where
    only `sequential` was run there is nothing to compare.
    """
    places = list(dict.fromkeys((row.stream, row.model) for row in rows if row.base not in (ZERO_SHOT, "sequential")))
    by_place = {(row.method, row.stream, row.model): row for row in rows}
    methods = sorted(dict.fromkeys(row.method for row in rows), key=lambda method: _place(method, rows))
    lines = [
        (
            method,
            tuple(_shown(by_place.get((method, *place))) for place in places),
            _base(method) in (ZERO_SHOT, *BOUNDS),
        )
        for method in methods
    ]
    return Overview(tuple(places), tuple(lines))


def _place(method: str, rows: Sequence[ComparisonRow]) -> tuple[int, float, str]:
    """By the mean over all streams; a variant, which may have fewer of them, stands below its plain method."""
    base = _base(method)
    alike = [row for row in rows if row.method == base] or [row for row in rows if row.base == base]
    means = [value.mean for row in alike if (value := row.values[FINAL])]
    return rank_of(base), statistics.fmean(means) if means else float("inf"), method


def _base(method: str) -> str:
    return method.split(" (", maxsplit=1)[0]


def _shown(row: ComparisonRow | None) -> str:
    if row is None:
        return "-"
    if row.base == "direct":
        learned = row.values["learning_accuracy"]
        return f"{learned.shown('learning')}†" if learned else "-"
    return row.shown(FINAL)
