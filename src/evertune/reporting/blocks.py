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
        names = self._name_widths(options.max_width)
        room = options.max_width - sum(width + GAP for width in names)
        for number, columns in enumerate(self._blocks(room)):
            if number:
                yield Text("")
            yield self._table([*names, *self._widths(columns, room)], columns)

    def _name_widths(self, width: int) -> list[int]:
        """The widths of the names; the widest are folded where the numbers then don't fit beside half of the width."""
        widths = [max(self._least(i), cell_len(self.header[i])) for i in range(self.names)]
        beside = sum(self._least(i) + GAP for i in range(self.names, len(self.header))) - GAP
        while sum(w + GAP for w in widths) > max(width // 2, width - beside, self.names * (1 + GAP)):
            widths[widths.index(max(widths))] -= 1
        return widths

    def _blocks(self, room: int) -> list[list[int]]:
        """The columns beside the names in blocks that fit; a block has at least one."""
        blocks: list[list[int]] = [[]]
        left = room + GAP
        for column in range(self.names, len(self.header)):
            if blocks[-1] and self._least(column) + GAP > left:
                blocks.append([])
                left = room + GAP
            blocks[-1].append(column)
            left -= self._least(column) + GAP
        return blocks

    def _widths(self, columns: Sequence[int], room: int) -> list[int]:
        """What each column of a block takes: its least width, and its whole title or text where there is room."""
        widths = {column: self._least(column) for column in columns}
        left = room + GAP - sum(width + GAP for width in widths.values())
        for column in columns:
            is_text = column >= self.first_text
            more = max(map(cell_len, [self.header[column], *self._cells(column)])) - widths[column]
            if 0 < more <= left or is_text:
                widths[column] += min(more, max(left, 0))
                left -= more
        return [widths[column] for column in columns]

    def _least(self, column: int) -> int:
        """The least width of a column: its longest cell or word of its title; that of a text may be less."""
        title = max(map(cell_len, self.header[column].split()), default=0)
        cells = max(map(cell_len, self._cells(column)), default=0)
        return max(title, cells if column < self.first_text else min(cells, NARROWEST_TEXT), 1)

    def _cells(self, column: int) -> list[str]:
        return [row[column] for row in self.rows]

    def _table(self, widths: Sequence[int], columns: Sequence[int]) -> Table:
        """A block; every width is given, since rich would narrow a column below its longest cell, and cut the rest."""
        table = plain_table()
        shown = [*range(self.names), *columns]
        has_texts = shown[-1] >= self.first_text
        for i, width in zip(shown, widths, strict=True):
            table.add_column(
                Text(self.header[i]),
                justify="left" if i < self.names or i >= self.first_text else "right",
                vertical="top" if has_texts else "bottom",
                overflow="fold",
                width=width,
            )
        for row, style in zip(self.rows, self.styles, strict=True):
            table.add_row(*(Text(row[i]) for i in shown), style=style or None)
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
