"""Plots of a run and of a comparison as inline SVG: the matrix, the average over time, forgetting by task.

Drawn by matplotlib's SVG backend on a canvas measured in CSS pixels, without pyplot and its global state. Texts stay
texts and black becomes `currentColor`, so that one drawing is small and reads on a light and on a dark page.
"""

from __future__ import annotations

import io
import math
import re
import statistics
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import matplotlib
import matplotlib.style
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from evertune.report.tables import (
    BOUNDS,
    Loaded,
    by_method,
    diagonal,
    follows_stream,
    is_finished,
    known_count,
)
from evertune.scoring.metrics import known_from

# Okabe and Ito's colours, which the colour-blind tell apart, a little evened out for light and dark grounds; each
# goes with a marker of its own shape, so that colour is never the only difference.
COLOURS = ("#d55e00", "#2b83ba", "#009e73", "#cc79a7", "#b58900", "#7b6fd0", "#5a9bd4")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
BOUND_COLOUR = "#858585"
CELL_COLOUR = "#145fb4"
WHITE_TEXT_FROM = 80.0  # score from which white reads better than black on the cell: contrast stays above 4
GAP = 6.0  # sets apart what was not taught: the untouched model's row, the columns of known tasks
LONGEST_NAME = 18
LETTER = 6.7  # generous width of a letter at 12 pixels
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
SETTINGS = {"svg.fonttype": "none", "font.size": 12, "text.parse_math": False, "path.simplify": False}


class Canvas:
    """A figure of `width` x `height` CSS pixels, its origin at the top left, on which one draws in pixels."""

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self.figure: Any = Figure(figsize=(width / 72, height / 72), dpi=72)
        self.axes: Any = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set_xlim(0, width)
        self.axes.set_ylim(height, 0)
        self.axes.set_axis_off()

    def text(self, x: float, y: float, content: str, *, align: str = "left", **style: Any) -> None:
        """Write `content` with its middle line at `y`."""
        style = {"va": "center_baseline", "fontsize": 12, "color": "black", "parse_math": False} | style
        self.axes.text(x, y, content, ha=align, rotation_mode="anchor", **style)

    def line(self, xs: Sequence[float], ys: Sequence[float], **style: Any) -> None:
        """Draw a line through points, with markers if `marker` is given."""
        self.axes.plot(xs, ys, clip_on=False, **({"color": "black", "linewidth": 1.0} | style))

    def box(self, x: float, y: float, width: float, height: float, **style: Any) -> None:
        """Draw a rectangle."""
        self.axes.add_patch(Rectangle((x, y), width, height, clip_on=False, **style))

    def svg(self, label: str) -> str:
        """The drawing as an `<svg>` element; `label` is read to those who can't see it."""
        buffer = io.StringIO()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing")  # the browser has a font for it
            self.figure.savefig(buffer, format="svg", transparent=True)
        return _inline(buffer.getvalue(), self.width, self.height, label)


def _inline(document: str, width: float, height: float, label: str) -> str:
    """Turn matplotlib's SVG document into an element for a page: no header, no clashing names, the page's colours."""
    body = document[document.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>|<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r'style="[^"]*"', lambda style: _restyled(style.group()), body)
    body = re.sub(r' transform="rotate\(-?0 [^)]*\)"', "", body.replace("xlink:href=", "href="))
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', body))
    body = re.sub(r' id="([^"]*)"', lambda name: name.group() if name.group(1) in used else "", body)
    body = re.sub(r"\s*\n\s*", "\n", body)
    # on a phone a plot shrinks to three quarters, then scrolls: its texts stay legible
    start = (
        f'<svg class="plot" role="img" aria-label="{escape(label)}" fill="currentColor" font-family="{FONT}" '
        f'width="{width:g}" height="{height:g}" style="min-width: {0.74 * width:.0f}px" '
        f'viewBox="0 0 {width:g} {height:g}">'
    )
    return start + body[body.index(">") + 1 :].strip()


