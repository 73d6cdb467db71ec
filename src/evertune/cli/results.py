"""The commands about finished runs, thin like the others: `compare`, `report` and `metrics`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from evertune.cli.options import JsonOption, loading, make_console, print_json, without_reports
from evertune.utils.errors import UserError

RunsArgument = Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders, or folders of runs.")]


def compare(
    runs: RunsArgument,
    as_json: JsonOption = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print a Markdown table.")] = False,
    latex: Annotated[bool, typer.Option("--latex", help="Print a LaTeX table (booktabs).")] = False,
    pair: Annotated[
        bool, typer.Option("--paired", help="Two runs on the same questions: differences with intervals.")
    ] = False,
) -> None:
    """Put runs side by side: mean and standard deviation over seeds."""
    if pair:
        if latex:
            raise UserError("--latex is not for --paired: from Python, evertune.paired(A, B).to_frame().to_latex()")
        _compare_pair(runs, as_json=as_json, markdown=markdown)
        return
    with loading():
        from dataclasses import asdict

        from evertune.reporting.latex import as_latex
        from evertune.reporting.matrix import load_matrix
        from evertune.reporting.tables import as_markdown, rich_table
        from evertune.reporting.tables import compare as compare_matrices
        from evertune.utils.terminal import plain

    rows = compare_matrices([load_matrix(run) for run in found_runs(runs)])
    if as_json:
        print_json([asdict(row) for row in rows])
    elif latex:
        print(plain(as_latex(rows)), end="")
    elif markdown:
        print(plain(as_markdown(rows)), end="")
    else:
        make_console().print(rich_table(rows))


def _compare_pair(runs: list[Path], *, as_json: bool, markdown: bool) -> None:
    """`compare A B --paired`."""
    with loading():
        from evertune.cli.printing import show_text
        from evertune.reporting.blocks import BlockTable
        from evertune.reporting.tables import markdown_table
        from evertune.runs.paired import paired
        from evertune.utils.terminal import plain

    sides = without_reports(runs)
    if len(sides) != 2:
        raise UserError(f"--paired compares two runs, or two folders with a run per seed; {len(sides)} given")
    found = paired(*sides)
    header, lines = found.table()
    if as_json:
        print_json(found.to_dict())
    elif markdown:
        print(plain(markdown_table(header, lines, names=1, notes=[found.note()])), end="")
    else:
        console = make_console()
        console.print(BlockTable(header, lines, styles=[*[""] * (len(lines) - 1), "bold"]))
        show_text(console, found.note(), style="dim")


def report(
    runs: RunsArgument,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The page.")] = Path("report.html"),
) -> None:
    """Write one HTML page about one or more runs."""
    with loading():
        from evertune.cli.printing import show_value
        from evertune.reporting.page import write_report

    show_value(make_console(), "report", write_report(found_runs(runs), out).resolve())


def metrics(
    matrix: Annotated[Path, typer.Argument(metavar="MATRIX", help="JSON, CSV or TSV; rows are stages, columns tasks.")],
    known: Annotated[
        int | None, typer.Option("--known", metavar="K", help="The first K columns were known before the stream.")
    ] = None,
    base: Annotated[
        bool | None,
        typer.Option(
            "--base/--no-base", help="Whether the first row is the base model's [default: by names and shape]."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compute all metrics of a matrix of scores. Shows their formulas."""
    with loading():
        from evertune.metrics.matrix_files import read_matrix
        from evertune.metrics.metrics import formulas, metrics_of, reasons_of

    content = read_matrix(matrix, known=known, base=base)
    about: dict[str, Any] = {"known": content.known, "direct": content.direct, "joint_average": content.joint_average}
    found, reasons = metrics_of(content.R, **about), reasons_of(content.R, **about)
    how = formulas(known=content.known)
    if as_json:
        print_json({"metrics": found, "not_computed": reasons, "formulas": how, "notes": content.notes})
    else:
        _show_metrics(found, reasons, how, content.notes)


def _show_metrics(
    found: Mapping[str, float | None], reasons: Mapping[str, str], how: Mapping[str, str], notes: Sequence[str]
) -> None:
    """A line per metric: its value and formula, or why it has no value."""
    from evertune.cli.printing import show_note
    from evertune.reporting.blocks import BlockTable
    from evertune.reporting.labels import METRIC_TITLES, number

    rows = [
        (METRIC_TITLES.get(name, name), number(name, value), how[name] if value is not None else reasons.get(name, ""))
        for name, value in found.items()
    ]
    console = make_console()
    console.print(BlockTable(("metric", "value", "formula, or what it needs"), rows, texts=1))
    for note in notes:
        show_note(console, note)


def found_runs(places: list[Path]) -> list[Path]:
    """Run folders among `places` and below them."""
    found = []
    for place in without_reports(places):
        if not place.is_dir():
            raise UserError(f"{place} is not a folder")
        here = sorted(path.parent for path in place.rglob("matrix.json"))
        if not here:
            if (place / "eval_set").exists():
                raise UserError(f"{place} was trained task by task; first run: evertune check {place} --every-stage")
            raise UserError(f"{place} holds no run (no matrix.json in it)")
        found += here
    return list(dict.fromkeys(found))
