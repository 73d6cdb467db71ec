"""O-LoRA: a new adapter per task, kept orthogonal to the earlier ones, all of them summed at inference.

No routing and no task id: what earlier tasks need stays in the sum, and the new adapter is pushed to read other
directions of a layer's input than they do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from evertune.data.task import Task
from evertune.methods.base import Context, MethodInfo
from evertune.methods.low_rank import ALPHA, NONE, RANK, LowRankMethod, fresh
from evertune.models.adapters import ADAPTER, TRAINED, Adapted, LowRank
from evertune.models.weights import bytes_of, copy_of, restore
from evertune.utils.errors import UserError

Overlap = Literal["absolute", "squared"]


class SummedLowRank(LowRank):
    """An adapter that other matrices are added to from the beginning."""

    kept_down: Tensor
    kept_up: Tensor

    def __init__(self, layer: nn.Linear, *, rank: int, alpha: float, generator: torch.Generator) -> None:
        super().__init__(layer, rank=rank, alpha=alpha, generator=generator)
        self.keep([], [])


class OLora(LowRankMethod):
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
        super().__init__(r=r, lora_alpha=lora_alpha, target_modules=target_modules, modules_to_save=NONE)
        if not strength >= 0:
            raise UserError("olora.strength must be 0 or more")
        self.strength, self.overlap = strength, overlap

    def adapter(self, layer: nn.Linear, generator: torch.Generator) -> nn.Module:
        """A sum of adapters, with one of them."""
        return SummedLowRank(layer, rank=self.r, alpha=self.lora_alpha, generator=generator)

    def setup(self, context: Context) -> None:
        """Start without earlier adapters."""
        super().setup(context)
        self._finished: list[dict[str, Tensor]] = []  # one adapter per learned task, the latest too
        self._tasks: list[str] = []  # their names; one that was learned again stands there again
        self._keep(0)

    def before_task(self, task: Task) -> None:
        """Put the finished adapters into the sum, and start a new one. The first task's is the start point's."""
        if self._finished:
            self._keep(len(self._finished))
            restore(self.context.parameters, self._fresh(task))

    def _fresh(self, task: Task) -> dict[str, Tensor]:
        """A new adapter, decided by the run's seed, the task's name and how often it was learned before."""
        words = ("olora", str(self.context.seed), task.name)
        return fresh(self._adapters(), words, again=self._tasks.count(task.name))

    def adds_to_loss(self) -> bool:
        """Only once there is an earlier subspace to keep out of."""
        return self.strength > 0 and bool(self._finished)

    def after_backward(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Add the gradient of the orthogonality loss, once per optimizer step."""
        if not self.adds_to_loss():
            return
        for path, adapter in self._adapters().items():
            parameter = parameters[f"{path}.{ADAPTER}.down"]
            gradient = self.strength * overlap_gradient(parameter.detach(), adapter.kept_down, overlap=self.overlap)
            parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)

    def after_task(self, task: Task) -> None:
        """The adapter is finished; it stays the one that may train until the next task begins."""
        self._finished.append(copy_of(self.context.parameters))
        self._tasks.append(task.name)

    def grows_by(self) -> int:
        """One adapter."""
        return bytes_of(self.context.parameters)

    def state_dict(self) -> dict[str, Any]:
        """All adapters but the latest, which the stage's weights are."""
        return {
            "tasks": list(self._tasks),
            "kept": {str(number): adapter for number, adapter in enumerate(self._finished[:-1])},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the adapters back; the latest is in the model already."""
        latest = [copy_of(self.context.parameters)] if state["tasks"] else []
        self._finished, self._tasks = [*state["kept"].values(), *latest], list(state["tasks"])
        self._keep(len(self._finished) - 1)

    def _keep(self, count: int) -> None:
        """Add the first `count` finished adapters to the one that trains."""
        kept = self._finished[: max(0, count)]
        for path, adapter in self._adapters().items():
            name = f"{path}.{ADAPTER}"
            adapter.keep([one[f"{name}.down"] for one in kept], [one[f"{name}.up"] for one in kept])

    def _adapters(self) -> dict[str, SummedLowRank]:
        return cast(dict[str, SummedLowRank], cast(Adapted, self.context.lmm).adapters)


def overlap_gradient(down: Tensor, kept: Tensor, *, overlap: Overlap) -> Tensor:
    """sign(A Kᵀ) K, or 2 A Kᵀ K: (rank, in), the gradient of Σ_ij |(K Aᵀ)_ij|, or of squares, by A.

    A is (rank, in), K (n, in) holds the rows of all earlier ones: the sum over earlier tasks is that over their rows.
    """
    products = down @ kept.T
    return products.sign() @ kept if overlap == "absolute" else 2 * products @ kept
