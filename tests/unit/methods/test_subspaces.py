"""KeepLoRA and OSF: what is left alone stays alone, the linear algebra against NumPy, broken variants."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from evertune.methods import KeepLora, Osf, keeplora, make_methods
from evertune.methods.subspaces import extended, principal, top_directions, without
from evertune.models import load_lmm
from evertune.training.learner import Learner
from evertune.training.loop import Training
from evertune.utils.errors import UserError

LAYERS = "q_proj,v_proj"


def learner_of(folder, method, **training):
    lmm = load_lmm("random", seed=1, dtype="float32", device=torch.device("cpu"))
    hyper = Training(**{"epochs": 2, "batch_size": 4, "learning_rate": 1e-2, **training})
    return Learner(lmm, [method], folder=folder, training=hyper, seed=1, reuse=False)


def rows(count, width, seed):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def energy_of(values, count):
    return np.square(values[:count]).sum() / np.square(values).sum()


@pytest.mark.parametrize("energy", [0.0, 0.2, 0.85])
def test_principal_directions(energy):
    weight = rows(9, 12, 0)
    _, values, right = np.linalg.svd(weight.double().numpy())
    basis = principal(weight, energy=energy).double().numpy()
    count = basis.shape[1]
    assert (energy_of(values, count) >= energy - 1e-9) and (count == 0 or energy_of(values, count - 1) < energy)
    assert np.allclose(basis @ basis.T, right[:count].T @ right[:count], atol=1e-5)


def test_a_basis_is_extended_until_it_covers_enough():
    fixed = torch.linalg.qr(rows(12, 2, 1)).Q
    basis = without(torch.linalg.qr(rows(12, 1, 2)).Q.T, fixed).T
    basis = basis / basis.norm()
    data = (rows(40, 12, 3) * torch.linspace(3, 0.1, 12)).double()
    wider = extended(basis, data.T @ data, fixed, covered=0.9).double()
    whole = torch.cat([fixed.double(), wider], dim=1)
    assert torch.allclose(whole.T @ whole, torch.eye(whole.shape[1]).double(), atol=1e-5)
    shares = [
        float((data @ torch.cat([fixed.double(), wider[:, :k]], dim=1)).square().sum() / data.square().sum())
        for k in range(1, wider.shape[1] + 1)
    ]
    assert shares[-1] >= 0.9 - 1e-6 > shares[-2], "as few as possible"
    rest = without(data, fixed.double(), basis.double()).numpy()
    _, _, right = np.linalg.svd(rest)
    new = wider[:, 1:].numpy()
    assert np.allclose(new @ new.T, right[: new.shape[1]].T @ right[: new.shape[1]], atol=1e-5), "the largest ones"
    assert torch.equal(extended(wider.float(), data.T @ data, fixed, covered=0.9), wider.float()), "nothing to add"


def test_directions_of_a_low_rank_are_filled_with_zeros():
    low = rows(8, 2, 0) @ rows(2, 6, 1)
    found = top_directions(low, 4)
    assert not found[2:].any() and torch.allclose(found[:2] @ found[:2].T, torch.eye(2), atol=1e-5)


def apart(method):
    """The largest cosines of A with the directions of the weights, and with those of earlier tasks."""
    worst = [0.0, 0.0]
    for path, adapter in method.adapters().items():
        for place, basis in enumerate((method._principal(path), method._before[path])):
            worst[place] = max([worst[place], *(adapter.down @ basis).detach().abs().flatten().tolist()])
    return worst


class Watched(KeepLora):
    """Remembers the directions that were used before the task."""

    def before_task(self, task):
        self._before = dict(self._used)
        super().before_task(task)


class ForgetsTheWeight(Watched):
    def before_task(self, task):
        self.energy, energy, self._principals = 0.0, self.energy, {}
        super().before_task(task)
        self.energy, self._principals = energy, {}


class ForgetsEarlierTasks(Watched):
    def before_task(self, task):
        self._before, used = dict(self._used), self._used
        self._used = {path: basis[:, :0] for path, basis in used.items()}
        KeepLora.before_task(self, task)
        self._used = used


@pytest.mark.parametrize(
    ("kind", "kept"), [(Watched, [True, True]), (ForgetsTheWeight, [False, True]), (ForgetsEarlierTasks, [True, False])]
)
def test_a_reads_no_direction_that_is_used(tasks, tmp_path, kind, kept):
    """AP = 0 and AM = 0, after steps with weight decay."""
    method = kind(r=2, target_modules=LAYERS, covered=0.9)
    learner = learner_of(tmp_path, method, weight_decay=0.1)
    for task in tasks[:2]:
        learner.learn(task)
    assert all(basis.shape[1] > 0 for basis in method._before.values())
    assert any(adapter.up.any() for adapter in method.adapters().values()), "it has learned"
    assert [worst < 1e-5 for worst in apart(method)] == kept


def test_gradients_and_inputs(tasks, tmp_path):
    """G of the whole weight by autograd on the weight itself, and X'X of inputs, both of one sample at a time."""
    method = KeepLora(r=2, target_modules=LAYERS)
    learner = learner_of(tmp_path, method)
    learner.features.ensure(tasks[0].train)
    samples, module = tasks[0].train[:5], learner.lmm.module()
    gradients, inputs = method._gradients(samples), method._inputs(samples)
    for path in method.adapters():
        layer = module.get_submodule(path)
        layer.weight.requires_grad_(True)
        seen = []
        hook = layer.register_forward_hook(lambda _, x, y, seen=seen: seen.append(x[0].flatten(0, -2).detach()))
        total = torch.zeros_like(layer.weight)
        for sample in samples:
            total += torch.autograd.grad(method.context.loss([sample]), layer.weight)[0] / len(samples)
        hook.remove()
        layer.weight.requires_grad_(False)
        torch.testing.assert_close(gradients[path], total, rtol=1e-3, atol=1e-6)
        found = torch.cat(seen)
        torch.testing.assert_close(inputs[path], found.T @ found, rtol=1e-4, atol=1e-4)
    assert not any(p.requires_grad for n, p in module.named_parameters() if n not in learner.lmm.trainable())


