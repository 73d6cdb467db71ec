"""Elastic weight consolidation: parameters that mattered to earlier tasks are held by a spring.

Importance is the diagonal of the empirical Fisher information. `ewc` keeps a spring per task, exactly; `online-ewc`
keeps one spring, fixed at the latest weights, and lets older tasks fade.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from evertune.data.task import Sample
from evertune.methods.base import Context, MethodInfo
from evertune.methods.importance import ImportancePenalty, Latest, MergeRule, Summed, Tensors, mean_over_samples
from evertune.utils.errors import UserError

STRENGTH = 10_000.0
"""The default λ of both: chosen for `ewc` on `smol` by the rule in benchmarks/ewc_strength.yaml (docs/results.md)."""


class EWC(ImportancePenalty):
    """Quadratic penalty weighted by the diagonal of the empirical Fisher information, one anchor per task.

    Args:
        strength: λ. Its scale depends on the model and the data, so it must be tuned before results are meaningful.
        samples: training samples per task that the Fisher information is estimated from.
    """

    name = "ewc"
    about = MethodInfo(
        title="elastic weight consolidation",
        kind="regularization",
        paper="Kirkpatrick et al. 2017, arXiv 1612.00796; in He et al. 2023, arXiv 2311.16206",
        formula="λ/2 Σ_k Σ_i F_k,i (θ_i - θ_k,i)², F_k,i = mean over samples of (∂ log p(answer) / ∂θ_i)²",
        cost="two numbers per trained parameter, however many tasks; one backward pass per Fisher sample",
        fails="with an untuned λ; when tasks need the same parameters in different places",
    )
    default_strength = STRENGTH

    def measure(self, samples: Sequence[Sample]) -> Tensors:
        """Fisher information."""
        return fisher_information(self.context, samples)

    def merging(self) -> MergeRule:
        """A sum of springs."""
        return Summed()


class OnlineEWC(ImportancePenalty):
    """EWC with one running importance and one anchor, the latest weights.

    Args:
        strength: λ, as in `ewc`.
        samples: as in `ewc`.
        gamma: how much of the older importance is kept with each new task, in [0, 1]; 1 is the plain sum. The paper
            tunes it and names no default; 0.9 is ours.
    """

    name = "online-ewc"
    about = MethodInfo(
        title="online elastic weight consolidation",
        kind="regularization",
        paper="Schwarz et al. 2018 (Progress & Compress), arXiv 1805.06370",
        formula="λ/2 Σ_i F̃_i (θ_i - a_i)², F̃ <- γ F̃ + F_k after task k, a = the weights after the latest task",
        cost="one number per trained parameter and the anchor while training; one backward pass per Fisher sample",
        fails="as ewc does; with a small γ early tasks lose their protection",
    )
    default_strength = STRENGTH

    def __init__(self, *, strength: float | None = None, samples: int = 128, gamma: float = 0.9) -> None:
        super().__init__(strength=strength, samples=samples)
        if not 0 <= gamma <= 1:
            raise UserError(f"online-ewc.gamma must lie between 0 and 1, not {gamma}")
        self.gamma = gamma

    def measure(self, samples: Sequence[Sample]) -> Tensors:
        """Fisher information."""
        return fisher_information(self.context, samples)

    def merging(self) -> MergeRule:
        """A decayed sum."""
        return Latest(decay=self.gamma, scale=0.5)

    def merge_by(self, make_rule: Callable[[], MergeRule], *, strength: float) -> None:
        """Refused: the merging rule is all that tells this method from `ewc`, and `gamma` would be ignored."""
        raise UserError("online-ewc under another merging rule is ewc: write ewc instead, for example tir+ewc")


def fisher_information(context: Context, samples: Sequence[Sample]) -> dict[str, Tensor]:
    """Diagonal empirical Fisher information: mean over samples of the squared gradient of log p(answer).

    Returns:
        {name: tensor of the parameter's shape}, float32.
    """
    return mean_over_samples(context, samples, of=lambda output: output.nll, size=torch.square)
