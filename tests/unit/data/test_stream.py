"""Streams: the YAML of anybody's own, the shipped ones, splits that never overlap."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from evertune.data import load_stream, stream_names
from evertune.data.stream import stream_file
from evertune.utils.errors import DataError, UserError
from evertune.utils.files import digest


def write_task(folder, name, count=10, *, shade=0):
    rows = []
    for number in range(count):
        Image.new("RGB", (8, 8), (number, shade, 0)).save(folder / f"{name}-{number}.png")
        rows.append({"image": f"{name}-{number}.png", "instruction": "n?", "answer": str(number)})
    (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))


def write_stream(folder, text):
    path = folder / "s.yaml"
    path.write_text(text)
    return str(path)


def test_one_file_is_split_by_image(tmp_path):
    write_task(tmp_path, "a")
    stream = load_stream(write_stream(tmp_path, "name: s\ntasks: [{name: a, data: a.jsonl, test_share: 0.3}]"))
    (task,) = stream.tasks
    assert len(task.test) == 3 and len(task.train) == 7
    assert not {s.images[0] for s in task.train} & {s.images[0] for s in task.test}
    again = load_stream(write_stream(tmp_path, "name: s\ntasks: [{name: a, data: a.jsonl, test_share: 0.3}]"))
    assert again.fingerprint == stream.fingerprint


def test_train_and_test_files(tmp_path):
    write_task(tmp_path, "a")
    write_task(tmp_path, "b", 4, shade=9)
    stream = load_stream(write_stream(tmp_path, "name: s\ntasks: [{name: a, train: a.jsonl, test: b.jsonl}]"), limit=3)
    assert len(stream.tasks[0].train) == len(stream.tasks[0].test) == 3


def test_a_task_names_its_score(tmp_path):
    write_task(tmp_path, "a")
    plain = load_stream(write_stream(tmp_path, "name: s\ntasks: [{name: a, data: a.jsonl}]"))
    soft = load_stream(write_stream(tmp_path, "name: s\ntasks: [{name: a, data: a.jsonl, score: vqa}]"))
    assert (plain.tasks[0].score, soft.tasks[0].score) == ("exact", "vqa")
    assert plain.fingerprint != soft.fingerprint, "another score is another run"


@pytest.mark.slow
def test_known_tasks_come_first_and_change_the_fingerprint(tmp_path):
    for shade, name in enumerate("kab"):
        write_task(tmp_path, name, shade=shade)
    tasks = "tasks: [{name: a, data: a.jsonl}, {name: b, data: b.jsonl}]"
    plain = load_stream(write_stream(tmp_path, f"name: s\n{tasks}"))
    stream = load_stream(write_stream(tmp_path, f"name: s\nknown: [{{name: k, data: k.jsonl}}]\n{tasks}"), limit=2)
    assert [t.name for t in stream.columns] == ["k", "a", "b"] and [t.name for t in stream.tasks] == ["a", "b"]
    assert len(stream.known[0].train) == 2, "limited too"
    whole = load_stream(str(tmp_path / "s.yaml"))
    assert whole.tasks == plain.tasks and whole.fingerprint != plain.fingerprint
    assert plain.fingerprint == digest(*(task.fingerprint for task in plain.tasks)), "as it was before `known`"
    (tmp_path / "r.yaml").write_text(f"name: r\nreverse: {tmp_path / 's.yaml'}")
    back = load_stream(str(tmp_path / "r.yaml"))
    assert [t.name for t in back.columns] == ["k", "b", "a"]


def test_overlap_is_refused(tmp_path):
    write_task(tmp_path, "a")
    with pytest.raises(DataError, match="has this very sample in training too"):
        load_stream(write_stream(tmp_path, "name: s\ntasks: [{name: a, train: a.jsonl, test: a.jsonl}]"))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("name: s\ntasks: []", "no tasks"),
        ("name: s\ntaks: []", "unknown key 'taks'; did you mean 'tasks'"),
        ("name: s\ntasks: [{name: a, dta: x}]", "unknown key 'tasks.0.dta'; did you mean 'tasks.0.data'"),
        ("name: s\ntasks: [{name: a}]", "needs one of"),
        ("name: s\ntasks: [{name: ../a, data: x}]", "use letters"),
        ("name: s\ntasks: [{name: a, data: x},{name: a, data: y}]", "two tasks are called 'a'"),
        ("name: s\ntasks: [{name: a, build: digts}]", "unknown builder 'digts'; did you mean 'digits'"),
        ("name: s\ntasks: [{name: a, data: x, score: cidre}]", "unknown score 'cidre'; did you mean 'cider'"),
        ("name: s\nknown: [{name: a, data: x}]\ntasks: [{name: a, data: y}]", "two tasks are called 'a'"),
        ("name: s\nknown: [{name: a, data: x}]", "the stream has no tasks"),
        ("name: s\nreverse: parcel\nknown: [{name: a, data: x}]", "with 'reverse' the tasks are those of 'parcel'"),
        ("name: [", "s.yaml:1: not valid YAML"),
        ("- a", "expected 'key: value'"),
    ],
)
def test_bad_streams(tmp_path, text, complaint):
    with pytest.raises(UserError, match=complaint):
        load_stream(write_stream(tmp_path, text))


def test_unknown_names():
    with pytest.raises(UserError, match="unknown stream 'parcell'; did you mean 'parcel'"):
        load_stream("parcell")
    with pytest.raises(UserError, match="does not exist"):
        load_stream("none.yaml")
    with pytest.raises(UserError, match="limit must be at least 1"):
        load_stream("parcel", limit=0)


@pytest.mark.slow
def test_every_shipped_stream_is_valid_and_says_its_licences():
    from evertune.data.task_file import about_task

    for name in stream_names():
        content, _ = stream_file(name)
        for task in content.tasks:
            about = about_task(task)
            assert about["licence"] and about["citation"], f"{name}/{task.name}"


def test_the_reversed_stream_is_the_reverse():
    straight, back = stream_file("parcel")[0], stream_file("parcel-reversed")[0]
    assert [t.name for t in back.tasks] == [t.name for t in straight.tasks][::-1]
    assert 4 <= len(straight.tasks) <= 6


def test_a_file_of_rows_is_a_stream(tmp_path):
    """Case 16, `run roles.json`: "unknown stream"; `data check` and `learn` took it."""
    write_task(tmp_path, "a")
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    turns = [[{"from": "user", "value": r["instruction"]}, {"from": "assistant", "value": r["answer"]}] for r in rows]
    entries = [{"image": r["image"], "conversations": turn} for r, turn in zip(rows, turns, strict=True)]
    (tmp_path / "roles.json").write_text(json.dumps(entries))
    (tmp_path / "a.csv").write_text("image,instruction,answer\n" + "".join(",".join(r.values()) + "\n" for r in rows))
    wanted = load_stream(str(tmp_path / "a.jsonl")).tasks[0]
    for name in ("a.json", "roles.json", "a.csv"):
        (task,) = load_stream(str(tmp_path / name)).tasks
        for side in ("train", "test"):
            mine, theirs = getattr(task, side), getattr(wanted, side)
            assert [(s.images, s.instruction, s.answers) for s in mine] == [
                (s.images, s.instruction, s.answers) for s in theirs
            ]
    with pytest.raises(UserError, match="none.csv does not exist"):
        load_stream(str(tmp_path / "none.csv"))
