"""A page of figures with their captions, for what is not a run: one self-contained HTML file in the report's style."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from evertune.reporting.page import environment
from evertune.utils.files import write_atomically


@dataclass(frozen=True, slots=True)
class Figure:
    """A drawing (an `<svg>` element) with its heading and caption."""

    title: str
    svg: str
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of texts under a header; the first column names the row."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """Figures side by side where there is room, and a table below them."""

    title: str
    figures: Sequence[Figure] = ()
    table: Table | None = None
    text: str = ""


def write_figures(
    out: Path, *, title: str, subtitle: str, lead: str, sections: Sequence[Section], notes: Sequence[str] = ()
) -> Path:
    """Write the page to `out` and return `out`; every text is escaped."""
    page = environment().get_template("figures.html.j2")
    content = page.render(title=title, subtitle=subtitle, lead=lead, sections=sections, notes=notes, svg=Markup)
    write_atomically(out, content)
    return out
