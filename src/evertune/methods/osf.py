"""OSF: full weights train, except along the directions that matter most to what the weight does.

The singular vectors of the largest singular values are frozen; the others train. Gradients and the optimizer's own step
are kept orthogonal to the frozen ones: Adam and weight decay would leave the subspace otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from evertune.data.task import Task
from evertune.methods.base import Context, MethodInfo
from evertune.methods.low_rank import NONE, LowRankMethod
from evertune.methods.subspaces import without
from evertune.models.adapters import ADAPTER, TRAINED, Adapted, LowRank
from evertune.models.points import of_matrix
from evertune.models.quantization import refuse_quantized
from evertune.utils.errors import UserError


class Spectrum(LowRank):
    """The layer's weight as U diag(σ) V of its smaller singular values, which trains, and what is frozen beside it.

    Args:
        layer: the layer; its own weight stays as it is, and what is kept takes it out again.
        rank: the most singular values that train.
    """

    def __init__(self, layer: nn.Linear, *, rank: int, generator: torch.Generator) -> None:
        super().__init__(layer, rank=rank, alpha=float(rank), generator=generator)
        self.values = nn.Parameter(torch.zeros(rank, device=self.down.device))
        weight = layer.weight.detach().float()
        self.divide(weight, weight, frozen=min(weight.shape) - rank)
        self.begin(self.up.detach(), self.values.detach(), self.down.detach())

    def own(self) -> tuple[Tensor, Tensor]:
        """U diag(σ) and V."""
        return self.up * self.values, self.down

    def begin(self, up: Tensor, values: Tensor, down: Tensor) -> None:
        """Take these parts, which are those that train at first, out of the layer's weight."""
        self.keep([down.clone()], [-up * values])

    @torch.no_grad()
    def divide(self, total: Tensor, weight: Tensor, *, frozen: int) -> tuple[Tensor, Tensor]:
        """Train all but the largest singular values of a weight.

        Args:
            total: (out, in) what the layer does now.
            weight: (out, in) the layer's own weight.
            frozen: how many are frozen.

        Returns:
            (out, frozen) and (in, frozen) the frozen directions.
        """
        left, values, right = (part.float() for part in torch.linalg.svd(total.double(), full_matrices=False))
        count = len(values) - frozen
        for own, part in ((self.up.T, left[:, frozen:].T), (self.values, values[frozen:]), (self.down, right[frozen:])):
            own.zero_()
            own[:count] = part
        up, down = of_matrix(left[:, :frozen] * values[:frozen] @ right[:frozen] - weight)
        self.keep([down], [up])
        return left[:, :frozen], right[:frozen].T


class Osf(LowRankMethod):
    """Train each layer's small singular directions, and more of the large ones are frozen with every task.

    Args:
        target_modules: which layers; see `LowRankMethod`. Nothing else trains.
        frozen: share of a layer's directions that are frozen while the first, second, ... task is learned, separated by
            commas; the last one for all later tasks.
    """

    name = "osf"
    about = MethodInfo(
        title="OSF: full weights train in the small singular directions",
        kind="expansion",
        paper="Nayak et al. 2025 (Sculpting subspaces), arXiv 2504.07097",
        formula="W = U_h Σ_h V_h' + U Σ V'; the largest h are frozen; dU <- (I - U_h U_h') dU, dV <- (I - V_h V_h') dV",
        cost="two matrices of each layer's size train, one more is kept; a singular value decomposition per task",
        fails="when little room is left for a task; it trains twice the numbers of the layer",
    )
    acts_from_first_task = True
    kind_of_adapter = "spectrum"

    def __init__(self, *, target_modules: str = TRAINED, frozen: str = "0.3,0.5,0.7") -> None:
        super().__init__(r=1, target_modules=target_modules, modules_to_save=NONE)
        try:
            self._shares = [float(word) for word in frozen.split(",")]
        except ValueError as problem:
            raise UserError(f"osf.frozen={frozen!r:.80}: write shares separated by commas: 0.3,0.5") from problem
        if not all(0 <= share < 1 for share in self._shares) or self._shares != sorted(self._shares):
            raise UserError(f"osf.frozen={frozen!r:.80}: shares must lie in [0, 1) and not fall")
        self.frozen = frozen

    def adapter(self, layer: nn.Linear, generator: torch.Generator) -> nn.Module:
        """With as many directions as the first task trains.

        Raises:
            UserError: that is none, or the layer is quantized.
        """
        refuse_quantized(layer, self.name)
        return Spectrum(layer, rank=self._trained(layer, 0, ""), generator=generator)

    def _trained(self, layer: nn.Linear, task: int, name: str) -> int:
        """How many directions task number `task` trains."""
        most = min(layer.weight.shape)
        trained = most - round(self._shares[min(task, len(self._shares) - 1)] * most)
        if trained < 1:
            raise UserError(
                f"osf: no direction of a layer of {most} is left for task {task + 1} {name}: lower "
                f"osf.frozen={self.frozen}"
            )
        return trained

    def setup(self, context: Context) -> None:
        """Start at the base model."""
        super().setup(context)
        self._count = 0
        self._fixed: dict[str, tuple[Tensor, Tensor]] = {}
        for path, spectrum in self._spectra():
            spectrum.begin(*(context.start[f"{path}.{ADAPTER}.{part}"] for part in ("up", "values", "down")))

    def _spectra(self) -> list[tuple[str, Spectrum]]:
        return list(cast(dict[str, Spectrum], cast(Adapted, self.context.lmm).adapters).items())

    def _weight(self, path: str) -> Tensor:
        weight: Any = self.context.lmm.module().get_submodule(path).weight
        return cast(Tensor, weight.detach().float())

    @torch.no_grad()
    def before_task(self, task: Task) -> None:
        """Decompose what the layers do now, and freeze the largest directions.

        Raises:
            UserError: a layer has none left.
        """
        for path, spectrum in self._spectra():
            weight, (up, down) = self._weight(path), spectrum.factors()
            layer = cast(nn.Linear, self.context.lmm.module().get_submodule(path))
            frozen = min(weight.shape) - self._trained(layer, self._count, f"('{task.name}')")
            self._fixed[path] = spectrum.divide(weight + up @ down, weight, frozen=frozen)

    def after_backward(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Keep the gradient out of the frozen directions."""
        self._project({name: p.grad for name, p in parameters.items() if p.grad is not None})

    @torch.no_grad()
    def after_step(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Keep the step out of them as well."""
        self._project({name: p.data for name, p in parameters.items()})

    def _project(self, tensors: Mapping[str, Tensor]) -> None:
        for path, (left, right) in self._fixed.items():
            up, down = (tensors.get(f"{path}.{ADAPTER}.{part}") for part in ("up", "down"))
            if up is not None:
                up.copy_(without(up.T, left).T)
            if down is not None:
                down.copy_(without(down, right))

    def after_task(self, task: Task) -> None:
        """Count it."""
        self._count += 1

    def state_dict(self) -> dict[str, Any]:
        """What is frozen beside the weights that train: one matrix per layer."""
        kept = {path: spectrum.kept() for path, spectrum in self._spectra()} if self._count else {}
        return {"count": self._count, "kept": {path: up @ down for path, (up, down) in kept.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take it back."""
        self._count = state["count"]
        for path, spectrum in self._spectra():
            if path in state["kept"]:
                up, down = of_matrix(state["kept"][path])
                spectrum.keep([down], [up])
