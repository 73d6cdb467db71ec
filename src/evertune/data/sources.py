"""From a task's YAML to its samples: finds the files, reads them with the format, and collects what can't be used.

The order: index of the rows, split, limit, images, number of images, overlap. Every step adds its problems to one
list, so that one report has them all.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from evertune.assets import Progress
from evertune.data.builders import built
from evertune.data.formats import format_of
from evertune.data.image_index import DECODED, HASHED, THERE, ImageIndex, OnLooked
from evertune.data.issues import Issues
from evertune.data.rows import IndexKey, RowFile, indexed
from evertune.data.samples import Samples
from evertune.data.split import held_out, twin_problems, twins, wrong_golds, wrong_numbers
from evertune.data.task import Task
from evertune.data.task_file import TaskFile
from evertune.metrics.rules import rule_of
from evertune.utils import parsing
from evertune.utils.errors import DataError, UserError
from evertune.utils.files import digest

SPLITS = ("train", "test")
IMAGES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".avif", ".jp2", ".tga"}


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How tasks are read; the same for all tasks of a stream.

    Attributes:
        folder: what relative paths count from: the YAML's.
        data: what those of published data sets count from.
        limit: at most this many training and test samples.
        decode: decode every image once, so that a broken one is found now.
        takes: the numbers of images per sample that the model `model` takes; None: not known yet.
        problems: collects unusable rows and images.
        progress: called during downloads and image checks.
    """

    folder: Path
    data: Path
    limit: int | None
    decode: bool
    takes: range | None
    model: str
    problems: Issues
    progress: Progress | None

    def base(self, entry: TaskFile) -> Path:
        """The folder that a task's paths are relative to."""
        return self.folder if entry.root is None else self.data

    def looked(self, name: str) -> OnLooked | None:
        """The progress of looking at the images of a task."""
        tell = self.progress
        return (lambda done, total: tell(f"images of {name}", done, total)) if tell else None


def read_task(entry: TaskFile, reading: ReadOptions, *, about: dict[str, str]) -> Task:
    """The task of `entry` with the samples that can be used; the others are problems of `reading`.

    Raises:
        DataError: a file as a whole can't be used, or nothing is left of it.
    """
    train, test = _halves(entry, reading)
    return task_of(train, test, entry, reading, about=about)


def task_of(train: Samples, test: Samples, entry: TaskFile, reading: ReadOptions, *, about: dict[str, str]) -> Task:
    """The task of two halves with the samples that can be used; the others are problems of `reading`.

    Raises:
        DataError: nothing is left of one.
    """
    train, test = (usable(half[: reading.limit], entry, reading) for half in (train, test))
    test = scorable(test, entry, reading)
    pairs, doubled = twins(train, test)
    if pairs:
        reading.problems.add(twin_problems(entry.name, train, test, pairs), task=entry.name)
        # The test sample stays, so that scores stay comparable; its duplicate leaves the training.
        train = train.choose(np.delete(train.chosen, sorted(doubled)))
    for side, samples in (("train", train), ("test", test)):
        if not len(samples):
            reading.problems.refuse(stream=entry.name)
            raise DataError(f"task '{entry.name}' has no rows to {side} on")
    return Task(entry.name, train, test, entry.score, about)


def usable(samples: Samples, entry: TaskFile, reading: ReadOptions) -> Samples:
    """Those whose images are there, sound and of the right number."""
    depth = DECODED if reading.decode else THERE
    samples.look(depth=depth, on_looked=reading.looked(entry.name) if reading.decode else None)
    reading.problems.add(samples.faults(), task=entry.name)
    return taken(samples.whole(), entry, reading)


def taken(samples: Samples, entry: TaskFile, reading: ReadOptions) -> Samples:
    """Those with a number of images that the model takes."""
    if reading.takes is None:
        return samples
    wrong, problems = wrong_numbers(samples, reading.takes, model=reading.model)
    reading.problems.add(problems, task=entry.name)
    return samples.choose(samples.chosen[~wrong])


def scorable(samples: Samples, entry: TaskFile, reading: ReadOptions) -> Samples:
    """Test samples whose gold answers the task's score can use: found now and not after the training."""
    check = rule_of(entry.score).check_gold
    if check is None:
        return samples
    wrong, problems = wrong_golds(samples, check)
    reading.problems.add(problems, task=entry.name)
    return samples.choose(samples.chosen[~wrong])


def in_one(entry: TaskFile, reading: ReadOptions) -> bool:
    """Whether a task's rows are split here: it is one file, or a data set without splits."""
    if entry.root is None:
        return entry.data is not None
    layout = format_of(entry.format or "jsonl")
    return hasattr(layout, "one_split") and layout.one_split(_root(entry, reading.base(entry)), **entry.options)


def _halves(entry: TaskFile, reading: ReadOptions) -> Iterator[Samples]:
    if in_one(entry, reading):
        yield from parted(read_whole(entry, reading), entry, reading)
    else:
        for split in SPLITS:
            yield read_half(entry, reading, split)


