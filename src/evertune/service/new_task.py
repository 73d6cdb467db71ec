"""The new task of a model in service: reads and checks it, and decides the length of its training.

With the batch size and the one epoch of a benchmark, a file of some dozen rows would give two optimizer steps. So a
task is trained for at least `STEPS` steps: first with smaller batches, then with more epochs. Measurements are in
docs/service.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypedDict, Unpack

from evertune.assets import Progress
from evertune.data import Task
from evertune.data.issues import Issues
from evertune.data.sources import read_task
from evertune.data.task import data_digest
from evertune.data.task_file import TaskFile
from evertune.models.readable import without_unreadable
from evertune.runs.api import config_of
from evertune.runs.callback import Callback
from evertune.runs.config import RunConfig, training_of, with_settings
from evertune.runs.unchecked import unchecked_stage
from evertune.service.service import Service
from evertune.tools.data.check import CheckResult
from evertune.tools.data.check import check as check_data
from evertune.tools.data.source import Hints, file_or_stream, reading
from evertune.training.loop import Training
from evertune.training.stages import saved_stages
from evertune.utils.config_io import validated
from evertune.utils.errors import UserError
from evertune.utils.safe_names import refuse_task_names

STEPS = 200
"""Fewest optimizer steps of a task, unless the user sets the length of the training."""
LENGTH = ("epochs", "batch_size", "gradient_accumulation_steps", "min_steps")
"""The settings of `train` that set it."""


def training_for(folder: Path, settings: Sequence[str]) -> Training:
    """The training settings of a model's next task: the model's own, at least `STEPS` steps, and `settings`.

    Raises:
        UserError: a setting is none of `train`, or a value is wrong.
    """
    for entry in settings:
        if not entry.strip().startswith("train."):
            raise UserError(
                f"--set {entry}: a task can be trained otherwise (train.epochs=20), all else was fixed when the model "
                "was made: see evertune new --set"
            )
    content = with_settings(config_of(folder).model_dump(), list(settings), methods=[])
    training = validated(RunConfig, content, where="--set").train
    passed = {entry.partition("=")[0].strip().removeprefix("train.") for entry in settings}
    floor = training.min_steps if training.min_steps is not None or passed & set(LENGTH) else STEPS
    return training_of(config_of(folder).model_copy(update={"train": training.model_copy(update={"min_steps": floor})}))


class TaskOptions(TypedDict, total=False):
    """How the data of a new task are read, as far as the user says so.

    Attributes:
        name: of the task; default: the file's.
        score: the scoring rule; default: the data's.
        hints: how a single file is read.
        skip_invalid: leave out rows that can't be used.
        progress: called during image checks.
    """

    name: str | None
    score: str | None
    hints: Hints | None
    skip_invalid: bool
    progress: Progress | None


def read_new(
    service: Service, data: str, *, callback: Callback, **how: Unpack[TaskOptions]
) -> tuple[Task, CheckResult]:
    """The only task of `data`, and the issues in it; `callback` gets warnings about the data and omitted rows.

    Args:
        service: the model that is to learn it.
        data: a file in any format of `evertune data check`, or a stream of one task.
        callback: gets warnings about the data and about omitted rows.
        how: see `TaskOptions`.

    Raises:
        DataError: rows or images are unusable.
        UserError: there are several tasks, the model knows one of this name, or a name or rule is wrong.
    """
    lmm, hints, progress = service.learner.lmm, how.get("hints"), how.get("progress")
    skip_invalid = how.get("skip_invalid", False)
    content, path = file_or_stream(data, hints or Hints())
    if len(content.tasks) != 1 or content.known:
        names = ", ".join(entry.name for entry in content.tasks)
        raise UserError(f"{data} has several tasks ({names}): a model learns one at a time, each from its own file")
    changed = {key: value for key in ("name", "score") if (value := how.get(key))}
    entry = validated(TaskFile, content.tasks[0].model_dump() | changed, where=data)
    options = reading(content, path, takes=lmm.images_per_sample, model=Path(lmm.name).name, progress=progress)
    if entry.name in {task.name for task in service.tasks}:
        raise UserError(
            f"{service.folder} knows a task '{entry.name}' already: give the new one another name with --name"
        )
    refuse_task_names([*(task.name for task in service.tasks), entry.name], where=data)
    checked = check_data(data, lmm=lmm, hints=hints, progress=progress)
    if not skip_invalid:
        checked.errors.refuse(stream=checked.stream)
    task = read_task(entry, replace(options, decode=skip_invalid), about=entry.about)
    if skip_invalid:
        task = without_unreadable(task, lmm, Issues())  # they are among the errors of the data check
    _say(checked.warnings, callback, "", data)
    _say(checked.errors, callback, "left out: ", data)
    return task, checked


def is_learned(service: Service, task: Task, training: Training) -> bool:
    """Whether the same command learned `task` already and was cut off before the check.

    Raises:
        UserError: the stage that was not checked is of another task, other data or another training.
    """
    found = unchecked_stage(service.folder)
    if found is None:
        return False
    data = saved_stages(service.folder)[found.stage - 1].data
    if (found.task, dict(found.training), data) != (task.name, training.as_dict(), data_digest(task)):
        raise UserError(f"{service.folder}: {found.how_on(service.folder)}")
    return True


def _say(problems: Issues, callback: Callback, before: str, data: str) -> None:
    for kind, count, messages in problems.kinds():
        more = f"; all of them: evertune data check {data}" if count > 1 else ""
        callback.on_warning(f"{before}{kind}: {count:,}, e.g. {messages[0][1]}{more}")
