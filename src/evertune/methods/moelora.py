"""MoELoRA of CoIN: the rank of a LoRA shared out among experts, mixed for every token by a learned gate.

Experts and gate train on one task after another; nothing is added with a task. The hope is that tokens of different
tasks use different experts, so that a later task moves less of what an earlier one needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, softmax

from evertune.methods.base import MethodInfo
from evertune.methods.low_rank import ALPHA, RANK, WHOLE, LowRankMethod
from evertune.models.adapters import TRAINED, LowRank, spread
from evertune.utils.errors import UserError


class MixedLowRank(LowRank):
    """s Σ_e g_e(x) B_e A_e x, g(x) = softmax(G x) for each token; all A_e lie in `down`, all B_e in `up`, side by side.

    Args:
        layer: the layer that it is beside.
        r: rank, of all experts together.
        lora_alpha: the update is scaled by lora_alpha / r.
        experts: how many; a divisor of `rank`.
        generator: decides A and then G.
    """

    def __init__(self, layer: nn.Linear, *, rank: int, alpha: float, experts: int, generator: torch.Generator) -> None:
        super().__init__(layer, rank=rank, alpha=alpha, generator=generator)
        self.gate = nn.Parameter(spread(experts, layer.in_features, generator).to(layer.weight.device))

    def forward(self, x: Tensor) -> Tensor:
        """(.., in) -> (.., out)."""
        x = x.float()
        low = linear(x, self.down)
        shares = self.shares(x).repeat_interleave(low.shape[-1] // len(self.gate), dim=-1)
        return self.scale * linear(shares * low, self.up)

    def factors(self) -> tuple[Tensor, Tensor]:
        """Refused: what a mixture adds depends on its input."""
        raise UserError(
            "the adapters of moelora are mixtures that depend on the input: no weight of a layer does the same"
        )

    def shares(self, x: Tensor) -> Tensor:
        """(.., experts) of sum 1: how much each expert says about a token."""
        return softmax(linear(x.float(), self.gate), dim=-1)


class MoELora(LowRankMethod):
    """A mixture of LoRA experts, trained on and on.

    Args:
        r: rank, of all experts together, so that the cost is that of `lora` and the gates.
        lora_alpha: the update is scaled by lora_alpha / r.
        experts: per layer; must divide `r`.
        target_modules: which layers get them; see `LowRankMethod`.
        modules_to_save: scopes trained in full beside them.
    """

    name = "moelora"
    about = MethodInfo(
        title="MoELoRA: several LoRA experts per layer, mixed by a learned gate",
        kind="adapter",
        paper="Chen et al. 2024 (CoIN), arXiv 2403.08350",
        formula="W x + (alpha / rank) Σ_e g_e(x) B_e A_e x, g(x) = softmax(G x) per token",
        cost="nothing stored beyond the experts and gates; a softmax per token and layer",
        fails="when the gate, which trains on too, sends the new task's tokens to the experts of the old ones",
    )
    sequential_equivalent: ClassVar[Mapping[str, Any]] = {}
    kind_of_adapter: ClassVar[str] = "mixture"

    def __init__(
        self,
        *,
        r: int = RANK,
        lora_alpha: float = ALPHA,
        experts: int = 4,
        target_modules: str = TRAINED,
        modules_to_save: str = WHOLE,
    ) -> None:
        super().__init__(r=r, lora_alpha=lora_alpha, target_modules=target_modules, modules_to_save=modules_to_save)
        if experts < 1 or r % experts:
            raise UserError(f"moelora.experts={experts} must divide moelora.r={r}, which they share")
        self.experts = experts

    def adapter(self, layer: nn.Linear, generator: torch.Generator) -> nn.Module:
        """A mixture."""
        return MixedLowRank(layer, rank=self.r, alpha=self.lora_alpha, experts=self.experts, generator=generator)
