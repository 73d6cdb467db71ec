"""LLaVA-style files: turns, images, ids and marks as the published files have them."""

from __future__ import annotations

import json

import pytest
from reading_rows import colour, read

from evertune.data import load_stream
from evertune.utils.errors import DataError


def turn(*turns):
    return [{"from": ("human", "gpt")[at % 2], "value": text} for at, text in enumerate(turns)]


def write(folder, rows, name="train.json"):
    path = folder / name
    path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return path


def test_a_conversation_is_a_sample_per_answered_turn(tmp_path):
    turns = turn("<image>\nWhat is it?", "a cat", "Which colour?", "grey", "Why?")
    (first, second), problems = read("llava", write(tmp_path, [{"id": "x", "image": "a.png", "conversations": turns}]))
    assert (first.id, first.instruction, first.answers) == ("x", "What is it?", ("a cat",))
    assert (second.id, second.answers) == ("x-2", ("grey",)), "a question without an answer is no sample"
    assert second.instruction == "What is it?\na cat\nWhich colour?"
    assert first.images == second.images == (tmp_path / "a.png",) and not problems


def test_what_the_assistant_says_first_is_dropped(tmp_path):
    turns = [{"from": "gpt", "value": "Hello!"}, *turn("What is it?\n<image>", "a cat")]
    (sample,), _ = read("llava", write(tmp_path, [{"id": 3, "image": "a.png", "conversations": turns}]))
    assert (sample.id, sample.instruction) == ("3", "What is it?")


def test_ids_may_be_missing_or_repeated_in_a_training_file(tmp_path):
    rows = [{"conversations": turn(f"{n}?", "x"), **({"id": "same"} if n % 2 else {})} for n in range(5)]
    samples, problems = read("llava", write(tmp_path, rows))
    assert [s.id for s in samples] == ["1", "same", "3", "same", "5"] and not problems


@pytest.mark.parametrize(
    ("image", "count"), [("a.png", 1), (["a.png", "b.png"], 2), (None, 0), ("", 0), ([], 0), (["./a.png"], 1)]
)
def test_no_image_one_or_several(tmp_path, image, count):
    for key in ("image", "images"):
        rows = [{"id": "1", key: image, "conversations": turn(f"{'<image>' * count} What?", "x")}]
        (sample,), _ = read("llava", write(tmp_path, rows))
        assert [path.name for path in sample.images] == ["a.png", "b.png"][:count]
        assert sample.instruction == "What?"


def test_a_test_file(tmp_path):
    rows = [
        {
            "question_id": 7,
            "image": "a.png",
            "text": "<image>What?\nShort.",
            "answer": "cat",
            "type": "2D",
            "size": [3, 4],
        },
        {"question_id": "8", "image": "a.png", "text": "Captions?", "answer": ["one", "two"]},
        {"question_id": "9", "image": "a.png", "text": "Where?", "answer_bbox": "[0, 0, 1, 1]"},
        {"question_id": "10", "text": "2 + 2?", "answer": 4},
    ]
    samples, problems = read("llava", write(tmp_path, rows, "test.json"))
    assert [s.id for s in samples] == ["7", "8", "9", "10"] and not problems
    assert [s.answers for s in samples] == [("cat",), ("one", "two"), ("[0, 0, 1, 1]",), ("4",)]
    assert samples[0].instruction == "What?\nShort." and samples[0].extras == {"type": "2D", "size": "[3, 4]"}
    lines = tmp_path / "test.jsonl"
    lines.write_text("\n".join(map(json.dumps, rows)))
    assert [s.answers for s in read("llava", lines)[0]] == [s.answers for s in samples]


BAD = [
    ({"conversations": turn("a")}, "row 2: 'conversations' has no answered turn"),
    ({"conversations": turn("a", "b", "c", "d")[::-1]}, None),
    ({"conversations": [{"from": "human", "value": "a"}] * 2}, "'from' must be 'gpt'"),
    ({"conversations": []}, "row 2: 'conversations' must be a list that is not empty"),
    ({"image": "a.png", "conversations": turn("<image>", "x")}, "must be more than <image>"),
    ({"conversations": turn("a", "")}, "'value' must be a text that is not empty"),
    ({"image": {"x": 1}, "conversations": turn("a", "b")}, "row 2: 'image' must be a text"),
    ({"image": "../a.png", "conversations": turn("a", "b")}, "row 2: the image '../a.png' lies outside"),
    ({"question_id": "1", "text": "a"}, "row 2: the row has no 'answer'"),
    ({"question_id": True, "text": "a", "answer": "b"}, "row 2: 'question_id' must be a text"),
    ({"id": "1"}, "row 2: a row has 'conversations' (to train on) or 'text'"),
    (["x"], "row 2 must be an object"),
]


@pytest.mark.parametrize(("row", "complaint"), BAD, ids=range(len(BAD)))
def test_bad_rows_are_named_and_the_others_read(tmp_path, row, complaint):
    good = [{"id": "a", "conversations": turn("q", "a")}, {"id": "z", "conversations": turn("q", "z")}]
    samples, problems = read("llava", write(tmp_path, [good[0], row, good[1]]))
    assert [s.answers[0] for s in samples if s.id in "az"] == ["a", "z"]
    assert len(problems) == (complaint is not None)
    assert complaint is None or complaint in problems[0]


def test_a_repeated_question_is_a_mistake(tmp_path):
    rows = [{"question_id": 1, "text": f"{n}?", "answer": "x"} for n in range(2)]
    samples, problems = read("llava", write(tmp_path, rows))
    assert len(samples) == 1 and "the id '1' is already used at" in problems[0]


def test_broken_json_names_line_and_column(tmp_path):
    path = tmp_path / "train.json"
    path.write_text('[\n{"id": 1, "conversations": []},\n{"id": 2, oops}]')
    with pytest.raises(DataError, match=r"train.json:3: not valid JSON \(column 11"):
        read("llava", path)


def test_a_task_of_two_files(tmp_path):
    names = [colour(tmp_path / "images", f"{n}.png", (n, 0, 0)) for n in range(4)]
    train = [{"image": name, "conversations": turn("<image>\nWhat?", "x")} for name in names[:3]]
    write(tmp_path, train)
    write(tmp_path, [{"question_id": 1, "image": names[3], "text": "What?", "answer": "y"}], "test.json")
    stream = tmp_path / "s.yaml"
    stream.write_text(
        "name: s\ntasks: [{name: a, format: llava, train: train.json, test: test.json, images: images, "
        'prompt: "Question: {instruction} Short answer:"}]'
    )
    (task,) = load_stream(str(stream), decode=True, takes=range(1, 2)).tasks
    assert (len(task.train), len(task.test)) == (3, 1)
    assert task.train[0].instruction == "Question: What? Short answer:"
