"""What a grid looks like in the terminal: a line per run that ended, how many wait, what each worker is at.

Apart from `console`, because comparing runs loads what draws them, and `run` need not wait for that.
"""

from __future__ import annotations

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from evertune.cli.console import hours
from evertune.cli.printing import show_note, show_text, show_value
from evertune.experiments.grid import GridCallback, JobResult, Status, Summary
from evertune.reporting.curves import rich_curve
from evertune.reporting.tables import rich_table


class GridView(GridCallback):
    """One line per run that ended; below them, on a terminal, how many wait and what each worker is at."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._live = Live(console=console, transient=True, auto_refresh=False)

    def __enter__(self) -> GridView:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def changed(self, status: Status) -> None:
        """Show the counts, the time left and the workers."""
        if not self.console.is_terminal:
            return
        left = "" if status.seconds_left is None else f" · about {hours(status.seconds_left)} left"
        counts = {"finished": status.done, "running": len(status.running), "waiting": status.waiting}
        counts |= {"failed": status.failed} if status.failed else {}
        counts |= {"in another process": status.elsewhere} if status.elsewhere else {}
        line = " · ".join(f"{number} {name}" for name, number in counts.items())
        table = Table.grid(padding=(0, 2))
        for run in status.running:
            table.add_row(
                escape(f"  {run.name}"), f"[dim]{escape(run.doing)}[/dim]", f"[dim]{hours(run.seconds)}[/dim]"
            )
        self._live.update(Group(Text(line + left, style="dim"), table), refresh=True)

    def run_ended(self, name: str, ended: JobResult) -> None:
        """Say that a run is done, or how its log ends."""
        if ended.problem is None:
            show_text(self.console, f"finished  {name}  {hours(ended.seconds)}")
        else:
            show_text(self.console, f"failed    {name}", style="red")
            show_text(self.console, ended.problem, style="dim", indent=10)


def show_grid(console: Console, result: Summary) -> None:
    """The comparison of all finished runs, the curves, what failed and where the results are."""
    for table in [*([rich_table(result.rows)] if result.rows else []), *map(rich_curve, result.curves)]:
        console.print()
        console.print(table)
    for note in result.notes:
        show_note(console, note)
    if result.failed:
        show_text(console, f"{len(result.failed)} failed: {', '.join(result.failed)}", style="red")
    console.print()
    count = len(result.finished)
    show_value(console, f"results of {count} run{'s' * (count != 1)}", result.results.resolve())
