"""The events of a run, for progress bars, trackers and programs."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from evertune.data import Task
from evertune.reporting.held_out import HeldOut
from evertune.reporting.matrix import Matrix

if TYPE_CHECKING:
    from evertune.training.loop import Step
    from evertune.training.stages import Stage


class Callback:
    """Gets the events of a run, such as the terminal's progress bars. Every method is optional."""

    def on_model_loaded(self, name: str, facts: dict[str, str]) -> None:
        """The model is ready; `facts` contain device and dtype, with reasons."""

    def on_run_begin(self, title: str, *, training: list[int], answers: int) -> None:
        """A run begins: the remaining training samples by stage, epochs included, and the remaining answers."""

    def on_features_settled(self, choice: str) -> None:
        """Where vision features are kept is decided: `features=disk (...)`, with the reason."""

    def on_environment_changed(self, changes: list[str]) -> None:
        """The run resumes in another environment: other versions, another CPU."""

    def on_task_begin(self, number: int, task: Task) -> None:
        """Training of a stage begins."""

    def on_encode(self, done: int, total: int) -> None:
        """`done` of the `total` samples that are trained on or answered next have vision features on disk or in memory.

        Only while images are encoded for them: not where the features are already there.
        """

    def on_step_end(self, step: Step, *, samples: int) -> None:
        """One optimizer step over `samples` samples was taken."""

    def on_task_end(self, stage: Stage) -> None:
        """A stage is saved."""

    def on_evaluate_begin(self, stage: int, task: Task) -> None:
        """The test samples of a task are being answered."""

    def on_prediction(self, done: int, total: int) -> None:
        """`done` of the `total` questions of this task are answered."""

    def on_evaluate_end(self, stage: int, task: Task, score: float) -> None:
        """A cell of R is known."""

    def on_held_out(self, stage: int, held_out: HeldOut) -> None:
        """The probes of a row were evaluated, and the text probe where it was due; right before `on_row_end`."""

    def on_row_end(self, stage: int, name: str, row: list[float | None], tasks: list[str]) -> None:
        """A row of R is complete; None: not evaluated (`evaluation.cells`)."""

    def on_run_end(self, matrix: Matrix) -> None:
        """The run is complete."""

    def on_warning(self, text: str) -> None:
        """A non-fatal warning."""
        logging.getLogger("evertune").warning(text)
