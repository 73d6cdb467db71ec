"""`Matrix`: the scores of a run, checked as a whole before they are used, because the file may be of any origin.

Tables, plots and pages rely on its values without checking them again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evertune.metrics.metrics import check_matrix, is_score, known_from
from evertune.reporting.frames import wide_frame
from evertune.reporting.held_out import HeldOut
from evertune.reporting.matrix_text import matrix_text
from evertune.training.run_origin import FORMAT
from evertune.utils.arguments import plain_number
from evertune.utils.errors import RunFolderError, UserError, kind_of, unknown
from evertune.utils.files import read_json
from evertune.utils.symlinks import refuse_links

if TYPE_CHECKING:
    import pandas as pd

KEYS = (
    *("model", "stream", "method", "seed", "settings", "known", "tasks", "stages", "finished", "R", "relaxed"),
    *("metrics", "not_computed", "formulas", "held_out", "warnings", "cost", "cells"),
)
"""Of the file, in its order, after `format`."""
REQUIRED = {"model": str, "stream": str, "method": str, "seed": int, "tasks": list, "stages": list, "R": list}
MOST_TASKS = 10_000
MOST_SHOWN, WIDTH = 12, 100
"""Of a repr: rows and columns of R, and characters of a line."""
SHOWN = ("final_average", "learning_accuracy", "forgetting")
MOST_SECONDS = 1e12
IN_CELL: Mapping[str, Callable[[Any], bool]] = {
    "stage": lambda value: type(value) is int,
    "task": lambda value: isinstance(value, str),
    "n": lambda value: value is None or (type(value) is int and 0 <= value < 1 << 53),
    "score_rule": lambda value: isinstance(value, str),
    "standard_error": lambda value: value is None or is_score(value),
    "own_expert": lambda value: isinstance(value, str | None),
    "experts": lambda value: (
        value is None or _is_table(value, lambda count: type(count) is int and 0 <= count < 1 << 53)
    ),
}
"""By key, what a cell's value must be where there is one."""


