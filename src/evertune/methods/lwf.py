"""Learning without forgetting: distillation from the model before the task on the new task's samples.

The teacher is the weights at the beginning of the task, which are those of the last stage: nothing is stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import log_softmax

from evertune.data.task import Task
from evertune.methods.base import Context, Method, MethodInfo
from evertune.models.modes import evaluating
from evertune.models.protocol import Batch, Output
from evertune.utils.errors import UserError


class LwF(Method):
    """Distillation from the model before the task, at the answer positions of the samples being learned.

    Args:
        strength: weight of the distillation term, 1 in the paper.
        temperature: T, above 0; 2 in the paper. Higher looks more at what the teacher finds unlikely.
    """

    name = "lwf"
    about = MethodInfo(
        title="learning without forgetting",
        kind="regularization",
        paper="Li and Hoiem 2016, arXiv 1606.09282",
        formula="λ T² mean over samples and answer tokens of KL(softmax(z_teacher / T) ‖ softmax(z / T))",
        cost="one forward pass more per micro-batch, and a second copy of the trained weights while training",
        fails="when the new task's samples are nothing like the old ones: the teacher has nothing to say about them",
    )
    sequential_equivalent: ClassVar[Mapping[str, Any]] = {"strength": 0.0}

    def __init__(self, *, strength: float = 1.0, temperature: float = 2.0) -> None:
        if not strength >= 0 or not temperature > 0:
            raise UserError("lwf.strength must be 0 or more and lwf.temperature above 0")
        self.strength, self.temperature = strength, temperature
        self._knows = False
        self._teacher: dict[str, Tensor] = {}

    def setup(self, context: Context) -> None:
        """Start without a teacher."""
        super().setup(context)
        self._knows, self._teacher = False, {}

    def on_known_task(self, task: Task) -> None:
        """There is something to keep from the first task of the stream on."""
        self._knows = True

    def before_task(self, task: Task) -> None:
        """The model as it is now is the teacher."""
        self._teacher = {name: p.detach().clone() for name, p in self.context.parameters.items()}

    def adds_to_loss(self) -> bool:
        """Only once there is an earlier task to keep."""
        return self.strength > 0 and self._knows

    def loss_terms(self, batch: Batch, output: Output) -> dict[str, Tensor]:
        """The distillation term."""
        if not self.adds_to_loss():
            return {}
        term = distillation(output, self.teacher_logits(batch), temperature=self.temperature)
        return {"distillation": self.strength * term}

    def teacher_logits(self, batch: Batch) -> Tensor:
        """(N, vocabulary) the teacher's logits at the answer positions of `batch`, without a gradient."""
        module = self.context.lmm.module()
        with torch.no_grad(), evaluating(module):
            output: Output = functional_call(module, self._teacher, (batch,))
        return output.logits

    def after_task(self, task: Task) -> None:
        """There is something to keep now."""
        self._knows = True

    def state_dict(self) -> dict[str, Any]:
        """Whether there is something to keep; the teacher is the stage's weights."""
        return {"knows": self._knows}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take it back."""
        self._knows = bool(state["knows"])


def distillation(output: Output, teacher_logits: Tensor, *, temperature: float) -> Tensor:
    """T² KL(teacher ‖ student), averaged as `Output.loss` is: over a sample's answer tokens, then over the batch.

    T² keeps the gradient's size when T changes (Hinton et al. 2015, arXiv 1503.02531). Averaged so, equal micro-batches
    add up to the whole batch.

    Args:
        output: the student's, of B samples with N answer tokens in all.
        teacher_logits: (N, vocabulary) the teacher's logits.
        temperature: T.
    """
    student, teacher = log_softmax(output.logits / temperature, dim=1), log_softmax(teacher_logits / temperature, dim=1)
    divergence = temperature**2 * (teacher.exp() * (teacher - student)).sum(1)
    row = torch.repeat_interleave(torch.arange(len(output.tokens), device=divergence.device), output.tokens)
    sums = torch.zeros(len(output.tokens), device=divergence.device).index_add(0, row, divergence)
    return output.mean(sums / output.tokens)
