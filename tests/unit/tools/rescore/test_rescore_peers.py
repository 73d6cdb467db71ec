"""Their way: every known defect of a public evaluator is met by our copy of its rule, and named when scores differ.

The expected values were worked out by hand from the scripts that each function names.
"""

from __future__ import annotations

import shutil

import pytest

from evertune.metrics.cider import cider
from evertune.tools.rescore import peers
from evertune.tools.rescore.compare import rescore
from evertune.tools.rescore.formats import FORMATS, format_of
from evertune.tools.rescore.gold import Gold
from evertune.tools.rescore.pairing import Case
from evertune.tools.rescore.peers import Peer
from evertune.tools.rescore.reasons import ScoreDifference, reason_for
from evertune.utils.errors import UserError


def case(predicted, *answers, place=None, prompt="", **extras):
    return Case(Gold("1", answers, extras), predicted, predicted if place is None else place, prompt)


def points(peer, cases):
    return peer.points(cases, peer.scores(cases))


def one(way, predicted, *answers, **more):
    return way(case(predicted, *answers, **more), predicted)


@pytest.mark.parametrize(
    ("way", "predicted", "answers", "theirs"),
    [
        # CoIN eval_vqav2.py, eval_vizwiz.py, UCIT eval_deepseek_r1.py
        (peers.same_letters, "YES", ["yes"], 1),
        (peers.same_letters, "yes ", ["yes"], 0),
        (peers.same_letters, "yes.", ["yes"], 0),
        (peers.same_letters, "two", ["2", "two", "two"], 0),
        # UCIT eval_deepseek_r1.py in the version with containment
        (peers.within_gold, "", ["frisbee"], 1),
        (peers.within_gold, "a", ["cat"], 1),
        (peers.within_gold, "true", ["Yes"], 1),
        (peers.within_gold, "no", ["True"], 0),
        (peers.within_gold, "the cat", ["cat"], 0),
        # CoIN eval_ImagetNet.py, SMoLoRA eval_classification.py
        (peers.either_within, "", ["frisbee"], 1),
        (peers.either_within, "a cat", ["cat"], 1),
        (peers.either_within, "Cat", ["cat"], 0),
        (peers.either_within, " cat", ["cat"], 1),
        (peers.either_within, "frog", ["tree frog"], 1),
        # CoIN Qwen/eval_ImagetNet.py
        (peers.either_within_lower, " Cat", ["a cAt"], 1),
        (peers.either_within_lower, "  cat ", ["Cat"], 1),
        (peers.either_within_lower, "  cat ", ["a cat"], 0),
        (peers.either_within_lower, "", ["cat"], 1),
        (peers.any_either_within, "CAT", ["dog", "a cat"], 1),
        (peers.any_either_within, "", ["dog"], 1),
        # CoIN eval_ocrvqa.py, MLLM-CL eval_finvis.py
        (peers.lower_unless_unanswerable, "Unanswerable", ["unanswerable"], 0),
        (peers.lower_unless_unanswerable, "unanswerable", ["Unanswerable"], 1),
        # MLLM-CL eval_pvqa.py, eval_sat.py
        (peers.gold_within_unless_unanswerable, "unknown", ["no"], 1),
        (peers.gold_within_unless_unanswerable, "", ["no"], 0),
        (peers.gold_within_without_spaces, "There are 10.", ["1"], 1),
        (peers.gold_within_without_spaces, "(B) can", ["A"], 1),
        # MLLM-CL eval_vqav2.py
        (peers.letters_and_digits, "左", ["右"], 1),
        (peers.letters_and_digits, "", ["?"], 1),
        (peers.letters_and_digits, "t-shirt!", ["T-shirt"], 1),
        (peers.letters_and_digits, "t shirt", ["t-shirt"], 0),
        # MLLM-CL eval_ocr.py
        (peers.ocrbench, "It says STOP now", ["go", "stop"], 1),
        (peers.ocrbench, "", ["stop"], 0),
        # CoIN convert_gqa_for_eval.py and eval_gqa.py
        (peers.gqa_converted, " Yes.", ["yes"], 1),
        (peers.gqa_converted, "  yes", ["yes"], 0),
        (peers.gqa_converted, "yes", ["Yes"], 0),
        # CoIN eval_science_qa.py
        (peers.lone_letter, "B", ["B"], 1),
        (peers.lone_letter, "B. dog", ["B"], 1),
        (peers.lone_letter, "I think B", ["B"], 0),
        (peers.lone_letter, "a dog", ["A"], 1),
        (peers.lone_letter, "(b)", ["B"], 1),
        (peers.lone_letter, "dog", ["B"], 0),
        (peers.lone_letter, "", ["B"], 0),
        # M4C, VQA, VizWiz
        (peers.m4c, "", ["a"] * 10, 1),
        (peers.m4c, "red,blue", ["redblue"] * 2 + ["x"] * 8, 0.6),
        (peers.vqa_official, "Yes.", ["yes"] * 10, 0),
        (peers.vqa_official, "Yes.", ["yes"] * 9 + ["no"], 1),
        (peers.vizwiz_official, "two", ["two"] * 10, 0),
        (peers.vizwiz_official, "two", ["2"] * 10, 1),
    ],
)
def test_each_answer_their_way(way, predicted, answers, theirs):
    assert one(way, predicted, *answers) == pytest.approx(theirs)


