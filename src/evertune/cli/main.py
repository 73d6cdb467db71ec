"""The commands, thin: parse, call the function that does it, print. Nothing heavy is imported before it is needed.

evertune run parcel --model smol --method sequential,replay,eproj --out runs/first
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from evertune.cli.analysis import pairs, similarity
from evertune.cli.data import data_app, rescore
from evertune.cli.models import export, fetch, pretrain
from evertune.cli.options import (
    DataOption,
    DeterministicOption,
    JsonOption,
    LimitOption,
    ModelOption,
    SeedOption,
    SetOption,
    SkipBadOption,
    StreamArgument,
    TrackOption,
)
from evertune.cli.options import make_console as _console
from evertune.cli.options import print_json as _print_json
from evertune.cli.service import advise, ask, check, doctor, learn, log, new, playground, rollback, serve
from evertune.utils.distributed import is_main_process, rank
from evertune.utils.errors import UserError, shortage
from evertune.utils.redaction import without_secrets

if TYPE_CHECKING:
    from rich.console import Console

    from evertune.experiments.grid import Cell
    from evertune.runs.config import RunConfig

INTERRUPTED = 130
STOPPED = 143

app = typer.Typer(
    name="evertune",
    help="Teach a large multimodal model one new task after another, and keep what it knew.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

MethodOption = Annotated[
    str | None, typer.Option("--method", help="A[,B,...] one after another; A+B together [sequential].")
]
OutOption = Annotated[str | None, typer.Option("--out", "-o", help="The run folder [runs/STREAM-MODEL-sSEED].")]
RunsArgument = Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders, or folders of runs.")]


def main() -> None:
    """Run the command line; a user's mistake is one line and exit code 2, an interruption exit code 130, SIGTERM
    exit code 143."""
    signal.signal(signal.SIGTERM, _stop)
    try:
        app()
    except UserError as problem:
        _complain(str(problem))
    except OSError as problem:
        if (lacking := shortage(problem)) is None:
            raise
        _complain(f"{lacking}, then run the same command again")
    except SystemExit as end:
        if end.code == INTERRUPTED:  # typer has turned a KeyboardInterrupt into this
            print("evertune: interrupted; the same command again continues", file=sys.stderr)
        if end.code == STOPPED:
            said = getattr(end, "said", "stopped by SIGTERM")
            print(f"evertune: {said}; the same command again continues", file=sys.stderr)
        raise


def _complain(message: str) -> NoReturn:
    """One line that says which process it is from, and exit code 2."""
    from evertune.utils.terminal import plain

    who = "evertune" if is_main_process() else f"evertune (process {rank()})"
    print(f"{who}: {plain(without_secrets(message))}", file=sys.stderr)
    sys.exit(2)


def _stop(_number: int, _frame: FrameType | None) -> None:
    """SIGTERM outside of a training, where nothing has to be saved: every file is whole or absent."""
    sys.exit(STOPPED)


Action = Callable[["RunConfig", bool], None]


def takes_a_run(action: Action) -> Action:
    """Make a command of `action(config, as_json)`: `run` and `plan` take the same arguments."""

    @app.command(name=action.__name__, help=action.__doc__)
    def command(
        stream: StreamArgument,
        model: ModelOption = None,
        method: MethodOption = None,
        seed: SeedOption = None,
        limit: LimitOption = None,
        out: OutOption = None,
        data: DataOption = None,
        skip_invalid: SkipBadOption = False,
        deterministic: DeterministicOption = False,
        settings: SetOption = None,
        track: TrackOption = None,
        as_json: JsonOption = False,
    ) -> None:
        from evertune.runs.api import configure

        given: dict[str, Any] = {"model": model, "method": method, "seed": seed, "limit": limit, "out": out}
        given |= {
            "data": data,
            "skip_invalid": skip_invalid or None,
            "deterministic": deterministic or None,
            "track": track,
        }
        action(configure(stream, settings=settings or [], **given), as_json)

    return action


@takes_a_run
def run(config: RunConfig, as_json: bool) -> None:
    """Teach a model the tasks of a stream, measure what it keeps, write a report. Resumes."""
    from evertune.cli.console import TerminalCallback
    from evertune.runs.api import method_specs, run_config

    console = _console(quiet=as_json or not is_main_process())
    with TerminalCallback(console, runs=len(method_specs(config))) as callback:
        result = run_config(config, callback=callback, progress=callback.fetching)
    if not is_main_process():
        return
    if as_json:
        _print_json(result.matrices if len(result.matrices) > 1 else result.matrices[0])
        return
    _show_matrices(console, result.matrices)
    console.print(f"\nreport  {result.report.resolve()}", soft_wrap=True, highlight=False)


@takes_a_run
def plan(config: RunConfig, as_json: bool) -> None:
    """Say what `run` with the same arguments would do and cost. Trains nothing."""
    from evertune.cli.console import TerminalCallback, show_paper_plan, show_plan
    from evertune.runs.plan.api import plan as plan_of
    from evertune.runs.plan.planner import Plan

    console = _console(quiet=as_json)
    with TerminalCallback(console) as callback:
        plans = plan_of(config, progress=callback.fetching)
    if as_json:
        _print_json([made.as_dict() for made in plans])
        return
    for made in plans:
        if isinstance(made, Plan):
            show_plan(console, made)
        else:
            show_paper_plan(console, made)


@app.command()
def grid(
    file: Annotated[Path, typer.Argument(metavar="FILE.yaml", help="Streams, models, methods, seeds, settings.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder of all runs [runs/NAME].")] = None,
    jobs: Annotated[int | None, typer.Option("--jobs", "-j", min=1, help="Runs side by side [cores; GPU: 1].")] = None,
    ray: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Do them on Ray: local, auto or HOST:PORT of a cluster.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the runs in their order; start none.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Do many runs side by side: streams x models x methods x seeds x settings. Resumes."""
    from evertune.cli.console import TerminalCallback
    from evertune.cli.grid_view import GridView, show_grid
    from evertune.experiments.grid import Grid, cells_of, read_grid, summary, write_results

    asked = read_grid(file)
    place = out or Path("runs") / asked.name
    cells = cells_of(asked, out=place)
    console = _console(quiet=as_json)
    if dry_run:
        _list_cells(cells, as_json=as_json)
        return
    with TerminalCallback(console) as callback:
        made = Grid(cells, jobs=jobs, progress=callback.fetching, ray=ray)
    with GridView(console) as view:
        made.run(view)
    results = write_results(place / "results.json", made.finished, name=asked.name)
    result = summary(asked, made, results=results)
    if as_json:
        _print_json(result.as_dict())
    else:
        show_grid(console, result)
    if made.failed:
        raise typer.Exit(1)


