"""What plots are drawn on: a canvas measured in CSS pixels that becomes inline SVG, and the names around a heat map.

Drawn by matplotlib's SVG backend, without pyplot and its global state. Texts stay texts and black becomes
`currentColor`, so that one drawing is small and reads on a light and on a dark page.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.style
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from evertune.utils.arguments import path_of
from evertune.utils.errors import UserError
from evertune.utils.files import write_atomically

Pixels = npt.NDArray[np.uint8]
Ticks = Sequence[float] | npt.NDArray[np.float64]
LONGEST_NAME = 18
MOST_PIXELS = 1.1e6
FAINT = (0.0, 0.0, 0.0, 0.75)  # of texts that explain
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

    def plane(self, x: Ticks, y: Ticks, *, right: float, bottom: float, title: str) -> Any:
        """Axes from (40, 14) to (`right`, `bottom`) on which one draws in their units, with a grid of quiet lines.

        Args:
            x: the numbers below; the axes go from the first to the last.
            y: those at the left.
            right: edge of the axes in pixels.
            bottom: likewise.
            title: of the numbers below.
        """
        place = (40 / self.width, 1 - bottom / self.height, (right - 40) / self.width, (bottom - 14) / self.height)
        axes = self.figure.add_axes(place, frame_on=False, xticks=x, yticks=y, ylim=(y[0], y[-1]))
        margin = 8 * (x[-1] - x[0]) / (right - 56)
        axes.set_xlim(x[0] - margin, x[-1] + margin)
        axes.grid(axis="y", color="#808080", alpha=0.3, linewidth=0.8, clip_on=False)
        axes.tick_params(length=0, pad=7, labelsize=11, labelcolor=FAINT)
        axes.set_xlabel(title, color=FAINT, fontsize=12, labelpad=7)
        return axes

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
    """What is on `canvas` as an `<svg>` element; `label` is read to those who can't see it."""
    # the salt keeps the names of markers apart when several drawings share a page
    with matplotlib.style.context(["default", SETTINGS | {"svg.hashsalt": label}]):
        return canvas.svg(label)


@dataclass(frozen=True, slots=True, repr=False)
class Drawing:
    """A plot that shows itself in a notebook and is saved as a file.

    Attributes:
        label: what is drawn, in a sentence.
    """

    canvas: Canvas
    label: str

    def __repr__(self) -> str:
        return f"<plot: {self.label}; .save('plot.svg'), .save('plot.png') or .save('plot.pdf')>"

    def element(self) -> str:
        """As an `<svg>` element of a page, in the page's colours."""
        return drawn(self.canvas, self.label)

    def save(self, path: str | Path) -> Path:
        """Write the plot as SVG, PNG or PDF, by the end of the name, and return the path.

        Raises:
            UserError: another ending, or the file can't be written.
        """
        path = path_of(path, what="path", example="plot.svg")
        make = {".svg": lambda: self._repr_svg_().encode(), ".png": self._repr_png_, ".pdf": self._pdf}
        if path.suffix.lower() not in make:
            raise UserError(f"{path}: a plot is saved as .svg, .png or .pdf")
        write_atomically(path, make[path.suffix.lower()]())
        return path

    def _repr_svg_(self) -> str:
        """As a file of its own: black on white."""
        start = '<svg xmlns="http://www.w3.org/2000/svg" color="black"'
        paper = '<rect width="100%" height="100%" fill="white"/>'
        return self.element().replace("<svg", start, 1).replace(">", ">" + paper, 1)

    def _repr_png_(self) -> bytes:
        from PIL import Image

        buffer = io.BytesIO()
        Image.fromarray(pixels_of(self.canvas)).save(buffer, "PNG", optimize=True)
        return buffer.getvalue()

    def _pdf(self) -> bytes:
        buffer = io.BytesIO()
        with matplotlib.style.context(["default", SETTINGS | {"pdf.fonttype": 42}]):
            self.canvas.figure.savefig(buffer, format="pdf", metadata={"CreationDate": None})
        return buffer.getvalue()


def pixels_of(canvas: Canvas) -> Pixels:
    """What is on `canvas` as (height, width, 3) bytes on white: twice as many pixels as CSS has, or `MOST_PIXELS`.

    Drawing takes some ten times the image's bytes: a long stream would need more memory for it than for learning.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with matplotlib.style.context(["default", SETTINGS]):
        width, height = canvas.figure.get_size_inches() * canvas.figure.dpi
        canvas.figure.set_dpi(min(2.0, (MOST_PIXELS / (width * height)) ** 0.5) * canvas.figure.dpi)
        agg = FigureCanvasAgg(canvas.figure)
        agg.draw()
        return np.asarray(agg.buffer_rgba())[..., :3].copy()


def short_name(name: str) -> str:
    """A name that fits beside a plot."""
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"


def room(names: Sequence[str], size: float = 12) -> float:
    """Pixels that the longest of `names` takes at `size` pixels."""
    return max((len(short_name(name)) for name in names), default=0) * LETTER * size / 12


def column_names(tasks: Sequence[str], side: float) -> tuple[list[list[str]], bool]:
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


def draw_columns(
    canvas: Canvas, lines: Sequence[Sequence[str]], rotated: bool, xs: Sequence[float], top: float, side: float
) -> None:
    """Write the names of `column_names` over columns `side` wide that start at `xs`."""
    for start, parts in zip(xs, lines, strict=True):
        x = start + side / 2
        if rotated:
            canvas.text(x, top - 8, parts[0], rotation=45, fontsize=11)
            continue
        for place, part in enumerate(reversed(parts)):
            canvas.text(x, top - 12 - 14 * place, part, align="center", fontsize=11)