@pytest.mark.parametrize(
    ("predicted", "theirs"),
    [
        ("[0.1, 0.1, 0.5, 0.57]", 1),  # read as .1, 0.1, 0.5, 0.5: still more than half
        ("[0.1, 0.1, 0.5, 0.5]", 0),  # read as .1, 0.1, 0.5, 0.: the box is gone
        ("[1.0, 0.1, 0.5, 0.50]", 1),  # the first digit is gone, and the box is right by chance
        ("0.10, 0.1, 0.5, 0.50", 1),
        ("the dog", 0),
        ("", 0),
    ],
)
def test_the_box_that_loses_its_ends(predicted, theirs):
    """CoIN's eval_grounding.py takes the brackets off and then `[1:-1]` once more."""
    gold = "[0.1, 0.1, 0.5, 0.5]" if "1.0," not in predicted else "[0.0, 0.1, 0.5, 0.5]"
    assert one(peers.cut_box, predicted, gold) == theirs


def test_science_of_mllm_cl():
    states = {"image": "maps/MapQA_1.png", "prompt": "Which states have the lowest value?"}
    assert one(peers.science_of_mllm_cl, "utah, ohio", "Utah, Ohio,Iowa", **states) == pytest.approx(2 / 3)
    assert one(peers.science_of_mllm_cl, "west virginia,ohio", "Virginia,Ohio", **states) == 0.5, "whole names"
    assert one(peers.science_of_mllm_cl, "Unanswerable", "unanswerable", image="a/AI2D_1.png") == 0
    assert one(peers.science_of_mllm_cl, "It is B", "B", image="a/AI2D_1.png") == 0
    assert one(peers.science_of_mllm_cl, "It is 10%", "10%", image="maps/MapQA_2.png") == 1


def test_formulas_are_compared_without_spaces():
    assert one(peers.ocrbench, "x ^ 2", "x^2", answer_type=peers.FORMULA) == 1
    assert one(peers.ocrbench, "x ^ 2", "x^2") == 0


def test_missing_answers_leave_their_average_but_not_everybodys():
    cases = [case("yes", "yes"), case(None, "no"), case(None, "no"), case("no", "yes")]
    shrinking = Peer("equal", "", "", peers.same_letters)
    assert points(shrinking, cases) == 50 and shrinking.scores(cases) == [1, None, None, 0]
    assert points(Peer("lone letter", "", "", peers.lone_letter, counts_missing=True), cases) == 0
    with pytest.raises(UserError, match="nothing to average"):
        points(shrinking, cases[1:3])


def test_the_final_score_of_ocrbench_is_a_count_over_ten():
    assert peers.thousand([case("stop", "stop")] * 5) == 0.5


def test_by_place_scores_another_lines_answer():
    cases = [case("cat", "cat", place="dog"), case("dog", "dog", place="cat")]
    peer = format_of("coin-imagenet").peers[0]
    assert points(peer, cases) == 0
    assert "another line's answer" in reason_for(ScoreDifference(cases[0], 1, 0), peer)


