"""Which samples a batch holds: random passes, or passes in which a batch holds whole images; parts of a batch."""

from __future__ import annotations

import random
import warnings
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import numpy as np

from evertune.data.task import Sample, Subset
from evertune.models.protocol import Trainable
from evertune.utils import distributed

AHEAD = 64
"""So many images are looked at for one whose samples fill the rest of a batch."""


def sample_order(
    samples: Sequence[Sample], *, epochs: float, seed: int, whole_images: int | None = None
) -> Sequence[Sample]:
    """`epochs` passes over `samples`, each in its own random order; a fraction takes the beginning of its pass.

    With `whole_images`, the size of a batch, samples about the same images follow each other. An image is divided
    between two batches only where it has more samples than the first has free places, and so has each of the next
    images.
    """
    choose = random.Random(seed)
    order = array("q")  # places, not samples: there may be a million of them
    wanted = max(1, round(epochs * len(samples)))
    groups = _by_images(samples) if whole_images else []
    while len(order) < wanted:
        if whole_images:
            shuffled = (choose.sample(places.tolist(), len(places)) for places in choose.sample(groups, len(groups)))
            order.extend(_packed(shuffled, whole_images, room=whole_images - len(order) % whole_images))
        else:
            order.extend(choose.sample(range(len(samples)), len(samples)))
    return Subset(samples, order[:wanted])


def shares_images(lmm: Trainable) -> bool:
    """Whether samples about the same images can share their tokens; a warning says why not."""
    fsdp = (
        "with --use_fsdp all processes must pass equally often through the model" if distributed.uses_fsdp() else None
    )
    if reason := fsdp or lmm.unshared:
        warnings.warn(f"train.group_by_image changes nothing with {lmm.name}: {reason}", stacklevel=3)
    return not reason


def _by_images(samples: Sequence[Sample]) -> list[np.ndarray]:
    """Places of the samples about the same images; of one without images alone. In the order of the first ones."""
    keys = [hash(sample.image_digests) if sample.images else ~place for place, sample in enumerate(samples)]
    _, first, number = np.unique(np.array(keys, dtype=np.int64), return_index=True, return_inverse=True)
    places = np.lexsort((np.arange(len(keys)), first[number]))
    return np.split(places, np.cumsum(np.bincount(number)[np.argsort(first)])[:-1])


def _packed(groups: Iterable[Sequence[int]], size: int, *, room: int) -> Iterator[int]:
    """The places of all groups, in batches of `size` that hold whole groups; the first one has `room` free places."""
    coming, waiting = iter(groups), list[Sequence[int]]()
    while True:
        waiting += islice(coming, AHEAD - len(waiting))
        if not waiting:
            return
        # the next image begins a batch, the largest ones that fit fill it: small ones are kept for small rests
        choice = waiting[:1] if room == size else waiting
        fits = max((group for group in choice if len(group) <= room), key=len, default=None)
        if fits is None:
            taken, waiting[0] = waiting[0][:room], waiting[0][room:]
        else:
            taken = waiting.pop(waiting.index(fits))
        yield from taken
        room = room - len(taken) or size


def micro_batches(samples: int, size: int) -> list[range]:
    """Places of the samples of each micro-batch, of all processes together."""
    return [range(start, min(start + size, samples)) for start in range(0, samples, size)]


def window_of(whole: range, samples: int, size: int) -> range:
    """Places of the `size` samples of the optimizer step that a micro-batch is part of; the last one may have fewer."""
    start = whole.start - whole.start % size
    return range(start, min(start + size, samples))


def own_part(whole: range) -> Sequence[int]:
    """The part of a micro-batch for this process; if there is none left, the first sample, with weight 0."""
    return distributed.chunk(whole) or whole[:1]
