"""Base class of methods with low-rank adapters: their options, and the hook that adds their parameters.

A method adds parameters of its own in the hook `adapt`: it returns a model whose `trainable()` contains them. They are
then trained, hashed, saved and restored like those of any family.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from evertune.methods.base import Method
from evertune.models.adapters import ADAPTER, LARGEST_RANK, TRAINED, LowRank, attach, spread
from evertune.models.protocol import LMM
from evertune.utils.errors import UserError
from evertune.utils.files import digest

RANK, ALPHA, WHOLE, NONE = 8, 16.0, "projection", "none"


class LowRankMethod(Method):
    """Train adapters s B A x beside linear layers, instead of what the model trains by itself.

    Args:
        r: rank, of each adapter.
        lora_alpha: the update is scaled by lora_alpha / r.
        target_modules: the layers that get one: 'trained', those of what the model trains by itself; or names separated
            by commas, of scopes (`qformer`), layers (`q_proj,v_proj`) or regions (`attention:last-4`).
        modules_to_save: scopes trained in full beside the adapters, separated by commas; or 'none'.
    """

    kind_of_adapter: ClassVar[str] = "sum"

    def __init__(
        self, *, r: int = RANK, lora_alpha: float = ALPHA, target_modules: str = TRAINED, modules_to_save: str = WHOLE
    ) -> None:
        if not 1 <= r <= LARGEST_RANK or not lora_alpha > 0:
            raise UserError(f"{self.name}.r must be 1 to {LARGEST_RANK:,} and {self.name}.lora_alpha above 0")
        if not target_modules.strip(" ,"):
            raise UserError(f"{self.name}.target_modules is empty: name layers, or leave it out")
        self.r, self.lora_alpha = r, lora_alpha
        self.target_modules, self.modules_to_save = target_modules, modules_to_save

    def adapt(self, lmm: LMM, *, seed: int) -> LMM:
        """The model with adapters."""
        about = f"{self.kind_of_adapter} rank {self.r} alpha {self.lora_alpha!r}"
        whole = "" if self.modules_to_save == NONE else self.modules_to_save
        return attach(lmm, self.adapter, targets=self.target_modules, whole=whole, seed=seed, about=about)

    def adapter(self, layer: nn.Linear, generator: torch.Generator) -> nn.Module:
        """The adapter of one layer."""
        return LowRank(layer, rank=self.r, alpha=self.lora_alpha, generator=generator)


def fresh(adapters: Mapping[str, LowRank], words: Sequence[str], *, again: int = 0) -> dict[str, Tensor]:
    """New matrices of every adapter by parameter name; `words`, usually seed and task, decide them."""
    made = {}
    for path, adapter in adapters.items():
        generator = torch.Generator().manual_seed(int(digest(*words, path, *["again"] * again)[:8], 16))
        made[f"{path}.{ADAPTER}.down"] = spread(len(adapter.down), adapter.down.shape[1], generator)
        made[f"{path}.{ADAPTER}.up"] = torch.zeros(adapter.up.shape)
    return made
