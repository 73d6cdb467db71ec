"""BLEU and ROUGE-L against pycocoevalcap, the Java tokeniser beside ours, and what is said when Java is missing."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from evertune.metrics import java_scorers
from evertune.metrics.captions import (
    bleu_of_tokens,
    common_subsequence,
    corpus_bleu_of_tokens,
    rouge_l_of_tokens,
)
from evertune.metrics.cider import cider_of_tokens, tokenise
from evertune.metrics.rules import rule_of, score_cell
from evertune.utils.errors import UserError

needs_java = pytest.mark.skipif(not shutil.which("java"), reason="Java code")

WORDS = "a dog cat runs sleeps on the wet sand grass two old red bus man woman".split()
# Edge cases first: equal, shorter and longer than all references, no word in common, one word, repeated words.
CELL = [
    ("a dog runs on the wet sand", ["a dog runs on the wet sand", "the dog runs"]),
    ("a dog", ["a dog runs on the wet sand", "the old dog sleeps on sand"]),
    ("the the the the the the the the", ["the dog on the grass", "a man"]),
    ("bus", ["a dog runs", "two cats"]),
    ("cat", ["cat"]),
    ("red bus on the grass", ["the red bus", "a red bus on the wet grass", "bus"]),
]


def cell(size=40):
    choose = random.Random(5)
    made = [
        (
            " ".join(choose.choices(WORDS, k=choose.randint(1, 9))),
            [" ".join(choose.choices(WORDS, k=choose.randint(1, 9))) for _ in range(choose.randint(1, 5))],
        )
        for _ in range(size)
    ]
    return CELL + made


def split(pairs):
    return [predicted.split() for predicted, _ in pairs], [[gold.split() for gold in golds] for _, golds in pairs]


def published(pairs):
    return {n: [predicted] for n, (predicted, _) in enumerate(pairs)}, {n: golds for n, (_, golds) in enumerate(pairs)}


def test_bleu_agrees_with_the_published_code():
    from pycocoevalcap.bleu.bleu import Bleu

    pairs = cell()
    predicted, golds = published(pairs)
    theirs, theirs_each = Bleu(4).compute_score(golds, predicted, verbose=0)
    for order in range(1, 5):
        assert corpus_bleu_of_tokens(order)(*split(pairs)) == pytest.approx(theirs[order - 1], abs=1e-6)
        assert bleu_of_tokens(order)(*split(pairs)) == pytest.approx(theirs_each[order - 1], abs=1e-6)


def test_rouge_l_agrees_with_the_published_code():
    from pycocoevalcap.rouge.rouge import Rouge

    pairs = cell()
    predicted, golds = published(pairs)
    _, each = Rouge().compute_score(golds, predicted)
    assert rouge_l_of_tokens(*split(pairs)) == pytest.approx(list(each), abs=1e-6)


def test_cider_agrees_with_the_published_code():
    from pycocoevalcap.cider.cider import Cider

    pairs = cell()
    predicted, golds = published(pairs)
    _, each = Cider().compute_score(golds, predicted)
    assert cider_of_tokens(*split(pairs)) == pytest.approx(list(each), abs=1e-6)


def test_broken_variants_are_told_apart():
    """The usual mistakes give other numbers on the shared fixture: shortest reference, F of one reference, beta 1."""
    pairs = cell()
    predicted, golds = split(pairs)
    nearest = corpus_bleu_of_tokens(4)(predicted, golds)
    shortest = corpus_bleu_of_tokens(4)(predicted, [[min(g, key=len)] for g in golds])
    assert abs(nearest - shortest) > 1e-3
    of_one = [max(rouge_l_of_tokens([s], [[g]])[0] for g in gs) for s, gs in zip(predicted, golds, strict=True)]
    assert max(abs(a - b) for a, b in zip(rouge_l_of_tokens(predicted, golds), of_one, strict=True)) > 1e-3
    even = common_subsequence(*CELL_WORDS) * 2 / (len(CELL_WORDS[0]) + len(CELL_WORDS[1]))
    assert abs(rouge_l_of_tokens([CELL_WORDS[0]], [[CELL_WORDS[1]]])[0] - even) > 1e-3


CELL_WORDS = ("a dog".split(), "a dog runs on the wet sand".split())


def test_rouge_l_by_hand():
    # "a dog" of 2 words in one of 7: precision 1, recall 2/7
    precision, recall, square = 1.0, 2 / 7, 1.2**2
    wanted = (1 + square) * precision * recall / (recall + square * precision)
    assert rouge_l_of_tokens([CELL_WORDS[0]], [[CELL_WORDS[1]]]) == [pytest.approx(wanted)]


def test_empty_captions_score_nothing():
    for score in (bleu_of_tokens(1), bleu_of_tokens(4), rouge_l_of_tokens):
        assert score([[]], [[["a", "dog"], []]]) == [0.0]
        assert score([[]], [[[]]]) == [0.0]
    assert corpus_bleu_of_tokens(1)([[], []], [[["a"]], [["b"]]]) == pytest.approx(0, abs=1e-6)


PAGE = (Path(__file__).parents[3] / "docs" / "metrics.md").read_text(encoding="utf-8")
ALIKE = """
It's 5 o'clock|He said 'hello' at 5:30pm|black/white and/or|1/2 cup, 3 1/2 miles, 24/7|He cannot go|gonna wanna gimme
50% off|100 %|#1 player|+5 points|5 + 3 = 8|e-mail me at bob@mail.com|visit http://www.example.com.|www.google.com
A & B|AT&T's R&B|$5.00|€5 or £5|'80s and 1980's|ma'am, O'Brien|get 'em|St. Louis|Mr. Smith vs. Dr. Jones|the U.S. flag
9 p.m. today|etc. and more|J.R.R. Tolkien|plan B.|Jan. 5|stop!!!|what?!|wait... no|.5 and -5.5|3.5.2|c++ and c#|a*b|a|b
#hashtag @home|2°C|© 2012|12/25/2010|w/o glasses|a 3'x5' rug|I'd've|couldn't've|James's|x's and o's|t-shirt|twenty-one
red – blue|red—blue|a_b|naïve café|日本語|5-10%|$5-$10|10:45 AM|"quoted" “text”|a, b; c: d|the dogs' toys
A man's dog can't run, won't jump and doesn't bark.|She said "hello" and left at 5:30 p.m.
""".replace("\n", "|").split("|")


def differing():
    """(text, our words, theirs) as docs/metrics.md shows them."""
    return re.findall(r"^\| `(.+)` \| `(.*)` \| `(.*)` \|$", PAGE, re.MULTILINE)


@pytest.mark.slow
@needs_java
def test_our_tokeniser_beside_the_published_one():
    """Where they differ the page says it, and how."""
    texts = [text for text in ALIKE if text]
    assert dict(zip(texts, map(tokenise, texts), strict=True)) == dict(
        zip(texts, java_scorers.ptb_tokens(texts), strict=True)
    )
    rows = differing()
    theirs = java_scorers.ptb_tokens([text for text, _, _ in rows])
    assert len(rows) > 15
    for (text, ours, published), words in zip(rows, theirs, strict=True):
        assert (" ".join(tokenise(text)), " ".join(words)) == (ours, published) and ours != published


@pytest.mark.slow
@needs_java
def test_texts_stay_apart_in_the_published_tokeniser():
    odd = ["one\u2028two", "", "three\x0bfour\r\nfive", "\ud800 x", "a\0b", "\ufeff", "six"]
    assert java_scorers.ptb_tokens(odd) == [
        ["one", "two"],
        [],
        ["three", "four", "five"],
        ["x"],
        ["a", "b"],
        [],
        ["six"],
    ]
    assert java_scorers.ptb_tokens([]) == []


@pytest.fixture
def meteor_without_paraphrases(monkeypatch):
    """The published program without its table of paraphrases, which takes half a minute to load."""
    from pycocoevalcap.meteor import meteor

    class Popen(subprocess.Popen):
        def __init__(self, command, **options):
            super().__init__([*command, "-m", "exact stem synonym"], **options)

    monkeypatch.setattr(meteor, "subprocess", SimpleNamespace(Popen=Popen, PIPE=subprocess.PIPE))


@pytest.mark.slow
@needs_java
def test_meteor_of_a_cell(meteor_without_paraphrases):
    predicted = ["a dog runs on the sand", "", "two dogs run in sand"]
    golds = [["a dog runs on the sand"], ["a cat"], ["a bus drives", "dogs running on the wet sand"]]
    found = score_cell(rule_of("meteor"), predicted, golds)
    # What the whole program with its paraphrases prints for this cell. Equal captions get 1; like BLEU it adds up what
    # the captions of a cell share.
    assert found.each == pytest.approx([1.0, 0.0, 0.2571612527133221], abs=1e-6)
    assert found.strict == pytest.approx(38.01814708706472, abs=1e-4) and found.standard_error is None


@pytest.mark.parametrize("name", ["meteor", "spice", "cider-ptb", "bleu-4-ptb", "rouge-l-ptb"])
def test_without_java(monkeypatch, name):
    monkeypatch.setattr(java_scorers.shutil, "which", lambda _: None)
    with pytest.raises(UserError, match="no `java` on the path: install a Java runtime"):
        rule_of(name).strict(["other"], [["a dog"]])


def test_without_the_extra(monkeypatch):
    monkeypatch.setattr(java_scorers, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"pip install 'evertune\[captions\]'"):
        java_scorers.ptb_tokens(["a dog"])


def test_spice_is_the_f_of_its_tuples(monkeypatch):
    """SPICE can't run without what it fetches: a program with its interface stands in."""

    class Spice:
        def compute_score(self, golds, predicted):
            assert golds == {0: ["a dog"], 1: ["two cats", "cats"]} and predicted == {0: ["dog"], 1: [""]}
            return 0.25, [{"All": {"f": 0.5, "pr": 1.0}}, {"All": {"f": 0.1}}]

    monkeypatch.setattr(java_scorers, "_published", lambda module, name: Spice)
    monkeypatch.setattr(java_scorers, "ptb_tokens", lambda texts: [text.lower().strip(".").split() for text in texts])
    found = score_cell(rule_of("spice"), ["Dog.", ""], [["A dog."], ["Two cats", "cats"]])
    assert (found.strict, found.each) == (25.0, [0.5, 0.0]), "an empty caption is never right"


def test_a_program_that_fails_is_named(monkeypatch):
    def broken():
        raise OSError("no space left")

    with pytest.raises(UserError, match="SPICE failed: no space left"):
        java_scorers._run("SPICE", broken)


@pytest.mark.parametrize(
    "problem", [BrokenPipeError(32, "Broken pipe"), ValueError("could not convert string to float: ''")]
)
def test_a_program_that_is_killed_is_said(problem):
    """What `pycocoevalcap` raises when its Java program is gone, while it writes and while it reads."""

    def work():
        raise problem

    with pytest.raises(UserError, match="METEOR failed: .*(Broken pipe|to float)"):
        java_scorers._run("METEOR", work)
