"""Images that look alike: the hash against the published package, the search against all pairs, copies found."""

from __future__ import annotations

import io

import imagehash
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage import data as photographs

from evertune.data.perceptual_hash import LOOK, look_of
from evertune.tools.data import near_duplicates as near
from evertune.tools.data.near_duplicates import MOST_BITS, bits, close, near_images

PHOTOGRAPHS = {name: Image.fromarray(getattr(photographs, name)()) for name in ("astronaut", "coffee", "chelsea")}


def looks(*images):
    return np.array([look_of(image.convert("RGB")) for image in images], LOOK)


def jpeg(image, quality):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_the_hash_is_the_published_one(name):
    image = PHOTOGRAPHS[name]
    expected = int(str(imagehash.dhash(image)), 16)
    assert int(look_of(image)["hash"]) == expected


def test_colours_are_means_of_a_grid():
    grid = np.random.default_rng(0).integers(0, 256, (4, 4, 3), np.uint8)
    image = Image.fromarray(grid.repeat(5, 0).repeat(7, 1))
    assert look_of(image)["colours"].tolist() == grid.reshape(-1).tolist()


def all_pairs(ours, theirs):
    return {(i, j) for i, a in enumerate(ours) for j, b in enumerate(theirs) if (int(a) ^ int(b)).bit_count() <= 3}


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 64, 1 << 20]))
def test_the_search_finds_what_comparing_all_finds(seed, n, m, at_once):
    """Hashes in few families, so that many are near; with pieces of any size."""
    generator = np.random.default_rng(seed)
    families = generator.integers(0, 2**64, 4, np.uint64)

    def drawn(count):
        made = []
        for family in generator.choice(families, count):
            flips = generator.choice(64, generator.integers(0, 6), replace=False)
            made.append(int(family) ^ sum(1 << int(bit) for bit in flips))
        return np.unique(np.array(made, np.uint64))

    ours, theirs = drawn(n), drawn(m)
    before, near.AT_ONCE = near.AT_ONCE, at_once
    try:
        found = close(ours, theirs)
    finally:
        near.AT_ONCE = before
    assert set(found) == all_pairs(ours, theirs) and len(found) == len(set(found))
    distances = [(int(ours[i]) ^ int(theirs[j])).bit_count() for i, j in found]
    assert distances == sorted(distances) and max(distances, default=0) <= MOST_BITS


def test_bits():
    assert bits(np.array([0, 1, 2**64 - 1, 0b1011], np.uint64)).tolist() == [0, 1, 64, 3]


def test_copies_are_found_and_others_are_not():
    ours = looks(*PHOTOGRAPHS.values())
    changed = [
        jpeg(PHOTOGRAPHS["chelsea"], 40),
        PHOTOGRAPHS["coffee"].resize((151, 97)),
        Image.fromarray(photographs.rocket()),
        PHOTOGRAPHS["astronaut"].transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        jpeg(PHOTOGRAPHS["astronaut"].resize((200, 200)), 60).convert("P"),
    ]
    assert near_images(ours, looks(*changed)) == {0: 2, 1: 1, 4: 0}


def test_the_same_shapes_in_other_colours_are_others():
    red, green, blue = PHOTOGRAPHS["coffee"].split()
    turned = Image.merge("RGB", (blue, green, red))
    assert bits(looks(PHOTOGRAPHS["coffee"])["hash"] ^ looks(turned)["hash"])[0] <= 8
    same_hash = looks(PHOTOGRAPHS["coffee"])
    same_hash["colours"] = looks(turned)["colours"]
    assert near_images(looks(PHOTOGRAPHS["coffee"]), same_hash) == {}


def test_a_small_thing_of_another_colour_is_another_image():
    one, other = PHOTOGRAPHS["coffee"].copy(), PHOTOGRAPHS["coffee"].copy()
    width, height = one.size
    for image, colour in ((one, "teal"), (other, "grey")):
        image.paste(colour, (width // 3, height // 3, width // 3 + width // 8, height // 3 + height // 8))
    (near_hashes,) = bits(looks(one)["hash"] ^ looks(other)["hash"])
    assert near_hashes <= MOST_BITS and near_images(looks(one), looks(other)) == {}
    assert near_images(looks(one), looks(jpeg(one, 50))) == {0: 0}


def test_plain_images_are_not_compared():
    plain = [Image.new("RGB", (30, 30), "white"), Image.new("RGB", (20, 20), "white")]
    assert near_images(looks(*plain), looks(*plain)) == {}


@pytest.mark.slow
def test_masses_of_equal_hashes_end():
    """A thousand times a thousand images of one hash: each finds one, none finds all."""
    many = np.repeat(looks(PHOTOGRAPHS["coffee"]), 1500)
    found = near_images(many, many)
    assert len(found) == 1500 and set(found.values()) == {0}


def test_nothing_near_nothing():
    assert near_images(looks(), looks(PHOTOGRAPHS["coffee"])) == {}
    assert near_images(looks(PHOTOGRAPHS["coffee"]), looks()) == {}