def test_no_direction_is_left(tasks, tmp_path):
    method = KeepLora(r=2, target_modules=LAYERS, energy=0.9, covered=1.0)
    learner = learner_of(tmp_path, method)
    learner.learn(tasks[0])
    with pytest.raises(
        UserError, match=r"at task 'task-1' no direction of the inputs of .*_proj.* is left: its weight"
    ):
        learner.learn(tasks[1])


def test_a_rank_larger_than_the_layer(tmp_path):
    with pytest.raises(UserError, match=r"keeplora.r=5000 is more than the \d+ directions of a layer's inputs"):
        learner_of(tmp_path, KeepLora(r=5000, target_modules=LAYERS))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("keeplora", {"energy": 1.0}, r"keeplora.energy must lie in \[0, 1\)"),
        ("osf", {"frozen": "a,b"}, "write shares separated by commas"),
        ("osf", {"frozen": "0.7,0.3"}, "must lie in .* and not fall"),
        ("osf", {"frozen": "1.0"}, "must lie in"),
    ],
)
def test_wrong_options(name, options, message):
    with pytest.raises(UserError, match=message):
        make_methods(name, {name: options})


class LeavesWithAdam(Osf):
    """As peft: gradients are projected, and the optimizer's step is not."""

    def after_step(self, parameters):
        pass


def leaks(method):
    """The largest part of U and V along frozen directions."""
    worst = 0.0
    for path, spectrum in method._spectra():
        left, right = method._fixed[path]
        parts = [left.T @ (spectrum.up * spectrum.values), spectrum.down @ right]
        worst = max([worst, *(float(part.detach().abs().max()) for part in parts if part.numel())])
    return worst


@pytest.mark.parametrize(("kind", "tight"), [(Osf, True), (LeavesWithAdam, False)])
def test_steps_stay_out_of_the_frozen_directions(tasks, tmp_path, kind, tight):
    method = kind(target_modules=LAYERS, frozen="0.3,0.5")
    learner = learner_of(tmp_path, method, weight_decay=0.1, learning_rate=1e-3)
    for task in tasks[:2]:
        learner.learn(task)
    assert (leaks(method) < 1e-5) is tight
    if tight:
        for path, spectrum in method._spectra():
            left, right = method._fixed[path]
            up, down = spectrum.factors()
            total = method._weight(path) + up @ down
            frozen = (left.T @ total @ right).diagonal()
            assert torch.allclose(frozen, frozen.sort(descending=True).values, atol=1e-4), path
            assert torch.allclose(total @ right, left * frozen, atol=1e-3), "what is frozen is unchanged"


def test_nothing_changes_when_a_task_begins(tasks, tmp_path):
    """Neither at first nor after a task: the decomposition adds up to the weight of now."""
    method = Osf(target_modules=LAYERS)
    learner = learner_of(tmp_path, method)
    for path, spectrum in method._spectra():
        up, down = spectrum.factors()
        assert float((up @ down).detach().abs().max()) < 1e-5, path
    learner.learn(tasks[0])
    before = {path: up @ down for path, spectrum in method._spectra() for up, down in [spectrum.factors()]}
    assert any(float(value.detach().abs().max()) > 1e-4 for value in before.values())
    method.before_task(tasks[1])
    for path, spectrum in method._spectra():
        up, down = spectrum.factors()
        torch.testing.assert_close(up @ down, before[path], rtol=0, atol=1e-4)
        trained = int((spectrum.values != 0).sum())
        assert trained == min(method._weight(path).shape) - round(0.5 * min(method._weight(path).shape))


@pytest.mark.slow
def test_a_layer_without_room(tmp_path):
    with pytest.raises(UserError, match="osf: no direction of a layer of .* is left for task 1"):
        learner_of(tmp_path, Osf(target_modules=LAYERS, frozen="0.999"))


def test_weights_as_what_trains_are_for_one_device(monkeypatch, tasks, tmp_path):
    learner = learner_of(tmp_path, KeepLora(r=2, target_modules=LAYERS))
    monkeypatch.setattr("evertune.utils.distributed.uses_fsdp", lambda: True)
    with pytest.raises(UserError, match="FSDP shards it"):
        keeplora.KeepLora._gradients(learner.methods[0], tasks[0].train[:1])
