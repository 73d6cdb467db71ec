"""Keeping a share for testing, and twins: against the plain way over all samples in memory."""

from __future__ import annotations

import random

import numpy as np
import pytest
from reading_rows import colour, read, write_lines

from evertune.data.image_index import HASHED
from evertune.data.split import held_out, ranks, twins, wrong_numbers
from evertune.utils.errors import DataError
from evertune.utils.files import digest_of_file


def write(folder, name, rows):
    lines = [
        {"images": list(images), "instruction": text, "answer": "x", "id": f"{name}{at}"}
        for at, (images, text) in enumerate(rows)
    ]
    return read("jsonl", write_lines(folder / f"{name}.jsonl", *lines))[0]


@pytest.fixture
def names(tmp_path):
    return [colour(tmp_path, f"{number}.png", (number, 7, 0)) for number in range(20)]


def test_ranks_are_those_of_sorted_bytes():
    generator = np.random.default_rng(0)
    keys = generator.integers(0, 256, (50, 32), dtype=np.uint8)
    keys[20:30] = keys[:10]
    keys[31, :31] = keys[30, :31]  # different in the last byte only
    texts = [key.tobytes() for key in keys]
    order = sorted(set(texts))
    place, count = ranks(keys)
    assert place.tolist() == [order.index(text) for text in texts] and count == len(order)
    assert ranks(keys[:0]) == (pytest.approx([]), 0)


def test_one_image_each_as_it_always_was(tmp_path, names):
    choose = random.Random(1)
    samples = write(tmp_path, "a", [((choose.choice(names),), f"{at}?") for at in range(60)])
    images = sorted({digest_of_file(s.images[0]) for s in samples})
    kept = set(images[: max(1, round(0.3 * len(images)))])
    train, test = held_out(samples, share=0.3)
    assert [s.id for s in test] == [s.id for s in samples if digest_of_file(s.images[0]) in kept]
    assert [s.id for s in train] == [s.id for s in samples if digest_of_file(s.images[0]) not in kept]


def test_images_of_one_row_stay_on_one_side(tmp_path, names):
    rows = [((names[at], names[(at + 1) % 10]), f"{at}?") for at in range(0, 10, 2)]  # (0 1) (2 3) ...
    rows += [((names[at],), f"one {at}?") for at in range(20)]
    rows += [((), f"text {at}?") for at in range(8)]
    samples = write(tmp_path, "b", rows)
    for share in (0.2, 0.5, 0.8):
        train, test = held_out(samples, share=share)
        sides = [{digest_of_file(i) for s in side for i in s.images} for side in (train, test)]
        assert not sides[0] & sides[1] and len(train) + len(test) == len(samples)
    assert any(not s.images for s in train) and any(not s.images for s in test)


def test_too_few(tmp_path, names):
    with pytest.raises(DataError, match="every row shows the same image, so that none can be kept"):
        held_out(write(tmp_path, "c", [((names[0],), "a"), ((names[0],), "b")]), share=0.2)


def test_twins(tmp_path, names):
    colour(tmp_path, "copy.png", (3, 7, 0))  # the bytes of 3.png under another name
    train = write(tmp_path, "train", [((names[at],), "what?") for at in (0, 1, 2, 3, 3)] + [((), "2 + 2?")])
    test = write(
        tmp_path, "test", [(("copy.png",), "what?"), ((names[9],), "what?"), ((), "2 + 2?"), ((names[0],), "no")]
    )
    pairs, doubled = twins(train, test)
    assert pairs == [(3, 0), (5, 2)] and doubled == {3, 4, 5}
    assert twins(test[1:2], train) == ([], set())


def test_numbers_of_images(tmp_path, names):
    samples = write(tmp_path, "d", [((names[0],), "a"), ((), "b"), ((names[0], names[1]), "c")])
    wrong, problems = wrong_numbers(samples, range(1, 2), model="tiny")
    messages = list(map(str, problems))
    assert wrong.tolist() == [False, True, True]
    assert "d.jsonl:2: the row has no image; the model 'tiny' takes exactly 1" in messages[0]
    assert "d.jsonl:3: the row has 2 images; the model 'tiny' takes exactly 1" in messages[1]
    assert not wrong_numbers(samples, range(3), model="x")[0].any()


def test_the_last_samples_are_kept_and_no_more(tmp_path, names, monkeypatch):
    """A task that fits is read from the disk once; memory does not grow with one that does not."""
    monkeypatch.setattr("evertune.data.samples.KEPT", 3)
    samples = write(tmp_path, "a", [((name,), name) for name in names])
    samples.look(depth=HASHED)
    first = list(samples)
    assert len(samples.seen.kept) == 3 and samples[19] is first[19] and samples[0] == first[0]
    assert samples[0] is not first[0] and list(samples.seen.kept) == [18, 19, 0]