def _restyled(style: str) -> str:
    """Black becomes the page's colour; matplotlib's fonts (`font-family: ...`, `font: 12px ...`) become the page's."""
    style = style.replace("#000000", "currentColor")
    style = re.sub(r" ?font-family: [^;\"]*;?", "", style)
    return re.sub(r"font: (?:\w+ )*?([\d.]+px) [^;\"]*", r"font-size: \1", style)


def drawn(canvas: Canvas, label: str) -> str:
    """The canvas as an element for a page, whose names clash with no other drawing's on it."""
    # the salt keeps the names of markers apart when several drawings share a page
    with matplotlib.style.context(["default", SETTINGS | {"svg.hashsalt": label}]):
        return canvas.svg(label)


def short_name(name: str) -> str:
    """A name that fits beside a plot."""
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"


def _room(names: Sequence[str], size: float = 12) -> float:
    return max((len(short_name(name)) for name in names), default=0) * LETTER * size / 12


def heat_map(matrix: Loaded) -> str:
    """R of one run: stages by tasks, deeper blue for higher scores, what was just learned outlined.

    The columns of tasks that were known before stand apart, with the word below.
    """
    tasks, names = matrix["tasks"], ["untouched", *matrix["stages"]]
    side = max(32.0, min(64.0, 560 / len(tasks)))
    size = 13 if side > 40 else 11
    left, (lines, rotated) = _room(names) + 14, _column_names(tasks, side)
    top = _room(tasks) * 0.75 + 16 if rotated else 16.0 * max(map(len, lines)) + 6
    right = _room(tasks[-1:]) * 0.75 - side / 2 + 4 if rotated else 4.0
    high, known = min(side, 34.0), known_count(matrix)
    xs = [left + side * column + (GAP if 0 < known <= column else 0) for column in range(len(tasks))]
    bottom = top + high * len(matrix["R"]) + GAP
    canvas = Canvas(xs[-1] + side + max(right, 4), bottom + (22 if known else 4))
    _draw_columns(canvas, lines, rotated, xs, top, side)
    if known:
        _draw_known(canvas, xs[0], xs[known] - GAP, bottom)
    for stage, scores in enumerate(matrix["R"]):
        y = top + stage * high + (GAP if stage else 0)
        canvas.text(left - 10, y + high / 2, short_name(names[stage]), align="right")
        for column, score in enumerate(scores):
            _draw_cell(canvas, xs[column], y, side, high, score, size)
    for stage, name in enumerate(matrix["stages"][: len(matrix["R"]) - 1], start=1):
        if name in tasks:
            x, y = xs[tasks.index(name)], top + stage * high + GAP
            canvas.box(x + 1, y + 1, side - 2, high - 2, fill=False, edgecolor="black", linewidth=1.8)
    return drawn(canvas, f"Scores of {matrix['method']}, seed {matrix['seed']}: stages by tasks")


def _column_names(tasks: Sequence[str], side: float) -> tuple[list[list[str]], bool]:
    """Each name in lines that fit the column; or, if one does not fit in three, whole names, to be turned."""
    wrapped = [_wrapped(task, int((side - 2) / 5.9)) for task in tasks]
    if all(0 < len(lines) <= 3 for lines in wrapped):
        return wrapped, False
    return [[short_name(task)] for task in tasks], True


def _wrapped(name: str, letters: int) -> list[str]:
    """`name` broken after hyphens, underscores and spaces; empty if a part is too long."""
    lines = [""]
    for part in re.findall(r"[^-_ ]*[-_ ]?", name):
        if len(lines[-1] + part.rstrip()) <= letters:
            lines[-1] += part
        else:
            lines.append(part)
    return [] if any(len(line.rstrip()) > letters for line in lines) else [line.strip() for line in lines if line]


def _draw_columns(
    canvas: Canvas, lines: Sequence[Sequence[str]], rotated: bool, xs: Sequence[float], top: float, side: float
) -> None:
    for start, parts in zip(xs, lines, strict=True):
        x = start + side / 2
        if rotated:
            canvas.text(x, top - 8, parts[0], rotation=45, fontsize=11)
            continue
        for place, part in enumerate(reversed(parts)):
            canvas.text(x, top - 12 - 14 * place, part, align="center", fontsize=11)


