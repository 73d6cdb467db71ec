"""Expansion policies: when a task gets a new expert, and when it trains an earlier one further."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Protocol

from evertune.data.task import Task
from evertune.methods.base import BASE


class Experts(Protocol):
    """What a policy may ask a method about its experts; numbers are in 0..1."""

    def expert_of(self, task: str) -> str | None:
        """The expert that serves `task`, if it was learned."""

    def similar_experts(self, task: Task) -> Mapping[str, float]:
        """Each expert's largest similarity s(k) of a task that it serves to `task`."""

    def taken_for(self, task: Task) -> Mapping[str, float]:
        """The share of `task`'s questions that would go to each earlier expert although the router had learned it."""


class Always:
    """A new expert for each task, also for one that is learned again."""

    options: ClassVar[tuple[str, ...]] = ()
    """The options of the method that only have an effect under this policy."""
    by_similarity: ClassVar[bool] = False
    """Whether it needs embeddings of all tasks."""

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold

    def expert_for(self, task: Task, experts: Experts) -> str | None:
        """The expert that `task` trains further; None: a new one."""
        del task, experts
        return None


class Reusing(Always, ABC):
    """The nearest expert, from `threshold` on, never the base model. A task that is learned again trains its own."""

    @abstractmethod
    def nearness(self, task: Task, experts: Experts) -> Mapping[str, float]:
        """How near `task` is to each expert."""

    def expert_for(self, task: Task, experts: Experts) -> str | None:
        """By `nearness`."""
        own = experts.expert_of(task.name)
        if own not in (None, BASE):
            return own  # others may be served by it too
        near = {expert: value for expert, value in self.nearness(task, experts).items() if expert != BASE}
        nearest = max(near, key=near.__getitem__, default=None)
        return nearest if nearest is not None and near[nearest] >= self.threshold else None


class WhenDissimilar(Reusing):
    """A new expert unless the task is similar to an earlier one."""

    options = ("threshold", "reuse_strength")
    by_similarity = True

    def nearness(self, task: Task, experts: Experts) -> Mapping[str, float]:
        """By embeddings."""
        return experts.similar_experts(task)


class WhenSeparable(Reusing):
    """A new expert unless the router takes the task's questions for an earlier one's: it would not be used."""

    options = ("confusion_threshold", "reuse_strength")

    def nearness(self, task: Task, experts: Experts) -> Mapping[str, float]:
        """By the router."""
        return experts.taken_for(task)


POLICIES: Mapping[str, type[Always]] = {
    "always": Always,
    "when-dissimilar": WhenDissimilar,
    "when-separable": WhenSeparable,
}
