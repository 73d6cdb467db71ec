"""Any text may be said and any file may be given: scores stay in their range, readers answer with a UserError."""

from __future__ import annotations

import json
import math
from dataclasses import asdict

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evertune.metrics.cider import tokenise
from evertune.metrics.rules import RULES, score_cell
from evertune.metrics.vqa import normalise, normalise_m4c, reduced
from evertune.tools.rescore import rescore
from evertune.tools.rescore.formats import FORMATS
from evertune.utils.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore")
few = settings(
    max_examples=100, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

# Text as models write it and as they don't: marks, digits, brackets, all scripts, NULs, line ends of other systems.
MARKED = ["a", "the", "two", "Cant", "1,000", "3.5", "(B)", "[0.1, 0.2, 0.5, 0.8]", "'s", "\u2028", "\0"]
WORDS = st.sampled_from(MARKED)
TEXTS = st.one_of(st.text(max_size=40), st.lists(WORDS, max_size=8).map(" ".join))
PLAIN = [name for name in RULES if not name.endswith("-ptb") and name not in ("meteor", "spice")]


@pytest.mark.slow
@few
@given(TEXTS)
def test_normalisers_never_fail_and_settle(text):
    for normaliser in (normalise, reduced):
        once = normaliser(text)
        assert once == " ".join(once.split()) or not text.isascii()
        assert not any(word in ("a", "an", "the") for word in reduced(text).split())
    assert bool(normalise(text)) == bool(text.split())
    assert isinstance(normalise_m4c(text), str) and isinstance(tokenise(text), list)


@pytest.mark.slow
@few
@given(TEXTS, st.lists(TEXTS, min_size=1, max_size=10))
def test_scores_stay_in_their_range_and_empty_answers_are_never_right(prediction, golds):
    for name in PLAIN:
        answers = ["[0.1, 0.1, 0.5, 0.5]"] if name == "box" else golds
        cell = score_cell(RULES[name], [prediction, "", " \n"], [answers] * 3)
        assert all(0 <= score <= (10 if name == "cider" else 1) + 1e-9 for score in cell.each)
        assert cell.relaxed >= cell.strict - 1e-9, name
        assert cell.each[1:] == [0, 0] and math.isfinite(cell.strict) and math.isfinite(cell.relaxed)


@pytest.mark.slow
@few
@given(TEXTS)
def test_what_was_said_is_right_when_it_is_the_answer(text):
    for name in ("exact", "vqa", "textvqa", "normalised", "anls"):
        scored = score_cell(RULES[name], [text], [[text] * 4])
        # a text of nothing but commas and question marks is empty for M4C
        assert scored.strict == (100 if text.strip() and (name != "textvqa" or normalise_m4c(text)) else 0)


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXTS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["question_id", "text", "answer", "answers", "data", "annotations", "choices", "caption"]),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=12,
)
ROWS = st.lists(st.fixed_dictionaries({"question_id": st.integers(0, 3), "text": TEXTS, "answer": TEXTS}), max_size=4)


def check(file, gold, name):
    try:
        result = rescore(file, format=name, gold=gold, missing="wrong")
    except UserError as problem:
        assert str(problem)
    else:
        assert result.questions > 0
        json.dumps(asdict(result), allow_nan=False)


@pytest.mark.slow
@few
@given(st.binary(max_size=60), st.sampled_from(sorted(FORMATS)))
def test_any_bytes_as_a_file(tmp_path, content, name):
    (tmp_path / "merge.jsonl").write_bytes(content)
    (tmp_path / "gold.json").write_bytes(content)
    check(tmp_path / "merge.jsonl", tmp_path / "gold.json", name)


@pytest.mark.slow
@few
@given(JSON, JSON, st.sampled_from(sorted(set(FORMATS) - {"ucit-caption"})))
def test_any_json_as_a_file(tmp_path, answers, golds, name):
    (tmp_path / "merge.jsonl").write_text(json.dumps(answers), encoding="utf-8")
    (tmp_path / "gold.json").write_text(json.dumps(golds), encoding="utf-8")
    check(tmp_path / "merge.jsonl", tmp_path / "gold.json", name)


@pytest.mark.slow
@few
@given(ROWS, ROWS, st.sampled_from(sorted(set(FORMATS) - {"ucit-caption"})))
def test_any_answers_to_any_questions(tmp_path, answers, golds, name):
    lines = [json.dumps(row, ensure_ascii=False) for row in answers]
    (tmp_path / "merge.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (tmp_path / "gold.json").write_text(json.dumps(golds), encoding="utf-8")
    check(tmp_path / "merge.jsonl", tmp_path / "gold.json", name)
