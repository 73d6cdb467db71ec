"""What stands twice: within a task, in training and in test, in one task's training and another's test.

On hashes of 64 bits, not on rows: a million rows share one with a probability of 3e-8. Rows are read for messages only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evertune.data.image_index import per_row
from evertune.data.issues import Issues
from evertune.data.samples import Samples
from evertune.tools.data.near_duplicates import near_images

Keys = NDArray[np.uint64]
SPREAD = np.uint64(0x9E3779B97F4A7C15)


@dataclass
class SplitIndex:
    """The training or the test rows of a task, with a key for each row, question and image.

    Attributes:
        by_content: images are known by their bytes; else by where they are, which is all that is known without
            opening them.
    """

    task: str
    split: str
    samples: Samples
    by_content: bool

    @cached_property
    def images(self) -> NDArray[np.int64]:
        """(k,) numbers of the different images of these rows."""
        return np.flatnonzero(self._first_rows >= 0)

    @cached_property
    def image_keys(self) -> Keys:
        """(k,) key of each of `images`."""
        return self._all_keys[self.images]

    @cached_property
    def questions(self) -> Keys:
        """(n,) key of each row's images and instruction."""
        return self._mixed(self.samples.rows.questions)

    @cached_property
    def rows(self) -> Keys:
        """(n,) key of each row's images, instruction and answers."""
        return self._mixed(self.samples.rows.texts)

    @property
    def looks(self) -> NDArray[np.void]:
        """(k,) what each of `images` looks like."""
        return self.samples.seen.looks[self.images]

    def origin(self, at: int) -> str:
        """File and line of the row at a place of `samples`."""
        return str(self.samples.rows[int(self.samples.chosen[at])]["origin"])

    def origin_of_image(self, at: int) -> str:
        """The first of these rows with the image at a place of `images`."""
        return str(self.samples.rows[int(self._first_rows[self.images[at]])]["origin"])

    def name(self, at: int) -> str:
        """Name of the image at a place of `images`."""
        return self.samples.rows.name(int(self.images[at]))

    def images_of(self, places: NDArray[Any]) -> NDArray[np.bool_]:
        """(k,) True for the images that the rows at `places` have."""
        rows = self.samples.rows
        marks = np.zeros(rows.different_images, bool)
        marks[rows.images[np.repeat(self._marked(self.samples.chosen[places]), rows.counts)]] = True
        return marks[self.images]

    def _marked(self, rows: NDArray[Any]) -> NDArray[np.bool_]:
        marks = np.zeros(len(self.samples.rows), bool)
        marks[rows] = True
        return marks

    @cached_property
    def _first_rows(self) -> NDArray[np.int64]:
        """(u,) the first of these rows, by its number in the index, with each image of the index; -1 without one."""
        rows, first = self.samples.rows, np.full(self.samples.rows.different_images, -1, np.int64)
        wanted = np.repeat(self._marked(self.samples.chosen), rows.counts)
        owners = np.repeat(np.arange(len(rows)), rows.counts)[wanted]
        first[rows.images[wanted][::-1]] = owners[::-1]  # the last to be written is the first row
        return first

    @cached_property
    def _all_keys(self) -> Keys:
        """(u,) key of each image of the index."""
        seen = self.samples.seen
        if self.by_content:
            return np.ascontiguousarray(seen.hashes[:, :8]).view(np.uint64).reshape(-1)
        names = (str(seen.path(seen.rows.name(number))) for number in range(seen.rows.different_images))
        return np.array([int.from_bytes(blake2b(n.encode(), digest_size=8).digest(), "little") for n in names], "u8")

    def _mixed(self, texts: Keys) -> Keys:
        sums = per_row(self.samples.rows, self._all_keys.view(np.int64))[self.samples.chosen]
        mixed: Keys = texts[self.samples.chosen] ^ (sums.view(np.uint64) * SPREAD)
        return mixed


