"""Own JSONL: rows that can't be used are named with file and line, and the others are read all the same."""

from __future__ import annotations

import json

import pytest
from reading_rows import colour, read, write_lines

from evertune.data import load_stream
from evertune.utils.errors import DataError

GOOD = {"image": "a.png", "instruction": "what?", "answer": "red"}


@pytest.fixture
def folder(tmp_path):
    colour(tmp_path, "a.png")
    return tmp_path


def write(folder, *rows):
    return write_lines(folder / "task.jsonl", *rows)


def test_rows(folder):
    (first, second), problems = read("jsonl", write(folder, GOOD, "", {**GOOD, "id": 7, "answer": "x"}))
    assert (first.id, first.answers, first.images) == ("1", ("red",), (folder / "a.png",))
    assert second.id == "7" and second.origin.endswith("task.jsonl:3") and not problems


def test_several_answers_and_images(folder):
    rows = [
        {"image": "a.png", "instruction": "what?", "answers": ["red", "crimson"]},
        {"images": ["a.png", "a.png"], "instruction": "same?", "answer": "yes"},
        {"instruction": "2 + 2?", "answer": "4"},
    ]
    (first, pair, text), _ = read("jsonl", write(folder, *rows))
    assert first.answers == ("red", "crimson")
    assert pair.images == (folder / "a.png",) * 2 and text.images == ()
    assert len({first.fingerprint, pair.fingerprint, text.fingerprint}) == 3


def test_a_json_list_a_mark_at_the_beginning_and_unusual_line_ends(folder):
    text = '\ufeff{"image": "a.png", "instruction": "one\u2028two", "answer": "אדום"}\r\n'
    (sample,), problems = read("jsonl", write(folder, text))
    assert sample.instruction == "one\u2028two" and sample.answers == ("אדום",) and not problems
    (folder / "list.json").write_text('[{"instruction": "q", "answer": "a"},\n {"instruction": "r", "answer": "b"}]')
    samples, _ = read("jsonl", folder / "list.json")
    assert [s.id for s in samples] == ["1", "2"] and samples[1].origin.endswith("list.json, row 2")


BAD = [
    ("{", "task.jsonl:2: not valid JSON (column 2"),
    ("[1]", "task.jsonl:2 must be an object"),
    ({**GOOD, "anwser": "x"}, "task.jsonl:2: unknown key 'anwser'; did you mean 'answer'"),
    ({"image": "a.png", "instruction": "what?"}, "task.jsonl:2: a row has either"),
    ({**GOOD, "answers": ["x"]}, "task.jsonl:2: a row has either"),
    ({**GOOD, "images": ["a.png"]}, "task.jsonl:2: a row has either"),
    ({**GOOD, "answer": " "}, "task.jsonl:2: 'answer' must be"),
    ({**GOOD, "instruction": 3}, "task.jsonl:2: 'instruction' must be"),
    ({**GOOD, "image": "../x.png"}, "task.jsonl:2: the image '../x.png' lies outside"),
    ({**GOOD, "image": "/etc/passwd"}, "task.jsonl:2: the image '/etc/passwd' lies outside"),
    ({**GOOD, "image": "C:\\x.png"}, "task.jsonl:2: the image 'C:\\x.png' lies outside"),
    ({**GOOD, "image": "a\0.png"}, "task.jsonl:2: the name of the image 'a\\x00.png' holds a NUL"),
    ({**GOOD, "instruction": "a\0b"}, "task.jsonl:2: the instruction 'a\\x00b' holds a NUL"),
    ({**GOOD, "answer": "\ud800"}, "task.jsonl:2: the answer '\\ud800' holds a NUL or half a character"),
    ({**GOOD, "instruction": "x" * 100_001}, "task.jsonl:2: the instruction has 100,001 characters"),
    ({**GOOD, "id": "1"}, "task.jsonl:2: the id '1' is already used at"),
    ('{"id": ' + "1" * 5000 + "}", "task.jsonl:2: not valid JSON (Exceeds the limit"),
    ("[" * 100_000, "task.jsonl:2: not valid JSON (nested more than 64 deep"),
    ({**GOOD, "id": [1]}, "task.jsonl:2: 'id' must be a text or a whole number"),
    ({"image": "a.png", "instruction": "what?", "answers": []}, "task.jsonl:2: 'answers' must be"),
]


