"""EProj: one expert projection per task, chosen per sample by image and instruction keys, without a task id.

Each expert starts from the untouched model and trains on its own task only; nothing that an old task needs is ever
changed, so what can be lost is only the routing. Keys are in closed form: the normalised mean of the normalised
queries, which is the optimum of the paper's key loss Σ (1 - cos(q, k)).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from evertune.errors import UserError
from evertune.lmm.weights import copy_of, restore
from evertune.methods.base import About, Context, Method
from evertune.tasks.task import Sample, Task


class EProj(Method):
    """Model expansion with routing by keys.

    Args:
        expert: what is copied per task: 'all' that trains (projection and LoRA), or the 'projection' alone, as in the
            paper. The paper's projection was pre-trained; the projector of `smol` is not, so 'all' is the default.
    """

    name = "eproj"
    about = About(
        title="EProj: one expert projection per task, routed by keys",
        kind="expansion",
        paper="He et al. 2023, arXiv 2311.16206",
        formula="t* = argmax_t cos(q_img, k_img^t) + cos(q_ins, k_ins^t); k^t = norm(mean(norm(q))) over task t",
        cost="one expert and two keys per task; routing adds two small products per sample",
        fails="when two tasks share pictures and instructions: their keys point the same way",
    )

    def __init__(self, *, expert: Literal["all", "projection"] = "all") -> None:
        self.expert = expert
        self._experts: dict[str, dict[str, Tensor]] = {}
        self._keys: dict[str, dict[str, Tensor]] = {}

    def setup(self, context: Context) -> None:
        """Start without experts."""
        super().setup(context)
        self._experts, self._keys = {}, {}
        names = context.parameters if self.expert == "all" else context.lmm.scopes()["projection"]
        self._copied = frozenset(names)

    def trains(self, parameter: str) -> bool:
        """What is not part of an expert stays as it is."""
        return parameter in self._copied

    def before_task(self, task: Task) -> None:
        """Every expert starts from the untouched model."""
        del task
        restore(self.context.parameters, self.context.start)

    def after_task(self, task: Task) -> None:
        """Put the trained expert and its keys aside."""
        trained = {name: p for name, p in self.context.parameters.items() if name in self._copied}
        self._experts[task.name] = copy_of(trained)
        images, instructions = self.queries(task.train)
        self._keys[task.name] = {"image": key_of(images), "instruction": key_of(instructions)}

    def queries(self, samples: Sequence[Sample]) -> tuple[Tensor, Tensor]:
        """(n, D) mean vision features and (n, width) instruction embeddings, each row of length 1."""
        images = self.context.lmm.embed_images(self.context.features.get(samples))
        instructions = self.context.lmm.embed_texts([s.instruction for s in samples])
        return normalize(images, dim=1), normalize(instructions, dim=1)

    def route(self, samples: Sequence[Sample]) -> list[str] | None:
        """The expert with the largest sum of cosines; tasks that were not learned yet have no key and can't win."""
        if not self._keys:
            return None
        names = list(self._keys)
        images, instructions = self.queries(samples)
        similarity = images @ torch.stack([self._keys[n]["image"] for n in names]).T
        similarity += instructions @ torch.stack([self._keys[n]["instruction"] for n in names]).T
        return [names[index] for index in similarity.argmax(1).tolist()]

    def activate(self, expert: str) -> None:
        """Put the expert's weights into the model."""
        if expert not in self._experts:
            raise UserError(f"there is no expert '{expert}'; known: {', '.join(self._experts)}")
        restore(self.context.parameters, self._experts[expert])

    def state_dict(self) -> dict[str, Any]:
        """Experts and keys."""
        return {"experts": self._experts, "keys": self._keys}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take experts and keys back."""
        self._experts, self._keys = dict(state["experts"]), dict(state["keys"])


def key_of(queries: Tensor) -> Tensor:
    """Closed form of argmin_k Σ (1 - cos(q, k)) for rows of length 1: the normalised mean. (n, D) -> (D,)."""
    return normalize(queries.mean(0), dim=0)
