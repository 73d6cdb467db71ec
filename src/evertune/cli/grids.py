"""The commands that start many runs: `grid` and `study`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evertune.cli.options import JsonOption, loading, make_console, print_json

if TYPE_CHECKING:
    from evertune.experiments.grid import Cell, Totals


def grid(
    file: Annotated[Path, typer.Argument(metavar="FILE.yaml", help="Streams, models, methods, seeds, settings.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="DIR", help="The folder of all runs [default: runs/NAME].")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", metavar="N", min=1, help="Parallel runs [default: the cores; GPU: 1].")
    ] = None,
    ray: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Run on Ray: local, auto or HOST:PORT of a cluster.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the runs in their order; start none.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Do many runs: streams x models x methods x seeds x settings. The same command again resumes."""
    with loading():
        from evertune.cli.console import TerminalCallback
        from evertune.cli.grid_view import GridView, show_grid
        from evertune.experiments.grid import Grid, cells_of, read_grid, summary, write_results

    spec = read_grid(file)
    place = out or Path("runs") / spec.name
    cells = cells_of(spec, out=place)
    console = make_console(quiet=as_json)
    if dry_run:
        _list_cells(cells, as_json=as_json)
        return
    with TerminalCallback(console) as callback:
        made = Grid(cells, jobs=jobs, progress=callback.fetching, ray=ray)
    with GridView(console) as view:
        made.run(view)
    results = write_results(place / "results.json", made, name=spec.name)
    result = summary(spec, made, results=results)
    if as_json:
        print_json(result)
    else:
        show_grid(console, result)
    if made.failed:
        raise typer.Exit(1)


def study(
    name: Annotated[str, typer.Argument(metavar="NAME", help="paper, or the YAML of a study.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="DIR", help="The folder of the study [default: runs/NAME].")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", metavar="N", min=1, help="Parallel runs [default: the cores; GPU: 1].")
    ] = None,
    only: Annotated[
        str | None, typer.Option("--only", metavar="PART", help="Only this part; `findings` starts no run.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the runs in their order; start none.")] = False,
    as_json: JsonOption = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown tables.")] = False,
) -> None:
    """Answer a paper's questions from many runs. Chooses settings on held-out seeds, makes tables and findings; the
    same command again resumes."""
    with loading():
        from evertune.experiments.study import Study, read_study

    spec = read_study(name)
    made = Study(spec, out or Path("runs") / spec.name)
    if dry_run:
        _list_cells([run.cell for run in made.planned(only)], as_json=as_json)
        return
    from evertune.cli.printing import show_value
    from evertune.cli.study_view import do_study, show_study

    console = make_console(quiet=as_json or markdown)
    result, page = do_study(made, console, only=only, jobs=jobs)
    if as_json:
        print_json(result.as_dict())
    elif markdown:
        from evertune.experiments.study.markdown import as_markdown

        print(as_markdown(result))
    else:
        show_study(console, result)
        console.print()
        show_value(console, "report", page.resolve())
    if result.failed or result.stopped:
        raise typer.Exit(1)


def _list_cells(cells: list[Cell], *, as_json: bool) -> None:
    """The runs of a grid in their order, after a check of all methods and options."""
    from dataclasses import asdict

    from evertune.cli.printing import show_text, show_value
    from evertune.experiments.grid import check_methods, state_of, totals_of

    check_methods(cells)
    rows = [{"run": cell.name, "folder": str(cell.folder), "state": state_of(cell)} for cell in cells]
    totals = totals_of(cells)
    if as_json:
        print_json({"runs": rows, "totals": asdict(totals)})
        return
    console = make_console()
    for row in rows:
        show_value(console, f"{row['state']:<8}", row["run"])
    console.print()
    show_text(console, _totals_line(totals))


def _totals_line(totals: Totals) -> str:
    """Runs, hours and disk in a sentence or two."""
    from evertune.reporting.labels import duration
    from evertune.utils.sizes import size

    count = sum(totals.states.values())
    states = ", ".join(f"{number} {state}" for state, number in totals.states.items())
    line = f"{count} run{'s' * (count != 1)}: {states}"
    if totals.seconds is None or totals.stored_bytes is None:
        return (
            f"{line}. Hours and disk are known when one is finished; 'evertune plan STREAM --model MODEL' measures one"
        )
    if totals.seconds == 0:
        return line
    left = f"{duration(totals.seconds)} of training and answering, {size(totals.stored_bytes)} of disk"
    return f"{line}. The others take, by the finished ones: {left}"
