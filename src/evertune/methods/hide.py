"""HiDe-LLaVA: the last layer mixes the adapters of all tasks by similarity, the layers below merge them.

Layers near the output differ from task to task, those below hardly do. So only the last block weighs the adapters of
the tasks for each question; below, all of them are added up.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from evertune.methods.base import Context, MethodInfo
from evertune.methods.low_rank import ALPHA, RANK
from evertune.methods.mixed_experts import MixedExperts
from evertune.models.adapters import TRAINED
from evertune.models.regions import in_region, is_region
from evertune.models.weights import restore
from evertune.utils.errors import UserError

MERGED = "(merged)"
"""Name of the expert of the lower layers; not a valid name of a task."""


class Hide(MixedExperts):
    """An adapter per task, weighed by image and text anchors in the last block and merged in all others.

    Args:
        r: rank, of each task's adapter.
        lora_alpha: the update is scaled by lora_alpha / r.
        target_modules: which layers get one; see `LowRankMethod`. Nothing is trained in full.
        merge: how the layers below `top` are merged: 'product-of-sums' (Σ B)(Σ A), as in the authors' code, or
            'sum-of-products' Σ B A.
        top: the region whose layers are weighed, `last-1` in the paper.
        temperature: T of softmax((cos_img + cos_ins) / 2 T), 0.1 in the paper; a very small one weighs one task only.
    """

    name = "hide"
    about = MethodInfo(
        title="HiDe: task adapters, weighed by anchors in the last layer and merged below",
        kind="expansion",
        paper="Guo et al. 2025 (HiDe-LLaVA), arXiv 2503.12941",
        formula="last block: W x + s Σ_k d_k B_k A_k x, d = softmax((cos(q_img, k_img) + cos(q_ins, k_ins)) / 2 T); "
        "below: W x + s (Σ_k B_k)(Σ_k A_k) x, or s Σ_k B_k A_k x",
        cost="an adapter and two anchors per task; each question has weights of its own and is answered alone",
        fails="with many tasks: the sum of all adapters below was never trained; when anchors resemble each other",
    )
    kind_of_adapter = "weighed above, merged below"

    def __init__(
        self,
        *,
        r: int = RANK,
        lora_alpha: float = ALPHA,
        target_modules: str = TRAINED,
        merge: Literal["product-of-sums", "sum-of-products"] = "product-of-sums",
        top: str = "last-1",
        temperature: float = 0.1,
    ) -> None:
        super().__init__(r=r, lora_alpha=lora_alpha, target_modules=target_modules, temperature=temperature)
        if not all(is_region(part) for part in top.split(":")):
            raise UserError(f"hide.top={top}: name a region of blocks, for example last-1")
        self.merge, self.top = merge, top

    def setup(self, context: Context) -> None:
        """Find the layers that are weighed.

        Raises:
            UserError: no adapter is there.
        """
        super().setup(context)
        paths = {name: name.rpartition(".adapter.")[0] for name in context.parameters}
        found = list(paths)
        for part in self.top.split(":"):
            found = in_region(found, part)
        self._weighed = frozenset(paths[name] for name in found)
        if not self._weighed:
            raise UserError(
                f"hide.top={self.top}: {context.lmm.name} has no adapter there; hide.target_modules="
                f"{self.target_modules} puts them at {', '.join(sorted(set(paths.values()))[:4])} ..."
            )

    def layer_weights(self, layer: str, weights: Mapping[str, float]) -> Mapping[str, float]:
        """Those of the question in the last block; below, one for all, or the merged adapter."""
        if layer in self._weighed:
            return weights
        return {MERGED: 1.0} if self.merge == "product-of-sums" else dict.fromkeys(weights, 1.0)

    def activate(self, expert: str) -> None:
        """Put the expert's weights into the model; those of `MERGED` are the sums of A and of B over all tasks."""
        if expert != MERGED:
            super().activate(expert)
            return
        names = self.context.parameters
        sums = {name: sum(one[name].float() for one in self._experts.values()) for name in names}
        restore(names, sums)  # type: ignore[arg-type]
