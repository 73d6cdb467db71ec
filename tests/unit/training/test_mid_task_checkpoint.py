"""Saves inside a task: when they are made, what a damaged one is worth, what SIGTERM does."""

from __future__ import annotations

import os
import signal

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from evertune.methods import Sequential
from evertune.training import mid_task_checkpoint
from evertune.training.learner import Learner
from evertune.training.loop import Training
from evertune.training.mid_task_checkpoint import FILE, TrainingInterrupted


@pytest.fixture
def learner(new_lmm, tmp_path):
    def made(*, save_every=1):
        training = Training(epochs=2, batch_size=4, learning_rate=1e-2, save_every=save_every)
        return Learner(new_lmm(), [Sequential()], folder=tmp_path, training=training, reuse=False)

    return made


def steps_of(learner, task, at=None, do=None):
    """The numbers of the steps that are taken; `do` is called in step `at`."""
    seen = []

    def on_step(step):
        seen.append((step.step, (learner.folder / FILE).exists()))
        if step.step == at:
            do()

    learner.learn(task, on_step=on_step)
    return seen


def fail():
    raise InterruptedError


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def test_when_a_training_is_saved(learner, tasks, monkeypatch):
    """Whether there is a save before each step's own: from the N-th on, or never."""
    for save_every, wanted in ((1, [False, True, True, True]), (2, [False, False, True, True]), (0, [False] * 4)):
        made = learner(save_every=save_every)
        assert [there for _, there in steps_of(made, tasks[0])] == wanted, save_every
        assert not (made.folder / FILE).exists(), "gone when the task is done"
        made.rollback(0)
    made = learner(save_every=None)
    assert not any(there for _, there in steps_of(made, tasks[0])), "not in the first minute"
    made.rollback(0)
    monkeypatch.setattr(mid_task_checkpoint, "SECONDS_BETWEEN", 0.0)
    monkeypatch.setattr(mid_task_checkpoint, "SHARE", 0.0)
    assert [there for _, there in steps_of(learner(save_every=None), tasks[0])] == [False, True, True, True]


@pytest.mark.parametrize("damage", ["tensor", "cut", "empty", "key"])
def test_a_damaged_save_is_no_way_in(learner, tasks, damage):
    made = learner()
    with pytest.raises(InterruptedError):
        steps_of(made, tasks[0], at=3, do=fail)
    path = made.folder / FILE
    if damage == "tensor":
        with safe_open(path, framework="pt") as content:
            tensors, metadata = {name: content.get_tensor(name) for name in content.keys()}, content.metadata()  # noqa: SIM118
        name = next(name for name, tensor in tensors.items() if tensor.dtype == torch.float32)
        tensors[name] = tensors[name] + 1e-3
        save_file(tensors, path, metadata=metadata)
    else:
        data = path.read_bytes()
        path.write_bytes({"cut": data[:-9], "empty": b"", "key": data.replace(b"sha256", b"sha257", 1)}[damage])
    assert [step for step, _ in steps_of(learner(), tasks[0])] == [1, 2, 3, 4]


def test_sigterm_saves_after_the_step_and_the_task_resumes(learner, tasks):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(TrainingInterrupted) as stopped:
        steps_of(learner(save_every=0), tasks[0], at=2, do=terminate)
    assert stopped.value.message == "stopped by SIGTERM after step 2 of 4, which is saved" and stopped.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is before
    assert [step for step, _ in steps_of(learner(save_every=0), tasks[0])] == [3, 4]
    assert signal.getsignal(signal.SIGTERM) is before


def test_sigterm_in_the_last_step_stops_too(learner, tasks):
    with pytest.raises(TrainingInterrupted, match="143"):
        steps_of(learner(), tasks[0], at=4, do=terminate)
    made = learner()
    assert not made.stages, "the task is not done"
    assert [step for step, _ in steps_of(made, tasks[0])] == [4]
