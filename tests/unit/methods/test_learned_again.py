"""A task that is learned again under its name: what is known of it is exchanged, and it is no earlier task itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from torch.nn.functional import normalize

from evertune.data.task import Task
from evertune.methods import EProj, Replay
from evertune.methods.routers import CalibratedRouter, CosineRouter, RidgeRouter
from evertune.methods.similarity import embed_task
from evertune.models.weights import copy_of


def hook(methods, task, *, learn=lambda: None):
    for method in methods:
        method.before_task(task)
    learn()
    for method in methods:
        method.after_task(task)


def vector(tensors):
    return np.concatenate([t.detach().double().numpy().ravel() for t in tensors.values()])


def test_tir_gives_what_is_learned_again_to_its_first_owner(lmm, tasks, set_up, jolt):
    """Importances from outside, three tasks, the first again, then a fourth: owners, maximum and discount by hand."""
    tir, ewc = methods = set_up("tir+ewc", {"ewc": {"strength": 2.0, "samples": 4}})
    given = [
        {n: torch.rand(p.shape, generator=torch.Generator().manual_seed(k)) for n, p in lmm.trainable().items()}
        for k in range(4)
    ]
    left = list(given)
    ewc.measure = lambda samples: left.pop(0)
    new = [vector(values) / vector(values).sum() for values in given]
    importance, owner = new[0], np.zeros(len(new[0]), int)
    hook(methods, tasks[0])
    for number in (1, 2, 0):
        for method in methods:
            method.before_task(tasks[number])
        s = {**tir.similarities(tasks[number])}
        factor = np.array([1 - s[name] for name in ewc.rule.tasks])
        if number == 0:
            assert factor[0] == 0, "of itself nothing is held"
        held = importance * factor[owner]
        np.testing.assert_allclose(vector(ewc.rule.held()), held, rtol=1e-4, atol=1e-12)
        for method in methods:
            method.after_task(tasks[number])
        raw = new[3] if number == 0 else new[number]
        owner, importance = np.where(raw > held, number, owner), np.maximum(raw, held)
        assert (vector(ewc.rule.owner) != owner).mean() < 1e-3
        np.testing.assert_allclose(vector(ewc.rule.importance), importance, rtol=1e-4, atol=1e-12)
    assert set(owner) == {0, 1, 2} and ewc.rule.tasks == ["task-0", "task-1", "task-2"]
    fourth = replace(tasks[1], name="fourth")
    for method in methods:
        method.before_task(fourth)
    s = tir.similarities(fourth)
    held = importance * np.array([1 - s[f"task-{n}"] for n in range(3)])[owner]
    np.testing.assert_allclose(vector(ewc.rule.held()), held, rtol=1e-3, atol=1e-12)


@pytest.mark.parametrize(
    "spec",
    [
        ("tir+ewc", {"ewc": {"samples": 2}}),
        ("eproj", {"eproj": {"init": "similar"}}),
        ("replay", {"replay": {"weighting": "similar"}}),
    ],
    ids=lambda spec: spec[0],
)
def test_it_is_as_similar_as_its_latest_samples(tasks, set_up, spec):
    """An embedding of the first time would say what the task was, not what it is."""
    methods = set_up(*spec)
    for task in (tasks[1], tasks[0]):  # the task itself came last
        hook(methods, task)
    other = replace(tasks[2], name="task-0")
    (keeper,) = (method for method in methods if "embeddings" in method.state_dict())
    before = dict(keeper.state_dict()["embeddings"]["task-0"])
    hook(methods, other)
    after = keeper.state_dict()["embeddings"]
    assert list(after) == ["task-1", "task-0"]
    wanted = embed_task(keeper.context.lmm, keeper.context.features, other.train)
    for modality, value in wanted.items():
        torch.testing.assert_close(after["task-0"][modality], value)
    assert not torch.equal(before["image"], after["task-0"]["image"])


def renamed(task, prefix):
    return Task(task.name, tuple(replace(s, id=f"{prefix}{s.id}") for s in task.train), task.test)


@pytest.mark.parametrize(
    "options",
    [
        {"ratio": 0.5},
        {"ratio": 0.5, "repeat": 3},
        {"buffer": 9},
        {"ratio": 0.5, "weighting": "similar"},
        {"buffer": 9, "choice": "reservoir"},
    ],
    ids=str,
)
def test_replay_does_not_replay_the_task_itself(tasks, context, options):
    """Its plan has the other tasks' samples only, as if it were new; the memory has the latest choice of it."""
    replay = Replay(**options)
    replay.setup(context)
    for task in tasks:
        hook([replay], task)
    memory = replay.state_dict()["memory"]
    counts = {name: options.get("repeat", 1) * len(rows) for name, rows in memory.items()}
    again = renamed(tasks[1], "again-")
    replay.before_task(again)
    plan = list(replay.data_plan(again, again.train))
    assert plan[: len(again.train)] == list(again.train)
    replayed = [s.id.split("-")[0] for s in plan[len(again.train) :]]
    assert set(replayed) == {"0", "2"} and len(replayed) == counts["task-0"] + counts["task-2"]
    replay.after_task(again)
    memory = replay.state_dict()["memory"]
    assert list(memory) == ["task-0", "task-1", "task-2"]
    if options.get("choice") == "reservoir":
        assert sum(map(len, memory.values())) == 9
    else:
        assert memory["task-1"] and all(row["id"].startswith("again-") for row in memory["task-1"])


