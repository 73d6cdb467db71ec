"""What `olora`, `reglora` and `keeplora` share: each task is learned in an adapter of its own, and all are summed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from evertune.data.task import Task
from evertune.methods.base import Context
from evertune.methods.low_rank import NONE, LowRankMethod, fresh
from evertune.models.adapters import ADAPTER, Adapted, LowRank
from evertune.models.weights import bytes_of, copy_of, restore


class SummedLowRank(LowRank):
    """An adapter that other matrices are added to from the beginning."""

    kept_down: Tensor
    kept_up: Tensor

    def __init__(self, layer: nn.Linear, *, rank: int, alpha: float, generator: torch.Generator) -> None:
        super().__init__(layer, rank=rank, alpha=alpha, generator=generator)
        self.keep([], [])


class SummedTasks(LowRankMethod):
    """A new adapter per task beside those of all earlier tasks, which don't train any more."""

    def __init__(self, *, r: int, lora_alpha: float, target_modules: str) -> None:
        super().__init__(r=r, lora_alpha=lora_alpha, target_modules=target_modules, modules_to_save=NONE)

    def adapter(self, layer: nn.Linear, generator: torch.Generator) -> nn.Module:
        """A sum of adapters, with one of them."""
        return SummedLowRank(layer, rank=self.r, alpha=self.lora_alpha, generator=generator)

    def setup(self, context: Context) -> None:
        """Start without earlier adapters."""
        super().setup(context)
        self._finished: list[dict[str, Tensor]] = []  # one adapter per learned task, the latest too
        self._tasks: list[str] = []  # their names; one that was learned again stands there again
        self._keep(0)

    def before_task(self, task: Task) -> None:
        """Put the finished adapters into the sum, and start a new one. The first task's is the start point's."""
        if self._finished:
            self._keep(len(self._finished))
            restore(self.context.parameters, self._fresh(task))

    def _fresh(self, task: Task) -> dict[str, Tensor]:
        """A new adapter, decided by the run's seed, the task's name and how often it was learned before."""
        words = (self.name, str(self.context.seed), task.name)
        return fresh(self.adapters(), words, again=self._tasks.count(task.name))

    def after_task(self, task: Task) -> None:
        """The adapter is finished; it stays the one that may train until the next task begins."""
        self._finished.append(copy_of(self.context.parameters))
        self._tasks.append(task.name)

    def grows_by(self) -> int:
        """One adapter."""
        return bytes_of(self.context.parameters)

    def state_dict(self) -> dict[str, Any]:
        """All adapters but the latest, which the stage's weights are."""
        return {
            "tasks": list(self._tasks),
            "kept": {str(number): adapter for number, adapter in enumerate(self._finished[:-1])},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the adapters back; the latest is in the model already."""
        latest = [copy_of(self.context.parameters)] if state["tasks"] else []
        self._finished, self._tasks = [*state["kept"].values(), *latest], list(state["tasks"])
        self._keep(len(self._finished) - 1)

    def _keep(self, count: int) -> None:
        """Add the first `count` finished adapters to the one that trains."""
        kept: Sequence[Mapping[str, Tensor]] = self._finished[: max(0, count)]
        for path, adapter in self.adapters().items():
            name = f"{path}.{ADAPTER}"
            adapter.keep([one[f"{name}.down"] for one in kept], [one[f"{name}.up"] for one in kept])

    def adapters(self) -> dict[str, SummedLowRank]:
        """The adapters, by the name of their layer."""
        return cast(dict[str, SummedLowRank], cast(Adapted, self.context.lmm).adapters)
