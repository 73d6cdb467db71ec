"""Elastic weight consolidation: parameters that mattered to earlier tasks are held by a spring.

Every earlier task k has its own importance F_k and anchor θ_k. Their sum of quadratics is itself one quadratic,
Σ_k F_k (θ - θ_k)² = A θ² - 2 B θ + const with A = Σ F_k and B = Σ F_k θ_k, so two tensors per parameter hold all tasks.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from evertune.errors import UserError
from evertune.files import digest
from evertune.methods.base import About, Context, Method
from evertune.tasks.task import Sample, Task


class EWC(Method):
    """Quadratic penalty weighted by the diagonal of the empirical Fisher information.

    Args:
        strength: λ. Its scale depends on the model and the data: without tuning, "EWC does not work" says nothing.
        samples: training samples per task that the Fisher information is estimated from.
    """

    name = "ewc"
    about = About(
        title="elastic weight consolidation",
        kind="regularization",
        paper="Kirkpatrick et al. 2017, arXiv 1612.00796; in He et al. 2023, arXiv 2311.16206",
        formula="λ/2 Σ_k Σ_i F_k,i (θ_i - θ_k,i)², F_k,i = mean over samples of (∂ log p(answer) / ∂θ_i)²",
        cost="two numbers per trained parameter, however many tasks; one backward pass per Fisher sample",
        fails="with an untuned λ; when tasks need the same parameters in different places",
    )

    neutral: ClassVar[Mapping[str, Any]] = {"strength": 0.0}

    def __init__(self, *, strength: float = 1000.0, samples: int = 128) -> None:
        if strength < 0 or samples < 1:
            raise UserError("ewc.strength must be 0 or more and ewc.samples at least 1")
        self.strength, self.samples = strength, samples
        self.importance: dict[str, Tensor] = {}
        self._pull: dict[str, Tensor] = {}

    def setup(self, context: Context) -> None:
        """Start without importance."""
        super().setup(context)
        self.importance, self._pull = {}, {}

    def adds_to_loss(self) -> bool:
        """Only once there is an earlier task to protect."""
        return self.strength > 0 and bool(self.importance)

    def after_backward(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Add the penalty's gradient λ (A θ - B), once per optimizer step however the batch was split."""
        if not self.adds_to_loss():
            return
        for name, parameter in parameters.items():
            pull = self.importance[name] * parameter.detach() - self._pull[name]
            gradient = self.strength * pull
            parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)

    def penalty(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """The penalty's value up to a constant: λ/2 Σ (A θ² - 2 B θ)."""
        terms = [(self.importance[n] * p * p - 2 * self._pull[n] * p).sum() for n, p in parameters.items()]
        return self.strength / 2 * torch.stack(terms).sum()

    def after_task(self, task: Task) -> None:
        """Estimate the Fisher information of `task` and add it to the sums."""
        choose = random.Random(digest("ewc", str(self.context.seed), task.name))
        chosen = choose.sample(list(task.train), min(self.samples, len(task.train)))
        for name, fisher in fisher_information(self.context, chosen).items():
            theta = self.context.parameters[name].detach()
            self.importance[name] = self.importance.get(name, torch.zeros_like(fisher)) + fisher
            self._pull[name] = self._pull.get(name, torch.zeros_like(fisher)) + fisher * theta

    def state_dict(self) -> dict[str, Any]:
        """The two sums."""
        return {"importance": self.importance, "pull": self._pull}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the sums back, on the parameters' device."""
        device = self.context.lmm.device
        self.importance = {name: t.to(device) for name, t in state["importance"].items()}
        self._pull = {name: t.to(device) for name, t in state["pull"].items()}


def fisher_information(context: Context, samples: Sequence[Sample]) -> dict[str, Tensor]:
    """Diagonal empirical Fisher information: mean over samples of the squared gradient of log p(answer).

    One backward pass per sample: squares of batch means would shrink with the batch size.

    Returns:
        {name: tensor of the parameter's shape}, float32.
    """
    parameters = context.parameters
    module = context.lmm.module()
    total = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for sample in samples:
        batch = context.lmm.collate([sample], context.features.get([sample]))
        gradients = torch.autograd.grad(module(batch).nll.sum(), list(parameters.values()), allow_unused=True)
        for name, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                total[name] += gradient.detach() ** 2
    return {name: value / len(samples) for name, value in total.items()}
