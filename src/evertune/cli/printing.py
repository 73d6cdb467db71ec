"""How commands print: sentences that break between words, values that stay whole, notes, names with their facts.

Apart from `console`, which has the progress bars of a run: `ls` and `cache` need none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from evertune.utils.terminal import as_text, plain

GAP = 2
"""Blanks between a name and its value."""

_NUMBER = r"[+−-]?\d[\d.,]*"
_UNIT = r"(?:[kMGT]?B|bytes|ms|s|min|h|days?|%)(?!\w)"
_MORE = rf"(?: {_UNIT}| (?:±|to|x|=) {_NUMBER}| {_NUMBER} {_UNIT}| \[[^\]]*\])*"
UNBROKEN = re.compile(rf"(?:{_NUMBER}{_MORE}\S*|\S+)\s*")
"""A word, or a number with its unit, deviation or interval."""


def show_text(console: Console, text: str | Text, *, style: str = "", indent: int = 0) -> None:
    """Print a sentence; a terminal breaks it between words, a pipe gets one line.

    A word that is longer than a line stays whole, so that a path can be copied. `text` is no markup. Every line is
    indented by `indent` columns.
    """
    for line in broken(text if isinstance(text, Text) else as_text(text, style), width=console.width - indent):
        console.print(Text(" " * indent) + line, soft_wrap=True)


def broken(text: Text, *, width: int) -> Iterator[Text]:
    """The lines of a text, broken between words and before no unit."""
    for whole in text.split("\n", allow_blank=True):
        places, used = [], 0
        for word in UNBROKEN.finditer(whole.plain):
            size = cell_len(word[0].rstrip())
            if used and used + size > width:
                places.append(word.start())
                used = 0
            used += cell_len(word[0])
        for line in whole.divide(places):
            line.rstrip()
            yield line


def show_value(console: Console, name: str, value: object, *, style: str = "") -> None:
    """Print `name  value` without a break, since a path, an address or a command is there to be copied."""
    console.print(as_text(f"{name}  {value}", style), soft_wrap=True)


def show_note(console: Console, text: str) -> None:
    """Print a warning."""
    show_text(console, Text.assemble(("note", "yellow"), f"  {text}"))


def show_facts(console: Console, title: str, facts: Mapping[str, Any]) -> None:
    """Print a title and lines of names and values."""
    show_text(console, title, style="bold")
    indent = GAP + max((cell_len(plain(name)) for name in facts), default=0)
    for name, value in facts.items():
        number = isinstance(value, int) and not isinstance(value, bool)
        show_labelled(console, name, f"{value:,}" if number else str(value), style="dim", indent=indent)


def show_labelled(console: Console, label: str, text: str, *, style: str, indent: int) -> None:
    """Print a label and a text that hangs `indent` columns to its right."""
    before = as_text(label, style)
    before.pad_right(indent - before.cell_len)
    for line in broken(as_text(text), width=console.width - indent):
        console.print(before + line, soft_wrap=True)
        before = Text(" " * indent)
