"""What a model in service keeps of its tasks: the test samples and the images it will be asked about again.

    eval_set/gqa.json              score, test samples, and the training sample with the longest answer
    eval_set/images/3f...9a.png  by SHA-256; also those that a replay memory holds

So it can be checked, and taught further, after the data themselves are gone, and the folder can be moved.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from evertune.data import Sample, Task
from evertune.metrics.rules import rule_of
from evertune.training.image_store import FOLDER, IMAGES, keep_images
from evertune.utils.errors import RunFolderError, UserError
from evertune.utils.files import read_object, write_json
from evertune.utils.safe_names import below, is_name


def keep_task(folder: Path, task: Task, *, tokens: Callable[[str], int]) -> Task:
    """Copy the test samples of `task` into the folder and give back the task as it is kept.

    `tokens` is the length of an answer for the model.
    """
    lengths = {text: tokens(text) for text in {sample.answers[0] for sample in task.train or task.test}}
    longest = max(task.train or task.test, key=lambda sample: lengths[sample.answers[0]])
    write_json(
        folder / FOLDER / f"{task.name}.json",
        {
            "name": task.name,
            "score": task.score,
            "about": task.about,
            "train": [keep_images(folder, longest).to_row()],
            "test": [keep_images(folder, sample).to_row() for sample in task.test],
        },
    )
    return kept_task(folder, task.name)


def keep_tasks(folder: Path, tasks: Sequence[Task], *, tokens: Callable[[str], int]) -> None:
    """Keep those that are not kept yet."""
    for task in tasks:
        if not is_kept(folder, task.name):
            keep_task(folder, task, tokens=tokens)


def kept_task(folder: Path, name: str) -> Task:
    """A task as it was kept: its test samples, and one training sample, which says how long answers may be.

    Raises:
        RunFolderError: it was not kept, or what was kept is damaged.
    """
    if not is_name(name):
        raise RunFolderError(f"{folder} names the task {name!r:.80}, which can't be one: it was changed or is damaged")
    path = folder / FOLDER / f"{name}.json"
    content = read_object(path)
    if content.get("name") != name:
        raise RunFolderError(f"{path} is damaged: it is of the task {content.get('name')!r:.80}")
    try:
        train, test = (
            tuple(
                Sample.from_row(row, origin=f"{path}:{side}:{number}", path=partial(below, folder / FOLDER / IMAGES))
                for number, row in enumerate(content[side], start=1)
            )
            for side in ("train", "test")
        )
        about = {str(key): str(value) for key, value in content["about"].items()}
        return Task(name, train, test, rule_of(content["score"]).name, about)
    except (KeyError, TypeError, AttributeError) as problem:
        raise RunFolderError(f"{path} is damaged: {problem!r:.80}") from problem
    except RunFolderError:
        raise
    except UserError as problem:
        raise RunFolderError(f"{path} is damaged: {problem}") from problem


def is_kept(folder: Path, name: str) -> bool:
    """Whether a task was kept."""
    return is_name(name) and (folder / FOLDER / f"{name}.json").exists()


def drop_task(folder: Path, name: str) -> None:
    """Forget what was kept of a task; images stay, others may need them."""
    if is_kept(folder, name):
        (folder / FOLDER / f"{name}.json").unlink()
