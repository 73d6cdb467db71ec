"""A terminal that nobody's text can steer: control characters of names, events and predictions are shown, not sent.

Whatever is printed comes by here, tables and progress bars too; the escape sequences are rich's own only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""C0, C1, and what turns the direction of writing; not tab and line feed."""


def plain(text: str) -> str:
    """Text without control characters: each is shown as `\ufffd`."""
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
