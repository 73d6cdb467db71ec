"""The runs that the playground shows: their tasks, stages and cells, read once when it starts.

Runs that are compared must share a base model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evertune.apps.server.reload import Mark
from evertune.data import Sample, Task
from evertune.runs.api import config_of
from evertune.runs.config import RunConfig
from evertune.runs.runner import cells_about
from evertune.service.service import Service
from evertune.training.image_store import FOLDER, IMAGES
from evertune.training.learner import Learner
from evertune.training.run_origin import read_identity
from evertune.training.stages import Stage
from evertune.utils.errors import UserError

Cell = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Run:
    """A run folder, or a model in service.

    Attributes:
        name: the folder's name; with its parent's where two folders have the same name.
        cells: results of `evaluate_cell` by (stage, task).
        needs_task: whether its method needs the task of a question.
        marks: of the folder when it was read (`has_moved`).
    """

    folder: Path
    name: str
    config: RunConfig
    tasks: tuple[Task, ...]
    stages: tuple[Stage, ...]
    cells: dict[tuple[int, str], Cell] = field(repr=False)
    needs_task: bool
    marks: dict[str, Mark] = field(repr=False)

    @property
    def model(self) -> str:
        """The name of its model."""
        return Path(self.config.model).name

    @property
    def stage_names(self) -> list[str]:
        """Names of all rows: the base model, then the learned tasks."""
        return ["base", *(stage.task for stage in self.stages)]


def refuse_unlike(folders: Sequence[Path]) -> None:
    """Stop before anything is loaded when folders can't be shown together.

    Raises:
        UserError: there are no folders, one is missing, or they hold different models.
        RunFolderError: one is no run folder.
    """
    if not folders:
        raise UserError("name the folder of a model or a run: evertune app DIR")
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder} is not a folder: name that of a model or a run")
    first, *others = folders
    model = _model_name(first)
    for other in others:
        if _model_name(other) != model:
            raise UserError(
                f"{first} holds {model[0]} and {other} holds {_model_name(other)[0]}, another model: "
                "only runs of one model are compared; open them one by one"
            )


def _model_name(folder: Path) -> tuple[str, str]:
    """What a run's model is called, and the hash of its configuration."""
    return Path(config_of(folder).model).name, str(read_identity(folder).get("model_config"))


def refuse_unlearned(folder: Path, stages: Sequence[Stage]) -> None:
    """Refuse a model that has learned nothing.

    Raises:
        UserError: it has learned nothing.
    """
    if not stages:
        raise UserError(f"{folder} has learned nothing yet: teach it with evertune learn {folder} DATA")


def opened(service: Service, *, name: str, marks: dict[str, Mark]) -> Run:
    """The values that the playground needs from a model in service, without its learner.

    Raises:
        UserError: it has learned nothing.
    """
    learner: Learner = service.learner
    refuse_unlearned(service.folder, learner.stages)
    return Run(
        folder=service.folder,
        name=name,
        config=config_of(service.folder),
        tasks=service.tasks,
        stages=tuple(learner.stages),
        cells=cells_about(service.folder, service.tasks),
        needs_task=learner.needs_task_id(),
        marks=marks,
    )


def names_of(folders: Sequence[Path]) -> list[str]:
    """Names of the runs: the folder's name, with the parent's where names would be equal."""
    whole = [folder.resolve() for folder in folders]
    names = [folder.name for folder in whole]
    return [f"{f.parent.name}/{f.name}" if names.count(f.name) > 1 else f.name for f in whole]


def own_image(folder: Path, image: Path) -> Path | None:
    """The image, if it is a regular file inside the run folder; None for any other path or a link."""
    return image if image.resolve().is_relative_to(folder.resolve() / FOLDER / IMAGES) else None


class ExampleQuestions:
    """The stored test questions with one image: examples to choose from, with their gold answers."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self._samples: dict[str, list[Sample]] = {}
        self._answers: dict[tuple[str, str], tuple[Task, Sample]] = {}
        for run, task in ((each, task) for each in runs for task in each.tasks):
            if task.name not in self._samples:
                samples = [sample for sample in task.test if len(sample.images) == 1]
                self._samples[task.name] = [s for s in samples if own_image(run.folder, s.images[0])]
            for sample in self._samples[task.name]:
                self._answers.setdefault((sample.images[0].stem, sample.instruction.strip()), (task, sample))

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks that have such questions, in the order they were learned."""
        return [name for name, samples in self._samples.items() if samples]

    def of(self, task: str) -> list[Sample]:
        """The questions of a task; none for an unknown name."""
        return self._samples.get(task, [])

    def found(self, sha: str, words: str) -> tuple[Task, Sample] | None:
        """The question about the image of this SHA-256, if it was kept."""
        return self._answers.get((sha, words.strip()))
