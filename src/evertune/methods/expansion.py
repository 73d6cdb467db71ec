"""Expansion policies: when a task gets a new expert, and when it trains an earlier one further."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from evertune.data.task import Task
from evertune.methods.base import BASE

if TYPE_CHECKING:
    from evertune.methods.eproj import EProj


@dataclass(frozen=True, slots=True)
class Always:
    """A new expert for each task, also for one that is learned again.

    Attributes:
        threshold: the similarity from which an expert is reused, 0..1.
    """

    threshold: float
    options: ClassVar[tuple[str, ...]] = ()
    """The options of `eproj` that have an effect under this policy only."""
    reuses: ClassVar[bool] = False

    def expert_for(self, task: Task, method: EProj) -> str | None:
        """The expert that `task` trains further; None: a new one."""
        if not self.reuses:
            return None
        own = method.expert_of(task.name)
        if own not in (None, BASE):
            return own  # learned again; others may be served by it too
        near = {expert: value for expert, value in self.nearness(task, method).items() if expert != BASE}
        nearest = max(near, key=near.__getitem__, default=None)
        return nearest if nearest is not None and near[nearest] >= self.threshold else None

    def nearness(self, task: Task, method: EProj) -> Mapping[str, float]:
        """The similarity of `task` to each expert, 0..1."""
        return {}


class WhenDissimilar(Always):
    """A new expert unless the task is similar to an earlier one."""

    options, reuses = ("threshold", "reuse_strength"), True

    def nearness(self, task: Task, method: EProj) -> Mapping[str, float]:
        """The largest similarity of a task that the expert serves."""
        return method.similar_experts(task)


class WhenSeparable(Always):
    """A new expert unless the router takes the task's questions for an earlier one's: it would not be used."""

    options, reuses = ("confusion_threshold", "reuse_strength"), True

    def nearness(self, task: Task, method: EProj) -> Mapping[str, float]:
        """The share of questions that would go to the expert."""
        return method.taken_for(task)


POLICIES = {"always": Always, "when-dissimilar": WhenDissimilar, "when-separable": WhenSeparable}
