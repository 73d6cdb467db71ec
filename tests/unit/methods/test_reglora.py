"""RegLoRA: mask and gradient against NumPy and autograd, λ = 0 is the plain sum, broken variants."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from evertune.methods import OLora, RegLora, make_methods
from evertune.methods.reglora import largest, packed, unpacked
from evertune.models import load_lmm
from evertune.models.adapters import ADAPTER
from evertune.models.weights import fingerprint_of
from evertune.training.learner import Learner
from evertune.training.loop import Training
from evertune.training.method_contract import check_method
from evertune.utils.errors import UserError


def learner_of(folder, method):
    lmm = load_lmm("random", seed=1, dtype="float32", device=torch.device("cpu"))
    training = Training(epochs=2, batch_size=4, learning_rate=1e-2)
    return Learner(lmm, [method], folder=folder, training=training, seed=1, reuse=False)


def moved(learner, tasks, *, count):
    """Tasks that were learned by moves at random; the next one has begun, and has an update too."""
    (method,) = learner.methods
    updates = []
    for number, task in enumerate(tasks[: count + 1]):
        method.before_task(task)
        generator = torch.Generator().manual_seed(number)
        with torch.no_grad():
            for parameter in learner.lmm.trainable().values():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
        updates.append({path: (a.up @ a.down).detach().double().numpy() for path, a in method.adapters().items()})
        if number < count:
            method.after_task(task)
    return updates


def mask_of(updates, path, *, share):
    """Of each update the entries of largest absolute value, in NumPy."""
    mask = np.zeros(updates[0][path].shape, dtype=bool)
    for update in updates:
        sizes = np.abs(update[path])
        mask |= sizes >= np.sort(sizes.ravel())[-max(1, round(share * sizes.size))]
    return mask


def slope_of(method, updates, path, parameters, layers):
    """∂ λ/L mean_M |B A| by autograd."""
    up, down = (parameters[f"{path}.{ADAPTER}.{part}"].detach().clone().requires_grad_() for part in ("up", "down"))
    mask = torch.tensor(mask_of(updates, path, share=method.share))
    (method.strength / layers * (up @ down)[mask].abs().mean()).backward()
    return up.grad, down.grad


def added(method, learner):
    parameters = learner.lmm.trainable()
    for parameter in parameters.values():
        parameter.grad = torch.ones_like(parameter)
    method.after_backward(parameters)
    result = {name: parameter.grad - 1 for name, parameter in parameters.items()}
    for parameter in parameters.values():
        parameter.grad = None
    return result


def agrees(tasks, folder, kind):
    learner = learner_of(folder, kind(r=2, strength=30.0, share=0.1))
    (method,) = learner.methods
    updates = moved(learner, tasks, count=2)
    found, adapters = added(method, learner), method.adapters()
    for path in adapters:
        slopes = slope_of(method, updates[:2], path, learner.lmm.trainable(), len(adapters))
        for part, slope in zip(("up", "down"), slopes, strict=True):
            if not torch.allclose(found[f"{path}.{ADAPTER}.{part}"], slope, rtol=1e-3, atol=1e-4):
                return False
    return True


class OnlyTheLatestMask(RegLora):
    def after_task(self, task):
        self._masks = {}
        super().after_task(task)


class ForgetsTheMasks(RegLora):
    def load_state_dict(self, state):
        super().load_state_dict({**state, "masks": {}})


def test_the_gradient_of_the_loss_on_the_mask(tasks, tmp_path):
    assert agrees(tasks, tmp_path / "ours", RegLora)
    assert not agrees(tasks, tmp_path / "broken", OnlyTheLatestMask)


@pytest.mark.slow
def test_a_lost_mask_is_noticed():
    with pytest.raises(AssertionError, match="some state is not saved"):
        check_method(lambda: [ForgetsTheMasks(r=2)])


class PlainSum(OLora):
    """A new adapter per task, all summed, and nothing else."""

    name = "reglora"


def test_without_strength_it_is_the_plain_sum(tasks, tmp_path):
    ends = []
    for number, method in enumerate((RegLora(r=2, strength=0.0), PlainSum(r=2, strength=0.0))):
        learner = learner_of(tmp_path / str(number), method)
        for task in tasks[:2]:
            learner.learn(task)
        ends.append(fingerprint_of(learner.lmm.trainable()))
    assert ends[0] == ends[1]


def test_masks_in_bits():
    mask = torch.rand(5, 7, generator=torch.Generator().manual_seed(0)) < 0.3
    assert torch.equal(unpacked(packed(mask), (5, 7)), mask) and len(packed(mask)) == 5
    assert largest(torch.tensor([[1.0, -5.0], [2.0, 0.0]]), 0.01).tolist() == [[False, True], [False, False]]


def test_wrong_options():
    with pytest.raises(UserError, match=r"reglora.strength must be 0 or more, and reglora.share in"):
        make_methods("reglora", {"reglora": {"share": 0.0}})
    with pytest.raises(UserError, match="no earlier weights to hold"):
        make_methods("ewc+reglora")