def read_half(entry: TaskFile, reading: ReadOptions, split: str) -> Samples:
    """The rows of one split of a task that has two; no image is looked at.

    Raises:
        DataError: the file as a whole can't be used.
    """
    if entry.build is not None:
        place = built(entry.build, entry.options, progress=reading.progress)
        return _samples(entry, place / f"{split}.jsonl", split, reading, options={}, images=place)
    if entry.root is not None or entry.train is None or entry.test is None:
        return _samples(entry, _root(entry, reading.base(entry)), split, reading, options=entry.options)
    name = entry.train if split == "train" else entry.test
    return _samples(entry, reading.folder / name, split, reading, options=entry.options)


def read_whole(entry: TaskFile, reading: ReadOptions, *, split: str = "train") -> Samples:
    """The rows of a task that `in_one` holds for; no image is looked at.

    Raises:
        DataError: the file as a whole can't be used.
    """
    place = _root(entry, reading.base(entry)) if entry.root is not None else reading.folder / (entry.data or "")
    return _samples(entry, place, split, reading, options=entry.options)


def parted(whole: Samples, entry: TaskFile, reading: ReadOptions) -> tuple[Samples, Samples]:
    """The rows of one file as training and test; those whose images can't be read are problems.

    Raises:
        DataError: there are too few rows to split.
    """
    whole.look(depth=HASHED, on_looked=reading.looked(entry.name))
    reading.problems.add(whole.faults(), task=entry.name)
    whole = whole.whole()
    if not len(whole):
        reading.problems.refuse(stream=entry.name)
    try:
        return held_out(whole, share=entry.test_share)
    except DataError as problem:  # reported together with the rows that were left out before
        reading.problems.add([problem], task=entry.name)
        reading.problems.refuse(stream=entry.name)
        raise


def _root(entry: TaskFile, folder: Path) -> Path:
    """The folder of a data set; if it is missing, the error says how to get it."""
    place = folder / (entry.root or "")
    if not place.exists():
        about = format_of(entry.format or "jsonl").ABOUT
        raise DataError(
            f"task '{entry.name}': {place} does not exist. Put the files of {entry.format} there, or say where "
            f"they are with --data of evertune run or data check, in Python data=FOLDER. They are: {about['files']}. "
            f"From: {about['source']}",
            kind="missing file",
        )
    return place


@cache
def readers(layout: ModuleType) -> str:
    """Hash of the code that reads a format, so that a change of the code makes a new index."""
    outside = [Path(file) for file in (layout.__file__, parsing.__file__) if file]
    return digest(*(path.read_bytes() for path in (*outside, *sorted(Path(__file__).parent.rglob("*.py")))))


def _samples(
    entry: TaskFile,
    place: Path,
    split: str,
    reading: ReadOptions,
    *,
    options: Mapping[str, Any],
    images: Path | None = None,
) -> Samples:
    layout = format_of(entry.format or "jsonl")
    _refuse_options(entry, layout, place, split, options)
    recipe = IndexKey(
        format=entry.format or "jsonl",
        version=readers(layout),
        place=place,
        split=split,
        options=options,
        prompt=entry.prompt or layout.PROMPT,
        allow_external_paths=entry.allow_external_paths,
        files=tuple(_files(layout, place, split, options)),
    )
    rows = indexed(recipe, lambda: layout.rows(place, split=split, **options))
    reading.problems.add(rows.problems(), task=entry.name)
    if not len(rows):
        _refuse_empty(rows, entry, place, layout, reading)
    root = images or _images(entry, layout, place, split, options, reading)
    return Samples(ImageIndex(rows, root, allow_external_paths=entry.allow_external_paths))


def _refuse_empty(rows: RowFile, entry: TaskFile, place: Path, layout: ModuleType, reading: ReadOptions) -> None:
    if next(rows.problems(), None) is not None:
        reading.problems.refuse(stream=entry.name)
    raise DataError(f"{place} has no rows; expected: {layout.ABOUT['files']}", kind="no rows")


def _images(
    entry: TaskFile, layout: ModuleType, place: Path, split: str, options: Mapping[str, Any], reading: ReadOptions
) -> Path:
    """The folder that image names are relative to."""
    inside: Path | None = layout.images(place, split=split, **options) if hasattr(layout, "images") else None
    if inside and entry.images:
        raise UserError(f"task '{entry.name}': the images are inside {place}: remove 'images', which names a folder")
    if entry.images:
        return reading.base(entry) / entry.images
    if inside:
        return inside
    return place if place.is_dir() else place.parent


def _files(layout: ModuleType, place: Path, split: str, options: Mapping[str, Any]) -> list[Path]:
    """The files that the format reads: those of its `files`, else all below its folder that are no images."""
    if hasattr(layout, "files"):
        listed: list[Path] = layout.files(place, split=split, **options)
        return listed
    if not place.is_dir():
        return [place]
    found = (Path(above) / name for above, _, names in os.walk(place) for name in names)
    return sorted(path for path in found if path.suffix.lower() not in IMAGES)


def _refuse_options(entry: TaskFile, layout: ModuleType, place: Path, split: str, options: Mapping[str, Any]) -> None:
    try:
        inspect.signature(layout.rows).bind(place, split=split, **options)
    except TypeError as problem:
        raise UserError(
            f"task '{entry.name}': format '{entry.format or 'jsonl'}' {problem}; see evertune show"
        ) from problem
