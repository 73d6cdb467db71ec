"""What a study's page draws: an interval with its units on a line, and the curve over a setting.

Intervals are a few shapes per row of a table, written down directly; curves go through the canvas of `report.plots`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from markupsafe import Markup

from evertune.experiments.study.choose import ChosenValue
from evertune.experiments.study.findings import Comparison
from evertune.reporting.canvas import Canvas, drawn
from evertune.reporting.curves import BY, Curve
from evertune.reporting.plots import COLOURS
from evertune.utils.config_io import value_text

WIDTH, HEIGHT, EDGE = 300.0, 24.0, 8.0


@dataclass(frozen=True, slots=True)
class Scale:
    """Points of difference to pixels; zero is always on it."""

    low: float
    high: float

    def x(self, value: float) -> float:
        """Where `value` lies, 0..WIDTH; what is outside lies at the edge."""
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return EDGE + share * (WIDTH - 2 * EDGE)

    @property
    def ticks(self) -> list[float]:
        """A few round values, zero among them."""
        rough = (self.high - self.low) / 5
        power = 10.0 ** math.floor(math.log10(rough))
        step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= rough)
        return [n * step for n in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]


def scale_for(comparisons: Sequence[Comparison]) -> Scale:
    """One scale for the intervals and units of all of them; an interval much wider than the units runs off its edge."""
    units = [difference for one in comparisons for difference in one.differences]
    reach = 1.5 * max((abs(value) for value in units), default=1.0) or 1.0
    ends = [end for one in comparisons for end in (one.interval() or ())]
    low, high = min([0.0, *units, *ends]), max([0.0, *units, *ends])
    low, high = max(low, -2 * reach), min(high, 2 * reach)
    room = 0.06 * (high - low) or 1.0
    return Scale(low - room, high + room)


def strip(one: Comparison, scale: Scale) -> Markup:
    """The zero line, a ring per unit, the interval as a bar and the mean as a dot."""
    middle = HEIGHT / 2
    shapes = [_line(scale.x(0), 0, scale.x(0), HEIGHT, "zero")]
    interval, estimate = one.interval(), one.estimate
    if interval:
        shapes.append(_line(scale.x(interval[0]), middle, scale.x(interval[1]), middle, "bar"))
    shapes += [_circle(scale.x(value), middle, 3.2, "unit") for value in one.differences]
    if estimate is not None:
        shapes.append(_circle(scale.x(estimate), middle, 4.8, "mean"))
    kind = one.verdict().replace(" ", "-") if one.decides else "aside"
    return _svg(shapes, HEIGHT, label=one.label, kind=kind)


def axis(scale: Scale) -> Markup:
    """The values under the strips of a table."""
    shapes = [f'<text x="{scale.x(tick):.1f}" y="14" text-anchor="middle">{_tick(tick)}</text>' for tick in scale.ticks]
    return _svg(shapes, 18, label="points of difference", kind="axis")


def _tick(value: float) -> str:
    return f"{value:+g}".replace("-", "−") if value else "0"


def _svg(shapes: Sequence[str], height: float, *, label: str, kind: str) -> Markup:
    return Markup(
        f'<svg class="strip {kind}" role="img" aria-label="{escape(label)}" width="{WIDTH:g}" height="{height:g}" '
        f'viewBox="0 0 {WIDTH:g} {height:g}">{"".join(shapes)}</svg>'
    )


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _circle(x: float, y: float, radius: float, kind: str) -> str:
    return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}"/>'


def tuning_curve(curve: Curve, choice: ChosenValue | None) -> Markup:
    """Final average over the values of a setting: mean ± deviation over seeds, the chosen value a diamond."""
    points = [(point, spread) for point in curve.points if (spread := point.spreads[BY])]
    canvas = Canvas(290, 170)
    left, right, top, bottom = 40.0, 278.0, 14.0, 130.0
    ends = [spread.mean + sign * (spread.deviation or 0) for _, spread in points for sign in (-1, 1)]
    low, high = min(ends), max(ends)
    room = max(1.0, 0.1 * (high - low))
    low, high = low - room, high + room
    xs = [left + 14 + (right - left - 28) * n / max(len(points) - 1, 1) for n in range(len(points))]
    ys = [bottom - (bottom - top) * (spread.mean - low) / (high - low) for _, spread in points]
    for value in (low + room, (low + high) / 2, high - room):
        y = bottom - (bottom - top) * (value - low) / (high - low)
        canvas.line([left, right], [y, y], color="#808080", alpha=0.3, linewidth=0.8)
        canvas.text(
            left - 6, y, f"{value:.0f}" if high - low > 4 else f"{value:.1f}", align="right", fontsize=11, alpha=0.75
        )
    canvas.line(xs, ys, color=COLOURS[1], linewidth=2.0)
    for (point, spread), x, y in zip(points, xs, ys, strict=True):
        reach = (bottom - top) * (spread.deviation or 0) / (high - low)
        canvas.line([x, x], [y - reach, y + reach], color=COLOURS[1], alpha=0.45, linewidth=2)
        best = bool(choice and point.value == choice.value)
        canvas.line(
            [x], [y], color=COLOURS[0] if best else COLOURS[1], marker="D" if best else "o", markersize=9 if best else 6
        )
        canvas.text(x, bottom + 14, value_text(point.value), align="center", fontsize=11, alpha=1 if best else 0.75)
    canvas.text((left + right) / 2, bottom + 32, curve.key, align="center", alpha=0.75)
    label = f"{curve.method} on {curve.stream}: final average by {curve.key}"
    return Markup(drawn(canvas, label))
