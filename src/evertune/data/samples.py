"""A task's samples as a sequence over an index: a sample is read on access.

Slices, limits and halves of a split are other choices of the same rows; none of them copies or reads anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from evertune.data.image_index import HASHED, ImageIndex, OnLooked
from evertune.data.task import Sample, Subset
from evertune.utils.errors import DataError

KEPT = 4096


class Samples(Sequence[Sample]):
    """The rows `chosen` (all of them, by default) of an index, their images below a root."""

    def __init__(self, seen: ImageIndex, chosen: NDArray[Any] | None = None) -> None:
        self.seen, self.rows = seen, seen.rows
        self.chosen: NDArray[Any] = np.arange(len(self.rows)) if chosen is None else chosen

    def __len__(self) -> int:
        return len(self.chosen)

    def __repr__(self) -> str:
        return f"<{len(self)} samples>"

    @overload
    def __getitem__(self, at: int) -> Sample: ...
    @overload
    def __getitem__(self, at: slice) -> Samples: ...
    def __getitem__(self, at: int | slice) -> Sample | Samples:
        return self.choose(self.chosen[at]) if isinstance(at, slice) else self._sample(int(self.chosen[at]))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Samples) and (other.rows.folder, other.seen.root) == (self.rows.folder, self.seen.root):
            return np.array_equal(self.chosen, other.chosen)
        if not isinstance(other, Sequence) or isinstance(other, str) or len(other) != len(self):
            return False
        return all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def choose(self, rows: NDArray[Any]) -> Samples:
        """The samples of other rows of the same index."""
        return Samples(self.seen, rows)

    @property
    def image_numbers(self) -> NDArray[Any]:
        """The numbers of the images of these samples in their index, sample after sample."""
        numbers = self.rows.images
        if len(self) < len(self.rows):
            wanted = np.zeros(len(self.rows), bool)
            wanted[self.chosen] = True
            numbers = numbers[np.repeat(wanted, self.rows.counts)]
        return numbers

    def image_keys(self) -> NDArray[Any]:
        """(u,) 64-bit hash of each different image: of its content where that is known, else of its path."""
        numbers = np.unique(self.image_numbers)
        hashes = self.seen.hashes[numbers]
        keys = np.ascontiguousarray(hashes[:, :8]).view(np.uint64)[:, 0]
        for at in np.flatnonzero(~hashes.any(axis=1)).tolist():
            path = str(self.seen.path(self.rows.name(int(numbers[at]))))
            keys[at] = int.from_bytes(blake2b(path.encode(errors="surrogatepass"), digest_size=8).digest(), "little")
        return keys

    def look(self, *, depth: int, on_looked: OnLooked | None = None) -> None:
        """Look at the images of these samples: `ImageIndex.look`."""
        self.seen.look(self.image_numbers, depth=depth, on_looked=on_looked)

    def faults(self) -> Iterator[DataError]:
        """Why samples can't be used whose images were looked at: one error for each."""
        for at in self.chosen[self.seen.faulty()[self.chosen]].tolist():
            fault = next(f for n in self.rows.images_of(at).tolist() if (f := self.seen.faults.get(n)))
            yield DataError(f"{self.rows[at]['origin']}: {fault.message}", kind=fault.kind)

    def whole(self) -> Samples:
        """Those whose images can be used, as far as they were looked at."""
        return self.choose(self.chosen[~self.seen.faulty()[self.chosen]])

    def fingerprints(self) -> Iterator[str]:
        """The fingerprint of each sample, in order; kept, so that no image is read twice."""
        self.look(depth=HASHED)
        return self.seen.fingerprints(self.chosen, lambda at: self._sample(at).fingerprint)

    def _sample(self, at: int) -> Sample:
        """Cached while it is among the last used: a small task is read from disk once, not in each epoch."""
        kept = self.seen.kept.pop(at, None)
        sample = kept or self._read(at)
        if sample.known_digests or not sample.images:  # one without is made again when its images are known
            self.seen.kept[at] = sample
            if len(self.seen.kept) > KEPT:
                del self.seen.kept[next(iter(self.seen.kept))]
        return sample

    def _read(self, at: int) -> Sample:
        row = self.rows[at]
        sample = Sample.from_row(row, origin=row["origin"], path=self.seen.path)
        return replace(sample, known_digests=self.seen.digests(self.rows.images_of(at))) if sample.images else sample


def part_of(samples: Sequence[Sample], places: Sequence[int]) -> Sequence[Sample]:
    """The samples at `places`; nothing is read."""
    if isinstance(samples, Samples):
        return samples.choose(samples.chosen[np.asarray(places, dtype=np.int64)])
    return Subset(samples, places)
