"""The same questions in two runs: what each run scored on them, in one order, and which of them share an image."""

from __future__ import annotations

import statistics
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evertune.metrics.metrics import is_score
from evertune.metrics.rules import RULES, rule_of, score_cell
from evertune.runs.results import Run
from evertune.utils.errors import RunFolderError, UserError, nearest

ROUNDING = 1e-6
"""Points that the mean of the scores on disk may be off the matrix."""


@dataclass(frozen=True, slots=True)
class PairedCell:
    """One task in two runs.

    Attributes:
        differences: of each question's score.
        images: of each question.
        is_mean: whether the score of the cell is the mean of its questions'.
    """

    a: float
    b: float
    differences: list[float]
    images: list[tuple[str, ...]]
    is_mean: bool

    @classmethod
    def of(cls, a: Run, b: Run, task: str, *, relaxed: bool) -> PairedCell:
        """From the answers of both runs, which must be about the same questions."""
        rule = _same_rule(a, b, task)
        (rows_a, end_a), (rows_b, end_b) = (_scored(run, task, rule, relaxed=relaxed) for run in (a, b))
        rows_b = _in_order(a, b, task, rows_a, rows_b)
        both = zip(rows_a, rows_b, strict=True)
        differences = [float(second["score"]) - float(first["score"]) for first, second in both]
        images = [tuple([row["image"]] if "image" in row else row["images"]) for row in rows_a]
        return cls(end_a, end_b, differences, images, not _is_whole(rule, relaxed=relaxed))


def _scored(run: Run, task: str, rule: str, *, relaxed: bool) -> tuple[list[dict[str, Any]], float]:
    """The rows of a task's last cell, each with the `score` that is compared, and the score of the cell."""
    last = len(run.matrix.R) - 1
    scores = run.matrix.relaxed if relaxed else run.matrix.R
    if scores is None:
        raise UserError(f"{run.folder} has no relaxed scores")
    end = scores[last][run.matrix.column_of(task)]
    if end is None:
        raise UserError(f"'{task}' was not evaluated after the last stage of {run.folder}: finish the run first")
    key = "relaxed" if relaxed else "score"
    rows = run.answers(last, task)
    if not all(is_score(row.get(key)) for row in rows):  # a folder from before rows had scores
        cell = score_cell(rule_of(rule), [row["answer"] for row in rows], [row["gold"] for row in rows])
        each = cell.each_relaxed if relaxed else cell.each
        rows = [{**row, key: 100 * score} for row, score in zip(rows, each, strict=True)]
    if not _is_whole(rule, relaxed=relaxed) and abs(statistics.fmean(row[key] for row in rows) - end) > ROUNDING:
        raise RunFolderError(
            f"{run.folder}: the answers to '{task}' after stage {last} are not those that the matrix was made of: "
            "run the same command again"
        )
    return [{**row, "score": row[key]} for row in rows], end


def _is_whole(rule: str, *, relaxed: bool) -> bool:
    """Whether a rule scores a cell as a whole, as BLEU does; its relaxed score is a mean where it is another one."""
    known = RULES.get(rule)
    return known is not None and known.whole is not None and (not relaxed or known.relaxed is known.strict)


def _same_rule(a: Run, b: Run, task: str) -> str:
    """The scoring rule of a task, which must be one, and of the same questions."""
    first, second = (_last_cell(run, task) for run in (a, b))
    rules = [str(cell.get("score_rule", "exact")) for cell in (first, second)]
    if rules[0] != rules[1]:
        raise UserError(f"task '{task}' is scored by '{rules[0]}' in {a.folder} and by '{rules[1]}' in {b.folder}")
    questions = [cell.get("questions") for cell in (first, second)]
    if None not in questions and questions[0] != questions[1]:
        raise _other_questions(a, b, task)
    return rules[0]


def _last_cell(run: Run, task: str) -> Mapping[str, Any]:
    last = len(run.matrix.R) - 1
    return next((cell for cell in run.matrix.cells if (cell["stage"], cell["task"]) == (last, task)), {})


def _other_questions(a: Run, b: Run, task: str, more: str = "") -> UserError:
    return UserError(
        f"task '{task}' has other questions in {a.folder} than in {b.folder}{more}: a paired comparison needs the same "
        "test samples (same data, same limit)"
    )


def _in_order(
    a: Run, b: Run, task: str, first: Sequence[dict[str, Any]], second: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """`second` in the order of `first`, question by question.

    Raises:
        UserError: they are not the same questions.
    """
    by_id = {row["id"]: row for row in second}
    same = len(by_id) == len(second) == len(first) and all(row["id"] in by_id for row in first)
    if not same:
        raise UserError(
            f"task '{task}' has other questions in the two runs: {len(first)} and {len(second)}, by their id"
        )
    for row in first:
        if any(row[key] != by_id[row["id"]][key] for key in ("instruction", "gold")):
            raise _other_questions(a, b, task, f" (question '{row['id']}')")
    return [by_id[row["id"]] for row in first]


def clusters_of(tasks: Sequence[Sequence[tuple[str, ...]]]) -> list[list[Hashable]]:
    """The cluster of each question of each task: questions that share an image, directly or through others, have one.

    A question without an image is a cluster of its own.
    """
    leader: dict[str, str] = {}

    def find(image: str) -> str:
        while (above := leader.setdefault(image, image)) != image:
            leader[image] = leader[above]
            image = above
        return image

    for images in (images for task in tasks for images in task):
        for image in images[1:]:
            leader[find(image)] = find(images[0])
    return [
        [find(images[0]) if images else (at, number) for number, images in enumerate(task)]
        for at, task in enumerate(tasks)
    ]


def refuse_other_tasks(a: Run, b: Run) -> None:
    """Raise when a run is in progress, or has a task that the other lacks."""
    for run in (a, b):
        if not run.matrix.finished:
            done = f"{len(run.matrix.R) - 1} of {len(run.matrix.stages)} stages"
            raise UserError(f"{run.folder} is in progress ({done}): run the same command again to finish it")
    for run, other in ((a, b), (b, a)):
        if missing := [task for task in run.matrix.tasks if task not in other.matrix.tasks]:
            near = nearest(missing[0], other.matrix.tasks)
            raise UserError(f"task '{missing[0]}' of {run.folder} is not in {other.folder}; {near}")
