"""Strict and tolerant scores of single answers, the rules by name, and the error of a cell."""

import pytest

from evertune.errors import UserError
from evertune.scoring.answers import exact, letter_of, option, option_letter, tolerant
from evertune.scoring.rules import RULES, error_of_mean, rule_of


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


@pytest.mark.parametrize(
    ("said", "gold", "strict", "loose"),
    [
        ("b", "b", 1, 1),
        (" B\n", "b", 1, 1),
        ("(b)", "(b)", 1, 1),
        ("(b)", "b", 0, 1),
        ("B.", "(b)", 0, 1),
        ("(b) dog", "b", 0, 1),
        ("I think (b)", "b", 0, 1),
        ("it isn't b", "b", 0, 1),
        ("bd", "b", 0, 0),
        ("c", "b", 0, 0),
        ("dog", "b", 0, 0),
        ("(c) or (b)", "b", 0, 0),
        ("", "b", 0, 0),
        ("", "", 0, 0),
    ],
)
def test_options(said, gold, strict, loose):
    assert option(said, [gold]) == strict
    assert option_letter(said, [gold]) == loose


def test_an_article_can_not_be_told_from_the_option_a():
    assert letter_of("a dog") == "a" and letter_of("A dog (c)") == "c"


def test_unknown_scores_name_the_nearest():
    with pytest.raises(UserError, match="unknown score 'cidre'; did you mean 'cider'"):
        rule_of("cidre")


@pytest.mark.parametrize("name", list(RULES))
def test_every_rule_scores_a_cell_answer_by_answer(name):
    """The right answer beats a wrong one, an empty one is never right, and there is a score for each."""
    golds = [["(b)"], ["(c)"], ["(d)"]]
    for score in (RULES[name].strict, RULES[name].tolerant):
        right, wrong, empty = score(["(b)", "(b)", ""], golds)
        assert right > 0 and wrong == 0 and empty == 0
    assert RULES[name].about


def test_error_of_mean_by_hand():
    # mean 0.5, squares 0.25 + 0.25 + 0 over n - 1 = 2: variance 0.25, sd 0.5
    assert error_of_mean([0.0, 1.0, 0.5]) == pytest.approx(100 * 0.5 / 3**0.5)
    assert error_of_mean([1.0]) is None