def _draw_known(canvas: Canvas, start: float, end: float, bottom: float) -> None:
    """A thin line along the end of the columns of known tasks, and the word."""
    canvas.line([start + 1, end - 1], [bottom + 5] * 2, color="#808080", alpha=0.6)
    canvas.text((start + end) / 2, bottom + 14, "known", align="center", fontsize=11, alpha=0.75)


def _draw_cell(canvas: Canvas, x: float, y: float, side: float, high: float, score: float, size: int) -> None:
    # Opacity, not lightness: a low score fades into the page, be it light or dark.
    share = min(max(score / 100, 0.0), 1.0)
    canvas.box(x + 1, y + 1, side - 2, high - 2, facecolor=CELL_COLOUR, alpha=0.05 + 0.95 * share, linewidth=0)
    colour = "#ffffff" if score >= WHITE_TEXT_FROM else "black"
    canvas.text(x + side / 2, y + high / 2, f"{score:.0f}", align="center", fontsize=size, color=colour)


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


def _in_order(matrices: Sequence[Loaded], order: Sequence[str]) -> dict[str, list[Loaded]]:
    groups = by_method(matrices)
    known = [name for name in order if name in groups]
    return {name: groups[name] for name in [*known, *(name for name in groups if name not in known)]}


def learned_averages(matrix: Loaded) -> list[float]:
    """After each stage, the mean over the tasks learned so far and those known before.

    `direct` keeps nothing, so its tasks count as tuned alone; `joint` learns all at once: the same at every stage.
    """
    R, known = matrix["R"], known_count(matrix)
    if not follows_stream(matrix):
        return [statistics.fmean(R[-1])] * (len(R[0]) - known) if is_finished(matrix) else []
    if matrix["method"] == "direct":
        own = [R[known_from(i, known)][i] for i in range(known + len(R) - 1)]
        return [statistics.fmean(own[: known + stage]) for stage in range(1, len(R))]
    return [statistics.fmean(R[stage][: known + stage]) for stage in range(1, len(R))]


def average_curve(matrices: Sequence[Loaded], order: Sequence[str] = ()) -> str:
    """The mean over the tasks learned so far after each stage, all methods; with seeds, mean and range. '' if empty."""
    series = {name: [learned_averages(m) for m in group] for name, group in _in_order(matrices, order).items()}
    series = {name: runs for name, runs in series.items() if any(runs)}
    count = len(matrices[0]["tasks"]) - known_count(matrices[0])
    if not series or count < 2:
        return ""
    canvas = Canvas(450, 290)
    labels = {name: _end_label(name, runs, count) for name, runs in series.items()}
    right = 450 - 16 - max(len(label) for label in labels.values()) * LETTER
    best = max(score for runs in series.values() for run in runs for score in run)
    spot = _Frame(left=34, right=right, top=14, bottom=246, count=count, highest=max(100.0, 20 * math.ceil(best / 20)))
    _draw_frame(canvas, spot)
    ends: dict[str, float] = {}
    for name, look in _looks(list(series)).items():
        ends[name] = spot.y(_draw_series(canvas, spot, series[name], look))
    for name, y in spread_apart(ends, gap=15, low=8, high=252).items():
        canvas.text(right + 12, y, labels[name])
    return drawn(canvas, f"Average over the tasks learned so far, after each stage: {', '.join(series)}")


def _columns(runs: Sequence[Sequence[float]]) -> list[list[float]]:
    """Values by stage; runs in progress give as many as they have."""
    return [[run[i] for run in runs if i < len(run)] for i in range(max(map(len, runs)))]


def _end_label(name: str, runs: Sequence[Sequence[float]], count: int) -> str:
    columns = _columns(runs)
    return f"{short_name(name)} {statistics.fmean(columns[-1]):.0f}" + (" so far" if len(columns) < count else "")


