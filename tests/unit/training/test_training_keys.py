"""What decides a training: another setting is another training, for the cache and for a save inside a task."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from evertune.methods import EWC, Sequential, make_methods
from evertune.models.weights import fingerprint_of
from evertune.training.learner import Learner
from evertune.training.loop import Training

BASE = Training(epochs=2, batch_size=2, learning_rate=1e-2, save_every=1)
DECIDES = {
    "epochs": 2.5,
    "batch_size": 4,
    "gradient_accumulation_steps": 2,
    "learning_rate": 2e-2,
    "weight_decay": 0.1,
    "warmup_ratio": 0.4,
    "max_grad_norm": 0.5,
    "loss_mean": "token",
    "min_steps": 30,
    "group_by_image": True,
}
DECIDES_NOTHING = {"gradient_checkpointing": True, "save_every": 3}


@pytest.fixture
def learner(new_lmm, tmp_path, monkeypatch):
    """Makes learners with a model of their own, which share a cache."""
    monkeypatch.setenv("EVERTUNE_CACHE", str(tmp_path / "cache"))

    def made(folder, *, methods=None, training=BASE, dropout=False, **more):
        lmm = new_lmm(dropout=dropout)
        return Learner(lmm, methods or [Sequential()], folder=tmp_path / folder, training=training, **more)

    return made


def test_every_setting_of_a_training_is_asked_here():
    """A new field of `Training` says whether it decides the numbers."""
    assert {field.name for field in fields(Training)} == DECIDES.keys() | DECIDES_NOTHING.keys() | {"compile"}
    assert replace(BASE, compile=True).as_dict() != BASE.as_dict()  # not in DECIDES: to compile takes a minute
    assert all(getattr(BASE, name) != value for name, value in (DECIDES | DECIDES_NOTHING).items())


def test_a_cached_training_is_that_of_the_same_settings(learner, tasks):
    assert not learner("first").learn(tasks[0]).reused
    assert learner("again").learn(tasks[0]).reused
    for name, value in DECIDES_NOTHING.items():
        assert learner(name, training=replace(BASE, **{name: value})).learn(tasks[0]).reused, name
    for name, value in DECIDES.items():
        assert not learner(name, training=replace(BASE, **{name: value})).learn(tasks[0]).reused, name
    assert not learner("seed", seed=1).learn(tasks[0]).reused
    renamed = replace(tasks[0], name="renamed")
    assert not learner("name").learn(renamed).reused, "the task's name decides the order"
    fewer = replace(tasks[0], train=tasks[0].train[:-1])
    assert not learner("fewer").learn(fewer).reused
    other = replace(tasks[0].train[0], answers=("purple",))
    assert not learner("answer").learn(replace(tasks[0], train=(other, *tasks[0].train[1:]))).reused


class OnlyTheProjector(Sequential):
    """Trains less: another training, though everything else is the same."""

    def is_trainable(self, parameter):
        return "projector" in parameter


def test_a_cached_training_is_of_the_same_parameters(learner, tasks):
    assert not learner("all").learn(tasks[0]).reused
    assert not learner("some", methods=[OnlyTheProjector()]).learn(tasks[0]).reused


def interrupted(learner, task, *, after):
    """Stops in the step after the one of this number, which is saved."""

    def stop(step):
        if step.step == after + 1:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        learner.learn(task, on_step=stop)


def first_step(learner, task):
    seen = []
    learner.learn(task, on_step=lambda step: seen.append(step.step))
    return seen[0]


@pytest.mark.parametrize("name", [*DECIDES, "seed", "task", "methods", "data"])
def test_a_save_in_the_middle_is_of_the_same_training(name, learner, tasks):
    """Learners with models of their own: that of an interrupted one would differ by its weights alone."""
    interrupted(learner("run", reuse=False), tasks[0], after=2)
    changed = {
        "seed": {"seed": 1},
        "methods": {"methods": [OnlyTheProjector()]},
        **{field: {"training": replace(BASE, **{field: value})} for field, value in DECIDES.items()},
    }.get(name, {})
    task = {
        "task": replace(tasks[0], name="renamed"),
        "data": replace(tasks[0], train=tasks[0].train[:-1]),
    }.get(name, tasks[0])
    assert first_step(learner("run", reuse=False, **changed), task) == 1


@pytest.mark.parametrize("change", [{}, *({name: value} for name, value in DECIDES_NOTHING.items())], ids=str)
def test_a_save_in_the_middle_is_found_by_the_same_training(change, learner, tasks):
    interrupted(learner("run", reuse=False), tasks[0], after=2)
    assert first_step(learner("run", reuse=False, training=replace(BASE, **change)), tasks[0]) == 3


def test_a_save_in_the_middle_is_not_of_other_importances(learner, tasks):
    """The same weights, samples and settings; what is known of the task before is another."""

    def made():
        return learner("run", methods=[EWC(strength=50.0, samples=4)], reuse=False)

    made().learn(tasks[0])
    interrupted(made(), tasks[1], after=2)
    other = made()
    for value in other.methods[0].rule.importance.values():
        value.mul_(2.0)
    assert first_step(other, tasks[1]) == 1


@pytest.mark.parametrize("after", [1, 2, 3])
@pytest.mark.parametrize(("spec", "loss_mean"), [("sequential", "token"), ("ewc", "sample")])
def test_what_resumes_ends_with_the_same_bits_whatever_is_random_in_training(
    learner, tasks, tmp_path, spec, after, loss_mean
):
    """Dropout on purpose, and 20 samples in windows of six: the last is of two, one micro-batch."""
    training = Training(
        epochs=2.5, batch_size=3, gradient_accumulation_steps=2, learning_rate=1e-2, save_every=1, loss_mean=loss_mean
    )
    options = {"ewc": {"samples": 4}} if spec == "ewc" else None

    def made(folder):
        return learner(folder, methods=make_methods(spec, options), training=training, dropout=True, reuse=False)

    whole = made("whole")
    for task in tasks[:2]:
        whole.learn(task)
    made("parts").learn(tasks[0])
    interrupted(made("parts"), tasks[1], after=after)
    resumed = made("parts")
    assert first_step(resumed, tasks[1]) == after + 1
    assert fingerprint_of(resumed.lmm.trainable()) == fingerprint_of(whole.lmm.trainable())
    logs = [
        (tmp_path / folder / "stages" / "02-task-1" / "training.jsonl").read_text() for folder in ("whole", "parts")
    ]
    assert logs[0] == logs[1] and len(logs[0].splitlines()) == 4


def test_dropout_is_there(new_lmm, tasks, features):
    """Else the test before says nothing of what is random."""
    lmm = new_lmm(dropout=True)
    for parameter in lmm.trainable().values():
        parameter.data += 0.05
    batch = lmm.collate(tasks[0].train[:2], features.get(tasks[0].train[:2]))
    module = lmm.module().train()
    assert not module(batch).nll.equal(module(batch).nll)
    assert module.eval()(batch).nll.equal(module(batch).nll)


def test_the_order_of_a_task_depends_on_the_seed_and_its_name(learner, tasks):
    """The same samples under two names: two orders. Under one name: one, whatever was learned before."""
    ends = {}
    for folder, name, seed in (("a", "one", 0), ("b", "two", 0), ("c", "one", 0), ("d", "one", 1)):
        made = learner(folder, reuse=False, seed=seed)
        made.learn(replace(tasks[0], name=name))
        ends[folder] = fingerprint_of(made.lmm.trainable())
    assert ends["a"] == ends["c"]
    assert len(set(ends.values())) == 3
