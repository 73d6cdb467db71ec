"""Faults by injection: the n-th write, sync or rename fails, in every way; nothing is lost, nothing half there."""

from __future__ import annotations

import errno
import importlib.util
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

from evertune import UserError
from evertune import run as evertune_run
from evertune.methods import Sequential, make_methods
from evertune.models.weights import copy_of
from evertune.runs.callback import Callback
from evertune.training import gradients as pieces
from evertune.training.learner import Learner
from evertune.training.loop import Training
from evertune.utils.files import write_atomically
from evertune.utils.temporary_files import leftovers

SETTINGS = ["train.epochs=2", "train.learning_rate=0.01", "train.save_every=3", "dtype=float32", "ewc.samples=4"]


@pytest.fixture(scope="module")
def faults():
    """The script of the whole campaign."""
    path = Path(__file__).parents[2] / "scripts" / "faults.py"
    spec = importlib.util.spec_from_file_location("faults", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["faults"] = module  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


@pytest.mark.thorough
def test_whatever_fails_nothing_is_lost(faults, tmp_path):
    """The campaign in small: every 60th call that writes, each kind of fault in turn."""
    rows = list(faults.campaign(tmp_path, every=60, first=7))
    assert [row for row in rows if not row["good"]] == []
    assert len(rows) >= 5 and any(row["outcome"] == "stopped" for row in rows)
    assert len({row["kind"] for row in rows}) > 1


@pytest.mark.parametrize(
    ("call", "error", "short", "message"),
    [
        ("write", errno.ENOSPC, True, r"cannot write .*: No space left on device; free space"),
        ("fsync", errno.EIO, False, r"cannot write .*: Input/output error"),
        ("replace", errno.EROFS, False, r"cannot write .*: Read-only file system; .*before is still valid"),
        ("mkdir", errno.EROFS, False, r"cannot create the folder .*: Read-only file system; choose another place"),
    ],
)
def test_each_failure_says_what_where_and_what_to_do(faults, tmp_path, call, error, short, message):
    path = tmp_path / "new" / "matrix.json"
    if call != "mkdir":
        write_atomically(path, "before")
    with faults.failing(None) as calls:
        write_atomically(path, "before")
    at = calls.index(call) + 1
    if call == "mkdir":
        path.unlink()
        path.parent.rmdir()
    with faults.failing(faults.ImageFault(at, error, short=short)), pytest.raises(UserError, match=message):
        write_atomically(path, "new")
    assert call == "mkdir" or path.read_text() == "before"
    assert not leftovers(tmp_path)


def learned(lmm, tasks, folder, monkeypatch=None, fits=None):
    """Weights and log of a task; micro-batches above `fits` samples find no memory."""
    if fits:
        real = pieces.loss_of

        def loss_of(module, methods, batch, **more):
            if len(batch.samples) > fits:
                raise torch.OutOfMemoryError("out of memory")
            return real(module, methods, batch, **more)

        monkeypatch.setattr(pieces, "loss_of", loss_of)
    training = Training(epochs=2, batch_size=4, gradient_accumulation_steps=2, learning_rate=1e-3)
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
    settings = [
        *SETTINGS[:1],
        "train.learning_rate=1e18",
        "train.batch_size=2",
        "train.gradient_accumulation_steps=2",
        "dtype=float32",
    ]
    with pytest.raises(UserError, match=r"the (loss|gradient) is (nan|inf|-inf) at the samples"):
        evertune_run(str(toy_stream), model="random", out=tmp_path / "run", settings=settings)
    (row,) = [
        row
        for line in (tmp_path / "run" / "ledger.jsonl").read_text().splitlines()
        if (row := json.loads(line))["event"] == "not finite"
    ]
    assert row["stage"] == 1 and row["samples"] and row["what"] in ("loss", "gradient")


def test_data_that_changed_since_the_first_stage_are_refused(toy_stream, tmp_path):
    """The same YAML and the same files; one answer in them is another one."""
    folder = shutil.copytree(toy_stream.parent, tmp_path / "stream")
    out, rows = tmp_path / "run", folder / "task-1-train.jsonl"
    evertune_run(str(folder / "toy.yaml"), model="random", out=out, settings=SETTINGS[:-1])
    (out / "matrix.json").unlink()
    for text in (
        rows.read_text().replace('"answer": "', '"answer": "x', 1),
        "".join(rows.read_text().splitlines(True)[1:]),
    ):
        rows.write_text(text)
        with pytest.raises(UserError, match="run holds a run of other data: the samples of 'task-1' were others"):
            evertune_run(str(folder / "toy.yaml"), model="random", out=out, settings=SETTINGS[:-1])


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
    assert (tmp_path / "run" / "mid_task.safetensors").exists()
    seen = []
    learner(2e-3).learn(tasks[0], on_step=lambda step: seen.append(step.step))
    assert seen[0] == 1 and not (tmp_path / "run" / "mid_task.safetensors").exists()


def test_other_versions_at_resume_are_noted_once(toy_stream, tmp_path):
    class WarningRecorder(Callback):
        def __init__(self):
            self.changes = []

        def on_environment_changed(self, changes):
            self.changes += changes

    out, callback = tmp_path / "run", WarningRecorder()
    again = {"model": "random", "out": out, "settings": SETTINGS[:-1], "callbacks": [callback]}
    evertune_run(str(toy_stream), **again)
    provenance = json.loads((out / "provenance.json").read_text())
    (out / "provenance.json").write_text(json.dumps({**provenance, "torch": "1.0", "cpu": "abacus"}))
    for _ in range(2):
        (out / "matrix.json").unlink()
        evertune_run(str(toy_stream), **again)
    assert callback.changes == [f"torch 1.0, now {provenance['torch']}", f"cpu abacus, now {provenance['cpu']}"]
    (note,) = json.loads((out / "provenance.json").read_text())["resumed"]
    assert note["now"] == {"torch": provenance["torch"], "cpu": provenance["cpu"]} and note["after_stage"] == 3