@dataclass(frozen=True, slots=True)
class _Frame:
    """Where a plot of 0..highest over stages 1..count lies on its canvas; CIDEr may take it beyond 100."""

    left: float
    right: float
    top: float
    bottom: float
    count: int
    highest: float = 100.0

    def x(self, stage: int) -> float:
        return self.left + 8 + (self.right - self.left - 12) * (stage - 1) / max(self.count - 1, 1)

    def y(self, score: float) -> float:
        return self.bottom - (self.bottom - self.top) * score / self.highest


def _draw_frame(canvas: Canvas, spot: _Frame) -> None:
    for score in (round(spot.highest * quarter / 4) for quarter in range(5)):
        canvas.line([spot.left, spot.right], [spot.y(score)] * 2, color="#808080", alpha=0.3, linewidth=0.8)
        canvas.text(spot.left - 6, spot.y(score), f"{score}", align="right", fontsize=11, alpha=0.75)
    step = 1 if spot.count <= 10 else 2
    for stage in range(1, spot.count + 1, step):
        canvas.text(spot.x(stage), spot.bottom + 14, f"{stage}", align="center", fontsize=11, alpha=0.75)
    canvas.text((spot.left + spot.right) / 2, spot.bottom + 34, "tasks learned", align="center", alpha=0.75)


def _draw_series(canvas: Canvas, spot: _Frame, runs: Sequence[Sequence[float]], look: _Look) -> float:
    """Draw the mean over runs and, for several, their range; returns where it ends."""
    columns = _columns(runs)
    xs = [spot.x(stage) for stage in range(1, len(columns) + 1)]
    means = [statistics.fmean(column) for column in columns]
    if any(len(column) > 1 for column in columns):
        low, high = [spot.y(min(c)) for c in columns], [spot.y(max(c)) for c in columns]
        canvas.axes.fill_between(xs, low, high, color=look.colour, alpha=0.18, linewidth=0, clip_on=False)
    style = {"color": look.colour, "linestyle": look.line, "linewidth": 2.0, "marker": look.marker, "markersize": 6}
    canvas.line(xs, [spot.y(mean) for mean in means], **style)
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


def task_forgetting(matrix: Loaded) -> list[float] | None:
    """Points that each task but the last fell from its best score to the end; None where forgetting means nothing."""
    if matrix["method"] == "direct" or diagonal(matrix) is None or len(matrix["tasks"]) < 2:
        return None
    R, known = matrix["R"], known_count(matrix)
    return [max(row[i] for row in R[known_from(i, known) : -1]) - R[-1][i] for i in range(len(R[0]) - 1)]


def mean_forgetting(groups: Mapping[str, Sequence[Loaded]]) -> dict[str, list[float]]:
    """`task_forgetting` by method, the mean over its finished runs; methods without any are left out."""
    lost = {}
    for name, group in groups.items():
        runs = [run for matrix in group if (run := task_forgetting(matrix)) is not None]
        if runs:
            lost[name] = [statistics.fmean(column) for column in zip(*runs, strict=True)]
    return lost


def forgetting_by_task(matrices: Sequence[Loaded], order: Sequence[str] = ()) -> str:
    """Forgetting of each task as a dot per method, mean over seeds; the first task names them. '' if there is none."""
    groups = _in_order(matrices, order)
    lost, looks = mean_forgetting(groups), _looks(list(groups))
    if not lost:
        return ""
    tasks = matrices[0]["tasks"][:-1]
    top, step = 12, 16 if len(tasks) * len(lost) <= 30 else 13
    block = step * len(lost) + step - 4
    bottom = top + block * len(tasks)
    canvas = Canvas(450, bottom + 34)
    left, right = _room(tasks) + 14, 450 - max(_room([name]) for name in lost) - 44
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
    said = f"{round(value)}".replace("-", "−")
    canvas.text(max(end, zero) + 9, y, f"{said} {label}".rstrip(), fontsize=11.5)
