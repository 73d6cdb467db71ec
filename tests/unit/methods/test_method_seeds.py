"""What methods leave to chance is decided by the run's seed and the task's name: each of them, and nothing else."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import combinations

import pytest
import torch

from evertune.data.task import Task
from evertune.methods import EWC, MAS, OLora, OnlineEWC, Replay, Tir
from evertune.methods.base import Context
from evertune.models import load_lmm
from evertune.models.weights import copy_of
from evertune.training.learner import Learner
from evertune.training.loop import Training


@pytest.fixture
def long(tasks):
    """A task of 40 samples that can be told apart."""
    return Task("long", tuple(replace(s, id=f"{n}") for n, s in enumerate(tasks[0].train * 5)), tasks[0].test)


@pytest.fixture
def make(lmm, features):
    start = copy_of(lmm.trainable())

    def make(method, *, seed=0):
        method.setup(Context(lmm=lmm, features=features, seed=seed, start=start))
        return method

    return make


def importance_of(kind):
    def chosen(make, task, seed):
        method = make(kind(samples=6), seed=seed)
        seen = []
        one = {n: torch.ones_like(p) for n, p in method.context.parameters.items()}
        method.measure = lambda samples: seen.extend(s.id for s in samples) or one
        method.after_task(task)
        return seen

    return chosen


def kept(**options):
    def chosen(make, task, seed):
        method = make(Replay(**options), seed=seed)
        method.after_task(task)
        return [row["id"] for row in method.state_dict()["memory"][task.name]]

    return chosen


CHOICES = {
    "ewc": importance_of(EWC),
    "online-ewc": importance_of(OnlineEWC),
    "mas": importance_of(MAS),
    "ratio": kept(ratio=0.15),
    "buffer": kept(buffer=6),
    "reservoir": kept(buffer=6, choice="reservoir"),
}


@pytest.mark.parametrize("name", CHOICES)
def test_which_samples_are_taken(name, make, long):
    chosen = CHOICES[name]
    first = chosen(make, long, 0)
    assert len(set(first)) == 6
    random.seed(99), torch.manual_seed(99)
    assert chosen(make, long, 0) == first, "not by what was drawn before"
    others = [chosen(make, long, 1), chosen(make, replace(long, name="other"), 0), [s.id for s in long.train[:6]]]
    assert all(set(a) != set(b) for a, b in combinations([first, *others], 2))


def test_which_samples_are_replayed(make, tasks, long, monkeypatch):
    """With 18 places for 20 kept samples a random 18 are replayed, in each task others."""
    monkeypatch.setattr(Replay, "_places", lambda self, task, kept: dict.fromkeys(kept, 18))
    plans = {}
    for seed, name in ((0, "b"), (0, "b "), (0, "c"), (1, "b")):
        replay = make(Replay(ratio=0.5), seed=0)
        replay.after_task(long)
        replay.context = replace(replay.context, seed=seed)
        task = replace(tasks[1], name=name.strip())
        plans[seed, name] = [s.id for s in replay.data_plan(task, task.train)][len(task.train) :]
    assert plans[0, "b"] == plans[0, "b "]
    assert len({frozenset(plan) for plan in plans.values()}) == 3
    assert all(len(set(plan)) == len(plan) == 18 for plan in plans.values())


def test_random_owners_of_tir(make, tasks):
    names, owner = [task.name for task in tasks[:2]], {"w": torch.zeros(500, dtype=torch.int16)}

    def discounted(seed, name):
        tir = make(Tir(owner="random"), seed=seed)
        for task in tasks[:2]:
            tir.after_task(task)
        return tir.discounted(replace(tasks[2], name=name), {"w": torch.ones(500)}, owner, names)["w"]

    first = discounted(0, "task-2")
    assert torch.equal(first, discounted(0, "task-2"))
    for other in (discounted(1, "task-2"), discounted(0, "other")):
        assert 0.3 < (first != other).float().mean() < 0.7


def test_every_new_adapter_of_olora_is_another(tasks, tmp_path):
    """Of another task, seed or layer: none starts in the subspace of an earlier one."""

    def fresh(seed, number):
        lmm = load_lmm("random", seed=1, dtype="float32", device=torch.device("cpu"))
        learner = Learner(lmm, [OLora(r=2)], folder=tmp_path / f"{seed}{number}", training=Training(), seed=seed)
        first = copy_of(learner.lmm.trainable())
        learner.methods[0].after_task(tasks[0])
        learner.methods[0].before_task(tasks[number])
        return first, copy_of(learner.lmm.trainable())

    first, second = fresh(0, 1)
    others = [first, fresh(0, 2)[1], fresh(1, 1)[1]]
    downs = [name for name in second if name.endswith("down")]
    assert len(downs) == 6
    for a, b in combinations([second, *others], 2):
        assert all(abs(cosine(a[name], b[name])) < 0.5 for name in downs)
    for a, b in combinations(downs, 2):
        if second[a].shape == second[b].shape:
            assert abs(cosine(second[a], second[b])) < 0.5
    assert all(torch.equal(value, second[name]) for name, value in fresh(0, 1)[1].items())


def test_a_task_that_is_learned_again_gets_another_adapter_of_olora(tasks, tmp_path):
    """Not the start of its earlier one, in whose subspace it would begin; also after save and load."""

    def learner_of(folder):
        lmm = load_lmm("random", seed=1, dtype="float32", device=torch.device("cpu"))
        return Learner(lmm, [OLora(r=2)], folder=folder, training=Training(learning_rate=1e-4), reuse=False)

    starts, learner = [], learner_of(tmp_path)
    for task in (tasks[0], tasks[1], tasks[1], tasks[2], tasks[1]):
        learner.methods[0].before_task(task)
        starts.append(copy_of(learner.lmm.trainable()))
        learner.learn(task)
        learner = learner_of(tmp_path)
    for a, b in combinations(starts, 2):
        assert all(abs(cosine(a[name], b[name])) < 0.5 for name in a if name.endswith("down"))


def cosine(a, b):
    return float(torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0))