@dataclass(frozen=True, slots=True, repr=False)
class Matrix:
    """The content of a `matrix.json`, whole or in progress.

    Attributes:
        tasks: the columns; those that the model knew before the stream come first.
        stages: one name per stage, also of stages that have no row yet.
        R: `R[t][i]` is the score on task i after stage t, row 0 that of the base model; points of 100. None where it
            was not evaluated (`evaluation.cells`).
        known: the tasks that the model knew before.
        relaxed: R with relaxed scores; None where only strict ones are known.
        metrics: by name; empty while the run is in progress.
        not_computed: by name, why a metric is None.
        held_out: what became of abilities that no task trains; None where nothing was evaluated.
        cells: a row of the ledger per score.
        folder: the name of the run folder; '' where there is none.
    """

    model: str
    stream: str
    method: str
    seed: int
    tasks: list[str]
    stages: list[str]
    R: list[list[float | None]]
    settings: dict[str, Any] = field(default_factory=dict)
    known: list[str] = field(default_factory=list)
    relaxed: list[list[float | None]] | None = None
    metrics: dict[str, float | None] = field(default_factory=dict)
    not_computed: dict[str, str] = field(default_factory=dict)
    formulas: dict[str, str] = field(default_factory=dict)
    held_out: HeldOut | None = None
    warnings: list[Any] = field(default_factory=list)
    cost: dict[str, Any] = field(default_factory=dict)
    cells: list[dict[str, Any]] = field(default_factory=list)
    folder: str = field(default="", compare=False)

    @classmethod
    def from_dict(cls, content: Any) -> Matrix:
        """The matrix that `to_dict` gave; other keys are ignored, and only what `REQUIRED` has must be there.

        Raises:
            UserError: a value is missing or can't be one of a run.
        """
        _check(content)
        known = {key: content[key] for key in KEYS if key in REQUIRED or (key != "finished" and content.get(key))}
        if "held_out" in known:
            known["held_out"] = HeldOut.from_dict(known["held_out"], rows=len(known["R"]))
        return cls(**known)

    @classmethod
    def read(cls, folder: Path) -> Matrix:
        """The matrix of the run in `folder`.

        Raises:
            RunFolderError: missing, damaged, or not a matrix; the message names the file.
        """
        path = folder / "matrix.json"
        content = read_json(path)
        try:
            if isinstance(content, dict) and content.get("format") != FORMAT:
                raise UserError(f"format {content.get('format')!r:.60}, this version reads {FORMAT}")
            return replace(cls.from_dict(content), folder=folder.resolve().name)
        except UserError as problem:
            raise RunFolderError(f"{path} is not the matrix of a run: {problem}") from problem

    def to_dict(self) -> dict[str, Any]:
        """As `matrix.json` holds it."""
        content = {"format": FORMAT, **{key: getattr(self, key) for key in KEYS}}
        return {**content, "held_out": self.held_out and self.held_out.to_dict()}

    @property
    def finished(self) -> bool:
        """Whether every stage has its row."""
        return len(self.R) == len(self.stages) + 1

    @property
    def gaps(self) -> int:
        """The number of cells that were not evaluated, in the rows that there are."""
        return sum(score is None for row in self.R for score in row)

    @property
    def follows_stream(self) -> bool:
        """Whether the stages are the new tasks of the stream, one after another (`joint` has a single stage)."""
        return self.stages == self.tasks[len(self.known) :]

    @property
    def setting(self) -> tuple[str, str, tuple[str, ...], int]:
        """What runs must share to be comparable: stream, model, tasks, and how many of them were known before."""
        return self.stream, self.model, tuple(self.tasks), len(self.known)

    def stage_of(self, task: str) -> int | None:
        """The number of the stage that learned `task`; None if not reached.

        0 for a task that was known before, and for a probe; the single stage of `joint` teaches all new ones.
        """
        if task in self.known or (self.held_out and task in self.held_out.probes):
            return 0
        stage = self.stages.index(task) + 1 if task in self.stages else len(self.stages)
        return stage if stage < len(self.R) else None

    def row_of(self, stage: int | str) -> int:
        """The row of R that is meant by its number, by the name of its stage, or by "base".

        Raises:
            UserError: R has no such row; the message has the nearest name.
        """
        names = ["base", *self.stages][: len(self.R)]
        if isinstance(stage, str) and stage in names:
            return names.index(stage)
        stage = plain_number(stage)  # of a frame
        if isinstance(stage, int) and not isinstance(stage, bool) and 0 <= stage < len(names):
            return stage
        if isinstance(stage, str):
            raise unknown("stage", stage, names)
        raise UserError(f"stage {stage!r:.60}: expected 0 to {len(names) - 1}, or a name: {', '.join(names):.200}")

    def column_of(self, task: str) -> int:
        """The column of R of a task.

        Raises:
            UserError: there is none; the message has the nearest name.
        """
        if not isinstance(task, str):
            raise UserError(f"the task is {kind_of(task)}; taken is its name: {', '.join(self.tasks):.200}")
        if task not in self.tasks:
            raise unknown("task", task, self.tasks)
        return self.tasks.index(task)

    def score_of(self, stage: int, task: str) -> float | None:
        """The score of a column of R, or of a probe, after a stage; None where it was not evaluated.

        Raises:
            UserError: there is no such task; the message has the nearest name.
        """
        if self.held_out and task in self.held_out.probes:
            return self.held_out.scores[stage][self.held_out.probes.index(task)]
        return self.R[stage][self.column_of(task)]

    def to_frame(self, *, relaxed: bool = False) -> pd.DataFrame:
        """R as a pandas frame: rows are stages, "base" first, columns tasks; `metrics_of` takes it.

        Args:
            relaxed: the relaxed scores instead of the strict ones.

        Raises:
            UserError: pandas is not installed, or there are no relaxed scores.
        """
        if relaxed and self.relaxed is None:
            raise UserError("this matrix has no relaxed scores")
        R = self.relaxed if relaxed and self.relaxed else self.R
        return wide_frame(R, stages=["base", *self.stages][: len(R)], tasks=self.tasks)

    def __repr__(self) -> str:
        """What it is, its metrics, and R where it is small."""
        done = f"{len(self.R) - 1} of {len(self.stages)} stages, {len(self.tasks)} tasks"
        lines = [f"Matrix({self.method} on {self.stream}, {self.model}, seed {self.seed}: {done})"]
        names = ["base", *self.stages]
        if len(self.R) <= MOST_SHOWN and len(self.tasks) <= MOST_SHOWN:
            made = matrix_text(self.tasks, names, width=WIDTH)
            rows = (made.row(at, names[at], scores, self.tasks) for at, scores in enumerate(self.R))
            lines += [line.plain for line in (*made.header(), *rows)]
        shown = [f"{name} {value:.1f}" for name in SHOWN if (value := self.metrics.get(name)) is not None]
        return "\n".join([*lines, *([", ".join(shown)] if shown else [])])

    def diagonal(self) -> list[float | None] | None:
        """Each new task's score right after its own stage, None for a known one, or where it was not evaluated.

        None for all while the run is in progress, or when it has no such stages.
        """
        if not (self.finished and self.follows_stream):
            return None
        known = len(self.known)
        return [None if i < known else self.R[known_from(i, known)][i] for i in range(len(self.tasks))]


