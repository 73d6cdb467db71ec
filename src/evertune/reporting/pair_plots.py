"""Plots about pairs of tasks as inline SVG: squares of tasks by tasks, scatter against similarity, curves over steps.

In the squares the deeper colour is the larger value; what hurts is orange, what helps or is merely large is blue.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.ticker import MaxNLocator

from evertune.reporting.canvas import LETTER, Canvas, Ticks, column_names, draw_columns, drawn, room, short_name
from evertune.reporting.labels import plain
from evertune.reporting.plots import CELL_COLOUR, COLOURS, MARKERS, WHITE_TEXT_FROM, spread_apart

HARM_COLOUR = "#b8500a"
WHITE_FROM = {CELL_COLOUR: WHITE_TEXT_FROM / 100, HARM_COLOUR: 0.945}  # depth from which white reads better than black
QUIET = 10.0
"""Points that get full colour at least: differences of a point or two must not shout."""

Square = Sequence[Sequence[float | None]]
Points = Mapping[str, Sequence[tuple[float, Sequence[float]]]]
"""By first task: (similarity, the values of the seeds) of each of its pairs."""


@dataclass(frozen=True, slots=True)
class Scale:
    """From a value to a colour, how deep it is (0..1), and the text in the cell."""

    low: float
    high: float
    positive: str = CELL_COLOUR
    negative: str = CELL_COLOUR
    digits: int = 0

    def colour(self, value: float) -> str:
        """By the sign."""
        return self.negative if value < 0 else self.positive

    def depth(self, value: float) -> float:
        """0 at `low`, 1 at `high`; a scale from 0 takes the value's size."""
        size = abs(value) if self.low == 0 else value
        return min(1.0, max(0.0, (size - self.low) / (self.high - self.low))) if self.high > self.low else 0.0


def points_scale(square: Square, *, harm: bool) -> Scale:
    """Of differences of scores: with `harm` a positive one is orange, else a negative one."""
    high = max([QUIET, *(abs(value) for value in _known(square))])
    colours = (HARM_COLOUR, CELL_COLOUR) if harm else (CELL_COLOUR, HARM_COLOUR)
    return Scale(0.0, high, *colours)


def similarity_scale(square: Square) -> Scale:
    """Of similarities: from the smallest to the largest, for they often lie close together."""
    known = _known(square)
    return Scale(min(known), max(known), digits=2)


def _known(square: Square) -> list[float]:
    return [value for row in square for value in row if value is not None]


def square_map(tasks: Sequence[str], square: Square, *, scale: Scale, label: str) -> str:
    """Tasks by tasks, each cell with its number; empty where there is none (the diagonal)."""
    side = max(34.0, min(58.0, 400 / len(tasks)))
    high = min(side, 34.0)
    left, (lines, rotated) = room(tasks) + 14, column_names(tasks, side)
    top = room(tasks) * 0.75 + 16 if rotated else 16.0 * max(map(len, lines)) + 6
    right = max(4.0, room(tasks[-1:]) * 0.75 - side / 2 + 4) if rotated else 4.0
    xs = [left + side * column for column in range(len(tasks))]
    canvas = Canvas(xs[-1] + side + right, top + high * len(tasks) + 4)
    draw_columns(canvas, lines, rotated, xs, top, side)
    for row, name in enumerate(tasks):
        y = top + high * row
        canvas.text(left - 10, y + high / 2, short_name(name), align="right")
        for x, value in zip(xs, square[row], strict=True):
            _draw_value(canvas, x, y, side, high, value, scale)
    return drawn(canvas, label)


def _draw_value(
    canvas: Canvas, x: float, y: float, side: float, high: float, value: float | None, scale: Scale
) -> None:
    if value is None:
        canvas.text(x + side / 2, y + high / 2, "·", align="center", alpha=0.6)
        return
    depth = scale.depth(value)
    alpha = 0.05 + 0.95 * depth  # opacity, not lightness: small values fade into the page, be it light or dark
    canvas.box(x + 1, y + 1, side - 2, high - 2, facecolor=scale.colour(value), alpha=alpha, linewidth=0)
    colour = "#ffffff" if depth >= WHITE_FROM[scale.colour(value)] else "black"
    style = {"fontsize": 12 if side > 40 else 10.5, "color": colour}
    canvas.text(x + side / 2, y + high / 2, plain(value, digits=scale.digits), align="center", **style)


def _ticks(values: Sequence[float]) -> Ticks:
    """At most six round numbers that enclose the values; a range of no width is widened."""
    low, high = min(values), max(values)
    widened = (low, high) if high - low > 1e-9 else (low - 0.5, high + 0.5)
    return MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(*widened)


def _looks(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker for each name; when the colours begin again the markers are shifted, so no two look alike."""
    count = len(COLOURS)
    return {n: (COLOURS[k % count], MARKERS[(k + k // count) % len(MARKERS)]) for k, n in enumerate(names)}


def scatter(points: Points, *, x_title: str, label: str) -> str:
    """Every pair at its similarity, its mean over seeds as a marker and their range as a line; named by first task."""
    xs = _ticks([x for group in points.values() for x, _ in group])
    ys = _ticks([0.0, *(value for group in points.values() for _, values in group for value in values)])
    height = max(290.0, 30 + 18.0 * len(points))
    canvas, right = Canvas(470, height), 440 - room(list(points))
    plane = canvas.plane(xs, ys, right=right, bottom=height - 44, title=x_title)
    plane.axhline(0, color="#808080", alpha=0.7, linewidth=1)
    for place, (name, (colour, marker)) in enumerate(_looks(list(points)).items()):
        for x, values in points[name]:
            mark = {"color": colour, "marker": marker, "markersize": 6.5, "linestyle": "", "clip_on": False}
            plane.vlines(x, min(values), max(values), color=colour, alpha=0.5, linewidth=1.4, clip_on=False)
            plane.plot([x], [statistics.fmean(values)], **mark)
        y = 20 + 18 * place
        canvas.line([right + 12], [y], color=colour, marker=marker, markersize=6.5, linestyle="")
        canvas.text(right + 22, y, short_name(name))
    return drawn(canvas, label)


def dynamics_plot(
    curves: Mapping[str, Sequence[tuple[float, float]]], *, tasks: Sequence[str], highest: float, label: str
) -> str:
    """Score on a task while others are learned: (share of the steps taken, score) for each second task.

    A task looks the same in all such plots: its colour goes by its place in `tasks`.
    """
    right = 450 - 26 - max(len(short_name(name)) + 4 for name in curves) * LETTER
    canvas, ys = Canvas(450, 250), _ticks([0.0, highest])
    plane = canvas.plane((0, 25, 50, 75, 100), ys, right=right, bottom=206, title="% of the second task's steps")
    ends = {name: 206 - 192 * curve[-1][1] / ys[-1] for name, curve in curves.items()}
    places = spread_apart(ends, gap=14, low=8, high=212)
    looks = _looks(tasks)
    for name, curve in curves.items():
        colour, marker = looks[name]
        style = {"color": colour, "linewidth": 1.8, "marker": marker, "markersize": 5}
        plane.plot([100 * share for share, _ in curve], [score for _, score in curve], clip_on=False, **style)
        canvas.line([right + 8], [places[name]], **style)
        canvas.text(right + 17, places[name], f"{curve[-1][1]:.0f} {short_name(name)}", fontsize=11.5)
    return drawn(canvas, label)