def test_the_best_reference_alone_and_the_sides_exchanged():
    golds = [["a dog runs on sand", "red"], ["two cats sleep at home", "an old bus"], ["men", "a man eats"]]
    predicted = ["a dog runs on sand", "two cats sleep at home", "a man eats soup"]
    cases = [case(text, *answers) for text, answers in zip(predicted, golds, strict=True)]
    theirs = peers.best_reference(cases)
    nearest = [["a dog runs on sand"], ["two cats sleep at home"], ["a man eats"]]
    exchanged = cider([answers[0] for answers in nearest], [[text] for text in predicted])
    assert theirs == pytest.approx(100 * sum(exchanged) / 3)
    assert theirs > 100 * sum(cider(predicted, golds)) / 3 + 100, "much above what the field calls CIDEr"


@pytest.mark.skipif(not shutil.which("java"), reason="Java code")
def test_the_average_of_seven_measures(monkeypatch):
    monkeypatch.setattr(peers, "SEVEN", ("bleu-1", "cider"))  # METEOR takes half a minute
    captions = ["a dog runs on sand", "two cats sleep at home"]
    cases = [case(text, text) for text in captions]
    assert peers.average_of_seven(cases) == pytest.approx((100 + 1000) / 2)
    swapped = [case(text, text, place=other) for text, other in zip(captions, captions[::-1], strict=True)]
    assert peers.average_of_seven(swapped) == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize(
    ("name", "predicted", "answers", "ours", "theirs", "why"),
    [
        ("ucit", "", ["cat"], 0, 1, "an empty answer is right"),
        ("ucit", "at", ["cat"], 0, 1, "a part of the answer"),
        ("mllm-cl-med", "unknown", ["no"], 0, 1, "merely contains the gold"),
        ("mllm-cl-fin", "Unanswerable", ["unanswerable"], 1, 0, "'Unanswerable' is wrong"),
        ("coin-vqav2", "dog", ["cat", "dog"], 0.5, 0, "one answer, we with all annotators"),
        ("coin-vqav2", "yes.", ["yes"], 1, 0, "in another form"),
        ("coin-vqav2", "yes.", ["yes", "Yes", "yes!"], 1, 0, "in another form"),
        ("vqav2", "Yes.", ["yes"] * 10, 1, 0, "where all annotators say the same"),
        ("vizwiz", "two", ["two"] * 10, 1, 0, "the annotators' answers are not normalised"),
        ("coin-gqa", "  yes", ["yes"], 1, 0, "white space counts"),
        ("ucit", "true", ["yes"], 0, 1, "yes and true"),
        ("mllm-cl-vp", "There are 10.", ["1"], 0, 1, "merely contains the gold"),
        ("coin-scienceqa", "a dog", ["A", "cat"], 0, 1, "first lone character"),
        ("coin-grounding", "[0.1, 0.1, 0.5, 0.5]", ["[0.1, 0.1, 0.5, 0.5]"], 1, 0, "first and the last character"),
        ("mllm-cl-sci", "utah", ["utah,ohio"], 0, 0.5, "the share of it that is named"),
    ],
)
def test_differences_are_named(name, predicted, answers, ours, theirs, why):
    peer = format_of(name).peers[-1 if name == "ucit" else 0]
    assert why in reason_for(ScoreDifference(case(predicted, *answers), ours, theirs), peer)


def test_nothing_left_of_two_answers():
    letters = format_of("coin-vqav2").peers[1]
    assert "nothing is left" in reason_for(ScoreDifference(case("左", "右"), 0, 1), letters)


def test_every_format_has_a_score_and_says_whose_it_is():
    for one_format in FORMATS.values():
        assert one_format.rules and one_format.title
        for peer in one_format.peers:
            assert peer.source and peer.does and (peer.each or peer.whole)


def test_unknown_formats_name_the_nearest():
    with pytest.raises(UserError, match="unknown format 'coin-vqa'; did you mean 'coin-vqav2'"):
        rescore("x.jsonl", format="coin-vqa")
