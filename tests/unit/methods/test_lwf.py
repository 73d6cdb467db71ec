"""LwF: the distillation term against NumPy, the teacher against the model it is an image of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from evertune.methods import Context, LwF
from evertune.methods.lwf import distillation
from evertune.models.protocol import Output
from evertune.models.weights import copy_of, restore


def by_hand(student, teacher, tokens, temperature):
    """T² KL(teacher ‖ student) in NumPy, mean over a sample's tokens, then over samples."""
    student, teacher = (
        log_softmax(z.detach().numpy().astype("float64") / temperature, axis=1) for z in (student, teacher)
    )
    divergence = temperature**2 * (np.exp(teacher) * (teacher - student)).sum(1)
    return np.mean([part.mean() for part in np.split(divergence, np.cumsum(tokens)[:-1])])


def output_of(logits, tokens):
    return Output(nll=torch.zeros(len(tokens)), tokens=torch.tensor(tokens), logits=logits)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_distillation_by_hand(temperature):
    generator = torch.Generator().manual_seed(0)
    student, teacher = (3 * torch.randn(6, 9, generator=generator) for _ in range(2))
    tokens = [1, 3, 2]
    ours = distillation(output_of(student, tokens), teacher, temperature=temperature)
    assert ours.item() == pytest.approx(by_hand(student, teacher, tokens, temperature), rel=1e-5)
    assert distillation(output_of(teacher, tokens), teacher, temperature=temperature).item() == pytest.approx(
        0, abs=1e-6
    )


class TeacherIsStudent(LwF):
    """The image is not a copy: it moves with the student."""

    def before_task(self, task):
        self._teacher = dict(self.context.parameters)


class TeacherOfTheStart(LwF):
    """Always the base model."""

    def before_task(self, task):
        self._teacher = dict(self.context.start)


class WrongWayRound(LwF):
    """KL(student ‖ teacher)."""

    def loss_terms(self, batch, output):
        taught = Output(nll=output.nll, tokens=output.tokens, logits=self.teacher_logits(batch))
        return {"distillation": self.strength * distillation(taught, output.logits, temperature=self.temperature)}


def compare_with_the_model_before(kind, lmm, tasks, features, context, jolt):
    """Learn task 1 (a jolt), begin task 2, move on: the term is λ times the distance to the model at the beginning."""
    method = kind(strength=3.0)
    method.setup(context)
    method.before_task(tasks[0])
    jolt(0.05, 1)
    method.after_task(tasks[0])
    method.before_task(tasks[1])
    samples = tasks[1].train[:3]
    batch = lmm.collate(samples, features.get(samples))
    before = copy_of(lmm.trainable())
    jolt(0.05, 2)
    module = lmm.module().train()
    output = module(batch)
    term = method.loss_terms(batch, output)["distillation"]
    assert module.training
    gradients = torch.autograd.grad(term, list(lmm.trainable().values()), retain_graph=True, allow_unused=True)
    restore(lmm.trainable(), before)
    with torch.no_grad():
        taught = module(batch).logits
    wanted = 3.0 * by_hand(output.logits, taught, output.tokens.tolist(), 2.0)
    assert wanted > 1e-3
    np.testing.assert_allclose(term.item(), wanted, rtol=1e-3)
    return sum(float(g.abs().sum()) for g in gradients if g is not None)


def test_the_teacher_is_the_model_before_the_task(lmm, tasks, features, context, jolt):
    """LoRA and projection alike, through peft; and the gradient reaches the student."""
    assert compare_with_the_model_before(LwF, lmm, tasks, features, context, jolt) > 0


@pytest.mark.parametrize("broken", [TeacherIsStudent, TeacherOfTheStart, WrongWayRound])
def test_a_broken_teacher_fails(broken, lmm, tasks, features, context, jolt):
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        compare_with_the_model_before(broken, lmm, tasks, features, context, jolt)


@pytest.mark.parametrize("options", [{"temperature": 5.0}, {"strength": 0.25, "temperature": 1.0}])
def test_strength_and_temperature_are_those_of_the_term(options, lmm, tasks, features, context, jolt):
    """Five samples whose answers have one to three words; the term by hand from both logits."""
    method = LwF(**options)
    method.setup(context)
    method.on_known_task(tasks[0])
    method.before_task(tasks[1])
    samples = [replace(s, answers=("red " * (n % 3) + s.answers[0],)) for n, s in enumerate(tasks[1].train[:5])]
    batch = lmm.collate(samples, features.get(samples))
    with torch.no_grad():
        taught = lmm.module()(batch).logits
        jolt(0.05, 2)
        output = lmm.module()(batch)
        term = method.loss_terms(batch, output)["distillation"].item()
    assert len(set(output.tokens.tolist())) > 1
    strength, temperature = method.strength, options["temperature"]
    wanted = strength * by_hand(output.logits, taught, output.tokens.tolist(), temperature)
    assert term == pytest.approx(wanted, rel=1e-3)


def test_the_first_task_has_no_term(lmm, tasks, features, context):
    method = LwF(strength=3.0)
    method.setup(context)
    method.before_task(tasks[0])
    batch = lmm.collate(tasks[0].train[:2], features.get(tasks[0].train[:2]))
    assert method.loss_terms(batch, lmm.module()(batch)) == {} and not method.adds_to_loss()
    method.after_task(tasks[0])
    assert method.adds_to_loss()


def test_the_teacher_has_no_dropout(new_lmm, tasks, features):
    """In training it says what the model before the task says when it answers, and the same each time."""
    lmm = new_lmm(dropout=True)
    with torch.no_grad():
        for parameter in lmm.trainable().values():
            parameter.add_(0.05)
    method = LwF()
    method.setup(Context(lmm=lmm, features=features, seed=0, start={}))
    method.before_task(tasks[1])
    batch = lmm.collate(tasks[1].train[:3], features.get(tasks[1].train[:3]))
    module = lmm.module()
    with torch.no_grad():
        wanted = module.eval()(batch).logits
        assert not module.train()(batch).logits.equal(wanted), "dropout shows"
    torch.testing.assert_close(method.teacher_logits(batch), wanted)
    assert module.training
