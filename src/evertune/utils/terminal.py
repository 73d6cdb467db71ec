"""A terminal that foreign text cannot steer: control characters of names, events and predictions are shown, not sent.

Whatever is printed comes by here, tables and progress bars too; the escape sequences are rich's own only.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from evertune.utils.safe_names import CONTROL


def plain(text: str) -> str:
    """Text without control characters but tab and line feed: each is shown as `\ufffd`."""
    return CONTROL.sub("\ufffd", text)


class Terminal(Console):
    """rich's console, with control characters of what is printed replaced before it is laid out."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """As rich does; its own control segments pass."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(plain(segment.text), segment.style)

    def render_str(self, text: str, **options: Any) -> Any:
        """As rich does; what is no markup, though it looks like it, is text."""
        from rich.errors import MarkupError

        try:
            return super().render_str(plain(text), **options)
        except MarkupError:
            return super().render_str(plain(text), **{**options, "markup": False})
