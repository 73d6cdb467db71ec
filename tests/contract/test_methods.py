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


@pytest.mark.parametrize(
    "make",
    [
        lambda: [EProj(expert="projection", router="calibrated", init="similar")],
        lambda: [EProj(expand="when-dissimilar", threshold=0.0, reuse_strength=1e4)],
        lambda: [EProj(routing="oracle")],
        lambda: [Replay(buffer=4)],
        lambda: [Replay(buffer=4, choice="reservoir", weighting="dissimilar"), EProj(router="calibrated")],
    ],
    ids=["calibrated", "reuse", "oracle", "buffer", "reservoir"],
)
def test_contract_with_options(make):
    check_method(make)


class ForgetsItsState(EWC):
    def state_dict(self):
        return {"importance": {}, "pull": {}}


class ForgetsItsKeys(EProj):
    def load_state_dict(self, state):
        super().load_state_dict({**state, "router": {}})


class SecretOracle(EProj):
    def route(self, samples):
        if super().route(samples) is None:
            return None
        return [self.expert_of(f"task-{sample.id[0]}") or "(untouched)" for sample in samples]


class AsksTheBatch(EProj):
    def route(self, samples):
        chosen = super().route(samples)
        return chosen and [max(set(chosen), key=chosen.count)] * len(chosen)


class ForgetsTheImportance(EProj):
    def load_state_dict(self, state):
        zero = {e: {n: t * 0 for n, t in found.items()} for e, found in state["importance"].items()}
        super().load_state_dict({**state, "importance": zero})


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
        (SecretOracle, "when the task is hidden"),
        (AsksTheBatch, "when the task is hidden"),
        (
            lambda: ForgetsTheImportance(expand="when-dissimilar", threshold=0.0, reuse_strength=1e4),
            "some state is not saved",
        ),
        (lambda: TouchesTheFrozen(ratio=0.25), "a frozen parameter was changed"),
        (lambda: NeverQuiet(samples=4), "trained differently than alone"),
        (lambda: GrowsForever(strength=50.0, samples=4), "stored bytes grow"),
    ],
)
def test_a_broken_method_fails(broken, complaint):
    with pytest.raises(AssertionError, match=complaint):
        check_method(lambda: [broken()])
