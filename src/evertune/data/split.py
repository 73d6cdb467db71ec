"""Splits one file into training and test, and finds samples that are in both; works on arrays, not on samples.

Memory holds hashes of a few bytes per row; only possible duplicates are read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evertune.data.image_index import HASHED, THERE, per_row
from evertune.data.images import short
from evertune.data.rows import RowFile
from evertune.data.samples import Samples
from evertune.utils.errors import DataError, UserError
from evertune.utils.files import digest


def held_out(samples: Samples, *, share: float) -> tuple[Samples, Samples]:
    """Keep `share` of the images for testing, chosen by the hash of their bytes: the same on every machine.

    All questions about one image stay on one side; images that stand in one row count as one, and so does each
    instruction without an image.

    Raises:
        DataError: there is nothing left to train on.
    """
    samples.look(depth=HASHED)
    groups, count = ranks(_keys(samples))
    kept = groups < max(1, round(share * count))
    if kept.all():
        imaged = bool(samples.rows.counts[samples.chosen].any())
        alike = "every row shows the same image" if imaged else "every row has the same instruction, and no image"
        alone = "one row" if len(samples) == 1 else alike
        complaint = f"{samples[0].origin}: {alone}, so that none can be kept for testing; give 'train' and 'test'"
        raise DataError(complaint, kind="nothing to test on")
    return samples.choose(samples.chosen[~kept]), samples.choose(samples.chosen[kept])


def ranks(keys: NDArray[Any]) -> tuple[NDArray[Any], int]:
    """Place of each (n, 32) key among the different ones in ascending order, and their number."""
    words = np.ascontiguousarray(keys).view(">u8")  # (n, 4): compared as the bytes are
    order = np.lexsort(words.T[::-1])
    steps = (words[order][1:] != words[order][:-1]).any(axis=1)
    place = np.empty(len(keys), np.int64)
    place[order] = np.concatenate([[0], np.cumsum(steps)])[: len(keys)]
    return place, int(steps.sum()) + 1 if len(keys) else 0


def _keys(samples: Samples) -> NDArray[Any]:
    """(n, 32) for each sample the hash of its group of images: the smallest of the group."""
    rows = samples.rows
    hashes = samples.seen.hashes
    leaders = _leaders(rows, ranks(hashes)[0])
    counts = rows.counts[samples.chosen]
    keys = np.zeros((len(samples), 32), np.uint8)
    with_image = np.flatnonzero(counts)
    first = rows.images[rows.firsts[samples.chosen[with_image]]]
    keys[with_image] = hashes[leaders[first]]
    for at in np.flatnonzero(counts == 0).tolist():
        keys[at] = np.frombuffer(bytes.fromhex(digest("no image", samples[at].instruction)), np.uint8)
    return keys


def _leaders(rows: RowFile, rank: NDArray[Any]) -> NDArray[Any]:
    """(u,) for each image the one with the smallest hash in its group; a row with several images joins their groups."""
    leader = np.arange(len(rank))  # union-find over images

    def find(image: int) -> int:
        while leader[image] != image:
            leader[image] = leader[leader[image]]
            image = int(leader[image])
        return image

    for at in np.flatnonzero(rows.counts > 1).tolist():
        together = [find(int(image)) for image in rows.images_of(at)]
        smallest = min(together, key=lambda image: rank[image])
        for image in together:
            leader[image] = smallest
    return np.array([find(image) for image in range(len(rank))]) if (rows.counts > 1).any() else leader


def twins(train: Samples, test: Samples) -> tuple[list[tuple[int, int]], set[int]]:
    """Samples that are in both training and test, by their fingerprints.

    Only samples with the same texts and equally large images are read.

    Returns:
        for each such test sample its first twin and itself, as places; and the places of all twins in training.
    """
    for side in (train, test):
        side.look(depth=THERE)
    ours, theirs = _cheap_keys(train), _cheap_keys(test)
    maybe_train, maybe_test = np.flatnonzero(np.isin(ours, theirs)), np.flatnonzero(np.isin(theirs, ours))
    places: dict[str, list[int]] = {}
    for at, fingerprint in zip(maybe_train.tolist(), _fingerprints(train, maybe_train), strict=True):
        places.setdefault(fingerprint, []).append(at)
    queries = list(zip(maybe_test.tolist(), _fingerprints(test, maybe_test), strict=True))
    pairs = [(places[fingerprint][0], at) for at, fingerprint in queries if fingerprint in places]
    return pairs, {at for _, fingerprint in queries for at in places.get(fingerprint, ())}


def _fingerprints(samples: Samples, places: NDArray[Any]) -> Iterator[str]:
    return samples.choose(samples.chosen[places]).fingerprints()


def _cheap_keys(samples: Samples) -> NDArray[Any]:
    """(n,) a hash of texts and sizes of images."""
    sizes = per_row(samples.rows, samples.seen.sizes)[samples.chosen]
    mixed: NDArray[Any] = samples.rows.texts[samples.chosen] ^ (sizes.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    return mixed


def twin_problems(name: str, train: Samples, test: Samples, pairs: list[tuple[int, int]]) -> Iterator[DataError]:
    """One error for each pair."""
    for ours, theirs in pairs:
        complaint = f"{test[theirs].origin}: task '{name}' has this very sample in training too ({train[ours].origin})"
        yield DataError(complaint, kind="in training and in test")


def wrong_numbers(samples: Samples, takes: range, *, model: str) -> tuple[NDArray[Any], Iterator[DataError]]:
    """(n,) True where the model can't take as many images as a sample has, and an error for each."""
    counts = samples.rows.counts[samples.chosen]
    allowed = np.array([number for number in range(int(counts.max(initial=0)) + 1) if number in takes])
    wrong = ~np.isin(counts, allowed)
    return wrong, (
        number_problem(samples[at].origin, int(counts[at]), takes, model=model) for at in np.flatnonzero(wrong).tolist()
    )


def wrong_golds(samples: Samples, check: Callable[[str], object]) -> tuple[NDArray[Any], list[DataError]]:
    """(n,) True where a gold answer is none that the task's score can use, and an error for each."""
    wrong, problems = np.zeros(len(samples), bool), []
    for at, number in enumerate(samples.chosen.tolist()):
        row = samples.rows[number]
        try:
            for answer in row["answers"]:
                check(answer)
        except UserError as problem:
            wrong[at] = True
            problems.append(DataError(f"{row['origin']}: {problem}", kind="gold answer that can't be scored"))
    return wrong, problems


def number_problem(origin: str, number: int, takes: range, *, model: str) -> DataError:
    """The error for a sample with a number of images that the model does not take."""
    few, many = takes[0], takes[-1]
    wanted = f"at most {many}" if few == 0 else f"exactly {few}" if few == many else f"{few} to {many}"
    complaint = (
        f"{origin}: the row has {number or 'no'} image{'s' * (number > 1)}; the model {short(model)} takes {wanted}"
    )
    return DataError(complaint, kind="wrong number of images")
