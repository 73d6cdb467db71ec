"""Task similarity against the paper's rule in NumPy, and its edges."""

from __future__ import annotations

import itertools
import math
import statistics
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from evertune.methods import EProj, Tir
from evertune.methods.similarity import (
    MODALITIES,
    cosine,
    embed_task,
    evenly_spaced,
    gradient_direction,
    similarity_matrix,
    similarity_to,
)
from evertune.models.weights import fingerprint_of
from evertune.utils.errors import UserError


def embeddings(count, *, seed=0):
    generator = np.random.default_rng(seed)
    unit = generator.normal(size=(count, len(MODALITIES), 6)) + 0.5
    unit /= np.linalg.norm(unit, axis=-1, keepdims=True)
    return {f"t{i}": {m: torch.tensor(unit[i, j]).float() for j, m in enumerate(MODALITIES)} for i in range(count)}


def by_hand(old, new):
    """z-score over all pairs, sigmoid, product over modalities; written without the library's functions."""
    result = np.ones(len(old))
    for modality in MODALITIES:
        rows = np.stack([t[modality].double().numpy() for t in [*old.values(), new]])
        cosines = rows @ rows.T
        pairs = np.array([cosines[i, j] for i in range(len(rows)) for j in range(i)])
        z = (cosines[:-1, -1] - pairs.mean()) / pairs.std(ddof=1)
        result *= 1 / (1 + np.exp(-z))
    return dict(zip(old, result, strict=True))


@pytest.mark.parametrize("count", [3, 4, 7])
def test_the_rule_by_hand(count):
    tasks = embeddings(count)
    name, new = tasks.popitem()
    ours = similarity_to(new, tasks, name=name)
    theirs = by_hand(tasks, new)
    assert ours == pytest.approx(theirs, abs=1e-5)
    assert all(0 < value < 1 for value in ours.values())


def test_a_single_pair_keeps_its_cosines():
    tasks = embeddings(2, seed=3)
    (a, first), (b, second) = tasks.items()
    wanted = np.prod([max(0.0, float(first[m] @ second[m])) for m in MODALITIES])
    assert similarity_to(second, {a: first}, name=b)[a] == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("count", [2, 4])
def test_tasks_without_images_are_compared_by_their_texts(count):
    """Their image embedding is zero, and would make every similarity 0 (one pair) or halve it (several)."""
    tasks = {name: {**task, "image": torch.zeros(6)} for name, task in embeddings(count, seed=3).items()}
    (name, new), *old = tasks.items()
    apart = {k: {**task, "image": torch.ones(6)} for k, task in tasks.items()}
    ours, matrix = similarity_to(new, dict(old), name=name), similarity_matrix(tasks)
    factor = 1.0 if count == 2 else 0.5  # of images that are the same everywhere: sigmoid(0)
    for k, _ in old:
        assert ours[k] == pytest.approx(matrix[name][k])
        assert ours[k] * factor == pytest.approx(similarity_matrix(apart)[name][k])
    assert max(ours.values()) > 0


@pytest.mark.parametrize("modality", MODALITIES)
def test_a_single_pair_that_points_away_is_not_similar(modality):
    """One negative cosine, though the others are 1: 0, and no sign that two of them could lose."""
    same = {m: torch.tensor([1.0, 0.0]) for m in MODALITIES}
    away = {m: -value if m == modality else value for m, value in same.items()}
    twice = {m: value if m == modality else -value for m, value in same.items()}
    assert similarity_to(away, {"a": same}, name="b") == {"a": 0.0}
    assert similarity_to(twice, {"a": same}, name="b") == {"a": 0.0}
    assert similarity_to(same, {"a": same}, name="b")["a"] == pytest.approx(1.0)


def test_the_nearest_task_is_the_most_similar():
    tasks = embeddings(5)
    near = {m: tasks["t2"][m] + 0.05 * tasks["t4"][m] for m in MODALITIES}
    found = similarity_to(near, tasks, name="new")
    assert max(found, key=found.get) == "t2"


def test_equal_embeddings_say_nothing_and_are_no_nan():
    same = {m: torch.ones(4) for m in MODALITIES}
    assert similarity_to(same, {"a": same, "b": same}, name="c") == {"a": 0.125, "b": 0.125}
    zero = {m: torch.zeros(4) for m in MODALITIES}
    assert similarity_to(zero, {"a": same}, name="b") == {"a": 0.0}
    assert similarity_to(same, {}, name="first") == {}


def test_a_task_is_not_compared_with_itself():
    tasks = embeddings(3)
    with pytest.raises(UserError, match="'t1' is among the tasks"):
        similarity_to(tasks["t1"], tasks, name="t1")


def test_the_matrix_is_symmetric_with_an_empty_diagonal():
    matrix = similarity_matrix(embeddings(4))
    assert matrix["t0"]["t3"] == matrix["t3"]["t0"]
    assert all(matrix[name][name] is None for name in matrix)


@pytest.mark.parametrize("count", [3, 5])
def test_the_matrix_is_the_product_of_standardised_cosines(count):
    """Over all pairs of the stream; of the last task it is what `similarity_to` says."""
    tasks = embeddings(count)
    matrix, names = similarity_matrix(tasks), list(tasks)
    wanted = np.ones((count, count))
    for modality in MODALITIES:
        rows = np.stack([t[modality].double().numpy() for t in tasks.values()])
        cosines = rows @ rows.T
        pairs = cosines[np.tril_indices(count, -1)]
        wanted *= 1 / (1 + np.exp(-(cosines - pairs.mean()) / pairs.std(ddof=1)))
    for i, a in enumerate(names):
        for j, b in enumerate(names):
            if a != b:
                assert matrix[a][b] == pytest.approx(wanted[i, j], abs=1e-5)
    last = names[-1]
    assert similarity_to(tasks.pop(last), tasks, name=last) == pytest.approx(
        {name: matrix[name][last] for name in tasks}, abs=1e-6
    )


