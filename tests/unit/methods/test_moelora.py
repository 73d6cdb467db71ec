"""MoELoRA: the mixture against NumPy expert by expert, its gradient, one expert = LoRA, broken variants."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from evertune.methods import Lora, MoELora, make_methods
from evertune.methods.moelora import MixedLowRank
from evertune.models import load_lmm
from evertune.models.adapters import LowRank
from evertune.training.learner import Learner
from evertune.training.loop import Training
from evertune.utils.errors import UserError

RANK, EXPERTS = 6, 3


def mixture(kind=MixedLowRank, *, experts=EXPERTS):
    layer = nn.Linear(7, 5)
    adapter = kind(layer, rank=RANK, alpha=12.0, experts=experts, generator=torch.Generator().manual_seed(0))
    adapter.up.data = torch.randn(5, RANK, generator=torch.Generator().manual_seed(1))
    return adapter


def tokens():
    return torch.randn(3, 4, 7, generator=torch.Generator().manual_seed(2))


def by_hand(adapter, x):
    """Token by token and expert by expert: s Σ_e softmax(G x)_e B_e A_e x."""
    down, up, gate = (p.detach().numpy().astype(float) for p in (adapter.down, adapter.up, adapter.gate))
    share = RANK // len(gate)
    output = np.zeros((*x.shape[:-1], len(up)))
    for place in np.ndindex(*x.shape[:-1]):
        token = x[place].numpy().astype(float)
        weights = np.exp(gate @ token)
        weights /= weights.sum()
        for expert, weight in enumerate(weights):
            rows = slice(expert * share, (expert + 1) * share)
            output[place] += 2.0 * weight * (up[:, rows] @ (down[rows] @ token))
    return output


def agrees(adapter):
    return np.allclose(adapter(tokens()).detach().numpy(), by_hand(adapter, tokens()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("experts", [1, 2, 3, 6])
def test_the_mixture_is_the_sum_over_experts(experts):
    adapter = mixture(experts=experts)
    assert agrees(adapter)
    shares = adapter.shares(tokens())
    assert shares.shape == (3, 4, experts)
    torch.testing.assert_close(shares.sum(-1), torch.ones(3, 4))


def test_the_gradient_of_the_gate_by_differences():
    adapter, x, step = mixture(), tokens(), 1e-6
    adapter(x).sin().sum().backward()
    found = adapter.gate.grad.clone()
    adapter.double()

    def value():
        return float(np.sin(by_hand(adapter, x)).sum())

    for place in ((0, 0), (2, 6)):
        with torch.no_grad():
            adapter.gate[place] += step
            above = value()
            adapter.gate[place] -= 2 * step
            below = value()
            adapter.gate[place] += step
        assert float(found[place]) == pytest.approx((above - below) / (2 * step), rel=1e-3)


class LeavesOutTheGate(MixedLowRank):
    def shares(self, x):
        return torch.full_like(super().shares(x), 1 / EXPERTS)


class InterleavesExperts(MixedLowRank):
    """The shares go to every third row instead of to an expert's own."""

    def forward(self, x):
        shares = self.shares(x).repeat(1, 1, RANK // EXPERTS)
        return self.scale * (shares * (x @ self.down.T)) @ self.up.T


class OneGatePerSentence(MixedLowRank):
    def shares(self, x):
        return super().shares(x.mean(-2, keepdim=True)).expand(*x.shape[:-1], EXPERTS)


@pytest.mark.parametrize("broken", [LeavesOutTheGate, InterleavesExperts, OneGatePerSentence])
def test_a_broken_mixture_is_noticed(broken):
    assert agrees(mixture()) and not agrees(mixture(broken))


def test_with_one_expert_it_is_lora(tasks, tmp_path):
    """The gate of a single expert is 1: the same weights to the bit, after two tasks.

    Without clipping: with the gates, whose gradients are zero, the norm of all gradients may be rounded otherwise.
    """
    training = Training(learning_rate=1e-2, max_grad_norm=1e6)
    ends = []
    for name, method in (("lora", Lora()), ("one", MoELora(experts=1))):
        lmm = load_lmm("random", seed=1, dtype="float32", device=torch.device("cpu"))
        learner = Learner(lmm, [method], folder=tmp_path / name, training=training, reuse=False)
        for task in tasks[:2]:
            learner.learn(task)
        ends.append({n: p.detach() for n, p in learner.lmm.trainable().items() if not n.endswith("gate")})
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())


def test_the_gate_learns(tasks, tmp_path):
    lmm = load_lmm("random", seed=1, dtype="float32", device=torch.device("cpu"))
    learner = Learner(lmm, [MoELora()], folder=tmp_path, training=Training(learning_rate=1e-2), reuse=False)
    start = {n: p.detach().clone() for n, p in learner.lmm.trainable().items() if n.endswith("gate")}
    assert len(start) == len(learner.lmm.adapters)
    learner.learn(tasks[0])
    assert all(not torch.equal(value, learner.lmm.trainable()[name]) for name, value in start.items())
    assert learner.stages[0].stored_bytes == 0


def test_the_cost_is_that_of_lora_and_the_gates():
    layer = nn.Linear(7, 5)
    plain = LowRank(layer, rank=RANK, alpha=12.0, generator=torch.Generator())
    size = sum(p.numel() for p in plain.parameters())
    assert sum(p.numel() for p in mixture().parameters()) == size + EXPERTS * 7


def test_options_are_checked():
    with pytest.raises(UserError, match=r"moelora\.experts=3 must divide moelora\.r=8"):
        make_methods("moelora", {"moelora": {"experts": 3}})
    with pytest.raises(UserError, match="must divide"):
        make_methods("moelora", {"moelora": {"experts": 0}})
    with pytest.raises(UserError, match="each bring adapters"):
        make_methods("lora+moelora")
