"""Strict and tolerant scores of single answers."""

import pytest

from evertune.scoring.answers import exact, tolerant


@pytest.mark.parametrize(
    ("said", "gold", "strict", "loose"),
    [
        ("red", ["red"], 1, 1),
        (" red\n", ["red"], 1, 1),
        ("Red.", ["red"], 0, 1),
        ("The answer is red.", ["red"], 0, 1),
        ("t-shirt", ["shirt"], 0, 0),
        ("t-shirt", ["t-shirt"], 1, 1),
        ("bored", ["red"], 0, 0),
        ("", ["red"], 0, 0),
        ("", [""], 0, 0),
        ("...", ["the"], 0, 0),
        ("47", ["4"], 0, 0),
        ("blue", ["red", "blue"], 1, 1),
    ],
)
def test_scores(said, gold, strict, loose):
    assert exact(said, gold) == strict
    assert tolerant(said, gold) == loose
