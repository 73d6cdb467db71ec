"""EProj's queries: of length 1 whatever the encoders say; any number of images; which samples importance is of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from evertune.data.task import Task
from evertune.methods import EProj, eproj
from evertune.methods.base import Context
from evertune.methods.similarity import embed_task, similarity_to
from evertune.models.features import FeatureStore
from evertune.models.weights import copy_of


@pytest.fixture
def make(lmm, features):
    start = copy_of(lmm.trainable())

    def make(*, seed=0, store=features, **options):
        method = EProj(**options)
        method.setup(Context(lmm=lmm, features=store, seed=seed, start=start))
        return method

    return make


@pytest.fixture
def mixed(tasks):
    """Eleven questions: four about one image, some about two images or none."""
    one, two, three = tasks[0].train[:3]
    questions = [replace(one, id=f"q{n}", instruction="what " * (n + 1)) for n in range(4)]
    pair = replace(two, images=two.images + three.images, instruction="which of the two?")
    return [*questions, pair, replace(three, images=(), instruction="name a word"), *tasks[1].train[:5]]


def by_hand(lmm, store, samples):
    """Each query on its own: the mean over its images' vectors, which are means over rows; divided by its length."""
    rows = {"image": [], "instruction": []}
    for sample in samples:
        images = [store.get([replace(sample, images=(i,))]).double().mean(1)[0].numpy() for i in sample.images]
        rows["image"].append(np.mean(images, axis=0) if images else np.zeros(store.like.shape[-1]))
        rows["instruction"].append(lmm.embed_texts([sample.instruction])[0].double().numpy())
    stacked = {modality: np.stack(values) for modality, values in rows.items()}
    return {m: v / np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-12) for m, v in stacked.items()}


@pytest.mark.parametrize("at_once", [1, 4, 5, 256])
def test_queries_have_length_one(make, lmm, mixed, tmp_path, monkeypatch, at_once):
    """Also in parts, where one of them may have no image at all."""
    monkeypatch.setattr(eproj, "QUERIES_AT_ONCE", at_once)
    store = FeatureStore(lmm, folder=tmp_path)
    store.ensure(mixed)
    found = make(store=store).queries(mixed)
    for modality, wanted in by_hand(lmm, store, mixed).items():
        np.testing.assert_allclose(found[modality].numpy(), wanted, atol=1e-5, err_msg=modality)
        lengths = found[modality].norm(dim=1)
        assert lengths.tolist() == pytest.approx([0 if modality == "image" and not s.images else 1 for s in mixed])


@pytest.mark.parametrize("router", ["cosine", "calibrated"])
def test_the_length_of_an_embedding_decides_nothing(make, lmm, tasks, monkeypatch, router):
    """Texts a hundred times as long as others, some more than others: the same keys, scores and routes."""
    plain, long = make(router=router), make(router=router)
    everything = [s for task in tasks for s in task.test]
    for task in tasks:
        plain.after_task(task)
    wanted = plain._router.scores(plain.queries(everything))
    honest = type(lmm).embed_texts

    def embed(self, texts):
        return honest(self, texts) * torch.tensor([100.0 + 7 * (n % 5) for n in range(len(texts))])[:, None]

    monkeypatch.setattr(type(lmm), "embed_texts", embed)
    for task in tasks:
        long.after_task(task)
    torch.testing.assert_close(long._router.scores(long.queries(everything)), wanted, rtol=1e-3, atol=1e-4)
    assert long.route(everything) == plain.route(everything)


def test_the_likeliest_task_comes_first(make, tasks):
    method = make()
    assert method.ranking(tasks[0].test[0]) == []
    for task in tasks:
        method.after_task(task)
    for sample in (tasks[0].test[0], tasks[2].test[1]):
        ranking = method.ranking(sample)
        scores = [score for _, score in ranking]
        assert scores == sorted(scores, reverse=True) and len(scores) == 3 and sum(scores) == pytest.approx(1)
        assert ranking[0][0] == method.route([sample])[0]


def test_a_new_expert_starts_where_a_similar_known_task_is_served(make, lmm, features, tasks):
    """By the base model: a known task has no expert of its own name."""
    found = {task.name: embed_task(lmm, features, task.train) for task in tasks}
    s = similarity_to(found["task-2"], {name: found[name] for name in ("task-0", "task-1")}, name="task-2")
    near, far = (tasks[int(name[-1])] for name in sorted(s, key=s.get, reverse=True))
    method = make(init="similar")
    method.on_known_task(near)
    method.before_task(far)
    with torch.no_grad():
        for parameter in lmm.trainable().values():
            parameter.add_(1.0)
    method.after_task(far)
    method.before_task(tasks[2])
    assert all(torch.equal(p, method.context.start[n]) for n, p in lmm.trainable().items())


def chosen_for(method, task, monkeypatch):
    seen = []
    one = {n: torch.ones_like(p) for n, p in method.context.parameters.items()}
    method.estimate = lambda context, samples: seen.extend(s.id for s in samples) or one
    method.before_task(task)
    method.after_task(task)
    return seen


def test_importance_is_of_a_random_choice_by_seed_and_task(make, tasks, monkeypatch):
    monkeypatch.setattr(eproj, "IMPORTANCE_SAMPLES", 5)
    long = Task("long", tuple(replace(s, id=f"{n}") for n, s in enumerate(tasks[0].train * 4)), ())

    def chosen(task, seed):
        return chosen_for(make(seed=seed, expand="when-separable", router="calibrated"), task, monkeypatch)

    first = chosen(long, 0)
    assert len(set(first)) == 5 and first == chosen(long, 0)
    assert first != [s.id for s in long.train[:5]]
    assert first != chosen(long, 1) and first != chosen(replace(long, name="other"), 0)
    monkeypatch.setattr(eproj, "IMPORTANCE_SAMPLES", 1000)
    assert sorted(chosen(long, 0)) == sorted(s.id for s in long.train), "never more than there are"
