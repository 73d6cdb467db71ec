"""What one optimizer step does, in order: shares of the window, method gradients, clipping, decay, learning rate."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from evertune.methods import Sequential
from evertune.models.weights import copy_of, restore
from evertune.training import gradients as pieces
from evertune.training.gradients import Gradients
from evertune.training.loop import Training, train
from evertune.training.sample_order import own_part
from evertune.utils import distributed


class Pushes(Sequential):
    """Adds a gradient of its own, far larger than that of the loss."""

    def after_backward(self, parameters):
        for parameter in parameters.values():
            parameter.grad = torch.full_like(parameter, 3.0)


class PushesNothing(Sequential):
    """No gradient at all: what still moves is moved by the optimizer alone."""

    def after_backward(self, parameters):
        for parameter in parameters.values():
            parameter.grad = torch.zeros_like(parameter)


@contextmanager
def steps_seen(lmm):
    """Norms of the gradient that the optimizer gets, step by step, and the learning rates of its groups."""
    seen = []

    def look(optimizer, *_):
        norm = torch.stack([p.grad.norm() for p in lmm.trainable().values() if p.grad is not None]).norm()
        seen.append((norm.item(), sorted(group["lr"] for group in optimizer.param_groups)))

    handle = register_optimizer_step_pre_hook(look)
    try:
        yield seen
    finally:
        handle.remove()


def test_the_gradient_is_clipped_with_what_methods_add(lmm, tasks, features):
    with steps_seen(lmm) as seen:
        log = train(lmm, [Pushes()], tasks[0].train, features, training=Training(max_grad_norm=0.25), seed=0)
    wanted = 3.0 * sum(p.numel() for p in lmm.trainable().values()) ** 0.5
    assert [step.gradient_norm for step in log] == pytest.approx([wanted] * 2, rel=1e-4)
    assert [norm for norm, _ in seen] == pytest.approx([0.25] * 2, rel=1e-4)


def test_a_small_gradient_is_not_scaled(lmm, tasks, features):
    with steps_seen(lmm) as seen:
        log = train(lmm, [Sequential()], tasks[0].train, features, training=Training(max_grad_norm=1e6), seed=0)
    assert [norm for norm, _ in seen] == pytest.approx([step.gradient_norm for step in log], rel=1e-5)


def test_decay_shrinks_matrices_and_leaves_biases_and_norms(lmm, tasks, features):
    before = copy_of(lmm.trainable())
    training = Training(weight_decay=0.5, learning_rate=0.1, warmup_ratio=0.0, batch_size=8)
    train(lmm, [PushesNothing()], tasks[0].train, features, training=training, seed=0)
    kinds = set()
    for name, parameter in lmm.trainable().items():
        kept = 1 - 0.1 * lmm.lr_scale(name) * 0.5 if parameter.ndim > 1 else 1.0
        torch.testing.assert_close(parameter.detach(), kept * before[name], msg=name)
        kinds.add((parameter.ndim > 1, bool(before[name].any())))
    assert {(True, True), (False, True)} <= kinds, "there are matrices and vectors that are not zero"


def test_the_learning_rate_of_a_group_follows_the_schedule(lmm, tasks, features, monkeypatch):
    monkeypatch.setattr(type(lmm), "lr_scale", lambda self, name: 5.0 if "projector" in name else 1.0)
    with steps_seen(lmm) as seen:
        log = train(
            lmm,
            [Sequential()],
            tasks[0].train,
            features,
            training=Training(learning_rate=0.01, epochs=2, batch_size=4, warmup_ratio=0.5),
            seed=0,
        )
    assert [step.learning_rate for step in log] == pytest.approx([0.025, 0.05, 0.05, 0.025])
    for step, (_, rates) in zip(log, seen, strict=True):
        assert max(rates) == pytest.approx(step.learning_rate) and min(rates) == pytest.approx(step.learning_rate / 5)


class Accelerator:
    """As much of it as a gradient needs."""

    def backward(self, loss):
        loss.backward()


def gradient_of_window(lmm, samples, features, micro_batches, *, shared=False):
    """What `Gradients` adds up for a window, in this process."""

    def batch_of(rows):
        return lmm.collate(rows, features.get(rows), shared=shared)

    gradients = Gradients(lmm, [Sequential()], lmm.trainable(), samples, Accelerator(), batch_of)
    for parameter in lmm.trainable().values():
        parameter.grad = None
    for whole in micro_batches:
        gradients.add(batch_of([samples[place] for place in own_part(whole)]), whole, range(len(samples)))
    return {name: p.grad.clone() for name, p in lmm.trainable().items() if p.grad is not None}


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("parts", [(7,), (4, 3), (5, 1, 1)], ids=str)
@pytest.mark.parametrize("shared", [False, True])
def test_parts_of_uneven_processes_add_up(lmm, tasks, features, monkeypatch, count, parts, shared):
    """The sum over processes is the gradient of the window's mean, also where some have nothing of a micro-batch."""
    samples = tasks[0].train[:7]
    if shared:  # three images
        samples = [replace(sample, images=samples[at // 3].images) for at, sample in enumerate(samples)]
    starts = [sum(parts[:n]) for n in range(len(parts))]
    micro_batches = [range(start, start + size) for start, size in zip(starts, parts, strict=True)]
    module = lmm.module()
    whole = module(lmm.collate(samples, features.get(samples))).loss
    right = torch.autograd.grad(whole, list(lmm.trainable().values()), allow_unused=True)
    monkeypatch.setattr(distributed, "world_size", lambda: count)
    monkeypatch.setattr(distributed, "all_reduce_sum", lambda values, device: list(values))
    shares = []
    for number in range(count):
        monkeypatch.setattr(distributed, "rank", lambda number=number: number)
        shares.append(gradient_of_window(lmm, samples, features, micro_batches, shared=shared))
    for name, gradient in zip(lmm.trainable(), right, strict=True):
        if gradient is not None:
            torch.testing.assert_close(sum(share[name] for share in shares), gradient, rtol=1e-3, atol=1e-5, msg=name)


def test_a_training_does_not_depend_on_what_was_trained_before_in_this_process(lmm, tasks, features):
    """A training that stops in the middle of a window leaves nothing behind that the next one would use."""
    start = copy_of(lmm.trainable())

    class Fails(Sequential):
        def loss_terms(self, batch, output):
            self.calls = getattr(self, "calls", 0) + 1
            if self.calls == 3:
                raise InterruptedError
            return {}

    training, ends = Training(batch_size=2, gradient_accumulation_steps=2, learning_rate=1e-2), []
    for fails in (False, True):
        restore(lmm.trainable(), start)
        if fails:
            with pytest.raises(InterruptedError):
                train(lmm, [Fails()], tasks[0].train, features, training=training, seed=0)
            restore(lmm.trainable(), start)
        log = train(lmm, [Sequential()], tasks[0].train, features, training=training, seed=0)
        ends.append((copy_of(lmm.trainable()), [(step.loss, step.gradient_norm) for step in log]))
    assert ends[0][1] == ends[1][1]
    assert all(torch.equal(ends[0][0][name], ends[1][0][name]) for name in start)


@pytest.mark.parametrize("loss_mean", ["sample", "token"])
def test_memory_that_is_full_at_a_later_micro_batch_leaves_nothing_of_the_first_attempt(
    lmm, tasks, features, monkeypatch, loss_mean
):
    """The window's first micro-batch was added whole; then all of them are done again in halves, and count once."""
    start, ends = copy_of(lmm.trainable()), []
    real, sizes = pieces.loss_of, []

    def loss_of(module, methods, batch, **more):
        sizes.append(len(batch.samples))
        if len(sizes) == 2:
            raise torch.OutOfMemoryError("out of memory")
        return real(module, methods, batch, **more)

    training = Training(batch_size=4, gradient_accumulation_steps=2, learning_rate=1e-2, epochs=2, loss_mean=loss_mean)
    for full in (False, True):
        restore(lmm.trainable(), start)
        if full:
            monkeypatch.setattr(pieces, "loss_of", loss_of)
        log = train(lmm, [Sequential()], tasks[0].train, features, training=training, seed=0)
        ends.append((copy_of(lmm.trainable()), [(step.loss, step.gradient_norm) for step in log]))
    assert sizes == [4, 4, 2, 2, 2, 2, 2, 2, 2, 2]
    for ours, right in zip(ends[1][1], ends[0][1], strict=True):
        assert ours == pytest.approx(right, rel=1e-3)
    for name, value in ends[0][0].items():
        apart, moved = (ends[1][0][name] - value).norm(), (value - start[name]).norm()
        assert apart <= 1e-3 * moved, name  # of all: AdamW makes a step of rounding where a gradient is nearly zero
