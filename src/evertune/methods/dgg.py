"""DGG: the way back to the old weights stands in for the gradient of the old tasks, in some of the steps.

The difference d between the weights of now and those before the task is where the old tasks' loss rises. Scaled down to
the size of the gradient, it is added in a random share of the steps. Used with `replay`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from evertune.data.task import Task
from evertune.methods.base import Context, MethodInfo
from evertune.methods.step_draws import StepDraws
from evertune.models.weights import copy_of
from evertune.utils.errors import UserError


class Dgg(StepDraws):
    """Guide some steps towards the weights before the task.

    Args:
        p: probability of a step to be guided; 0.1 in the paper, 0.05 for its later tasks.
        norm: |d| and |g| are of all trained tensors together ('global'), or of each tensor ('tensor'); the paper leaves
            it open.
    """

    name = "dgg"
    about = MethodInfo(
        title="dynamic gradient guidance towards the old weights",
        kind="regularization",
        paper="arXiv 2511.15164",
        formula="with probability p: g <- g + d min(1, |g| / |d|), d = θ - θ*, θ* the weights before the task",
        cost="a copy of the trained weights while training; with replay, its samples",
        fails="without replay: the way back alone holds everything equally; with a large p nothing new is learned",
    )
    sequential_equivalent: ClassVar[Mapping[str, Any]] = {"p": 0.0}

    def __init__(self, *, p: float = 0.1, norm: Literal["global", "tensor"] = "global") -> None:
        if not 0 <= p <= 1:
            raise UserError(f"dgg.p must lie between 0 and 1, not {p}")
        self.p, self.norm = p, norm

    def setup(self, context: Context) -> None:
        """Start without old tasks."""
        super().setup(context)
        self._knows = False
        self._old: dict[str, Tensor] = {}

    def on_known_task(self, task: Task) -> None:
        """The base model is what is returned to, from the first task on."""
        self._knows = True

    def before_task(self, task: Task) -> None:
        """The weights of now are the old ones."""
        super().before_task(task)
        self._old = copy_of(self.context.parameters) if self.adds_to_loss() else {}

    def adds_to_loss(self) -> bool:
        """Only once there is an old task."""
        return self.p > 0 and self._knows

    def after_backward(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Add the way back, in a random share of the steps; before clipping."""
        super().after_backward(parameters)
        if not self.adds_to_loss():
            return
        guided = self.choose().random() < self.p
        self.log("guided", float(guided))
        if not guided:
            return
        trained = {name: p for name, p in parameters.items() if p.grad is not None}
        for names in [list(trained)] if self.norm == "global" and trained else [[name] for name in trained]:
            self._guide({name: trained[name] for name in names})

    def _guide(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """G + d min(1, |g| / |d|) of tensors that are one vector."""
        gradients = {name: p.grad for name, p in parameters.items() if p.grad is not None}
        away = {name: parameters[name].detach() - self._old[name] for name in gradients}
        size, distance = (torch.stack([v.norm() for v in part.values()]).norm() for part in (gradients, away))
        if distance > 0:
            factor = (size / distance).clamp(max=1.0)
            for name, gradient in gradients.items():
                gradient.add_(factor * away[name])

    def after_task(self, task: Task) -> None:
        """There is an old task now."""
        self._knows, self._old = True, {}

    def state_dict(self) -> dict[str, Any]:
        """Whether there is an old task; the old weights are the stage's."""
        return {"knows": self._knows}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take it back."""
        self._knows = bool(state["knows"])
