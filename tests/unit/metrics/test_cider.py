"""CIDEr-D against the published code, and one pair of sentences against NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from evertune.metrics.cider import cider, cider_of_tokens, tokenise
from evertune.utils.errors import DataError

CELL = [
    ("a dog runs on the beach", ["a dog runs along the beach", "a brown dog is running on the sand"]),
    (
        "two men play football in a park",
        ["two men play football in the park", "men are playing soccer on a field", "two men kick a ball"],
    ),
    ("a red bus a red bus a red bus", ["a red bus drives down the street", "a bus on a city street"]),
    ("cat", ["a cat sleeps on a sofa", "cat"]),
    ("the woman in the kitchen", ["a man repairs his bicycle"]),
]
# `pip install pycocoevalcap==1.2`, then in Python, for this CELL:
#   scorer = pycocoevalcap.cider.cider_scorer.CiderScorer(n=4, sigma=6.0)
#   for said, references in CELL: scorer += (said, references)
#   scorer.compute_score()[1]
PUBLISHED = [2.677314655325219, 2.933233129415462, 0.7305380614471869, 1.7583533914603051, 0.0]


def test_it_agrees_with_the_published_code():
    predicted = [prediction.split() for prediction, _ in CELL]
    golds = [[reference.split() for reference in references] for _, references in CELL]
    assert cider_of_tokens(predicted, golds) == pytest.approx(PUBLISHED, abs=1e-6)


def test_one_pair_by_hand():
    """Said 'red red bus', reference 'red bus here', in a cell of two images that share the word 'bus' only."""
    log2 = np.log(2)
    # words red, bus (in both images: weight 0), here; clipping cuts the second 'red'
    one = min(2 * log2, log2) * log2 / (np.linalg.norm([2 * log2]) * np.linalg.norm([log2, log2]))
    # bigrams (red red), (red bus) against (red bus), (bus here)
    two = log2**2 / (np.linalg.norm([log2, log2]) * np.linalg.norm([log2, log2]))
    # trigrams differ, there are no 4-grams, and both sentences are equally long
    wanted = 10 * np.mean([one, two, 0, 0])
    assert cider(["red red bus", "bus"], [["red bus here"], ["a bus"]])[0] == pytest.approx(wanted, abs=1e-12)


def test_length_costs():
    """Six bigrams more at sigma 6: times exp(-1/2)."""
    references = [["dog"], ["cat"]]
    longer = "dog dog dog dog dog dog dog"
    unigrams = 1.0  # one word only: the same direction, clipped to the reference's count
    clipped = unigrams / 7
    assert cider(["dog", "cat"], references)[0] == pytest.approx(10 / 4)
    # 7 words have 6 bigrams, one word has none
    assert cider([longer, "cat"], references)[0] == pytest.approx(10 / 4 * clipped * np.exp(-0.5))


def test_a_perfect_caption_scores_ten():
    captions = ["a dog runs on sand", "two cats sleep at home"]
    assert cider(captions, [[c] for c in captions]) == pytest.approx([10, 10])


def test_where_nothing_is_telling_the_score_is_zero():
    assert cider(["a dog"], [["a dog"]]) == [0.0]
    assert cider(["a dog", "a dog"], [["a dog"], ["a dog"]]) == [0.0, 0.0]


def test_an_empty_caption_scores_zero():
    assert cider(["", "..."], [["a dog"], ["a cat"]]) == [0.0, 0.0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A man's T-shirt.", "a man 's t-shirt"),
        ("They can't, won't and don’t!", "they ca n't wo n't and do n't"),
        ('1,000 km (3.5 miles) - "far"', "1,000 km 3.5 miles far"),
        ("It's 5 o'clock, or 5:30 p.m.", "it 's 5 o'clock or 5:30 p.m."),
        ("black/white e-mail, 1/2 off", "black/white e-mail 1/2 off"),
        ("You cannot go to St. Louis!", "you can not go to st. louis"),
        ("50% off #1 + 2", "50 % off # 1 + 2"),
        ("...", ""),
    ],
)
def test_words(text, words):
    assert tokenise(text) == words.split()


def test_case_and_marks_do_not_count():
    references = [["a dog runs"], ["two cats sleep"]]
    assert cider(["A dog runs.", "x"], references) == cider(["a dog runs", "x"], references)


def of_words(captions, references):
    return cider_of_tokens([text.split() for text in captions], [[text.split() for text in row] for row in references])


@pytest.mark.parametrize("score", [cider, of_words])
def test_captions_without_end_are_refused(score, monkeypatch):
    """Their n-grams take up to 330 times their size in memory."""
    monkeypatch.setattr("evertune.metrics.cider.MOST_CHARACTERS", 12, raising=False)
    assert score(["a cat"], [["a dog"]]) == [0]
    with pytest.raises(DataError, match="characters together; CIDEr takes at most 12"):
        score(["a cat"], [["a dog and a bird"]])
