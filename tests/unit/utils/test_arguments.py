"""Misspelt arguments and hooks are errors that name the right ones."""

from __future__ import annotations

import copy
import inspect

import pytest

import evertune
from evertune import Callback, Method, MethodInfo, Task, Training, check_method, make_methods
from evertune.methods import METHODS, Replay, options_of
from evertune.utils import plugins
from evertune.utils.arguments import ArgumentError, refuse_wrong_hooks
from evertune.utils.errors import UserError


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    """What a test registers is gone after it."""
    monkeypatch.setattr("evertune.utils.plugins._added", dict(plugins._added))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Replay(ration=0.1), r"^Replay\(\) has no argument 'ration'; did you mean 'ratio'\?"),
        (lambda: Replay(0.1), r"^Replay\(\): too many positional arguments; pass by name: ratio=\.\.\., buffer="),
        (lambda: Replay(ratio="0.1"), r"^Replay\(ratio=\.\.\.\) is a str \('0.1'\); taken is a number$"),
        (lambda: Replay(buffer=1.5), r"^Replay\(buffer=\.\.\.\) is a float; taken is a whole number$"),
        (
            lambda: Training(learning_rat=1),
            r"^Training\(\) has no argument 'learning_rat'; did you mean 'learning_rate'",
        ),
        (lambda: Training(lr=1), r"^Training\(\) has no argument 'lr'; known: batch_size, .*learning_rate"),
        (lambda: evertune.run("parcel", method="replay"), r"^run\(\) has no argument 'method'; did you mean 'methods'"),
        (evertune.run, r"^run\(\): missing a required argument: 'stream'; pass by name: model="),
        (lambda: evertune.load_lmm("random", sed=1), r"^load_lmm\(\) has no argument 'sed'; did you mean 'seed'"),
        (lambda: Task.from_dataset("a", train=[], images="b"), r"from_dataset\(\) has no argument 'images'; .*'image'"),
        (lambda: make_methods("replay", seed=1), r"^make_methods\(\) has no argument 'seed'"),
        (lambda: evertune.plan("parcel"), r"^the configuration is a str \('parcel'\); make one: evertune.configure"),
        (lambda: evertune.run("parcel", settings={"a": 1}), "^settings is a dict; taken is a list of texts"),
        (lambda: evertune.run("parcel", track=3), "^track is an int; taken is a list of texts"),
        (lambda: evertune.run("parcel", out=3), "^out is an int; taken is a path"),
        (lambda: evertune.run(Task("a", (), ())), "^the task 'a' has no samples in 'train': a run needs both"),
        (lambda: evertune.run(Task("a", ({},), ({},))), "^the task 'a' holds a dict, not a Sample: .*from_dataset"),
    ],
)
def test_a_wrong_argument(call, message):
    with pytest.raises(UserError, match=message):
        call()


def test_it_is_a_type_error_too():
    assert issubclass(ArgumentError, TypeError)


def test_a_checked_class_is_as_before():
    assert list(inspect.signature(Replay).parameters) == list(options_of("replay"))
    assert copy.deepcopy(Replay(ratio=0.5)).ratio == 0.5


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("Replay", "from evertune.methods import Replay"),
        ("ContinualCallback", "from evertune.integrations.transformers import ContinualCallback"),
        ("lerner", "did you mean 'Learner'"),
    ],
)
def test_a_name_that_is_elsewhere(name, hint):
    with pytest.raises(AttributeError, match=f"module 'evertune' has no attribute '{name}'.*{hint}"):
        getattr(evertune, name)


def method(**hooks):
    about = MethodInfo("a method", "regularization")
    return type("Own", (Method,), {"name": "own", "about": about, "__module__": "own", **hooks})


def after_taks(self, task): ...
def before_step(self, step): ...
def after_task(self): ...
def after_steps_of_mine(self): ...
def penalty(self): ...
def _after_taks(self, task): ...


@pytest.mark.parametrize(
    ("hook", "message"),
    [
        (after_taks, "Own.after_taks looks like a hook of evertune.Method and is none.* did you mean 'after_task'"),
        (("after_taks", lambda self, task: None), "Own.after_taks looks like a hook .* did you mean 'after_task'"),
        (("after_task", lambda self: None), r"Own.after_task is called as after_task\(self, task\)"),
        (("after_task", 3), "Own.after_task is an int; it is a hook: def after_task"),
        (("after_task", property(lambda self: 1)), "Own.after_task is a property; it is a hook"),
        (before_step, "Own.before_step looks like a hook .* the hooks are combine, adapt, .* call it '_before_step'"),
        (after_task, r"Own.after_task is called as after_task\(self, task\), which it does not take: too many"),
    ],
)
def test_a_hook_that_nothing_would_call(hook, message):
    name, value = hook if isinstance(hook, tuple) else (hook.__name__, hook)
    own = method(**{name: value})
    with pytest.raises(UserError, match=message):
        check_method(lambda: [own()])
    with pytest.raises(UserError, match=message):
        evertune.run("parcel", methods=[own()])
    with pytest.raises(UserError, match=message):
        evertune.run("parcel", methods=[own])


def test_an_option_that_is_kept_as_another_value():
    def init(self, *, alpha: float = 1.0):
        self.alpha = 2 * alpha

    with pytest.raises(UserError, match=r"Own\(alpha=6.0\) has the attribute alpha = 12.0"):
        evertune.run("parcel", methods=[method(__init__=init)(alpha=3.0)])


def test_what_is_not_meant_as_a_hook():
    refuse_wrong_hooks(method(penalty=penalty, _after_taks=_after_taks), Method, prefixes=("after_",))
    for name in METHODS:
        refuse_wrong_hooks(METHODS[name], Method, prefixes=())


def test_a_callback():
    class Own(Callback):
        def on_task_finished(self, stage): ...

    with pytest.raises(UserError, match=r"Own.on_task_finished looks like a hook of evertune.Callback"):
        evertune.run("parcel", callbacks=[Own()])
