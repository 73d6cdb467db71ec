"""`unchecked.json`: a stage of a model in service whose effect on the other tasks is not measured yet.

Written before a task is trained and removed when its stage was accepted or discarded. If the process is killed in
between, the stage is on the disk but was never checked: until the same command completes the check, it is not part of
the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evertune.utils.errors import RunFolderError
from evertune.utils.files import read_object, write_json
from evertune.utils.safe_names import is_name

FILE = "unchecked.json"


@dataclass(frozen=True, slots=True)
class UncheckedStage:
    """A stage that was trained and not checked, and the hyper-parameters of its training."""

    stage: int
    task: str
    training: Mapping[str, Any]

    def how_on(self, folder: Path) -> str:
        """Advice for the user."""
        return (
            f"stage {self.stage} ('{self.task}') was learned, but its check was cut off: give the same command again, "
            f"or discard the stage with evertune rollback {folder} --to {self.stage - 1}"
        )


def note_unchecked(folder: Path, noted: UncheckedStage) -> None:
    """Write the note before a stage is trained."""
    write_json(folder / FILE, {"stage": noted.stage, "task": noted.task, "training": dict(noted.training)})


def unchecked_stage(folder: Path) -> UncheckedStage | None:
    """The stage of a run folder that was not checked, if it is there.

    Raises:
        RunFolderError: the note is damaged.
    """
    path = folder / FILE
    if not path.exists():
        return None
    content = read_object(path)
    number, task, training = (content.get(key) for key in ("stage", "task", "training"))
    if not (isinstance(number, int) and isinstance(task, str) and isinstance(training, dict)):
        raise _damaged(path)
    if number < 1 or not is_name(task):
        raise _damaged(path)
    from evertune.training.stages import DONE, stage_folder  # imports torch, which a finished run does without

    if not (stage_folder(folder, number, task) / DONE).exists():
        return None  # the training was cut off: there is nothing to check
    return UncheckedStage(number, task, training)


def _damaged(path: Path) -> RunFolderError:
    return RunFolderError(f"{path} is damaged: delete it to accept the last stage as it is")


def complaints(folder: Path) -> list[tuple[Path, str]]:
    """The note and a message about it: its stage was not checked, or the note is damaged."""
    try:
        found = unchecked_stage(folder)
    except RunFolderError as problem:
        return [(folder / FILE, str(problem))]
    return [(folder / FILE, found.how_on(folder))] if found else []


def last_checked(folder: Path) -> int | None:
    """The last stage that belongs to the model, if a later one was not checked; None: all belong to it."""
    noted = unchecked_stage(folder)
    return None if noted is None else noted.stage - 1


def forget_unchecked(folder: Path) -> None:
    """The last stage was accepted or discarded."""
    (folder / FILE).unlink(missing_ok=True)