def load_matrix(run: Path) -> Matrix:
    """`Matrix.read` of a run folder that anyone may have made.

    Raises:
        RunFolderError: as there, or a link is in the folder.
    """
    refuse_links(run)
    return Matrix.read(run)


def _check(matrix: Any) -> None:
    if not isinstance(matrix, dict):
        raise UserError("expected an object")
    for key, kind in REQUIRED.items():
        if not isinstance(matrix.get(key), kind) or isinstance(matrix[key], bool):
            raise UserError(f"'{key}' is missing or not of type {kind.__name__}")
    for key in ("tasks", "stages"):
        if not all(isinstance(name, str) for name in matrix[key]) or len(matrix[key]) > MOST_TASKS:
            raise UserError(f"'{key}' must be names, at most {MOST_TASKS:,}")
    if len(set(matrix["tasks"])) != len(matrix["tasks"]):
        raise UserError("'tasks' names one of them twice")
    known = matrix.get("known") or []
    if not isinstance(known, list) or matrix["tasks"][: len(known)] != known or known == matrix["tasks"]:
        raise UserError("'known' must name the first of the tasks, and not all of them")
    _check_scores(matrix["R"], matrix, "R")
    if matrix.get("relaxed") is not None:
        _check_scores(matrix["relaxed"], matrix, "relaxed")
        if len(matrix["relaxed"]) != len(matrix["R"]):
            raise UserError("'relaxed' and 'R' differ in their number of rows")
    _check_cells(matrix.get("cells") or [])
    _check_tables(matrix)


def _check_scores(rows: Any, matrix: Mapping[str, Any], name: str) -> None:
    """Rows of one finite score or None per task, at most one row per stage and one for the base model."""
    if not isinstance(rows, list) or not rows or not all(isinstance(row, list) for row in rows):
        raise UserError(f"'{name}' has no rows")
    if len(rows) > len(matrix["stages"]) + 1:
        raise UserError(f"'{name}' has {len(rows)} rows for {len(matrix['stages'])} stages")
    if not matrix["tasks"] or len(rows[0]) != len(matrix["tasks"]):
        raise UserError(f"'{name}' has {len(rows[0])} columns for {len(matrix['tasks'])} tasks")
    check_matrix(rows if len(rows) > 1 else rows * 2, gaps=True)  # a run in progress may have row 0 only


def _check_cells(cells: Any) -> None:
    if not isinstance(cells, list) or not all(isinstance(c, dict) and {"stage", "task"} <= c.keys() for c in cells):
        raise UserError("'cells' holds something that is no cell")
    for number, cell in enumerate(cells, start=1):
        for key, is_sound in IN_CELL.items():
            if key in cell and not is_sound(cell[key]):
                raise UserError(f"'cells', {number}: '{key}' is {cell[key]!r:.60}")


def _check_tables(matrix: Mapping[str, Any]) -> None:
    """What is shown beside the scores."""
    if not _is_table(matrix.get("metrics") or {}, lambda value: value is None or is_score(value)):
        raise UserError("'metrics' must be numbers by name")
    if not _is_table(matrix.get("cost") or {}, lambda value: is_score(value) and 0 <= value < MOST_SECONDS):
        raise UserError("'cost' must be numbers by name")
    for key in ("formulas", "not_computed", "settings"):
        if not isinstance(matrix.get(key) or {}, dict):
            raise UserError(f"'{key}' must be an object")
    if not isinstance(matrix.get("warnings") or [], list):
        raise UserError("'warnings' must be a list")


def _is_table(value: Any, is_sound: Callable[[Any], bool]) -> bool:
    return isinstance(value, dict) and all(is_sound(one) for one in value.values())
