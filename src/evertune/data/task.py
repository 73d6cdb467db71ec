"""A sample and a task: the data for training and evaluation.

Plain values: readers and builders load or draw the images. A task's samples are any sequence, so that a file of a
million rows is read on access (`data/samples.py`).
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol, overload, runtime_checkable

import numpy as np

from evertune.metrics.rules import rule_of
from evertune.utils.arguments import named_arguments
from evertune.utils.errors import DataError
from evertune.utils.files import digest, digest_of_file, digest_over


@dataclass(frozen=True, slots=True)
class Sample:
    """Images, one instruction and the accepted answers; the first answer is the training target.

    Attributes:
        images: the image files: none, one or several.
        extras: other fields that a score needs.
        known_digests: SHA-256 of the images where the reader knows them already; never part of a comparison.
        digests_of: the images that `known_digests` belong to; set by the class.
    """

    id: str
    images: tuple[Path, ...]
    instruction: str
    answers: tuple[str, ...]
    origin: str = ""
    extras: Mapping[str, str] = field(default_factory=dict, hash=False)
    known_digests: tuple[str, ...] = field(default=(), repr=False, compare=False)
    digests_of: tuple[Path, ...] = field(default=(), repr=False, compare=False)

    def __post_init__(self) -> None:
        """Forget digests of other images: `dataclasses.replace(sample, images=...)` copies them."""
        known = self.known_digests if self.digests_of in ((), self.images) else ()
        object.__setattr__(self, "known_digests", known)
        object.__setattr__(self, "digests_of", self.images if known else ())

    @property
    def fingerprint(self) -> str:
        """Hash of the images' bytes, the instruction and the answers: not of names or places."""
        return content_digest(self.image_digests, self.instruction, self.answers, self.extras)

    @property
    def image_digests(self) -> tuple[str, ...]:
        """SHA-256 of each image file.

        Raises:
            DataError: an image is missing; the message names the row it came from.
        """
        return self.known_digests or tuple(self._digest(image) for image in self.images)

    def to_row(self) -> dict[str, Any]:
        """As JSON files hold it: `image` where there is one, else `images`; `extras` only where there are some."""
        names = [str(image) for image in self.images]
        return {
            "id": self.id,
            **({"image": names[0]} if len(names) == 1 else {"images": names}),
            "instruction": self.instruction,
            "answers": list(self.answers),
            **({"extras": dict(self.extras)} if self.extras else {}),
        }

    @classmethod
    def from_row(cls, row: Mapping[str, Any], *, origin: str, path: Callable[[str], Path] = Path) -> Sample:
        """The reverse of `to_row`; `path` says where the image of a name is.

        Raises:
            DataError: a text is something else. KeyError, TypeError, AttributeError: a part is missing or no such part.
        """
        answers, extras = row["answers"], row.get("extras", {})
        texts = [row["id"], row["instruction"], *answers, *extras, *extras.values()]
        if not isinstance(answers, list) or not all(isinstance(text, str) for text in texts):
            raise DataError(f"{origin}: a text is something else")
        images = tuple(map(path, images_of_row(row)))
        return cls(row["id"], images, row["instruction"], tuple(answers), origin, extras=extras)

    def _digest(self, image: Path) -> str:
        try:
            return digest_of_file(image)
        except (OSError, ValueError) as problem:
            where = f"{self.origin}: the image {image} is missing or unreadable"
            raise DataError(where, kind="missing image") from problem


def content_digest(
    images: Sequence[str], instruction: str, answers: Sequence[str], extras: Mapping[str, str] | None = None
) -> str:
    """Fingerprint of a sample from the digests of its images.

    For one image and no extras it is a hash of the digests. Any other number of images is marked by a word that is no
    SHA-256, so that no two samples with different images can collide.
    """
    parts = list(images) if len(images) == 1 else [f"{len(images)} images", *images]
    plain = digest(*parts, instruction, *answers)
    return digest("extras", *(part for item in sorted(extras.items()) for part in item), plain) if extras else plain


def images_of_row(row: Mapping[str, Any]) -> list[str]:
    """The images that a row of `Sample.to_row` names."""
    return [row["image"]] if "image" in row else row["images"]


