"""RegLoRA of SEFE: what an adapter has changed most is protected when later adapters are learned.

After a task the largest entries of its update join a mask. Later updates are held small where the mask is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from evertune.data.task import Task
from evertune.methods.base import Context, MethodInfo
from evertune.methods.low_rank import ALPHA, RANK
from evertune.methods.summed import SummedTasks
from evertune.models.adapters import ADAPTER, TRAINED
from evertune.models.weights import add_gradient
from evertune.utils.errors import UserError


class RegLora(SummedTasks):
    """Learn each task in a new adapter that changes little of what mattered most to earlier ones.

    Args:
        r: rank, of each task's adapter; 128 in the paper.
        lora_alpha: the update is scaled by lora_alpha / r; 256 in the paper.
        target_modules: which layers get one; see `LowRankMethod`. Nothing is trained in full.
        strength: λ of the loss λ mean over layers of the mean of |B A| over the mask; 2500 in the paper.
        share: share of a layer's entries that each task protects, the largest of its update; 0.02 in the paper.
    """

    name = "reglora"
    about = MethodInfo(
        title="RegLoRA: the largest entries of earlier updates are protected",
        kind="expansion",
        paper="Chen et al. 2025 (SEFE), arXiv 2505.02486",
        formula="W x + s Σ_k B_k A_k x; loss + λ mean over layers of mean_M |B_t A_t|, "
        "M: the largest 2 % of |B_k A_k|, k < t",
        cost="an adapter per task and a bit per entry of each adapted weight; its update in full in every step",
        fails="with an untuned λ; when tasks change the same entries; the mask grows with every task",
    )
    kind_of_adapter = "sum of one per task"

    def __init__(
        self,
        *,
        r: int = RANK,
        lora_alpha: float = ALPHA,
        target_modules: str = TRAINED,
        strength: float = 2500.0,
        share: float = 0.02,
    ) -> None:
        super().__init__(r=r, lora_alpha=lora_alpha, target_modules=target_modules)
        if not strength >= 0 or not 0 < share <= 1:
            raise UserError("reglora.strength must be 0 or more, and reglora.share in (0, 1]")
        self.strength, self.share = strength, share

    def setup(self, context: Context) -> None:
        """Start without a mask."""
        super().setup(context)
        self._masks: dict[str, Tensor] = {}

    def adds_to_loss(self) -> bool:
        """Only once there is a mask."""
        return self.strength > 0 and bool(self._masks)

    @torch.no_grad()
    def after_backward(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Add the gradient of the loss on the mask, once per optimizer step."""
        if not self.adds_to_loss():
            return
        for path, adapter in self.adapters().items():
            slope = self.strength / len(self._masks) * masked_slope(adapter.up @ adapter.down, self._masks[path])
            add_gradient(parameters[f"{path}.{ADAPTER}.up"], slope @ adapter.down.T)
            add_gradient(parameters[f"{path}.{ADAPTER}.down"], adapter.up.T @ slope)

    @torch.no_grad()
    def after_task(self, task: Task) -> None:
        """The largest entries of the update join the mask; an entry that several tasks chose counts once."""
        super().after_task(task)
        for path, adapter in self.adapters().items():
            chosen = largest(adapter.up @ adapter.down, self.share)
            self._masks[path] = self._masks[path] | chosen if path in self._masks else chosen

    def state_dict(self) -> dict[str, Any]:
        """The adapters, and the masks with eight entries per byte."""
        return {**super().state_dict(), "masks": {path: packed(mask) for path, mask in self._masks.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take them back."""
        super().load_state_dict(state)
        self._masks = {
            path: unpacked(state["masks"][path].to(adapter.up.device), (len(adapter.up), adapter.down.shape[1]))
            for path, adapter in self.adapters().items()
            if path in state["masks"]
        }


def masked_slope(update: Tensor, mask: Tensor) -> Tensor:
    """(out, in) the gradient of mean_M |update| by the update."""
    return update.sign() * mask / mask.sum()


def largest(update: Tensor, share: float) -> Tensor:
    """(out, in) bool: the given share of entries with the largest absolute values, at least one."""
    count = max(1, round(share * update.numel()))
    mask = torch.zeros(update.numel(), dtype=torch.bool, device=update.device)
    mask[update.abs().flatten().topk(count).indices] = True
    return mask.view_as(update)


def packed(mask: Tensor) -> Tensor:
    """(⌈n / 8⌉,) uint8 of n booleans."""
    bits = torch.nn.functional.pad(mask.flatten().to(torch.uint8), (0, -mask.numel() % 8)).view(-1, 8)
    return (bits << torch.arange(8, dtype=torch.uint8, device=mask.device)).sum(1, dtype=torch.uint8)


def unpacked(bits: Tensor, shape: tuple[int, int]) -> Tensor:
    """The reverse of `packed`."""
    places = torch.arange(8, dtype=torch.uint8, device=bits.device)
    return ((bits[:, None] >> places) & 1).flatten()[: shape[0] * shape[1]].bool().view(shape)
