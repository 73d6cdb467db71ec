"""What a model in service keeps of its tasks: the test samples and the images it will be asked about again.

    eval_set/gqa.json              score, test samples, and the training sample with the longest answer
    eval_set/images/3f...9a.png  by SHA-256; also those that a replay memory holds

So it can be checked, and taught further, after the data themselves are gone, and the folder can be moved.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from evertune.data import Sample, Task
from evertune.data.task import images_of_row, images_to_row
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
            "train": [_row(folder, longest)],
            "test": [_row(folder, sample) for sample in task.test],
        },
    )
    return kept_task(folder, task.name)


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
            tuple(_sample(folder, row, f"{path}:{side}:{number}") for number, row in enumerate(content[side], start=1))
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


def _row(folder: Path, sample: Sample) -> dict[str, Any]:
    kept = keep_images(folder, sample)
    return {
        "id": sample.id,
        **images_to_row(kept.images),
        "instruction": sample.instruction,
        "answers": list(sample.answers),
        **({"extras": dict(sample.extras)} if sample.extras else {}),
    }


def _sample(folder: Path, row: dict[str, Any], origin: str) -> Sample:
    place = folder / FOLDER / IMAGES
    images = tuple(below(place, str(image)) for image in images_of_row(row))
    extras, answers = row.get("extras", {}), row["answers"]
    texts = [row["id"], row["instruction"], *answers, *extras, *extras.values()]
    if not isinstance(answers, list) or not all(isinstance(text, str) for text in texts):
        raise RunFolderError(f"{origin}: a text is something else")
    return Sample(row["id"], images, row["instruction"], tuple(answers), origin, extras=extras)
