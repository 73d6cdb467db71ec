"""Rows that can't be used: one report of all and no training; with `skip_invalid` the rest, and what was left out."""

from __future__ import annotations

import json

import pytest
import yaml
from reading_rows import colour

from evertune import run
from evertune.cli.main import main
from evertune.data import load_stream
from evertune.utils.errors import DataError, UserError

ONE = range(1, 2)


@pytest.fixture
def broken(tmp_path):
    """A stream whose only task has every kind of mistake."""
    rows = []
    for number in range(16):
        name = colour(tmp_path, f"{number}.png", (16 * number, 0, 0))
        rows.append({"id": f"r{number}", "image": name, "instruction": "what?", "answer": "ab"[number % 2]})
    rows[3]["image"] = "gone.png"
    rows[5]["id"] = "r4"
    rows[6] = {**{key: rows[6][key] for key in ("id", "instruction", "answer")}, "images": ["6.png"] * 17}
    rows[7]["image"] = "../7.png"
    rows[8]["anwser"] = "x"
    (tmp_path / "9.png").write_bytes(b"no image")
    train = [*(json.dumps(row) for row in rows[:12]), "{", json.dumps({**rows[12], "id": "twin"})]
    (tmp_path / "train.jsonl").write_text("\n".join(train))
    (tmp_path / "test.jsonl").write_text("\n".join(json.dumps(row) for row in rows[12:]))
    path = tmp_path / "s.yaml"
    path.write_text(
        yaml.safe_dump({"name": "s", "tasks": [{"name": "a", "train": "train.jsonl", "test": "test.jsonl"}]})
    )
    return path


def test_one_report_of_everything(broken):
    with pytest.raises(DataError) as caught:
        load_stream(str(broken), decode=True, takes=ONE, model="random")
    message = str(caught.value)
    assert message.startswith("8 rows of 's' can't be used, and nothing was trained.") and "--skip-invalid" in message
    for place, complaint in {
        "train.jsonl:4": "gone.png does not exist",
        "train.jsonl:6": "the id 'r4' is already used at",
        "train.jsonl:7": "the row has 17 images; the model 'random' takes exactly 1",
        "train.jsonl:8": "lies outside",
        "train.jsonl:9": "did you mean 'answer'",
        "train.jsonl:10": "9.png is broken",
        "train.jsonl:13": "not valid JSON",
        "test.jsonl:1": "this very sample in training too",
    }.items():
        line = next(line for line in message.splitlines() if f"{place}: " in line)
        assert complaint in line


def test_the_rest_is_taken(broken):
    stream = load_stream(str(broken), decode=True, takes=ONE, skip_invalid=True)
    (task,) = stream.tasks
    assert [s.id for s in task.train] == ["r0", "r1", "r2", "r4", "r10", "r11"]
    assert [s.id for s in task.test] == ["r12", "r13", "r14", "r15"], "what is tested stays"
    assert len(stream.skipped) == 8 and stream.skipped.counts["missing image"] == 1
    kept = load_stream(str(broken), decode=True, takes=ONE, skip_invalid=True, limit=3)
    assert [s.id for s in kept.tasks[0].train] == ["r0", "r1", "r2"]


def test_many_of_a_kind_are_counted_and_five_are_shown(tmp_path):
    rows = [{"image": f"{number}.png", "instruction": "q", "answer": "a"} for number in range(9)]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    path = tmp_path / "s.yaml"
    path.write_text("name: s\ntasks: [{name: a, data: t.jsonl}]")
    with pytest.raises(DataError) as caught:
        load_stream(str(path))
    message = str(caught.value)
    assert "missing image: 9" in message and message.count("does not exist") == 5 and "... and 4 more" in message
    with pytest.raises(DataError, match="a' has no rows|can't be used|missing image"):
        load_stream(str(path), skip_invalid=True)


@pytest.mark.slow
def test_a_run_records_what_was_left_out(broken, tmp_path, capsys, monkeypatch):
    arguments = ["evertune", "run", str(broken), "--model", "random", "--out", str(tmp_path / "run")]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit) as end:
        main()
    message = capsys.readouterr()
    assert end.value.code == 2 and "8 rows of 's' can't be used" in message.err and not (tmp_path / "run").exists()
    result = run(str(broken), model="random", out=tmp_path / "run", skip_invalid=True, settings=["dtype=float32"])
    assert result.runs["sequential"].matrix.finished
    skipped = json.loads((tmp_path / "run" / "skipped.json").read_text())
    assert skipped["rows"] == 8 and len(skipped["problems"]) == 8 and skipped["problems"][0]["task"] == "a"
    assert json.loads((tmp_path / "run" / "provenance.json").read_text())["skipped"] == skipped["kinds"]
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["skip_invalid"] is True


def test_a_file_as_a_stream(tmp_path):
    rows = [{"image": colour(tmp_path, f"{n}.png", (n, 0, 0)), "instruction": "q", "answer": "a"} for n in range(5)]
    (tmp_path / "my photos.jsonl").write_text("\n".join(map(json.dumps, rows)))
    stream = load_stream(str(tmp_path / "my photos.jsonl"))
    assert stream.name == stream.tasks[0].name == "my-photos" and len(stream.tasks[0].train) == 4
    with pytest.raises(UserError, match="none.jsonl does not exist"):
        load_stream(str(tmp_path / "none.jsonl"))


def test_where_published_files_are(tmp_path):
    with pytest.raises(UserError, match=r"the folder that holds OKVQA, .* with --data FOLDER"):
        load_stream("b1")
    with pytest.raises(UserError, match="there is no such folder"):
        load_stream("b1", data=str(tmp_path / "none"))
    with pytest.raises(DataError, match=r"OKVQA does not exist. .*okvqa.allenai.org"):
        load_stream("b1", data=str(tmp_path))
    with pytest.raises(UserError, match="no task of 'parcel' has a 'root'"):
        load_stream("parcel", data=str(tmp_path))


def test_settings_that_decide_nothing_leave_old_runs_theirs():
    from evertune.runs.api import configure, resolved

    plain = resolved(configure("parcel", model="random"), "sequential")
    assert not {"data", "skip_invalid"} & plain.keys(), "runs of earlier versions go on"
    assert resolved(configure("parcel", model="random", data="x"), "sequential") == plain
    assert resolved(configure("parcel", model="random", skip_invalid=True), "sequential")["skip_invalid"] is True
