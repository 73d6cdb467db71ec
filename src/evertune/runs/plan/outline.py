"""What a measured plan and an estimate share: stages, answers, what is stored, and where vision features are kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from evertune.data import Stream, Task
from evertune.methods import Method
from evertune.models.feature_policy import FeaturePolicy, Keep, Need, choose, room_in
from evertune.models.feature_shards import kept_bytes
from evertune.runs.cells import wanted_cells, wanted_of_probes
from evertune.runs.feature_needs import image_needs
from evertune.training.loop import Training
from evertune.training.thinning import is_kept
from evertune.utils.files import cache_folder


@dataclass(frozen=True, slots=True)
class StagePlan:
    """One stage of a planned run. `samples` is per epoch, before a method adds its own (replay adds a few)."""

    task: str
    samples: int
    steps: int
    test: int


@dataclass(frozen=True, slots=True)
class FeaturePlan:
    """Where features are kept.

    Attributes:
        encoded: images that go through the tower in one run, where none is in the cache yet.
        kept_bytes: on disk or in memory.
        choice: in words, with the reason.
    """

    keep: Keep
    images: int
    bytes_per_image: int
    encoded: int
    kept_bytes: int
    choice: str


class PlanSettings(NamedTuple):
    """The settings that decide a plan.

    Attributes:
        cells: as in `wanted_cells`.
        keep: as in `thinning`.
        policy: where features are kept.
    """

    training: Training
    cells: str = "all"
    keep: str = "all"
    policy: FeaturePolicy = FeaturePolicy()


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """The planned run of one method on one stream.

    Attributes:
        answers: questions that the run asks, over all cells that it evaluates.
        stage_bytes: disk space of a saved stage: the expert, or one copy of everything trained.
        stages_kept: how many stages keep their weights (`stages.keep`).
    """

    method: str
    stages: list[StagePlan]
    trained_parameters: int
    all_parameters: int
    dtype: str
    answers: int
    stage_bytes: int
    stages_kept: int
    features: FeaturePlan

    @property
    def disk_bytes(self) -> int:
        """Of the kept stages, without the samples and importances that a method stores."""
        return self.stage_bytes * self.stages_kept


def outline(
    methods: Sequence[Method],
    stream: Stream,
    tasks: Sequence[Task],
    *,
    how: PlanSettings,
    trained: int,
    dtype: torch.dtype,
    image_bytes: int,
) -> dict[str, Any]:
    """The fields of an `Outline` that follow from the stages `tasks`, which `methods` have made of a stream."""
    stages = stages_of(tasks, how.training)
    images, uses = image_needs(stream, tasks, lambda task: how.training.fitted(len(task.train)))
    return {
        "stages": stages,
        "trained_parameters": trained,
        "dtype": str(dtype).removeprefix("torch."),
        "answers": answers_of(how.cells, stream, tasks),
        "stage_bytes": stage_bytes(methods, trained, dtype),
        "stages_kept": stages_kept(methods, how.keep, len(stages)),
        "features": plan_features(how.policy, Need(images, image_bytes, uses)),
    }


def plan_features(policy: FeaturePolicy, need: Need) -> FeaturePlan:
    """The plan for the room that there is on this machine now."""
    root = cache_folder() / "features"
    choice = choose(policy, need, room_in(root, kept=kept_bytes(root)))
    kept = min(need.total, choice.budget)
    share = kept / need.total if need.total else 1.0
    encoded = share * need.images + (1 - share) * need.images * need.uses  # what finds no place, each time it is used
    return FeaturePlan(choice.keep, need.images, need.bytes_per_image, round(encoded), kept, str(choice))


def stages_kept(methods: Sequence[Method], keep: str, count: int) -> int:
    """How many of `count` stages keep their weights: all, where each has an expert that later ones refer to."""
    if any(method.in_model_dtype for method in methods):
        return count
    return sum(is_kept(keep, number, last=count) for number in range(1, count + 1))


def stage_bytes(methods: Sequence[Method], trained: int, dtype: torch.dtype) -> int:
    """Bytes of a saved stage: trained weights are float32, experts have the model's dtype."""
    return trained * (dtype if any(method.in_model_dtype for method in methods) else torch.float32).itemsize


def stages_of(tasks: Sequence[Task], training: Training) -> list[StagePlan]:
    """The stages of a run with their optimizer steps."""
    return [StagePlan(t.name, n := len(t.train), training.fitted(n).steps(n), len(t.test)) for t in tasks]


def samples_seen(stages: Sequence[StagePlan], training: Training) -> float:
    """Training samples of all stages, counted once per epoch."""
    return sum(training.fitted(stage.samples).epochs * stage.samples for stage in stages)


def answers_of(cells: str, stream: Stream, stages: Sequence[Task]) -> int:
    """How many questions the wanted cells have, those of probes included."""
    sizes = {task.name: len(task.test) for task in stream.all_tasks}
    columns, probes, names = ([task.name for task in part] for part in (stream.columns, stream.probes, stages))
    wanted = wanted_cells(cells, columns, known=len(stream.known), stages=names)
    return sum(sizes[name] for _, name in (*wanted, *wanted_of_probes(cells, probes, last=len(names))))
