"""Boxes: intersection over union by hand, the frame of CoIN, and what counts as a box."""

from __future__ import annotations

import numpy as np
import pytest

from evertune.metrics.boxes import anywhere, box, box_relaxed, gold_box, overlap, padded
from evertune.tools.rescore.gold import Gold
from evertune.tools.rescore.pairing import Case
from evertune.tools.rescore.peers import cut_box
from evertune.utils.errors import UserError


def test_overlap_against_counted_pixels():
    generator = np.random.default_rng(0)
    for _ in range(50):
        pixels, boxes = [], []
        for _ in range(2):
            x1, y1 = generator.integers(0, 12, 2)
            x2, y2 = x1 + generator.integers(1, 10), y1 + generator.integers(1, 10)
            mask = np.zeros((24, 24), bool)
            mask[y1:y2, x1:x2] = True
            pixels.append(mask)
            boxes.append((float(x1), float(y1), float(x2), float(y2)))
        wanted = (pixels[0] & pixels[1]).sum() / (pixels[0] | pixels[1]).sum()
        assert overlap(*boxes) == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("prediction", "strict", "loose"),
    [
        ("[0.1, 0.2, 0.5, 0.8]", 1, 1),
        (" [0.1,0.2,.5,0.8]\n", 1, 1),
        ("[0.1, 0.2, 0.5, 0.8].", 0, 1),
        ("0.1, 0.2, 0.5, 0.8", 0, 1),
        ("The box is [0.1, 0.2, 0.5, 0.8].", 0, 1),
        ("[0.5, 0.8, 0.1, 0.2]", 0, 1),  # the corners the wrong way round
        ("[0.1, 0.2, 0.3, 0.8]", 0, 0),  # 0.4999...
        ("[0.1, 0.2, 0.31, 0.8]", 1, 1),
        ("[0.1, 0.2, 0.5]", 0, 0),
        ("[0.1, 0.2, 0.5, nan]", 0, 0),
        ("[1e9, 0.2, 0.5, 0.8]", 0, 0),
        ("", 0, 0),
    ],
)
def test_more_than_half(prediction, strict, loose):
    gold = ["[0.1, 0.2, 0.5, 0.8]"]
    assert box(prediction, gold) == strict
    assert box_relaxed(prediction, gold) == loose


@pytest.mark.parametrize("half", ["[0, 0, 0.5, 1]", "[0.5, 0, 1, 1]", "[0, 0, 2, 1]"])
def test_exactly_half_is_not_more(half):
    """In numbers that floating point holds exactly; CoIN's evaluator has `iou > 0.5` too."""
    gold = "[0, 0, 1, 1]"
    assert overlap(gold_box(half), gold_box(gold)) == 0.5
    assert box(half, [gold]) == 0 and box_relaxed(half, [gold]) == 0
    inside = Case(Gold("1", (gold,)), half, half)
    assert cut_box(inside, f" {half} ".replace("[", "[_").replace("]", "_]").strip()) == 0
    assert box("[0, 0, 0.5001, 1]", [gold]) == 1


def test_one_of_several_gold_boxes_is_enough():
    golds = ["[0.5, 0.5, 1, 1]", "[0, 0, 0.4, 0.4]"]
    assert box("[0, 0, 0.4, 0.4]", golds) == 1 and box_relaxed("0, 0, 0.4, 0.4", golds) == 1
    assert box("[0, 0, 1, 1]", golds) == 0


def test_names_of_numbers_are_no_numbers():
    assert anywhere("x1=0.1, y1=0.2, x2: 0.5, y2: 8e-1") == (0.1, 0.2, 0.5, 0.8)
    assert anywhere("0.1-0.2-0.5-0.8") == (0.1, 0.2, 0.5, 0.8)


def test_the_frame_of_coin():
    """By CoIN's `change_bbox`: 640 x 480 gets 80 pixels above and below, then everything is divided by 640."""
    assert padded((64, 0, 128, 240), width=640, height=480) == pytest.approx((0.1, 0.125, 0.2, 0.5))
    assert padded((0, 64, 240, 128), width=480, height=640) == pytest.approx((0.125, 0.1, 0.5, 0.2))
    assert padded((5, 5, 10, 10), width=100, height=100) == pytest.approx((0.05, 0.05, 0.1, 0.1))


def test_a_gold_box_in_pixels_is_brought_into_that_frame():
    gold = "[64, 0, 128, 240] of 640x480"
    assert gold_box(gold) == pytest.approx((0.1, 0.125, 0.2, 0.5))
    assert box("[0.1, 0.125, 0.2, 0.5]", [gold]) == 1
    # divided by width and height without padding it would be another box
    assert box("[0.1, 0, 0.2, 0.5]", [gold]) == 1 and box("[0.1, 0, 0.2, 0.25]", [gold]) == 0


@pytest.mark.parametrize("gold", ["the dog", "", "[1, 2, 3]", "[1, 2, 3, 4] of 0x0", "[1, 2, 3, 4] of 10"])
def test_a_gold_answer_that_is_no_box(gold):
    with pytest.raises(UserError, match="is no box"):
        box("[1, 2, 3, 4]", [gold])


def test_numbers_in_a_text():
    assert anywhere("from (1, 2) to (3.5, 4) and 5") == (1, 2, 3.5, 4)
    assert anywhere("1 2 3") is None
