"""ANLS against the published numbers of its paper's definition, and its edges."""

from __future__ import annotations

import random

import pytest

from evertune.metrics.anls import anls, edit_distance
from evertune.metrics.rules import rule_of, score_cell


def relaxed(prediction, answers):
    return score_cell(rule_of("anls"), [prediction], [answers]).relaxed / 100


@pytest.mark.parametrize(
    ("prediction", "answers", "wanted"),
    [
        # made with `anls_score` of the package anls 0.0.2
        ("Hotel", ["hotel"], 1.0),
        ("hote1", ["hotel"], 0.8),
        ("a hotel", ["hotel"], 1 - 2 / 7),
        ("the hotel", ["hotel"], 1 - 4 / 9),
        ("ho", ["hotel"], 0.0),
        ("abcd", ["abxy"], 0.0),  # half of it wrong: the threshold is not reached
        ("new  york", ["New York"], 1.0),
        ("12:30", ["12.30", "1230"], 0.8),
        ("stop", ["go", "stops"], 0.8),
    ],
)
def test_anls(prediction, answers, wanted):
    assert anls(prediction, answers) == pytest.approx(wanted)


def test_empty_answers_are_never_right():
    assert anls("", [""]) == 0 and anls(" ", ["hotel"]) == 0 and relaxed("", [""]) == 0


def test_the_tolerant_side_finds_the_text_in_a_sentence():
    assert anls("The sign says hotel", ["hotel"]) == 0 and relaxed("The sign says hotel.", ["hotel"]) == 1
    assert relaxed("hote1", ["hotel"]) == pytest.approx(0.8)


def slow(one, other):
    """The definition, by recursion."""
    if not one or not other:
        return len(one) + len(other)
    return min(slow(one[1:], other) + 1, slow(one, other[1:]) + 1, slow(one[1:], other[1:]) + (one[0] != other[0]))


def test_edit_distance_is_the_definition():
    choose = random.Random(1)
    for _ in range(60):
        one, other = ("".join(choose.choices("abc", k=choose.randint(0, 5))) for _ in range(2))
        assert edit_distance(one, other) == slow(one, other)
