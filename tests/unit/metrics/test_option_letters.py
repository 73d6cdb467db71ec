"""Which option a text names: the table of docs/metrics.md, case by case, and what it can't show."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from evertune.metrics.cider import tokenise
from evertune.metrics.option_letters import letter_of
from evertune.metrics.relaxed import normalised
from evertune.metrics.rules import rule_of, score_cell

PAGE = (Path(__file__).parents[3] / "docs" / "metrics.md").read_text(encoding="utf-8")


def table():
    """(text, letter or None) as the page shows them; `\\n` is a line end."""
    rows = re.findall(r"^\| ([a-z]|none) \| (`.*`) \|$", PAGE, re.MULTILINE)
    return [
        (text.replace("\\n", "\n"), None if letter == "none" else letter)
        for letter, texts in rows
        for text in re.findall(r"`([^`]+)`", texts)
    ]


def test_the_page_has_sixty_forms():
    assert len(table()) >= 60 and {letter for _, letter in table()} == {"a", "b", "c", None}


@pytest.mark.parametrize(("text", "letter"), table())
def test_the_letter_that_a_text_names(text, letter):
    assert letter_of(text) == letter
    found = score_cell(rule_of("option"), [text] * 4, [["(a)"], ["(b)"], ["(c)"], ["(d)"]])
    assert found.relaxed == (25 if letter else 0)


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("", None),
        ("`b`", "b"),
        ("I", "i"),
        ("The answer is I.", "i"),
        ("The answer is B. The answer is C.", None),
        ("<b>dog</b>", None),
        ("<b>A</b>", "a"),
        ("Ｂ", "b"),
        ("it’s b", "b"),
        ("option a dog", "a"),
        ("It cannot be the option b", None),
        ("b isn't right", None),
        ("A\nA man riding a horse", "a"),
        ("a 3-legged dog, b", "b"),
    ],
)
def test_more_forms(text, letter):
    assert letter_of(text) == letter


def test_the_text_of_an_option_counts_only_where_no_letter_stands_alone():
    def score(text):
        return score_cell(rule_of("scienceqa"), [text], [["B", "dog"]]).relaxed

    assert [score(text) for text in ("a dog", "C. dog", "not b, a dog", "(b) or (a), dog")] == [100, 0, 0, 0]


@pytest.mark.slow
def test_predictions_that_repeat_themselves_take_no_time():
    """Looking back to the start for each letter took half a minute for 10,000 of them."""
    begun = time.process_time()
    for text in ("a ", "b ", "(b) ", "i ", "<a>", "not ", "1,000", "ab."):
        long = text * 10_000
        letter_of(long), normalised(long), tokenise(long)
    assert time.process_time() - begun < 10
