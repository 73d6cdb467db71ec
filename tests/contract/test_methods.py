"""Every method and composition keeps the contract of `check_method`; broken variants don't."""

from __future__ import annotations

import pytest
import torch

from evertune.methods import EWC, METHODS, EProj, Lora, LoraRouter, LwF, Merge, Replay, Tir, composed, make_methods
from evertune.models.weights import bytes_of, restore
from evertune.training import evaluator as evaluate
from evertune.training.method_contract import check_method
from evertune.utils.errors import UserError

thorough = pytest.mark.thorough
ALONE = [name for name in METHODS if name != "tir"]
FIRST = ["replay+ewc", "replay+eproj", "tir+ewc", "replay+lora", "replay+keeplora"]
"""One composition of each kind; `make test-all` also has the others."""
TOGETHER = [
    "replay+ewc",
    "agem+ewc",
    "replay+agem",
    "replay+eproj",
    "replay+mas",
    "tir+ewc",
    "tir+mas",
    "replay+tir+ewc",
    "ewc+lwf",
    "merge+ewc",
    "replay+merge",
    "replay+only+ewc",
    "eproj+only",
    "replay+dgg",
    "der+ewc",
]
ADAPTED = [
    "replay+lora",
    "agem+lora",
    "ewc+lora",
    "tir+mas+lora",
    "lwf+lora",
    "eproj+lora",
    "replay+olora",
    "replay+moelora",
    "replay+merge+lora",
    "only+lora",
    "replay+hide",
    "replay+keeplora",
]
LORA = ["lora", "olora", "moelora", "lora-router", "hide", "disco", "reglora", "keeplora", "osf"]
OPTIONS = {
    "replay": {"ratio": 0.25},
    "agem": {"ratio": 0.25, "samples": 3},
    "ewc": {"strength": 50.0, "samples": 4},
    "online-ewc": {"strength": 50.0, "samples": 4},
    "mas": {"samples": 4},
    "lwf": {"strength": 3.0},
    "merge": {"samples": 4},
    "gem": {"ratio": 0.25, "samples": 3},
    "der": {"buffer": 8, "samples": 3},
    "dgg": {"p": 0.5},
    "keeplora": {"covered": 0.8, "samples": 4, "target_modules": "q_proj,v_proj"},
}


@pytest.mark.parametrize("spec", [*ALONE, *FIRST])
def test_contract(spec):
    check_method(lambda: make_methods(spec, OPTIONS))


@thorough
@pytest.mark.parametrize("spec", [spec for spec in (*TOGETHER, *ADAPTED) if spec not in FIRST])
def test_contract_of_other_compositions(spec):
    check_method(lambda: make_methods(spec, OPTIONS))


@pytest.mark.parametrize("spec", ["replay+tir+ewc", "eproj", "gem", "lora"])
def test_contract_on_instructblip(spec, mini_blip):
    check_method(lambda: make_methods(spec, OPTIONS), model=str(mini_blip))


@thorough
@pytest.mark.parametrize(
    "spec", ["sequential", "mas", "lwf", "merge", "only", "der", *(spec for spec in LORA if spec != "lora")]
)
def test_contract_of_other_methods_on_instructblip(spec, mini_blip):
    check_method(lambda: make_methods(spec, OPTIONS), model=str(mini_blip))


