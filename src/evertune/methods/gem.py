"""GEM: a step may not raise the loss on kept samples of any earlier task, to first order.

As `agem`, with one reference gradient for each task instead of their mean. The nearest gradient that agrees with all of
them is a quadratic program in as many numbers as there are tasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from evertune.methods.agem import AGem
from evertune.methods.base import MethodInfo
from evertune.methods.memory_gradients import dot
from evertune.methods.replay import Row


class Gem(AGem):
    """Project each gradient so that it points against that of no earlier task.

    Args:
        ratio: share of each earlier task's training set that is kept, as in `replay`.
        buffer: when above 0, this many samples over all tasks instead of `ratio`.
        choice: how a `buffer` is filled, as in `replay`.
        samples: kept samples of each task, drawn for each step, whose gradient is its reference.
    """

    name = "gem"
    about = MethodInfo(
        title="gradient episodic memory",
        kind="replay",
        paper="Lopez-Paz and Ranzato 2017, arXiv 1706.08840",
        formula="g <- argmin_h |h - g|² with h·r_k >= 0 for every earlier task k; "
        "r_k = gradient of the loss on its samples",
        cost="the kept samples; per optimizer step a pass over `samples` of each task, whose gradients are in memory",
        fails="with many tasks: as many passes per step; when no direction agrees with all of them, no step is left",
    )

    def project(
        self, gradients: Sequence[Tensor], kept: Mapping[str, Sequence[Row]], trained: Sequence[nn.Parameter]
    ) -> None:
        """H = g + Σ_k v_k r_k, v = argmin_{v>=0} 1/2 v' R R' v + v' R g: the dual program of the paper, equation 11."""
        references = [self.reference([(name, row) for row in rows], trained, name) for name, rows in kept.items()]
        along = torch.stack([dot(gradients, reference) for reference in references]).double().cpu()
        self.log("projected", float((along < 0).any()))
        if (along >= 0).all():
            return
        products = torch.stack([torch.stack([dot(a, b) for b in references]) for a in references]).double().cpu()
        for reference, factor in zip(references, smallest_combination(products, along).tolist(), strict=True):
            for g, r in zip(gradients, reference, strict=True):
                g.add_(factor * r)


def smallest_combination(products: Tensor, along: Tensor) -> Tensor:
    """(T,) v >= 0 that minimises 1/2 v' M v + b' v: the active sets of Lawson and Hanson 1974, exact for a few tasks.

    Args:
        products: (T, T) M, positive semidefinite, float64.
        along: (T,) b, float64.
    """
    v, free = torch.zeros_like(along), torch.zeros(len(along), dtype=torch.bool)
    level = 1e-10 * (1 + along.abs().max())
    for _ in range(10 * len(along)):
        slope = -(products @ v + along)
        if not ((slope > level) & ~free).any():
            break
        free[slope.masked_fill(free, -torch.inf).argmax()] = True
        while True:
            best = torch.zeros_like(v)
            best[free] = torch.linalg.pinv(products[free][:, free], hermitian=True) @ -along[free]
            below = free & (best <= 0)
            if not below.any():
                v = best
                break
            v = v + (v[below] / (v[below] - best[below])).min() * (best - v)
            free &= v > 1e-14
            v = torch.where(free, v, 0.0)
    return v
