"""R as lines of text that fit a terminal: the rows that a run prints as they come, and the whole matrix afterwards.

A number is never cut. Where the names of the tasks don't fit side by side they break at their hyphens, then give way
to numbers with a legend, then the scores lose their decimal.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.text import Text

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
        legend: which task a number stands for; empty where names stand above the scores.
    """

    labels: tuple[tuple[str, ...], ...]
    widths: tuple[int, ...]
    names: int
    decimals: int
    legend: str

    @property
    def width(self) -> int:
        """Of a row."""
        return NUMBER + GAP + self.names + sum(GAP + width for width in self.widths)

    def header(self) -> Iterator[Text]:
        """The legend if there is one, then the labels of the columns."""
        if self.legend:
            yield Text(self.legend, style="dim")
        height = max(map(len, self.labels))
        for line in range(height):
            parts = [("", *label)[max(0, line + 1 - height + len(label))] for label in self.labels]
            first = "after" if line == height - 1 else ""
            cells = "".join(f"{part:>{width + GAP}}" for part, width in zip(parts, self.widths, strict=True))
            yield Text(f"{'':{NUMBER}}  {first:<{self.names}}{cells}", style="dim", no_wrap=True)

    def row(self, stage: int, name: str, scores: Sequence[float | None], tasks: Sequence[str]) -> Text:
        """One row, the score of the task that was just learned in bold; `-` where none was evaluated."""
        text = Text(f"{stage:>{NUMBER}}  {name:<{self.names}}", no_wrap=True)
        for score, width, task in zip(scores, self.widths, tasks, strict=True):
            if score is None:
                text.append(f"{'-':>{width + GAP}}", style="dim")
            else:
                text.append(f"{score:>{width + GAP}.{self.decimals}f}", style=score_style(score, own=task == name))
        return text


def matrix_text(tasks: Sequence[str], rows: Sequence[str], *, width: int) -> MatrixText:
    """The first layout of R that fits into `width` columns; the narrowest one where none does."""
    names = max(map(len, ["after", *rows]))
    numbers = [(str(number),) for number in range(1, len(tasks) + 1)]
    legend = "tasks  " + " · ".join(f"{number} {task}" for number, task in enumerate(tasks, start=1))
    tries = (
        ([(task,) for task in tasks], 1, ""),
        ([_broken(task) for task in tasks], 1, ""),
        (numbers, 1, legend),
        (numbers, 0, legend),
    )
    layouts = [
        MatrixText(
            tuple(labels), tuple(max(5 if decimals else 3, *map(len, label)) for label in labels), names, decimals, note
        )
        for labels, decimals, note in tries
    ]
    return next((made for made in layouts if made.width <= width), layouts[-1])


def _broken(task: str) -> tuple[str, ...]:
    """A name as lines that end at its hyphens."""
    *before, last = task.split("-")
    return (*(f"{part}-" for part in before), last)


def score_style(score: float, *, own: bool) -> str:
    """The colour of a score; bold in the column of the task that was just learned."""
    colour = "bright_black" if score < 25 else "cyan" if score < 50 else "blue" if score < 75 else "green"
    return f"bold {colour}" if own else colour
