"""What a run looks like in the terminal: three bars (run, stage, step), a line per finished row, the time left."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
)
from rich.table import Column
from rich.text import Text

from evertune.cli.printing import show_note, show_text
from evertune.data import Task
from evertune.runs.callback import Callback
from evertune.utils.terminal import plain

if TYPE_CHECKING:
    from evertune.reporting.matrix import Matrix
    from evertune.reporting.matrix_text import MatrixText
    from evertune.training.loop import Step
    from evertune.training.stages import Stage


def hours(seconds: float) -> str:
    """`1:02:03` or `2:03`."""
    whole = max(0, int(seconds))
    minutes, rest = divmod(whole, 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"


EVERY = 0.1
"""Seconds between two drawings of the bars."""


class TimeLeft:
    """Time left from what is still to train and to answer, at the speed seen so far."""

    def __init__(self) -> None:
        self.open = {"train": 0, "answer": 0}
        self._done = {"train": 0, "answer": 0}
        self._seconds = {"train": 0.0, "answer": 0.0}

    def add(self, kind: str, amount: int, seconds: float) -> None:
        """Count finished work."""
        self.open[kind] = max(0, self.open[kind] - amount)
        self._done[kind] += amount
        self._seconds[kind] += seconds

    def left(self) -> float | None:
        """Seconds left; None while there is nothing to go by."""
        total = 0.0
        for kind, amount in self.open.items():
            if amount and not self._done[kind]:
                return None
            total += amount * self._seconds[kind] / max(1, self._done[kind])
        return total


class TerminalCallback(Callback):
    """Nested progress bars on a terminal; plain lines, one per row of R, where there is none."""

    def __init__(self, console: Console, *, runs: int = 1) -> None:
        self.console = console
        self._runs_after = runs
        self._pace = TimeLeft()
        self._later = {"train": 0, "answer": 0}
        self._mark = time.perf_counter()
        self._progress = Progress(
            *_columns(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
            auto_refresh=False,  # a thread that draws while a line is printed left parts of old bars on the screen
        )
        self._drawn = time.monotonic()
        self._bars: dict[str, TaskID] = {}
        self._pieces = 1
        self._layout: MatrixText | None = None
        self._cached: list[str] = []
        self._warned: set[str] = set()
        self._features: str | None = None
        self.shown: set[str] = set()
        """Methods whose rows were printed."""

    def __enter__(self) -> TerminalCallback:
        self._progress.start()
        self._bar("start", "loading data and model", None, note="")
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def fetching(self, what: str, done: int, total: int) -> None:
        """Progress of a download or conversion (an `assets.Progress`)."""
        self._started()
        if what not in self._bars and " " not in what:  # a package; a sentence of its own is a bar and leaves no line
            show_text(self.console, f"fetching {what}", style="dim")
        unit, note = (1, "") if " " in what else (1_000_000, "MB")  # a sentence counts what it names
        self._bar(what, what, max(1, total // unit), note=note)
        self._update(self._bars[what], completed=min(done // unit, max(1, total // unit)))
        if done >= total:
            self._update(self._bars[what], visible=False)

    def on_model_loaded(self, name: str, facts: dict[str, str]) -> None:
        """One quiet line."""
        self._started()
        show_text(self.console, " · ".join([name, *facts.values()]), style="dim")

    def _started(self) -> None:
        """The first news ends the bar that stands for what takes long before it."""
        if "start" in self._bars:
            self._progress.remove_task(self._bars.pop("start"))

    def on_run_begin(self, title: str, *, training: list[int], answers: int) -> None:
        """New bars; what later runs of the same command need counts for the time left."""
        for bar in self._bars.values():
            self._progress.remove_task(bar)
        self._bars = {}
        self._runs_after -= 1
        self._later = {"train": sum(training), "answer": answers}
        self._pace.open = {kind: amount * (1 + self._runs_after) for kind, amount in self._later.items()}
        show_text(self.console, f"\n{title}", style="bold")
        self._bar("run", "rows", len(training) + 1, note="")
        self._bar("stage", "  stage", 1, note="")
        self._bar("step", "    step", 1, note="")
        self._layout = None
        self._cached = []
        self._mark = time.perf_counter()

    def on_features_settled(self, choice: str) -> None:
        """One quiet line, for the first of several runs."""
        if self._features is None:
            show_text(self.console, choice, style="dim")
        self._features = choice

    def on_environment_changed(self, changes: list[str]) -> None:
        """A warning: numbers may differ in their last bits from here on."""
        show_note(
            self.console,
            f"the run was begun with {'; '.join(changes)}: from here on numbers may differ in their last bits "
            "(noted in provenance.json)",
        )

    def on_task_begin(self, number: int, task: Task) -> None:
        """The step bar starts anew."""
        self._bar("stage", f"  {task.name}", 2, note="learning")
        self._bar("step", "    step", 1, note="")
        self._mark = time.perf_counter()

    def on_encode(self, done: int, total: int) -> None:
        """The step bar counts samples, until the first step or answer."""
        self._update(self._bars["step"], completed=done, total=total, note="encoding images")
        self._mark = time.perf_counter()

    def on_step_end(self, step: Step, *, samples: int) -> None:
        """Loss, speed and the time left."""
        self._count("train", samples)
        if step.pieces > self._pieces:
            show_note(
                self.console,
                f"memory was full at step {step.step}: micro-batches are done in {step.pieces} pieces from here on; "
                "the effective batch is the same",
            )
        self._pieces = step.pieces
        speed = step.samples_per_second
        note = f"loss {step.loss:.3f} · {speed:.{0 if speed >= 100 else 1}f} samples/s"
        self._update(self._bars["step"], total=step.steps, completed=step.step, note=note)

    def on_task_end(self, stage: Stage) -> None:
        """Say when a training was reused instead of done again."""
        self._update(self._bars["stage"], completed=1)
        if stage.reused:
            self._pace.open["train"] = max(0, self._pace.open["train"] - stage.samples)
            self._cached.append(stage.task)
        self._mark = time.perf_counter()

    def on_evaluate_begin(self, stage: int, task: Task) -> None:
        """Say which task is being answered."""
        self._update(self._bars["stage"], note=f"answering, row {stage}")
        self._bar("step", f"    {task.name}", len(task.test), note="")
        self._mark = time.perf_counter()

    def on_prediction(self, done: int, total: int) -> None:
        """The step bar counts questions."""
        self._update(self._bars["step"], completed=done, total=total, note="")

    def on_evaluate_end(self, stage: int, task: Task, score: float) -> None:
        """Count the answers."""
        self._update(self._bars["step"], completed=len(task.test))
        self._count("answer", len(task.test))

    def on_row_end(self, stage: int, name: str, row: list[float | None], tasks: list[str]) -> None:
        """One line per row of R, the titles before the first."""
        from evertune.reporting.matrix_text import matrix_text  # with what draws pages: not for every command

        if self._layout is None:
            self._layout = matrix_text(tasks, [name, *tasks], width=self.console.width)
            for line in self._layout.header():
                self.console.print(line, soft_wrap=True)
        self.console.print(self._layout.row(stage, name, row, tasks), soft_wrap=True)
        self._update(self._bars["run"], advance=1)

    def on_run_end(self, matrix: Matrix) -> None:
        """The metrics under the rows."""
        from evertune.reporting.tables import summary_of

        self.shown.add(matrix.method)
        for line in summary_of(matrix, width=self.console.width):
            self.console.print(line, soft_wrap=True)
        if self._cached:
            names = ", ".join(self._cached)
            show_text(self.console, f"reused from the cache, an identical training: {names}", style="dim")
        for warning in matrix.warnings:
            self.on_warning(warning)

    def on_warning(self, text: str) -> None:
        """A yellow line, once."""
        if text in self._warned:
            return
        self._warned.add(text)
        show_note(self.console, text)

    def _bar(self, key: str, description: str, total: int | None, *, note: str) -> None:
        description = escape(plain(description))  # TextColumn reads markup
        if key in self._bars:
            self._update(self._bars[key], description=description, total=total, completed=0, note=note)
        else:
            self._bars[key] = self._progress.add_task(description, total=total, note=note)

    def _update(self, bar: TaskID, **changes: Any) -> None:
        """Change a bar; it is drawn at most ten times a second."""
        self._progress.update(bar, **changes)
        now = time.monotonic()
        if now - self._drawn >= EVERY:
            self._drawn = now
            self._progress.refresh()

    def _count(self, kind: str, amount: int) -> None:
        now = time.perf_counter()
        self._pace.add(kind, amount, now - self._mark)
        self._mark = now
        left = self._pace.left()
        if "run" in self._bars:
            self._update(self._bars["run"], note=f"{hours(left)} left" if left is not None else "")


class _Count(MofNCompleteColumn):
    """`done/total`; nothing where the total is not known."""

    def render(self, task: Any) -> Text:
        """Of a bar of rich."""
        return Text() if task.total is None else super().render(task)


def _columns() -> Iterator[ProgressColumn]:
    """Columns of fixed widths, so that no bar moves; 80 together."""
    yield TextColumn("{task.description}", table_column=Column(width=22, no_wrap=True, overflow="ellipsis"))
    yield BarColumn(bar_width=14, complete_style="cyan", finished_style="cyan")
    yield _Count(table_column=Column(width=13, no_wrap=True, justify="right"))
    yield TextColumn("[dim]{task.fields[note]}[/dim]", table_column=Column(width=28, no_wrap=True))
