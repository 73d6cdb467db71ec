"""DER++: replay a buffer, and keep the logits that the model had on it.

The logits are those of answer tokens, the largest ones of each. Both terms are added once per optimizer step, so they
do not depend on micro-batches or on the number of processes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from evertune.data.task import Sample, Task
from evertune.methods.base import Context, MethodInfo
from evertune.methods.memory_gradients import AT_ONCE, StepMemory, gradient_of
from evertune.methods.replay import Row, sample_of
from evertune.models.weights import add_gradient
from evertune.utils.errors import UserError

PLACE = "place"
"""In a row of the memory: where its logits are."""
Drawn = tuple[Sample, Row]


class Der(StepMemory):
    """Add α · (distance to the logits of then) + β · (loss) on samples of a buffer to the loss of each step.

    Args:
        buffer: samples that are kept over all tasks.
        choice: how the buffer is filled, as in `replay`; 'reservoir' in the paper.
        alpha: weight of the distance between logits, 0.1 to 0.5 in the paper; 0 leaves it out.
        beta: weight of the loss on the buffer, 0.5 to 1 in the paper; 0 is DER without ++.
        samples: samples of the buffer that are drawn for each term and step.
        top: logits that are kept per answer token, the largest ones.
        tokens: answer tokens whose logits are kept, the first ones.
    """

    name = "der"
    about = MethodInfo(
        title="DER++: dark experience replay, with kept logits and answers",
        kind="replay",
        paper="Buzzega et al. 2020, arXiv 2004.07211",
        formula="L_t + α mean (z - z_then)² + β L_buffer, z: the largest logits at the answer tokens",
        cost="the kept samples with their images, and 8 · tokens · top bytes each; one pass over 2 · samples per step",
        fails="when old data may not be kept; logits of a model that had not learned the task are kept all the same",
    )
    sequential_equivalent: ClassVar[Mapping[str, Any]] = {"alpha": 0.0, "beta": 0.0}

    def __init__(
        self,
        *,
        buffer: int = 200,
        choice: Literal["balanced", "reservoir"] = "reservoir",
        alpha: float = 0.2,
        beta: float = 0.5,
        samples: int = 8,
        top: int = 16,
        tokens: int = 16,
    ) -> None:
        if min(buffer, samples, top, tokens) < 1:
            raise UserError("der.buffer, der.samples, der.top and der.tokens must be 1 or more")
        if not (alpha >= 0 and beta >= 0):
            raise UserError("der.alpha and der.beta must be 0 or more")
        super().__init__(buffer=buffer, choice=choice)
        self.alpha, self.beta, self.samples, self.top, self.tokens = alpha, beta, samples, top, tokens

    def setup(self, context: Context) -> None:
        """Start with an empty buffer."""
        super().setup(context)
        self._values, self._indices = self._empty()

    def adds_to_loss(self) -> bool:
        """Only with a buffer."""
        return (self.alpha > 0 or self.beta > 0) and any(self._memory.values())

    def after_backward(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Add the gradient of both terms; an empty buffer has none."""
        super().after_backward(parameters)
        rows = [(name, row) for name, some in self._memory.items() if name != self._task for row in some]
        if not rows or not self.adds_to_loss():
            return
        trained = list(parameters.values())
        for factor, losses, what in ((self.alpha, self._distances, "logits"), (self.beta, self._losses, "answers")):
            if factor:
                gradients = gradient_of(losses, self.drawn(rows, what), trained)
                for parameter, gradient in zip(trained, gradients, strict=True):
                    add_gradient(parameter, gradient, alpha=factor)

    def _losses(self, drawn: Sequence[Drawn]) -> Tensor:
        """(n,) the loss of each."""
        found = self.context.losses([sample for sample, _ in drawn])
        for value in found.detach():
            self.log("buffer", value)
        return found

    def _distances(self, drawn: Sequence[Drawn]) -> Tensor:
        """(n,) mean squared difference to the kept logits, over tokens and kept logits of each."""
        output = self.context.output([sample for sample, _ in drawn])
        found = []
        for (_, row), logits in zip(drawn, torch.split(output.logits, output.tokens.tolist()), strict=True):
            now, place = logits[: self.tokens], row[PLACE]
            then = self._values[place, : len(now)].to(now.device)
            found.append((now.gather(1, self._indices[place, : len(now)].long().to(now.device)) - then).square().mean())
            self.log("distillation", found[-1].detach())
        return torch.stack(found)

    def _stored(self, task: Task, rows: Sequence[Row]) -> list[Row]:
        """The samples that are new in the buffer, and the logits of now of each.

        They are of the task's own images: another process may still be copying those that are kept.
        """
        samples = [sample_of(row, task.name) for row in rows]
        values, indices = self._logits(samples) if samples else self._empty()
        kept = [row for name, some in self._memory.items() if name != task.name for row in some]
        places = [row[PLACE] for row in kept]
        self._values = torch.cat([self._values[places], values])
        self._indices = torch.cat([self._indices[places], indices])
        stored = super()._stored(task, rows)
        for place, row in enumerate([*kept, *stored]):
            row[PLACE] = place
        return stored

    @torch.no_grad()
    def _logits(self, samples: Sequence[Sample]) -> tuple[Tensor, Tensor]:
        """(n, tokens, top) the largest logits at the first answer tokens, and which these are; zeros behind the end."""
        values, indices = [], []
        for start in range(0, len(samples), AT_ONCE):
            output = self.context.output(samples[start : start + AT_ONCE])
            for logits in torch.split(output.logits, output.tokens.tolist()):
                largest = logits[: self.tokens].float().topk(min(self.top, logits.shape[1]))
                missing = (0, self.top - largest.values.shape[1], 0, self.tokens - len(largest.values))
                values.append(nn.functional.pad(largest.values.cpu(), missing))
                indices.append(nn.functional.pad(largest.indices.cpu().int(), missing))
        return torch.stack(values), torch.stack(indices)

    def _empty(self) -> tuple[Tensor, Tensor]:
        shape = (0, self.tokens, self.top)
        return torch.zeros(shape), torch.zeros(shape, dtype=torch.int32)

    def holds_at_most(self) -> int:
        """The logits: a value and an index each."""
        return self.buffer * self.tokens * self.top * 8

    def state_dict(self) -> dict[str, Any]:
        """The buffer and its logits."""
        return {**super().state_dict(), "values": self._values, "indices": self._indices}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take them back."""
        super().load_state_dict(state)
        self._values, self._indices = state["values"], state["indices"]
