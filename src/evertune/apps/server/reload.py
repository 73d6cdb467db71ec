"""A learner that follows its folder: new stages and rollbacks of other processes are loaded without losing a request.

A stage in training may still be discarded, so a new stage is loaded only when the folder's lock is free. A rollback
takes effect at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evertune.apps.server.names import ServedModels, ServedStage, Variant
from evertune.runs.api import config_of
from evertune.runs.forgetting import FILE as FORGETTING
from evertune.runs.run_folder import thinned_stages
from evertune.runs.unchecked import last_checked
from evertune.training.learner import Learner
from evertune.training.stages import DONE, stage_folder, stage_folders
from evertune.utils.errors import RunFolderError
from evertune.utils.files import digest_of_file, read_json
from evertune.utils.locks import NAME, is_held

CONFIG, PROVENANCE = "config.yaml", "provenance.json"
Mark = tuple[int, int]
"""A file's inode and modification time: when one of them differs, the file was replaced."""


class StageReloader:
    """Keeps a learner at the stages of its folder. For one thread; `models` and `fault` may be read by any.

    One stage is in memory at a time: the base model is shared, and only what training changed is read for another.
    """

    def __init__(self, learner: Learner) -> None:
        self._learner = learner
        self._model = _model_of(learner.folder)
        self._marks = marks_of(learner.folder)
        self.models = models_of(learner)
        self._loaded: int | None = learner.current
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

    def at(self, variant: Variant) -> ServedStage:
        """Put a stage into the model.

        Raises:
            UnknownModelError: it was rolled back. RunFolderError: it can't be loaded.
        """
        wanted = self.models.of(variant)
        if self._loaded != wanted.stage:
            self._loaded = None  # until all of it is there
            self._learner.load(wanted.stage)
            self._loaded = wanted.stage
        return wanted

    def _load(self, now: dict[str, Mark]) -> None:
        self._loaded = None
        if _model_of(self._learner.folder) != self._model:
            raise RunFolderError(f"{self._learner.folder} is another model now: start the server again")
        self._learner.refresh(upto=last_checked(self._learner.folder))
        self._marks, self.models, self.fault = now, models_of(self._learner), None
        self._loaded = self._learner.current


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
    if now == marks or (folder / FORGETTING).exists():  # its stages are being exchanged
        return False
    grown = all(now.get(name) == mark for name, mark in marks.items())
    return not (grown and is_held(folder / NAME))


def _model_of(folder: Path) -> tuple[Any, ...]:
    """The settings that are fixed for a learner's lifetime."""
    config = config_of(folder)
    return config.model, config.seed, config.method, config.options, config.model_options


def models_of(learner: Learner) -> ServedModels:
    """The models of a learner that is at its last stage."""
    gone = thinned_stages(learner.folder)
    numbers = [number for number in range(len(learner.stages) + 1) if number not in gone]
    stages = {number: _served(learner, number) for number in numbers}
    experts = (learner.expert_of(stage.task) for stage in learner.stages)
    return ServedModels(stages[learner.current], stages, tuple(dict.fromkeys(each for each in experts if each)))


def _served(learner: Learner, number: int) -> ServedStage:
    """A stage, with a digest of the weights that it predicts with."""
    if not number:
        path, task = learner.folder / PROVENANCE, None
        name = str(read_json(path)["model_fingerprint"])
    else:
        task = learner.stages[number - 1].task
        path = stage_folder(learner.folder, number, task) / DONE
        name = digest_of_file(path)
    return ServedStage(number, task, f"stage-{number}-{name[:12]}", int(path.stat().st_mtime))
