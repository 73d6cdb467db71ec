"""A learner that follows its folder: new stages and rollbacks of other processes are loaded without losing a request.

A stage in training may still be discarded, so a new stage is loaded only when the folder's lock is free. A rollback
takes effect at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evertune.runs.api import config_of
from evertune.runs.unchecked import last_checked
from evertune.training.learner import Learner
from evertune.training.stages import DONE, stage_folder, stage_folders
from evertune.utils.errors import RunFolderError
from evertune.utils.files import digest_of_file, read_json
from evertune.utils.locks import NAME, is_held

CONFIG, PROVENANCE = "config.yaml", "provenance.json"
Mark = tuple[int, int]
"""A file's inode and modification time: when one of them differs, the file was replaced."""


@dataclass(frozen=True, slots=True)
class ServedStage:
    """The stage that answers requests.

    Attributes:
        stage: its number; 0 is the base model.
        task: what it learned last; None at stage 0.
        fingerprint: the stage and a prefix of its checksum; stages with different fingerprints may answer differently.
        created: when the stage was written, in seconds since 1970.
    """

    stage: int = 0
    task: str | None = None
    fingerprint: str = "stage-0"
    created: int = 0


class StageReloader:
    """Keeps a learner at the last stage of its folder. For one thread; `served` may be read by any."""

    def __init__(self, learner: Learner) -> None:
        self._learner = learner
        self._model = _model_of(learner.folder)
        self._marks = marks_of(learner.folder)
        self.served = served_by(learner)
        self.fault: RunFolderError | None = None

    def follow(self) -> bool:
        """Load the last stage if the folder's stages have changed; returns whether they have.

        Raises:
            RunFolderError: they can't be loaded; no request may be answered until they can.
        """
        if self.fault is None and not has_moved(self._learner.folder, self._marks):
            return False
        now = marks_of(self._learner.folder)
        while True:
            try:
                self._load(now)
                return True
            except RunFolderError as problem:
                if (later := marks_of(self._learner.folder)) == now:
                    self.fault = problem
                    raise
                now = later  # another process has added a stage meanwhile

    def _load(self, now: dict[str, Mark]) -> None:
        if _model_of(self._learner.folder) != self._model:
            raise RunFolderError(f"{self._learner.folder} is another model now: start the server again")
        self._learner.refresh(upto=last_checked(self._learner.folder))
        self._marks, self.served, self.fault = now, served_by(self._learner), None


def marks_of(folder: Path) -> dict[str, Mark]:
    """The files whose replacement changes what a folder's model predicts: a few calls of the system, no content."""
    found = {}
    for path in (folder / CONFIG, *(place / DONE for place in stage_folders(folder)[: last_checked(folder)])):
        try:
            status = path.stat()
        except OSError:
            continue
        found[CONFIG if path.name == CONFIG else path.parent.name] = (status.st_ino, status.st_mtime_ns)
    return found


def has_moved(folder: Path, marks: dict[str, Mark]) -> bool:
    """Whether a folder's model has changed since `marks_of`; a stage that may still be discarded does not count."""
    now = marks_of(folder)
    if now == marks:
        return False
    grown = all(now.get(name) == mark for name, mark in marks.items())
    return not (grown and is_held(folder / NAME))


def _model_of(folder: Path) -> tuple[Any, ...]:
    """The settings that are fixed for a learner's lifetime."""
    config = config_of(folder)
    return config.model, config.seed, config.method, config.options, config.model_options


def served_by(learner: Learner) -> ServedStage:
    """Digests of the weights that a learner predicts with at its current stage."""
    if not learner.current:
        path, task = learner.folder / PROVENANCE, None
        name = str(read_json(path)["model_fingerprint"])
    else:
        task = learner.stages[learner.current - 1].task
        path = stage_folder(learner.folder, learner.current, task) / DONE
        name = digest_of_file(path)
    return ServedStage(learner.current, task, f"stage-{learner.current}-{name[:12]}", int(path.stat().st_mtime))
