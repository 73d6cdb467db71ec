"""The rules of `merge` that change training steps too: P&M and the running average of LCA.

pm   m <- m + a Δ, Δ = θ_t - m, a = - Σ_{i<=t} (m - θ_i)' F_i Δ / Σ_{i<=t} Δ' F_i Δ, F_i diagonal Fisher information
ema  θ* <- (1 - w) θ* + w θ after every step, w = 2 (1 + |g|₁) / (|θ - θ*|₁ |g - g_before|₁) for each tensor
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from evertune.data.task import Task, drawn
from evertune.methods.base import Context
from evertune.methods.ewc import fisher_information
from evertune.methods.merge_rules import Rule
from evertune.models.points import Point, combined
from evertune.models.quantization import refuse_quantized
from evertune.models.weights import copy_of, restore
from evertune.models.whole_weights import whole_weights
from evertune.utils.errors import UserError
from evertune.utils.files import digest

SMALL_WEIGHT = 0.01
"""w of LCA where the formula leaves (0, 1)."""


class PerturbAndMerge(Rule):
    """P&M (arXiv 2505.22389): the best point on the line between the merged weights and the new ones.

    It minimises Σ_i (θ - θ_i)' F_i (θ - θ_i), whose sums Σ F_i and Σ F_i θ_i are all that is kept.
    """

    begin, only_begin, acts_from_first_task = "merged", True, True

    def setup(self, context: Context) -> None:
        """Start without tasks.

        Raises:
            UserError: the model's own LoRA trains, which has no place for what is merged; or layers are quantized.
        """
        super().setup(context)
        if self.space.own:
            raise UserError(
                f"merge.rule=pm trains a new adapter beside the merged weights, and {context.lmm.name} trains a LoRA "
                "of its own, which has one place: write merge+lora"
            )
        for path in self.space.adapters:
            refuse_quantized(context.lmm.module().get_submodule(path), "merge.rule=pm")
        self._fisher: dict[str, Tensor] = {}
        self._pull: dict[str, Tensor] = {}
        self._clean: dict[str, Tensor] = {}  # weights before this step's perturbation
        self._tasks, self._armed, self._step, self._task = 0, False, 0, ""
        self._hook: Any = None

    def on_known_task(self, task: Task) -> None:
        """The base model is the point of a task that it knows."""
        self._measure(task, self.space.start())

    def adds_to_loss(self) -> bool:
        """With a perturbation."""
        return self.options.perturb > 0

    def before_task(self, task: Task) -> None:
        """Perturb along what this task has changed, in the first forward pass of each step."""
        self._task, self._step, self._armed = task.name, 0, True
        self._remove()
        if self.options.perturb:
            self._hook = self.context.lmm.module().register_forward_pre_hook(self._perturb)

    def _remove(self) -> None:
        if self._hook is not None:
            self._hook.remove()
        self._hook = None

    def _perturb(self, module: nn.Module, inputs: Any) -> None:
        if not (self._armed and module.training and torch.is_grad_enabled()):
            return
        self._armed = False
        choose = random.Random(digest("pm", str(self.context.seed), self._task, str(self._step)))
        factor = self.options.perturb * choose.choice((-1, 0, 1))
        if factor:
            self._clean = copy_of(self.context.parameters)
            self._move(factor)

    @torch.no_grad()
    def _move(self, factor: float) -> None:
        """θ + ε Δ: the adapters began without effect, so their product is Δ."""
        parameters = self.context.parameters
        for name, value in self.options.merged.tensors.items():
            parameters[name].add_(factor * (parameters[name] - value))
        for name in self.space.ups:
            parameters[name].mul_(1 + factor)

    def after_backward(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """The gradient of the perturbed weights is used at those that are trained."""
        self._step += 1
        restore(self.context.parameters, self._clean)
        self._clean = {}

    def after_step(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """The next forward pass is perturbed again."""
        self._armed = True

    def before_merging(self) -> None:
        """No more perturbation."""
        self._remove()

    def combination(self, before: Point, trained: Point, *, count: int, task: Task) -> Point:
        """The best point on the line."""
        self._measure(task, trained)
        share = self._share(before, trained) if self._tasks > 1 else 1.0
        self.options.log("share", share)
        return trained if share == 1 else combined([before, trained], [1 - share, share])

    def _measure(self, task: Task, point: Point) -> None:
        """Add the Fisher information of `task` at the weights in the model, which are `point`."""
        choose = random.Random(digest("pm", str(self.context.seed), task.name))
        samples = drawn(task.train, min(self.options.samples, len(task.train)), choose)
        with whole_weights(self.context.lmm, list(self.space.adapters), self.space.plain) as lmm:
            found = fisher_information(replace(self.context, lmm=lmm), samples)
        for name, fisher in found.items():
            pull = fisher * self._dense(point, name)
            self._fisher[name] = self._fisher[name] + fisher if self._tasks else fisher
            self._pull[name] = self._pull[name] + pull if self._tasks else pull
        self._tasks += 1

    def _share(self, before: Point, trained: Point) -> float:
        """The factor a, within 0..1: the paper's merge is a convex combination."""
        against = along = 0.0
        for name, fisher in self._fisher.items():
            m = self._dense(before, name)
            delta = self._dense(trained, name) - m
            against += float(((fisher * m - self._pull[name]) * delta).double().sum())
            along += float((fisher * delta.square()).double().sum())
        return min(1.0, max(0.0, -against / along)) if along > 0 else 1 / self._tasks

    def _dense(self, point: Point, name: str) -> Tensor:
        """A weight in full; beside adapters what they add to it."""
        if name in point.tensors:
            return point.tensors[name]
        layer = name.removesuffix(".weight")
        return self.space.adapters[layer].scale * point.dense(layer)

    def holds_at_most(self) -> int:
        """Two numbers per merged weight."""
        sizes = [len(a.up) * a.down.shape[1] for a in self.space.adapters.values()]
        return 8 * (sum(sizes) + sum(self.context.parameters[name].numel() for name in self.space.plain))

    def progress_dict(self) -> dict[str, Any]:
        """The number of the step, which decides the next perturbation."""
        return {"step": self._step}

    def load_progress_dict(self, state: Mapping[str, Any]) -> None:
        """Continue with the next one."""
        self._step = state.get("step", 0)

    def state_dict(self) -> dict[str, Any]:
        """The sums."""
        return {"fisher": self._fisher, "pull": self._pull, "tasks": self._tasks}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take them back."""
        device = self.context.device
        self._fisher = {name: value.to(device) for name, value in state["fisher"].items()}
        self._pull = {name: value.to(device) for name, value in state["pull"].items()}
        self._tasks = state["tasks"]


class MovingAverage(Rule):
    """LCA (Qiao et al. 2024, arXiv 2410.10868): a running average of all trained tensors, as they are, by step.

    At the end of a task the average takes the place of the weights, and the next task starts there.
    """

    begin, only_begin, renews, acts_from_first_task = "merged", True, False, True
    takes = ("weight",)

    def setup(self, context: Context) -> None:
        """Start at the weights of now."""
        super().setup(context)
        self._average: dict[str, Tensor] = {}
        self._gradients: dict[str, Tensor] = {}
        self._before: dict[str, Tensor] = {}

    def adds_to_loss(self) -> bool:
        """Steps are as always, and what remains of them is not; w = 1 is plain training."""
        return self.options.weight != 1

    def before_task(self, task: Task) -> None:
        """The average starts at these weights."""
        self._average, self._gradients, self._before = copy_of(self.context.parameters), {}, {}

    def after_backward(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Remember the gradients of this step and of the one before."""
        if self.options.weight is None:
            self._before = self._gradients
            self._gradients = {n: p.grad.detach().clone() for n, p in parameters.items() if p.grad is not None}

    def after_step(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Move the average."""
        weights = []
        for name, parameter in parameters.items():
            theta, average = parameter.detach(), self._average[name]
            weight = self._weight(name, theta, average)
            weights.append(weight)
            self._average[name] = torch.lerp(average, theta, weight)
        self.options.log("weight", sum(weights) / len(weights))

    def _weight(self, name: str, theta: Tensor, average: Tensor) -> float:
        if self.options.weight is not None:
            return self.options.weight
        if name not in self._gradients or name not in self._before:
            return SMALL_WEIGHT
        return weight_of(theta, average, self._gradients[name], self._before[name])

    def before_merging(self) -> None:
        """The average takes the place of the weights."""
        if self.adds_to_loss():
            restore(self.context.parameters, self._average)

    def combination(self, before: Point, trained: Point, *, count: int, task: Task) -> Point:
        """It is in the model already."""
        return trained

    def progress_dict(self) -> dict[str, Any]:
        """The average, and the gradients of the last step."""
        return {"average": self._average, "gradients": self._gradients}

    def load_progress_dict(self, state: Mapping[str, Any]) -> None:
        """Take them back."""
        device = self.context.device
        self._average = {name: value.to(device) for name, value in state["average"].items()}
        self._gradients = {name: value.to(device) for name, value in state["gradients"].items()}


def weight_of(theta: Tensor, average: Tensor, gradient: Tensor, before: Tensor) -> float:
    """W = 2 (1 + |g|₁) / (|θ - θ*|₁ |g - g_before|₁); 0.01 where that is not between 0 and 1."""
    apart = float((theta - average).abs().sum()) * float((gradient - before).abs().sum())
    weight = 2 * (1 + float(gradient.abs().sum())) / apart if apart > 0 else 1.0
    return weight if 0 < weight < 1 else SMALL_WEIGHT
