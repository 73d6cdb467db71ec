"""A-GEM: a step may not raise the loss on kept samples of earlier tasks, to first order.

The memory is that of `replay`; its samples are not trained on. They give a reference gradient r, and the gradient g of
the step loses what points against r.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from evertune.methods.base import MethodInfo
from evertune.methods.memory_gradients import StepMemory, dot, gradient_of
from evertune.methods.replay import RATIO, Choice, Row
from evertune.utils.errors import UserError


class AGem(StepMemory):
    """Project each gradient so that it does not point against that of kept samples.

    Args:
        ratio: what the memory keeps, like `buffer` and `choice` as in `replay`.
        buffer: when above 0, this many samples over all tasks instead of `ratio`.
        choice: how a `buffer` is filled.
        samples: kept samples, drawn for each step, whose gradient is the reference.
    """

    name = "agem"
    about = MethodInfo(
        title="averaged gradient episodic memory",
        kind="replay",
        paper="Chaudhry et al. 2019, arXiv 1812.00420",
        formula="g <- g - (g·r / r·r) r where g·r < 0; r = gradient of the loss on samples of the memory",
        cost="the kept samples with their images; one pass over `samples` of them per optimizer step",
        fails="when old data may not be kept; where tasks share few directions it forgets like `sequential`",
    )
    sequential_equivalent: ClassVar[Mapping[str, Any]] = {"ratio": 0.0}

    def __init__(
        self,
        *,
        ratio: float = RATIO,
        buffer: int = 0,
        choice: Choice = "balanced",
        samples: int = 16,
    ) -> None:
        if samples < 1:
            raise UserError(f"{self.name}.samples must be 1 or more, not {samples}")
        super().__init__(ratio=ratio, buffer=buffer, choice=choice)
        self.samples = samples

    def adds_to_loss(self) -> bool:
        """Only with a memory."""
        return bool(self._memory)

    def after_backward(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Take out of the gradient what points against the memory, before clipping."""
        super().after_backward(parameters)
        kept = {name: rows for name, rows in self._memory.items() if name != self._task and rows}
        trained = [parameter for parameter in parameters.values() if parameter.grad is not None]
        if kept and trained:
            self.project([parameter.grad for parameter in trained if parameter.grad is not None], kept, trained)

    def project(
        self, gradients: Sequence[Tensor], kept: Mapping[str, Sequence[Row]], trained: Sequence[nn.Parameter]
    ) -> None:
        """Equation 11 of Chaudhry et al. 2019, in place; all trained tensors are one vector."""
        rows = [(name, row) for name, some in kept.items() for row in some]
        reference = self.reference(rows, trained)
        along = dot(gradients, reference)
        self.log("projected", float(along < 0))
        if along >= 0:
            return
        share = along / dot(reference, reference)
        for g, r in zip(gradients, reference, strict=True):
            g.sub_(share * r)

    def reference(self, rows: Sequence[tuple[str, Row]], trained: Sequence[nn.Parameter], *words: str) -> list[Tensor]:
        """The gradient of the mean loss of samples of the memory."""
        samples = [sample for sample, _ in self.drawn(rows, *words)]
        return gradient_of(self.context.losses, samples, trained)
