"""R as lines of text that fit a terminal: the rows that a run prints as they come, and the whole matrix afterwards.

A number is never cut. Where the names of the tasks don't fit side by side they break at their hyphens, then give way
to numbers with a legend, then the scores lose their decimal, then a row takes several lines.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from rich.cells import cell_len
from rich.text import Text

from evertune.reporting.blocks import flowed

GAP = 2
NUMBER = 3
"""Columns of a stage's number."""


@dataclass(frozen=True, slots=True)
class MatrixText:
    """The layout of a matrix.

    Attributes:
        labels: what stands above the scores of each task, one or more lines.
        widths: of the columns of scores.
        names: width of the names of the rows.
        decimals: of the scores.
        legend: lines that say which task a number stands for; empty where names stand above the scores.
        per_line: tasks on one line of a row; the others stand below them.
    """

    labels: tuple[tuple[str, ...], ...]
    widths: tuple[int, ...]
    names: int
    decimals: int
    legend: tuple[str, ...]
    per_line: int

    @property
    def width(self) -> int:
        """Of a row on one line."""
        return self.indent + sum(GAP + width for width in self.widths)

    @property
    def indent(self) -> int:
        """What stands before the scores."""
        return NUMBER + GAP + self.names

    def header(self) -> Iterator[Text]:
        """The legend if there is one, then the labels of the columns."""
        yield from (Text(line, style="dim", no_wrap=True) for line in self.legend)
        height = max(map(len, self.labels))
        for line in range(height):
            parts = [("", *label)[max(0, line + 1 - height + len(label))] for label in self.labels]
            first = "after" if line == height - 1 else ""
            text = Text(f"{'':{NUMBER}}  {_padded(first, self.names)}", style="dim", no_wrap=True)
            for place, (part, width) in enumerate(zip(parts, self.widths, strict=True)):
                text.append(self._break(place) + _padded(part, width + GAP, right=True))
            yield text

    def row(self, stage: int, name: str, scores: Sequence[float | None], tasks: Sequence[str]) -> Text:
        """One row, the score of the task that was just learned in bold; `-` where none was evaluated."""
        text = Text(f"{stage:>{NUMBER}}  {_padded(name, self.names)}", no_wrap=True)
        for place, (score, width, task) in enumerate(zip(scores, self.widths, tasks, strict=True)):
            text.append(self._break(place))
            if score is None:
                text.append(f"{'-':>{width + GAP}}", style="dim")
            else:
                text.append(f"{score:>{width + GAP}.{self.decimals}f}", style=score_style(score, own=task == name))
        return text

    def _break(self, place: int) -> str:
        """What stands before a score that begins a line of its own."""
        return "\n" + " " * self.indent if place and place % self.per_line == 0 else ""


def matrix_text(tasks: Sequence[str], rows: Sequence[str], *, width: int) -> MatrixText:
    """The first layout of R that fits into `width` columns; the narrowest one where none does."""
    names = max(map(cell_len, ["after", *rows]))
    numbers: list[tuple[str, ...]] = [(str(number),) for number in range(1, len(tasks) + 1)]
    legend = tuple(
        flowed([f"tasks  1 {tasks[0]}", *(f"{n} {task}" for n, task in enumerate(tasks[1:], 2))], width=width)
    )
    tries: Sequence[tuple[list[tuple[str, ...]], int, tuple[str, ...]]] = (
        ([(task,) for task in tasks], 1, ()),
        ([_broken(task) for task in tasks], 1, ()),
        (numbers, 1, legend),
        (numbers, 0, legend),
    )
    layouts = [
        MatrixText(
            tuple(labels),
            tuple(max(5 if decimals else 3, *map(cell_len, label)) for label in labels),
            names,
            decimals,
            note,
            per_line=len(tasks),
        )
        for labels, decimals, note in tries
    ]
    fitting = next((made for made in layouts if made.width <= width), None)
    if fitting:
        return fitting
    narrow = layouts[-1]
    return replace(narrow, per_line=max(1, (width - narrow.indent) // (max(narrow.widths) + GAP)))


def _padded(text: str, width: int, *, right: bool = False) -> str:
    """A text with blanks up to `width` columns of a terminal, in which some characters take two."""
    blanks = " " * (width - cell_len(text))
    return blanks + text if right else text + blanks


def _broken(task: str) -> tuple[str, ...]:
    """A name as lines that end at its hyphens."""
    *before, last = task.split("-")
    return (*(f"{part}-" for part in before), last)


def score_style(score: float, *, own: bool) -> str:
    """The colour of a score; bold in the column of the task that was just learned."""
    colour = "bright_black" if score < 25 else "cyan" if score < 50 else "blue" if score < 75 else "green"
    return f"bold {colour}" if own else colour
