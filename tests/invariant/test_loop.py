"""Runs that must be equal: however a batch is split, whatever is cached, whenever it is interrupted."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from penalties import penalty

from evertune.methods import EWC, Sequential, make_methods
from evertune.methods.base import Context
from evertune.methods.lwf import distillation
from evertune.models.protocol import Output
from evertune.models.weights import copy_of, restore
from evertune.training.loop import Training, cosine, sample_order, train
from evertune.utils.errors import UserError

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


@pytest.mark.parametrize("loss_mean", ["sample", "token"])
@pytest.mark.parametrize("spec", ["sequential", "ewc", "tir+mas", "lwf"])
@pytest.mark.parametrize(("split", "samples"), [((4, 2), 12), ((2, 4), 22), ((1, 8), 9), ((6, 2), 20), ((5, 3), 22)])
def test_accumulation_is_invisible_where_the_samples_do_not_divide(
    lmm, tasks, features, split, samples, spec, loss_mean
):
    """The last window is smaller, and its last micro-batch may be smaller still: it counts by its own samples."""
    start = copy_of(lmm.trainable())
    (whole, losses, norms), (parts, others, their_norms) = (
        uneven_task(lmm, tasks, features, make_methods(spec, STRONG.get(spec)), start, samples, *some, loss_mean)
        for some in ((split[0] * split[1], 1), split)
    )
    assert len(losses) == len(others) == -(-samples // (split[0] * split[1]))
    assert losses == pytest.approx(others, rel=1e-4)
    assert norms == pytest.approx(their_norms, rel=1e-3)
    for name in whole:
        torch.testing.assert_close(whole[name], parts[name], rtol=1e-3, atol=2e-5, msg=name)


def uneven_task(lmm, tasks, features, methods, start, samples, batch_size, accumulate, loss_mean):
    """Weights, losses and gradient norms of the second task, of which `samples` are seen; answers differ in length."""
    log = []
    weights, losses = second_task(
        lmm,
        [tasks[0], replace(tasks[1], train=uneven(tasks[1].train))],
        features,
        methods,
        start,
        batch_size,
        accumulate,
        epochs=samples / 8,
        loss_mean=loss_mean,
        on_step=log.append,
    )
    return weights, losses, [step.gradient_norm for step in log]


def uneven(samples):
    """Answers of 1 to 4 words."""
    return [replace(s, answers=("red " * (n % 4 + 1),)) for n, s in enumerate(samples)]


def second_task(
    lmm, tasks, features, methods, start, batch_size=8, gradient_accumulation_steps=1, *, on_step=None, **more
):
    """Weights and losses of the second task when the first was known."""
    restore(lmm.trainable(), start)
    for method in methods:
        method.setup(Context(lmm=lmm, features=features, seed=0, start=start))
    for hook, task in (("on_known_task", tasks[0]), ("before_task", tasks[1])):
        for method in methods:
            getattr(method, hook)(task)
    more = {"epochs": 3, "learning_rate": 1e-3, **more}
    training = Training(batch_size=batch_size, gradient_accumulation_steps=gradient_accumulation_steps, **more)
    log = train(lmm, methods, tasks[1].train, features, training=training, seed=4, on_step=on_step)
    return copy_of(lmm.trainable()), [step.loss for step in log]


@pytest.mark.parametrize("spec", STRONG)
def test_what_is_invisible_is_there(lmm, tasks, features, spec):
    """The penalties above are strong enough to show in the weights; else the test before says nothing."""
    start = copy_of(lmm.trainable())
    plain, _ = second_task(lmm, tasks, features, [Sequential()], start)
    held, _ = second_task(lmm, tasks, features, make_methods(spec, STRONG[spec]), start)
    assert max(float((plain[n] - held[n]).abs().max()) for n in plain) > 5e-4


class Listens(Sequential):
    """Keeps the gradients of the steps, before they are clipped."""

    def setup(self, context):
        super().setup(context)
        self.inputs = []

    def after_backward(self, parameters):
        self.inputs.append({name: p.grad.clone() for name, p in parameters.items()})


@pytest.mark.parametrize("split", [(8, 1), (3, 2)])
@pytest.mark.parametrize("loss_mean", ["sample", "token"])
def test_the_loss_of_a_step_is_the_mean_over_its_samples_or_over_their_tokens(lmm, tasks, features, split, loss_mean):
    """Against autograd over each step's samples one by one, at a learning rate that moves nothing."""
    samples, listens = uneven(tasks[1].train), Listens()
    listens.setup(Context(lmm=lmm, features=features, seed=0, start={}))
    training = Training(
        batch_size=split[0], gradient_accumulation_steps=split[1], learning_rate=1e-30, epochs=1.25, loss_mean=loss_mean
    )
    log = train(lmm, [listens], samples, features, training=training, seed=4)
    order = list(sample_order(samples, epochs=1.25, seed=4))
    size = split[0] * split[1]
    assert len(log) == len(listens.inputs) == 2
    for at, (step, inputs) in enumerate(zip(log, listens.inputs, strict=True)):
        outputs = [
            lmm.module().train()(lmm.collate([s], features.get([s]))) for s in order[at * size : at * size + size]
        ]
        tokens = torch.stack([output.tokens[0] for output in outputs]).float()
        each = torch.stack([output.nll[0] for output in outputs])
        wanted = (each / tokens).mean() if loss_mean == "sample" else each.sum() / tokens.sum()
        assert len(set(tokens.tolist())) > 1
        assert step.loss == pytest.approx(wanted.item(), rel=1e-5)
        gradients = torch.autograd.grad(wanted, list(lmm.trainable().values()), allow_unused=True)
        for ours, right in zip(inputs.values(), gradients, strict=True):
            torch.testing.assert_close(ours, torch.zeros_like(ours) if right is None else right, rtol=1e-3, atol=1e-5)


