"""DER++ (Buzzega et al. 2020, arXiv 2004.07211): replay a buffer, and keep the logits that it had."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from evertune import Batch, Context, Method, MethodInfo, Output, Sample, Task

TOKENS = 8  # of an answer whose logits are kept


class DerPP(Method):
    """Each micro-batch adds α · (distance to the buffer's logits of then) + β · (loss on the buffer).

    Args:
        buffer: samples that are kept, over all tasks.
        batch: samples of the buffer beside each micro-batch.
        alpha: weight of the distance.
        beta: weight of the loss.
        top: logits that are kept per answer token, the largest ones.
    """

    name = "derpp"
    protocol = 1
    about = MethodInfo("dark experience replay ++", "replay", "Buzzega et al. 2020, arXiv 2004.07211")
    sequential_equivalent: ClassVar[Mapping[str, float]] = {"alpha": 0.0, "beta": 0.0}

    def __init__(
        self, *, buffer: int = 200, batch: int = 4, alpha: float = 0.2, beta: float = 0.5, top: int = 16
    ) -> None:
        self.buffer, self.batch, self.alpha, self.beta, self.top = buffer, batch, alpha, beta, top

    def setup(self, context: Context) -> None:
        super().setup(context)
        self._seen = 0
        self._rows: dict[str, dict[str, Any]] = {}
        self._values: dict[str, Tensor] = {}
        self._indices: dict[str, Tensor] = {}

    def adds_to_loss(self) -> bool:
        return (self.alpha > 0 or self.beta > 0) and bool(self._rows)

    def loss_terms(self, batch: Batch, output: Output) -> dict[str, Tensor]:
        if not self.adds_to_loss():
            return {}
        places = [str(place) for place in torch.randint(len(self._rows), (self.batch,)).tolist()]
        samples = [self.context.kept(Sample.from_row(self._rows[place], origin="the buffer")) for place in places]
        now = self.context.output(samples)
        parts = zip(places, torch.split(now.logits, now.tokens.tolist()), strict=True)
        distances = [self._distance(place, logits) for place, logits in parts]
        return {"distillation": self.alpha * torch.stack(distances).mean(), "buffer": self.beta * now.loss}

    def _distance(self, place: str, logits: Tensor) -> Tensor:
        then, indices = self._values[place].to(logits.device), self._indices[place].to(logits.device)
        return (logits[: len(then)].gather(1, indices) - then).square().mean()

    def after_task(self, task: Task) -> None:
        """Reservoir sampling: in the end every sample of every task is kept with the same probability."""
        choose = random.Random(f"{self.context.seed} {task.name}")
        kept: dict[str, Sample] = {}
        for sample in task.train:
            self._seen += 1
            filled = len({*self._rows, *kept})
            place = filled if filled < self.buffer else choose.randrange(self._seen)
            if place < self.buffer:
                kept[str(place)] = sample
        for name, sample in kept.items():
            with torch.no_grad():
                logits = self.context.logits([sample])[:TOKENS]
            self._values[name], self._indices[name] = logits.topk(min(self.top, logits.shape[1]))
            self._rows[name] = self.context.keep(sample).to_row()

    def holds_at_most(self) -> int:
        return self.buffer * TOKENS * self.top * (4 + 8)

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self._seen, "rows": self._rows, "values": self._values, "indices": self._indices}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._seen, self._rows = state["seen"], dict(state["rows"])
        self._values, self._indices = dict(state["values"]), dict(state["indices"])
