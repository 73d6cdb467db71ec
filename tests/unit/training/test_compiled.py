"""`train.compile`: the same losses, and blocks that are as before afterwards."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from transformers.modeling_layers import GradientCheckpointingLayer

from evertune.models.weights import copy_of, restore
from evertune.runs.config import RunConfig, without_effect
from evertune.training import compiled
from evertune.training.loop import Training, train
from evertune.utils.errors import UserError


@pytest.mark.slow
def test_a_compiled_training_has_the_same_losses(lmm, tasks, features, monkeypatch):
    """The blocks are captured as graphs, forward and backward; a compiler would take 80 seconds more for these."""
    capture_only = partial(torch.compile, backend="aot_eager")
    monkeypatch.setattr(compiled.torch, "compile", capture_only)
    start = copy_of(lmm.trainable())
    losses = {}
    for compile in (False, True):
        restore(lmm.trainable(), start)
        training = Training(epochs=1, batch_size=4, learning_rate=0.01, compile=compile)
        losses[compile] = [step.loss for step in train(lmm, [], tasks[0].train, features, training=training, seed=0)]
    assert len(losses[True]) == 2
    assert losses[True] == pytest.approx(losses[False], rel=1e-5)
    blocks = [module for module in lmm.module().modules() if isinstance(module, GradientCheckpointingLayer)]
    assert blocks
    assert not [block for block in blocks if "forward" in vars(block)]


def test_blocks_are_compiled_inside_the_training_only(lmm, monkeypatch):
    made = []
    monkeypatch.setattr(compiled.torch, "compile", lambda forward, *, dynamic: made.append(forward) or forward)
    with pytest.raises(RuntimeError, match="a step fails"), compiled.compiled_blocks(lmm, wanted=True):
        assert len(made) == 2
        raise RuntimeError("a step fails")
    blocks = [module for module in lmm.module().modules() if isinstance(module, GradientCheckpointingLayer)]
    assert not [block for block in blocks if "forward" in vars(block)]
    with compiled.compiled_blocks(lmm, wanted=False):
        assert len(made) == 2


def test_a_model_without_blocks_is_refused(lmm, monkeypatch):
    monkeypatch.setattr(type(lmm), "module", lambda self: self.projector)
    with pytest.raises(UserError, match="leave out train.compile"), compiled.compiled_blocks(lmm, wanted=True):
        pass


def test_the_setting_identifies_a_run_where_it_is_set():
    assert "compile" not in Training().as_dict()
    assert Training(compile=True).as_dict()["compile"] is True
    assert "compile" in without_effect(RunConfig(stream="parcel"))["train"]
    assert "compile" not in without_effect(RunConfig(stream="parcel", train={"compile": True}))["train"]
    for other in ("gradient_checkpointing", "group_by_image"):
        with pytest.raises(ValueError, match="can't be combined"):
            RunConfig(stream="parcel", train={"compile": True, other: True})
        with pytest.raises(UserError, match="can't be combined"):
            Training(compile=True, **{other: True})
