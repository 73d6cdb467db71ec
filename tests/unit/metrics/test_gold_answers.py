"""What a reader lets through, its score can score: every format with every rule; nothing fails after training."""

from __future__ import annotations

import json

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from published import CASES

from evertune.data import load_stream
from evertune.metrics.boxes import gold_box
from evertune.metrics.rules import RULES, rule_of, score_cell
from evertune.tools.data import check
from evertune.tools.rescore import rescore
from evertune.tools.rescore.formats import FORMATS
from evertune.utils.errors import DataError, UserError

PLAIN = [name for name in RULES if not name.endswith("-ptb") and name not in ("meteor", "spice")]
"""Without Java; `test_captions.py` sends odd texts through the Java tokeniser."""
BOXES = ["[0.1, 0.2, 5e-05, 1E-3]", "[0, 0, 1, 1]", "[1, 2, 3, 4] of 640x480", "1, 2, 3, 4", "[1e308, 0, -1e308, 1]"]
NO_BOXES = ["left", "[1, 2, 3]", "[1e999, 0, 1, 1]", "[1, 2, 3, 4] of 0x5", f"[1, 2, 3, 4] of {'9' * 400}x5", "{}"]
TEXTS = st.one_of(
    st.sampled_from([*BOXES, *NO_BOXES, "A", "?", "\ud800", "\0", "1e400", "The", "\x85"]),
    st.text(max_size=10),
    st.tuples(*[st.floats()] * 4).map(lambda box: str(list(box))),
)
GOLDS = st.lists(TEXTS, min_size=1, max_size=3)
few = settings(
    max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.mark.parametrize("text", BOXES)
def test_boxes_in_every_notation(text):
    assert len(gold_box(text)) == 4


def test_exponents_in_gold_and_prediction():
    found = score_cell(rule_of("box"), ["[5e-05, 0, 1, 1E0]"], [["[5e-05, 0.0, 1.0, 1.0]"]])
    assert (found.strict, found.relaxed) == (100, 100)


@pytest.mark.parametrize("text", NO_BOXES)
def test_what_is_no_box_is_refused_with_one_line(text):
    with pytest.raises(UserError, match="is no box: write"):
        gold_box(text)


def as_jsonl(number, golds):
    return {"id": f"r{number}", "instruction": f"what {number}?", "answers": golds}


def as_llava(number, golds):
    return {"question_id": f"r{number}", "text": f"what {number}?", "answers": golds}


def as_grounding(number, golds):
    return {"question_id": f"r{number}", "image": "x.png", "text": f"what {number}?", "answer_bbox": golds[0]}


STREAMS = {"jsonl": as_jsonl, "llava": as_llava}


def written(folder, layout, rows, score):
    train = [STREAMS[layout](number, ["[0.1, 0.2, 0.3, 0.4]"]) for number in (98, 99)]
    for name, lines in {"train": train, "test": rows}.items():
        text = "\n".join(map(json.dumps, lines)) if layout == "jsonl" else json.dumps(lines)
        (folder / f"{name}.json").write_text(text)
    task = {"name": "a", "format": layout, "train": "train.json", "test": "test.json", "score": score}
    (folder / "s.yaml").write_text(yaml.safe_dump({"name": "s", "tasks": [task]}))
    return str(folder / "s.yaml")


@pytest.mark.slow
@pytest.mark.parametrize("layout", STREAMS)
@few
@given(golds=st.lists(GOLDS, min_size=1, max_size=3), score=st.sampled_from(PLAIN))
def test_a_stream_that_loads_can_be_scored(tmp_path, layout, golds, score):
    path = written(tmp_path, layout, [STREAMS[layout](number, texts) for number, texts in enumerate(golds)], score)
    try:
        test = load_stream(path).tasks[0].test
    except DataError as problem:
        assert "test.json" in str(problem)
        return
    references = [sample.answers for sample in test]
    assert len(references) == len(golds)
    for predicted in ("", "x", *(texts[0] for texts in references)):
        assert 0 <= score_cell(RULES[score], [predicted] * len(references), references).strict <= 1000


@pytest.mark.parametrize("case", [case for case in CASES if case.split == "test"], ids=str)
def test_published_rows_can_be_scored_or_are_refused(published, case):
    """By every rule, whether it was made for them or not."""
    for row in case.rows(published):
        for name in PLAIN:
            try:
                for answer in row.answers if RULES[name].check_gold else ():
                    RULES[name].check_gold(answer)
            except UserError:
                continue
            assert score_cell(RULES[name], [row.answers[0]], [row.answers]).relaxed >= 0


@pytest.mark.slow
def test_a_gold_box_that_is_none_stops_the_run_and_is_checked(tmp_path):
    rows = [as_jsonl(1, ["[0.1, 0.2, 5e-05, 0.8]"]), as_jsonl(2, ["the left one"])]
    path = written(tmp_path, "jsonl", rows, "box")
    with pytest.raises(DataError, match=r"test.json:2: the gold answer 'the left one' is no box"):
        load_stream(path)
    left = load_stream(path, skip_invalid=True)
    assert len(left.tasks[0].test) == 1 and left.skipped.counts == {"gold answer that can't be scored": 1}
    found = check(path)
    assert found.errors.counts == {"gold answer that can't be scored": 1}
    assert not check(written(tmp_path, "jsonl", rows, "exact")).errors.counts, "another rule takes any text"


def question(number, golds):
    return {"question_id": number, "answer": golds}


LAYOUTS = {
    "questions": lambda golds: [question(n, texts) for n, texts in enumerate(golds)],
    "grounding": lambda golds: [{"question_id": n, "answer_bbox": texts[0]} for n, texts in enumerate(golds)],
    "textvqa": lambda golds: {"data": [question(n, texts) for n, texts in enumerate(golds)]},
    "vqav2": lambda golds: {
        "annotations": [
            {"question_id": n, "answers": [{"answer": text} for text in texts]} for n, texts in enumerate(golds)
        ]
    },
    "gqa": lambda golds: {str(n): {"answer": texts[0]} for n, texts in enumerate(golds)},
    "scienceqa": lambda golds: {str(n): {"choices": texts, "answer": 0} for n, texts in enumerate(golds)},
    "coco": lambda golds: {
        "annotations": [{"image_id": n, "caption": text} for n, texts in enumerate(golds) for text in texts]
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in FORMATS if FORMATS[name].read.__name__ in LAYOUTS])
@few
@given(golds=st.lists(GOLDS, min_size=1, max_size=3), score=st.sampled_from(PLAIN))
def test_a_gold_file_that_is_read_can_be_scored(tmp_path, monkeypatch, name, golds, score):
    monkeypatch.setattr("evertune.tools.rescore.peers.SEVEN", ("bleu-1",))  # the others need Java
    gold, file = tmp_path / "gold.json", tmp_path / "merge.jsonl"
    gold.write_text(json.dumps(LAYOUTS[FORMATS[name].read.__name__](golds)))
    file.write_text("\n".join(json.dumps({"question_id": n, "text": texts[0]}) for n, texts in enumerate(golds)))
    try:
        found = rescore(file, format=name, gold=gold, scores=[score])
    except DataError as problem:
        assert str(gold) in str(problem) and "is no box" in str(problem), problem
    else:
        assert found.ours[0].relaxed >= found.ours[0].strict
