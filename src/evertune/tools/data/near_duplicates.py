"""Images that look alike though their bytes differ: copies in another size, quality or format.

Hashes of 64 bits that differ in at most three are found without comparing all pairs: cut into five blocks, two such
hashes agree in at least two of them (G. Manku et al. 2007, "Detecting near-duplicates for web crawling"), so only
images that share two blocks are compared. What is found must have about the same colours too.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
Places = NDArray[np.int64]

MOST_BITS = 3
MOST_COLOUR, MOST_FIELD = 6.0, 16
"""Levels of 255: the mean over 4 x 4 fields and three colours, and the largest of these, so that a small thing of
another colour on the same ground is another image. JPEG copies of seven photographs, at quality 30 to 90 and down to
a quarter of their size, differ by at most 3 levels and 2 bits."""
FEWEST_BITS = 8
"""Of 64 set, and not set: else an image is so plain (a white page, a dark sky) that its hash says nothing."""
BLOCKS = ((0, 13), (13, 13), (26, 13), (39, 13), (52, 12))
MOST_COMPARED = 1000
"""Hashes that one is compared with for each pair of blocks: only masses of nearly equal images come so far."""
AT_ONCE = 1 << 20

_BITS = np.array([bin(byte).count("1") for byte in range(256)], np.uint8)


def bits(values: Hashes) -> NDArray[np.int64]:
    """(n,) number of set bits."""
    counts: NDArray[np.int64] = _BITS[np.ascontiguousarray(values).view(np.uint8).reshape(-1, 8)].sum(1, dtype=np.int64)
    return counts


def telling(looks: NDArray[np.void]) -> NDArray[np.bool_]:
    """(n,) True for the images that are not too plain to be distinguished."""
    number = bits(looks["hash"])
    return (number >= FEWEST_BITS) & (number <= 64 - FEWEST_BITS)


def near_images(ours: NDArray[np.void], theirs: NDArray[np.void]) -> dict[int, int]:
    """For each of (m,) looks `theirs` that resembles one of (n,) `ours`: its place, and the place of one of these."""
    our_places, their_places = np.flatnonzero(telling(ours)), np.flatnonzero(telling(theirs))
    our_hashes, our_groups = _grouped(ours["hash"][our_places], our_places)
    their_hashes, their_groups = _grouped(theirs["hash"][their_places], their_places)
    found: dict[int, int] = {}
    for our, their in close(our_hashes, their_hashes):
        candidates = our_groups[our][:MOST_COMPARED]
        colours = ours["colours"][candidates].astype(np.int16)
        for place in their_groups[their]:
            if int(place) not in found:
                differences = np.abs(colours - theirs["colours"][place])
                distance = np.where(differences.max(1) <= MOST_FIELD, differences.mean(1), np.inf)
                best = int(distance.argmin())
                if distance[best] <= MOST_COLOUR:
                    found[int(place)] = int(candidates[best])
    return found


def close(ours: Hashes, theirs: Hashes) -> list[tuple[int, int]]:
    """Places of the pairs of hashes that differ in at most `MOST_BITS`; the nearest come first."""
    pairs: dict[tuple[int, int], int] = {}
    for blocks in combinations(BLOCKS, 2):
        our_keys, their_keys = _keys(ours, blocks), _keys(theirs, blocks)
        order = np.argsort(our_keys, kind="stable")
        sorted_keys = our_keys[order]
        first = np.searchsorted(sorted_keys, their_keys, side="left")
        last = np.searchsorted(sorted_keys, their_keys, side="right")
        for their, at in _expanded(first, np.minimum(last - first, MOST_COMPARED)):
            our = order[at]
            distance = bits(ours[our] ^ theirs[their])
            near = distance <= MOST_BITS
            pairs |= {(int(a), int(b)): int(d) for a, b, d in zip(our[near], their[near], distance[near], strict=True)}
    return sorted(pairs, key=lambda pair: (pairs[pair], pair))


def _keys(hashes: Hashes, blocks: tuple[tuple[int, int], ...]) -> Hashes:
    """(n,) the bits of `blocks`, each (first bit, number of bits)."""
    mask = sum(((1 << number) - 1) << first for first, number in blocks)
    return hashes & np.uint64(mask)


def _expanded(first: Places, counts: Places) -> Iterator[tuple[Places, Places]]:
    """For each place with a range `first`, `counts`: the place and each number of the range, a million at once."""
    ends = np.cumsum(counts)
    start = 0
    while start < len(counts):
        done = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + AT_ONCE, side="right")))
        here = counts[start:stop]
        who = np.repeat(np.arange(start, stop), here)
        within = np.arange(int(here.sum())) - np.repeat(np.cumsum(here) - here, here)
        yield who, first[who] + within
        start = stop


def _grouped(hashes: Hashes, places: Places) -> tuple[Hashes, list[Places]]:
    """The different hashes, and for each the places that have it."""
    order = np.argsort(hashes, kind="stable")
    different, firsts = np.unique(hashes[order], return_index=True)
    return different, np.split(places[order], firsts[1:])
