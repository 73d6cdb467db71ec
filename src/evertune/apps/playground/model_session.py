"""The one model in memory, which the playground sets to any stage of any run.

Separate from the runs, which are plain values that any thread may read.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evertune.apps.playground.runs import Run, names_of, opened, refuse_unlike
from evertune.apps.server.reload import Mark, has_moved, marks_of
from evertune.assets import Progress
from evertune.models.adapters import bare
from evertune.models.weights import copy_of, restore
from evertune.runs.api import config_of, model_of
from evertune.service.service import Service
from evertune.training.learner import Learner
from evertune.utils.files import read_json


class ModelSession:
    """The one model in memory, at any stage of any run.

    The base model is loaded once for all runs with the same seed, dtype and options; for a stage only
    the weights that training changed are loaded. For one thread at a time.
    """

    def __init__(self, *, progress: Progress | None = None) -> None:
        self._progress = progress
        self._began: tuple[Any, ...] = ()
        self._service: Service | None = None
        self._start: dict[str, Any] = {}
        self.marks: dict[str, Mark] = {}

    def serve(self, folder: Path) -> Service:
        """The model of a folder, at any stage; opened again when another process has changed the folder."""
        if self._service is not None and self._service.folder == folder and not has_moved(folder, self.marks):
            return self._service
        began, lmm = _began(folder), None
        if self._service is not None and began == self._began:
            lmm = bare(self._service.learner.lmm)
            restore(lmm.trainable(), self._start)
        self._service = None  # frees the model before, if it was another
        lmm = lmm or model_of(folder, progress=self._progress)
        self._began, self._start = began, copy_of(lmm.trainable())
        self.marks = marks_of(folder)
        self._service = Service.open(folder, lmm=lmm, progress=self._progress)
        return self._service

    def run(self, folder: Path, *, name: str) -> Run:
        """The current content of a folder.

        Raises:
            UserError: it has learned nothing. RunFolderError: it is damaged.
        """
        service = self.serve(folder)
        return opened(service, name=name, marks=self.marks)

    def at(self, run: Run, stage: int) -> Learner:
        """The learner of a run as it was after a stage.

        Raises:
            RunFolderError: the stage is damaged or gone.
        """
        learner = self.serve(run.folder).learner
        if learner.current != stage:
            learner.load(stage)
        return learner


def _began(folder: Path) -> tuple[Any, ...]:
    """The settings that determine the base model, its initial trainable part included."""
    config, provenance = config_of(folder), read_json(folder / "provenance.json")
    return config.model, config.seed, provenance["dtype"], provenance["model_fingerprint"], str(config.model_options)


def open_runs(folders: Sequence[Path], *, progress: Progress | None = None) -> tuple[list[Run], ModelSession]:
    """Open every folder, with one model in memory.

    Raises:
        UserError: they can't be shown together, or one has learned nothing. RunFolderError: one is damaged.
    """
    refuse_unlike(folders)
    session = ModelSession(progress=progress)
    runs = [session.run(folder, name=name) for folder, name in zip(folders, names_of(folders), strict=True)]
    return runs, session
