"""VQA accuracy: the normaliser case by case, the soft score against the definition, word for word."""

from __future__ import annotations

import random

import pytest

from evertune.metrics.vqa import (
    CONTRACTIONS,
    agreement,
    first_contained,
    first_normalised,
    normalise,
    normalise_m4c,
    textvqa,
    vizwiz,
    vqa,
    vqa_relaxed,
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
    predicted, golds = normalise(prediction), [normalise(answer) for answer in answers]
    parts = []
    for left_out in range(len(golds)):
        others = golds[:left_out] + golds[left_out + 1 :]
        parts.append(min(1.0, sum(gold == predicted for gold in others) / 3))
    return sum(parts) / len(parts)


@pytest.mark.parametrize(
    ("predicted", "answers", "wanted"),
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
def test_ten_annotators(predicted, answers, wanted):
    assert vqa(predicted, answers) == pytest.approx(wanted)


def test_soft_accuracy_is_the_definition():
    choose = random.Random(0)
    for _ in range(500):
        answers = choose.choices(["dog", "Dog.", "a dog", "two", "2", "cat"], k=choose.randint(4, 12))
        predicted = choose.choice(["dog", "2", "the cat", "bird"])
        assert vqa(predicted, answers) == pytest.approx(by_definition(predicted, answers))


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
    assert vqa_relaxed("The car is red.", answers) == 1
    assert vqa_relaxed("It is dark red", ["dark red"] * 2 + ["blue"] * 8) == pytest.approx(0.6)
    assert vqa_relaxed("bored", answers) == 0 and vqa_relaxed("", answers) == 0


def test_normalised_compares_with_the_first_answer_only():
    assert first_normalised("The dog.", ["dog", "cat"]) == 1
    assert first_normalised("cat", ["dog", "cat"]) == 0
    assert first_normalised("it is the dog", ["dog"]) == 0
    assert first_contained("it is the dog", ["dog", "cat"]) == 1
    assert first_normalised("", ["dog"]) == 0 and first_contained("dogs", ["dog"]) == 0


# `EvalAIAnswerProcessor()(text)` of lmms-eval 0.7.3 (lmms_eval/tasks/_task_utils/vqa_eval_metric.py), a copy of M4C's.
M4C = [
    ("Two dogs, running.", "2 dogs running"),
    ("red,blue", "redblue"),
    ("the man's hat", "man 's hat"),
    ("what is it?no", "what is itno"),
    ("1,000,000 km", "1000000 km"),
    ("3.5 p.m.", "3.5 pm"),
    ("t-shirt", "t shirt"),
    ("Dont know", "don't know"),
    ("(b)", "b"),
    ("none", "0"),
    ("an apple a day", "apple day"),
    ("it's", "it 's"),
    ("its 5:30", "its 5:30"),
    ("$5.00", "$5.00"),
    ("U.S.A.", "usa"),
    ("x = y + z", "x y z"),
    ("C:\\temp", "c: temp"),
    ("e-mail@me", "e mail me"),
    ("what's up", "what 's up"),
    ("oclock", "o'clock"),
    ("somebody'd", "somebodyd"),
    ("'ow's'at", "'ow 's'at"),
    ("ONE two THREE", "1 2 3"),
    ("first line\nsecond\tline", "first line second line"),
    ("3, 4", "3 4"),
    ("no. 5", "no 5"),
    (".5", ".5"),
    ("don’t", "don’t"),
    ("左", "左"),
    ("4 - 5", "4 5"),
]


@pytest.mark.parametrize(("text", "wanted"), M4C)
def test_normalise_as_m4c(text, wanted):
    assert normalise_m4c(text) == wanted


def test_the_two_normalisers_differ():
    """The variant without M4C's first step fails the table above."""
    assert {text for text, wanted in M4C if normalise(text) != wanted} == {
        "red,blue",
        "the man's hat",
        "what is it?no",
        "it's",
        "what's up",
        "'ow's'at",
    }


@pytest.mark.parametrize(
    ("predicted", "answers", "wanted"),
    [
        # `textvqa_process_results` of lmms-eval 0.7.3 with these answers
        ("red,blue", ["redblue"] * 2 + ["red blue"] * 8, 0.6),
        ("red blue", ["red,blue"] * 3 + ["red blue"] * 7, 1.0),
        ("Man's", ["man 's"] * 1 + ["mans"] * 9, 0.3),
        ("stop?", ["Stop!"] * 3 + ["go"] * 7, 0.9),
    ],
)
def test_textvqa(predicted, answers, wanted):
    assert textvqa(predicted, answers) == pytest.approx(wanted)


def test_an_article_is_no_empty_answer():
    """The published code brings "the" and "" into the same empty form: an empty answer would agree with it."""
    assert textvqa("", ["a"] * 10) == 0 and textvqa("?", ["a"] * 10) == 0
    assert textvqa("a", ["A"] * 10) == 1


@pytest.mark.parametrize(
    ("predicted", "answers", "wanted"),
    [
        # the challenge's code: the prediction is normalised, answers are compared as they stand, each left out once
        ("Two", ["2"] * 3 + ["two"] * 7, 0.9),
        ("two", ["two"] * 10, 0.0),
        ("Unanswerable.", ["unanswerable"] * 5 + ["a dog"] * 5, 1.0),
        ("a dog", ["a dog"] * 10, 0.0),
        ("dog", ["Dog"] * 10, 0.0),
        ("", [""] * 10, 0.0),
    ],
)
def test_vizwiz_compares_with_answers_as_they_stand(predicted, answers, wanted):
    assert vizwiz(predicted, answers) == pytest.approx(wanted)
