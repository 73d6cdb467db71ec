"""Random choices by step: the same on all processes, and when a task resumes in the middle of it."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from torch import nn

from evertune.data.task import Task
from evertune.methods.base import Context, Method
from evertune.utils.files import digest


class StepDraws(Method):
    """A method that chooses at random in each step, by the run's seed, the task and the number of the step."""

    def setup(self, context: Context) -> None:
        """Start before the first step."""
        super().setup(context)
        self._task, self._step = "", 0

    def before_task(self, task: Task) -> None:
        """The draws of a task are its own."""
        super().before_task(task)
        self._task, self._step = task.name, 0

    def after_backward(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Count the step."""
        self._step += 1

    def choose(self, *words: str) -> random.Random:
        """A random generator for this step; one for each of several draws by `words`."""
        return random.Random(digest(self.name, str(self.context.seed), self._task, str(self._step), *words))

    def progress_dict(self) -> dict[str, Any]:
        """The number of the step, which decides the next draw."""
        return {"step": self._step}

    def load_progress_dict(self, state: Mapping[str, Any]) -> None:
        """Continue with the next draw."""
        self._step = state.get("step", 0)
