"""HiDe and DISCO: what a layer computes against NumPy matrices, the weights, one task is that LoRA, broken variants."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from evertune.methods import Context, Disco, Hide, adapted, make_methods
from evertune.methods.hide import MERGED
from evertune.models import load_lmm
from evertune.models.adapters import mixture
from evertune.models.weights import copy_of
from evertune.utils.errors import UserError


@pytest.fixture
def made(tasks, store_of):
    """A method that has learned some tasks, by moves of its weights at random."""

    def make(method, count=2):
        lmm = adapted(load_lmm("random", seed=1, dtype="float32", device=torch.device("cpu")), [method], seed=0)
        method.setup(Context(lmm=lmm, features=store_of(lmm, tasks), seed=0, start=copy_of(lmm.trainable())))
        for number, task in enumerate(tasks[:count]):
            method.before_task(task)
            generator = torch.Generator().manual_seed(number)
            with torch.no_grad():
                for parameter in lmm.trainable().values():
                    parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
            method.after_task(task)
        return method

    return make


def products(method):
    """By task and layer: B and A, float64."""
    found = {}
    for task in method._router.tasks:
        method.activate(task)
        found[task] = {
            path: tuple(part.detach().double().numpy().copy() for part in adapter.factors())
            for path, adapter in method.context.lmm.adapters.items()
        }
    return found


def computed(method, weights):
    """What each adapter adds to an input while the experts are mixed."""
    lmm, found = method.context.lmm, {}
    with mixture(lmm, method.activate, weights, of_layer=method.layer_weights):
        for path, adapter in lmm.adapters.items():
            with torch.no_grad():
                found[path] = adapter(torch.eye(adapter.down.shape[1])).double().numpy().T
    return found


def wanted(method, weights, *, merge):
    """s times the matrix of each layer, from the experts' own matrices."""
    own, result = products(method), {}
    for path, adapter in method.context.lmm.adapters.items():
        ups, downs = zip(*(own[task][path] for task in weights), strict=True)
        if path in getattr(method, "_weighed", own[next(iter(own))]):
            matrix = sum(w * up @ down for w, up, down in zip(weights.values(), ups, downs, strict=True))
        elif merge == "product-of-sums":
            matrix = sum(ups) @ sum(downs)
        else:
            matrix = sum(up @ down for up, down in zip(ups, downs, strict=True))
        result[path] = adapter.scale * matrix
    return result


def agree(found, expected):
    return all(np.allclose(found[path], expected[path], rtol=1e-4, atol=1e-4) for path in expected)


@pytest.mark.parametrize("merge", ["product-of-sums", "sum-of-products"])
def test_every_layer_of_hide(made, merge):
    method, weights = made(Hide(r=2, merge=merge)), {"task-0": 0.8, "task-1": 0.2}
    last = {path for path in method.context.lmm.adapters if "layers.1." in path}
    assert method._weighed == last and 0 < len(last) < len(method.context.lmm.adapters)
    found = computed(method, weights)
    assert agree(found, wanted(method, weights, merge=merge))
    other = "sum-of-products" if merge == "product-of-sums" else "product-of-sums"
    assert not agree(found, wanted(method, weights, merge=other)), "the two merges differ"


def test_every_layer_of_disco(made):
    method, weights = made(Disco(r=2)), {"task-0": 0.8, "task-1": 0.2}
    assert all(".mlp." in path for path in method.context.lmm.adapters)
    assert agree(computed(method, weights), wanted(method, weights, merge=""))


class WeighsEverywhere(Hide):
    def layer_weights(self, layer, weights):
        return weights


class MergesEverywhere(Hide):
    def layer_weights(self, layer, weights):
        return {MERGED: 1.0}


@pytest.mark.parametrize("broken", [WeighsEverywhere, MergesEverywhere])
def test_a_broken_variant_fails(made, broken):
    method, weights = made(broken(r=2)), {"task-0": 0.8, "task-1": 0.2}
    assert not agree(computed(method, weights), wanted(method, weights, merge="product-of-sums"))


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("method", "temperature", "modalities"),
    [
        (Hide(r=2), 0.1, ("image", "instruction")),
        (Hide(r=2, temperature=0.02), 0.02, ("image", "instruction")),
        (Disco(r=2), 0.05, ("instruction",)),
    ],
)
def test_the_weights(made, tasks, method, temperature, modalities):
    """Softmax of the mean cosine to the true means of each task's unit embeddings, in NumPy."""
    made(method)
    samples = [task.test[0] for task in tasks]
    queries = {m: unit(rows.double().numpy()) for m, rows in method.queries(samples).items()}
    keys = [
        {m: unit(unit(rows.double().numpy()).mean(0, keepdims=True))[0] for m, rows in method.queries(t.train).items()}
        for t in tasks[:2]
    ]
    for place, route in enumerate(method.route(samples)):
        cosines = np.array([np.mean([queries[m][place] @ key[m] for m in modalities]) for key in keys])
        shares = np.exp(cosines / temperature) / np.exp(cosines / temperature).sum()
        assert list(route) == ["task-0", "task-1"]
        assert np.allclose(list(route.values()), shares, rtol=1e-3)


@pytest.mark.parametrize("method", [Hide(r=2), Disco(r=2)])
def test_one_task_is_that_lora(made, tasks, method):
    """Its weight is exactly 1, so that its own weights answer."""
    made(method, count=1)
    assert list(method.route(tasks[2].test[:2])) == [{"task-0": 1.0}] * 2


def test_before_the_first_task_nothing_is_routed(made, tasks):
    assert made(Hide(r=2), count=0).route(tasks[0].test) is None


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("hide", {"temperature": 0.0}, "hide.temperature must be above 0"),
        ("hide", {"top": "first"}, "hide.top=first: name a region of blocks"),
        ("disco", {"r": 0}, "disco.r must be 1 to"),
    ],
)
def test_wrong_options(name, options, message):
    with pytest.raises(UserError, match=message):
        make_methods(name, {name: options})


def test_what_does_not_go_together(made):
    with pytest.raises(UserError, match="each keep something per task: choose one of them"):
        make_methods("hide+olora")
    with pytest.raises(UserError, match="hide.top=last-1: .* has no adapter there; hide.target_modules=projection"):
        made(Hide(r=2, target_modules="projection"))
