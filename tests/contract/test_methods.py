"""Every method and composition keeps the contract of `check_method`; broken variants don't."""

from __future__ import annotations

import pytest

from evertune.checks import check_method
from evertune.methods import EWC, METHODS, EProj, Replay, make_methods

SPECS = [*METHODS, "replay+ewc", "replay+eproj"]
OPTIONS = {"replay": {"ratio": 0.25}, "ewc": {"strength": 50.0, "samples": 4}}


@pytest.mark.parametrize("spec", SPECS)
def test_contract(spec):
    check_method(lambda: make_methods(spec, {k: v for k, v in OPTIONS.items() if k in spec}))


def test_contract_with_projection_experts():
    check_method(lambda: [EProj(expert="projection")])


def test_contract_with_a_buffer():
    check_method(lambda: [Replay(buffer=4)])


class ForgetsItsState(EWC):
    def state_dict(self):
        return {"importance": {}, "pull": {}}


class ForgetsItsKeys(EProj):
    def load_state_dict(self, state):
        super().load_state_dict({**state, "keys": {}})


class TouchesTheFrozen(Replay):
    def after_task(self, task):
        super().after_task(task)
        next(p for p in self.context.lmm.module().parameters() if not p.requires_grad).data.add_(1e-3)


class NeverQuiet(EWC):
    def adds_to_loss(self):
        return bool(self.importance)

    def after_backward(self, parameters):
        for parameter in parameters.values():
            parameter.grad.add_(1e-3)


class GrowsForever(EWC):
    def after_task(self, task):
        super().after_task(task)
        self.importance |= {f"{task.name}/{n}": t.clone() for n, t in self.importance.items()}


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [
        (lambda: ForgetsItsState(strength=50.0, samples=4), "some state is not saved"),
        (ForgetsItsKeys, "after save and load"),
        (lambda: TouchesTheFrozen(ratio=0.25), "a frozen parameter was changed"),
        (lambda: NeverQuiet(samples=4), "trained differently than alone"),
        (lambda: GrowsForever(strength=50.0, samples=4), "stored bytes grow"),
    ],
)
def test_a_broken_method_fails(broken, complaint):
    with pytest.raises(AssertionError, match=complaint):
        check_method(lambda: [broken()])
