"""Routes that are weights over experts: what adapters add is the weighted sum, whatever else is in the batch."""

from __future__ import annotations

import pytest
import torch

from evertune.methods.lora_router import LoraRouter
from evertune.methods.moelora import MoELora
from evertune.models.adapters import mixture
from evertune.models.weights import copy_of, fingerprint_of
from evertune.training.learner import Learner
from evertune.training.loop import Training
from evertune.utils.errors import UserError

TRAINING = Training(epochs=6, batch_size=4, learning_rate=2e-2)


class Weighed(LoraRouter):
    """Routes every sample as the test says."""

    name = "weighed"
    routes = None

    def route(self, samples):
        return super().route(samples) if self.routes is None else [self.routes(sample) for sample in samples]


@pytest.fixture
def learner(new_lmm, tasks, tmp_path):
    made = Learner(new_lmm(), [Weighed()], folder=tmp_path, training=TRAINING)
    for task in tasks[:2]:
        made.learn(task)
    return made


@pytest.fixture
def route(learner):
    method = learner.methods[0]
    yield lambda routes: setattr(method, "routes", routes)
    method.routes = None


def answers(learner, task, **options):
    return [(p.text, p.expert) for p in learner.answers(task, **options)]


def test_each_layer_adds_the_weighted_sum(learner):
    lmm, method = learner.lmm, learner.methods[0]
    path, adapter = next(iter(lmm.adapters.items()))
    x = torch.randn(3, 5, lmm.module().get_submodule(path).in_features)
    before, added = copy_of(lmm.trainable()), {}
    for expert in ("task-0", "task-1"):
        method.activate(expert)
        added[expert] = adapter(x).detach()
    assert not torch.allclose(added["task-0"], added["task-1"])
    with mixture(lmm, method.activate, {"task-0": 0.7, "task-1": -0.2}):
        torch.testing.assert_close(adapter(x), 0.7 * added["task-0"] - 0.2 * added["task-1"])
    method.activate("task-1")
    assert torch.equal(adapter(x), added["task-1"]), "nothing of the mixture is left"
    for name, parameter in lmm.trainable().items():
        parameter.data.copy_(before[name])


def test_what_trains_in_full_is_the_weighted_mean(learner):
    lmm, method = learner.lmm, learner.methods[0]
    before, each = copy_of(lmm.trainable()), []
    for expert in ("task-0", "task-1"):
        method.activate(expert)
        each.append(copy_of(lmm.trainable()))
    (name, *_) = lmm.scopes()["projection"]
    with mixture(lmm, method.activate, {"task-0": 0.25, "task-1": 0.75}):
        torch.testing.assert_close(lmm.trainable()[name], 0.25 * each[0][name] + 0.75 * each[1][name])
    for key, parameter in lmm.trainable().items():
        parameter.data.copy_(before[key])


def test_one_expert_of_weight_one_is_that_expert(learner, tasks, route):
    route(lambda sample: "task-0")
    named = answers(learner, tasks[1])
    route(lambda sample: {"task-0": 1.0, "task-1": 0.0})
    assert answers(learner, tasks[1]) == named


def test_answers_do_not_depend_on_the_batch_and_weights_come_back(learner, tasks, route):
    before = fingerprint_of(learner.lmm.trainable())
    mixed = {s.id: {"task-0": 0.5, "task-1": 0.4} if i % 2 else {"task-1": 1.5} for i, s in enumerate(tasks[0].test)}
    route(lambda sample: mixed[sample.id])
    together = answers(learner, tasks[0])
    assert [expert for _, expert in together] == ["task-0" if i % 2 else "task-1" for i in range(len(tasks[0].test))]
    learner.evaluation_batch = 1
    assert answers(learner, tasks[0]) == together
    learner.evaluation_batch = 128
    assert fingerprint_of(learner.lmm.trainable()) == before


@pytest.mark.parametrize("weights", [{}, {"task-0": 0.0}, {"task-0": float("nan")}])
def test_weights_that_say_nothing_are_refused(learner, tasks, route, weights):
    route(lambda sample: weights)
    with pytest.raises(
        UserError, match="method 'weighed' routes a sample to .*; a route is the name of an expert, or a"
    ):
        answers(learner, tasks[0])


def test_a_gated_mixture_is_refused(lmm):
    adapted = MoELora().adapt(lmm, seed=0)
    with (
        pytest.raises(UserError, match="mixtures that depend on the input"),
        mixture(adapted, lambda _: None, {"a": 0.5, "b": 0.5}),
    ):
        pass
