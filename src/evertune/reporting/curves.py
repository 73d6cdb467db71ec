"""How a score depends on a setting, over seeds, and which value is the best: the rule for choosing hyper-parameters.

The rule, the same for every method: the value with the highest mean final average over held-out seeds, each value with
the same seeds; of equal ones the first. No best is named while a value lacks a seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich.console import Group
from rich.text import Text

from evertune.reporting.blocks import BlockTable
from evertune.reporting.labels import METRIC_TITLES
from evertune.reporting.matrix import Matrix
from evertune.reporting.tables import MeanStd, spread
from evertune.reporting.variants import settings_of, variant_names
from evertune.utils.config_io import value_text
from evertune.utils.terminal import as_text

BY = "final_average"
SHOWN = (BY, "learning_accuracy", "forgetting")


@dataclass(frozen=True, slots=True)
class Point:
    """A value of the setting, the seeds it was tried with, and a spread for each name in `SHOWN`."""

    value: Any
    seeds: tuple[int, ...]
    spreads: dict[str, MeanStd | None]


@dataclass(frozen=True, slots=True)
class Curve:
    """The points of one method on one stream; `method` names what else is varied. `best` is None while undecided."""

    stream: str
    model: str
    method: str
    key: str
    points: tuple[Point, ...]
    best: Point | None


def curves(matrices: Sequence[Matrix], key: str) -> list[Curve]:
    """One curve over `key` (`ewc.strength`) for all finished runs that differ in nothing else but their seed."""
    varied = [matrix for matrix in matrices if matrix.finished and key in settings_of(matrix)]
    groups: dict[tuple[Any, ...], list[Matrix]] = {}
    for methods in _grouped_by_method(varied):
        others = variant_names([_without(matrix, key) for matrix in methods])
        for matrix, rest in zip(methods, others, strict=True):
            name = f"{matrix.method} ({rest})" if rest else matrix.method
            groups.setdefault((*matrix.setting, name), []).append(matrix)
    return [
        Curve(group[0].stream, group[0].model, name, key, points := _points(group, key), choose(points))
        for (*_, name), group in groups.items()
    ]


def choose(points: Sequence[Point]) -> Point | None:
    """The best point by the rule above; None when there is nothing to choose or a value lacks a seed."""
    if len(points) < 2 or len({point.seeds for point in points}) > 1:
        return None
    return max(points, key=_mean)


def rich_curve(curve: Curve) -> Group:
    """The curve for the terminal, the best value marked."""
    title = f"{curve.method} on {curve.stream}, {curve.model}: {curve.key}"
    note = "" if curve.best else "no best yet: not every value was tried with the same seeds"
    rows = []
    for point in curve.points:
        shown = [spread.shown(name) if spread else "-" for name, spread in point.spreads.items()]
        rows.append([value_text(point.value), str(len(point.seeds)), *shown, "best" if point is curve.best else ""])
    header = [curve.key, "seeds", *(METRIC_TITLES[name] for name in SHOWN), ""]
    table = BlockTable(header, rows, styles=["bold" if point is curve.best else "" for point in curve.points])
    return Group(as_text(title, "bold"), table, *([Text(note, style="dim")] if note else []))


def _mean(point: Point) -> float:
    found = point.spreads[BY]
    return found.mean if found else float("-inf")


def _points(group: Sequence[Matrix], key: str) -> tuple[Point, ...]:
    by_value: dict[str, list[Matrix]] = {}
    for matrix in group:
        by_value.setdefault(str(settings_of(matrix)[key]), []).append(matrix)
    return tuple(
        Point(
            settings_of(members[0])[key],
            tuple(sorted(matrix.seed for matrix in members)),
            {name: spread([matrix.metrics.get(name) for matrix in members]) for name in SHOWN},
        )
        for members in by_value.values()
    )


def _grouped_by_method(matrices: Sequence[Matrix]) -> list[list[Matrix]]:
    groups: dict[tuple[Any, ...], list[Matrix]] = {}
    for matrix in matrices:
        groups.setdefault((*matrix.setting, matrix.method), []).append(matrix)
    return list(groups.values())


def _without(matrix: Matrix, key: str) -> Matrix:
    """The run as if `key` were not a setting."""
    flat = {name: value for name, value in settings_of(matrix).items() if name != key}
    return replace(matrix, settings=flat)
