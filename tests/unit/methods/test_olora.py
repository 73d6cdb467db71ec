"""O-LoRA: the loss and its gradient against NumPy and autograd, the sum of adapters by hand, broken variants."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from evertune.methods import Lora, OLora, make_methods
from evertune.methods.olora import SummedLowRank, overlap_gradient
from evertune.models import load_lmm
from evertune.models.adapters import ADAPTER
from evertune.models.weights import copy_of, fingerprint_of
from evertune.training.learner import Learner
from evertune.training.loop import Training, train
from evertune.training.method_contract import check_method
from evertune.utils.errors import UserError

DOWN, UP = f"{ADAPTER}.down", f"{ADAPTER}.up"


def overlap_of(down, kept, *, overlap):
    """Σ_ij |(K Aᵀ)_ij|, or of squares: what `overlap_gradient` is the gradient of."""
    products = kept @ down.T
    return products.abs().sum() if overlap == "absolute" else products.square().sum()


def normal(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def learner_of(folder, method=None, *, seed=1, gradient_accumulation_steps=(8, 1)):
    lmm = load_lmm("random", seed=seed, dtype="float32", device=torch.device("cpu"))
    batch_size, steps = gradient_accumulation_steps
    training = Training(epochs=2, batch_size=batch_size, gradient_accumulation_steps=steps, learning_rate=1e-2)
    return Learner(lmm, [method or OLora(r=2)], folder=folder, training=training, seed=seed, reuse=False)


@pytest.mark.parametrize("overlap", ["absolute", "squared"])
def test_the_loss_is_the_sum_over_earlier_tasks_and_entries(overlap):
    earlier = [normal(3, 10, seed=seed) for seed in (1, 2)]
    down = normal(3, 10, seed=0).requires_grad_()
    by_hand = 0.0
    for kept in earlier:
        for row in kept.numpy():
            for column in down.detach().numpy():
                product = abs(float(np.dot(row, column)))
                by_hand += product if overlap == "absolute" else product**2
    value = overlap_of(down, torch.cat(earlier), overlap=overlap)
    assert value.item() == pytest.approx(by_hand, rel=1e-5)
    value.backward()
    torch.testing.assert_close(overlap_gradient(down.detach(), torch.cat(earlier), overlap=overlap), down.grad)


def test_orthogonal_subspaces_have_no_loss():
    basis = torch.linalg.qr(normal(10, 6, seed=0)).Q.T
    assert float(overlap_of(basis[:3], basis[3:], overlap="squared")) == pytest.approx(0, abs=1e-10)
    turned = torch.linalg.qr(normal(3, 3, seed=1)).Q @ basis[:3]
    kept = normal(4, 10, seed=2)
    squared = [float(overlap_of(down, kept, overlap="squared")) for down in (basis[:3], turned)]
    assert squared[0] == pytest.approx(squared[1], rel=1e-5), "squares see the subspace, whatever its basis"


def test_the_sum_by_hand():
    layer = nn.Linear(7, 5)
    adapter = SummedLowRank(layer, rank=2, alpha=6.0, generator=torch.Generator().manual_seed(0))
    adapter.up.data = normal(5, 2, seed=3)
    downs, ups = [normal(2, 7, seed=s) for s in (4, 5)], [normal(5, 2, seed=s) for s in (6, 7)]
    x = normal(3, 4, 7, seed=8)
    adapter.keep(downs, ups)
    total = adapter.up @ adapter.down + sum(up @ down for up, down in zip(ups, downs, strict=True))
    torch.testing.assert_close(adapter(x), x @ (3.0 * total).T)
    adapter.keep([], [])
    torch.testing.assert_close(adapter(x), x @ (3.0 * adapter.up @ adapter.down).T)


def test_a_new_adapter_changes_nothing_until_it_is_trained(tasks, tmp_path):
    """After a task its adapter moves from the parameters into the sum: the model says the same."""
    learner = learner_of(tmp_path)
    for task in tasks[:2]:
        learner.learn(task)
    features = learner.features
    features.ensure(tasks[0].train)
    batch = learner.lmm.collate(tasks[0].train[:4], features.get(tasks[0].train[:4]))
    before, kept = learner.lmm.module()(batch).logits, learner.lmm.fingerprint
    started = fingerprint_of(learner.lmm.trainable())
    learner.methods[0].before_task(tasks[2])
    assert fingerprint_of(learner.lmm.trainable()) != started and learner.lmm.fingerprint != kept
    assert not any(p.any() for n, p in learner.lmm.trainable().items() if n.endswith(UP))
    torch.testing.assert_close(learner.lmm.module()(batch).logits, before, rtol=1e-4, atol=1e-5)
    again = copy_of(learner.lmm.trainable())
    learner.methods[0].before_task(tasks[2])
    assert fingerprint_of(learner.lmm.trainable()) == fingerprint_of(again), "begun again, it is the same"


def test_the_first_task_is_learned_as_by_lora(tasks, tmp_path):
    ends = [learner_of(tmp_path / type(m).__name__, m) for m in (OLora(r=2), Lora(r=2, modules_to_save="none"))]
    for learner in ends:
        learner.learn(tasks[0])
    assert fingerprint_of(ends[0].lmm.trainable()) == fingerprint_of(ends[1].lmm.trainable())


def test_earlier_adapters_stay_and_are_all_in_the_sum(tasks, tmp_path):
    learner = learner_of(tmp_path)
    ends = []
    for task in tasks:
        learner.learn(task)
        ends.append(copy_of(learner.lmm.trainable()))
    for path, adapter in learner.lmm.adapters.items():
        wanted = torch.cat([end[f"{path}.{DOWN}"] for end in ends[:2]])
        assert torch.equal(adapter.kept_down, wanted)
        assert adapter.kept_up.shape[1] == len(wanted) == 4
    assert [len(adapter.kept_down) for adapter in loaded(learner, 1).lmm.adapters.values()] == [0] * 6
    assert [len(adapter.kept_down) for adapter in loaded(learner, 3).lmm.adapters.values()] == [4] * 6


def loaded(learner, number):
    learner.load(number)
    return learner


def test_a_task_more_stores_one_adapter(tasks, tmp_path):
    learner = learner_of(tmp_path)
    stored = [learner.learn(task).stored_bytes for task in tasks]
    assert stored[0] == 0, "the latest is in the stage's weights"
    assert [b - a for a, b in pairwise(stored)] == [learner.methods[0].grows_by()] * 2
    files = [path.stat().st_size for path in sorted((tmp_path / "stages").glob("*/method.safetensors"))]
    assert files[2] < 1.5 * files[1], "what an earlier stage holds is not written again"


@pytest.mark.parametrize("overlap", ["absolute", "squared"])
def test_the_loss_keeps_subspaces_apart(tasks, tmp_path, overlap):
    ends = {}
    for strength in (0.0, 1.0):
        learner = learner_of(tmp_path / f"{strength}", OLora(r=2, strength=strength, overlap=overlap))
        learner.training = Training(epochs=20, batch_size=8, learning_rate=1e-3)
        for task in tasks[:2]:
            learner.learn(task)
        ends[strength] = sum(
            float(overlap_of(a.down.detach(), a.kept_down, overlap=overlap)) for a in learner.lmm.adapters.values()
        )
    assert ends[1.0] < 0.9 * ends[0.0], ends


@pytest.mark.parametrize("overlap", ["absolute", "squared"])
@pytest.mark.parametrize("strength", [0.25, 3.0])
def test_the_gradient_has_the_strength_that_was_given(tasks, tmp_path, strength, overlap):
    """Beside the loss's own gradient, on A alone; for both earlier tasks, by autograd on the sum over layers."""
    learner = learner_of(tmp_path, OLora(r=2, strength=strength, overlap=overlap))
    (method,) = learner.methods
    for task in tasks[:2]:
        method.before_task(task)
        method.after_task(task)
    method.before_task(tasks[2])
    parameters = learner.lmm.trainable()
    adapters = learner.lmm.adapters.values()
    total = strength * sum(overlap_of(a.down, a.kept_down, overlap=overlap) for a in adapters)
    assert all(len(a.kept_down) == 4 for a in adapters)
    wanted = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
    for parameter in parameters.values():
        parameter.grad = torch.ones_like(parameter)
    method.after_backward(parameters)
    for (name, parameter), gradient in zip(parameters.items(), wanted, strict=True):
        added = parameter.grad - 1
        assert added.any() == (gradient is not None) == name.endswith("down"), name
        torch.testing.assert_close(added, torch.zeros_like(added) if gradient is None else gradient)


