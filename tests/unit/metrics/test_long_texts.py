"""Texts and tables of strangers whose time grew with the square of their length."""

from __future__ import annotations

import random
import re
import time
from contextlib import contextmanager

import pytest

from evertune.data.formats import Row
from evertune.data.row_checks import checked_instruction
from evertune.metrics import anls as nearness
from evertune.metrics.boxes import gold_box
from evertune.metrics.captions import common_subsequence
from evertune.metrics.matrix_files import read_matrix
from evertune.metrics.relaxed import QUOTES, SENTENCE_END, _is_alone
from evertune.metrics.rules import rule_of, score_cell
from evertune.tools.rescore.pairing import _question_in
from evertune.utils.errors import DataError, UserError


@contextmanager
def within(seconds):
    """Fail where the block took more of the processor."""
    begun = time.process_time()
    yield
    assert time.process_time() - begun < seconds


# A matrix


def refused(tmp_path, text, says):
    (tmp_path / "m.csv").write_text(text)
    with within(3), pytest.raises(UserError, match=says):
        read_matrix(tmp_path / "m.csv")


def test_cells_without_end(tmp_path):
    """A cell of 130,000 digits took 56 s where commas may be decimal; one of 131,073 characters was a traceback."""
    digits = "1" * 60_000
    refused(tmp_path, f"50;60\n{digits};70\n", r"m.csv:2: a cell of 60,000 characters; at most 1,000")
    refused(
        tmp_path,
        f"50,60\n{digits * 3},70\n",
        r"m.csv(:2: a cell of 180,000|: not a table behind line 1 \(field larger than)",
    )
    refused(tmp_path, f"50 60\n{digits * 3} 70\n", r"m.csv:2: a cell of 180,000 characters")
    refused(tmp_path, "1," * 1_000_001, r"m.csv: more than 1,000,000 cells: that is no matrix of scores")
    refused(tmp_path, "1 " * 1_000_001, r"m.csv: more than 1,000,000 cells")
    (tmp_path / "m.csv").write_text("\n".join(["a,b"] * 2))
    (tmp_path / "m.csv").open("ab").truncate(65 << 20)
    with pytest.raises(UserError, match="it has 65 MiB; at most 64 are read"):
        read_matrix(tmp_path / "m.csv")


@pytest.mark.slow
def test_many_titles_and_averages(tmp_path):
    titles = "".join(f"# {n}\n" for n in range(100_000)) + "Scores,,\n" * 5000
    (tmp_path / "m.csv").write_text(f"{titles}a,b,c\n1,2,3\n4,5,6\n7,8,9\n1,2,3\n")
    with within(4):
        assert read_matrix(tmp_path / "m.csv").R[1] == [4, 5, 6]
    header = ",".join(["a", "b"] + ["avg"] * 20_000)
    (tmp_path / "m.csv").write_text(f"{header}\n" + ("1,2" + ",3" * 20_000 + "\n") * 3)
    with within(4):
        assert read_matrix(tmp_path / "m.csv").R == [[1, 2]] * 3


# Scores


@pytest.mark.slow
def test_distances_are_those_of_the_table_of_all_cells():
    chance = random.Random(1)
    for _ in range(500):
        one, other = ("".join(chance.choices("abc é", k=chance.randrange(70))) for _ in range(2))
        row, common = list(range(len(other) + 1)), [0] * (len(other) + 1)
        for i, letter in enumerate(one, start=1):
            before, row = row, [i]
            shorter, common = common, [0]
            for j, wanted in enumerate(other, start=1):
                row.append(min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (letter != wanted)))
                common.append(shorter[j - 1] + 1 if letter == wanted else max(shorter[j], common[j - 1]))
        assert nearness.edit_distance(one, other) == row[-1]
        assert common_subsequence(one, other) == common[-1]


@pytest.mark.parametrize("name", ["anls", "rouge-l", "exact", "vqa", "option"])
def test_long_predictions_are_scored_in_seconds(name):
    one, other = ("".join(random.Random(seed).choices("ab ", k=9_000)) for seed in range(2))
    with within(2):
        score_cell(rule_of(name), [one, "(" * 50_000], [[other], ["(" * 25_000]])


@pytest.mark.slow
def test_answers_without_end(tmp_path):
    """Each is looked for in the prediction: of a million in a long one that took hours."""
    golds = [f"a{n}" for n in range(1001)]
    with pytest.raises(UserError, match="sample 1 has 1,001 gold answers; at most 1,000 are taken"):
        score_cell(rule_of("vqa"), ["x"], [golds])
    row = Row("1", (), {"instruction": "q"}, tuple(golds), origin="t.json, row 1")
    with pytest.raises(DataError, match="t.json, row 1: 1,001 answers; at most 1,000"):
        checked_instruction(row, prompt="{instruction}", allow_external_paths=False)
    with within(2):
        score_cell(rule_of("vqa"), [" ".join(golds[:1000])], [golds[:1000]])


def test_a_gold_box_and_a_prompt_without_end():
    with within(2), pytest.raises(UserError, match="is no box"):
        gold_box(" " * 90_000)
    assert _question_in("OCR tokens: a Question: b\nQuestion: c? Short answer: d Short answer:") == "b\nquestion: c?"
    assert (
        _question_in("OCR tokens: a\nQuestion: What?") == "ocr tokens: a"
        and _question_in("Question: x Short answer:") != "x"
    )
    with within(2):
        _question_in("OCR tokens: " + "Question: " * 50_000)


def test_between_very_long_texts_only_equality_counts():
    text = "a" * (nearness.LONGEST + 1)
    with within(2):
        assert nearness.anls(text, [text]) == 1
        assert nearness.anls(text, [text[:-1] + "b"]) == 0
        assert nearness.anls(text[:-1], [text[:-2] + "b"]) > 0.99
    words = ["a"] * 10_001
    assert common_subsequence(words, list(words)) == 10_001 and common_subsequence(words, words[1:]) == 0


def test_a_mark_that_stands_alone():
    quotes, ends = re.escape(QUOTES), re.escape(SENTENCE_END)
    chance = random.Random(1)
    for _ in range(5000):
        wanted, word = ("".join(chance.choices("'(.+", k=chance.randrange(1, most))) for most in (4, 8))
        alone = re.fullmatch(rf"[{quotes}]*{re.escape(wanted)}[{quotes}{ends}]*", word)
        assert _is_alone(wanted, word) == bool(alone), (wanted, word)
