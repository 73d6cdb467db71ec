"""Replay: how many samples are kept, of which tasks, and that a buffer never grows."""

from __future__ import annotations

import json

import pytest

from evertune.errors import UserError
from evertune.lmm.weights import copy_of
from evertune.methods import Replay
from evertune.methods.base import Context


def learn(replay, tasks):
    plans = []
    for task in tasks:
        plans.append(list(replay.data_plan(task, task.train)))
        replay.after_task(task)
    return plans


def make(lmm, features, **options):
    replay = Replay(**options)
    replay.setup(Context(lmm=lmm, features=features, seed=5, start=copy_of(lmm.trainable())))
    return replay


def test_ratio(lmm, features, tasks):
    plans = learn(make(lmm, features, ratio=0.25), tasks)
    assert [len(plan) for plan in plans] == [8, 8 + 2, 8 + 4]
    assert {s.id for s in plans[2][8:10]} <= {s.id for s in tasks[0].train}
    assert {s.id for s in plans[2][10:]} <= {s.id for s in tasks[1].train}


def test_one_percent_of_a_small_task_is_one_sample(lmm, features, tasks):
    assert [len(plan) for plan in learn(make(lmm, features), tasks)] == [8, 9, 10]


def test_nothing_is_kept_at_ratio_zero(lmm, features, tasks):
    assert [len(plan) for plan in learn(make(lmm, features, ratio=0.0), tasks)] == [8, 8, 8]


def test_a_buffer_is_shared_out_and_never_grows(lmm, features, tasks):
    replay = make(lmm, features, buffer=5)
    plans = learn(replay, tasks)
    assert [len(plan) for plan in plans] == [8, 13, 13]
    assert sum(len(rows) for rows in replay.state_dict()["memory"].values()) == 5
    names = [s.id.split("-")[0] for s in plans[2][8:]]
    assert sorted(names) == ["0", "0", "0", "1", "1"]


def test_the_same_seed_keeps_the_same_samples(lmm, features, tasks):
    first, second = make(lmm, features, ratio=0.5), make(lmm, features, ratio=0.5)
    learn(first, tasks), learn(second, tasks)
    assert first.state_dict() == second.state_dict()
    assert json.loads(json.dumps(first.state_dict())) == first.state_dict(), "references, not tensors"


@pytest.mark.parametrize("options", [{"ratio": -0.1}, {"ratio": 1.1}, {"buffer": -1}, {"repeat": 0}])
def test_bad_options(options):
    with pytest.raises(UserError, match="replay"):
        Replay(**options)