class OncePerMicroBatch(OLora):
    """As in public code, where the loss of a micro-batch is divided and that of the subspaces is not."""

    def after_backward(self, parameters):
        pass

    def loss_terms(self, batch, output):
        if not self.adds_to_loss():
            return {}
        values = [overlap_of(a.down, a.kept_down, overlap=self.overlap) for a in self.adapters().values()]
        return {"olora": self.strength * sum(values) * 8 / len(batch.samples)}


def second_task(tasks, folder, method, accumulate):
    learner = learner_of(folder, method, gradient_accumulation_steps=accumulate)
    method.after_task(tasks[0])
    method.before_task(tasks[1])
    learner.features.ensure(tasks[1].train)
    train(learner.lmm, [method], tasks[1].train, learner.features, training=learner.training, seed=4)
    return copy_of(learner.lmm.trainable())


@pytest.mark.parametrize(("kind", "same"), [(OLora, True), (OncePerMicroBatch, False)])
def test_accumulation_is_invisible(tasks, tmp_path, kind, same):
    ends = [second_task(tasks, tmp_path / f"{n}", kind(r=2, overlap="squared"), (n, 8 // n)) for n in (8, 2)]
    apart = max(float((ends[0][name] - ends[1][name]).abs().max()) for name in ends[0])
    assert (apart < 1e-4) is same, apart


class ForgetsEarlier(OLora):
    def load_state_dict(self, state):
        super().load_state_dict({**state, "kept": {}})


class OnlyTheLatest(OLora):
    """Nothing is summed after the task: the old adapters are kept and not used."""

    def _keep(self, count):
        super()._keep(0)


class TrainsOn(OLora):
    """The new task starts from the old adapter, which is in the sum as well."""

    def _fresh(self, task):
        return {}


def test_a_broken_variant_fails(tasks, tmp_path):
    with pytest.raises(AssertionError, match="after save and load"):
        check_method(lambda: [ForgetsEarlier(r=2)])
    for broken in (OnlyTheLatest, TrainsOn):
        learner = learner_of(tmp_path / broken.__name__, broken(r=2))
        learner.learn(tasks[0])
        samples = tasks[0].train[:4]
        batch = learner.lmm.collate(samples, learner.features.get(samples))
        before = learner.lmm.module()(batch).logits
        learner.methods[0].before_task(tasks[1])
        assert not torch.allclose(learner.lmm.module()(batch).logits, before, rtol=1e-3, atol=1e-4)


def test_options_are_checked():
    with pytest.raises(UserError, match=r"olora\.strength must be 0 or more"):
        make_methods("olora", {"olora": {"strength": -1.0}})
    with pytest.raises(UserError, match="olora.overlap='cosine'"):
        make_methods("olora", {"olora": {"overlap": "cosine"}})
    with pytest.raises(UserError, match="has no option 'modules_to_save'"):
        make_methods("olora", {"olora": {"modules_to_save": "projection"}})
    with pytest.raises(UserError, match="no earlier weights to hold"):
        make_methods("ewc+olora")
