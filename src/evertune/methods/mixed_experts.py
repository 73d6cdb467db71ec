"""What `hide` and `disco` share: an adapter per task, and for each question the weights of all of them.

A task is known by anchors, the mean directions of its training images and instructions. The weight of its adapter is
the softmax of the cosines to them. No task id, and nothing that trains is shared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor
from torch.nn.functional import normalize

from evertune.data.task import Sample
from evertune.methods.base import Context, Route
from evertune.methods.eproj import EProj
from evertune.methods.low_rank import NONE, LowRankMethod
from evertune.methods.routers import QUERIES, CosineRouter, Queries
from evertune.models.weights import bytes_of
from evertune.utils.errors import UserError


class AnchorRouter(CosineRouter):
    """Softmax of the mean cosine to a task's anchors.

    Args:
        modalities: whose cosines count.
        temperature: T of softmax(cosine / T).
    """

    def __init__(self, *, modalities: Sequence[str], temperature: float) -> None:
        super().__init__()
        self._modalities, self._temperature = tuple(modalities), temperature

    def scores(self, queries: Queries) -> Tensor:
        """(n, T) mean cosine / T, float64."""
        columns = self._side_by_side()
        parts = [normalize(queries[m].double(), dim=1) @ columns[m].double() for m in self._modalities]
        return sum(parts[1:], parts[0]) / (len(parts) * self._temperature)

    def probabilities(self, queries: Queries) -> Tensor:
        """(n, T) the weights of the tasks."""
        return self.scores(queries).softmax(1)


class MixedExperts(LowRankMethod, EProj):
    """An adapter per task; subclasses decide what is compared, and what is mixed where."""

    modalities: ClassVar[Sequence[str]] = QUERIES

    def __init__(self, *, r: int, lora_alpha: float, target_modules: str, temperature: float) -> None:
        if not temperature > 0:
            raise UserError(f"{self.name}.temperature must be above 0, not {temperature}")
        LowRankMethod.__init__(self, r=r, lora_alpha=lora_alpha, target_modules=target_modules, modules_to_save=NONE)
        EProj.__init__(self, expert="all")
        self.temperature = temperature

    def setup(self, context: Context) -> None:
        """Start without experts, with a router that knows no task."""
        super().setup(context)
        self._router = AnchorRouter(modalities=self.modalities, temperature=self.temperature)

    def route(self, samples: Sequence[Sample]) -> Sequence[Route] | None:  # type: ignore[override]
        """The weight of each expert for each sample."""
        if not self._router.tasks:
            return None
        experts = [self._serves[task] for task in self._router.tasks]
        shares = self._router.probabilities(self.queries(samples)).tolist()
        return [dict(zip(experts, row, strict=True)) for row in shares]

    def forget(self, task: str, *, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
        """Refused: every prediction is made with all adapters."""
        raise UserError(f"'{self.name}' answers every question with a mixture of all adapters, that of '{task}' too")

    def grows_by(self) -> int:
        """One adapter and its anchors."""
        anchors = max((bytes_of(found) for found in self._router.state_dict().values()), default=0)
        return sum(p.numel() for p in self.context.parameters.values()) * self.context.lmm.dtype.itemsize + anchors
