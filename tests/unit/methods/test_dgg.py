"""DGG: the guided gradient against NumPy, which steps are guided, and p = 0 is replay, bit by bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from evertune.methods import Dgg, Replay, make_methods
from evertune.models.weights import copy_of, fingerprint_of
from evertune.training.learner import Learner
from evertune.training.loop import Training
from evertune.training.method_contract import check_method
from evertune.utils.errors import UserError


def numpy(tensors):
    return {name: tensor.detach().double().numpy().copy() for name, tensor in tensors.items()}


def guided(g, d, *, norm):
    """g + d min(1, |g| / |d|), in float64."""
    groups = [list(g)] if norm == "global" else [[name] for name in g]
    result = {}
    for names in groups:
        size, distance = (np.sqrt(sum(np.square(v[name]).sum() for name in names)) for v in (g, d))
        factor = min(1.0, size / distance) if distance else 0.0
        result |= {name: g[name] + factor * d[name] for name in names}
    return result


@pytest.mark.parametrize("norm", ["global", "tensor"])
@pytest.mark.parametrize("size", [1e-3, 10.0], ids=["small gradient", "large gradient"])
def test_the_guided_gradient(set_up, lmm, tasks, jolt, norm, size):
    (method,) = set_up("dgg", {"dgg": {"p": 1.0, "norm": norm}})
    method.after_task(tasks[0])
    method.before_task(tasks[1])
    before = numpy(copy_of(lmm.trainable()))
    jolt(0.1, 1)
    parameters = lmm.trainable()
    generator = torch.Generator().manual_seed(2)
    for parameter in parameters.values():
        parameter.grad = size * torch.randn(parameter.shape, generator=generator)
    g = numpy({name: p.grad for name, p in parameters.items()})
    away = {name: value - before[name] for name, value in numpy(parameters).items()}
    method.after_backward(parameters)
    wanted = guided(g, away, norm=norm)
    for name, parameter in parameters.items():
        assert np.allclose(parameter.grad.numpy(), wanted[name], rtol=1e-3, atol=1e-6 * np.abs(wanted[name]).max()), (
            name
        )
        parameter.grad = None
    assert method.take_logged() == {"dgg/guided": 1.0}


def test_the_share_of_guided_steps(set_up, lmm, tasks):
    (method,) = set_up("dgg", {"dgg": {"p": 0.25}})
    method.after_task(tasks[0])
    method.before_task(tasks[1])
    for _ in range(400):
        method.after_backward({})
    assert method.take_logged()["dgg/guided"] == pytest.approx(0.25, abs=0.07)


@pytest.mark.parametrize(("p", "same"), [(0.0, True), (0.5, False)])
def test_without_guidance_it_is_replay(lmm, tasks, tmp_path, p, same):
    ends = []
    for methods in ([Replay(ratio=0.5), Dgg(p=p)], [Replay(ratio=0.5)]):
        training = Training(epochs=3, learning_rate=0.01, batch_size=4)
        learner = Learner(lmm, methods, folder=tmp_path / str(len(methods)), training=training, reuse=False)
        for task in tasks[:2]:
            learner.learn(task)
        ends.append(fingerprint_of(learner.lmm.trainable()))
        learner.load(0)
    assert (ends[0] == ends[1]) is same


class ForgetsTheStep(Dgg):
    def load_progress_dict(self, state):
        self._step = 7


class GuidesTheFirstTask(Dgg):
    def adds_to_loss(self):
        return True


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "complaint"),
    [(ForgetsTheStep, "must be in its `progress_dict`"), (GuidesTheFirstTask, "trained differently than alone")],
)
def test_a_broken_variant_fails(kind, complaint):
    with pytest.raises(AssertionError, match=complaint):
        check_method(lambda: [kind(p=0.5)])


def test_wrong_options():
    with pytest.raises(UserError, match="dgg.p must lie between 0 and 1"):
        make_methods("dgg", {"dgg": {"p": 1.5}})
