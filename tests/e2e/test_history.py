"""Whose folder is it, and what does it hold now: runs at once, runs after a rollback, stages taught by hand."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import yaml
from matrices import matrices_of

from evertune import UserError
from evertune import run as evertune_run
from evertune.runs.callback import Callback
from evertune.service import learn, parsed, rollback
from evertune.tools.data.source import Hints
from evertune.training.learner import Learner
from evertune.utils.locks import alone

SETTINGS = ["train.epochs=2", "train.learning_rate=0.01", "dtype=float32"]


def run(stream, out, **more):
    (matrix,) = matrices_of(evertune_run(str(stream), model="random", out=out, settings=SETTINGS, **more))
    return matrix


def evaluated_cells(out):
    return (out / "ledger.jsonl").read_text().count('"event": "cell"')


def test_a_second_run_in_the_same_folder_is_told_who_is_at_it(toy_stream, tmp_path):
    out = tmp_path / "run"
    with alone(out), pytest.raises(UserError, match=r"run is in use by process \d+ on \S+, since 2"):
        run(toy_stream, out)
    assert run(toy_stream, out).finished
    with alone(out):
        assert run(toy_stream, out).finished, "what is finished can be read while somebody works there"


def test_a_run_that_was_rolled_back_learns_again(toy_stream, tmp_path):
    out = tmp_path / "run"
    whole = run(toy_stream, out)
    rollback(out, to=1)
    evaluated = evaluated_cells(out)
    again = run(toy_stream, out)
    assert evaluated_cells(out) - evaluated == 6, "two rows of three were evaluated again"
    assert again.R == whole.R and again.cells == whole.cells


def test_a_stage_that_was_taught_by_hand_is_not_taken_for_the_streams(toy_stream, tasks, tmp_path):
    out = tmp_path / "run"
    run(toy_stream, out)
    rollback(out, to=2)
    rows = [json.loads(line) for line in (toy_stream.parent / "task-0-train.jsonl").read_text().splitlines()]
    (tmp_path / "task-2.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows * 2))
    hints = Hints(images=str(tasks[0].train[0].images[0].parent))
    learn(out, str(tmp_path / "task-2.jsonl"), hints=hints, accept_if=parsed("gain>=-100"))
    with pytest.raises(UserError, match=r"stage 3 is 'task-2', which this stream does not teach there with these data"):
        run(toy_stream, out)


def stream_of(toy_stream, place, names):
    """The toy stream with the tasks `names`, in that order."""
    whole = yaml.safe_load(toy_stream.read_text())
    entries = {entry["name"]: entry for entry in whole["tasks"]}
    place.parent.mkdir(exist_ok=True)
    for path in toy_stream.parent.glob("*.jsonl"):
        shutil.copy(path, place.parent)
    place.write_text(yaml.safe_dump({"name": "toy", "tasks": [entries[name] for name in names]}))
    return place


@pytest.mark.parametrize("method", ["ewc", "eproj"])
def test_a_task_at_the_end_of_the_stream_is_added_to_a_finished_run(toy_stream, tmp_path, method):
    out, names = tmp_path / "run", ["task-0", "task-1", "task-2"]
    first = run(stream_of(toy_stream, tmp_path / "data" / "s.yaml", names[:2]), out, methods=method)
    taught = [path.stat().st_mtime_ns for path in sorted(out.glob("stages/*/done.json"))]
    stream, callback = stream_of(toy_stream, tmp_path / "data" / "s.yaml", names), WarningRecorder()
    added = run(stream, out, methods=method, callbacks=[callback])
    assert [path.stat().st_mtime_ns for path in sorted(out.glob("stages/*/done.json"))][:2] == taught
    assert f"{out} continues with tasks added to its stream: task-2" in callback.notices
    assert [row[:2] for row in added.R[:3]] == first.R
    wanted = run(toy_stream, tmp_path / "at-once", methods=method)
    assert replace(added, cost={}) == replace(wanted, cost={})
    evaluated = evaluated_cells(out)
    assert evaluated == 12, "nothing was asked twice"
    assert run(stream, out, methods=method) == added and evaluated_cells(out) == evaluated, "it is finished"
    prompts = json.loads((out / "provenance.json").read_text())["prompts"]
    assert list(prompts) == names


def test_an_addition_that_was_cut_off_is_no_finished_run(toy_stream, tmp_path, monkeypatch):
    out, names = tmp_path / "run", ["task-0", "task-1", "task-2"]
    run(stream_of(toy_stream, tmp_path / "data" / "s.yaml", names[:2]), out)
    stream = stream_of(toy_stream, tmp_path / "data" / "s.yaml", names)
    with monkeypatch.context() as patch:
        patch.setattr(Learner, "answers", lambda *_given, **_named: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(stream, out)
    assert run(stream, out).tasks == names


class WarningRecorder(Callback):
    def __init__(self):
        self.notices = []

    def on_warning(self, text):
        self.notices.append(text)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["task-0", "task-2", "task-1"], "its task 2 is 'task-1', that of the stream is 'task-2'"),
        (["task-2", "task-0", "task-1"], "its task 1 is 'task-0', that of the stream is 'task-2'"),
        (["task-0"], "the stream has no 'task-1' any more"),
    ],
)
def test_other_changes_of_the_stream_are_named(toy_stream, tmp_path, names, message):
    out = tmp_path / "run"
    run(stream_of(toy_stream, tmp_path / "data" / "s.yaml", ["task-0", "task-1"]), out)
    with pytest.raises(UserError, match=f"run holds a run of other data: {message}. Choose another folder"):
        run(stream_of(toy_stream, tmp_path / "data" / "s.yaml", names), out)


def test_a_method_that_learns_all_tasks_at_once_takes_no_more(toy_stream, tmp_path):
    out = tmp_path / "run"
    run(stream_of(toy_stream, tmp_path / "data" / "s.yaml", ["task-0", "task-1"]), out, methods="joint")
    before = (out / "config.yaml").read_bytes()
    stream = stream_of(toy_stream, tmp_path / "data" / "s.yaml", ["task-0", "task-1", "task-2"])
    with pytest.raises(UserError, match="joint teaches all tasks at once, so 'task-2' can't be added: choose another"):
        run(stream, out, methods="joint")
    assert (out / "config.yaml").read_bytes() == before


def test_what_was_taught_by_hand_is_the_added_task_or_is_said_not_to_be(toy_stream, tasks, tmp_path):
    out, images = tmp_path / "run", str(tasks[0].train[0].images[0].parent)
    names = ["task-0", "task-1", "task-2"]
    run(stream_of(toy_stream, tmp_path / "data" / "s.yaml", names[:2]), out)
    before = (out / "config.yaml").read_bytes()
    shutil.copy(toy_stream.parent / "task-0-train.jsonl", tmp_path / "task-2.jsonl")
    anyhow = parsed("gain>=-100")
    learn(out, str(tmp_path / "task-2.jsonl"), hints=Hints(images=images), accept_if=anyhow)
    stream = stream_of(toy_stream, tmp_path / "data" / "s.yaml", names)
    with pytest.raises(UserError, match="stage 3 is 'task-2', which this stream does not teach there with these data"):
        run(stream, out)
    assert (out / "config.yaml").read_bytes() == before
    rollback(out, to=2)
    assert run(stream, out).R == run(toy_stream, tmp_path / "at-once").R, "cells of the other task-2 are not its"