@pytest.mark.parametrize(("row", "complaint"), BAD, ids=range(len(BAD)))
def test_bad_rows(folder, row, complaint):
    samples, problems = read("jsonl", write(folder, GOOD, row, {**GOOD, "id": "last"}))
    assert [s.id for s in samples] == ["1", "last"], "the others are read"
    assert len(problems) == 1 and complaint in problems[0]


def test_bytes_that_are_no_text(folder):
    path = folder / "task.jsonl"
    path.write_bytes(
        b'{"instruction": "q", "answer": "a"}\n{"instruction": "\xff"}\n{"instruction": "r", "answer": "b"}'
    )
    samples, problems = read("jsonl", path)
    assert len(samples) == 2 and "task.jsonl:2: not UTF-8 text" in problems[0]


def test_a_line_without_end_is_not_read_whole(folder, monkeypatch):
    monkeypatch.setattr("evertune.data.reading.LONGEST_LINE", 100)
    samples, problems = read("jsonl", write(folder, {**GOOD, "answer": "y" * 500}, GOOD))
    assert len(samples) == 1 and "task.jsonl:1: the line is longer" in problems[0]


def test_missing_and_empty_files(folder):
    stream = folder / "s.yaml"
    stream.write_text("name: s\ntasks: [{name: a, data: none.jsonl}]")
    with pytest.raises(DataError, match="none.jsonl can't be read"):
        load_stream(str(stream))
    (folder / "none.jsonl").write_text("\n")
    with pytest.raises(DataError, match="no rows"):
        load_stream(str(stream))


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("before", [{}, {"version": "1.0", "info": {"data": [1]}}])
def test_rows_under_data(tmp_path, indent, before):
    """Case 16, wrapped.json."""
    rows = [{"image": "a.png", "instruction": f"{n}?", "answer": "x"} for n in range(3)]
    (tmp_path / "t.json").write_text(json.dumps({**before, "data": rows, "after": 1}, indent=indent))
    samples, problems = read("jsonl", tmp_path / "t.json")
    assert [sample.instruction for sample in samples] == ["0?", "1?", "2?"] and not problems


@pytest.mark.parametrize("indent", [None, 1])
def test_coco_is_named(tmp_path, indent):
    """Case 16, captions.json: "unknown key 'annotations'; did you mean 'instruction'?"."""
    content = {"images": [{"id": 1, "file_name": "p1.png"}], "annotations": [{"image_id": 1, "caption": "a square"}]}
    (tmp_path / "captions.json").write_text(json.dumps(content, indent=indent))
    try:
        _, problems = read("jsonl", tmp_path / "captions.json")
    except DataError as problem:
        problems = [str(problem)]
    assert len(problems) == 1 and "COCO's layout" in problems[0] and "did you mean" not in problems[0]


def test_one_object_over_several_lines_is_no_rows(tmp_path):
    (tmp_path / "t.json").write_text(json.dumps({"rows": [{"a": 1}], "name": "x"}, indent=1))
    with pytest.raises(DataError, match=r"is one object \('rows', 'name' ...\): the rows must be a list"):
        read("jsonl", tmp_path / "t.json")
    (tmp_path / "u.json").write_text('{"image": "a.png", "instruction": "q", "answer": "x"}\n' * 2)
    assert len(read("jsonl", tmp_path / "u.json")[0]) == 2, "one object a line, whatever the ending"


def test_an_annotator_who_wrote_nothing_counts(tmp_path):
    rows = [{"instruction": "q", "answers": answers} for answers in (["yes", "", " ", "no"], ["", "yes"])]
    samples, problems = read("jsonl", write_lines(tmp_path / "t.jsonl", *rows))
    assert [sample.answers for sample in samples] == [("yes", "", "", "no")]
    assert len(problems) == 1 and "t.jsonl:2" in problems[0]


@pytest.mark.parametrize(
    ("answer", "message"), [(5, "not 5"), (None, "not None"), ("", "not ''"), (float("nan"), "not NaN")]
)
def test_what_an_answer_is_instead_of_a_text_is_said(tmp_path, answer, message):
    """As in every other format; a number of things that were counted is written in quotes."""
    _, problems = read("jsonl", write_lines(tmp_path / "t.jsonl", {"instruction": "How many?", "answer": answer}))
    assert f"t.jsonl:1: 'answer' must be a text that is not empty, {message}" in problems[0]