@app.command()
def study(
    name: Annotated[str, typer.Argument(metavar="NAME", help="paper, or a study's YAML.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder of the study [runs/NAME].")] = None,
    jobs: Annotated[int | None, typer.Option("--jobs", "-j", min=1, help="Runs side by side [cores; GPU: 1].")] = None,
    only: Annotated[
        str | None, typer.Option("--only", metavar="PART", help="One part; `findings` starts no run.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the runs in their order; start none.")] = False,
    as_json: JsonOption = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown tables.")] = False,
) -> None:
    """Answer a paper's questions from many runs: chosen settings, tables, findings. Resumes."""
    from evertune.experiments.study import Study, read_study

    asked = read_study(name)
    made = Study(asked, out or Path("runs") / asked.name)
    if dry_run:
        _list_cells([run.cell for run in made.planned(only)], as_json=as_json)
        return
    from evertune.cli.study_view import do_study, show_study

    console = _console(quiet=as_json or markdown)
    result, page = do_study(made, console, only=only, jobs=jobs)
    if as_json:
        _print_json(result.as_dict())
    elif markdown:
        from evertune.experiments.study.markdown import as_markdown

        print(as_markdown(result))
    else:
        show_study(console, result)
        console.print(f"\nreport  {page.resolve()}", soft_wrap=True, highlight=False)
    if result.failed or result.stopped:
        raise typer.Exit(1)


def _list_cells(cells: list[Cell], *, as_json: bool) -> None:
    """The runs of a grid in their order, after a check of all methods and options."""
    from evertune.experiments.grid import check_methods, state_of

    check_methods(cells)
    rows = [{"run": cell.name, "folder": str(cell.folder), "state": state_of(cell)} for cell in cells]
    if as_json:
        _print_json(rows)
        return
    for row in rows:
        print(f"{row['state']:<9} {row['run']}")


