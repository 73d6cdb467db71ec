"""EWC: Fisher information against an independent loop, the gradient against autograd, two anchors in one quadratic."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from penalties import penalty

from evertune.methods import EWC, MAS, per_sample_gradients
from evertune.methods.base import Context
from evertune.methods.ewc import fisher_information
from evertune.models.weights import copy_of


def context_of(lmm, features):
    return Context(lmm=lmm, features=features, seed=0, start=copy_of(lmm.trainable()))


def jolt(lmm, amount, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in lmm.trainable().values():
            parameter.add_(amount * torch.randn(parameter.shape, generator=generator))


def independent_fisher(lmm, features, samples):
    """Log-probabilities by the library's own logits, gradients by `.backward()`, squares by NumPy."""
    total = None
    for sample in samples:
        lmm.zero_grad()
        batch = lmm.collate([sample], features.get([sample]))
        embeds = torch.cat([lmm._visual(batch.features), lmm._words()(batch.input_ids)], 1)
        ahead = embeds.shape[1] - batch.labels.shape[1]
        logits = lmm.lm(inputs_embeds=embeds).logits[0].log_softmax(-1)
        log_p = sum(logits[ahead + i - 1, token] for i, token in enumerate(batch.labels[0].tolist()) if token != -100)
        log_p.backward()
        squares = {n: p.grad.numpy().astype("float64") ** 2 for n, p in lmm.trainable().items()}
        total = squares if total is None else {n: total[n] + squares[n] for n in total}
    lmm.zero_grad()
    return {n: t / len(samples) for n, t in total.items()}


def test_fisher_against_an_independent_loop(lmm, tasks, features):
    jolt(lmm, 0.05, 1)
    samples = tasks[0].train[:3]
    ours = fisher_information(context_of(lmm, features), samples)
    for name, wanted in independent_fisher(lmm, features, samples).items():
        torch.testing.assert_close(ours[name].double(), torch.from_numpy(wanted), rtol=1e-3, atol=1e-9)


def test_fisher_is_a_mean_over_samples(lmm, tasks, features):
    """Twice the same samples give the same information; batch-mean gradients would not."""
    jolt(lmm, 0.05, 1)
    context, samples = context_of(lmm, features), list(tasks[0].train[:4])
    once, twice = fisher_information(context, samples), fisher_information(context, samples * 2)
    for name in once:
        torch.testing.assert_close(once[name], twice[name])
    assert sum(float(t.sum()) for t in once.values()) > 0


def test_the_gradient_is_that_of_the_penalty(lmm, tasks, features):
    ewc = EWC(strength=7.0, samples=3)
    ewc.setup(context_of(lmm, features))
    for number, task in enumerate(tasks[:2]):
        jolt(lmm, 0.05, number)
        ewc.after_task(task)
    jolt(lmm, 0.1, 9)
    parameters = lmm.trainable()
    for parameter in parameters.values():
        parameter.grad = None
    ewc.after_backward(parameters)
    closed = {n: p.grad.clone() for n, p in parameters.items()}
    by_autograd = torch.autograd.grad(penalty(ewc, parameters), list(parameters.values()))
    for (name, ours), theirs in zip(closed.items(), by_autograd, strict=True):
        assert (ours - theirs).abs().max() <= 1e-4 * theirs.abs().max(), name


def test_two_tasks_are_two_springs(lmm, tasks, features):
    """Against λ Σ_k F_k (θ - θ_k) written out, each task with its own anchor."""
    ewc = EWC(strength=2.0, samples=8)
    context = context_of(lmm, features)
    ewc.setup(context)
    springs = []
    for number, task in enumerate(tasks[:2]):
        jolt(lmm, 0.05, number)
        ewc.after_task(task)
        springs.append((fisher_information(context, task.train), copy_of(lmm.trainable())))
    jolt(lmm, 0.1, 9)
    parameters = lmm.trainable()
    for parameter in parameters.values():
        parameter.grad = torch.ones_like(parameter)
    ewc.after_backward(parameters)
    for name, parameter in parameters.items():
        wanted = 1 + 2.0 * sum(fisher[name] * (parameter - anchor[name]) for fisher, anchor in springs)
        assert (parameter.grad - wanted).abs().max() <= 1e-4 * wanted.abs().max(), name


def test_it_pulls_back(lmm, tasks, features):
    """A step down the penalty's gradient comes nearer to the anchor."""
    ewc = EWC(strength=1.0, samples=8)
    jolt(lmm, 0.05, 0)
    ewc.setup(context_of(lmm, features))
    ewc.after_task(tasks[0])
    jolt(lmm, 0.1, 1)
    before = penalty(ewc, lmm.trainable()).item()
    for parameter in lmm.trainable().values():
        parameter.grad = None
    ewc.after_backward(lmm.trainable())
    largest = max(float(t.max()) for t in ewc.rule.importance.values())
    with torch.no_grad():
        for parameter in lmm.trainable().values():
            parameter.sub_(0.1 / largest * parameter.grad)
    assert penalty(ewc, lmm.trainable()).item() < before


@pytest.mark.parametrize("kind", [EWC, MAS])
def test_importance_is_measured_without_dropout(kind, lmm, tasks, features):
    """Also on a model in the middle of training, whose mode stays as it was."""
    lmm.projector.append(torch.nn.Dropout(0.5))
    jolt(lmm, 0.05, 1)
    method = kind()
    method.setup(context_of(lmm, features))
    measured = []
    for mode in (False, True, True):
        lmm.module().train(mode)
        measured.append(method.measure(tasks[0].train))
        assert lmm.module().training is mode
    for name, wanted in measured[0].items():
        assert torch.equal(measured[1][name], wanted) and torch.equal(measured[2][name], wanted)


@pytest.mark.parametrize("kind", [EWC, MAS])
def test_every_sample_counts_once(kind, lmm, tasks, features, monkeypatch):
    """Of 24 with several about one image, more than are measured at once, in any order: the mean of each alone."""
    monkeypatch.setattr(per_sample_gradients, "AT_ONCE", 5)
    jolt(lmm, 0.05, 1)
    method = kind()
    method.setup(context_of(lmm, features))
    samples = [
        replace(s, id=f"{n}", instruction=f"{'what ' * (n % 4 + 1)}?", answers=("red " * (n % 3 + 1),))
        for n, s in enumerate(tasks[0].train * 3)
    ]
    whole, back = method.measure(samples), method.measure(samples[::-1])
    alone = [method.measure([sample]) for sample in samples]
    for name, found in whole.items():
        wanted = torch.stack([one[name] for one in alone]).mean(0)
        assert (found - wanted).abs().max() <= 1e-3 * wanted.abs().max() + 1e-9, name
        assert (found - back[name]).abs().max() <= 1e-4 * wanted.abs().max() + 1e-9, name