def test_a_method_term_follows_the_mean_of_the_loss(lmm, tasks, features):
    """LwF's term on the whole batch, by hand: over the samples' means, or over all tokens."""
    samples = uneven(tasks[1].train)
    output = lmm.module()(lmm.collate(samples, features.get(samples)))
    taught = output.logits.flip(1)
    parts = torch.split(torch.arange(len(taught)), output.tokens.tolist())
    whole = Output(nll=torch.zeros(1), tokens=torch.tensor([1]), logits=output.logits)
    each = [
        distillation(replace(whole, logits=output.logits[[row]]), taught[[row]], temperature=2.0)
        for row in range(len(taught))
    ]
    by_sample = torch.stack([torch.stack([each[row] for row in part]).mean() for part in parts]).mean()
    by_token = torch.stack(each).mean()
    assert abs(by_sample - by_token) > 1e-4
    for loss_mean, wanted in (("sample", by_sample), ("token", by_token)):
        ours = distillation(replace(output, loss_mean=loss_mean), taught, temperature=2.0)
        torch.testing.assert_close(ours, wanted)


class OncePerMicroBatch(EWC):
    """The usual mistake: the whole penalty added anew for each micro-batch of the step."""

    def after_backward(self, parameters):
        pass

    def loss_terms(self, batch, output):
        return {"ewc": penalty(self, self.context.parameters) * 8 / len(batch.samples)}


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
    predicted = lmm.generate(features.get(samples), [s.instruction for s in samples], max_new_tokens=8)
    assert set(predicted) <= {"red", "green"}


def test_a_loss_that_is_not_finite_stops_before_the_step(lmm, tasks, features):
    class Broken(Sequential):
        def loss_terms(self, batch, output):
            return {"broken": output.nll.sum() * float("nan")}

    before = copy_of(lmm.trainable())
    with pytest.raises(UserError, match=r"the loss term sequential/broken is nan at the samples 0-\d"):
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
    for training in (
        Training(batch_size=3),
        Training(batch_size=3, gradient_accumulation_steps=2),
        Training(epochs=1.5, batch_size=5),
    ):
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
