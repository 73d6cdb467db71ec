"""What a method may log, and the losses and logits that it may ask of its context."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest
import torch

import evertune
from evertune import Method, MethodInfo
from evertune.methods import Replay
from evertune.models.protocol import Output
from evertune.reporting.logged import logged_values
from evertune.training.learner import Learner
from evertune.training.loop import Training
from evertune.utils.errors import UserError


class Loud(Method):
    """Logs in every place, and has two loss terms that change nothing."""

    name = "loud"
    about = MethodInfo("logs", "regularization")

    def before_task(self, task):
        self.log("before", 1)

    def loss_terms(self, batch, output):
        self.log("micro", len(batch.samples))
        return {"zero": 0 * output.loss, "two": output.loss.detach() * 0 + 2}

    def after_backward(self, parameters):
        self.log("norm", torch.stack([p.grad.norm() for p in parameters.values()]).norm())
        self.log("nan", float("nan"))

    def after_task(self, task):
        self.log("after", 3)


def log_of(folder, stage):
    (path,) = folder.glob(f"stages/{stage:02d}-*/training.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_method_logs_by_name(lmm, tasks, tmp_path):
    training = Training(batch_size=2, gradient_accumulation_steps=2)
    steps = []
    learner = Learner(lmm, [Loud()], folder=tmp_path, training=training, reuse=False)
    for task in tasks[:2]:
        learner.learn(task, on_step=steps.append)
    for number in (1, 2):
        rows = log_of(tmp_path, number)
        assert [row.get("loud/before") for row in rows] == [1, *[None] * (len(rows) - 1)]
        assert [row.get("loud/after") for row in rows] == [*[None] * (len(rows) - 1), 3]
        assert {row["loud/micro"] for row in rows} == {2} and all(row["loud/norm"] > 0 for row in rows)
        assert all(row["loud/zero"] == 0 and abs(row["loud/two"] - 2) < 1e-6 and "loud/nan" not in row for row in rows)
    assert steps[0].logged["loud/two"] == pytest.approx(2)
    table = logged_values(tmp_path)
    assert table.stages == [task.name for task in tasks[:2]]
    assert dict(table.rows)["loud/before"] == ["1", "1"]


def test_terms_are_means_over_the_step_however_it_is_cut(lmm, tasks, tmp_path):
    logs = []
    for size, steps in ((12, 1), (3, 4)):
        training = Training(batch_size=size, gradient_accumulation_steps=steps)
        folder = tmp_path / str(size)
        learner = Learner(lmm, [evertune.make_methods("lwf")[0]], folder=folder, training=training, reuse=False)
        for task in tasks[:2]:
            learner.learn(task)
        learner.load(0)
        logs.append([row["lwf/distillation"] for row in log_of(folder, 2)])
    assert logs[0] == pytest.approx(logs[1], rel=1e-4, abs=1e-7)


def test_what_is_logged_is_not_another_methods(lmm, tasks, tmp_path):
    """Both train the same, so that the second training is taken from the cache of the first."""

    class Told(Replay):
        name = "told"

        def data_plan(self, task, samples):
            self.log("samples", len(samples))
            return samples

    class Silent(Told):
        name = "silent"

        def data_plan(self, task, samples):
            return samples

    logs = {}
    for name, method in (("told", Told), ("silent", Silent), ("again", Told)):
        learner = Learner(lmm, [method(ratio=0.0)], folder=tmp_path / name, training=Training(learning_rate=3e-3))
        learner.learn(tasks[0])
        learner.load(0)
        logs[name] = log_of(tmp_path / name, 1)
    assert logs["told"][0]["told/samples"] == logs["again"][0]["told/samples"] == len(tasks[0].train)
    assert not any("/" in key for row in logs["silent"] for key in row)


def test_names_of_values_are_checked():
    with pytest.raises(UserError, match="loud logs 'a/b'"):
        Loud().log("a/b", 1)


@pytest.mark.slow
def test_values_reach_trackers_and_the_report(plugged, toy_stream, tmp_path):
    result = evertune.run(str(toy_stream), model="random", methods=[Loud()], out=tmp_path / "run", limit=4)
    points = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert any("train/loud/two" in str(point) for point in points)
    page = result.report.read_text()
    assert "Logged by the methods" in page and "loud/norm" in page


def test_losses_and_logits_are_those_of_training(context, lmm, tasks):
    samples = tasks[0].train[:4]
    loss, losses, logits = context.loss(samples), context.losses(samples), context.logits(samples)
    assert losses.shape == (4,) and loss.item() == pytest.approx(losses.mean().item())
    output = context.output(samples)
    assert isinstance(output, Output) and output.loss.item() == pytest.approx(loss.item())
    assert logits.shape[0] == int(output.tokens.sum())
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in lmm.trainable().items() if p.grad is not None}
    assert gradients and any(g.abs().sum() > 0 for g in gradients.values())
    nll = -logits.log_softmax(1).max(1).values.sum()
    (gradient,) = torch.autograd.grad(nll, next(iter(lmm.trainable().values())), allow_unused=True)
    assert gradient is not None


def test_images_that_were_not_seen_are_encoded(lmm, tasks, store_of):
    from evertune.methods.base import Context

    context = Context(lmm=lmm, features=store_of(lmm, []), seed=0, start={})
    alone = [context.losses([sample]).item() for sample in tasks[1].train[:3]]
    assert context.losses(tasks[1].train[:3]).tolist() == pytest.approx(alone, rel=1e-4)
    assert all(a != b for a, b in pairwise(alone)) or len(set(alone)) > 1


@pytest.mark.parametrize("given", [None, [], 3, [3]])
def test_a_loss_of_something_else_is_refused(lmm, tasks, tmp_path, given):
    method = Loud()
    Learner(lmm, [method], folder=tmp_path)
    with pytest.raises(UserError, match="the samples of a loss are .*; taken is a list of Samples, one at least"):
        method.context.loss(given)
    with pytest.raises(UserError, match="the samples of a loss are a Task"):
        method.context.logits(tasks[0])


def test_a_setup_that_keeps_no_context_is_said():
    with pytest.raises(AttributeError, match=r"object has no attribute 'context': .*super\(\).setup\(context\)"):
        Loud().context.seed  # noqa: B018
    with pytest.raises(AttributeError, match="'Loud' object has no attribute 'contexts'$"):
        Loud().contexts  # noqa: B018


def test_numbers_of_numpy_are_logged_and_names_are_texts():
    method = Loud()
    method.log("norm", np.float32(2))
    assert method.take_logged() == {"loud/norm": 2.0}
    with pytest.raises(UserError, match="loud logs 3: names have"):
        method.log(3, 1.0)
