"""`evertune forget DIR TASK`: what a model learned on one task goes, and nothing else changes.

Exact where each task has an expert of its own that no other one rests on: the stages are written again without it, as
if the task had never been learned. A task that was learned last goes by a rollback, with every method. Else the command
refuses, and says what would be possible.

The order keeps the folder sound at every moment: the new stages are written beside the old ones, then the note
(`runs/forgetting.py`) says that they count; all that follows is done again by the same command after an interruption.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evertune.assets import Progress
from evertune.data import Task
from evertune.runs.api import config_of
from evertune.runs.callback import Callback
from evertune.runs.forgetting import FILE, STAGES, Forgetting, forgetting, note_forgetting
from evertune.runs.inputs import OWN
from evertune.runs.learner import drop_outdated_matrix
from evertune.runs.ledger import read_ledger
from evertune.runs.runner import cells_about, note_stages
from evertune.runs.tracking import retrack
from evertune.runs.tracking.jsonl import FILE as METRICS
from evertune.runs.unchecked import unchecked_stage
from evertune.service.integrity import images_named
from evertune.service.lifecycle import alone_in
from evertune.service.regression_report import Change, RegressionReport, best_cell, change_of
from evertune.service.service import Service
from evertune.training.eval_set import drop_task
from evertune.training.image_store import FOLDER, IMAGES
from evertune.training.stages import saved_stages
from evertune.utils.errors import UserError, unknown
from evertune.utils.files import append_jsonl, scratch_folder, whole_folder
from evertune.utils.temporary_files import synced, temporary_name


@dataclass(frozen=True, slots=True)
class ForgetResult:
    """What `forget` did.

    Attributes:
        stage: the number of the stage that learned the task.
        later: the tasks learned after it, whose stages have moved up by one.
        verdict: the other tasks before and after; None where an interrupted command was completed.
        copy: a copy of the model with the task, where one was wanted.
    """

    task: str
    stage: int
    later: tuple[str, ...]
    verdict: RegressionReport | None
    copy: Path | None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "task": self.task,
            "stage": self.stage,
            "later": list(self.later),
            "verdict": self.verdict and self.verdict.as_dict(),
            "copy": self.copy and str(self.copy),
        }


@alone_in
def forget(
    folder: Path,
    task: str,
    *,
    keep_copy: Path | None = None,
    callback: Callback | None = None,
    progress: Progress | None = None,
) -> ForgetResult:
    """Remove what a model learned on one task: its expert and keys, stages with it, its questions, images and answers.

    Args:
        folder: the model's.
        task: one that it has learned.
        keep_copy: a new folder for a copy of the model with the task; by default nothing can bring it back.
        callback: gets the events of the evaluation of the other tasks.
        progress: called during downloads.

    Raises:
        UserError: there is no such task, or other tasks rest on it; nothing was changed.
    """
    callback = callback or Callback()
    if noted := begun(folder, task):
        return _completed(folder, noted, None, None, callback, progress)
    service = Service.open(folder, progress=progress)
    stage = next(one.number for one in service.learner.stages if one.task == task)
    others = [each for each in service.tasks if each.name != task]
    there = cells_about(folder, others)
    missing = [each for each in others if (service.number, each.name) not in there]
    _announce(folder, task, [*missing, *others], callback)
    service.measured(others, callback)
    if keep_copy is not None:
        with whole_folder(keep_copy) as place:
            shutil.copytree(folder, place, ignore=shutil.ignore_patterns(".*"), dirs_exist_ok=True)
    with scratch_folder(folder / "answers.before") as before:
        for each in others:
            shutil.copy(service.answers(service.number, each.name), before)
        _prepare(service, task, stage)
        noted = Forgetting(task, stage, time.time())
        note_forgetting(folder, noted)
        return _completed(folder, noted, before, keep_copy, callback, progress)


def _announce(folder: Path, task: str, evaluated: Sequence[Task], callback: Callback) -> None:
    callback.on_run_begin(f"{folder} without {task}", training=[], answers=sum(len(each.test) for each in evaluated))


def begun(folder: Path, task: str) -> Forgetting | None:
    """A removal of `task` that was interrupted, and is to be completed; None where there is none.

    Raises:
        UserError: there is no such task, or another one is being removed.
    """
    if noted := forgetting(folder):
        if noted.task != task:
            raise UserError(f"{folder} is forgetting '{noted.task}': complete that first, by its name")
        return noted
    _refuse(folder, task)
    return None


def _refuse(folder: Path, task: str) -> None:
    if config_of(folder).stream != OWN:
        raise UserError(
            f"{folder} is a run, and its stages are those of its stream: run the stream without '{task}' in another "
            "folder, or teach a model of its own (evertune new, evertune learn)"
        )
    if found := unchecked_stage(folder):
        raise UserError(found.how_on(folder))
    names = [stage.task for stage in saved_stages(folder)]
    if task not in names:
        raise unknown("task", task, names)


def _prepare(service: Service, task: str, stage: int) -> None:
    """Write the stages without the task beside the ones with it."""
    folder = service.folder
    shutil.rmtree(folder / STAGES, ignore_errors=True)  # of a command that was cut off before its note
    with scratch_folder(folder / "without") as place:
        for name in ("config.yaml", "provenance.json"):
            shutil.copy(folder / name, place)
        (place / "stages").mkdir()
        try:
            service.learner.write_without(task, place)
        except UserError as problem:
            raise _impossible(folder, problem, [one.task for one in service.learner.stages], stage) from problem
        for each in (*place.rglob("*"), place):
            synced(each)
        (place / "stages").rename(folder / STAGES)
    synced(folder)


def _impossible(folder: Path, problem: UserError, tasks: Sequence[str], stage: int) -> UserError:
    """The reason, and what would be possible."""
    later = ", ".join(tasks[stage:])
    return UserError(
        f"{folder} can't forget '{tasks[stage - 1]}' alone: {problem}. Possible: evertune rollback {folder} --to "
        f"{stage - 1}, then evertune learn with the data of {later} again"
    )


def _completed(
    folder: Path,
    noted: Forgetting,
    before: Path | None,
    copy: Path | None,
    callback: Callback,
    progress: Progress | None,
) -> ForgetResult:
    """All that follows the note; what an interrupted command has done already is skipped."""
    _exchange(folder)
    later = [stage.task for stage in saved_stages(folder)[noted.stage - 1 :]]
    _record(folder, noted, later)
    _drop_traces(folder, noted)
    (folder / FILE).unlink()
    service = Service.open(folder, progress=progress)
    if before is None:
        _announce(folder, noted.task, service.tasks, callback)
    cells = service.measured(service.tasks, callback)
    verdict = RegressionReport(None, tuple(_changes(service, cells, before))) if before else None
    return ForgetResult(noted.task, noted.stage, tuple(later), verdict, copy)


def _exchange(folder: Path) -> None:
    """The stages without the task take the place of those with it."""
    new, stages = folder / STAGES, folder / "stages"
    if not new.exists():
        return
    if stages.exists():
        old = temporary_name(stages)
        stages.rename(old)
        new.rename(stages)
        shutil.rmtree(old)
    else:
        new.rename(stages)
    synced(folder)


def _record(folder: Path, noted: Forgetting, later: Sequence[str]) -> None:
    """The ledger says it, and has the later stages under their new numbers."""
    ledger = read_ledger(folder)
    if not any(row["event"] == "forget" and row.get("time") == noted.time for row in ledger):
        event = {"event": "forget", "task": noted.task, "to": noted.stage - 1, "later": list(later), "time": noted.time}
        append_jsonl(folder / "ledger.jsonl", event)
    known = {row["task"]: row for row in ledger if row["event"] == "stage"}
    there = {row["stage"] for row in ledger if row["event"] == "stage" and row.get("renumbered") == noted.time}
    for number, name in enumerate(later, start=noted.stage):
        if name in known and number not in there:
            moved = {**known[name], "stage": number, "renumbered": noted.time}
            append_jsonl(folder / "ledger.jsonl", moved)
    note_stages(folder, saved_stages(folder))


def _drop_traces(folder: Path, noted: Forgetting) -> None:
    """The task's questions, images and predictions, and all that the stages after it have predicted."""
    for place in (folder / "answers").glob("*"):
        if place.name.isdecimal() and int(place.name) >= noted.stage:
            shutil.rmtree(place)
        else:
            (place / f"{noted.task}.jsonl").unlink(missing_ok=True)
    drop_task(folder, noted.task)
    used = images_named(folder)
    for image in (folder / FOLDER / IMAGES).glob("[!.]*"):
        if image.name not in used:
            image.unlink()
    drop_outdated_matrix(folder)
    with suppress(FileNotFoundError):
        (folder / METRICS).unlink()  # made again from the logs of the stages that are left
    retrack(folder, name=folder.resolve().name)


def _changes(service: Service, cells: dict[tuple[int, str], dict[str, Any]], before: Path) -> list[Change]:
    """Each other task, from the same questions before and after."""
    found = []
    for task in service.tasks:
        after = service.answers(service.number, task.name)
        best = best_cell(cells, task.name, range(service.number + 1))["score"]
        found.append(change_of(task, before / f"{task.name}.jsonl", after, best=best))
    return found
