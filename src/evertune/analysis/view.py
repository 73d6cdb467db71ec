"""Similarity and pairs in the terminal: squares of tasks by tasks as calm tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from evertune.analysis.task_similarity import Square
from evertune.analysis.words import TITLES, correlation_of, interval, lead, seeds_text, signed
from evertune.report.tables import plain_table

MOST_NAMED_COLUMNS = 6


def square_table(tasks: Sequence[str], square: Square, *, title: str, caption: str = "", digits: int = 2) -> Table:
    """Tasks by tasks; with many tasks the columns carry the numbers of the rows."""
    numbered = len(tasks) > MOST_NAMED_COLUMNS
    table = plain_table(title=Text(title, style="bold"), caption=Text(caption, style="dim") if caption else None)
    table.add_column("", no_wrap=True)
    for number, task in enumerate(tasks, start=1):
        table.add_column(Text(str(number) if numbered else task.replace("-", "-\n")), justify="right", no_wrap=True)
    for number, (task, row) in enumerate(zip(tasks, square, strict=True), start=1):
        name = f"{number} {task}" if numbered else task
        cells = [Text("·", style="dim") if value is None else Text(signed(value, digits=digits)) for value in row]
        table.add_row(Text(name), *cells)
    return table


def show_similarity(console: Console, result: Mapping[str, Any], *, page: Path | None) -> None:
    """The cosines per modality, the combined similarity, and where the page is."""
    for modality, square in result["cosines"].items():
        console.print(square_table(result["tasks"], square, title=TITLES[modality]))
    about = f"{result['stream']}, {result['model']}; text encoder: {result['text_encoder']}"
    title = f"{TITLES['similarity']} of {about}"
    console.print(square_table(result["tasks"], result["similarity"], title=title, caption=result["formula"]))
    if page:
        console.print(f"\npage  {page.resolve()}", soft_wrap=True, highlight=False)


def show_pairs(console: Console, result: Mapping[str, Any], *, page: Path) -> None:
    """The matrices, the correlations, what was found, and where the page is."""
    about = f"{result['method']} on {result['stream']}, {result['model']}, {seeds_text(result)}"
    captions = {"forgetting": f"{about}; rows: first task, columns: second", "transfer": "the second task, less alone"}
    for name in ("forgetting", "forgetting_tolerant", "transfer"):
        caption = captions.get(name, "the right answer counts in any form")
        table = square_table(result["tasks"], result[name], title=TITLES[name], caption=caption, digits=1)
        console.print(table)
    console.print(square_table(result["tasks"], result["similarity"], title=TITLES["similarity"]))
    console.print(_correlations(result))
    console.print(Text(lead(result)))
    for note in result["notes"]:
        console.print(f"[yellow]note[/yellow]  {note}", highlight=False)
    console.print(f"\npage  {page.resolve()}", soft_wrap=True, highlight=False)


def _correlations(result: Mapping[str, Any]) -> Table:
    measures = list(dict.fromkeys(row["of"] for row in result["correlations"]))
    table = plain_table(title=Text("rank correlation, 95 % interval", style="bold"))
    for title in ("with", *(TITLES[measure] for measure in measures)):
        table.add_column(title, no_wrap=True)
    for side in dict.fromkeys(row["with"] for row in result["correlations"]):
        table.add_row(TITLES[side], *(Text(interval(correlation_of(result, m, side))) for m in measures))
    return table
