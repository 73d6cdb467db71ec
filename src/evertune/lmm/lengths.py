"""Samples that a model can't read to their end: found before anything is trained, for a context has hard limits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from evertune.errors import DataError
from evertune.lmm.protocol import LMM
from evertune.tasks.problems import TOO_LONG, Problems
from evertune.tasks.samples import Samples
from evertune.tasks.task import Sample, Task

ENDS = 8
"""Tokens that mark the ends of a text, at most."""


def too_long(samples: Sequence[Sample], lmm: LMM) -> Iterator[DataError]:
    """An error for each part of `lmm` and sample that has more tokens for it than it reads."""
    for sample in _maybe_too_long(samples, lmm):
        for part, tokens, limit in lmm.lengths(sample.instruction, sample.answers[0]):
            if tokens > limit:
                said = f"{tokens:,} tokens for the {part} of '{Path(lmm.name).name}', which reads {limit:,}"
                yield DataError(f"{sample.origin}: {said}", kind=TOO_LONG)


def _maybe_too_long(samples: Sequence[Sample], lmm: LMM) -> Iterator[Sample]:
    """No text has more bytes than its row, and no more tokens than bytes: nearly all rows need not be read."""
    if not isinstance(samples, Samples):
        yield from samples
        return
    limits = [length.limit for length in lmm.lengths("", "")]
    if not limits:
        return
    smallest = min(limits) - ENDS
    for at in np.flatnonzero(samples.rows.lengths[samples.chosen] > smallest).tolist():
        yield samples[at]


def refuse_too_long(tasks: Iterable[Task], lmm: LMM, *, stream: str) -> None:
    """Stop before training when a sample can't be read to its end.

    Raises:
        DataError: what has to be shorter, with file and line.
    """
    problems = Problems()
    for task in tasks:
        for samples in (task.train, task.test):
            problems.add(too_long(samples, lmm), task=task.name)
    problems.refuse(stream=stream, remedy="Shorten them, or take a model that reads more")
