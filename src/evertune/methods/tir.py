"""TIR, task-similarity-informed regularization: hold what dissimilar old tasks need, let similar ones move.

A modifier: it replaces the rule by which a penalty (`ewc`, `mas`) merges the importances of its tasks, and keeps the
penalty's measure of importance. `tir+ewc` and `ewc+tir` are the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from evertune.data.task import Task
from evertune.methods.base import Context, Method, MethodInfo
from evertune.methods.importance import ImportancePenalty, Latest, MergeRule, Summed, Tensors
from evertune.methods.similarity import SimilarityBy, check_similarity, similarity_to, task_embedding
from evertune.models.weights import bytes_of
from evertune.utils.errors import UserError
from evertune.utils.files import digest

STRENGTH = 1e7
"""The default λ of a penalty under `tir`, whose importances sum to 1 whatever is measured.

Chosen for `tir+ewc` on a held-out seed of `smol` (docs/results.md); on `tiny` 1e6 was better (docs/study.md).
"""

Owner = Literal["argmax", "random"]
Weighting = Literal["dissimilar", "similar", "none"]
Discount = Literal["accumulate", "once"]
Merging = Literal["maximum", "sum"]


class Tir(Method):
    """Discount the importance of each trained scalar by the similarity of the task it came from to the new one.

    Args:
        owner: `argmax`: a scalar belongs to the old task it matters to most; `random` (ablation): to any of them.
        weighting: `dissimilar`: I <- (1 - s) I, the paper's; `similar` (ablation): I <- s I; `none` (the control): no
            discount, as if s were 0.
        discount: `accumulate`: what was discounted stays so; `once`: every task starts from the undiscounted maximum.
            The paper leaves it open; the code seen accumulates.
        merging: `maximum`: of all tasks, every spring fixed at the latest weights, the paper's; `sum` (ablation): each
            task keeps its own spring, as in `ewc`, and is discounted as a whole; stores the importance of every task.
        similarity: what s is computed from: the paper's product over images, instructions and answers, one of them, or
            the directions of the tasks' mean gradients when each began.
        normalise: whether the importance of a task sums to 1, as in the paper; without it (ablation) λ is of the size
            that the penalty has alone.
    """

    name = "tir"
    about = MethodInfo(
        title="TIR: regularization informed by task similarity, a modifier of ewc or mas",
        kind="regularization",
        paper="He et al. 2023, arXiv 2311.16206",
        formula="λ Σ_i (1 - s(d_i)) I_i (θ_i - a_i)², I_i = max_k I_i^k, d_i = argmax_k I_i^k, Σ_i I_i^k = 1",
        cost="6 bytes per trained parameter and an embedding per task; while training, 8 bytes per parameter more",
        fails="with an untuned λ; when similarity of embeddings is not similarity of what must be known",
    )
    sequential_equivalent: ClassVar[Mapping[str, Any]] = {}

    def __init__(
        self,
        *,
        owner: Owner = "argmax",
        weighting: Weighting = "dissimilar",
        discount: Discount = "accumulate",
        merging: Merging = "maximum",
        normalise: bool = True,
        similarity: SimilarityBy = "product",
    ) -> None:
        check_similarity(similarity, option="tir.similarity")
        for option, value, kind in (
            ("owner", owner, Owner),
            ("weighting", weighting, Weighting),
            ("discount", discount, Discount),
            ("merging", merging, Merging),
        ):
            if value not in get_args(kind):
                raise UserError(f"tir.{option}={value!r}: choose one of {', '.join(get_args(kind))}")
        if merging == "sum" and owner == "random":
            raise UserError("tir.owner=random draws the owner of each scalar, and with tir.merging=sum it has none")
        self.owner, self.weighting, self.discount = owner, weighting, discount
        self.merging, self.normalise, self.similarity = merging, normalise, similarity
        self._embeddings: dict[str, dict[str, Tensor]] = {}
        self._similarities: dict[str, dict[str, float]] = {}
        self._latest: tuple[Task, dict[str, Tensor]] | None = None

    def combine(self, methods: Sequence[Method]) -> None:
        """Give every importance-based penalty among `methods` the merging rule of TIR.

        Raises:
            UserError: there is none.
        """
        penalties = [method for method in methods if isinstance(method, ImportancePenalty)]
        if not penalties:
            raise UserError("tir modifies a penalty and is none itself: join it with one, as in tir+ewc or tir+mas")
        for penalty in penalties:
            penalty.merge_by(self.rule, strength=STRENGTH if self.normalise else penalty.default_strength)

    def rule(self) -> MergeRule:
        """A fresh merging rule for one penalty."""
        return OwnedMaximum(self) if self.merging == "maximum" else DiscountedSum(self)

    def scaled(self, importance: Mapping[str, Tensor]) -> Tensors:
        """The importance of one task, as it is merged."""
        return normalised(importance) if self.normalise else dict(importance)

    def setup(self, context: Context) -> None:
        """Start without tasks."""
        super().setup(context)
        self._embeddings, self._similarities, self._latest = {}, {}, None

    def on_known_task(self, task: Task) -> None:
        """Keep the embedding of a task that the model knew before the stream."""
        self._embeddings[task.name] = self._embedding(task)

    def after_task(self, task: Task) -> None:
        """Keep the embedding."""
        self._embeddings[task.name] = self._embedding(task)

    def similarities(self, task: Task) -> dict[str, float]:
        """s(k) of every old task to `task`, in 0..1; a task that is learned again is 1 similar to itself."""
        old = {name: e for name, e in self._embeddings.items() if name != task.name}
        found = similarity_to(self._embedding(task), old, name=task.name, by=self.similarity)
        return {**found, task.name: 1.0} if task.name in self._embeddings else found

    def discounted(self, task: Task, importance: Tensors, owner: Tensors, tasks: Sequence[str]) -> Tensors:
        """Importance in force while `task` is learned: I · (1 - s(owner)).

        Args:
            task: the new task.
            importance: of each trained scalar.
            owner: int16, of the same shapes: index into `tasks`.
            tasks: names of the old tasks.
        """
        factors = torch.tensor(self.factors(task, tasks))
        chance = torch.Generator().manual_seed(int(digest("tir", str(self.context.seed), task.name)[:8], 16))
        result = {}
        for name, value in importance.items():
            index = owner[name].long()
            if self.owner == "random":
                index = torch.randint(len(tasks), index.shape, generator=chance)
            result[name] = value * factors.to(value.device)[index.to(value.device)]
        return result

    def factors(self, task: Task, tasks: Sequence[str]) -> list[float]:
        """What the importance of each old task is multiplied with while `task` is learned."""
        if self.weighting == "none":
            return [1.0] * len(tasks)
        similar = self.similarities(task)
        self._similarities[task.name] = similar
        return [similar[name] if self.weighting == "similar" else 1 - similar[name] for name in tasks]

    def grows_by(self) -> int:
        """One embedding per task."""
        return max((bytes_of(embedding) for embedding in self._embeddings.values()), default=0)

    def state_dict(self) -> dict[str, Any]:
        """The tasks' embeddings, and the similarities that were used, for inspection."""
        return {"embeddings": self._embeddings, "similarities": self._similarities}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take them back."""
        self._embeddings, self._similarities = dict(state["embeddings"]), dict(state["similarities"])

    def _embedding(self, task: Task) -> dict[str, Tensor]:
        """Computed once per task: it is needed before it and kept after it."""
        if self._latest is None or self._latest[0] is not task:
            self._latest = (task, task_embedding(self.context, task.train, self.similarity))
        return self._latest[1]


class OwnedMaximum(Latest):
    """The largest normalised importance of any task and the task it came from, discounted before each new task."""

    def __init__(self, tir: Tir) -> None:
        super().__init__(scale=1.0)
        self._tir = tir
        self.owner: Tensors = {}
        self.tasks: list[str] = []
        self._held: Tensors = {}

    def merge(self, new: Mapping[str, Tensor], parameters: Mapping[str, Tensor], *, task: str) -> None:
        """Scale `new`, by default to sum 1 over all scalars; where it exceeds what is held, `task` is the owner.

        What is held and discounted is taken as the base only here, after the task: one that was interrupted and begins
        again is not discounted twice.
        """
        if task not in self.tasks:
            self.tasks.append(task)
        index = self.tasks.index(task)
        base = self._held if self._held and self._tir.discount == "accumulate" else self.importance
        merged, owner = {}, {}
        for name, value in self._tir.scaled(new).items():
            earlier = base.get(name, torch.zeros_like(value))
            before = self.owner.get(name, torch.zeros_like(value, dtype=torch.int16))
            merged[name] = torch.maximum(earlier, value)
            owner[name] = torch.where(value > earlier, torch.full_like(before, index), before)
        self.importance, self.owner, self._held = merged, owner, {}

    def before_task(self, task: Task, parameters: Mapping[str, Tensor]) -> None:
        """Fix the springs here and discount them by the similarity to `task`."""
        super().before_task(task, parameters)
        if self.importance:
            self._held = self._tir.discounted(task, self.importance, self.owner, self.tasks)

    def held(self) -> Mapping[str, Tensor]:
        """The discounted importance."""
        return self._held

    def state_dict(self) -> dict[str, Any]:
        """Importance, owners and the names that the owners' indices stand for."""
        return {**super().state_dict(), "owner": self.owner, "tasks": self.tasks}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Take them back."""
        super().load_state_dict(state, device)
        self.owner = {name: t.to(device) for name, t in state["owner"].items()}
        self.tasks = list(state["tasks"])


class DiscountedSum(Summed):
    """A spring of its own for each task, as in `ewc`, all of it discounted before each new task: an ablation.

    The sums of `Summed` are made anew before each task from the importances of all tasks, which are kept.
    """

    def __init__(self, tir: Tir) -> None:
        super().__init__()
        self._tir = tir
        self._springs: dict[str, dict[str, Tensors]] = {}
        self._factors: dict[str, float] = {}
        self._in_force: dict[str, float] = {}

    def merge(self, new: Mapping[str, Tensor], parameters: Mapping[str, Tensor], *, task: str) -> None:
        """Add a spring; what was discounted stays so from here on, unless `tir.discount` is `once`."""
        if self._tir.discount == "accumulate":
            self._factors |= self._in_force
        spring = Summed()
        if task in self._springs:
            spring.load_state_dict(self._springs[task], self._tir.context.device)
        spring.merge(self._tir.scaled(new), parameters, task=task)
        self._springs[task] = spring.state_dict()
        self._factors[task], self._in_force = 1.0, {}
        self._add_up(self._factors)

    def before_task(self, task: Task, parameters: Mapping[str, Tensor]) -> None:
        """Discount all springs by the similarity of their tasks to `task`."""
        if names := list(self._springs):
            factors = self._tir.factors(task, names)
            self._in_force = {name: self._factors[name] * new for name, new in zip(names, factors, strict=True)}
            self._add_up(self._in_force)

    def _add_up(self, factors: Mapping[str, float]) -> None:
        self.importance, self._pull = {}, {}
        for held, key in ((self.importance, "importance"), (self._pull, "pull")):
            for task, spring in self._springs.items():
                for name, value in spring[key].items():
                    held[name] = held.get(name, torch.zeros_like(value)) + factors[task] * value

    def state_dict(self) -> dict[str, Any]:
        """The springs of all tasks and their discounts so far."""
        return {"springs": self._springs, "factors": self._factors}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Take them back."""
        self._springs = {
            task: {key: {name: t.to(device) for name, t in tensors.items()} for key, tensors in spring.items()}
            for task, spring in state["springs"].items()
        }
        self._factors, self._in_force = dict(state["factors"]), {}
        self._add_up(self._factors)


def normalised(importance: Mapping[str, Tensor]) -> Tensors:
    """`importance` with sum 1 over all scalars of all tensors; all zero stays all zero."""
    total = float(torch.stack([value.double().sum().cpu() for value in importance.values()]).sum())
    return {name: value / total if total > 0 else value for name, value in importance.items()}
