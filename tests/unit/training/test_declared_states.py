"""What methods declare about their state, and what of it can't be written."""

from __future__ import annotations

import pytest
import torch

from evertune import Method, MethodInfo, check_method
from evertune.training.learner import Learner
from evertune.training.loop import Training
from evertune.utils.errors import UserError


class Buffer(Method):
    """A bounded buffer of tensors that is still filling after three tasks."""

    name = "filling"
    about = MethodInfo("keeps tensors", "replay")
    bound: int | None = 10 * 4096

    def setup(self, context):
        super().setup(context)
        self._kept = {}

    def after_task(self, task):
        self._kept[task.name] = torch.ones(1024)

    def state_dict(self):
        return {"kept": self._kept}

    def load_state_dict(self, state):
        self._kept = dict(state["kept"])

    def holds_at_most(self):
        return self.bound


class Undeclared(Buffer):
    bound = None


class TooLittle(Buffer):
    bound = 4096


class Early(Method):
    """Trains the first task otherwise than alone."""

    name = "early"
    about = MethodInfo("half gradients", "regularization")

    def after_backward(self, parameters):
        for parameter in parameters.values():
            parameter.grad.mul_(0.5)


class Declared(Early):
    acts_from_first_task = True


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Buffer, Declared])
def test_what_is_declared_is_allowed(kind):
    check_method(lambda: [kind()])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (Undeclared, "stored bytes grow with the number of tasks"),
        (TooLittle, "and declares 4096 at most"),
        (Early, "the first task is trained differently than alone"),
    ],
)
def test_what_is_not_declared_is_refused(kind, said):
    with pytest.raises(AssertionError, match=said):
        check_method(lambda: [kind()])


@pytest.mark.parametrize("state", [{"kept": [torch.ones(2)]}, {"kept": [{"a": (1, torch.ones(2))}]}])
def test_a_list_of_tensors_is_refused_by_name_before_training(lmm, tasks, tmp_path, state):
    class Listed(Buffer):
        name = "listed"

        def state_dict(self):
            return state

    steps = []
    learner = Learner(lmm, [Listed()], folder=tmp_path, training=Training(), reuse=False)
    with pytest.raises(UserError, match=r"method 'listed' has a list of tensors in its state \('kept'\): use a dict"):
        learner.learn(tasks[0], on_step=steps.append)
    assert steps == []
