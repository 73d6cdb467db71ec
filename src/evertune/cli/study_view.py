"""What a study looks like in the terminal, while its runs are in progress and at the end.

Apart from `cli` for its size, and apart from `study`, which knows nothing of terminals.
"""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.text import Text

from evertune.cli.console import TerminalCallback
from evertune.cli.grid_view import GridView
from evertune.cli.printing import show_note, show_text
from evertune.experiments.study import Study
from evertune.experiments.study.overview import overview_of
from evertune.experiments.study.page import write_page
from evertune.experiments.study.result import Result, in_short, result_of
from evertune.reporting.blocks import BlockTable, plain_table
from evertune.utils.files import write_json
from evertune.utils.terminal import as_text

STYLES = {"confirmed": "green", "contradicted": "red", "not confirmed": "yellow", "not measured": "dim"}


def do_study(study: Study, console: Console, *, only: str | None, jobs: int | None) -> tuple[Result, Path]:
    """Do what is not done yet and write `study.json` and the page; returns the result and the page."""
    fetching = TerminalCallback(console).fetching  # never entered: two live displays can't share a terminal
    ended = study.run(watching=lambda: GridView(console), only=only, jobs=jobs, progress=fetching)
    result = result_of(study, ended)
    write_json(study.out / "study.json", result.as_dict())
    return result, write_page(result, study.out / "index.html")


def show_study(console: Console, result: Result) -> None:
    """The final averages, the findings, notes, what failed, and how far it is."""
    if result.rows:
        _show_overview(console, result)
    if result.findings:
        _show_findings(console, result)
    for note in [*([result.stopped] if result.stopped else []), *result.notes]:
        show_note(console, note)
    if result.failed:
        show_text(console, f"{len(result.failed)} failed: {', '.join(result.failed)}", style="red")
    text = " · ".join(f"{part} {done} of {every}" for part, (done, every) in result.progress.items())
    show_text(console, f"\nfinished runs  {text}")


def _show_overview(console: Console, result: Result) -> None:
    overview = overview_of(result.rows)
    header = [
        "final average",
        *(f"{place.replace('-reversed', ' -reversed')} {model}" for place, model in overview.places),
    ]
    rows = [(method, *values) for method, values, _ in overview.lines]
    styles = ["dim" if bound else "" for *_, bound in overview.lines]
    console.print(BlockTable(header, rows, styles=styles))
    show_text(console, "† each task tuned alone, right after learning", style="dim")
    console.print()


def _show_findings(console: Console, result: Result) -> None:
    table = plain_table()
    for title in ("", "claim", "here", ""):
        table.add_column(title, no_wrap=title == "here")
    for finding in result.findings:
        verdict = Text(finding.verdict, style=STYLES[finding.verdict])
        table.add_row(*map(as_text, (finding.name, finding.claim)), verdict, as_text(in_short(finding)))
    console.print(table)