app.command()(similarity)
app.command()(pairs)
app.command()(rescore)
for thin in (new, learn, check, ask, log, rollback, serve, doctor, pretrain, fetch, export):
    app.command()(thin)
app.command(name="try")(advise)
app.command("app")(playground)
app.add_typer(data_app)


@app.command()
def ls(
    what: Annotated[str, typer.Argument(metavar="methods|streams|models|formats")] = "methods",
    as_json: JsonOption = False,
) -> None:
    """List methods, streams, models or formats of data."""
    from evertune.cli.catalogue import listing

    rows = listing(what)
    if as_json:
        _print_json(rows)
        return
    from evertune.cli.console import show_facts

    show_facts(_console(), what, {row["name"]: row["title"] for row in rows})


@app.command()
def show(name: Annotated[str, typer.Argument(metavar="NAME")], as_json: JsonOption = False) -> None:
    """Show a method (paper, formula, options, cost), a stream (tasks, licences), a model or a format."""
    from evertune.cli.catalogue import details

    facts = details(name)
    if as_json:
        _print_json(facts)
        return
    from evertune.cli.console import show_facts

    console = _console()
    for title, section in facts.items():
        show_facts(console, title, section)
        console.print()


@app.command()
def compare(
    runs: RunsArgument,
    as_json: JsonOption = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print a Markdown table.")] = False,
) -> None:
    """Put runs side by side: mean and standard deviation over seeds."""
    from dataclasses import asdict

    from evertune.reporting import as_markdown, load_matrix, rich_table
    from evertune.reporting import compare as compare_matrices

    rows = compare_matrices([load_matrix(run) for run in found_runs(runs)])
    if as_json:
        _print_json([asdict(row) for row in rows])
    elif markdown:
        print(as_markdown(rows))
    else:
        _console().print(rich_table(rows))


@app.command()
def report(runs: RunsArgument, out: Annotated[Path, typer.Option("--out", "-o")] = Path("report.html")) -> None:
    """Write one HTML page about one or more runs."""
    from evertune.reporting import write_report

    _console().print(str(write_report(found_runs(runs), out).resolve()), soft_wrap=True, highlight=False)


@app.command()
def metrics(
    matrix: Annotated[Path, typer.Argument(metavar="MATRIX", help="JSON, CSV or TSV; rows are stages, columns tasks.")],
    known: Annotated[
        int | None, typer.Option("--known", metavar="K", help="The first K columns were known before the stream.")
    ] = None,
    base: Annotated[
        bool | None, typer.Option("--base/--no-base", help="Is the first row the base model's? [by names and shape]")
    ] = None,
) -> None:
    """Compute all metrics of any matrix, as JSON."""
    from evertune.metrics.matrix_files import read_matrix
    from evertune.metrics.metrics import formulas, metrics_of

    content = read_matrix(matrix, known=known, base=base)
    values = metrics_of(content.R, known=content.known, direct=content.direct, joint_average=content.joint_average)
    _print_json({"metrics": values, "formulas": formulas(known=content.known), "notes": content.notes})


def found_runs(places: list[Path]) -> list[Path]:
    """Run folders among `places` and below them."""
    found = []
    for place in places:
        if not place.is_dir():
            raise UserError(f"{place} is not a folder")
        here = sorted(path.parent for path in place.rglob("matrix.json"))
        if not here:
            if (place / "eval_set").exists():
                raise UserError(f"{place} was taught task by task: first evertune check {place} --every-stage")
            raise UserError(f"{place} holds no run (no matrix.json in it)")
        found += here
    return list(dict.fromkeys(found))


def _show_matrices(console: Console, matrices: list[dict[str, Any]]) -> None:
    from rich.markup import escape

    from evertune.reporting import compare as compare_matrices
    from evertune.reporting import rich_matrix, rich_table

    for matrix in matrices:
        console.print()
        console.print(rich_matrix(matrix))
        for warning in matrix["warnings"]:
            console.print(f"[yellow]note[/yellow]  {escape(warning)}")
    if len(matrices) > 1:
        console.print()
        console.print(rich_table(compare_matrices(matrices)))
