"""Strict and relaxed scores of single answers, the rules by name, and the error of a cell."""

import math
import shutil

import pytest

from evertune.metrics.answers import (
    exact,
    gqa,
    ocrvqa,
    option,
    option_letter,
    relaxed,
    scienceqa,
    scienceqa_relaxed,
)
from evertune.metrics.option_letters import letter_of
from evertune.metrics.rules import RULES, error_of_mean, rule_of, score_cell
from evertune.utils.errors import UserError


@pytest.mark.parametrize(
    ("prediction", "gold", "strict", "loose"),
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
def test_scores(prediction, gold, strict, loose):
    assert exact(prediction, gold) == strict
    assert relaxed(prediction, gold) == loose


@pytest.mark.parametrize(
    ("prediction", "gold", "strict", "loose"),
    [
        ("b", "b", 1, 1),
        (" B\n", "b", 1, 1),
        ("(b)", "(b)", 1, 1),
        ("(b)", "b", 0, 1),
        ("B.", "(b)", 0, 1),
        ("(b) dog", "b", 0, 1),
        ("I think (b)", "b", 0, 1),
        ("it isn't b", "b", 0, 0),
        ("bd", "b", 0, 0),
        ("c", "b", 0, 0),
        ("dog", "b", 0, 0),
        ("(c) or (b)", "b", 0, 0),
        ("", "b", 0, 0),
        ("", "", 0, 0),
    ],
)
def test_options(prediction, gold, strict, loose):
    assert option(prediction, [gold]) == strict
    assert option_letter(prediction, [gold]) == loose


def test_an_article_is_no_option():
    assert letter_of("a dog") is None and letter_of("A dog (c)") == "c"


@pytest.mark.parametrize(
    ("prediction", "strict", "loose"),
    [
        ("B", 1, 1),
        ("B. dog", 1, 1),
        ("The answer is B.", 1, 1),
        ("The answer is B. BECAUSE: dogs bark", 1, 1),
        ("The answer is B", 0, 1),  # LLaVA's pattern wants one more character
        ("The answer is B. The answer is C.", 0, 0),  # two of them say nothing
        ("b", 0, 1),
        ("(B)", 0, 1),
        ("B) dog", 0, 1),
        ("dog", 0, 1),  # the option's text, where no letter stands alone
        ("C. dog", 0, 0),
        ("hot dogs", 0, 0),
        ("", 0, 0),
    ],
)
def test_scienceqa_as_llava_reads_it(prediction, strict, loose):
    """By LLaVA's eval_science_qa.py: the letter, `B. `, or one match of `The answer is ([A-Z]).`."""
    assert scienceqa(prediction, ["B", "dog"]) == strict
    assert scienceqa_relaxed(prediction, ["B", "dog"]) == loose


@pytest.mark.parametrize(
    ("prediction", "gold", "gqa_score", "ocrvqa_score"),
    [
        ("Yes.", "yes", 1, 0),
        (" yes", "yes", 1, 1),
        ("yes..", "yes", 1, 0),
        ("the left", "left", 0, 0),
        ("J.R.R. Tolkien", "J.R.R. TOLKIEN", 1, 1),
        ("Dr.", "Dr.", 0, 1),  # GQA's converter cuts the prediction only; its answers have no period
        ("", "", 0, 0),
        (".", "", 0, 0),
    ],
)
def test_exact_match_of_gqa_and_ocrvqa(prediction, gold, gqa_score, ocrvqa_score):
    assert gqa(prediction, [gold, "other"]) == gqa_score
    assert ocrvqa(prediction, [gold, "other"]) == ocrvqa_score
    assert gqa("other", [gold, "other"]) == 0, "the first answer only"


def test_unknown_scores_name_the_nearest():
    with pytest.raises(UserError, match="unknown score 'cidre'; did you mean 'cider'"):
        rule_of("cidre")


JAVA = shutil.which("java")
CAPTIONS = [["a dog runs on the wet sand"], ["two cats sleep in the sun"], ["an old bus drives down a hill"]]
CELLS = {
    "box": ([["[0.1, 0.1, 0.5, 0.5]"], ["[0.5, 0.5, 1, 1]"], ["[0, 0, 1, 1]"]], "[0.1, 0.1, 0.5, 0.5]"),
    "scienceqa": ([["B"], ["C"], ["D"]], "B"),
    "vizwiz": ([["blue"], ["red"], ["4"]], "Blue."),
    "anls": ([["blue"], ["hotel"], ["1999"]], "blue"),
    **dict.fromkeys(("pope", "pope-f1", "pope-yes-ratio", "mme", "mme-plus"), ([["yes"], ["no"], ["no"]], "yes")),
}


@pytest.mark.parametrize("name", [name for name in RULES if name not in ("meteor", "spice")])
def test_every_rule_scores_a_cell_answer_by_answer(name):
    """The right answer beats a wrong one, an empty one is never right, and there is a score for each."""
    if name.endswith("-ptb") and not JAVA:
        pytest.skip("Java code")
    letters = ([["(b)"], ["(c)"], ["(d)"]], "(b)")
    words = (CAPTIONS, CAPTIONS[0][0]) if name.startswith(("bleu", "rouge", "cider")) else letters
    golds, answer = CELLS.get(name, words)
    for score in (RULES[name].strict, RULES[name].relaxed):
        right, wrong, empty = score([answer, answer, " "], golds)
        assert right == pytest.approx(10 if name.startswith("cider") else 1)
        assert wrong < 0.4 and empty == 0
    assert RULES[name].about


def test_the_score_of_a_cell():
    cell = score_cell(rule_of("exact"), ["red", "It is red.", "blue"], [["red"]] * 3)
    assert cell.each == [1, 0, 0]
    assert cell.strict == pytest.approx(100 / 3) and cell.relaxed == pytest.approx(200 / 3)
    assert cell.standard_error == pytest.approx(100 / 3)


def test_bleu_of_a_cell_is_not_the_mean_of_its_captions():
    prediction = ["a dog runs on the wet sand", "cats"]
    cell = score_cell(rule_of("bleu-1"), prediction, CAPTIONS[:2])
    # all 8 words are met, and stand against 7 + 6 of the references; by itself the second is penalised by exp(1 - 6)
    assert cell.strict == pytest.approx(100 * math.exp(1 - 13 / 8)) and cell.relaxed == cell.strict
    assert cell.each == pytest.approx([1, math.exp(-5)])
    assert cell.standard_error is None


@pytest.mark.parametrize(("prediction", "golds"), [([], []), (["a"], []), (["a"], [["a"], ["b"]]), (["a"], [[]])])
def test_a_cell_with_gaps_has_no_score(prediction, golds):
    with pytest.raises(UserError, match="gaps|no gold answer"):
        score_cell(rule_of("vqa"), prediction, golds)


def test_error_of_mean_by_hand():
    # mean 0.5, squares 0.25 + 0.25 + 0 over n - 1 = 2: variance 0.25, sd 0.5
    assert error_of_mean([0.0, 1.0, 0.5]) == pytest.approx(100 * 0.5 / 3**0.5)
    assert error_of_mean([1.0]) is None
