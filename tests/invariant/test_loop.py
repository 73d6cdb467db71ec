"""Runs that must be equal: however a batch is split, whatever is cached, whenever it is interrupted."""

from __future__ import annotations

import random

import pytest
import torch

from evertune.errors import UserError
from evertune.lmm.weights import copy_of, restore
from evertune.loop import Training, cosine, sample_order, train
from evertune.methods import EWC, Sequential, make_methods
from evertune.methods.base import Context

STRONG = {
    "ewc": {"ewc": {"strength": 1e4, "samples": 4}},
    "online-ewc": {"online-ewc": {"strength": 1e4, "samples": 4}},
    "mas": {"mas": {"strength": 1e-2, "samples": 4}},
    "tir+ewc": {"ewc": {"strength": 1e5, "samples": 4}},
    "tir+mas": {"mas": {"strength": 1e5, "samples": 4}},
    "lwf": {"lwf": {"strength": 3.0}},
}
SPLITS = [(8, 1), (1, 8)]


@pytest.mark.parametrize("split", [(2, 4), (4, 2), (1, 8)])
@pytest.mark.parametrize("spec", ["sequential", *STRONG])
def test_accumulation_is_invisible(lmm, tasks, features, split, spec):
    """8 = 2 x 4 = 4 x 2 = 1 x 8, with a penalty too: it must be added once per step, not once per micro-batch."""
    start = copy_of(lmm.trainable())
    (whole, losses), (parts, others) = (
        second_task(lmm, tasks, features, make_methods(spec, STRONG.get(spec)), start, batch_size, accumulate)
        for batch_size, accumulate in ((8, 1), split)
    )
    assert len(losses) == len(others) == 3
    assert losses == pytest.approx(others, rel=1e-4)
    for name in whole:
        torch.testing.assert_close(whole[name], parts[name], rtol=1e-3, atol=2e-5, msg=name)


def second_task(lmm, tasks, features, methods, start, batch_size=8, accumulate=1):
    """Weights and losses of the second task when the first was known."""
    restore(lmm.trainable(), start)
    for method in methods:
        method.setup(Context(lmm=lmm, features=features, seed=0, start=start))
    for hook, task in (("know", tasks[0]), ("before_task", tasks[1])):
        for method in methods:
            getattr(method, hook)(task)
    training = Training(epochs=3, batch_size=batch_size, accumulate=accumulate, learning_rate=1e-3)
    log = train(lmm, methods, tasks[1].train, features, training=training, seed=4)
    return copy_of(lmm.trainable()), [step.loss for step in log]


@pytest.mark.parametrize("spec", STRONG)
def test_what_is_invisible_is_there(lmm, tasks, features, spec):
    """The penalties above are strong enough to show in the weights; else the test before says nothing."""
    start = copy_of(lmm.trainable())
    plain, _ = second_task(lmm, tasks, features, [Sequential()], start)
    held, _ = second_task(lmm, tasks, features, make_methods(spec, STRONG[spec]), start)
    assert max(float((plain[n] - held[n]).abs().max()) for n in plain) > 5e-4


class OncePerMicroBatch(EWC):
    """The usual mistake: the whole penalty added anew for each micro-batch of the step."""

    def after_backward(self, parameters):
        pass

    def loss_terms(self, batch, output):
        return {"ewc": self.penalty(self.context.parameters) * 8 / len(batch.samples)}


def test_a_penalty_per_micro_batch_is_visible(lmm, tasks, features):
    start = copy_of(lmm.trainable())
    ends = [
        second_task(lmm, tasks, features, [OncePerMicroBatch(**STRONG["ewc"]["ewc"])], start, *s)[0] for s in SPLITS
    ]
    assert max(float((ends[0][n] - ends[1][n]).abs().max()) for n in start) > 5e-4


def test_the_same_seed_gives_the_same_bits(lmm, tasks, features):
    start = copy_of(lmm.trainable())
    ends = []
    for seed in (1, 1, 2):
        restore(lmm.trainable(), start)
        train(lmm, [Sequential()], tasks[0].train, features, training=Training(epochs=2, batch_size=8), seed=seed)
        ends.append(copy_of(lmm.trainable()))
    assert all(torch.equal(ends[0][n], ends[1][n]) for n in start)
    assert not all(torch.equal(ends[0][n], ends[2][n]) for n in start)


def test_it_learns(lmm, tasks, features):
    """The loss falls, and the miniature says the words of its task."""
    training = Training(epochs=60, batch_size=8, learning_rate=1e-2)
    log = train(lmm, [Sequential()], tasks[0].train, features, training=training, seed=0)
    assert log[-1].loss < 0.05 * log[0].loss
    samples = tasks[0].test
    said = lmm.answer(features.get(samples), [s.instruction for s in samples], max_new_tokens=8)
    assert set(said) <= {"red", "green"}


def test_a_loss_that_is_not_finite_stops_before_the_step(lmm, tasks, features):
    class Broken(Sequential):
        def loss_terms(self, batch, output):
            return {"broken": output.nll.sum() * float("nan")}

    before = copy_of(lmm.trainable())
    with pytest.raises(UserError, match=r"the loss is nan at the samples 0-\d"):
        train(lmm, [Broken()], tasks[0].train, features, training=Training(), seed=0)
    assert all(torch.equal(p, before[n]) for n, p in lmm.trainable().items())


def test_the_order_of_samples(tasks):
    samples = tasks[0].train
    order = sample_order(samples, epochs=2.5, seed=0)
    assert len(order) == 20
    assert sorted(s.id for s in order[:8]) == sorted(s.id for s in order[8:16]) == sorted(s.id for s in samples)
    assert list(order) != list(sample_order(samples, epochs=2.5, seed=1))
    choose = random.Random(0)  # copies of the samples give the same order: runs of earlier versions repeat
    copied = [s for _ in range(3) for s in choose.sample(list(samples), len(samples))]
    assert list(order) == copied[:20]


def test_the_schedule_rises_and_falls():
    factor = cosine(100, 0.1)
    assert factor(0) == pytest.approx(0.1) and factor(9) == pytest.approx(1) == factor(10)
    assert factor(55) == pytest.approx(0.5) and factor(99) < 0.001


def test_steps_are_counted_as_they_are_taken(lmm, tasks, features):
    for training in (Training(batch_size=3), Training(batch_size=3, accumulate=2), Training(epochs=1.5, batch_size=5)):
        log = train(lmm, [Sequential()], tasks[0].train, features, training=training, seed=0)
        assert len(log) == training.steps(8) == log[-1].steps


class BreaksTheGradient(Sequential):
    """A method whose closed-form gradient goes wrong at one scalar, the loss being fine."""

    def after_backward(self, parameters):
        next(iter(parameters.values())).grad.view(-1)[0] = float("nan")


def test_a_gradient_that_is_not_finite_takes_no_step(lmm, tasks, features):
    before = copy_of(lmm.trainable())
    with pytest.raises(UserError, match=r"the gradient is nan at the samples 0-\d"):
        train(lmm, [BreaksTheGradient()], tasks[0].train, features, training=Training(), seed=0)
    assert all(torch.equal(p, before[name]) for name, p in lmm.trainable().items())
    assert not lmm.module().training
    assert all(p.requires_grad and p.grad is None for p in lmm.trainable().values())
