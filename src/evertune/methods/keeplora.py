"""KeepLoRA: each task's adapter reads only directions of a layer's input that nothing else uses.

Used are the principal directions of the pretrained weight, and those of the inputs of earlier tasks. Among the others
the task's own gradient chooses. These directions (A) are fixed, and B trains.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from evertune.data.task import Sample, Task, drawn
from evertune.methods.base import Context, MethodInfo
from evertune.methods.low_rank import ALPHA, RANK
from evertune.methods.memory_gradients import gradient_of
from evertune.methods.subspaces import extended, principal, top_directions, without
from evertune.methods.summed import SummedTasks
from evertune.models.adapters import ADAPTER, TRAINED
from evertune.models.modes import evaluating
from evertune.models.quantization import refuse_quantized
from evertune.models.whole_weights import whole_weights
from evertune.utils.errors import UserError
from evertune.utils.files import digest


class KeepLora(SummedTasks):
    """Learn each task in the directions of its gradient that neither the weight nor earlier tasks use.

    Args:
        r: rank, of each task's adapter.
        lora_alpha: the update is scaled by lora_alpha / r.
        target_modules: which layers get one; see `LowRankMethod`. Nothing is trained in full.
        energy: share of the energy of a pretrained weight whose directions are left alone; 0.2 for the LM in the paper.
        covered: share of the energy of a task's inputs whose directions are left alone after it; 0.99 in the paper.
        directions: those of a layer's 'features', its inputs, as in the paper, or of 'gradients', as in its LLaVA code.
        samples: training samples per task that gradients and inputs are computed from.
    """

    name = "keeplora"
    about = MethodInfo(
        title="KeepLoRA: adapters in the residual subspace, along the task's gradient",
        kind="expansion",
        paper="arXiv 2601.19659",
        formula="W x + s Σ_k B_k A_k x; A_t = top right singular vectors of G (I - P P' - M M'), fixed; B_t trains; "
        "P: principal directions of W, M: of inputs of earlier tasks, G: mean gradient of W over the task",
        cost="an adapter per task and the directions M, at most (in, in) per layer; per task a gradient of the adapted "
        "weights in full and an eigendecomposition per layer",
        fails="when no direction is left, which it reports; when the new task needs the directions that are left alone",
    )
    acts_from_first_task = True
    kind_of_adapter = "sum of one per task with fixed A"

    def __init__(
        self,
        *,
        r: int = RANK,
        lora_alpha: float = ALPHA,
        target_modules: str = TRAINED,
        energy: float = 0.2,
        covered: float = 0.99,
        directions: Literal["features", "gradients"] = "features",
        samples: int = 128,
    ) -> None:
        super().__init__(r=r, lora_alpha=lora_alpha, target_modules=target_modules)
        if not (0 <= energy < 1 and 0 <= covered <= 1) or samples < 1:
            raise UserError(
                "keeplora.energy must lie in [0, 1), keeplora.covered in [0, 1], and keeplora.samples be at least 1"
            )
        self.energy, self.covered, self.directions, self.samples = energy, covered, directions, samples

    def adapter(self, layer: nn.Linear, generator: torch.Generator) -> nn.Module:
        """As of `SummedTasks`.

        Raises:
            UserError: the layer has fewer inputs than the rank, or it is quantized.
        """
        refuse_quantized(layer, self.name)
        if self.r > layer.in_features:
            raise UserError(
                f"keeplora.r={self.r} is more than the {layer.in_features} directions of a layer's inputs: lower "
                "it, or name other layers with keeplora.target_modules"
            )
        return super().adapter(layer, generator)

    def setup(self, context: Context) -> None:
        """Start without directions of earlier tasks."""
        super().setup(context)
        self._principals: dict[str, Tensor] = {}
        self._used = {
            path: adapter.down.new_empty(adapter.down.shape[1], 0) for path, adapter in self.adapters().items()
        }

    def is_trainable(self, parameter: str) -> bool:
        """B alone."""
        return not parameter.endswith(f".{ADAPTER}.down")

    @torch.no_grad()
    def before_task(self, task: Task) -> None:
        """Fix the directions of the new adapter.

        Raises:
            UserError: a layer has none left.
        """
        super().before_task(task)
        samples = self._drawn(task)
        for path, gradient in self._gradients(samples).items():
            bases = self._principal(path), self._used[path]
            adapter = self.adapters()[path]
            left = adapter.down.shape[1] - sum(basis.shape[1] for basis in bases)
            if left < 1:
                raise UserError(
                    f"keeplora: at task '{task.name}' no direction of the inputs of {path} is left: its weight uses "
                    f"{bases[0].shape[1]}, earlier tasks {bases[1].shape[1]} of {adapter.down.shape[1]}. Lower "
                    "keeplora.energy or keeplora.covered"
                )
            found = top_directions(without(gradient.float(), *bases), min(self.r, left))
            adapter.down.zero_()
            adapter.down[: len(found)] = without(found, *bases)

    def _drawn(self, task: Task) -> Sequence[Sample]:
        choose = random.Random(digest(self.name, str(self.context.seed), task.name))
        samples = drawn(task.train, min(self.samples, len(task.train)), choose)
        self.context.features.ensure(samples)
        return samples

    def _principal(self, path: str) -> Tensor:
        """(in, k) directions of the pretrained weight: computed once, and not stored, as the weight is frozen."""
        if path not in self._principals:
            weight: Any = self.context.lmm.module().get_submodule(path).weight
            self._principals[path] = principal(weight.detach().float(), energy=self.energy)
        return self._principals[path]

    def _gradients(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """(out, in) mean gradient of each layer's whole weight."""
        with torch.enable_grad(), whole_weights(self.context.lmm, list(self.adapters()), []) as lmm:
            losses = replace(self.context, lmm=lmm).losses
            found = gradient_of(losses, samples, list(lmm.trainable().values()))
        return dict(zip(self.adapters(), found, strict=True))

    @torch.no_grad()
    def _inputs(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """(in, in) X'X of each layer's inputs X; sample by sample, so that none is padding."""
        grams = {path: torch.zeros(2 * [a.down.shape[1]], device=a.down.device) for path, a in self.adapters().items()}

        def hook(path: str) -> Any:
            def add(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
                del layer
                rows = inputs[0].flatten(0, -2).float()
                grams[path] += rows.T @ rows

            return add

        module = self.context.lmm.module()
        hooks = [module.get_submodule(path).register_forward_pre_hook(hook(path)) for path in grams]
        try:
            with evaluating(module):
                for sample in samples:
                    self.context.output([sample])
        finally:
            for each in hooks:
                each.remove()
        return grams

    def after_task(self, task: Task) -> None:
        """From now on, the directions that this task used are left alone."""
        super().after_task(task)
        samples = self._drawn(task)
        if self.directions == "features":
            grams = self._inputs(samples)
        else:
            grams = {path: g.float().T @ g.float() for path, g in self._gradients(samples).items()}
        for path, gram in grams.items():
            self._used[path] = extended(self._used[path], gram, self._principal(path), covered=self.covered)

    def state_dict(self) -> dict[str, Any]:
        """The adapters, and the directions of earlier tasks."""
        return {**super().state_dict(), "used": self._used}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take them back."""
        super().load_state_dict(state)
        self._used = {path: basis.to(self._used[path].device) for path, basis in state["used"].items()}