@pytest.mark.parametrize("expand", ["always", "when-dissimilar", "when-separable"])
def test_an_expansion_learns_its_own_expert_again(lmm, tasks, context, jolt, expand):
    """A new one from the start point, or its own further; never another task's, and the others stay as they are."""
    method = EProj(expand=expand, router="calibrated", **({"threshold": 1.1} if expand == "when-dissimilar" else {}))
    method.setup(context)
    for number, task in enumerate(tasks):
        hook([method], task, learn=lambda number=number: jolt(0.05, number))
    assert len(method.state_dict()["experts"]) == 3, "these can be told apart"
    before = {name: copy_of(expert) for name, expert in method.state_dict()["experts"].items()}
    method.before_task(tasks[1])
    start = context.start if expand == "always" else before["task-1"]
    assert all(torch.equal(p, start[n]) for n, p in lmm.trainable().items())
    assert method.adds_to_loss() == (expand != "always")
    jolt(0.05, 9)
    method.after_task(tasks[1])
    after = method.state_dict()["experts"]
    assert list(after) == ["task-0", "task-1", "task-2"] == list(method.state_dict()["serves"])
    for name in after:
        same = all(torch.equal(value, before[name][n]) for n, value in after[name].items())
        assert same == (name != "task-1")


def queries(seed, *, n=40):
    def rows(width, seed):
        generator = torch.Generator().manual_seed(seed)
        return normalize(
            torch.randn(n, width, generator=generator) + 4 * torch.randn(1, width, generator=generator), dim=1
        )

    return {"image": rows(6, 2 * seed), "instruction": rows(4, 2 * seed + 1)}


def taught(router, *learned):
    for task, seed in learned:
        router.learn(task, queries(seed))
    return router


@pytest.mark.parametrize("kind", [CosineRouter, CalibratedRouter, lambda: RidgeRouter(ridge=0.1)])
def test_a_router_exchanges_what_it_knows_of_a_task(kind):
    """Learned anew from other queries, a task is where these are, and what it was before is not chosen any more."""
    router = taught(kind(), ("a", 1), ("b", 2), ("a", 3))
    assert router.tasks == ["a", "b"]
    assert set(router.choose(queries(3))) == {"a"} and set(router.choose(queries(2))) == {"b"}


def moved(*, to, n=40):
    """Queries of one scatter around a mean of their own."""
    generator = torch.Generator().manual_seed(7)
    rows = {"image": torch.randn(n, 6, generator=generator), "instruction": torch.randn(n, 4, generator=generator)}
    generator.manual_seed(to)
    return {m: v - v.mean(0) + torch.randn(1, v.shape[1], generator=generator) for m, v in rows.items()}


def test_the_ridge_counts_every_task_once():
    """Against scikit-learn on the latest queries of each task, also after the same queries twice more."""
    router = RidgeRouter(ridge=0.01)
    for task, to in (("a", 1), ("a", 2), ("b", 3), ("c", 4), ("b", 5), ("c", 4), ("c", 4)):
        router.learn(task, moved(to=to))
    latest = [moved(to=to) for to in (2, 5, 4)]
    X = np.vstack([np.hstack([q["image"], q["instruction"]]) for q in latest]).astype(np.float64)
    theirs = Ridge(alpha=0.01).fit(X, np.repeat(np.eye(3), 40, axis=0), sample_weight=np.full(120, 1 / 40))
    weights, bias = router.solved()
    np.testing.assert_allclose(weights.numpy(), theirs.coef_.T, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(bias.numpy(), theirs.intercept_, rtol=1e-5, atol=1e-7)


def test_the_covariance_of_the_same_queries_again_is_the_same():
    """But for its shrinkage, which is less with more samples."""
    routers = CalibratedRouter(), CalibratedRouter()
    for router, times in zip(routers, (1, 2), strict=True):
        for seed in (1, 2) * times:
            router.learn(f"task-{seed}", queries(seed, n=800))
    once, again = routers
    ours, theirs = again.covariance(), once.covariance()
    assert float((ours - theirs).abs().max()) < 0.05 * float(theirs.abs().max())
    assert again.choose(queries(1)) == once.choose(queries(1))
