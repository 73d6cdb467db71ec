"""Sequential LoRA: one low-rank adapter trained on one task after another. The usual baseline of the LoRA era.

It forgets, with fewer weights than full tuning; with replay or a penalty it is a common competitor.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from evertune.methods.base import MethodInfo
from evertune.methods.low_rank import LowRankMethod


class Lora(LowRankMethod):
    """One adapter for all tasks; see `LowRankMethod` for the options."""

    name = "lora"
    about = MethodInfo(
        title="LoRA, one adapter for all tasks, trained on and on",
        kind="adapter",
        paper="Hu et al. 2021, arXiv 2106.09685; as a continual baseline: Chen et al. 2024 (CoIN), arXiv 2403.08350",
        formula="W x + (alpha / rank) B A x; min_{A,B} L_t, started from A_{t-1}, B_{t-1}",
        cost="nothing stored beyond the adapter; less to train, hash and save than the model's own scopes",
        fails="by forgetting, as sequential tuning does; a rank too small for a task limits what can be learned",
    )
    sequential_equivalent: ClassVar[Mapping[str, Any]] = {}
