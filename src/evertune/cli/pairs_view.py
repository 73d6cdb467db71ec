"""Similarity and pairs in the terminal: squares of tasks by tasks as calm tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from evertune.cli.printing import show_note, show_text, show_value
from evertune.experiments.pairs.sentences import TITLES, correlation_of, interval, lead, seeds_text
from evertune.experiments.pairs.task_similarity import Square
from evertune.reporting.blocks import GAP, BlockTable
from evertune.reporting.labels import plain

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
    show_text(console, f"\n{title}", style="bold")
    console.print(square_table(tasks, square, digits=digits, width=console.width))
    if caption:
        show_text(console, caption, style="dim")


def square_table(tasks: Sequence[str], square: Square, *, digits: int, width: int) -> BlockTable:
    """Tasks by tasks; names that would not fit a terminal side by side give way to the numbers of the rows."""
    numbered = max(map(len, tasks)) + sum(max(len(task), 5) + GAP for task in tasks) > width
    names = [f"{number}\u00a0{task}" if numbered else task for number, task in enumerate(tasks, start=1)]
    header = ["", *([str(number) for number in range(1, len(tasks) + 1)] if numbered else tasks)]
    rows = [
        (name, *("·" if value is None else plain(value, digits=digits) for value in row))
        for name, row in zip(names, square, strict=True)
    ]
    return BlockTable(header, rows)


def show_similarity(console: Console, result: Mapping[str, Any], *, page: Path | None) -> None:
    """The cosines per modality, the combined similarity, and where the page is."""
    tasks = result["tasks"]
    show_text(console, f"{result['stream']}, {result['model']}; text encoder: {result['text_encoder']}")
    for modality, square in result["cosines"].items():
        show_square(console, tasks, square, title=TITLES[modality])
    show_square(console, tasks, result["similarity"], title=TITLES["similarity"], caption=result["formula"])
    if page:
        console.print()
        show_value(console, "report", page.resolve())


def show_pairs(console: Console, result: Mapping[str, Any], *, page: Path) -> None:
    """The matrices, the correlations, what was found, and where the page is."""
    tasks = result["tasks"]
    about = f"{result['method']} on {result['stream']}, {result['model']}, {seeds_text(result)}"
    show_text(console, f"\n{about}. Rows: the first task; columns: the second.")
    alone = ", ".join(f"{task} {plain(score, digits=1)}" for task, score in result["alone"].items())
    show_text(console, f"Scores of tasks learned alone, right after learning: {alone}")
    for name, caption in POINTS_CAPTIONS.items():
        show_square(console, tasks, result[name], title=TITLES[name], caption=caption, digits=1)
    show_square(console, tasks, result["similarity"], title=TITLES["similarity"])
    show_text(console, "\nrank correlation, 95 % interval", style="bold")
    console.print(_correlations(result))
    show_text(console, lead(result))
    for note in result["notes"]:
        show_note(console, note)
    console.print()
    show_value(console, "report", page.resolve())


def _correlations(result: Mapping[str, Any]) -> BlockTable:
    sides = dict.fromkeys(row["with"] for row in result["correlations"])
    rows = [
        (TITLES[side], *(interval(correlation_of(result, measure, side)) for measure in SHOWN_CORRELATIONS))
        for side in sides
    ]
    return BlockTable(("with", *(TITLES[measure] for measure in SHOWN_CORRELATIONS)), rows)
