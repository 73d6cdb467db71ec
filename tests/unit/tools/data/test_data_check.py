"""`data check`: every kind of mistake is found with its place, nothing else is; its exit code says what a run does."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import yaml
from commands import evertune
from PIL import Image
from reading_rows import write_lines
from skimage import data as photographs

from evertune.data import load_stream
from evertune.tools.data import check
from evertune.tools.data.overlap import repeated, shared
from evertune.tools.data.source import Hints
from evertune.utils.errors import UserError


def row(number, image, instruction="what?", answer="a", **more):
    return {"id": f"r{number}", "image": image, "instruction": instruction, "answer": answer, **more}


def kinds(problems):
    return {kind: count for kind, count, _ in problems.kinds()}


def messages(problems, kind):
    return [message for found, _, texts in problems.kinds() if found == kind for _, message in texts]


@pytest.fixture
def images(tmp_path):
    """Ten images of noise, each unlike the others; returns their names."""
    names = []
    for number in range(10):
        noise = np.random.default_rng(number).integers(0, 256, (9, 9, 3), np.uint8)
        Image.fromarray(noise).resize((64, 64)).save(tmp_path / f"{number}.png")
        names.append(f"{number}.png")
    return names


def write_stream(folder, **tasks):
    """A stream of tasks given as (training rows, test rows)."""
    entries = []
    for name, (train, test) in tasks.items():
        write_lines(folder / f"{name}-train.jsonl", *train)
        write_lines(folder / f"{name}-test.jsonl", *test)
        entries.append({"name": name, "train": f"{name}-train.jsonl", "test": f"{name}-test.jsonl"})
    path = folder / "s.yaml"
    path.write_text(yaml.safe_dump({"name": "s", "tasks": entries}))
    return path


@pytest.fixture
def sound(tmp_path, images):
    one = ([row(n, p) for n, p in enumerate(images[:3])], [row(n, p) for n, p in enumerate(images[3:5])])
    other = ([row(n, p) for n, p in enumerate(images[5:8])], [row(n, p) for n, p in enumerate(images[8:])])
    return write_stream(tmp_path, one=one, other=other)


@pytest.mark.parametrize("opened", [True, False])
def test_nothing_is_found_where_nothing_is(sound, opened):
    found = check(str(sound), decode=opened)
    assert [len(problems) for _, problems in found.levels()] == [0, 0, 0]
    assert found.tasks() == {
        "one": {"train": 3, "test": 2, "images": 5},
        "other": {"train": 3, "test": 2, "images": 5},
    }
    assert found.as_dict()["ok"]


def test_every_error_is_what_stops_a_run(tmp_path, images):
    train = [row(n, p) for n, p in enumerate(images[:8])]
    train[0]["image"] = "gone.png"
    train[1]["id"] = "r2"
    train[3]["anwser"] = 1
    train[4]["image"] = "../x.png"
    train[5]["answer"] = " "
    (tmp_path / "6.png").write_bytes((tmp_path / "6.png").read_bytes()[:150])
    (tmp_path / "7.png").write_bytes(b"")
    path = write_stream(tmp_path, one=([*train, "{", row(20, "9.png")], [row(1, "8.png"), row(2, "9.png")]))
    found = check(str(path))
    assert kinds(found.errors) == {
        "missing image": 1,
        "repeated id": 1,
        "unknown key": 1,
        "image outside": 1,
        "unusable answer": 1,
        "broken image": 2,
        "broken JSON": 1,
        "in training and in test": 1,
    }
    assert "one-test.jsonl:2: in training too" in messages(found.errors, "in training and in test")[0]
    assert "one-train.jsonl:10" in messages(found.errors, "in training and in test")[0]
    rest = load_stream(str(path), skip_invalid=True, decode=True)
    assert len(rest.skipped) == len(found.errors), "a run stops at the very same rows"


def test_overlap_within_a_task(tmp_path, images):
    train = [row(0, "0.png"), row(1, "1.png"), row(2, "2.png", "where?"), row(3, "3.png"), row(4, "3.png")]
    test = [row(0, "0.png"), row(1, "1.png", answer="b"), row(2, "2.png", "who?"), row(3, "4.png")]
    found = check(str(write_stream(tmp_path, one=(train, test))))
    assert kinds(found.errors) == {"in training and in test": 1}
    assert kinds(found.warnings) == {
        "a question of training and of test": 1,
        "image in training and in test": 1,
        "the same row twice in train": 1,
    }
    assert "one-test.jsonl:2" in messages(found.warnings, "a question of training and of test")[0]
    (found_text,) = messages(found.warnings, "image in training and in test")
    assert "one-test.jsonl:3: 2.png" in found_text and "one-train.jsonl:3: 2.png" in found_text
    (found_text,) = messages(found.warnings, "the same row twice in train")
    assert found_text.index("train.jsonl:5") < found_text.index("train.jsonl:4")


@pytest.mark.slow
def test_overlap_across_tasks(tmp_path, images):
    one = ([row(0, "0.png"), row(1, "1.png")], [row(0, "2.png")])
    test = [row(0, "0.png"), row(1, "1.png", "who?"), row(2, "6.png")]
    other = ([row(0, "2.png", answer="z"), row(1, "5.png")], test)
    found = check(str(write_stream(tmp_path, one=one, other=other)))
    assert not kinds(found.errors)
    assert kinds(found.warnings) == {"test question in another task's training": 2}
    assert kinds(found.notes) == {"test image in another task's training": 1}
    found_text = messages(found.warnings, "test question in another task's training")
    assert "one-test.jsonl:1: in training at" in found_text[0] and "other-train.jsonl:1" in found_text[0]
    assert "other-test.jsonl:1: in training at" in found_text[1] and "one-train.jsonl:1" in found_text[1]


def test_a_question_that_was_told_is_not_told_again_as_a_image(tmp_path, images):
    train, test = [row(0, "0.png"), row(1, "1.png")], [row(0, "0.png"), row(1, "2.png"), row(2, "0.png", "who?")]
    found = check(str(write_stream(tmp_path, one=(train, test))))
    assert kinds(found.errors) == {"in training and in test": 1} and not kinds(found.warnings)


@pytest.mark.slow
def test_copies_of_images(tmp_path, images):
    shutil.copy(tmp_path / "0.png", tmp_path / "copy.png")
    Image.fromarray(photographs.coffee()).save(tmp_path / "coffee.png")
    Image.fromarray(photographs.coffee()).resize((300, 200)).save(tmp_path / "coffee.jpg", quality=70)
    Image.fromarray(photographs.chelsea()).save(tmp_path / "cat.png")
    Image.fromarray(photographs.chelsea()).resize((150, 100)).save(tmp_path / "cat.jpg", quality=70)
    one = ([row(0, "0.png"), row(1, "copy.png", "who?"), row(2, "coffee.png")], [row(0, "coffee.jpg"), row(1, "5.png")])
    other = ([row(0, "6.png")], [row(0, "copy.png", "b"), row(1, "cat.png", "c")])
    third = ([row(0, "cat.jpg", "d")], [row(0, "8.png")])
    found = check(str(write_stream(tmp_path, one=one, other=other, third=third)))
    assert kinds(found.warnings) == {"nearly the same image in training and in test": 1}
    (found_text,) = messages(found.warnings, "nearly the same image in training and in test")
    assert "one-test.jsonl:1: coffee.jpg" in found_text and "one-train.jsonl:3: coffee.png" in found_text
    assert kinds(found.notes) == {
        "an image under two names": 1,
        "test image in another task's training": 1,
        "nearly the same image in another task's training": 1,
    }
    assert "copy.png is the same file as 0.png" in messages(found.notes, "an image under two names")[0]
    assert "cat.png, in training at" in messages(found.notes, "nearly the same image in another task's training")[0]


def test_without_images_names_stand_for_them(tmp_path):
    train, test = [row(0, "a.png"), row(1, "b.png")], [row(0, "a.png"), row(1, "./b.png"), row(2, "c.png")]
    found = check(str(write_stream(tmp_path, one=(train, test))), decode=False)
    assert kinds(found.errors) == {"in training and in test": 2}, "no image exists, and none was looked for"


def test_a_known_task_counts_too(tmp_path, images):
    old = ([row(0, "1.png")], [row(0, "2.png")])
    path = write_stream(tmp_path, one=([row(0, "0.png")], [row(0, "1.png")]), old=old)
    content = yaml.safe_load(path.read_text())
    content["known"] = [content["tasks"].pop()]
    path.write_text(yaml.safe_dump(content))
    assert kinds(check(str(path)).warnings) == {"test question in another task's training": 1}


def test_a_task_of_one_file_is_parted_as_a_run_would(tmp_path, images):
    write_lines(tmp_path / "t.jsonl", *[row(n, p) for n, p in enumerate(images)])
    found = check(str(tmp_path / "t.jsonl"))
    (task,) = load_stream(str(tmp_path / "t.jsonl")).tasks
    halves = [[sample.id for sample in half.samples] for half in found.halves]
    assert halves == [[sample.id for sample in side] for side in (task.train, task.test)]


def run_says(path):
    with pytest.raises(UserError) as refused:
        load_stream(str(path), decode=True)
    return str(refused.value)


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        ([row(n, "0.png", f"Question {n}?") for n in range(10)], "every row shows the same image"),
        ([{"instruction": "Say a colour.", "answer": f"{n}"} for n in range(10)], "the same instruction, and no image"),
        ([row(0, "0.png")], "one row"),
        ([row(0, "gone.png"), row(1, "1.png")], "gone.png does not exist"),
        ([row(0, "0.png"), row(0, "1.png")], "the id 'r0' is already used at"),
        ([], "has no rows"),
        (["{"], "not valid JSON"),
    ],
)
@pytest.mark.parametrize("alone", [True, False])
def test_what_stops_a_run_of_one_file_is_an_error(tmp_path, images, rows, complaint, alone):
    """Case 15: the file was sound for `data check`, and a run of it stopped."""
    path = write_lines(tmp_path / "one.jsonl", *rows)
    if not alone:
        path = tmp_path / "s.yaml"
        path.write_text("name: s\ntasks: [{name: t, data: one.jsonl}]")
    found = check(str(path))
    found_text = [message for _, _, texts in found.errors.kinds() for _, message in texts]
    assert any(complaint in message for message in found_text), found_text
    assert complaint in run_says(path)
    if all(isinstance(one, dict) for one in rows) and len(rows) == 10:
        assert sum(half["train"] for half in found.tasks().values()) == 10, "the rest is looked at all the same"


def test_broken_files_do_not_hide_one_another(tmp_path, images):
    path = write_stream(tmp_path, one=([row(0, "0.png")], [row(0, "1.png")]), two=([row(0, "2.png")], ["{"]))
    (tmp_path / "one-train.jsonl").unlink()
    found = check(str(path))
    assert kinds(found.errors) == {"missing file": 1, "broken JSON": 1}
    assert [(half.task, half.split) for half in found.halves] == [("one", "test"), ("two", "train")]


def test_a_row_without_a_image_among_others_is_said(tmp_path, images):
    """It is text alone, which may be meant or a slip; in a task of texts it is meant."""
    none = {"id": "n", "instruction": "q", "answer": "a"}
    found = check(str(write_stream(tmp_path, one=([row(0, "0.png"), none], [row(1, "1.png")]))))
    assert kinds(found.errors) == {} and kinds(found.notes)["no image in train"] == 1
    (found_text,) = messages(found.notes, "no image in train")
    assert "one-train.jsonl:2: the row has no image" in found_text
    texts = check(str(write_stream(tmp_path, two=([none], [{**none, "instruction": "other"}]))))
    assert not any("no image" in kind for kind in kinds(texts.notes))


def test_what_the_model_can_not_read(tmp_path, images, lmm):
    long = row(0, "0.png", "x" * 600)
    many = {"id": "n", "images": ["0.png"] * 17, "instruction": "q", "answer": "a"}
    fits = row(2, "1.png", "y" * 500, "b")
    found = check(str(write_stream(tmp_path, one=([long, many, fits], [row(0, "2.png")]))), lmm=lmm)
    assert kinds(found.errors) == {"wrong number of images": 1, "longer than the model can read": 1}
    (found_text,) = messages(found.errors, "longer than the model can read")
    assert "one-train.jsonl:1: " in found_text and "'random', which reads 512" in found_text
    tokens = (
        len(lmm.tokenizer("x" * 600 + "\na", add_special_tokens=False).input_ids)
        + 1
        + lmm.encode([Image.new("RGB", (5, 5))]).shape[1]
    )
    assert f" {tokens} tokens" in found_text
    for edge, errors in ((512, 0), (513, 1)):
        exact = row(0, "0.png", "x" * (600 - tokens + edge))
        again = check(str(write_stream(tmp_path, one=([exact], [row(0, "2.png")]))), lmm=lmm)
        assert len(again.errors) == errors


def test_long_texts_are_told(tmp_path, images):
    rows = [row(0, "0.png", answer="x" * 2_001), row(1, "1.png", "y" * 8_001), row(2, "2.png", "z" * 8_000)]
    found = check(str(write_stream(tmp_path, one=(rows, [row(0, "3.png")]))))
    assert kinds(found.warnings) == {"long answer": 1, "long instruction": 1}


@pytest.mark.slow
def test_five_are_shown_and_all_are_counted(tmp_path, images, capsys):
    rows = [row(n, f"gone-{n}.png") for n in range(9)]
    path = write_stream(tmp_path, one=([*rows, row(20, "0.png")], [row(0, "1.png")]))
    code, out, _ = evertune("data", "check", path, capsys=capsys)
    assert code == 1 and "missing image: 9" in out and out.count("does not exist") == 5 and "and 4 more" in out
    code, out, _ = evertune("data", "check", path, "--json", capsys=capsys)
    content = json.loads(out)
    assert code == 1 and not content["ok"] and content["counts"] == {"error": 9, "warning": 0, "note": 0}
    (finding,) = content["findings"]
    assert finding["count"] == len(finding["messages"]) == 9 and finding["messages"][0]["task"] == "one"


def test_warnings_do_not_fail(tmp_path, images, capsys):
    path = write_stream(tmp_path, one=([row(0, "0.png")], [row(0, "0.png", answer="b")]))
    code, out, _ = evertune("data", "check", path, capsys=capsys)
    assert code == 0 and "0 errors, 1 warning, 0 notes" in out


def test_what_would_move_the_cursor_is_spelt_out(tmp_path, capsys):
    write_lines(tmp_path / "t.jsonl", row(0, "a\u202e\x1b[31m.png"))
    code, out, _ = evertune("data", "check", tmp_path / "t.jsonl", capsys=capsys)
    assert code == 1 and "\x1b" not in out and "\u202e" not in out and "\\x1b" in out


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["parcell"], "did you mean 'parcel'"),
        (["none.jsonl"], "none.jsonl does not exist"),
        (["b1"], "--data FOLDER"),
        (["parcel", "--format", "llava"], "says itself how its files are read"),
        (["parcel", "--option", "x"], "write it as key=value"),
        (["."], "is a folder: say with --format"),
    ],
)
def test_mistakes_of_the_user(arguments, complaint, capsys):
    code, out, err = evertune("data", "check", *arguments, capsys=capsys)
    assert code == 2 and complaint in err and not out.strip()


def test_options_that_a_format_does_not_have(tmp_path, images):
    write_lines(tmp_path / "t.jsonl", row(0, "0.png"))
    with pytest.raises(UserError, match="see evertune show"):
        check(str(tmp_path / "t.jsonl"), hints=Hints(options={"x": 1}))


@pytest.mark.slow
def test_published_data(published, capsys):
    """The fixtures are so small that tasks share images; the folder of one data set is checked like a file."""
    found = check("b1", data=str(published))
    assert set(found.tasks()) == set("okvqa aokvqa gqa textcaps vqav2 ocrvqa flickr30k vizwiz textvqa".split())
    assert not len(found.errors) and not len(found.warnings)
    vqav2 = [published / "VQAv2", "--format", "vqav2", "--images", published / "COCO2014"]
    code, out, _ = evertune("data", "check", *vqav2, "--json", capsys=capsys)
    assert code == 0 and json.loads(out)["tasks"] == {"VQAv2": {"train": 3, "test": 3, "images": 4}}


def test_shared_and_repeated():
    ours, theirs = np.array([5, 3, 5, 9], "u8"), np.array([9, 4, 5, 10], "u8")
    assert [x.tolist() for x in shared(ours, theirs)] == [[0, 2], [3, 0]]
    assert [x.tolist() for x in shared(ours[:0], theirs)] == [[], []]
    later, first = repeated(np.array([7, 5, 7, 7, 5], "u8"))
    assert sorted(zip(later.tolist(), first.tolist(), strict=True)) == [(2, 0), (3, 0), (4, 1)]
    assert [len(x) for x in repeated(ours[:0])] == [0, 0]


@pytest.mark.slow
def test_what_is_left_is_promised_only_where_something_is(tmp_path, images, capsys):
    bad = row(9, "gone.png")
    for name, rows, promised in (("a", [bad, *(row(n, f"{n}.png") for n in range(3))], True), ("b", [bad, bad], False)):
        code, out, _ = evertune("data", "check", write_lines(tmp_path / f"{name}.jsonl", *rows), capsys=capsys)
        assert code == 1 and "A run would stop" in out and ("train on the rest" in out) is promised


def test_answers_that_are_cut_elsewhere_are_others(tmp_path):
    """`ab, c` and `a, bc` have the same letters."""
    rows = [{"instruction": "q", "answers": answers} for answers in (["ab", "c"], ["a", "bc"])]
    found = check(str(write_stream(tmp_path, one=(rows, [{"instruction": "r", "answer": "x"}]))))
    assert not len(found.errors) and not len(found.warnings)
    again = check(str(write_stream(tmp_path, one=([rows[0]] * 2, [{"instruction": "r", "answer": "x"}]))))
    assert kinds(again.warnings) == {"the same row twice in train": 1}
