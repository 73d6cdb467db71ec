"""The actions on a model in service: create it, learn a task, check it, roll back. The ledger records them.

The folder contains everything: stages, evaluation sets, all answers. After an interruption the same command resumes;
once the task is trained, it only completes the check. Until then the stage is not part of the model
(`runs/unchecked.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar, Unpack

from evertune.assets import Progress
from evertune.data import Stream, Task
from evertune.reporting.matrix import Matrix
from evertune.runs.api import config_of, configure, header_of, load_model, method_specs
from evertune.runs.callback import Callback
from evertune.runs.inputs import OWN
from evertune.runs.learner import drop_outdated_matrix, make_model_folder
from evertune.runs.ledger import read_ledger
from evertune.runs.run_folder import is_free, thinned_stages
from evertune.runs.runner import cells_about, learn_stage, matrix_of, note_few_steps, note_stages
from evertune.runs.tracking import TrackingCallback, all_of, refuse_missing, retrack, tracking
from evertune.runs.unchecked import UncheckedStage, forget_unchecked, note_unchecked
from evertune.service.auto_method import AUTO, refuse_other, settled
from evertune.service.gate import GateCondition
from evertune.service.new_task import TaskOptions, is_learned, read_new, training_for
from evertune.service.regression_report import Change, RegressionReport, best_cell, change_of
from evertune.service.service import Service
from evertune.tools.data.check import CheckResult
from evertune.training.eval_set import drop_task, keep_task
from evertune.training.evaluator import write_answers
from evertune.training.loop import Training
from evertune.training.stages import refuse_thinned, saved_stages, stage_folder
from evertune.training.thinning import thin
from evertune.utils.distributed import refuse_several
from evertune.utils.errors import UserError
from evertune.utils.files import append_jsonl, write_json
from evertune.utils.locks import alone
from evertune.utils.symlinks import refuse_links

Given = ParamSpec("Given")
Done = TypeVar("Done")


def alone_in(action: Callable[Concatenate[Path, Given], Done]) -> Callable[Concatenate[Path, Given], Done]:
    """Decorator of an action that changes a model's folder, its first argument: it holds the folder's lock."""

    @wraps(action)
    def within(folder: Path, /, *given: Given.args, **named: Given.kwargs) -> Done:
        refuse_several("this command")
        refuse_links(folder)
        config_of(folder)  # raises if the folder is missing: taking a lock must not create it
        with alone(folder):
            return action(folder, *given, **named)

    return within


def new(
    folder: Path,
    *,
    model: str,
    method: str = AUTO,
    seed: int = 0,
    settings: Sequence[str] = (),
    progress: Progress | None = None,
) -> None:
    """Make a model that has learned nothing yet.

    Args:
        folder: a new one.
        model: as in `evertune.run`, like the other arguments.
        method: one, or several that run together (`replay+ewc`); `auto` is the rule of `auto.py`.
        seed: of everything random.
        settings: `key=value`.
        progress: called during downloads.

    Raises:
        UserError: the folder is there already, or a setting is wrong.
    """
    if not is_free(folder):
        raise UserError(f"{folder} is not empty: choose a new folder")
    method, settings = settled(method, settings)
    config = configure(OWN, model=model, method=method, seed=seed, settings=settings)
    if len(method_specs(config)) > 1:
        raise UserError(f"method '{method}': a model has one method; join several by '+'")
    lmm = load_model(config, progress=progress)
    with alone(folder):
        if not is_free(folder):
            raise UserError(f"{folder} was made by another process meanwhile: choose a new folder")
        make_model_folder(folder, config, lmm)


BY_USER = "by the user"
"""The reason of a rollback by the user, in the ledger."""


@dataclass(frozen=True, slots=True)
class LearnResult:
    """What `learn` did.

    Attributes:
        broken: the parts of the condition that did not hold; the stage was discarded then.
        training: the hyper-parameters of the task; `steps`: optimizer steps.
    """

    stage: int
    task: str
    verdict: RegressionReport
    checked: CheckResult
    broken: tuple[str, ...]
    training: Training
    steps: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        checked = self.checked.as_dict()
        return {
            "stage": self.stage,
            "task": self.task,
            "learned": self.verdict.learned,
            "accepted": not self.broken,
            "broken": list(self.broken),
            "verdict": self.verdict.as_dict(),
            "steps": self.steps,
            "training": self.training.as_dict(),
            "data": checked["counts"],
            "findings": checked["findings"],
        }


def _announce(service: Service, tasks: Sequence[Task], callback: Callback, *, samples: int) -> None:
    """Say what a learning will do: the samples of its training, and the questions before and after it."""
    there = cells_about(service.folder, tasks)
    answered_before = sum(len(each.test) for each in tasks if (service.number, each.name) not in there)
    callback.on_run_begin(
        f"{tasks[-1].name}: task {len(tasks)} of {service.folder}",
        training=[samples] if samples else [],
        answers=answered_before + sum(len(each.test) for each in tasks),
    )


@alone_in
def learn(
    folder: Path,
    data: str,
    *,
    method: str | None = None,
    settings: Sequence[str] = (),
    accept_if: GateCondition | None = None,
    deterministic: bool = False,
    track: Sequence[str] = (),
    callback: Callback | None = None,
    **how: Unpack[TaskOptions],
) -> LearnResult:
    """Train a model on one more task, measure the effect on all tasks, and keep or discard the stage.

    Args:
        folder: the model's.
        data: a file in any format of `evertune data check`, or a stream of one task.
        method: `auto` or the model's own, which was chosen when it was made; another is refused.
        settings: `train.KEY=VALUE`, for this task; without them it is trained for 200 optimizer steps or more.
        accept_if: the stage is discarded if this does not hold afterwards; default: the task was learned.
        deterministic: refuse a model that was not made deterministic; the model's own setting decides.
        track: services that get the metrics, as in `evertune.run`; each learning is a run there, with all before it.
        callback: gets the events of training and evaluation.
        how: how the data are read, see `TaskOptions`.

    Raises:
        DataError: rows or images are unusable; nothing was changed.
        UserError: the task is known already, or a name or rule is wrong.
    """
    refuse_missing(track)
    callback = callback or Callback()
    refuse_other(method, own=config_of(folder).method)
    if deterministic:
        _refuse_unsettled(folder)
    service = Service.open(folder, progress=how.get("progress"))
    learner = service.learner
    learner.training = training_for(folder, settings)
    task, checked = read_new(service, data, callback=callback, **how)
    training = learner.training_of(task)
    note_few_steps(learner, [task], callback)
    learned = is_learned(service, task, training)
    note_stages(folder, saved_stages(folder))
    kept = keep_task(folder, task, tokens=learner.lmm.answer_tokens)
    samples = 0 if learned else round(training.epochs * len(task.train))
    _announce(service, (*service.tasks, kept), callback, samples=samples)
    label, group = f"{folder.resolve().name}: {task.name}", folder.resolve().name
    with tracking(folder, to=track, name=label, group=group, callback=callback, same_run=False) as tracks:
        verdict = _taught(service, task, kept, callback, tracks, learned=learned)
    broken = tuple(accept_if.broken_by(verdict.measures()) if accept_if else verdict.not_learned())
    stage = learner.stages[-1]
    if broken:
        _go_back(service, stage.number - 1, reason="; ".join(broken))
    forget_unchecked(folder)
    thin(folder, config_of(folder).stages.keep)
    return LearnResult(stage.number, task.name, verdict, checked, broken, training, stage.steps)


def _refuse_unsettled(folder: Path) -> None:
    """Raise when a model was not made to be deterministic."""
    if not config_of(folder).deterministic:
        raise UserError(
            f"{folder} was made without --deterministic, and so were its stages: make a new model with evertune new "
            "--deterministic, or leave it out"
        )


def _taught(
    service: Service, task: Task, kept: Task, callback: Callback, tracks: TrackingCallback, *, learned: bool
) -> RegressionReport:
    """Evaluate all tasks, train `task` unless it is `learned`, evaluate again; `kept` is its stored evaluation set."""
    everything, callbacks = (*service.tasks, kept), all_of(callback, tracks)
    drop_outdated_matrix(service.folder)
    before = service.measured(everything, callbacks)
    _track_row(service, before, everything, tracks, measures={})
    if learned:
        service.learner.refresh()
        stage = service.learner.stages[-1]
    else:
        number, training = service.number + 1, service.learner.training_of(task)
        note_unchecked(service.folder, UncheckedStage(number, task.name, training.as_dict()))
        stage = learn_stage(service.learner, task, number, service.folder, callbacks)
    after = service.measured(everything, callbacks)
    verdict = _verdict(service, before, stage=stage.number, others=service.tasks, new=kept)
    measures = {"average": verdict.measures()["average"]}
    if service.tasks:
        measures["forgetting"] = verdict.measures()["forgetting"]
    _track_row(service, after, everything, tracks, measures=measures)
    return verdict


def _track_row(
    service: Service,
    cells: Mapping[tuple[int, str], dict[str, Any]],
    tasks: Sequence[Task],
    tracks: TrackingCallback,
    *,
    measures: Mapping[str, float],
) -> None:
    number = service.number
    name = service.learner.stages[number - 1].task if number else "base"
    scores = {task.name: cells[number, task.name]["score"] for task in tasks}
    tracks.row(number, after=name, scores=scores, measures=measures)


def _verdict(
    service: Service, before: Mapping[tuple[int, str], dict[str, Any]], *, stage: int, others: Sequence[Task], new: Task
) -> RegressionReport:
    """The effect of stage `stage` compared with the one before it; `before` are the cells up to that."""

    def change(task: Task, since: int) -> Change:
        best = best_cell(before, task.name, range(since, stage))["score"]
        paths = (service.answers(number, task.name) for number in (stage - 1, stage))
        return change_of(task, *paths, best=best, new=task is new)

    return RegressionReport(change(new, 0), tuple(change(task, _learned_at(service, task)) for task in others))


@alone_in
def check(folder: Path, *, callback: Callback | None = None, progress: Progress | None = None) -> RegressionReport:
    """Evaluate a model on all its tasks now, and compare with the best score of each.

    No cache is used. The answers are in `answers/check/`.

    Raises:
        UserError: it has learned nothing yet.
    """
    callback = callback or Callback()
    service = Service.open(folder, progress=progress)
    if not service.tasks:
        raise UserError(f"{folder} has learned nothing yet: teach it with evertune learn {folder} DATA")
    callback.on_run_begin(f"check of {folder}", training=[], answers=sum(len(task.test) for task in service.tasks))
    cells = service.measured(service.tasks, callback)
    service.learner.reuse = False
    changes = []
    for task in service.tasks:
        callback.on_evaluate_begin(service.number, task)
        path = folder / "answers" / "check" / f"{task.name}.jsonl"
        write_answers(
            path, service.learner.answers(task, on_answered=callback.on_prediction, on_encoded=callback.on_encode)
        )
        best = best_cell(cells, task.name, range(_learned_at(service, task), service.number + 1))
        changes.append(change_of(task, folder / best["answers"], path, best=best["score"]))
    return RegressionReport(None, tuple(changes))


@alone_in
def complete(folder: Path, *, callback: Callback | None = None, progress: Progress | None = None) -> Path:
    """Evaluate the missing cells of a model that was trained task by task, and write `matrix.json`; those of a thinned
    stage are null.

    Then `report` and `compare` read it like a run. The next `learn` or `rollback` removes `matrix.json`.

    Raises:
        UserError: it has learned nothing yet, or is a run, which has its matrix.
    """
    callback = callback or Callback()
    service = Service.open(folder, progress=progress)
    config = config_of(folder)
    if config.stream != OWN:
        raise UserError(f"{folder} is a run: its matrix is there")
    if not service.tasks:
        raise UserError(f"{folder} has learned nothing yet: teach it with evertune learn {folder} DATA")
    stages = [number for number in range(service.number + 1) if number not in thinned_stages(folder)]
    callback.on_run_begin(
        f"the matrix of {folder}", training=[], answers=len(stages) * sum(len(task.test) for task in service.tasks)
    )
    for stage in stages:
        cells = service.measured(service.tasks, callback, stage=stage)
    stream, plan = Stream(folder.resolve().name, service.tasks), list(service.tasks)
    header = header_of(config, config.method, stream=stream.name)
    path = folder / "matrix.json"
    write_json(path, matrix_of(header, stream, plan, cells, service.learner, rows=service.number + 1).to_dict())
    return path


def _learned_at(service: Service, task: Task) -> int:
    """The stage at which a task was learned; 0 for one that the model knew before, 1 for all new ones of `joint`."""
    own = next((stage.number for stage in service.learner.stages if stage.task == task.name), None)
    if own is not None:
        return own
    return 0 if task.name in Matrix.read(service.folder).known else 1


def would_forget(folder: Path, to: int) -> list[str]:
    """The tasks that a rollback to stage `to` would remove.

    Raises:
        UserError: there is no such stage before the last.
    """
    refuse_links(folder)
    config_of(folder)  # raises when it is none
    stages = saved_stages(folder)
    if not 0 <= to < len(stages):
        earlier = f"earlier stages are 0 to {len(stages) - 1}" if stages else "there is none before it"
        raise UserError(f"{folder} is at stage {len(stages)} and can't go back to stage {to}: {earlier}")
    if to:
        refuse_thinned(stage_folder(folder, to, stages[to - 1].task))
    return [stage.task for stage in stages[to:]]


@alone_in
def rollback(folder: Path, to: int, *, progress: Progress | None = None) -> list[str]:
    """Restore the model after stage `to`, permanently; returns the names of the removed tasks.

    Raises:
        UserError: there is no such stage before the last.
    """
    gone = would_forget(folder, to)
    _go_back(Service.open(folder, progress=progress), to, reason=BY_USER)
    return gone


def _go_back(service: Service, to: int, *, reason: str) -> None:
    """Write the ledger first: after an interruption, a stage that still exists is only evaluated once more."""
    service.learner.stages = saved_stages(service.folder)  # with one that was not checked
    gone = [stage.task for stage in service.learner.stages[to:]]
    event = {"event": "rollback", "to": to, "tasks": gone, "reason": reason, "time": time.time()}
    drop_outdated_matrix(service.folder)
    append_jsonl(service.folder / "ledger.jsonl", event)
    service.learner.rollback(to)
    forget_unchecked(service.folder)
    for name in gone:
        drop_task(service.folder, name)
    retrack(service.folder, name=service.folder.resolve().name)


def history(folder: Path) -> list[dict[str, Any]]:
    """The events in order: learned stages, rollbacks and forgotten tasks, each with its time."""
    refuse_links(folder)
    config_of(folder)  # raises when it is none
    rows = (row for row in read_ledger(folder) if row["event"] in ("stage", "rollback", "forget"))
    return [row for row in rows if "renumbered" not in row]