@pytest.mark.parametrize(
    "make",
    [
        *[
            pytest.param(lambda rule=rule: [Merge(rule=rule, samples=4), Lora(r=2)], marks=thorough)
            for rule in Merge.rules
        ],
        *[lambda rule=rule: [Merge(rule=rule)] for rule in ("magmax", "ema")],
        lambda: [EProj(expert="projection", router="calibrated", init="similar")],
        lambda: [EProj(expand="when-dissimilar", threshold=0.0, reuse_strength=1e4)],
        lambda: [EProj(routing="oracle")],
        lambda: [Replay(buffer=4)],
        lambda: [Replay(buffer=4, choice="reservoir", weighting="dissimilar"), EProj(router="calibrated")],
    ],
    ids=[
        *(f"{rule}+lora" for rule in Merge.rules),
        *("magmax", "ema", "calibrated", "reuse", "oracle", "buffer", "reservoir"),
    ],
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
        return [self.expert_of(f"task-{sample.id[0]}") or "(base)" for sample in samples]


class AsksTheBatch(EProj):
    def route(self, samples):
        chosen = super().route(samples)
        return chosen and [max(set(chosen), key=chosen.count)] * len(chosen)


class ForgetsTheRegression(LoraRouter):
    def load_state_dict(self, state):
        super().load_state_dict({**state, "router": {}})


class StartsAnywhere(LoraRouter):
    """The seed of the run does not decide its adapters."""

    def adapt(self, lmm, *, seed):
        return super().adapt(lmm, seed=int(torch.randint(2**31, (1,))))


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
        return bool(self.rule.importance)

    def after_backward(self, parameters):
        for parameter in parameters.values():
            parameter.grad.add_(1e-3)


class GrowsForever(EWC):
    def after_task(self, task):
        super().after_task(task)
        self.rule.importance |= {f"{task.name}/{n}": t.clone() for n, t in self.rule.importance.items()}


class DeclaresWhatOnlyAnExpansionMay(GrowsForever):
    def grows_by(self):
        return bytes_of(self.context.parameters)


class ForgetsOwners(EWC):
    """Under tir: the owners of a saved stage are lost, all belongs to the first task."""

    def load_state_dict(self, state):
        super().load_state_dict({**state, "owner": {n: torch.zeros_like(t) for n, t in state["owner"].items()}})


class ForgetsThatItKnows(LwF):
    def state_dict(self):
        return {"knows": False}


class DistilsFromTheFirst(LwF):
    def adds_to_loss(self):
        return True


class CountsQuestions(Replay):
    """What is asked becomes a part of its state."""

    def route(self, samples):
        self._seen += len(samples)


class ActivatesForGood(EProj):
    """Its experts are more than what trains: a buffer goes with them, and nobody puts it back."""

    def setup(self, context):
        super().setup(context)
        module = context.lmm.module()
        if "expert" not in dict(module.named_buffers()):
            module.register_buffer("expert", torch.zeros(1), persistent=False)

    def activate(self, expert):
        super().activate(expert)
        self.context.lmm.module().expert.fill_(list(self._experts).index(expert))


class StartsAfresh(EWC):
    """Not the weights of the task before, whatever its strength: no sequential tuning."""

    def before_task(self, task):
        restore(self.context.parameters, self.context.start)
        super().before_task(task)


class CountsItsSteps(EWC):
    """What it has collected in the middle of a task is lost when the task is gone on with."""

    def setup(self, context):
        super().setup(context)
        self._steps = 0

    def before_task(self, task):
        super().before_task(task)
        self._steps = 0

    def after_backward(self, parameters):
        super().after_backward(parameters)
        self._steps += 1
        if self.adds_to_loss():
            for parameter in parameters.values():
                parameter.grad.add_(1e-3 * self._steps)


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [
        (CountsQuestions, "answering changed what a method knows"),
        (ActivatesForGood, "answering changed the weights"),
        (lambda: StartsAfresh(strength=50.0, samples=4), "with neutral options it differs"),
        (lambda: CountsItsSteps(strength=50.0, samples=4), "must be in its `progress_dict`"),
        (lambda: ForgetsItsState(strength=50.0, samples=4), "some state is not saved"),
        (ForgetsItsKeys, "after save and load"),
        (ForgetsTheRegression, "after save and load"),
        (StartsAnywhere, "some state is not saved"),
        (SecretOracle, "when the task is hidden"),
        (AsksTheBatch, "when the task is hidden"),
        (
            lambda: ForgetsTheImportance(expand="when-dissimilar", threshold=0.0, reuse_strength=1e4),
            "some state is not saved",
        ),
        (lambda: TouchesTheFrozen(ratio=0.25), "a frozen parameter was changed"),
        (lambda: NeverQuiet(samples=4), "trained differently than alone"),
        (lambda: GrowsForever(strength=50.0, samples=4), "stored bytes grow"),
        (lambda: DeclaresWhatOnlyAnExpansionMay(strength=50.0, samples=4), "it is an expansion"),
        (lambda: ForgetsThatItKnows(strength=3.0), "some state is not saved"),
        (lambda: DistilsFromTheFirst(strength=3.0), "trained differently than alone"),
    ],
)
def test_a_broken_method_fails(broken, complaint):
    with pytest.raises(AssertionError, match=complaint):
        check_method(lambda: [broken()])


@pytest.mark.parametrize("make", [EProj, lambda: EProj(routing="oracle"), lambda: LoraRouter(r=2)])
def test_weights_that_stay_after_answering_are_noticed(make, monkeypatch):
    """The evaluator leaves the expert that answered last in the model."""
    monkeypatch.setattr(evaluate, "restore", lambda parameters, saved: None)
    with pytest.raises(AssertionError, match="answering changed the weights"):
        check_method(lambda: [make()])


def test_owners_must_survive():
    with pytest.raises(AssertionError, match="some state is not saved"):
        check_method(lambda: [Tir(), ForgetsOwners(strength=1e6, samples=4)])


def test_a_modifier_must_have_something_to_modify():
    for methods in (lambda: make_methods("tir"), lambda: make_methods("replay+tir"), lambda: composed([Tir()])):
        with pytest.raises(UserError, match=r"join it with one, as in tir\+ewc or tir\+mas"):
            methods()
    with pytest.raises(UserError, match="write ewc instead"):
        make_methods("tir+online-ewc")
