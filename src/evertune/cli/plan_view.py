"""Plans on the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from evertune.cli.console import hours
from evertune.runs.runner import few_steps

if TYPE_CHECKING:
    from evertune.runs.plan.estimate import Estimate
    from evertune.runs.plan.planner import Plan, StagePlan


def _table(console: Console, title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table whose first column is names and whose others are numbers."""
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim")
    table.add_column(columns[0])
    for column in columns[1:]:
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(*map(escape, row))
    console.print(table)


def _show_stages(console: Console, title: str, stages: Sequence[StagePlan]) -> None:
    rows = [(stage.task, str(stage.samples), str(stage.steps), str(stage.test or "-")) for stage in stages]
    _table(console, title, ("stage", "training samples", "steps", "test samples"), rows)


def show_paper_plan(console: Console, made: Estimate) -> None:
    """Stages, what trains, memory by part, and hours on each GPU."""
    _show_stages(console, f"{made.method}, {made.model} on paper", made.stages)
    parts = ", ".join(f"{part} {count:,}" for part, count in made.trained_by_part.items() if count)
    console.print(
        f"{made.trained_parameters:,} of {made.all_parameters:,} parameters train ({parts}); every task keeps "
        f"{made.per_task_bytes / 1e6:.1f} MB, and a stage to go back to takes {made.stage_bytes / 1e6:.1f} MB, "
        f"{100 * made.share_of_model:.2f} % of the model as {made.dtype}; about "
        f"{made.tokens['visual']} visual and {made.tokens['text']} text tokens per sample",
        highlight=False,
    )
    sizes = {**made.memory, "together": sum(made.memory.values())}
    _table(console, "", ("memory", "GB"), [(part, f"{size / 1e9:.1f}") for part, size in sizes.items()])
    rows = [(c.name, "yes" if c.fits else "no", _hours(c.train_hours), _hours(c.evaluate_hours)) for c in made.cards]
    _table(console, "", ("GPU", "fits", "hours training", "hours answering"), rows)


def _hours(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}"


def show_plan(console: Console, made: Plan) -> None:
    """Stages, sizes and what it would cost."""
    _show_stages(console, made.method, made.stages)
    console.print(
        f"{made.trained_parameters:,} of {made.all_parameters:,} parameters train · {made.dtype} · "
        f"{made.threads} thread{'s' * (made.threads != 1)} · {made.peak_memory_bytes / 1e9:.1f} GB · about "
        f"{_time(made.train_seconds)} training and at most {_time(made.evaluate_seconds)} answering\n",
        highlight=False,
    )
    for warning in few_steps((stage.task, stage.steps, stage.samples) for stage in made.stages):
        console.print(f"[yellow]note[/yellow]  {escape(warning)}", highlight=False, soft_wrap=True)


def _time(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else hours(seconds)
