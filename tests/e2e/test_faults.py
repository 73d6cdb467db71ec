"""Faults by injection: the n-th write, sync or rename fails, in every way; nothing is lost, nothing half there."""

from __future__ import annotations

import errno
import json
import os
import random

import pytest
import torch
from test_run import significant

from evertune import UserError, pieces
from evertune import run as evertune_run
from evertune.files import leftovers
from evertune.learner import Learner
from evertune.lmm.weights import copy_of
from evertune.loop import Training
from evertune.methods import Sequential, make_methods
from evertune.runner import Watcher
from evertune.upkeep.doctor import examine

SETTINGS = ["train.epochs=2", "train.learning_rate=0.01", "train.save_every=3", "dtype=float32", "ewc.samples=4"]


def run(stream, out, cache, monkeypatch):
    monkeypatch.setenv("EVERTUNE_CACHE", str(cache))
    evertune_run(str(stream), model="random", method="replay+ewc", out=out, settings=SETTINGS)
    return significant(out)


class Faults:
    """Counts calls of some functions of `os` and lets one of them fail."""

    def __init__(self, monkeypatch, at=None, error=errno.ENOSPC, short=False):
        self.calls = 0
        for name in ("write", "fsync", "replace"):
            real = getattr(os, name)
            monkeypatch.setattr(os, name, self.failing(real, name, at, error, short))

    def failing(self, real, name, at, error, short):
        def call(*given):
            self.calls += 1
            if self.calls != at:
                return real(*given)
            if short and name == "write":
                real(given[0], given[1][: len(given[1]) // 2])
            raise OSError(error, os.strerror(error))

        return call


def test_whatever_fails_nothing_is_lost(toy_stream, tmp_path, monkeypatch):
    """Every run is stopped by a fault at another call and gone on with; random calls, each kind of fault in turn."""
    with monkeypatch.context() as patch:
        counted = Faults(patch)
        whole = run(toy_stream, tmp_path / "whole", tmp_path / "cache", patch)
    assert counted.calls > 60
    choose, faults = random.Random(0), [errno.ENOSPC, errno.EROFS, errno.EIO]
    for number, at in enumerate(choose.sample(range(1, counted.calls // 2), 6)):
        out, cache = tmp_path / f"run-{number}", tmp_path / f"cache-{number}"
        with monkeypatch.context() as patch:
            Faults(patch, at=at, error=faults[number % 3], short=number % 2 == 0)
            with pytest.raises(UserError, match=r"cannot (write|create)"):
                run(toy_stream, out, cache, patch)
        assert not leftovers(out), "a file is whole or absent"
        assert run(toy_stream, out, cache, monkeypatch) == whole, f"fault {number} at call {at}"
        assert examine(out) == []


def learned(lmm, tasks, folder, monkeypatch=None, fits=None):
    """Weights and log of a task; micro-batches above `fits` samples find no memory."""
    if fits:
        real = pieces.loss_of

        def loss_of(module, methods, batch):
            if len(batch.samples) > fits:
                raise torch.OutOfMemoryError("out of memory")
            return real(module, methods, batch)

        monkeypatch.setattr(pieces, "loss_of", loss_of)
    training = Training(epochs=2, batch_size=4, accumulate=2, learning_rate=1e-3)
    learner = Learner(lmm, [Sequential()], folder=folder, training=training, seed=3, reuse=False)
    learner.learn(tasks[0])
    log = (folder / "stages" / "01-task-0" / "training.jsonl").read_text().splitlines()
    weights = copy_of(lmm.trainable())
    learner.load(0)
    return weights, [json.loads(line) for line in log]


@pytest.mark.parametrize("fits", [2, 1])
def test_out_of_memory_halves_the_micro_batch_and_not_the_result(lmm, tasks, tmp_path, monkeypatch, fits):
    whole, steps = learned(lmm, tasks, tmp_path / "whole")
    halves, others = learned(lmm, tasks, tmp_path / "halves", monkeypatch, fits)
    assert [row["pieces"] for row in others] == [4 // fits] * len(steps) and "pieces" not in steps[0]
    assert [row["loss"] for row in others] == pytest.approx([row["loss"] for row in steps], rel=1e-4)
    for name, value in whole.items():
        torch.testing.assert_close(halves[name], value, rtol=1e-3, atol=2e-5, msg=name)


def test_a_sample_that_fits_nowhere_is_said(lmm, tasks, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="one sample alone does not fit into memory"):
        learned(lmm, tasks, tmp_path / "none", monkeypatch, 0.5)


def test_what_is_not_finite_is_written_down(toy_stream, tmp_path):
    settings = [*SETTINGS[:1], "train.learning_rate=1e30", "train.batch_size=2", "train.accumulate=2", "dtype=float32"]
    with pytest.raises(UserError, match=r"the (loss|gradient) is (nan|inf|-inf) at the samples"):
        evertune_run(str(toy_stream), model="random", out=tmp_path / "run", settings=settings)
    (row,) = [
        row
        for line in (tmp_path / "run" / "ledger.jsonl").read_text().splitlines()
        if (row := json.loads(line))["event"] == "not finite"
    ]
    assert row["stage"] == 1 and row["samples"] and row["what"] in ("loss", "gradient")


def test_changed_data_and_gaps_are_refused(toy_stream, tmp_path):
    out = tmp_path / "run"
    evertune_run(str(toy_stream), model="random", out=out, settings=SETTINGS[:-1])
    text = toy_stream.read_text()
    rows = (toy_stream.parent / "task-1-train.jsonl").read_text().splitlines()
    (toy_stream.parent / "shorter.jsonl").write_text("\n".join(rows[:-1]))
    changed = toy_stream.parent / "changed.yaml"
    changed.write_text(text.replace("task-1-train.jsonl", "shorter.jsonl"))
    with pytest.raises(UserError, match=r"holds a run with (data|stream)="):
        evertune_run(str(changed), model="random", out=out, settings=SETTINGS[:-1])


def test_a_task_is_gone_on_with_after_a_stop(lmm, tasks, tmp_path):
    """A save of another training is no way in: the same folder, other settings, begins anew."""

    def learner(rate):
        training = Training(epochs=2, batch_size=2, learning_rate=rate, save_every=1)
        methods = make_methods("lwf")
        return Learner(lmm, methods, folder=tmp_path / "run", training=training, seed=3, reuse=False)

    def stop(step):
        if step.step == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        learner(1e-3).learn(tasks[0], on_step=stop)
    assert (tmp_path / "run" / "midway.safetensors").exists()
    seen = []
    learner(2e-3).learn(tasks[0], on_step=lambda step: seen.append(step.step))
    assert seen[0] == 1 and not (tmp_path / "run" / "midway.safetensors").exists()


def test_other_versions_at_resume_are_noted_once(toy_stream, tmp_path):
    class Told(Watcher):
        def __init__(self):
            self.changes = []

        def resumed_elsewhere(self, changes):
            self.changes += changes

    out, told = tmp_path / "run", Told()
    again = {"model": "random", "out": out, "settings": SETTINGS[:-1], "watcher": told}
    evertune_run(str(toy_stream), **again)
    stamp = json.loads((out / "stamp.json").read_text())
    (out / "stamp.json").write_text(json.dumps({**stamp, "torch": "1.0", "cpu": "abacus"}))
    for _ in range(2):
        (out / "matrix.json").unlink()
        evertune_run(str(toy_stream), **again)
    assert told.changes == [f"torch 1.0, now {stamp['torch']}", f"cpu abacus, now {stamp['cpu']}"]
    (note,) = json.loads((out / "stamp.json").read_text())["resumed"]
    assert note["now"] == {"torch": stamp["torch"], "cpu": stamp["cpu"]} and note["after_stage"] == 3
