"""How many images a run has and how often it uses them: what `features=auto` and `evertune plan` decide by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from evertune.data import Sample, Stream, Task
from evertune.data.samples import Samples

if TYPE_CHECKING:
    from evertune.models.feature_policy import Choice
    from evertune.training.learner import Learner
    from evertune.training.loop import Training


def image_needs(stream: Stream, stages: Sequence[Task], training_of: Callable[[Task], Training]) -> tuple[int, float]:
    """The number of different images of a run, and how often one is used on average.

    Args:
        stream: its tasks and probes are evaluated in every row.
        stages: what is trained.
        training_of: the hyper-parameters of a stage.
    """
    sides = [*(task.train for task in stages), *(task.test for task in stream.all_tasks)]
    images = len(np.unique(np.concatenate([np.empty(0, np.uint64), *map(_keys, sides)])))
    trained = sum(training_of(task).epochs * _count(task.train) for task in stages)
    evaluated = (len(stages) + 1) * sum(_count(task.test) for task in stream.all_tasks)
    return images, (trained + evaluated) / max(1, images)


def settle_features(learner: Learner, stream: Stream, stages: Sequence[Task]) -> Choice:
    """Choose where the features of a run are kept; all processes take part."""
    images, uses = image_needs(stream, stages, learner.training_of)
    return learner.features.settle(stages[0].train, images=images, uses=uses)


def _keys(samples: Sequence[Sample]) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    if isinstance(samples, Samples):
        return samples.image_keys()
    return np.array([int(image[:16], 16) for s in samples for image in s.image_digests], np.uint64)


def _count(samples: Sequence[Sample]) -> int:
    """Images of all samples, one after another."""
    if isinstance(samples, Samples):
        return len(samples.image_numbers)
    return sum(len(sample.images) for sample in samples)