@dataclass(frozen=True, slots=True)
class Task:
    """A named set of training and test samples that share a kind of instruction and a score.

    Attributes:
        name: unique in its stream; also the name of folders, so letters, digits, `-`, `_` and `.` only.
        score: name of the scoring rule (`evertune.metrics.rules`).
        about: what it is, where it is from, licence and citation, for `show`.
    """

    name: str
    train: Sequence[Sample]
    test: Sequence[Sample]
    score: str = "exact"
    about: dict[str, str] = field(default_factory=dict)

    @classmethod
    @named_arguments
    def from_dataset(
        cls,
        name: str,
        *,
        train: Any,
        test: Any = None,
        image: str | Sequence[str] | None = "image",
        instruction: str = "instruction",
        answer: str = "answer",
        score: Any = "exact",
        test_share: float = 0.2,
        skip_invalid: bool = False,
        about: Mapping[str, str] | None = None,
    ) -> Task:
        """A task from objects in memory.

            Task.from_dataset("shapes", train=splits["train"], test=splits["test"], instruction="question")

        Args:
            name: of the task.
            train: a `datasets.Dataset` (map-style or iterable), a `pandas.DataFrame`, or any iterable of dictionaries,
                which is read once.
            test: likewise; None: a share of the images of `train` is kept for testing.
            image: the column of images, or several columns; None: there are no images. A cell holds a PIL image, the
                bytes of a file, a path, `{"bytes", "path"}`, a (height, width, 3) array, a list of these, or None.
            instruction: the column of instructions.
            answer: the column of answers: a text, a number, a class label, or a list whose first entry is trained on.
            score: the name of a scoring rule, what `scoring_rule` gave, or a function (prediction, answers) -> score.
            test_share: the share of the images that is kept where `test` is None.
            skip_invalid: leave out rows that can't be used instead of stopping.
            about: what it is, where it is from, licence and citation.

        Raises:
            UserError: an argument is of another kind, or a column is missing. DataError: a row can't be used.
        """
        from evertune.data.objects import task_from_objects

        return task_from_objects(
            name,
            train=train,
            test=test,
            image=image,
            instruction=instruction,
            answer=answer,
            score=score,
            test_share=test_share,
            skip_invalid=skip_invalid,
            about=about,
        )

    @property
    def fingerprint(self) -> str:
        """Hash of every sample, their order and the score."""

        def parts() -> Iterator[str]:
            yield rule_of(self.score).identity
            yield from fingerprints_of(self.train)
            yield "|"
            yield from fingerprints_of(self.test)

        return digest_over(parts())

    def limited(self, limit: int | None) -> Task:
        """The same task with at most `limit` training and `limit` test samples (the first ones)."""
        if limit is None:
            return self
        return Task(self.name, self.train[:limit], self.test[:limit], self.score, self.about)


@runtime_checkable
class HasFingerprints(Protocol):
    """Samples with cached fingerprints, so that no image is read again."""

    def fingerprints(self) -> Iterator[str]:
        """The fingerprint of each sample, in order."""


def fingerprints_of(samples: Sequence[Sample]) -> Iterator[str]:
    """The fingerprint of each sample, in order."""
    if isinstance(samples, HasFingerprints):
        return samples.fingerprints()
    return (sample.fingerprint for sample in samples)


def data_digest(task: Task) -> str:
    """Short hash of all training samples in their order: the training data of a stage."""
    return digest_over(fingerprints_of(task.train))[:16]


def drawn(samples: Sequence[Sample], count: int, choose: random.Random) -> list[Sample]:
    """`count` of `samples` in random order, without a copy of them all; the same ones as `choose.sample(list(...))`."""
    return [samples[at] for at in choose.sample(range(len(samples)), count)]


class Subset(Sequence[Sample]):
    """Samples at the places `order`; each is read on access."""

    def __init__(self, samples: Sequence[Sample], order: Sequence[int]) -> None:
        self._samples = samples
        self._order = np.asarray(order, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._order)

    def __repr__(self) -> str:
        return f"<{len(self)} samples>"

    @overload
    def __getitem__(self, at: int) -> Sample: ...
    @overload
    def __getitem__(self, at: slice) -> Subset: ...
    def __getitem__(self, at: int | slice) -> Sample | Subset:
        if isinstance(at, slice):
            return Subset(self._samples, self._order[at])  # type: ignore[arg-type]
        return self._samples[int(self._order[at])]


class ConcatDataset(Sequence[Sample]):
    """Several sequences of samples as one, none of them copied."""

    def __init__(self, parts: Sequence[Sequence[Sample]]) -> None:
        self._parts = [part for part in parts if len(part)]
        self._ends = list(accumulate(len(part) for part in self._parts))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __repr__(self) -> str:
        return f"<{len(self)} samples>"

    @overload
    def __getitem__(self, at: int) -> Sample: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Sample]: ...
    def __getitem__(self, at: int | slice) -> Sample | Sequence[Sample]:
        if isinstance(at, slice):
            return Subset(self, range(*at.indices(len(self))))
        place = range(len(self))[at]  # negative places and an IndexError as everywhere
        part = bisect_right(self._ends, place)
        return self._parts[part][place - (self._ends[part - 1] if part else 0)]

    def __iter__(self) -> Iterator[Sample]:
        for part in self._parts:
            yield from part

    def fingerprints(self) -> Iterator[str]:
        """The fingerprint of each sample, in order."""
        for part in self._parts:
            yield from fingerprints_of(part)
