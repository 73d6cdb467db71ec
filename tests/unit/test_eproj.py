"""EProj: keys in closed form against gradient descent on the paper's loss, and routing by hand."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cosine_similarity, normalize

from evertune.errors import UserError
from evertune.lmm.weights import copy_of
from evertune.methods import EProj
from evertune.methods.base import Context
from evertune.methods.routers import key_of


def test_the_closed_form_is_the_optimum_of_the_key_loss():
    """0.1 Σ (1 - cos(q, k)), 2,000 steps at 5e-3, as in the paper."""
    generator = torch.Generator().manual_seed(0)
    queries = normalize(torch.randn(40, 16, generator=generator) + 0.7, dim=1)
    key = torch.randn(16, generator=generator, requires_grad=True)
    optimizer = torch.optim.Adam([key], lr=5e-3)
    for _ in range(2000):
        optimizer.zero_grad()
        (0.1 * (1 - cosine_similarity(queries, key[None])).sum()).backward()
        optimizer.step()
    torch.testing.assert_close(normalize(key.detach(), dim=0), key_of(queries), atol=2e-3, rtol=0)


@pytest.fixture
def eproj(lmm, tasks, features):
    method = EProj()
    method.setup(Context(lmm=lmm, features=features, seed=0, start=copy_of(lmm.trainable())))
    return method


def test_routing_by_hand(eproj, lmm, tasks, features):
    for task in tasks:
        eproj.after_task(task)
    sample = tasks[1].test[0]
    image = features.get([sample]).float().mean(1)[0]
    text = lmm.embed_texts([sample.instruction])[0]
    sums = {}
    for task in tasks:
        pictures = torch.stack([normalize(features.get([s]).float().mean(1)[0], dim=0) for s in task.train]).mean(0)
        words = torch.stack([normalize(lmm.embed_texts([s.instruction])[0], dim=0) for s in task.train]).mean(0)
        sums[task.name] = float(cosine_similarity(image, pictures, 0) + cosine_similarity(text, words, 0))
    assert eproj.route([sample]) == [max(sums, key=sums.get)]


def test_tasks_not_learned_yet_are_never_chosen(eproj, tasks):
    assert eproj.route(tasks[0].test) is None
    eproj.after_task(tasks[0])
    assert set(eproj.route([s for task in tasks for s in task.test])) == {tasks[0].name}


def test_each_expert_keeps_its_weights(eproj, lmm, tasks):
    saved = {}
    for number, task in enumerate(tasks):
        eproj.before_task(task)
        assert all(torch.equal(p, eproj.context.start[n]) for n, p in lmm.trainable().items()), "starts untouched"
        with torch.no_grad():
            for parameter in lmm.trainable().values():
                parameter.add_(number + 1)
        eproj.after_task(task)
        saved[task.name] = copy_of(lmm.trainable())
    for name, wanted in saved.items():
        eproj.activate(name)
        assert all(torch.equal(p, wanted[n]) for n, p in lmm.trainable().items())


def test_unknown_expert(eproj):
    with pytest.raises(UserError, match="no expert 'x'"):
        eproj.activate("x")
