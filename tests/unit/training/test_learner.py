"""The model that remembers: ask, load, roll back, refuse what does not fit."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from evertune.methods import Joint, Sequential, make_methods
from evertune.models import load_lmm
from evertune.models.features import FeatureStore
from evertune.models.weights import fingerprint_of
from evertune.training.learner import Learner
from evertune.training.loop import Training
from evertune.utils.errors import DataError, RunFolderError, UserError


def make(folder, spec="ewc", **more):
    lmm = load_lmm("random", seed=1, dtype="float32", device=torch.device("cpu"))
    options = {"ewc": {"samples": 4}} if "ewc" in spec else {}
    return Learner(lmm, make_methods(spec, options), folder=folder, training=Training(learning_rate=1e-2), **more)


def test_load_and_rollback(tasks, tmp_path):
    learner = make(tmp_path)
    prints = [fingerprint_of(learner.lmm.trainable())]
    for task in tasks:
        learner.learn(task)
        prints.append(fingerprint_of(learner.lmm.trainable()))
    assert len(set(prints)) == 4
    learner.load(1)
    assert fingerprint_of(learner.lmm.trainable()) == prints[1] and len(learner.stages) == 3
    with pytest.raises(UserError, match="at stage 1 of 3: roll back first"):
        learner.learn(tasks[0])
    learner.rollback(2)
    assert fingerprint_of(learner.lmm.trainable()) == prints[2]
    assert [path.name for path in sorted((tmp_path / "stages").iterdir())] == ["01-task-0", "02-task-1"]
    learner.learn(tasks[2])
    assert fingerprint_of(learner.lmm.trainable()) == prints[3], "learned again, it is what it was"
    with pytest.raises(UserError, match="there is no stage 9"):
        learner.rollback(9)
    learner.rollback(0)
    assert fingerprint_of(learner.lmm.trainable()) == prints[0] and not learner.stages


@pytest.mark.parametrize("problem", [KeyboardInterrupt, RuntimeError])
def test_a_training_that_fails_leaves_the_model_as_it_was(tasks, tmp_path, problem):
    """A notebook that is interrupted learns the same task again: from the last stage, not from halfway."""
    learner, whole = make(tmp_path / "a"), make(tmp_path / "b")
    for each in (learner, whole):
        each.learn(tasks[0])
    before = fingerprint_of(learner.lmm.trainable())

    def fails(step):
        if step.step == 2:
            raise problem("mine")

    with pytest.raises(problem, match="mine"):
        learner.learn(tasks[1], on_step=fails)
    assert fingerprint_of(learner.lmm.trainable()) == before and learner.current == 1
    learner.learn(tasks[1])
    whole.learn(tasks[1])
    assert fingerprint_of(learner.lmm.trainable()) == fingerprint_of(whole.lmm.trainable())
    assert not learner.stages[1].reused


def test_ask(tasks, tmp_path):
    learner = make(tmp_path, "eproj", max_new_tokens=4)
    image = tasks[0].test[0].images[0]
    assert learner.ask(image, "colour?").expert is None
    learner.learn(tasks[0])
    answer = learner.ask(image, "colour?")
    assert answer.expert == "task-0" and isinstance(answer.text, str)
    with pytest.raises(UserError, match="the instruction is empty"):
        learner.ask(image, " ")
    with pytest.raises(UserError, match=r"ask: the image .*none.png does not exist"):
        learner.ask(tmp_path / "none.png", "colour?")


def test_another_method_or_model_is_refused(tasks, tmp_path):
    make(tmp_path, "replay").learn(tasks[0])
    with pytest.raises(RunFolderError, match="another model or other methods"):
        make(tmp_path, "ewc")


def test_identical_training_is_taken_over_and_a_penalty_is_not(tasks, tmp_path, monkeypatch):
    monkeypatch.setenv("EVERTUNE_CACHE", str(tmp_path / "cache"))
    first, second = make(tmp_path / "a", "sequential"), make(tmp_path / "b", "ewc")
    assert [first.learn(task).reused for task in tasks[:2]] == [False, False]
    assert [second.learn(task).reused for task in tasks[:2]] == [True, False]
    assert make(tmp_path / "c", "sequential", seed=2).learn(tasks[0]).reused is False


class Listens(Sequential):
    """Writes down what it is told; its state is what it was told."""

    def setup(self, context):
        super().setup(context)
        self.calls = ["setup"]

    def on_known_task(self, task):
        assert all(sample in self.context.features for sample in task.train), "features come first"
        self.calls.append(task.name)

    def state_dict(self):
        return {"calls": self.calls}

    def load_state_dict(self, state):
        self.calls = [*state["calls"], "loaded"]


def test_methods_are_told_what_is_known_at_stage_0_only(tasks, tmp_path, lmm, monkeypatch):
    monkeypatch.setenv("EVERTUNE_CACHE", str(tmp_path / "cache"))  # no feature is there before

    def learner():
        return Learner(lmm, [Listens()], folder=tmp_path / "run", training=Training(), known=tasks[:2])

    first = learner()
    (method,) = first.methods
    assert method.calls == ["setup", "task-0", "task-1"]
    first.learn(tasks[2])
    first.load(1)
    assert method.calls == ["setup", "task-0", "task-1", "loaded"], "from the checkpoint, not told again"
    assert learner().methods[0].calls == ["setup", "task-0", "task-1", "loaded"]
    first.load(0)
    assert method.calls == ["setup", "task-0", "task-1"]
    first.rollback(0)
    assert method.calls == ["setup", "task-0", "task-1"] and not first.stages


def test_a_image_that_changed_while_it_was_in_use_is_not_stored_under_its_old_hash(lmm, tasks, tmp_path):
    sample = replace(tasks[0].train[0], known_digests=("0" * 64,))
    with pytest.raises(DataError, match="was changed while it was in use"):
        FeatureStore(lmm, folder=tmp_path).ensure([sample])


def test_samples_with_another_number_of_images_are_refused(lmm, tasks, tmp_path):
    sample = replace(tasks[0].train[0], images=tasks[0].train[0].images * 17, origin="t.jsonl:1")
    with pytest.raises(DataError, match=r"t.jsonl:1: the row has 17 images; the model 'random' takes at most 16"):
        FeatureStore(lmm, folder=tmp_path).ensure([sample])


def test_joint_trains_on_what_is_known_too(tasks, tmp_path, lmm):
    learner = Learner(lmm, make_methods("joint"), folder=tmp_path, training=Training(), known=tasks[:1])
    learner.load(0)  # told again, it must not know twice
    (stage,) = learner.methods[0].stages(tasks[1:])
    assert list(stage.train) == [sample for task in tasks for sample in task.train]
    (alone,) = Joint().stages(tasks[1:])
    assert list(alone.train) == [sample for task in tasks[1:] for sample in task.train]


def test_activations_that_are_computed_again_change_no_number(tasks, tmp_path):
    def learned(folder, **training):
        lmm = load_lmm("random", seed=1, dtype="float32", device=torch.device("cpu"))
        passes = []
        blocks = [m for m in lmm.module().modules() if type(m).__name__ == "LlamaDecoderLayer"]
        blocks[0].input_layernorm.register_forward_hook(lambda *_: passes.append(torch.is_grad_enabled()))
        learner = Learner(
            lmm, make_methods("ewc", {"ewc": {"samples": 4}}), folder=folder, training=Training(**training), reuse=False
        )
        steps = sum(learner.learn(task).steps for task in tasks[:2])
        return fingerprint_of(lmm.trainable()), len(passes), steps

    plain, once, steps = learned(tmp_path / "plain")
    same, more, _ = learned(tmp_path / "again", gradient_checkpointing=True)
    assert same == plain and more == once + steps, "each block is gone through once more per step"


def test_a_model_that_needs_its_activations_says_so(tasks, tmp_path, lmm, monkeypatch):
    for part in lmm.module().modules():
        if getattr(part, "supports_gradient_checkpointing", False):
            monkeypatch.setattr(part, "supports_gradient_checkpointing", False)
    learner = Learner(lmm, [Sequential()], folder=tmp_path, training=Training(gradient_checkpointing=True), reuse=False)
    with pytest.raises(UserError, match="leave out train.gradient_checkpointing"):
        learner.learn(tasks[0])
