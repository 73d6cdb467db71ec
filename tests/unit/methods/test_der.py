"""DER++: both terms against an independent computation, the buffer and its logits, broken variants."""

from __future__ import annotations

import pytest
import torch

from evertune.methods import Der, make_methods, memory_gradients
from evertune.training.method_contract import check_method
from evertune.utils.errors import UserError


def learned(method, context, tasks):
    method.setup(context)
    for task in tasks:
        context.features.ensure(task.train)
        method.before_task(task)
        method.after_task(task)
    return method


def rows_of(method):
    return [(name, row) for name, rows in method._memory.items() for row in rows]


def logits_of(context, sample):
    with torch.no_grad():
        return context.logits([sample])


def sample_called(tasks, row):
    return next(s for task in tasks for s in task.train if s.id == row["id"])


@pytest.fixture
def plain(context):
    """A context that stores nothing on disk."""
    return context


@pytest.mark.parametrize("choice", ["reservoir", "balanced"])
def test_the_logits_stay_with_their_samples(plain, tasks, choice, jolt):
    """Each task's logits are those of the model then, whatever other samples have left the buffer since."""
    method = Der(buffer=6, choice=choice, top=5, tokens=2)
    method.setup(plain)
    then = {}
    for number, task in enumerate(tasks):
        plain.features.ensure(task.train)
        method.before_task(task)
        then |= {sample.id: logits_of(plain, sample)[:2].topk(5) for sample in task.train}
        method.after_task(task)
        jolt(0.1, number)
    rows = rows_of(method)
    assert len(rows) == 6 and len(method._values) == 6 and len({name for name, _ in rows}) == 3
    for _, row in rows:
        wanted = then[row["id"]]
        torch.testing.assert_close(method._values[row["place"]][: len(wanted.values)], wanted.values)
        assert torch.equal(method._indices[row["place"]][: len(wanted.values)].long(), wanted.indices)


@pytest.mark.parametrize("at_once", [2, 8])
def test_both_terms(plain, tasks, jolt, monkeypatch, at_once):
    """The whole buffer drawn: the gradient is that of α mean (z - z_then)² + β mean loss, one sample at a time."""
    monkeypatch.setattr(memory_gradients, "AT_ONCE", at_once)
    method = learned(Der(buffer=5, alpha=0.3, beta=0.7, samples=100, top=7, tokens=2), plain, tasks[:2])
    jolt(0.05, 3)
    method.before_task(tasks[2])
    parameters = plain.parameters
    rows = rows_of(method)
    total = 0.0
    for _, row in rows:
        sample = sample_called(tasks, row)
        logits = plain.logits([sample])[:2]
        then = method._values[row["place"]][: len(logits)]
        distance = (logits.gather(1, method._indices[row["place"]][: len(logits)].long()) - then).square().mean()
        total = total + (0.3 * distance + 0.7 * plain.loss([sample])) / len(rows)
    wanted = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
    for parameter in parameters.values():
        parameter.grad = torch.ones_like(parameter)
    method.after_backward(parameters)
    for parameter, gradient in zip(parameters.values(), wanted, strict=True):
        torch.testing.assert_close(parameter.grad - 1, torch.zeros_like(parameter) if gradient is None else gradient)
        parameter.grad = None
    logged = method.take_logged()
    assert 0.3 * logged["der/distillation"] + 0.7 * logged["der/buffer"] == pytest.approx(float(total), rel=1e-4)


def test_an_empty_buffer_adds_nothing(plain, tasks):
    method = Der()
    method.setup(plain)
    method.before_task(tasks[0])
    assert not method.adds_to_loss()
    parameters = plain.parameters
    method.after_backward(parameters)
    assert all(parameter.grad is None for parameter in parameters.values())


class ForgetsTheLogits(Der):
    def load_state_dict(self, state):
        super().load_state_dict({**state, "values": torch.zeros_like(state["values"])})


class DrawsAnew(Der):
    """The draws of a task that resumes begin again."""

    def load_progress_dict(self, state):
        pass


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "complaint"),
    [(ForgetsTheLogits, "some state is not saved"), (DrawsAnew, "must be in its `progress_dict`")],
)
def test_a_broken_variant_fails(kind, complaint):
    with pytest.raises(AssertionError, match=complaint):
        check_method(lambda: [kind(buffer=8, samples=2, alpha=5.0)])


def test_wrong_options():
    for options, message in (({"buffer": 0}, "der.buffer, der.samples"), ({"alpha": -1.0}, "0 or more")):
        with pytest.raises(UserError, match=message):
            make_methods("der", {"der": options})
