"""Progress of a run called from Python, as tqdm shows it: in a terminal, a notebook or a log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from evertune.data import Task
from evertune.runs.callback import Callback

if TYPE_CHECKING:
    from evertune.training.loop import Step


class ProgressBars(Callback):
    """One bar for the samples that are trained on, one for the answers of a task, one while images are encoded."""

    def __init__(self) -> None:
        self._training: Any = None
        self._answers: Any = None
        self._encoding: Any = None

    def on_run_begin(self, title: str, *, training: list[int], answers: int) -> None:
        """Open the bar of all stages."""
        self._training = tqdm(total=sum(training), desc=title, unit=" samples", disable=not training)

    def on_task_begin(self, number: int, task: Task) -> None:
        """Name the task."""
        self._training.set_postfix_str(f"stage {number}: {task.name}")

    def on_encode(self, done: int, total: int) -> None:
        """A bar of its own, from the first image of a task to its last."""
        if self._encoding is None or total != self._encoding.total:
            self._encoded()
            self._encoding = tqdm(total=total, desc="encode images", unit=" samples", leave=False)
        self._encoding.update(done - self._encoding.n)

    def _encoded(self) -> None:
        if self._encoding is not None:
            self._encoding.close()
            self._encoding = None

    def on_step_end(self, step: Step, *, samples: int) -> None:
        """Move on."""
        self._encoded()
        self._training.update(min(samples, self._training.total - self._training.n))

    def on_evaluate_begin(self, stage: int, task: Task) -> None:
        """Open the bar of a task's answers."""
        self._encoded()
        self._answers = tqdm(total=len(task.test), desc=f"evaluate {task.name}", unit=" answers", leave=False)

    def on_prediction(self, done: int, total: int) -> None:
        """Move on."""
        self._encoded()
        self._answers.update(done - self._answers.n)

    def on_evaluate_end(self, stage: int, task: Task, score: float) -> None:
        """Close the bar of a task's answers."""
        self._answers.close()

    def on_run_end(self, matrix: Any) -> None:
        """Close the bar of all stages."""
        self._training.update(self._training.total - self._training.n)
        self._training.close()
