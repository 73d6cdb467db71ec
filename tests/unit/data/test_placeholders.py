"""Marks (`<image>`, `<video>`) and images of a row agree, in every reader; nothing trains or scores blind."""

from __future__ import annotations

import csv
import json

import pytest
from reading_rows import colour, read, write_lines

from evertune.data import load_stream
from evertune.utils.errors import UserError


def turns_of(*texts):
    return [{"from": ("human", "gpt")[at % 2], "value": text} for at, text in enumerate(texts)]


def llava(folder, *rows):
    (folder / "t.json").write_text(json.dumps(list(rows)))
    return read("llava", folder / "t.json")


@pytest.mark.parametrize("key", ["image_path", "img", "image_file", "images_path", "photo_of_it"])
@pytest.mark.parametrize("value", ["p0.png", ["p0.png"]])
def test_an_image_under_another_key_is_an_error_of_its_row(tmp_path, key, value):
    """Case 02: the text says <image>, the key is not `image`; a question says no <image> at all."""
    train = {"id": 1, key: value, "conversations": turns_of("<image>\nWhich colour?", "red")}
    test = {"question_id": 2, key: value, "text": "Which colour?", "answer": "red"}
    samples, problems = llava(tmp_path, train, test, {"id": 3, "conversations": turns_of("2 + 2?", "4")})
    assert [sample.id for sample in samples] == ["3"], "a row of text alone is read"
    assert len(problems) == 2
    for problem in problems:
        assert f"'{key}'" in problem and "'image'" in problem and "p0.png" in problem


@pytest.mark.parametrize("key", ["img", "picture", "photos"])
@pytest.mark.parametrize("value", ["coco/000123", ["coco/000123"], [{"path": "coco/000123"}], {"url": "coco/000123"}])
def test_a_key_of_images_is_known_whatever_it_holds(tmp_path, key, value):
    """A question says no <image>, and the name has no ending: the row was read as text alone, and scored blind."""
    row = {"question_id": 2, key: value, "text": "Which colour?", "answer": "red"}
    samples, (problem,) = llava(tmp_path, row)
    assert not len(samples) and f"'{key}'" in problem and "coco/000123" in problem


def test_a_name_that_ends_like_no_image_is_found_by_its_mark(tmp_path):
    samples, problems = llava(tmp_path, {"id": 1, "pic": "abc", "conversations": turns_of("<image>\nWhich?", "red")})
    assert not len(samples) and "<image> stands once in the text, and the row has no image" in problems[0]


