"""A table that fits a terminal without cutting a number: what does not fit beside the names is shown below."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions
from rich.table import Table
from rich.text import Text

from evertune.utils.terminal import plain

GAP = 2
"""Blanks between two columns."""
NARROWEST_TEXT = 30
"""Columns that a text gets before it stands in a further block."""


def plain_table(**more: Any) -> Table:
    """One rule under the header and none elsewhere."""
    return Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, GAP - 1, 0, 0),
        title_justify="left",
        caption_justify="left",
        header_style="dim",
        **more,
    )


class BlockTable:
    """Rows of names and numbers; columns that don't fit stand in further blocks, the names before each.

    Args:
        header: titles; they wrap between words.
        rows: cells, as many as titles.
        names: how many of the first columns are names, left-aligned and repeated.
        texts: how many of the last columns are texts, left-aligned; they wrap between words.
        styles: of the rows.
        total: a last row, dim.
    """

    def __init__(
        self,
        header: Sequence[str],
        rows: Sequence[Sequence[str]],
        *,
        names: int = 1,
        texts: int = 0,
        styles: Sequence[str] = (),
        total: Sequence[str] | None = None,
    ) -> None:
        self.header, self.names = [*map(plain, header)], names
        self.rows = [[*map(plain, row)] for row in rows]
        self.styles = list(styles) or [""] * len(self.rows)
        self.first_text = len(self.header) - texts
        if total:
            self.rows.append(list(total))
            self.styles.append("dim")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table | Text]:
        """A table per block."""
        for number, columns in enumerate(self._blocks(options.max_width)):
            if number:
                yield Text("")
            yield self._table(columns, whole=self._names_width() <= options.max_width // 2)

    def _blocks(self, width: int) -> list[list[int]]:
        """The columns of numbers in blocks that fit; a block has at least one."""
        names = min(width // 2, self._names_width())
        blocks: list[list[int]] = [[]]
        room = width - names
        for column in range(self.names, len(self.header)):
            if blocks[-1] and self._width(column) + GAP > room:
                blocks.append([])
                room = width - names
            blocks[-1].append(column)
            room -= self._width(column) + GAP
        return blocks

    def _names_width(self) -> int:
        return sum(self._width(i) + GAP for i in range(self.names))

    def _width(self, column: int) -> int:
        """The least width of a column: its longest cell or word of its title; that of a text may be less."""
        title = max(map(cell_len, self.header[column].split()), default=0)
        cells = max((cell_len(row[column]) for row in self.rows), default=0)
        return max(title, cells if column < self.first_text else min(cells, NARROWEST_TEXT))

    def _table(self, columns: Sequence[int], *, whole: bool) -> Table:
        table = plain_table()
        for i in range(self.names):
            table.add_column(Text(self.header[i]), vertical="bottom", overflow="fold", no_wrap=whole)
        for i in columns:
            is_text = i >= self.first_text
            table.add_column(
                Text(self.header[i]),
                justify="left" if is_text else "right",
                vertical="top" if is_text else "bottom",
                min_width=self._width(i),
            )
        for row, style in zip(self.rows, self.styles, strict=True):
            table.add_row(*(Text(row[i]) for i in [*range(self.names), *columns]), style=style or None)
        return table


def flowed(parts: Sequence[str], *, width: int, between: str = " · ") -> list[str]:
    """Parts joined to lines that fit; a part is broken at no place."""
    lines: list[str] = []
    for part in parts:
        if lines and len(lines[-1]) + len(between) + len(part) <= width:
            lines[-1] += between + part
        else:
            lines.append(part)
    return lines
