"""What methods with low-rank adapters share: where adapters stand and what they are. Their parameters come in here.

A method that brings parameters of its own says so in the hook `adapt`: it gives back a model whose `trainable()` has
them. From there on they are trained, hashed, saved and put back like those of any family.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from evertune.methods.base import Method
from evertune.models.adapters import LARGEST_RANK, TRAINED, LowRank, attach
from evertune.models.protocol import LMM
from evertune.utils.errors import UserError

RANK, ALPHA, WHOLE, NONE = 8, 16.0, "projection", "none"


class LowRankMethod(Method):
    """Train adapters s B A x beside linear layers, instead of what the model trains by itself.

    Args:
        rank: of each adapter.
        alpha: s = alpha / rank.
        targets: the layers that get one: 'trained', those of what the model trains by itself; or names separated by
            commas, of scopes (`qformer`) or layers (`q_proj,v_proj`).
        whole: scopes trained in full beside the adapters, separated by commas; or 'none'.
    """

    kind_of_adapter: ClassVar[str] = "sum"

    def __init__(self, *, rank: int = RANK, alpha: float = ALPHA, targets: str = TRAINED, whole: str = WHOLE) -> None:
        if not 1 <= rank <= LARGEST_RANK or not alpha > 0:
            raise UserError(f"{self.name}.rank must be 1 to {LARGEST_RANK:,} and {self.name}.alpha above 0")
        if not targets.strip(" ,"):
            raise UserError(f"{self.name}.targets is empty: name layers, or leave it out")
        self.rank, self.alpha, self.targets, self.whole = rank, alpha, targets, whole

    def adapt(self, lmm: LMM, *, seed: int) -> LMM:
        """The model with adapters."""
        about = f"{self.kind_of_adapter} rank {self.rank} alpha {self.alpha!r}"
        whole = "" if self.whole == NONE else self.whole
        return attach(lmm, self.adapter, targets=self.targets, whole=whole, seed=seed, about=about)

    def adapter(self, layer: nn.Linear, generator: torch.Generator) -> nn.Module:
        """The adapter of one layer."""
        return LowRank(layer, rank=self.rank, alpha=self.alpha, generator=generator)
