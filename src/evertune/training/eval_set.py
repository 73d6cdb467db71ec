"""The evaluation sets of a model in service: the test samples of its tasks and their images, kept in its folder.

    eval_set/gqa.json              score, test samples, and the training sample with the longest answer
    eval_set/images/3f...9a.png  by SHA-256; also those of a replay memory

So the model can be checked and trained further without the original data, and the folder can be moved.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from evertune.data import Sample, Task
from evertune.training.image_store import FOLDER, IMAGES, keep_images
from evertune.utils.errors import RunFolderError, UserError
from evertune.utils.files import read_object, write_json
from evertune.utils.safe_names import below, is_name


def keep_task(folder: Path, task: Task, *, tokens: Callable[[str], int]) -> Task:
    """Copy the test samples of `task` into the folder; returns the stored task.

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
    """A stored task: its test samples, and one training sample, which determines the length of answers.

    Raises:
        RunFolderError: it is not stored, or damaged.
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
        if not is_name(score := content["score"]):
            raise RunFolderError(f"{path} is damaged: it names the scoring rule {score!r:.80}")
        return Task(name, train, test, score, about)  # the rule may be the user's, and is needed only to score
    except (KeyError, TypeError, AttributeError) as problem:
        raise RunFolderError(f"{path} is damaged: {problem!r:.80}") from problem
    except RunFolderError:
        raise
    except UserError as problem:
        raise RunFolderError(f"{path} is damaged: {problem}") from problem


def is_kept(folder: Path, name: str) -> bool:
    """Whether a task is stored."""
    return is_name(name) and (folder / FOLDER / f"{name}.json").exists()


def drop_task(folder: Path, name: str) -> None:
    """Remove a stored task; its images stay, since others may need them."""
    if is_kept(folder, name):
        (folder / FOLDER / f"{name}.json").unlink()
