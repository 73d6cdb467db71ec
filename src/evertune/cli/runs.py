"""The commands about one run, thin like the others: `run` and `plan`, which take the same arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evertune.cli.options import (
    AdapterOption,
    DataOption,
    DeterministicOption,
    JsonOption,
    LimitOption,
    ModelOption,
    ProbeOption,
    SeedOption,
    SetOption,
    SkipBadOption,
    StreamArgument,
    TrackOption,
    loading,
    make_console,
    print_json,
)
from evertune.utils.distributed import is_main_process

if TYPE_CHECKING:
    from rich.console import Console

    from evertune.reporting.matrix import Matrix
    from evertune.runs.config import RunConfig

MethodOption = Annotated[
    str | None, typer.Option("--method", metavar="A[,B]", help="A,B: a run each; A+B: combined [default: sequential].")
]
OutOption = Annotated[
    str | None,
    typer.Option("--out", "-o", metavar="DIR", help="The folder of the runs [default: runs/STREAM-MODEL-sSEED]."),
]

Action = Callable[["RunConfig", bool], None]


def takes_a_run(action: Action) -> Callable[..., None]:
    """Make a command of `action(config, as_json)`: `run` and `plan` take the same arguments."""

    def command(
        stream: StreamArgument,
        model: ModelOption = None,
        adapter: AdapterOption = None,
        method: MethodOption = None,
        seed: SeedOption = None,
        limit: LimitOption = None,
        out: OutOption = None,
        data: DataOption = None,
        skip_invalid: SkipBadOption = False,
        deterministic: DeterministicOption = False,
        settings: SetOption = None,
        probe: ProbeOption = None,
        track: TrackOption = None,
        as_json: JsonOption = False,
    ) -> None:
        with loading():
            from evertune.runs.api import configure

        given: dict[str, Any] = {"model": model, "method": method, "seed": seed, "limit": limit, "out": out}
        given |= {
            "data": data,
            "skip_invalid": skip_invalid or None,
            "deterministic": deterministic or None,
            "probes": probe or None,
            "track": track,
        }
        adapters = [f"model.adapter={adapter}"] if adapter else []
        action(configure(stream, settings=[*adapters, *(settings or [])], **given), as_json)

    command.__doc__ = action.__doc__
    return command


@takes_a_run
def run(config: RunConfig, as_json: bool) -> None:
    """Train a model on a stream of tasks and measure what it keeps. Writes a report; the same command again resumes."""
    with loading():
        from evertune.cli.console import TerminalCallback
        from evertune.cli.printing import show_value
        from evertune.runs.api import method_specs, run_config

    console = make_console(quiet=as_json or not is_main_process())
    with TerminalCallback(console, runs=len(method_specs(config))) as callback:
        result = run_config(config, callback=callback, progress=callback.fetching)
    if not is_main_process():
        return
    matrices = [each.matrix for each in result.runs.values()]
    if as_json:
        contents = [matrix.to_dict() for matrix in matrices]
        print_json(contents if len(contents) > 1 else contents[0])
        return
    _show_results(console, matrices, shown=callback.shown)
    console.print()
    show_value(console, "report", result.report.resolve())


@takes_a_run
def plan(config: RunConfig, as_json: bool) -> None:
    """Show what a run would do and cost, without training. Takes the arguments of `run`."""
    with loading():
        from rich.text import Text

        from evertune.cli.console import TerminalCallback
        from evertune.cli.plan_view import show_estimates, show_plans
        from evertune.cli.printing import show_text
        from evertune.runs.plan.api import plan as plan_of
        from evertune.runs.plan.planner import Plan

    console = make_console(quiet=as_json)
    with TerminalCallback(console) as callback:
        plans = plan_of(config, progress=callback.fetching)
    if as_json:
        print_json(plans)
        return
    show_text(console, Text.assemble((f"{config.stream} with {config.model}", "bold"), ", nothing is trained\n"))
    measured = [made for made in plans if isinstance(made, Plan)]
    if measured:
        show_plans(console, measured)
    else:
        show_estimates(console, [made for made in plans if not isinstance(made, Plan)])


def _show_results(console: Console, matrices: list[Matrix], *, shown: set[str]) -> None:
    """The matrices of runs that were finished before, and all runs side by side."""
    from evertune.cli.printing import show_note
    from evertune.reporting.tables import compare, rich_matrix, rich_table

    for matrix in matrices:
        if matrix.method in shown:
            continue
        console.print()
        console.print(rich_matrix(matrix))
        for warning in matrix.warnings:
            show_note(console, warning)
    if len(matrices) > 1:
        console.print()
        console.print(rich_table(compare(matrices)))
