"""A-GEM: the projection against an independent computation, and what it is for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from evertune.methods import AGem, Sequential, memory_gradients
from evertune.models.features import FeatureStore
from evertune.training.learner import Learner
from evertune.training.loop import Training
from evertune.utils.errors import UserError

QUICK = Training(epochs=2, learning_rate=0.01, batch_size=4, max_grad_norm=1e9)


def flat(tensors):
    return np.concatenate([tensor.detach().double().numpy().ravel() for tensor in tensors])


def taught(lmm, tasks, folder, method):
    learner = Learner(lmm, [method], folder=folder, training=QUICK, reuse=False)
    learner.learn(tasks[0])
    return learner


def gradient(lmm, samples):
    """Of the mean loss of samples, one sample at a time: not the way of the method."""
    store, parameters = FeatureStore(lmm), list(lmm.trainable().values())
    store.ensure(samples)
    total = [torch.zeros_like(parameter) for parameter in parameters]
    for sample in samples:
        loss = lmm.module()(lmm.collate([sample], store.get([sample]))).loss
        parts = torch.autograd.grad(loss, parameters, allow_unused=True)
        total = [t if part is None else t + part / len(samples) for t, part in zip(total, parts, strict=True)]
    return total


def projected(g, r):
    """Equation 11, in float64."""
    return g - min(0.0, g @ r) / (r @ r) * r


@pytest.mark.parametrize("against", [True, False], ids=["against", "along"])
@pytest.mark.parametrize("at_once", [2, 8])
def test_the_projection(lmm, tasks, tmp_path, monkeypatch, against, at_once):
    monkeypatch.setattr(memory_gradients, "AT_ONCE", at_once)
    method = AGem(ratio=1.0, samples=1000)
    taught(lmm, tasks, tmp_path / "run", method)
    r, g = gradient(lmm, tasks[0].train), gradient(lmm, tasks[1].train[:4])
    method.before_task(tasks[1])
    parameters = lmm.trainable()
    sign = -1.0 if against == bool(flat(g) @ flat(r) > 0) else 1.0
    for parameter, value in zip(parameters.values(), g, strict=True):
        parameter.grad = sign * value
    method.after_backward(parameters)
    after = flat(parameter.grad for parameter in parameters.values())
    expected = projected(sign * flat(g), flat(r))
    assert np.allclose(after, expected, rtol=1e-4, atol=1e-6 * np.abs(expected).max())
    assert after @ flat(r) >= -1e-5 * np.linalg.norm(flat(r)) * np.linalg.norm(after), "no step raises the old loss"
    assert method.take_logged() == {"agem/projected": float(against)}
    if not against:
        assert np.array_equal(after, sign * flat(g)), "untouched to the last bit"
    for parameter in parameters.values():
        parameter.grad = None


def test_in_the_loop_every_gradient_that_is_used_agrees_with_the_memory(lmm, tasks, tmp_path):
    """`ratio=1` and all samples: after each `after_backward` g·r >= 0, and some steps had to be projected."""
    seen = []

    class Watched(AGem):
        def after_backward(self, parameters):
            before = flat(p.grad for p in parameters.values())
            super().after_backward(parameters)
            if self._memory and self._task != "task-0":
                r = gradient(self.context.lmm, tasks[0].train)
                after = flat(p.grad for p in parameters.values())
                seen.append((before @ flat(r), after @ flat(r) / np.linalg.norm(after) / np.linalg.norm(flat(r))))

    learner = taught(lmm, tasks, tmp_path / "run", Watched(ratio=1.0, samples=1000))
    learner.learn(tasks[1])
    assert seen and any(before < 0 for before, _ in seen)
    assert min(cosine for _, cosine in seen) > -1e-4


def test_the_memory_is_not_trained_on_and_the_first_task_is_plain(lmm, tasks, tmp_path):
    one, other = AGem(ratio=0.5), Sequential()
    first = taught(lmm, tasks, tmp_path / "one", one)
    assert list(one.data_plan(tasks[1], tasks[1].train)) == list(tasks[1].train)
    weights = {name: value.clone() for name, value in lmm.trainable().items()}
    first.load(0)
    taught(lmm, tasks, tmp_path / "other", other)
    assert all(torch.equal(value, weights[name]) for name, value in lmm.trainable().items())


def test_wrong_options():
    with pytest.raises(UserError, match="agem.samples must be 1 or more"):
        AGem(samples=0)
    with pytest.raises(UserError, match="agem.ratio must lie between 0 and 1"):
        AGem(ratio=2.0)
