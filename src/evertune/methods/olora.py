"""O-LoRA: a new adapter per task, kept orthogonal to the earlier ones, all of them summed at inference.

No routing and no task id: what earlier tasks need stays in the sum, and the new adapter is pushed to read other
directions of a layer's input than they do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from torch import Tensor, nn

from evertune.methods.base import MethodInfo
from evertune.methods.low_rank import ALPHA, RANK
from evertune.methods.summed import SummedLowRank, SummedTasks
from evertune.models.adapters import ADAPTER, TRAINED
from evertune.models.weights import add_gradient
from evertune.utils.errors import UserError

__all__ = ["OLora", "SummedLowRank", "overlap_gradient"]

Overlap = Literal["absolute", "squared"]


class OLora(SummedTasks):
    """Learn each task in a subspace of its own.

    Args:
        r: rank, of each task's adapter.
        lora_alpha: the update is scaled by lora_alpha / r.
        target_modules: which layers get one; see `LowRankMethod`. Nothing is trained in full.
        strength: λ of the loss λ Σ_layers Σ_k Σ_ij |(A_k A_tᵀ)_ij|, 0.5 in public code.
        overlap: what is summed over ij: 'absolute' values, as in public code, or 'squared' ones.
    """

    name = "olora"
    about = MethodInfo(
        title="O-LoRA: an adapter per task, orthogonal to the earlier ones, all summed",
        kind="expansion",
        paper="Wang et al. 2023, arXiv 2310.14152",
        formula="W x + s Σ_k B_k A_k x; loss + λ Σ_{k<t} Σ_ij |(A_k A_tᵀ)_ij|",
        cost="one adapter per task, and as much more to compute in every forward pass",
        fails="when tasks need the same input directions; A being orthogonal does not keep B A x apart for every x",
    )
    kind_of_adapter: ClassVar[str] = "sum of one per task"

    def __init__(
        self,
        *,
        r: int = RANK,
        lora_alpha: float = ALPHA,
        target_modules: str = TRAINED,
        strength: float = 0.5,
        overlap: Overlap = "absolute",
    ) -> None:
        super().__init__(r=r, lora_alpha=lora_alpha, target_modules=target_modules)
        if not strength >= 0:
            raise UserError("olora.strength must be 0 or more")
        self.strength, self.overlap = strength, overlap

    def adds_to_loss(self) -> bool:
        """Only once there is an earlier subspace to keep out of."""
        return self.strength > 0 and bool(self._finished)

    def after_backward(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Add the gradient of the orthogonality loss, once per optimizer step."""
        if not self.adds_to_loss():
            return
        for path, adapter in self.adapters().items():
            parameter = parameters[f"{path}.{ADAPTER}.down"]
            gradient = overlap_gradient(parameter.detach(), adapter.kept_down, overlap=self.overlap)
            add_gradient(parameter, self.strength * gradient)


def overlap_gradient(down: Tensor, kept: Tensor, *, overlap: Overlap) -> Tensor:
    """sign(A Kᵀ) K, or 2 A Kᵀ K: (rank, in), the gradient of Σ_ij |(K Aᵀ)_ij|, or of squares, by A.

    A is (rank, in), K (n, in) holds the rows of all earlier ones: the sum over earlier tasks is that over their rows.
    """
    products = down @ kept.T
    return products.sign() @ kept if overlap == "absolute" else 2 * products @ kept
