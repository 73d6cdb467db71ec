"""Gradients on samples of a memory, for methods that add or compare them once per optimizer step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

Item = TypeVar("Item")
AT_ONCE = 8
"""Samples of a memory whose gradient is computed in one pass."""


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
