"""`forgetting.json`: a task of a model in service is being forgotten, and the folder is between before and after.

Written when the stages without the task are whole, beside those with it, and removed when all else of the task is gone
too. A process that is killed in between leaves the note: until the same command completes it, the folder is not opened.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from evertune.utils.errors import RunFolderError
from evertune.utils.files import read_object, write_json
from evertune.utils.safe_names import is_name

FILE, STAGES = "forgetting.json", "stages.next"
"""The note, and the stages without the task."""


@dataclass(frozen=True, slots=True)
class Forgetting:
    """The task that is being forgotten, its stage, and when it began."""

    task: str
    stage: int
    time: float


def note_forgetting(folder: Path, noted: Forgetting) -> None:
    """Write the note: from here on the task will be forgotten."""
    write_json(folder / FILE, {"task": noted.task, "stage": noted.stage, "time": noted.time})


def forgetting(folder: Path) -> Forgetting | None:
    """What is being forgotten in a folder.

    Raises:
        RunFolderError: the note is damaged.
    """
    path = folder / FILE
    if not path.exists():
        return None
    content = read_object(path)
    task, stage, time = (content.get(key) for key in ("task", "stage", "time"))
    if not (isinstance(task, str) and is_name(task) and isinstance(stage, int) and isinstance(time, int | float)):
        raise RunFolderError(f"{path} is damaged: give evertune forget {folder} TASK again with the task's name")
    return Forgetting(task, stage, float(time))


def refuse_half_forgotten(folder: Path) -> None:
    """Raise if a forgetting was cut off.

    Raises:
        RunFolderError: it was; the message has the command that completes it.
    """
    if found := forgetting(folder):
        raise RunFolderError(
            f"{folder} is forgetting '{found.task}', which was cut off or still goes on: complete it with "
            f"evertune forget {folder} {found.task}"
        )


def half_forgotten(folder: Path) -> list[tuple[Path, str]]:
    """The note and a message about it: a forgetting was cut off, or the note is damaged."""
    try:
        refuse_half_forgotten(folder)
    except RunFolderError as problem:
        return [(folder / FILE, str(problem))]
    return []
