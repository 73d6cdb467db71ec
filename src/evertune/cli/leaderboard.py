"""The command `leaderboard`: result files as one table per benchmark, as a page, or checked. Thin like the others."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evertune.cli.options import JsonOption, loading, make_console, print_json
from evertune.utils.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from evertune.experiments.leaderboard import Board, Checked


def leaderboard(
    places: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Result files, or folders of them.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="DIR", help="Write a page, Markdown and JSON there.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="List what each file lacks; exit code 1 if one lacks something.")
    ] = False,
    as_json: JsonOption = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown tables.")] = False,
) -> None:
    """Rank methods from result files of grids and studies. A line per method and benchmark; the page sorts and filters
    it."""
    with loading():
        from evertune.experiments.leaderboard import board_of, read_files, write_page
        from evertune.experiments.leaderboard.text import as_markdown
        from evertune.utils.files import refuse_file, write_atomically, write_json
        from evertune.utils.terminal import plain

    if check:
        if out or markdown:
            raise UserError("--check writes nothing: leave out --out and --markdown")
        _check(places, as_json=as_json)
        return
    if out:
        refuse_file(out)
    board = board_of(*read_files(places))
    text = f"# Leaderboard\n\n{as_markdown(board)}"
    if out:
        from dataclasses import asdict

        page = write_page(board, out / "index.html")
        write_atomically(out / "leaderboard.md", text)
        write_json(out / "leaderboard.json", asdict(board))
    if as_json:
        print_json(board)
    elif markdown:
        print(plain(as_markdown(board)), end="")
    else:
        console = make_console()
        _show(console, board)
        if out:
            from evertune.cli.printing import show_value

            show_value(console, "\npage", page.resolve())


def _show(console: Console, board: Board) -> None:
    """A table per benchmark, with notes."""
    from evertune.cli.printing import show_note, show_text
    from evertune.experiments.leaderboard.text import INTERVALS, marked_lines, missing_note, table_of
    from evertune.reporting.blocks import BlockTable

    for number, benchmark in enumerate(board.benchmarks):
        show_text(console, ("\n" if number else "") + benchmark.title, style="bold")
        header, cells = table_of(benchmark)
        styles = ["dim" if line.reference else "" for line in benchmark.lines]
        rows = [row[:-1] for row in cells]  # marks stand below, so that the numbers have room
        console.print(BlockTable(header[:-1], rows, names=2, styles=styles))
        for line in marked_lines(benchmark):
            show_text(console, line)
        for note in filter(None, (*benchmark.notes, missing_note(benchmark))):
            show_text(console, note, style="dim")
    console.print()
    for note in board.notes:
        show_note(console, note)
    show_text(console, f"{INTERVALS}.", style="dim")


def _check(files: list[Path], *, as_json: bool) -> None:
    from evertune.experiments.leaderboard import check_file
    from evertune.experiments.leaderboard.sources import found_files

    found = [check_file(path) for place in files for path in found_files(place)]
    if as_json:
        print_json({"files": found, "complete": not any(checked.problems for checked in found)})
    else:
        for checked in found:
            _show_check(make_console(), checked)
    if any(checked.problems for checked in found):
        raise typer.Exit(1)


def _show_check(console: Console, checked: Checked) -> None:
    from evertune.cli.printing import show_note, show_text

    for problem in checked.problems:
        show_text(console, f"{checked.file}: {problem}")
    for note in checked.notes:
        show_note(console, f"{checked.file}: {note}")
    counts = ((checked.runs, "run"), (checked.lines, "line"))
    runs = ", ".join(f"{count} {what}{'s' if count != 1 else ''}" for count, what in counts)
    if checked.problems:
        count = len(checked.problems)
        show_text(console, f"{checked.file}: {count} problem{'s' if count > 1 else ''} in {runs}", style="red")
    else:
        show_text(console, f"{checked.file}: complete, {runs}", style="green")
