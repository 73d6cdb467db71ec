"""The content of the page as plain values: predictions by stage, the matrix, the predictions of a cell.

It contains no HTML and nothing of Gradio, so that it can be tested without a browser.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from evertune.apps.playground.runs import Cell, ExampleQuestions, Run, own_image
from evertune.apps.server.generation import Reply
from evertune.data import Sample, Task
from evertune.data.task import images_of_row
from evertune.metrics.rules import rule_of
from evertune.reporting.examples import marks_of, shortened, thumbnail
from evertune.service.service import lead_of, percent
from evertune.training.answer_files import read_answers
from evertune.utils.errors import UserError

MARKS = ("right", "form", "partly", "wrong")
PAGE = 24
"""Predictions or images that are shown until the user requests more."""
MOST = 20 * PAGE
"""Of them at once: each is an image that is read, drawn small and held in the browser."""
Form = Literal["strict", "relaxed"]


@dataclass(frozen=True, slots=True)
class StagePrediction:
    """The prediction of one stage.

    Attributes:
        mark: one of `MARKS`; None where the gold answer is unknown.
        lead: the router's margin between the first and the second task; '' without a router.
        ranking: the router's probabilities by task, highest first.
    """

    text: str
    mark: str | None
    expert: str | None
    lead: str
    ranking: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class RunPredictions:
    """The predictions of one run by stage, as far as they are made; after a `problem` there are no more.

    Attributes:
        stages: the names of all stages, the base model first.
    """

    run: str
    stages: tuple[str, ...]
    predictions: tuple[StagePrediction, ...] = ()
    problem: str = ""

    def and_then(self, reply: Reply | UserError, gold: tuple[Task, Sample] | None) -> RunPredictions:
        """A copy with one more prediction, marked against the gold answer where it is known."""
        if isinstance(reply, UserError):
            return RunPredictions(self.run, self.stages, self.predictions, str(reply))
        mark = mark_of(reply.text, *gold) if gold else None
        ranking = tuple((task, percent(share)) for task, share in reply.ranking[:3])
        prediction = StagePrediction(shortened(reply.text), mark, reply.expert, lead_of(reply.ranking), ranking)
        return RunPredictions(self.run, self.stages, (*self.predictions, prediction))


def mark_of(text: str, task: Task, sample: Sample) -> str:
    """The mark of a prediction for one question of a task.

    All questions of the task take part, since a score may weigh words by all of their answers (CIDEr).
    """
    place = next(number for number, other in enumerate(task.test) if other.id == sample.id)
    rows = [{"answer": "", "gold": list(other.answers)} for other in task.test]
    rows[place]["answer"] = text
    return marks_of(rows, rule_of(task.score))[place]


@dataclass(frozen=True, slots=True)
class CellView:
    """A cell of the matrix; `score` is None where it was not evaluated."""

    stage: int
    task: int
    score: float | None
    own: bool

    @property
    def share(self) -> int:
        """Colour saturation in percent; it starts at 5, so that a score of 0 differs from an empty cell."""
        return round(5 + 95 * min(max((self.score or 0) / 100, 0.0), 1.0))


@dataclass(frozen=True, slots=True)
class Matrix:
    """The matrix of a run: stages by tasks."""

    run: int
    name: str
    method: str
    seed: int
    tasks: list[str]
    rows: list[tuple[str, list[CellView]]]


def matrix_of(number: int, run: Run, form: Form) -> Matrix:
    """The matrix of the run at place `number`, strict or in any form."""
    key = "score" if form == "strict" else "relaxed"
    rows = []
    for stage, name in enumerate(run.stage_names):
        cells: list[Cell] = [run.cells.get((stage, task.name), {}) for task in run.tasks]
        squares = [
            CellView(stage, place, cell.get(key), stage > 0 and name == run.tasks[place].name)
            for place, cell in enumerate(cells)
        ]
        rows.append((name, squares))
    return Matrix(number, run.name, run.config.method, run.config.seed, [task.name for task in run.tasks], rows)


@dataclass(frozen=True, slots=True)
class PredictionRow:
    """A question of a cell with gold answer and prediction; `kept`: its index among the stored questions, or None."""

    thumbnail: str | None
    image: str
    instruction: str
    gold: str
    prediction: str
    mark: str
    expert: str | None
    kept: int | None


@dataclass(frozen=True, slots=True)
class Answers:
    """Some predictions of a cell.

    Attributes:
        kind: which are shown: of `MARKS`, or `all`.
        counts: how many there are of each kind, `all` included.
        rows: the first of the kind; `more` counts those that are not shown.
    """

    run: int
    run_name: str
    stage: int
    stage_name: str
    task: int
    task_name: str
    rule: str
    strict: float
    relaxed: float
    kind: str
    counts: dict[str, int]
    rows: list[PredictionRow]
    more: int


def answers_of(
    number: int, run: Run, kept: ExampleQuestions, *, stage: int, task: int, kind: str = "all", count: int = PAGE
) -> Answers:
    """The predictions of a cell, at most `count` and `MOST` of a kind.

    Raises:
        RunFolderError: they are missing or damaged. UserError: there is no such cell.
    """
    if not 0 <= task < len(run.tasks) or (stage, run.tasks[task].name) not in run.cells:
        raise UserError("this cell was not evaluated")
    cell = run.cells[stage, run.tasks[task].name]
    rule = rule_of(cell["score_rule"])
    rows, count = read_answers(run.folder / cell["answers"]), min(count, MOST)
    marks = marks_of(rows, rule)
    chosen = [(row, mark) for row, mark in zip(rows, marks, strict=True) if kind in ("all", mark)]
    return Answers(
        run=number,
        run_name=run.name,
        stage=stage,
        stage_name=run.stage_names[stage],
        task=task,
        task_name=run.tasks[task].name,
        rule=rule.name,
        strict=cell["score"],
        relaxed=cell["relaxed"],
        kind=kind,
        counts={"all": len(rows)} | {mark: marks.count(mark) for mark in MARKS},
        rows=_rows(chosen[:count], run.folder, run.tasks[task], kept),
        more=max(0, len(chosen) - count),
    )


def _rows(
    chosen: Sequence[tuple[dict[str, Any], str]], folder: Path, task: Task, kept: ExampleQuestions
) -> list[PredictionRow]:
    """Shows only images that the run in `folder` stores; other paths in its answers are ignored."""
    known = {sample.id: sample for sample in task.test}
    places = {sample.id: place for place, sample in enumerate(kept.of(task.name))}
    found = []
    for row, mark in chosen:
        sample = known.get(row["id"])
        image = own_image(folder, sample.images[0]) if sample and sample.images else None
        found.append(
            PredictionRow(
                thumbnail=thumbnail(image) if image else None,
                image=", ".join(Path(image).name for image in images_of_row(row)),
                instruction=shortened(str(row["instruction"])),
                gold=shortened(" / ".join(dict.fromkeys(map(str, row["gold"])))),
                prediction=shortened(str(row["answer"])),
                mark=mark,
                expert=row.get("expert"),
                kept=places.get(row["id"]),
            )
        )
    return found


@dataclass(frozen=True, slots=True)
class ImageChoice:
    """A kept image to choose."""

    place: int
    thumbnail: str | None
    instruction: str


def choices_of(kept: ExampleQuestions, task: str, count: int = PAGE) -> tuple[list[ImageChoice], int]:
    """The first `count` kept questions of a task with their images, at most `MOST`, and how many are left."""
    samples, count = kept.of(task), min(count, MOST)
    shown = [ImageChoice(i, thumbnail(s.images[0]), shortened(s.instruction)) for i, s in enumerate(samples[:count])]
    return shown, max(0, len(samples) - count)
