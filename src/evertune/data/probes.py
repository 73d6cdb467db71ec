"""Probes: tasks that are only evaluated, to see whether a model keeps abilities that no task of the stream trains.

    probes:
      - {name: pope, format: pope, root: POPE, images: val2014}
      - {name: letters, data: letters.jsonl}          # all its rows are evaluated
      - {name: scenes, test: scenes.jsonl}

A probe has test samples only. One that asks what a task of the stream trains or is tested on would measure that task,
so it is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from evertune.data.image_index import HASHED, per_row
from evertune.data.issues import Issues
from evertune.data.samples import Samples, part_of
from evertune.data.sources import ReadOptions, in_one, read_half, read_whole, scorable, usable
from evertune.data.task import Sample, Task
from evertune.data.task_file import TaskFile
from evertune.utils.errors import DataError

if TYPE_CHECKING:
    from evertune.data.stream import Stream

Keys = NDArray[np.uint64]
SPREAD = 0x9E3779B97F4A7C15
KIND = "question of a task"


class ProbeFile(TaskFile):
    """The schema of a probe in a stream's YAML: that of a task, which needs no training file."""

    HALVES: ClassVar[tuple[str, ...]] = ("test",)


def read_probe(entry: TaskFile, reading: ReadOptions, *, about: dict[str, str]) -> Task:
    """The probe of `entry`: its test samples that can be used; the others are problems of `reading`.

    A file that a task would split is evaluated as a whole.

    Raises:
        DataError: a file as a whole can't be used, or nothing is left of it.
    """
    rows = probe_rows(entry, reading)
    test = scorable(usable(rows[: reading.limit], entry, reading), entry, reading)
    if not len(test):
        reading.problems.refuse(stream=entry.name)
        raise DataError(f"probe '{entry.name}' has no rows to ask")
    return Task(entry.name, (), test, entry.score, about)


def probe_rows(entry: TaskFile, reading: ReadOptions) -> Samples:
    """The rows that are evaluated: the test split, or the one file of a task without splits; no image is looked at.

    Raises:
        DataError: the file as a whole can't be used.
    """
    if in_one(entry, reading):
        return read_whole(entry, reading)
    named = entry.model_copy(update={"train": entry.train or entry.test})  # `read_half` wants both files named
    return read_half(named, reading, "test")


def without_questions_of_tasks(stream: Stream, problems: Issues) -> Stream:
    """The stream without the questions of its probes that a task has, about the same images; each is a problem.

    Raises:
        DataError: nothing is left of a probe: it is one of the tasks.
    """
    probes = []
    for probe in stream.probes:
        keys = question_keys(probe.test)
        places: dict[int, tuple[str, str]] = {}
        for task in stream.columns:
            for side in ("train", "test"):
                places |= dict.fromkeys(_shared(keys, probe.test, getattr(task, side)), (task.name, side))
        if len(places) == len(probe.test):
            task_name = next(iter(places.values()))[0]
            raise DataError(
                f"the probe '{probe.name}' asks what the task '{task_name}' of '{stream.name}' has: a probe is what no "
                "task trains; remove it",
                kind=KIND,
            )
        problems.add(_problems(probe, places), task=probe.name)
        left = np.delete(np.arange(len(probe.test)), sorted(places)).tolist()
        probes.append(replace(probe, test=part_of(probe.test, left)) if places else probe)
    return replace(stream, probes=tuple(probes))


def _problems(probe: Task, places: dict[int, tuple[str, str]]) -> Iterator[DataError]:
    for at, (task, side) in sorted(places.items()):
        where = f"{probe.test[at].origin or probe.test[at].id}: the probe '{probe.name}'"
        yield DataError(f"{where} asks what the task '{task}' has in {side}", kind=KIND)


def question_keys(samples: Sequence[Sample]) -> Keys:
    """(n,) 64-bit hash of the images' content and the instruction of each sample, not of its answers."""
    if isinstance(samples, Samples):
        samples.look(depth=HASHED)
        hashes = np.ascontiguousarray(samples.seen.hashes[:, :8]).view("<i8").reshape(-1)
        sums = per_row(samples.rows, hashes)[samples.chosen].view(np.uint64)
        mixed: Keys = samples.rows.questions[samples.chosen] ^ (sums * np.uint64(SPREAD))
        return mixed
    return np.array([_key(sample) for sample in samples], np.uint64)


def _key(sample: Sample) -> int:
    images = sum(int.from_bytes(bytes.fromhex(image[:16]), "little") for image in sample.image_digests)
    return _question(sample) ^ (images * SPREAD) % (1 << 64)


def _question(sample: Sample) -> int:
    """Of the instruction as files of rows have it: without blanks around it."""
    return int.from_bytes(blake2b(sample.instruction.strip().encode(), digest_size=8).digest(), "little")


def _shared(keys: Keys, probe: Sequence[Sample], samples: Sequence[Sample]) -> list[int]:
    """Places of `probe` whose question `samples` have; only images of equal instructions are read."""
    if isinstance(samples, Samples):
        alike = np.isin(samples.rows.questions[samples.chosen], _questions(probe))
        samples = samples.choose(samples.chosen[alike])
    else:
        wanted = set(_questions(probe).tolist())
        samples = [sample for sample in samples if _question(sample) in wanted]
    found: list[int] = np.flatnonzero(np.isin(keys, question_keys(samples))).tolist() if samples else []
    return found


def _questions(samples: Sequence[Sample]) -> Keys:
    if isinstance(samples, Samples):
        own: Keys = samples.rows.questions[samples.chosen]
        return own
    return np.array([_question(sample) for sample in samples], np.uint64)
