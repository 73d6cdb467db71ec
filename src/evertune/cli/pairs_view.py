"""Similarity and pairs in the terminal: squares of tasks by tasks as calm tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from evertune.experiments.pairs.sentences import TITLES, correlation_of, interval, lead, seeds_text, signed
from evertune.experiments.pairs.task_similarity import Square
from evertune.reporting.blocks import GAP, plain_table

POINTS_CAPTIONS = {
    "forgetting": "points that the first task lost",
    "forgetting_relaxed": "the same, when the right answer counts in any form",
    "transfer": "the second task after the first, less the second alone",
}
SHOWN_CORRELATIONS = ("forgetting", "transfer")


def show_square(
    console: Console, tasks: Sequence[str], square: Square, *, title: str, caption: str = "", digits: int = 2
) -> None:
    """A square under its title; the caption stands below and is not broken by the table's width."""
    console.print(Text(f"\n{title}", style="bold"))
    console.print(square_table(tasks, square, digits=digits, width=console.width))
    if caption:
        console.print(Text(caption, style="dim"))


def square_table(tasks: Sequence[str], square: Square, *, digits: int, width: int) -> Table:
    """Tasks by tasks; names that would not fit a terminal side by side give way to the numbers of the rows."""
    numbered = max(map(len, tasks)) + sum(max(len(task), 5) + GAP for task in tasks) > width
    table = plain_table()
    table.add_column("", no_wrap=True)
    for number, task in enumerate(tasks, start=1):
        table.add_column(Text(str(number) if numbered else task), justify="right", no_wrap=True)
    for number, (task, row) in enumerate(zip(tasks, square, strict=True), start=1):
        name = f"{number} {task}" if numbered else task
        cells = [Text("·", style="dim") if value is None else Text(signed(value, digits=digits)) for value in row]
        table.add_row(Text(name), *cells)
    return table


def show_similarity(console: Console, result: Mapping[str, Any], *, page: Path | None) -> None:
    """The cosines per modality, the combined similarity, and where the page is."""
    tasks = result["tasks"]
    console.print(f"{result['stream']}, {result['model']}; text encoder: {result['text_encoder']}", highlight=False)
    for modality, square in result["cosines"].items():
        show_square(console, tasks, square, title=TITLES[modality])
    show_square(console, tasks, result["similarity"], title=TITLES["similarity"], caption=result["formula"])
    if page:
        console.print(f"\npage  {page.resolve()}", soft_wrap=True, highlight=False)


def show_pairs(console: Console, result: Mapping[str, Any], *, page: Path) -> None:
    """The matrices, the correlations, what was found, and where the page is."""
    tasks = result["tasks"]
    about = f"{result['method']} on {result['stream']}, {result['model']}, {seeds_text(result)}"
    console.print(f"\n{about}. Rows: the first task; columns: the second.", highlight=False)
    alone = ", ".join(f"{task} {signed(score, digits=1)}" for task, score in result["alone"].items())
    console.print(f"Right after it was learned, alone: {alone}", highlight=False)
    for name, caption in POINTS_CAPTIONS.items():
        show_square(console, tasks, result[name], title=TITLES[name], caption=caption, digits=1)
    show_square(console, tasks, result["similarity"], title=TITLES["similarity"])
    console.print(Text("\nrank correlation, 95 % interval", style="bold"))
    console.print(_correlations(result))
    console.print(Text(lead(result)))
    for note in result["notes"]:
        console.print(f"[yellow]note[/yellow]  {escape(note)}", highlight=False)
    console.print(f"\npage  {page.resolve()}", soft_wrap=True, highlight=False)


def _correlations(result: Mapping[str, Any]) -> Table:
    table = plain_table()
    for title in ("with", *(TITLES[measure] for measure in SHOWN_CORRELATIONS)):
        table.add_column(title, no_wrap=True)
    for side in dict.fromkeys(row["with"] for row in result["correlations"]):
        cells = [Text(interval(correlation_of(result, measure, side))) for measure in SHOWN_CORRELATIONS]
        table.add_row(TITLES[side], *cells)
    return table
