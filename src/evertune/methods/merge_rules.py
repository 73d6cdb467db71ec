"""The rules of `merge`: how the weights after a task become one set of weights with those of before.

average     m <- m + (θ_t - m) / t
arithmetic  m <- m + λ (θ_t - θ_0)
magmax      m <- θ_0 + of each entry the larger of m - θ_0 and λ (θ_t - θ_0), by absolute value
wise        m = (1 - λ) θ_0 + λ θ_t
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from evertune.data.task import Task
from evertune.methods.base import Method
from evertune.models.points import Point, WeightSpace, combined, of_matrix

if TYPE_CHECKING:
    from evertune.methods.merge import Merge


class Rule(Method, ABC):
    """One way to merge; `Merge` calls its hooks, which are those of a method, and keeps its state."""

    begin: ClassVar[Literal["base", "latest", "merged"]]
    """The weights that training starts from, unless the user chooses others."""
    only_begin: ClassVar[bool] = False
    renews: ClassVar[bool] = True
    """Whether a task that starts from merged weights trains a new adapter beside them."""
    takes: ClassVar[tuple[str, ...]] = ()
    """The options of `merge` that have an effect under this rule only."""
    scale: ClassVar[float | None] = None

    def __init__(self, options: Merge, space: WeightSpace) -> None:
        self.options, self.space = options, space
        self.factor = float((self.scale if options.scale is None else options.scale) or 0)

    @abstractmethod
    def combination(self, before: Point, trained: Point, *, count: int, task: Task) -> Point:
        """The merged weights after task number `count`; `before` are those before it."""

    def before_merging(self) -> None:
        """Called after the last step of a task."""


class Scaled(Rule):
    """A rule with a factor λ, which even the first task's weights are multiplied by."""

    takes = ("scale",)
    acts_from_first_task = True


class Average(Rule):
    """The mean of the weights after every task."""

    begin = "base"

    def combination(self, before: Point, trained: Point, *, count: int, task: Task) -> Point:
        """The running mean."""
        return trained if count == 1 else combined([before, trained], [1 - 1 / count, 1 / count])


class TaskArithmetic(Scaled):
    """The base model and the scaled sum of what each task changed (Ilharco et al. 2023, arXiv 2212.04089)."""

    begin, scale = "base", 0.4

    def combination(self, before: Point, trained: Point, *, count: int, task: Task) -> Point:
        """Add what this task changed."""
        start, factor = self.space.start(), self.factor
        return combined([before if count > 1 else start, trained, start], [1.0, factor, -factor])


class WiSE(Scaled):
    """Between the base model and the latest weights (Wortsman et al. 2022, arXiv 2109.01903)."""

    begin, scale = "latest", 0.5

    def combination(self, before: Point, trained: Point, *, count: int, task: Task) -> Point:
        """Nothing of earlier merges is in it."""
        return combined([self.space.start(), trained], [1 - self.factor, self.factor])


class MagMax(Scaled):
    """Of each weight the largest change that a task has made (Marczak et al. 2024, arXiv 2407.06322)."""

    begin, scale = "latest", 0.5

    def combination(self, before: Point, trained: Point, *, count: int, task: Task) -> Point:
        """Entry by entry; beside LoRA of the product, which has full rank then."""
        start, factor = self.space.start(), self.factor
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
