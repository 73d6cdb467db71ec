"""Score against memory: the final average of each line over the bytes that it stores per task, and the front."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.ticker import MaxNLocator

from evertune.experiments.leaderboard.board import Line
from evertune.reporting.canvas import LETTER, Canvas, Ticks, drawn
from evertune.reporting.plots import COLOURS, MARKERS

UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "bytes"))
LONGEST = 34
WIDTH = 760


def front_of(lines: Sequence[Line]) -> list[Line]:
    """The lines that no other one surpasses with as little memory, from the least memory to the most.

    A method that keeps samples is left out: a result file does not have the bytes of these samples.
    """
    placed = [(*place, line) for line in lines if (place := place_of(line)) and not line.stores_samples]
    front: list[Line] = []
    best = float("-inf")
    for _, score, line in sorted(placed, key=lambda one: (one[0], -one[1], one[2].method)):
        if score > best:
            front.append(line)
            best = score
    return front


def place_of(line: Line) -> tuple[float, float] | None:
    """(bytes per task, final average); None where one of them is not known, and for a reference."""
    stored, score = line.costs.get("stored_per_task"), line.scores["final_average"]
    return None if line.reference or stored is None or score is None else (stored, score.mean)


def pareto_plot(lines: Sequence[Line], *, looks: Sequence[Line], label: str) -> str:
    """As `<svg>`; '' with fewer than two places.

    Args:
        lines: those that are drawn.
        looks: all lines of the benchmark: a line looks the same in each of its plots.
        label: read to those who can't see it.
    """
    drawable = [line for line in lines if place_of(line)]
    if len(drawable) < 2:
        return ""
    factor, unit = _unit([line.costs["stored_per_task"] or 0.0 for line in drawable])
    names = [_short(line.method) for line in drawable]
    right = WIDTH - 34 - max(map(len, names)) * LETTER
    height = max(330.0, 40 + 18.0 * len(drawable))
    canvas = Canvas(WIDTH, height)
    xs = _ticks([0.0, *((line.costs["stored_per_task"] or 0.0) / factor for line in drawable)])
    ys = _ticks([end for line in drawable for end in _reach(line)])
    plane = canvas.plane(xs, ys, right=right, bottom=height - 46, title=f"stored per task, {unit}")
    _draw_front(plane, drawable, factor, xs[-1])
    for at, line in enumerate(drawable):
        place = looks.index(line)
        look = {
            "color": COLOURS[place % len(COLOURS)],
            "marker": MARKERS[(place + place // len(COLOURS)) % len(MARKERS)],
            "markersize": 7,
            "linestyle": "",
            "fillstyle": "none" if line.stores_samples else "full",
            "markeredgewidth": 1.6,
        }
        x, (low, high) = (line.costs["stored_per_task"] or 0.0) / factor, _reach(line)
        plane.vlines(x, low, high, color=look["color"], alpha=0.35, linewidth=1.4, clip_on=False)
        plane.plot([x], [line.value("final_average")], clip_on=False, **look)
        canvas.line([right + 16], [20 + 18 * at], **look)
        canvas.text(right + 28, 20 + 18 * at, names[at])
    return drawn(canvas, label)


def _draw_front(plane: object, lines: Sequence[Line], factor: float, end: float) -> None:
    places = [place for line in front_of(lines) if (place := place_of(line))]
    xs, ys = [x / factor for x, _ in places], [y for _, y in places]
    if xs:
        style = {"color": "#808080", "linestyle": "--", "linewidth": 1.2, "drawstyle": "steps-post"}
        plane.plot([*xs, end], [*ys, ys[-1]], zorder=1, **style)  # type: ignore[attr-defined]


def _reach(line: Line) -> tuple[float, float]:
    score = line.scores["final_average"]
    assert score is not None
    return score.interval or (score.mean, score.mean)


def _short(name: str) -> str:
    return name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"


def _unit(values: Sequence[float]) -> tuple[float, str]:
    return next((unit for unit in UNITS if max(values) >= unit[0]), UNITS[-1])


def _ticks(values: Sequence[float]) -> Ticks:
    low, high = min(values), max(values)
    widened = (low, high) if high - low > 1e-9 else (low, low + 1.0)
    return MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(*widened)
