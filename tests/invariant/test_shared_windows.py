"""Runs that must be equal: one process, and several that share micro-batches and windows that don't divide."""

from __future__ import annotations

import json
import os
import subprocess

import pytest
import warm

TRAININGS = """
import json
import sys
from dataclasses import replace
from pathlib import Path

import torch

from evertune.utils import distributed
from evertune.training.method_contract import toy_tasks
from evertune.models import load_lmm
from evertune.models.features import FeatureStore
from evertune.training.loop import Training, train
from evertune.methods import Context, make_methods
from evertune.models.weights import copy_of, restore


def logs(folder):
    '''Losses and gradient norms by setting; answers differ in length, so that tokens and samples are two things.'''
    first, second, _ = toy_tasks(folder / str(distributed.rank()))
    second = [replace(s, answers=("red " * (n % 4 + 1),)) for n, s in enumerate(second.train)]
    lmm = load_lmm("random", seed=1, dtype="float32", device=torch.device("cpu"))
    features, start = FeatureStore(lmm), copy_of(lmm.trainable())
    features.ensure([*first.train, *second])
    found = {}
    for spec, loss_mean in (("sequential", "sample"), ("sequential", "token"), ("ewc", "sample"), ("lwf", "token")):
        methods = make_methods(spec, {"ewc": {"strength": 1e4, "samples": 4}} if spec == "ewc" else None)
        restore(lmm.trainable(), start)
        for method in methods:
            method.setup(Context(lmm=lmm, features=features, seed=0, start=start))
            method.on_known_task(first)
            method.before_task(replace(first, train=second))
        # 21 samples: 5 5, 5 5, 1
        training = Training(batch_size=5, gradient_accumulation_steps=2, epochs=2.625, loss_mean=loss_mean)
        steps = train(lmm, methods, second, features, training=training, seed=4)
        found[f"{spec} {loss_mean}"] = [[step.loss, step.gradient_norm] for step in steps]
    return found
"""
LAUNCHED = """
distributed.init()
found = logs(Path(sys.argv[1]))
if distributed.is_main_process():
    Path(sys.argv[1], "logs.json").write_text(json.dumps(found))
"""


def test_two_processes_take_the_steps_of_one(tmp_path):
    """Of five samples they take three and two; of the last one the second process takes none."""
    names: dict = {}
    exec(TRAININGS, names)
    alone = names["logs"](tmp_path / "alone")
    script = tmp_path / "logs.py"
    script.write_text(TRAININGS + LAUNCHED)
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    done = subprocess.run(
        [warm.python(), *launcher, script, tmp_path],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    shared = json.loads((tmp_path / "logs.json").read_text())
    assert shared.keys() == alone.keys() and len(alone) == 4
    for setting, steps in alone.items():
        assert len(steps) == 3
        for ours, theirs in zip(shared[setting], steps, strict=True):
            assert ours == pytest.approx(theirs, rel=1e-3), setting
    assert alone["sequential sample"] != alone["sequential token"]
