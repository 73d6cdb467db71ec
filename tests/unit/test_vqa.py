"""VQA accuracy: the normaliser case by case, the soft score against the definition, word for word."""

from __future__ import annotations

import random

import pytest

from evertune.scoring.vqa import (
    CONTRACTIONS,
    agreement,
    first_contained,
    first_normalised,
    normalise,
    vqa,
    vqa_tolerant,
)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Two dogs, running.", "2 dogs running"),
        ("the  Man\n", "man"),
        ("None", "0"),
        ("ten", "10"),
        ("eleven", "eleven"),
        ("t-shirt", "t shirt"),
        ("black/white", "black white"),
        ("yes, no!", "yes no"),
        ("(b)", "b"),
        ("1,000", "1000"),
        ("1,000/day", "1000day"),  # a number with a comma: all marks are dropped, none becomes a space
        ("3.5 p.m.", "3.5 pm"),
        ("10.", "10"),
        ("cant", "can't"),
        ("youve", "you've"),
        ("somebody'd", "somebodyd"),  # as in the published table
        ("the", "the"),  # nothing would be left
        ("...", "..."),
        ("", ""),
    ],
)
def test_normalise(text, wanted):
    assert normalise(text) == wanted


def test_contractions_are_those_of_the_published_table():
    assert len(CONTRACTIONS) == 114
    assert CONTRACTIONS["couldnt've"] == CONTRACTIONS["couldn'tve"] == "couldn't've"
    assert CONTRACTIONS["twas"] == "'twas" and CONTRACTIONS["'ows'at"] == "'ow's'at"


def by_definition(prediction, answers):
    """Leave each annotator out once, count those of the others who agree, as the VQA evaluation says it."""
    said, golds = normalise(prediction), [normalise(answer) for answer in answers]
    parts = []
    for left_out in range(len(golds)):
        others = golds[:left_out] + golds[left_out + 1 :]
        parts.append(min(1.0, sum(gold == said for gold in others) / 3))
    return sum(parts) / len(parts)


@pytest.mark.parametrize(
    ("said", "answers", "wanted"),
    [
        # made with the published evaluation's own functions (GT-Vision-Lab/VQA), both sides normalised
        ("two dogs.", "2 dogs|Two dogs|dogs|2 dogs|three|the two dogs|2|dog|2|2".split("|"), 1.0),
        ("t-shirt", ["t shirt"] * 3 + ["shirt"] * 7, 0.9),
        ("1,000", ["1000"] * 2 + ["thousand"] * 8, 0.6),
        ("Cant tell", ["can't tell"] * 10, 1.0),
        ("cat", ["dog"] * 9 + ["cat"], 0.3),
        ("", ["dog"] * 10, 0.0),
        ("bird", ["dog"] * 10, 0.0),
    ],
)
def test_ten_annotators(said, answers, wanted):
    assert vqa(said, answers) == pytest.approx(wanted)


def test_soft_accuracy_is_the_definition():
    choose = random.Random(0)
    for _ in range(500):
        answers = choose.choices(["dog", "Dog.", "a dog", "two", "2", "cat"], k=choose.randint(4, 12))
        said = choose.choice(["dog", "2", "the cat", "bird"])
        assert vqa(said, answers) == pytest.approx(by_definition(said, answers))


@pytest.mark.parametrize(
    ("answers", "wanted"),
    [
        (["dog"], 1.0),  # one annotator: met or not
        (["cat"], 0.0),
        (["dog", "dog"], 1.0),  # all that are left agree
        (["dog", "cat"], 0.5),  # 1 when the other one is left out, else 0
        (["dog", "dog", "cat"], 2 / 3),  # (1/2 + 1/2 + 2/2) / 3
    ],
)
def test_fewer_than_four_annotators(answers, wanted):
    assert vqa("dog", answers) == pytest.approx(wanted)


def test_agreement_of_nobody_is_nothing():
    assert agreement([False] * 10) == 0 and agreement([False]) == 0


def test_tolerant_takes_the_best_answer_that_stands_in_it():
    answers = ["red"] * 8 + ["dark red"] * 2
    assert vqa("The car is red.", answers) == 0
    assert vqa_tolerant("The car is red.", answers) == 1
    assert vqa_tolerant("It is dark red", ["dark red"] * 2 + ["blue"] * 8) == pytest.approx(0.6)
    assert vqa_tolerant("bored", answers) == 0 and vqa_tolerant("", answers) == 0


def test_normalised_compares_with_the_first_answer_only():
    assert first_normalised("The dog.", ["dog", "cat"]) == 1
    assert first_normalised("cat", ["dog", "cat"]) == 0
    assert first_normalised("it is the dog", ["dog"]) == 0
    assert first_contained("it is the dog", ["dog", "cat"]) == 1
    assert first_normalised("", ["dog"]) == 0 and first_contained("dogs", ["dog"]) == 0
