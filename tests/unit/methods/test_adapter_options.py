"""Every option of the methods with adapters reaches the model, each on its own; and the router's regression."""

from __future__ import annotations

import re

import pytest
import torch

from evertune.methods import LoraRouter, make_methods
from evertune.methods.routers import RidgeRouter
from evertune.models import load_lmm
from evertune.models.adapters import ADAPTER
from evertune.runs.api import configure, method_specs
from evertune.training.learner import Learner
from evertune.training.loop import Training
from evertune.utils.errors import UserError

METHODS = ["lora", "olora", "moelora", "lora-router"]


def adapted(name, options):
    lmm = load_lmm("random", seed=1, dtype="float32", device=torch.device("cpu"))
    return make_methods(name, {name: options})[0].adapt(lmm, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_rank_alpha_and_targets_are_those_of_the_adapters(name):
    for options, scale in (
        ({"r": 4}, 16 / 4),
        ({"lora_alpha": 6.0}, 6 / 8),
        ({"r": 2, "lora_alpha": 5.0, **few(name)}, 2.5),
    ):
        lmm = adapted(name, {**options, "target_modules": "o_proj"})
        assert {path.split(".")[-1] for path in lmm.adapters} == {"o_proj"} and len(lmm.adapters) == 2
        for adapter in lmm.adapters.values():
            assert adapter.scale == pytest.approx(scale)
            assert len(adapter.down) == adapter.up.shape[1] == options.get("r", 8)


@pytest.mark.parametrize("name", METHODS)
def test_lora_of_the_model_and_of_a_method_exclude_each_other(name):
    for option, value in (
        ("scope", "projection+lora"),
        ("scope", "dora"),
        ("r", "4"),
        ("lora_alpha", "8"),
        ("target_modules", "k_proj"),
    ):
        settings = [f"model.{option}={value}"]
        config = configure("parcel", method=f"sequential,replay+{name}", settings=settings)
        with pytest.raises(
            UserError, match=rf"LoRA is set twice: by model\.{option}={re.escape(value)} .* '{name}'.*Leave out"
        ):
            method_specs(config)
        method_specs(configure("parcel", method="sequential,replay+ewc", settings=settings))
    method_specs(configure("parcel", method=name, settings=["model.scope=projection"]))


def few(name):
    return {"experts": 2} if name == "moelora" else {}


@pytest.mark.slow
def test_the_number_of_experts_is_that_of_the_gates():
    for options, experts in (({}, 4), ({"experts": 2}, 2)):
        assert {len(adapter.gate) for adapter in adapted("moelora", options).adapters.values()} == {experts}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lora", "moelora", "lora-router"])
def test_what_trains_whole_is_what_was_named(name):
    for options, wanted in (
        ({}, {"projection"}),
        ({"modules_to_save": "none"}, set()),
        ({"modules_to_save": "lora"}, {"lora"}),
    ):
        lmm = adapted(name, {**options, "target_modules": "o_proj"})
        beside = {n for n in lmm.trainable() if f".{ADAPTER}." not in n}
        scopes = {scope: set(names) for scope, names in lmm.scopes().items() if scope != "adapters"}
        assert beside == {n for scope in wanted for n in scopes[scope]}, options


def test_olora_trains_nothing_whole():
    assert all(f".{ADAPTER}." in name for name in adapted("olora", {}).trainable())


@pytest.fixture
def router_of(tasks, tmp_path):
    """The method after two tasks whose training is of no interest."""

    def make(**options):
        lmm = load_lmm("random", seed=1, dtype="float32", device=torch.device("cpu"))
        folder = tmp_path / str(options)
        learner = Learner(lmm, [LoraRouter(r=1, **options)], folder=folder, training=Training(), reuse=False)
        for task in tasks[:2]:
            learner.features.ensure([*task.train, *task.test])
            learner.methods[0].after_task(task)
        return learner.methods[0]

    return make


@pytest.mark.parametrize("ridge", [1e-3, 0.5, 20.0])
def test_the_ridge_is_that_of_the_regression(router_of, tasks, ridge):
    """Of both ways to route by it; a strong one shrinks what tells tasks apart."""
    method, alone = router_of(ridge=ridge), RidgeRouter(ridge=ridge)
    for task in tasks[:2]:
        alone.learn(task.name, method.queries(task.train))
    chosen = method.queries(tasks[1].test)
    torch.testing.assert_close(method._router.scores(chosen), alone.scores(chosen))
    (_, first), (_, second) = method.ranking(tasks[1].test[0])
    apart = first - second
    assert 0 < apart < 1.5 and (apart < 0.2) == (ridge == 20.0), apart


def test_the_oracle_is_told_and_the_ridge_is_not(router_of, tasks):
    oracle, routed = router_of(routing="oracle"), router_of()
    assert oracle.needs_task_id() and not routed.needs_task_id()
    assert oracle.expert_of("task-1") == "task-1" and oracle.expert_of("task-2") is None
