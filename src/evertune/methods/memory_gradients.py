"""Gradients on samples of a memory, for methods that add or compare them once per optimizer step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from evertune.data.task import Sample, Task
from evertune.methods.replay import Replay, Row, sample_of
from evertune.methods.step_draws import StepDraws

Item = TypeVar("Item")
AT_ONCE = 8
"""Samples of a memory whose gradient is computed in one pass."""


class StepMemory(StepDraws, Replay):
    """The memory of `replay`, of which `samples` are drawn for each step; they are not mixed into the task's."""

    samples: int

    def data_plan(self, task: Task, samples: Sequence[Sample]) -> Sequence[Sample]:
        """The plan as it is: the memory is not trained on."""
        return samples

    def drawn(self, rows: Sequence[tuple[str, Row]], *words: str) -> list[tuple[Sample, Row]]:
        """Samples of the memory with their rows; the same on all processes, and when resumed."""
        chosen = self.choose(*words).sample(rows, min(self.samples, len(rows)))
        return [(self.context.kept(sample_of(row, name)), row) for name, row in chosen]


def gradient_of(
    losses: Callable[[Sequence[Item]], Tensor], items: Sequence[Item], trained: Sequence[nn.Parameter]
) -> list[Tensor]:
    """The gradient of the mean of (n,) losses of n items by each parameter; zeros where a parameter is not reached."""
    total = [torch.zeros_like(parameter) for parameter in trained]
    for start in range(0, len(items), AT_ONCE):
        loss = losses(items[start : start + AT_ONCE]).sum() / len(items)
        if not loss.requires_grad:  # samples without images, of which nothing that trains depends
            continue
        for sum_, part in zip(total, torch.autograd.grad(loss, trained, allow_unused=True), strict=True):
            if part is not None:
                sum_.add_(part)
    return total


def dot(one: Sequence[Tensor], other: Sequence[Tensor]) -> Tensor:
    """The scalar product of two lists of tensors, as one vector each."""
    return torch.stack([torch.sum(a * b) for a, b in zip(one, other, strict=True)]).sum()
