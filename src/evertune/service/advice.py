"""Advice before a task is learned: similar tasks, its score now, what routing would lose, the method, the cost.

Nothing is changed, and forgetting is not predicted. If the model has experts, a trial of its own router bounds the loss
of the other tasks. If tasks share weights, the loss is known only after training: `learn` measures it, `rollback`
undoes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Unpack

from evertune.data import Stream, Task
from evertune.methods.base import TaskPreview
from evertune.methods.similarity import cosine, embed_task, evenly_spaced, similarity_to
from evertune.metrics.rules import rule_of, score_cell
from evertune.models.weights import bytes_of
from evertune.runs.api import config_of
from evertune.runs.callback import Callback
from evertune.runs.plan.planner import measure_pace
from evertune.runs.runner import note_few_steps
from evertune.service.auto_method import MethodChoice, chosen
from evertune.service.new_task import TaskOptions, read_new, training_for
from evertune.service.service import Service
from evertune.training.stages import stage_folder

MOST_QUESTIONS = 100
"""Number of test questions of the new task for its score before training."""


@dataclass(frozen=True, slots=True)
class SimilarTask:
    """A known task compared with the new one.

    Attributes:
        similarity: s(k), 0..1, among all known tasks and the new one.
        instruction: cosine between both tasks' instructions.
        score: the model's current score on it, in points.
        forgetting_bound: most points that routing can lose; None where the new task trains weights that it uses.
    """

    task: str
    similarity: float
    instruction: float
    score: float
    forgetting_bound: float | None


@dataclass(frozen=True, slots=True)
class Advice:
    """The result of `try`.

    Attributes:
        before: the current score on up to 100 test questions of the new task.
        foreseen: the effect of an expansion; None for a method without experts.
        choice: the method and the reason.
        seconds: of training and evaluation in `learn`, measured on this machine.
        stored_bytes: growth of the folder, without images.
    """

    task: str
    samples: int
    neighbours: tuple[SimilarTask, ...]
    before: float
    foreseen: TaskPreview | None
    choice: MethodChoice
    steps: int
    seconds: float
    stored_bytes: int


def advice(
    folder: Path,
    data: str,
    *,
    settings: Sequence[str] = (),
    callback: Callback | None = None,
    **how: Unpack[TaskOptions],
) -> Advice:
    """The expected effect and cost of learning a task; the arguments are those of `learn`.

    Raises:
        DataError: something in the data can't be used.
        UserError: a name or rule is wrong.
    """
    callback = callback or Callback()
    service = Service.open(folder, progress=how.get("progress"))
    learner = service.learner
    learner.training = training_for(folder, settings)
    task, _ = read_new(service, data, callback=callback, **how)
    training = learner.training_of(task)
    note_few_steps(learner, [task], callback)
    learner.features.ensure(task.train)
    foreseen = next((found for m in learner.methods if (found := m.preview_task(task, service.tasks))), None)
    neighbours = _neighbours(service, task, foreseen, callback)
    before = _score_now(service, task)
    pace = measure_pace(learner.lmm, Stream(task.name, (task,)), training, batch=learner.evaluation_batch)
    questions = 2 * len(task.test) + sum(len(other.test) for other in service.tasks)
    return Advice(
        task=task.name,
        samples=len(task.train),
        neighbours=neighbours,
        before=before,
        foreseen=foreseen,
        choice=chosen(config_of(folder).method, foreseen, task=task.name, earlier=len(neighbours)),
        steps=training.steps(len(task.train)),
        seconds=training.epochs * len(task.train) * pace.train + questions * pace.answer,
        stored_bytes=_growth(service),
    )


def _neighbours(
    service: Service, task: Task, foreseen: TaskPreview | None, callback: Callback
) -> tuple[SimilarTask, ...]:
    """All tasks that the model knows, the most similar first."""
    if not service.tasks:
        return ()
    learner = service.learner
    cells = service.measured(service.tasks, callback)
    new = embed_task(learner.lmm, learner.features, task.train)
    old = {}
    for other in service.tasks:
        learner.features.ensure(other.test)
        old[other.name] = embed_task(learner.lmm, learner.features, other.test)
    alike = similarity_to(new, old, name="(new)")
    found = []
    for other in service.tasks:
        instruction = cosine(new["instruction"], old[other.name]["instruction"])
        score = cells[service.number, other.name]["score"]
        bound = None
        if foreseen is not None and learner.expert_of(other.name) != foreseen.expert:
            bound = foreseen.lost[other.name] * score
        found.append(SimilarTask(other.name, alike[other.name], instruction, score, bound))
    return tuple(sorted(found, key=lambda neighbour: -neighbour.similarity))


def _score_now(service: Service, task: Task) -> float:
    """The model's current score on some of the task's questions, by the task's rule."""
    predictions = service.learner.answers(replace(task, test=tuple(evenly_spaced(task.test, MOST_QUESTIONS))))
    cell = score_cell(rule_of(task.score), [a.text for a in predictions], [list(a.sample.answers) for a in predictions])
    return cell.strict


def _growth(service: Service) -> int:
    """Disk space of the last stage; before the first one, of its weights and a method's copies of them."""
    learner = service.learner
    if not learner.stages:
        return 2 * bytes_of(learner.lmm.trainable())
    last = learner.stages[-1]
    return sum(file.stat().st_size for file in stage_folder(service.folder, last.number, last.task).iterdir())
