"""What hooks return is checked where they are called."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from evertune.data import Sample, Task
from evertune.methods import Method, MethodInfo
from evertune.methods.hook_results import planned_by, stages_by, terms_of
from evertune.models import load_lmm
from evertune.models.adapters import mixture
from evertune.training.gradients import NotFiniteError
from evertune.training.learner import Learner
from evertune.training.routing import routes_of
from evertune.training.states import split_state
from evertune.utils.errors import UserError

SAMPLES = [Sample("1", (), "why?", ("so",), "here"), Sample("2", (), "who?", ("me",), "here")]
TASK = Task("questions", tuple(SAMPLES), ())


def returning(hook, value):
    own = type("Own", (Method,), {"name": "own", "about": MethodInfo("own", "expansion"), hook: lambda *_: value})
    return own()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "loss_terms of the method 'own' returns None; expected a dictionary of terms"),
        (torch.ones(()), "returns a Tensor; expected a dictionary"),
        ({"a b": torch.ones(())}, "returns a term named 'a b': names have"),
        ({3: torch.ones(())}, "returns a term named 3"),
        ({"a": 1.0}, "returns a float for 'a'; a term is a tensor of one value"),
        ({"a": torch.ones(2)}, r"returns a tensor of the shape \(2,\) for 'a'; .*output.mean"),
    ],
)
def test_loss_terms(value, message):
    with pytest.raises(UserError, match=message):
        terms_of(returning("loss_terms", value), None, None)


def test_a_loss_term_that_is_not_finite_is_named(tasks, tmp_path):
    own = returning("loss_terms", {"drift": torch.tensor(float("nan"))})
    learner = Learner(load_lmm("random", dtype="float32"), [own], folder=tmp_path, reuse=False)
    with pytest.raises(NotFiniteError, match="the loss term own/drift is nan at the samples"):
        learner.learn(tasks[0])


def test_a_loss_term_of_one_element():
    assert terms_of(returning("loss_terms", {"a": torch.ones(1, 1)}), None, None)["a"].shape == ()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "data_plan of the method 'own' returns None; expected a sequence of samples"),
        ((s for s in SAMPLES), "returns a generator; expected a sequence"),
        ([], "returns no samples for the task 'questions', so there is nothing to train on"),
        ([{"id": "1"}], "returns a dict in place of a Sample"),
        ({"questions": SAMPLES}, "returns a dict; expected a sequence"),
    ],
)
def test_a_data_plan(value, message):
    with pytest.raises(UserError, match=message):
        planned_by(returning("data_plan", value), TASK, SAMPLES)


def test_a_task_without_training_samples():
    with pytest.raises(UserError, match="the task 'empty' has no training samples"):
        planned_by(Method(), Task("empty", (), tuple(SAMPLES)), ())


@pytest.mark.parametrize("value", [None, [], ["questions"]])
def test_stages(value):
    with pytest.raises(UserError, match="stages of the method 'own' returns .*; expected a list of tasks"):
        stages_by(returning("stages", value), [TASK])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (["a"], "returns a list of 1 str for 2 samples; expected one route per sample"),
        ("ab", r"returns a str \('ab'\) for 2 samples"),
        ({"a": 1.0}, "returns a dict for 2 samples"),
        ([None, None], "routes a sample to None; a route is the name of an expert, or a dictionary"),
        ([3, 3], "routes a sample to 3;"),
        ([{}, {}], "routes a sample to {};"),
        ([{"a": 0.0}] * 2, "not all 0"),
        ([{"a": -1.0, "b": 2.0}] * 2, "finite, 0 or more"),
        ([{"a": float("nan")}] * 2, "finite, 0 or more"),
        ([{"a": "1"}] * 2, "dictionary of experts with weights"),
    ],
)
def test_a_route(value, message):
    with pytest.raises(UserError, match=message):
        routes_of([returning("route", value)], SAMPLES, None)


def test_an_expert_that_is_no_name_is_refused_before_answers_are_written():
    own = returning("expert_of", 3)
    own.needs_task_id = lambda: True
    with pytest.raises(UserError, match="expert_of of the method 'own' returns an int for the task 'questions'; exp"):
        routes_of([own], SAMPLES, "questions")


@pytest.mark.slow
def test_weights_of_experts_are_those_of_a_mean():
    lmm = load_lmm("random", dtype="float32")
    names = list(lmm.trainable())

    def activate(expert):
        with torch.no_grad():
            for parameter in lmm.trainable().values():
                parameter.fill_(float(expert))

    with mixture(lmm, activate, {"1": 1.0, "3": 3.0}):
        assert lmm.trainable()[names[0]].flatten()[0].item() == 2.5


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"a": [torch.zeros(2)]}, r"the method 'own' has a list of tensors in its state \('a'\)"),
        ({"a": [{"b": torch.zeros(2)}]}, "a list of tensors"),
        ({"a": {1: 2}}, r"a dictionary with the key 1, which is read back as a text in its state \('a'\)"),
        ({"a": [{1: 2}]}, "a dictionary with the key 1"),
        ({"a": {1, 2}}, "a set in its state"),
        ({"a": np.zeros(2)}, "a ndarray in its state .* use torch.as_tensor"),
        ({"a": np.float32(2)}, "a float32 in its state .* use torch.as_tensor"),
        ({"a": object()}, "an object in its state"),
        ({"a": torch.ones(2).to_sparse()}, r"a sparse tensor in its state \('a'\): use tensor.to_dense\(\)"),
        ({"a/b": torch.zeros(1), "a": {"b": torch.ones(1)}}, "two tensors of this place"),
    ],
)
def test_a_state_that_a_file_would_not_give_back(state, message):
    with pytest.raises(UserError, match=message):
        split_state({"own": state})


@pytest.mark.parametrize("value", ["high", None, torch.zeros(3)])
def test_a_logged_value(value):
    with pytest.raises(UserError, match=r"own logs .* as 'norm': a value is a number"):
        returning("setup", None).log("norm", value)
