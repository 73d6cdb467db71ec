"""DISCO: an adapter per task in the MLPs, all of them weighed by the similarity of the instruction in every layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from evertune.methods.base import MethodInfo
from evertune.methods.low_rank import ALPHA, RANK
from evertune.methods.mixed_experts import MixedExperts


class Disco(MixedExperts):
    """An adapter per task, weighed by its text anchor.

    Args:
        r: rank, of each task's adapter.
        lora_alpha: the update is scaled by lora_alpha / r.
        target_modules: which layers get one; the MLPs in the paper. Nothing is trained in full.
        temperature: T of softmax(cos_ins / T), 0.05 in the paper.
    """

    name = "disco"
    about = MethodInfo(
        title="DISCO: task adapters, all weighed by the similarity of the instruction",
        kind="expansion",
        paper="Guo et al. 2025 (Federated Continual Instruction Tuning), arXiv 2503.12897",
        formula="W x + s Σ_k d_k B_k A_k x in every adapted layer, d = softmax(cos(q_ins, k_ins) / T)",
        cost="an adapter and an anchor per task; each question has weights of its own and is answered alone",
        fails="when tasks have similar instructions: their adapters are mixed half and half, whatever the image is",
    )
    modalities: ClassVar[Sequence[str]] = ("instruction",)
    kind_of_adapter: ClassVar[str] = "weighed"

    def __init__(
        self, *, r: int = RANK, lora_alpha: float = ALPHA, target_modules: str = "mlp", temperature: float = 0.05
    ) -> None:
        super().__init__(r=r, lora_alpha=lora_alpha, target_modules=target_modules, temperature=temperature)
