"""Memory aware synapses: what the answer's logits are sensitive to is held, right answer or not.

Importance needs no labels in the original. An LMM's logits need an answer to stand at: here the training answer, so the
logits are those that the loss uses.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from evertune.data.task import Sample
from evertune.methods.base import MethodInfo
from evertune.methods.importance import ImportancePenalty, Latest, MergeRule, Tensors, mean_over_samples
from evertune.models.protocol import Output

STRENGTH = 1.0
"""The default λ, the paper's; not tuned for LMMs, whose logits are many: see docs/methods/mas.md."""


class MAS(ImportancePenalty):
    """Quadratic penalty weighted by the sensitivity of the logits.

    Args:
        strength: λ. The importance grows with the number and the size of the logits, so it must be tuned per model.
        samples: training samples per task that the importance is estimated from.
    """

    name = "mas"
    about = MethodInfo(
        title="memory aware synapses",
        kind="regularization",
        paper="Aljundi et al. 2018, arXiv 1711.09601; in He et al. 2023, arXiv 2311.16206",
        formula="λ Σ_i Ω_i (θ_i - a_i)², Ω = Σ_k mean over samples of |∂ ‖logits‖² / ∂θ_i|, a = the latest weights",
        cost="one number per trained parameter and the anchor while training; one backward pass per sample",
        fails="with an untuned λ; it also protects what the model says wrongly",
    )
    default_strength = STRENGTH

    def measure(self, samples: Sequence[Sample]) -> Tensors:
        """Mean absolute gradient of the squared norm."""
        return mean_over_samples(self.context, samples, of=squared_norm, size=Tensor.abs)

    def merging(self) -> MergeRule:
        """A plain sum, as in the authors' code."""
        return Latest()


def squared_norm(output: Output) -> Tensor:
    """(B,) ‖logits‖² of each sample, summed over its answer positions."""
    each = output.logits.square().sum(1)
    sample = torch.repeat_interleave(torch.arange(len(output.tokens), device=each.device), output.tokens)
    return each.new_zeros(len(output.tokens)).index_add(0, sample, each)
