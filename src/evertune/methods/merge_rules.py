"""The rules of `merge`: how the weights after a task become one set of weights with those of before.

average     m <- m + (θ_t - m) / t
arithmetic  m <- m + λ (θ_t - θ_0)
magmax      m <- θ_0 + of each entry the larger of m - θ_0 and λ (θ_t - θ_0), by absolute value
wise        m = (1 - λ) θ_0 + λ θ_t
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from evertune.data.task import Task
from evertune.methods.base import Context
from evertune.models.points import Point, WeightSpace, combined, of_matrix

if TYPE_CHECKING:
    from evertune.methods.merge import Merge


class Rule(ABC):
    """One way to merge; its hooks are called by `Merge`."""

    begin: ClassVar[Literal["base", "latest", "merged"]]
    """The weights that training starts from, unless the user chooses others."""
    only_begin: ClassVar[bool] = False
    renews: ClassVar[bool] = True
    """Whether a task that starts from merged weights trains a new adapter beside them."""
    scale: ClassVar[float | None] = None

    def __init__(self, options: Merge) -> None:
        self.options = options
        self.factor = self.scale if options.scale is None else options.scale

    def setup(self, context: Context, space: WeightSpace) -> None:
        """Start without tasks."""
        self.context, self.space = context, space

    @abstractmethod
    def merged(self, before: Point, trained: Point, *, count: int, task: Task) -> Point:
        """The merged weights after task number `count`; `before` are those before it."""

    def on_known_task(self, task: Task) -> None:  # noqa: B027
        """Called for each task that the base model knows."""

    def before_task(self, task: Task, before: Point) -> None:  # noqa: B027
        """Called with the merged weights, when those that training starts from are in the model."""

    def before_merging(self, task: Task) -> None:  # noqa: B027
        """Called after the last step of a task."""

    def adds_to_loss(self) -> bool:
        """Whether a step differs from a plain one."""
        return False

    def after_backward(self, parameters: Mapping[str, nn.Parameter]) -> None:  # noqa: B027
        """The hook of `Method`."""

    def after_step(self, parameters: Mapping[str, nn.Parameter]) -> None:  # noqa: B027
        """The hook of `Method`."""

    def holds_at_most(self) -> int:
        """Bytes of tensors in its state."""
        return 0

    def progress_dict(self) -> dict[str, Any]:
        """The hook of `Method`."""
        return {}

    def load_progress_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027
        """The hook of `Method`."""

    def state_dict(self) -> dict[str, Any]:
        """The hook of `Method`."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027
        """The hook of `Method`."""


class Average(Rule):
    """The mean of the weights after every task."""

    begin = "base"

    def merged(self, before: Point, trained: Point, *, count: int, task: Task) -> Point:
        """The running mean."""
        del task
        return trained if count == 1 else combined([before, trained], [1 - 1 / count, 1 / count])


class TaskArithmetic(Rule):
    """The base model and the scaled sum of what each task changed (Ilharco et al. 2023, arXiv 2212.04089)."""

    begin, scale = "base", 0.4

    def merged(self, before: Point, trained: Point, *, count: int, task: Task) -> Point:
        """Add what this task changed."""
        del task
        start, factor = self.space.start(), float(self.factor or 0)
        return combined([before if count > 1 else start, trained, start], [1.0, factor, -factor])


class WiSE(Rule):
    """Between the base model and the latest weights (Wortsman et al. 2022, arXiv 2109.01903)."""

    begin, scale = "latest", 0.5

    def merged(self, before: Point, trained: Point, *, count: int, task: Task) -> Point:
        """Nothing of earlier merges is in it."""
        del before, count, task
        factor = float(self.factor or 0)
        return combined([self.space.start(), trained], [1 - factor, factor])


class MagMax(Rule):
    """Of each weight the largest change that a task has made (Marczak et al. 2024, arXiv 2407.06322)."""

    begin, scale = "latest", 0.5

    def merged(self, before: Point, trained: Point, *, count: int, task: Task) -> Point:
        """Entry by entry; beside LoRA of the product, which has full rank then."""
        del task
        start, factor = self.space.start(), float(self.factor or 0)
        before = before if count > 1 else start
        tensors = {
            name: base + _larger(before.tensors[name] - base, factor * (trained.tensors[name] - base))
            for name, base in start.tensors.items()
        }
        pairs = {
            layer: [of_matrix(_larger(before.dense(layer) - base, factor * (trained.dense(layer) - base)) + base)]
            for layer in start.pairs
            for base in [start.dense(layer)]
        }
        return Point(tensors, pairs)


def _larger(one: Tensor, other: Tensor) -> Tensor:
    return torch.where(one.abs() >= other.abs(), one, other)
