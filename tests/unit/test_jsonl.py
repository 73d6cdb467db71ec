"""Rows and pictures that can't be used stop with their file and line; odd pictures are read as they are seen."""

from __future__ import annotations

import json

import pytest
from evertune.tasks.jsonl import check_pictures, open_picture, read_jsonl
from PIL import Image

from evertune.errors import DataError


@pytest.fixture
def folder(tmp_path):
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")
    return tmp_path


def write(folder, *rows):
    path = folder / "task.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return path


GOOD = {"image": "a.png", "instruction": "what?", "answer": "red"}


def test_rows(folder):
    first, second = read_jsonl(write(folder, GOOD, "", {**GOOD, "id": 7, "answer": "x"}))
    assert (first.id, first.answers, first.image) == ("1", ("red",), folder / "a.png")
    assert second.id == "7" and second.origin.endswith("task.jsonl:3")


def test_several_answers(folder):
    row = {"image": "a.png", "instruction": "what?", "answers": ["red", "crimson"]}
    assert read_jsonl(write(folder, row))[0].answers == ("red", "crimson")


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ("{", r"task.jsonl:2: not valid JSON \(column 2"),
        ("[1]", "task.jsonl:2: a row must be an object"),
        ({**GOOD, "anwser": "x"}, "task.jsonl:2: unknown key 'anwser'; did you mean 'answer'"),
        ({"image": "a.png", "instruction": "what?"}, "task.jsonl:2: a row has either"),
        ({**GOOD, "answers": ["x"]}, "task.jsonl:2: a row has either"),
        ({**GOOD, "answer": " "}, "task.jsonl:2: 'answer' must be"),
        ({**GOOD, "instruction": 3}, "task.jsonl:2: 'instruction' must be"),
        ({**GOOD, "image": "b.png"}, "task.jsonl:2: the picture .*b.png does not exist"),
        ({**GOOD, "image": "../x.png"}, "task.jsonl:2: the picture '../x.png' lies outside"),
        ({**GOOD, "image": "/etc/passwd"}, "task.jsonl:2: .*lies outside"),
        ({**GOOD, "id": "1"}, "task.jsonl:2: the id '1' stands at .*task.jsonl:1"),
        ({"image": "a.png", "instruction": "what?", "answers": []}, "task.jsonl:2: 'answers' must be"),
    ],
)
def test_bad_rows(folder, row, complaint):
    with pytest.raises(DataError, match=complaint):
        read_jsonl(write(folder, GOOD, row))


def test_missing_and_empty_files(folder):
    with pytest.raises(DataError, match="does not exist"):
        read_jsonl(folder / "none.jsonl")
    with pytest.raises(DataError, match="no rows"):
        read_jsonl(write(folder, ""))


def test_broken_pictures(folder):
    whole = (folder / "a.png").read_bytes()
    for content in (b"", b"not a picture", whole[: len(whole) // 2]):
        (folder / "a.png").write_bytes(content)
        with pytest.raises(DataError, match=r"task.jsonl:1: the picture .*a.png is broken"):
            check_pictures(read_jsonl(write(folder, GOOD)))


def test_pictures_are_read_as_seen(tmp_path):
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert open_picture(tmp_path / "clear.png", origin="").getpixel((0, 0)) == (255, 255, 255)
    Image.new("L", (4, 4), 9).save(tmp_path / "grey.png")
    assert open_picture(tmp_path / "grey.png", origin="").getpixel((0, 0)) == (9, 9, 9)
    turned = Image.new("RGB", (4, 2), "red")
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    assert open_picture(tmp_path / "turned.jpg", origin="").size == (2, 4)