@pytest.mark.parametrize(
    ("images", "text", "complaint"),
    [
        ("a.png", "<image>\n<image>\nWhat changed?", "<image> stands 2 times in the text, and the row has 1 image"),
        (["a.png", "b.png"], "<image>\nWhat?", "<image> stands once in the text, and the row has 2 images"),
        (None, "<image>\nWhat?", "<image> stands once in the text, and the row has no image"),
        ("a.png", "<video>\nWhat happens?", "<video>"),
        (None, "<video>\nWhat happens?", "<video>"),
    ],
)
def test_marks_and_images_of_another_number(tmp_path, images, text, complaint):
    """In conversations and questions, own rows, tables and published test files."""
    image = {} if images is None else {"image": images}
    rows = [
        {"id": "1", **image, "conversations": turns_of(text, "red")},
        {"question_id": "2", **image, "text": text, "answer": "red"},
    ]
    samples, problems = llava(tmp_path, *rows)
    assert not len(samples) and len(problems) == 2 and all(complaint in problem for problem in problems)

    names = [images] if isinstance(images, str) else images or []
    own = write_lines(tmp_path / "own.jsonl", {"images": names, "instruction": text, "answer": "red"})
    samples, problems = read("jsonl", own)
    assert not len(samples) and len(problems) == 1 and complaint in problems[0]

    with (tmp_path / "t.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["image", "instruction", "answer"], ["|".join(names), text, "red"]])
    samples, problems = read("table", tmp_path / "t.csv", separator="|", prompt="Question: {instruction} Answer:")
    assert not len(samples) and len(problems) == 1 and complaint in problems[0]

    folder = tmp_path / "reasoning_train"
    folder.mkdir()
    (folder / "m.json").write_text(json.dumps([{"problem": text, "solution": "red", **image}]))
    samples, problems = read("ctbench", tmp_path, task="m")
    assert not len(samples) and len(problems) == 1 and complaint in problems[0]

    folder = tmp_path / "Instructions_Original" / "GQA"
    folder.mkdir(parents=True)
    (folder / "test.json").write_text(json.dumps([rows[1]]))
    (folder / "train.json").write_text(json.dumps([rows[0]]))
    for split in ("train", "test"):
        samples, problems = read("coin", tmp_path, task="GQA", split=split)
        assert not len(samples) and len(problems) == 1 and complaint in problems[0]


def test_a_video_key_is_an_error_of_its_row(tmp_path):
    rows = [
        {"id": 1, "video": "v.mp4", "conversations": turns_of("What happens?", "a ball rolls")},
        {"question_id": 2, "video": ["v.mp4"], "text": "What happens?", "answer": "a ball rolls"},
    ]
    samples, problems = llava(tmp_path, *rows)
    assert not len(samples) and len(problems) == 2 and all("video" in problem for problem in problems)


@pytest.mark.parametrize(
    ("count", "text", "wanted"),
    [
        (1, "<image>\nWhich?", "Which?"),
        (1, "<image>Which?", "Which?"),
        (1, "Which?\n<image>", "Which?"),
        (2, "<image>\n<image>\nSame?", "Same?"),
        (2, "<image>Is it <image>?", "Is it ?"),
        (1, "What does the tag <image> mean?", "What does the tag <image> mean?"),
        (0, "What does the tag <video> mean?", "What does the tag <video> mean?"),
        (1, "No mark?", "No mark?"),
    ],
)
def test_marks_of_own_rows_are_taken_out(tmp_path, count, text, wanted):
    """What leads a text or stands on a line of its own is a mark; a word within a sentence is text."""
    row = {"images": ["a.png"] * count, "instruction": text, "answer": "x"}
    (sample,), problems = read("jsonl", write_lines(tmp_path / "t.jsonl", row))
    assert sample.instruction == wanted and not problems
    (sample,), _ = read("jsonl", tmp_path / "t.jsonl", prompt="Question: {instruction} Answer:")
    assert sample.instruction == f"Question: {wanted} Answer:"


def test_a_mark_in_the_prompt_counts_too(tmp_path):
    path = write_lines(tmp_path / "t.jsonl", {"image": "a.png", "instruction": "Which?", "answer": "x"})
    (sample,), problems = read("jsonl", path, prompt="<image>\n{instruction}")
    assert sample.instruction == "Which?" and not problems
    samples, problems = read("jsonl", path, prompt="<image>\n<image>\n{instruction}")
    assert not len(samples) and "stands 2 times" in problems[0]


def test_a_turn_has_the_images_that_were_shown_up_to_it(tmp_path):
    turns = turns_of("<image>\nWhat is it?", "a cat", "And this?\n<image>", "a dog", "Which is larger?", "the dog")
    samples, problems = llava(tmp_path, {"id": "x", "image": ["a.png", "b.png"], "conversations": turns})
    assert ["".join(path.stem for path in sample.images) for sample in samples] == ["a", "ab", "ab"]
    assert not problems
    unmarked = turns_of("What are they?", "a cat and a dog", "Which is larger?", "the dog")
    samples, problems = llava(tmp_path, {"id": "x", "image": ["a.png", "b.png"], "conversations": unmarked})
    assert [len(sample.images) for sample in samples] == [2, 2] and not problems


def test_one_mark_for_the_images_of_a_published_row(tmp_path):
    """MLLM-CL trains rows of several images with one mark, by its authors' code; rows of one's own say one for each."""
    row = {"image": ["a.png", "b.png"], "conversations": turns_of("<image>\nSame?", "yes", "Why?", "so")}
    (tmp_path / "VP").mkdir()
    (tmp_path / "VP" / "train.json").write_text(json.dumps([row, {**row, "image": []}]))
    samples, problems = read("mllm-cl", tmp_path, task="VP")
    assert [len(sample.images) for sample in samples] == [2, 2] and len(problems) == 1 and "image" in problems[0]


def test_a_mark_in_an_answer_is_an_error(tmp_path):
    samples, problems = llava(tmp_path, {"image": "a.png", "conversations": turns_of("Draw it", "<image>")})
    assert not len(samples) and "answer" in problems[0] and "<image>" in problems[0]


def test_a_run_does_not_train_blind(tmp_path):
    rows = [{"id": n, "image_path": colour(tmp_path, f"{n}.png", (n, 0, 0))} for n in range(10)]
    rows = [{**row, "conversations": turns_of(f"<image>\nWhich {row['id']}?", "red")} for row in rows]
    (tmp_path / "t.json").write_text(json.dumps(rows))
    (tmp_path / "s.yaml").write_text("name: s\ntasks: [{name: t, format: llava, data: t.json}]")
    with pytest.raises(UserError, match="image under another key: 10"):
        load_stream(str(tmp_path / "s.yaml"))
