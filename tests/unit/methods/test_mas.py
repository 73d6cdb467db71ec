"""MAS: importance against NumPy on a linear toy and against an explicit loop on the library's own logits."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from evertune.data.task import Sample
from evertune.methods import MAS
from evertune.methods.base import Context
from evertune.models.protocol import Output


class Linear(nn.Module):
    """An LMM whose logits are W x, one answer position per row of x."""

    device = torch.device("cpu")

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 3, generator=torch.Generator().manual_seed(0)))

    def module(self):
        return self

    def trainable(self):
        return {"weight": self.weight}

    def collate(self, samples, features):
        return features

    def forward(self, features):
        logits = torch.cat([row @ self.weight.T for row in features])
        return Output(nll=logits.sum(1), tokens=torch.tensor([len(row) for row in features]), logits=logits)


class Rows:
    """Features: two answer positions per sample."""

    def ensure(self, samples):
        pass

    def get(self, samples):
        seeds = [torch.Generator().manual_seed(int(sample.id)) for sample in samples]
        return torch.stack([torch.randn(2, 3, generator=seed) for seed in seeds])


def samples_of(count):
    return [Sample(str(i), (), "", ("x",)) for i in range(count)]


def measured(kind, samples):
    method = kind()
    method.setup(Context(lmm=Linear(), features=Rows(), seed=0, start={}))
    return method.measure(samples)["weight"].numpy()


def by_hand(samples):
    """∂ Σ_p ‖W x_p‖² / ∂W = 2 Σ_p (W x_p) x_pᵀ; its absolute value, averaged over samples."""
    weight = Linear().weight.detach().numpy().astype("float64")
    rows = [Rows().get([sample])[0].numpy().astype("float64") for sample in samples]
    return np.mean([np.abs(2 * sum(np.outer(weight @ x, x) for x in pair)) for pair in rows], axis=0)


class BatchMean(MAS):
    """Absolute value of the mean gradient."""

    def measure(self, samples):
        output = self.context.lmm(self.context.features.get(samples))
        (gradient,) = torch.autograd.grad(output.logits.square().sum(), [self.context.lmm.weight])
        return {"weight": gradient.abs() / len(samples)}


def test_importance_by_hand():
    samples = samples_of(4)
    np.testing.assert_allclose(measured(MAS, samples), by_hand(samples), rtol=1e-5)
    np.testing.assert_allclose(measured(MAS, samples * 2), by_hand(samples), rtol=1e-5)


def test_batch_means_are_something_else():
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        np.testing.assert_allclose(measured(BatchMean, samples_of(4)), by_hand(samples_of(4)), rtol=1e-5)


def test_importance_against_an_explicit_loop(lmm, tasks, features, context, jolt):
    """The logits that predict the answer's tokens, by the library's own head; gradients by `.backward()`."""
    jolt(0.05, 1)
    samples = tasks[0].train[:3]
    method = MAS()
    method.setup(context)
    ours = method.measure(samples)
    total = {n: np.zeros(tuple(p.shape)) for n, p in lmm.trainable().items()}
    for sample in samples:
        lmm.zero_grad()
        batch = lmm.collate([sample], features.get([sample]))
        embeds = torch.cat([lmm._visual(batch.features), lmm._words()(batch.input_ids)], 1)
        ahead = embeds.shape[1] - batch.labels.shape[1]
        logits = lmm.lm(inputs_embeds=embeds).logits[0]
        norm = sum((logits[ahead + i - 1] ** 2).sum() for i, t in enumerate(batch.labels[0].tolist()) if t != -100)
        norm.backward()
        for name, parameter in lmm.trainable().items():
            total[name] += np.abs(parameter.grad.numpy().astype("float64")) / len(samples)
    lmm.zero_grad()
    assert sum(t.sum() for t in total.values()) > 0
    for name, wanted in total.items():
        np.testing.assert_allclose(ours[name].numpy(), wanted, rtol=2e-3, atol=1e-4 * wanted.max(), err_msg=name)


def test_two_tasks_add_up_and_one_anchor_holds_them(lmm, tasks, context, jolt):
    """λ Σ (Ω_1 + Ω_2)(θ - a)², so a gradient of 2 λ (Ω_1 + Ω_2)(θ - a) with the weights after the second task as a."""
    method = MAS(strength=0.5, samples=8)
    method.setup(context)
    omegas = []
    for number, task in enumerate(tasks[:2]):
        method.before_task(task)
        jolt(0.05, number)
        method.after_task(task)
        omegas.append(method.measure(task.train))
    method.before_task(tasks[2])
    anchor = {n: p.detach().clone() for n, p in lmm.trainable().items()}
    jolt(0.1, 9)
    for parameter in lmm.trainable().values():
        parameter.grad = None
    method.after_backward(lmm.trainable())
    for name, parameter in lmm.trainable().items():
        wanted = 2 * 0.5 * (omegas[0][name] + omegas[1][name]) * (parameter.detach() - anchor[name])
        assert (parameter.grad - wanted).abs().max() <= 1e-4 * wanted.abs().max(), name


def test_squared_norm_of_one_sample():
    from evertune.methods.mas import squared_norm

    output = SimpleNamespace(logits=torch.tensor([[3.0, 4.0], [1.0, 2.0], [6.0, 0.0]]), tokens=torch.tensor([2, 1]))
    assert squared_norm(output).tolist() == [30, 36]