def test_a_task_is_embedded_by_the_answer_that_is_taught_and_all_its_images(lmm, tasks, features):
    """The first answer of several; the mean over a sample's images; rows count alike, whatever their length."""
    one, two, three = tasks[0].train[:3]
    samples = [replace(one, images=one.images + two.images, answers=("red", "blue green")), three]

    def text(texts):
        rows = torch.stack([torch.tensor([float(len(t)), float("red" in t), 1.0]) for t in texts])
        return rows * torch.tensor([[100.0]] + [[1.0]] * (len(texts) - 1))

    found = embed_task(lmm, features, samples, text_encoder=text)
    vectors = [features.get([replace(s, images=(i,))]).double().mean(1)[0] for s in samples for i in s.images]
    rows = {
        "image": torch.stack([(vectors[0] + vectors[1]) / 2, vectors[2]]),
        "instruction": text([s.instruction for s in samples]).double(),
        "answer": text(["red", three.answers[0]]).double(),
    }
    for modality, values in rows.items():
        mean = (values / values.norm(dim=1, keepdim=True)).mean(0)
        torch.testing.assert_close(found[modality].double(), mean / mean.norm(), rtol=1e-4, atol=1e-5)


def test_at_most_count_samples_are_embedded(lmm, tasks, features):
    seen = []

    def text(texts):
        seen.append(len(texts))
        return torch.ones(len(texts), 2)

    embed_task(lmm, features, tasks[0].train, count=3, text_encoder=text)
    assert seen == [3, 3]


def test_evenly_spaced(tasks):
    samples = tasks[0].train
    assert evenly_spaced(samples, 4) == list(samples[::2])
    assert evenly_spaced(samples, 99) == list(samples)


def test_embedding_of_a_task(lmm, tasks, features):
    found = embed_task(lmm, features, tasks[0].train)
    rows = lmm.embed_texts([s.answers[0] for s in tasks[0].train]).double().numpy()
    mean = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).mean(0)
    np.testing.assert_allclose(found["answer"].numpy(), mean / np.linalg.norm(mean), atol=1e-5)
    assert set(found) == set(MODALITIES)
    one = embed_task(lmm, features, tasks[0].train[:1])
    assert all(torch.isfinite(v).all() for v in one.values()), "one sample is enough"


def test_no_samples_and_not_a_number(lmm, tasks, features):
    with pytest.raises(UserError, match="without training samples"):
        embed_task(lmm, features, [])
    broken = replace(tasks[0].train[0])
    with pytest.raises(UserError, match="instruction embedding of a task"):
        embed_task(lmm, features, [broken], text_encoder=lambda texts: torch.full((len(texts), 3), float("nan")))


def full_gradient(context, samples):
    """The mean gradient of the samples' losses, sample by sample."""
    total = 0
    parameters = list(context.parameters.values())
    for sample in samples:
        output = context.lmm.module()(context.lmm.collate([sample], context.features.get([sample])))
        found = torch.autograd.grad(output.loss, parameters, allow_unused=True)
        flat = [torch.zeros_like(p) if g is None else g for g, p in zip(found, parameters, strict=True)]
        total = total + torch.cat([g.flatten() for g in flat])
    return total / len(samples)


def test_sketches_keep_the_cosines_of_mean_gradients(context, tasks):
    """Weights and gradients stay as they were, and a task has the same direction each time."""
    before = fingerprint_of(context.parameters)
    groups = [task.train for task in tasks] + [tasks[0].train[:3]]
    for samples in groups:
        context.features.ensure(samples)
    sketches = [gradient_direction(context, samples) for samples in groups]
    full = [full_gradient(context, samples) for samples in groups]
    found = [cosine(a, b) for a, b in itertools.combinations(sketches, 2)]
    right = [cosine(a, b) for a, b in itertools.combinations(full, 2)]
    assert found == pytest.approx(right, abs=0.06) and max(right) - min(right) > 0.2
    assert all(sketch.shape == (4096,) and float(sketch.norm()) == pytest.approx(1) for sketch in sketches)
    assert torch.equal(sketches[0], gradient_direction(context, groups[0]))
    assert fingerprint_of(context.parameters) == before
    assert all(parameter.grad is None for parameter in context.parameters.values())


@pytest.mark.parametrize("by", [*MODALITIES, "gradient"])
def test_one_modality_alone_is_its_factor(by):
    """By hand: the sigmoid of the standardised cosine; of the other modalities nothing is read."""
    generator = torch.Generator().manual_seed(3)
    tasks = {name: {by: normalize(torch.randn(5, generator=generator), dim=0)} for name in "abcd"}
    found = similarity_to(tasks["d"], {name: tasks[name] for name in "abc"}, name="d", by=by)
    cosines = {(a, b): float(tasks[a][by] @ tasks[b][by]) for a, b in itertools.combinations("abcd", 2)}
    mean, spread = statistics.fmean(cosines.values()), statistics.stdev(cosines.values())
    for name, s in found.items():
        assert s == pytest.approx(1 / (1 + math.exp(-(cosines[name, "d"] - mean) / spread)), abs=1e-5)


def test_what_a_similarity_may_be_computed_from():
    for method in (Tir, EProj):
        with pytest.raises(UserError, match=r"similarity='cosine': choose one of product, image, .*gradient"):
            method(similarity="cosine")
