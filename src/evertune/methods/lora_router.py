"""One LoRA per task and a closed-form router: no weights are overwritten, and the router needs no training.

The expansion is that of `eproj` with adapters as experts; the router is a ridge regression on frozen embeddings.
"""

from __future__ import annotations

from typing import Any, Literal

from evertune.methods.base import Context, MethodInfo
from evertune.methods.eproj import EProj
from evertune.methods.low_rank import ALPHA, RANK, WHOLE, LowRankMethod
from evertune.methods.routers import RidgeRouter
from evertune.models.adapters import TRAINED
from evertune.models.weights import bytes_of
from evertune.utils.errors import UserError

RIDGE = 1e-3


class LoraRouter(LowRankMethod, EProj):
    """A fresh adapter for every task, chosen per sample by image and instruction.

    Args:
        r: rank, of each adapter.
        lora_alpha: the update is scaled by lora_alpha / r.
        target_modules: which layers get one; see `LowRankMethod`.
        modules_to_save: scopes that each task trains in full beside its adapters, from the start point.
        ridge: penalty of the router's ridge regression, above 0.
        routing: by the 'ridge' router, or 'oracle': uses the task of each question, the upper bound of every router.
    """

    name = "lora-router"
    about = MethodInfo(
        title="one LoRA per task, routed by a ridge regression",
        kind="expansion",
        paper="Hu et al. 2021, arXiv 2106.09685; closed form as in Zhuang et al. 2022 (ACIL), arXiv 2205.14922",
        formula="t* = argmax_t (Wᵀx + b)_t, x = [q_img, q_ins]; W, b: ridge regression onto one column per task",
        cost="one adapter per task; D² + T D numbers of the router, D the width of both queries; one solve per stage",
        fails="when two tasks share images and instructions: no linear function of the queries tells them apart",
    )

    def __init__(
        self,
        *,
        r: int = RANK,
        lora_alpha: float = ALPHA,
        target_modules: str = TRAINED,
        modules_to_save: str = WHOLE,
        ridge: float = RIDGE,
        routing: Literal["ridge", "oracle"] = "ridge",
    ) -> None:
        if not ridge > 0:
            raise UserError("lora-router.ridge must be above 0: without it the regression may have no solution")
        LowRankMethod.__init__(
            self, r=r, lora_alpha=lora_alpha, target_modules=target_modules, modules_to_save=modules_to_save
        )
        EProj.__init__(self, expert="all", routing="oracle" if routing == "oracle" else "keys")
        self.ridge, self.routing = ridge, routing

    def setup(self, context: Context) -> None:
        """Start without experts, with a router that knows no task."""
        super().setup(context)
        self._router = RidgeRouter(ridge=self.ridge)

    def grows_by(self) -> int:
        """One adapter, with what is trained in full, and one mean of the router."""
        means: Any = self._router.state_dict().get("means", {})
        adapter = sum(p.numel() for p in self.context.parameters.values()) * self.context.lmm.dtype.itemsize
        return adapter + max((bytes_of({"": mean}) for mean in means.values()), default=0)
