"""A terminal that foreign text cannot steer: control characters of names, events and predictions are shown, not sent.

Whatever is printed comes by here, tables and progress bars too; the escape sequences are rich's own only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from evertune.utils.safe_names import CONTROL


def plain(text: str) -> str:
    """Text without control characters but tab and line feed: each is shown as `\ufffd`."""
    return CONTROL.sub("\ufffd", text)


def as_text(text: str, style: str = "") -> Text:
    """Text as it is, for a cell of a table: no markup, and as wide as what will be shown."""
    return Text(plain(text), style)


UNBOUNDED = 10_000
"""Columns of an output that is no terminal: nothing is wrapped."""


class Terminal(Console):
    """rich's console, with control characters of what is printed replaced before it is laid out.

    An output that is no terminal gets each line whole and without blanks at its end, whatever `COLUMNS` says.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"highlight": False, **options})
        if not self.is_terminal and "width" not in options:
            self.width = UNBOUNDED

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """As rich does; its own control segments pass."""
        segments = map(_plain_segment, super().render(renderable, options))
        yield from segments if self.is_terminal else without_blanks_at_the_end(segments)

    def render_str(self, text: str, **options: Any) -> Any:
        """As rich does; what is no markup, though it looks like it, is text."""
        from rich.errors import MarkupError

        try:
            return super().render_str(plain(text), **options)
        except MarkupError:
            return super().render_str(plain(text), **{**options, "markup": False})


def _plain_segment(segment: Segment) -> Segment:
    return segment if segment.control else Segment(plain(segment.text), segment.style)


def without_blanks_at_the_end(segments: Iterable[Segment]) -> Iterator[Segment]:
    """Segments without the blanks that stand before a line feed."""
    blanks = ""
    for segment in segments:
        if segment.control:
            yield segment
            continue
        for part in segment.text.splitlines(keepends=True):
            text = part.rstrip(" \n") if part.endswith("\n") else part.rstrip(" ")
            if text:
                yield Segment(blanks + text, segment.style)
                blanks = ""
            if part.endswith("\n"):
                yield Segment("\n")
                blanks = ""
            else:
                blanks += part[len(text) :]
