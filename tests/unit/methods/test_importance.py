"""What importance-based penalties share: gradients against autograd, merging rules by hand, errors, known tasks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from penalties import penalty as value_of

from evertune.methods import EWC, MAS, OnlineEWC, make_methods, per_sample_gradients
from evertune.methods.base import Context
from evertune.methods.importance import ImportancePenalty, mean_over_samples
from evertune.methods.mas import squared_norm
from evertune.models import load_lmm
from evertune.models.features import FeatureStore
from evertune.models.modes import evaluating
from evertune.models.weights import copy_of, fingerprint_of
from evertune.training.learner import Learner
from evertune.training.loop import Training
from evertune.utils.errors import UserError

PENALTIES = ["ewc", "online-ewc", "mas", "tir+ewc", "tir+mas"]


def penalty_of(methods):
    return next(method for method in methods if isinstance(method, ImportancePenalty))


@pytest.mark.parametrize("spec", PENALTIES)
def test_the_gradient_is_that_of_the_penalty(spec, lmm, tasks, set_up, jolt):
    methods = set_up(spec, {name: {"strength": 7.0, "samples": 3} for name in ("ewc", "online-ewc", "mas")})
    for number, task in enumerate(tasks[:2]):
        for hook in ("before_task", "after_task"):
            for method in methods:
                getattr(method, hook)(task)
            jolt(0.05, number)
    for method in methods:
        method.before_task(tasks[2])
    jolt(0.1, 9)
    penalty, parameters = penalty_of(methods), lmm.trainable()
    for parameter in parameters.values():
        parameter.grad = torch.ones_like(parameter)
    penalty.after_backward(parameters)
    closed = {n: p.grad - 1 for n, p in parameters.items()}
    by_autograd = torch.autograd.grad(value_of(penalty, parameters), list(parameters.values()))
    assert max(float(g.abs().max()) for g in by_autograd) > 0
    for (name, ours), theirs in zip(closed.items(), by_autograd, strict=True):
        assert (ours - theirs).abs().max() <= 1e-4 * theirs.abs().max() + 1e-6, name


class Handed(OnlineEWC):
    """Importances from outside, to merge by hand."""

    def measure(self, samples):
        return self.given.pop(0)


class NeverMovesItsAnchor(Handed):
    def before_task(self, task):
        if not self.rule._anchor:
            super().before_task(task)


class ForgetsToDecay(Handed):
    def merging(self):
        self.gamma = 1.0
        return super().merging()


def merge_by_hand(kind, lmm, tasks, context, jolt):
    """Three importances 1, 10, 100 times a random one, γ = 0.5: F̃ = 0.25 · 1 + 0.5 · 10 + 100 of it, λ/2 F̃ (θ - a)²."""
    method = kind(strength=3.0, gamma=0.5)
    method.setup(context)
    base = {n: torch.rand(p.shape, generator=torch.Generator().manual_seed(5)) for n, p in lmm.trainable().items()}
    method.given = [{n: 10.0**k * t for n, t in base.items()} for k in range(3)]
    for number, task in enumerate(tasks):
        method.before_task(task)
        jolt(0.05, number)
        method.after_task(task)
    method.before_task(tasks[0])
    anchor = copy_of(lmm.trainable())
    jolt(0.1, 9)
    for parameter in lmm.trainable().values():
        parameter.grad = None
    method.after_backward(lmm.trainable())
    for name, parameter in lmm.trainable().items():
        wanted = 3.0 * 105.25 * base[name].numpy() * (parameter.detach() - anchor[name]).numpy()
        np.testing.assert_allclose(parameter.grad.numpy(), wanted, rtol=1e-3, atol=1e-5)


def test_online_ewc_by_hand(lmm, tasks, context, jolt):
    merge_by_hand(Handed, lmm, tasks, context, jolt)


@pytest.mark.parametrize("broken", [NeverMovesItsAnchor, ForgetsToDecay])
def test_a_broken_online_ewc_fails_by_hand(broken, lmm, tasks, context, jolt):
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        merge_by_hand(broken, lmm, tasks, context, jolt)


@pytest.mark.parametrize("kind", [EWC, MAS])
def test_a_gradient_that_is_not_finite_names_its_sample(kind, tasks, context, monkeypatch):
    """One broken sample among good ones must not become an importance of NaN."""
    bad = tasks[0].train[5]
    honest = context.features.get

    def get(samples):
        return honest(samples) * (float("nan") if bad in samples else 1.0)

    monkeypatch.setattr(context.features, "get", get)
    method = kind(samples=8)
    method.setup(context)
    with pytest.raises(UserError, match=f"is not finite at the sample {bad.id} .*{bad.origin}"):
        method.after_task(tasks[0])
    assert not method.rule.importance, "nothing was merged"


@pytest.mark.parametrize("kind", [EWC, MAS])
def test_how_many_samples_are_estimated_from(kind, tasks, context):
    method = kind(samples=3)
    method.setup(context)
    seen = []
    measure = method.measure
    method.measure = lambda samples: seen.append([s.id for s in samples]) or measure(samples)
    method.after_task(tasks[0])
    method.after_task(tasks[0])
    assert len(set(seen[0])) == 3 and seen[0] == seen[1], "a choice by seed and task, not by what was drawn before"


@pytest.mark.parametrize("spec", [*PENALTIES, "lwf"])
def test_known_tasks_are_protected_from_the_first_task_on(spec, tasks, tmp_path):
    """The tasks of `on_known_task` are handled before the stream; without them the first task is trained freely."""
    ends = []
    for known in (False, True):
        lmm = load_lmm("random", seed=1, dtype="float32", device=torch.device("cpu"))
        learner = Learner(
            lmm,
            make_methods(spec, {n: {"samples": 4, "strength": 1e6} for n in ("ewc", "online-ewc", "mas")}),
            folder=tmp_path / str(known),
            training=Training(epochs=1, batch_size=4, learning_rate=5e-3),
            reuse=False,
        )
        for method in learner.methods if known else ():
            method.on_known_task(tasks[0])
        assert any(method.adds_to_loss() for method in learner.methods) == known
        learner.learn(tasks[1])
        ends.append(fingerprint_of(lmm.trainable()))
    assert ends[0] != ends[1]


def test_the_strength_that_was_not_given_is_the_rules_own():
    strengths = {spec: penalty_of(make_methods(spec)).strength for spec in PENALTIES}
    assert strengths["ewc"] == strengths["online-ewc"] == 10_000 and strengths["mas"] == 1
    assert strengths["tir+ewc"] == strengths["tir+mas"] == 1e7
    assert penalty_of(make_methods("tir+ewc", {"ewc": {"strength": 5.0}})).strength == 5


def test_a_run_writes_down_the_strength_it_used():
    from evertune.runs.api import configure, resolved

    recorded = resolved(configure("parcel", method="tir+ewc"), "tir+ewc")["options"]
    assert recorded["ewc"]["strength"] == 1e7 and recorded["tir"]["discount"] == "accumulate"


@pytest.mark.parametrize(
    ("spec", "options", "complaint"),
    [
        ("mas", {"strength": -1.0}, "mas.strength must be 0 or more"),
        ("mas", {"strength": float("nan")}, "mas.strength=nan: the number must be finite"),
        ("online-ewc", {"samples": 0}, "online-ewc.samples at least 1"),
        ("online-ewc", {"gamma": 1.5}, "online-ewc.gamma must lie between 0 and 1"),
        ("lwf", {"strength": -1.0}, "lwf.strength must be 0 or more"),
        ("lwf", {"temperature": 0.0}, "lwf.temperature above 0"),
        ("tir+ewc", {"owner": "nobody"}, "tir.owner='nobody'"),
    ],
)
def test_options_that_make_no_sense(spec, options, complaint):
    with pytest.raises(UserError, match=complaint):
        make_methods(spec, {spec.split("+")[0]: options})


def test_evaluation_mode_is_lent(lmm):
    module = lmm.module()
    for mode in (True, False):
        module.train(mode)
        with evaluating(module):
            assert not module.training
        assert module.training is mode


def independent(lmm, store, samples, of, size):
    """Mean over samples of `size(gradient)`, by one plain autograd call per sample."""
    total = {name: torch.zeros_like(p) for name, p in lmm.trainable().items()}
    with evaluating(lmm.module()):
        for sample in samples:
            value = of(lmm.module()(lmm.collate([sample], store.get([sample])))).sum()
            gradients = torch.autograd.grad(value, list(lmm.trainable().values()), allow_unused=True)
            for name, gradient in zip(total, gradients, strict=True):
                total[name] += torch.zeros_like(total[name]) if gradient is None else size(gradient)
    return {name: value / len(samples) for name, value in total.items()}


MIXES = [(1,) * 20, (2, 0), (0, 2, 1, 1), (0, 0, 3), (1, 2, 0), (2, 2), (1, 1, 1), (0, 0), (0, 3, 1, 0, 1, 2) * 3]


@pytest.mark.parametrize("images", MIXES, ids=str)
@pytest.mark.parametrize("model", ["random", "mini_blip", "tiny-aligned"])
def test_samples_with_different_numbers_of_images(model, images, tasks, mini_blip):
    """Fisher and MAS are those of each sample alone, whatever number of images the others have."""
    name = str(mini_blip) if model == "mini_blip" else model
    lmm = load_lmm(name, seed=1, dtype="float32", device=torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    for parameter in lmm.trainable().values():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    base = [sample for task in tasks for sample in task.train]
    samples = [
        replace(base[n], id=str(n), images=tuple(base[(n + k) % len(base)].images[0] for k in range(count)))
        for n, count in enumerate(images)
    ]
    store = FeatureStore(lmm)
    store.ensure(samples)
    context = Context(lmm=lmm, features=store, seed=0, start={})
    for of, size in ((lambda output: output.nll, torch.square), (squared_norm, torch.Tensor.abs)):
        right = independent(lmm, store, samples, of, size)
        level = max(float(value.abs().max()) for value in right.values())
        ours = mean_over_samples(context, samples, of=of, size=size)
        totals = [sum(float(value.sum()) for value in some.values()) for some in (ours, right)]
        assert totals[0] == pytest.approx(totals[1], rel=1e-4)
        for parameter, value in right.items():
            torch.testing.assert_close(ours[parameter], value, rtol=1e-3, atol=1e-6 * level)


@pytest.mark.parametrize("kind", [EWC, MAS])
def test_parts_that_add_up_but_belong_to_other_samples_are_found(kind, tasks, context, monkeypatch):
    """The sum over samples is the batch's whatever sample has which part: so two are compared one by one."""
    method = kind(samples=8)
    method.setup(context)
    samples = [replace(s, answers=(f"red {n}",)) for n, s in enumerate(tasks[0].train)]
    right = method.measure(samples)
    linear = per_sample_gradients._RULES[torch.nn.Linear]

    def exchanged(*given):
        return {part: gradients.roll(1, 0) for part, gradients in linear(*given).items()}

    monkeypatch.setitem(per_sample_gradients._RULES, torch.nn.Linear, exchanged)
    ours = method.measure(samples)
    for name, value in right.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-3, atol=1e-6 * float(value.max()))
