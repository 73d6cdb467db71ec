"""Whose folder is it, and what does it hold now: runs at once, runs after a rollback, stages taught by hand."""

from __future__ import annotations

import json

import pytest

from evertune import UserError
from evertune import run as evertune_run
from evertune.data.source import Hints
from evertune.locks import alone
from evertune.upkeep import learn, rollback

SETTINGS = ["train.epochs=2", "train.learning_rate=0.01", "dtype=float32"]


def run(stream, out, **more):
    (matrix,) = evertune_run(str(stream), model="random", out=out, settings=SETTINGS, **more).matrices
    return matrix


def cells_asked(out):
    return (out / "ledger.jsonl").read_text().count('"event": "cell"')


def test_a_second_run_in_the_same_folder_is_told_who_is_at_it(toy_stream, tmp_path):
    out = tmp_path / "run"
    with alone(out), pytest.raises(UserError, match=r"run is in use by process \d+ on \S+, since 2"):
        run(toy_stream, out)
    assert run(toy_stream, out)["finished"]
    with alone(out):
        assert run(toy_stream, out)["finished"], "what is finished can be read while somebody works there"


def test_a_run_that_was_rolled_back_learns_again(toy_stream, tmp_path):
    out = tmp_path / "run"
    whole = run(toy_stream, out)
    rollback(out, to=1)
    asked = cells_asked(out)
    again = run(toy_stream, out)
    assert cells_asked(out) - asked == 6, "two rows of three were asked anew"
    assert again["R"] == whole["R"] and again["cells"] == whole["cells"]


def test_a_stage_that_was_taught_by_hand_is_not_taken_for_the_streams(toy_stream, tasks, tmp_path):
    out = tmp_path / "run"
    run(toy_stream, out)
    rollback(out, to=2)
    rows = [json.loads(line) for line in (toy_stream.parent / "task-0-train.jsonl").read_text().splitlines()]
    (tmp_path / "task-2.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows * 2))
    learn(out, str(tmp_path / "task-2.jsonl"), hints=Hints(images=str(tasks[0].train[0].images[0].parent)))
    with pytest.raises(UserError, match=r"stage 3 is 'task-2', which this stream does not teach there with these data"):
        run(toy_stream, out)