def shared(ours: Keys, theirs: Keys) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Places of `theirs` whose key is among `ours` too, and the first place there."""
    order = np.argsort(ours, kind="stable")
    at = np.searchsorted(ours[order], theirs)
    found = np.flatnonzero(at < len(ours))
    found = found[ours[order[at[found]]] == theirs[found]]
    return found, order[at[found]]


def repeated(keys: Keys) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Places whose key stands further up already, and the first place that has it."""
    order = np.argsort(keys, kind="stable")
    starts = np.flatnonzero(np.concatenate([[True], keys[order][1:] != keys[order][:-1]])) if len(keys) else order
    firsts = np.repeat(order[starts], np.diff([*starts.tolist(), len(keys)]))
    later = firsts != order
    return order[later], firsts[later]


class Overlap:
    """Adds what stands twice to three lists: errors stop a run, warnings may cost a result its meaning, notes say."""

    def __init__(self, *, errors: Issues, warnings: Issues, notes: Issues) -> None:
        self._errors, self._warnings, self._notes = errors, warnings, notes

    def within(self, half: SplitIndex) -> None:
        """Rows, and images of equal content, that stand twice in one half of a task."""
        later, first = repeated(half.rows)
        texts = (f"{half.origin(b)}: the same row as {half.origin(a)}" for b, a in _sorted(later, first))
        self._warnings.add_counted(f"the same row twice in {half.split}", len(later), texts, task=half.task)
        if half.by_content:
            later, first = repeated(half.image_keys)
            texts = (
                f"{half.origin_of_image(b)}: {half.name(b)} is the same file as {half.name(a)}"
                for b, a in _sorted(later, first)
            )
            self._notes.add_counted("an image under two names", len(later), texts, task=half.task)

    def between(self, train: SplitIndex, test: SplitIndex) -> None:
        """What a task's training has in common with the test of the same task or of another."""
        same = train.task == test.task
        tell = _Pair(train, test)
        tested, known = shared(train.questions, test.questions)
        if same:
            again, _ = found = shared(train.rows, test.rows)
            tell.rows(self._errors, "in training and in test", *found)
            other = ~np.isin(tested, again)
            tell.rows(self._warnings, "a question of training and of test", tested[other], known[other])
        else:
            tell.rows(self._warnings, "test question in another task's training", tested, known)
        seen, first = shared(train.image_keys, test.image_keys)
        new = ~test.images_of(tested)[seen]  # whose question is reported already is not reported again
        kind = "image in training and in test" if same else "test image in another task's training"
        tell.images(self._warnings if same else self._notes, kind, seen[new], first[new])
        if train.by_content:
            self._near(tell, seen, same=same)

    def _near(self, tell: _Pair, equal: NDArray[np.int64], *, same: bool) -> None:
        left = np.setdiff1d(np.arange(len(tell.test.images)), equal)
        near = near_images(tell.train.looks, tell.test.looks[left])
        places = np.array(list(near.items()), np.int64).reshape(-1, 2)
        kind = "nearly the same image in " + ("training and in test" if same else "another task's training")
        tell.images(self._warnings if same else self._notes, kind, left[places[:, 0]], places[:, 1])


@dataclass(frozen=True)
class _Pair:
    """Says what a training and a test half share."""

    train: SplitIndex
    test: SplitIndex

    def rows(self, where: Issues, kind: str, tested: NDArray[np.int64], trained: NDArray[np.int64]) -> None:
        texts = (f"{self.test.origin(b)}: {self._also(self.train.origin(a))}" for b, a in _sorted(tested, trained))
        where.add_counted(kind, len(tested), texts, task=self.test.task)

    def images(self, where: Issues, kind: str, tested: NDArray[np.int64], trained: NDArray[np.int64]) -> None:
        texts = (
            f"{self.test.origin_of_image(b)}: {self.test.name(b)}, "
            + self._also(f"{self.train.origin_of_image(a)}: {self.train.name(a)}")
            for b, a in _sorted(tested, trained)
        )
        where.add_counted(kind, len(tested), texts, task=self.test.task)

    def _also(self, origin: str) -> str:
        return f"in training too ({origin})" if self.train.task == self.test.task else f"in training at {origin}"


def _sorted(later: NDArray[np.int64], first: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Pairs in the order of the rows that are reported."""
    order = np.argsort(later, kind="stable")
    return zip(later[order].tolist(), first[order].tolist(), strict=True)
