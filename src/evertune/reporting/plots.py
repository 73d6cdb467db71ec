"""Plots of a run and of a comparison as inline SVG: the matrix, the average over time, forgetting by task.

What they are drawn on is `canvas`; what pairs of tasks do to each other is drawn by `pair_plots`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evertune.metrics.metrics import known_from
from evertune.reporting.canvas import (
    LETTER,
    Canvas,
    Drawing,
    Pixels,
    column_names,
    draw_columns,
    drawn,
    pixels_of,
    room,
    short_name,
)
from evertune.reporting.matrix import Matrix
from evertune.reporting.seeds import MeanMatrix
from evertune.reporting.tables import BOUNDS, in_order, mean_or_none

# Okabe and Ito's colours, which the colour-blind tell apart, a little evened out for light and dark grounds; each
# goes with a marker of its own shape, so that colour is never the only difference.
COLOURS = ("#d55e00", "#2b83ba", "#009e73", "#cc79a7", "#b58900", "#7b6fd0", "#5a9bd4")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
BOUND_COLOUR = "#858585"
CELL_COLOUR = "#145fb4"
WHITE_TEXT_FROM = 84.0  # score from which white reads better than black on a cell: contrast stays above 4.5
GAP = 6.0  # sets apart what was not learned in the stream: the base model's row, the columns of known tasks


def heat_map(matrix: Matrix) -> str:
    """R of one run as `<svg>`, see `_drawing`."""
    return matrix_drawing(matrix).element()


def matrix_drawing(matrix: Matrix) -> Drawing:
    """R of one run, see `_drawing`."""
    canvas = _drawing(matrix.tasks, matrix.stages, matrix.R, len(matrix.known))
    return Drawing(canvas, f"Scores of {matrix.method}, seed {matrix.seed}: stages by tasks")


def mean_heat_map(mean: MeanMatrix) -> str:
    """The mean over seeds as `<svg>`, see `_drawing`; a cell that not all seeds have gives how many do: 1/2."""
    canvas = _drawing(mean.tasks, mean.stages, mean.R, len(mean.known), shares=mean.shares())
    return drawn(canvas, f"Mean scores of {mean.method} over seeds {mean.seed_list}: stages by tasks")


def heat_map_pixels(tasks: list[str], stages: list[str], R: list[list[float | None]]) -> Pixels:
    """R of one run as (height, width, 3) bytes, see `_drawing`; it may have NaN, and need not say its method."""
    return pixels_of(_drawing(tasks, stages, R))


def _drawing(
    tasks: list[str],
    stages: list[str],
    R: list[list[float | None]],
    known: int = 0,
    shares: Mapping[tuple[int, int], str] | None = None,
) -> Canvas:
    """R of one run: stages by tasks, deeper blue for higher scores, what was just learned outlined.

    The columns of tasks that were known before stand apart, with the word below. `shares` has, by row and column, a
    small text below the score.
    """
    names = ["base", *stages]
    side = max(32.0, min(64.0, 390 / len(tasks)))  # nine tasks fit a phone
    size = 13 if side > 40 else 11
    left, (lines, rotated) = room(names) + 14, column_names(tasks, side)
    top = room(tasks) * 0.75 + 16 if rotated else 16.0 * max(map(len, lines)) + 6
    right = room(tasks[-1:]) * 0.75 - side / 2 + 4 if rotated else 4.0
    high = min(side, 34.0)
    xs = [left + side * column + (GAP if 0 < known <= column else 0) for column in range(len(tasks))]
    bottom = top + high * len(R) + GAP
    canvas = Canvas(xs[-1] + side + max(right, 4), bottom + (22 if known else 4))
    draw_columns(canvas, lines, rotated, xs, top, side)
    if known:
        _draw_known(canvas, xs[0], xs[known] - GAP, bottom)
    for stage, scores in enumerate(R):
        y = top + stage * high + (GAP if stage else 0)
        canvas.text(left - 10, y + high / 2, short_name(names[stage]), align="right")
        for column, score in enumerate(scores):
            if score is None or math.isnan(score):  # not evaluated
                continue
            _draw_cell(canvas, xs[column], y, side, high, score, size, (shares or {}).get((stage, column), ""))
    for stage, name in enumerate(stages[: len(R) - 1], start=1):
        if name in tasks:
            x, y = xs[tasks.index(name)], top + stage * high + GAP
            canvas.box(x + 1, y + 1, side - 2, high - 2, fill=False, edgecolor="black", linewidth=1.8)
    return canvas


def _draw_known(canvas: Canvas, start: float, end: float, bottom: float) -> None:
    """A thin line along the end of the columns of known tasks, and the word."""
    canvas.line([start + 1, end - 1], [bottom + 5] * 2, color="#808080", alpha=0.6)
    canvas.text((start + end) / 2, bottom + 14, "known", align="center", fontsize=11, alpha=0.75)


def _draw_cell(
    canvas: Canvas, x: float, y: float, side: float, high: float, score: float, size: int, share: str
) -> None:
    # Opacity, not lightness: a low score fades into the page, be it light or dark.
    opacity = 0.05 + 0.95 * min(max(score / 100, 0.0), 1.0)
    canvas.box(x + 1, y + 1, side - 2, high - 2, facecolor=CELL_COLOUR, alpha=opacity, linewidth=0)
    colour = "#ffffff" if score >= WHITE_TEXT_FROM else "black"
    middle = y + high / 2 - (5 if share else 0)
    canvas.text(x + side / 2, middle, f"{score:.0f}", align="center", fontsize=size, color=colour)
    if share:
        canvas.text(x + side / 2, y + high - 9, share, align="center", fontsize=9, color=colour)


@dataclass(frozen=True, slots=True)
class _Look:
    colour: str
    marker: str
    line: str


def _looks(names: Sequence[str]) -> dict[str, _Look]:
    """A colour, a marker and a line style for each method, in order; bounds are grey and broken."""
    looks, place = {}, 0
    for name in names:
        if name.split(" (")[0] in BOUNDS:
            looks[name] = _Look(BOUND_COLOUR, "", "--" if name.startswith("joint") else ":")
        else:
            looks[name] = _Look(COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)], "-")
            place += 1
    return looks


def learned_averages(matrix: Matrix) -> list[float]:
    """After each stage, the mean over the tasks learned so far and those known before; empty if one is not known.

    `direct` keeps nothing, so its tasks count as tuned alone; `joint` learns all at once: the same at every stage.
    """
    means = _learned_means(matrix)
    averages = [mean for mean in means if mean is not None]
    return averages if len(averages) == len(means) else []


def _learned_means(matrix: Matrix) -> list[float | None]:
    """As `learned_averages`; None where a cell was not evaluated."""
    R, known = matrix.R, len(matrix.known)
    if not matrix.follows_stream:
        return [mean_or_none(R[-1])] * (len(R[0]) - known) if matrix.finished else []
    if matrix.method == "direct":
        own = [R[known_from(i, known)][i] for i in range(known + len(R) - 1)]
        return [mean_or_none(own[: known + stage]) for stage in range(1, len(R))]
    return [mean_or_none(R[stage][: known + stage]) for stage in range(1, len(R))]


def average_curve(matrices: Sequence[Matrix]) -> str:
    """`average_drawing` as `<svg>`; '' if there is nothing to draw."""
    drawing = average_drawing(matrices)
    return drawing.element() if drawing else ""


def average_drawing(matrices: Sequence[Matrix]) -> Drawing | None:
    """The mean over the tasks learned so far after each stage, all methods; with seeds, mean and range."""
    series = {name: [learned_averages(m) for m in group] for name, group in in_order(matrices).items()}
    series = {name: runs for name, runs in series.items() if any(runs)}
    count = len(matrices[0].tasks) - len(matrices[0].known)
    if not series or count < 2:
        return None
    canvas = Canvas(450, 290)
    labels = {name: _end_label(name, runs, count) for name, runs in series.items()}
    right = 450 - 16 - max(len(label) for label in labels.values()) * LETTER
    best = max(score for runs in series.values() for run in runs for score in run)
    highest = max(100.0, 20 * math.ceil(best / 20))  # CIDEr may take it beyond 100
    plane = canvas.plane(
        range(1, count + 1), np.linspace(0, highest, 5), right=right, bottom=246, title="tasks learned"
    )
    plane.set_xticks(range(1, count + 1, 1 if count <= 10 else 2))
    ends: dict[str, float] = {}
    for name, look in _looks(list(series)).items():
        ends[name] = 246 - 232 * _draw_series(plane, series[name], look) / highest
    for name, y in spread_apart(ends, gap=15, low=8, high=252).items():
        canvas.text(right + 12, y, labels[name])
    return Drawing(canvas, f"Average over the tasks learned so far, after each stage: {', '.join(series)}")


def _columns(runs: Sequence[Sequence[float]]) -> list[list[float]]:
    """Values by stage; runs in progress give as many as they have."""
    return [[run[i] for run in runs if i < len(run)] for i in range(max(map(len, runs)))]


def _end_label(name: str, runs: Sequence[Sequence[float]], count: int) -> str:
    columns = _columns(runs)
    return f"{short_name(name)} {statistics.fmean(columns[-1]):.0f}" + (" so far" if len(columns) < count else "")


def _draw_series(plane: Any, runs: Sequence[Sequence[float]], look: _Look) -> float:
    """Draw the mean over runs and, for several, their range; returns where it ends."""
    columns = _columns(runs)
    stages = range(1, len(columns) + 1)
    means = [statistics.fmean(column) for column in columns]
    if any(len(column) > 1 for column in columns):
        low, high = list(map(min, columns)), list(map(max, columns))
        plane.fill_between(stages, low, high, color=look.colour, alpha=0.18, linewidth=0, clip_on=False)
    style = {"color": look.colour, "linestyle": look.line, "linewidth": 2.0, "marker": look.marker, "markersize": 6}
    plane.plot(stages, means, clip_on=False, **style)
    return means[-1]


def spread_apart(places: Mapping[str, float], *, gap: float, low: float, high: float) -> dict[str, float]:
    """Move labels as little as a sweep allows so that neighbours are `gap` apart and all lie in low..high."""
    names = sorted(places, key=lambda name: places[name])
    found: dict[str, float] = {}
    floor = low
    for name in names:
        found[name] = max(places[name], floor)
        floor = found[name] + gap
    ceiling = high
    for name in reversed(names):
        found[name] = min(found[name], ceiling)
        ceiling = found[name] - gap
    return found


def task_forgetting(matrix: Matrix) -> list[float] | None:
    """Points that each task but the last fell from its best score to the end; None where forgetting means nothing, or
    a cell that it needs was not evaluated.
    """
    if matrix.method == "direct" or matrix.diagonal() is None or len(matrix.tasks) < 2:
        return None
    R, known = matrix.R, len(matrix.known)
    since = [[row[i] for row in R[known_from(i, known) :]] for i in range(len(R[0]) - 1)]
    columns = [[score for score in column if score is not None] for column in since]
    if list(map(len, columns)) != list(map(len, since)):
        return None
    return [max(column[:-1]) - column[-1] for column in columns]


def mean_forgetting(groups: Mapping[str, Sequence[Matrix]]) -> dict[str, list[float]]:
    """`task_forgetting` by method, the mean over its finished runs; methods without any are left out."""
    lost = {}
    for name, group in groups.items():
        runs = [run for matrix in group if (run := task_forgetting(matrix)) is not None]
        if runs:
            lost[name] = [statistics.fmean(column) for column in zip(*runs, strict=True)]
    return lost


def forgetting_by_task(matrices: Sequence[Matrix]) -> str:
    """Forgetting of each task as a dot per method, mean over seeds; the first task names them. '' if there is none."""
    groups = in_order(matrices)
    lost, looks = mean_forgetting(groups), _looks(list(groups))
    if not lost:
        return ""
    tasks = matrices[0].tasks[:-1]
    top, step = 12, 16 if len(tasks) * len(lost) <= 30 else 13
    block = step * len(lost) + step - 4
    bottom = top + block * len(tasks)
    canvas = Canvas(450, bottom + 34)
    left, right = room(tasks) + 14, 450 - max(room([name]) for name in lost) - 44
    values = [value for column in lost.values() for value in column]
    low, high = min(0.0, *values), max(10.0, *values)
    scale = (right - left - 8) / (high - low)
    zero = left + 4 - low * scale
    canvas.line([zero, zero], [6, bottom], color="#808080", alpha=0.6)
    for place, task in enumerate(tasks):
        start = top + block * place
        canvas.text(left - 8, start + step * len(lost) / 2, short_name(task), align="right")
        for row, (name, column) in enumerate(lost.items()):
            label = short_name(name) if place == 0 else ""
            _draw_dot(canvas, zero, start + step * (row + 0.5), scale, column[place], looks[name], label)
    canvas.text((left + right) / 2, bottom + 14, "points lost since its best", align="center", alpha=0.75)
    return drawn(canvas, f"Points that each task lost: {', '.join(lost)}")


def _draw_dot(canvas: Canvas, zero: float, y: float, scale: float, value: float, look: _Look, label: str) -> None:
    end = zero + value * scale
    canvas.line([zero, end], [y, y], color=look.colour, alpha=0.45, linewidth=2)
    canvas.line([end], [y], color=look.colour, marker=look.marker, markersize=7, linestyle="")
    number = f"{round(value)}".replace("-", "−")
    canvas.text(max(end, zero) + 9, y, f"{number} {label}".rstrip(), fontsize=11.5)
