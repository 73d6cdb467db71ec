"""In a Trainer each step gives the weights that evertune's own loop gives."""

from __future__ import annotations

import pytest
import tiny_trainer as tiny

from evertune.integrations.transformers import ContinualCallback

SPECS = (
    "ewc",
    "online-ewc",
    "mas",
    "tir+ewc",
    "tir+mas",
    "lwf",
    "replay",
    "replay+ewc+lwf",
    "agem",
    "gem",
    "der",
    "dgg",
)
FIRST = ("ewc", "tir+mas", "replay+ewc+lwf", "gem", "der")
"""One of each kind; `make test-all` also has the others."""


@pytest.fixture(autouse=True)
def _comparable(monkeypatch):
    tiny.comparable(monkeypatch.setattr)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spec", "accumulation", "clip"),
    [
        *((spec, 3, 0.05) for spec in FIRST),
        *(pytest.param(spec, 3, 0.05, marks=pytest.mark.thorough) for spec in SPECS if spec not in FIRST),
        ("ewc", 1, 0.0),
        ("lwf", 1, 0.0),
    ],
)
def test_steps_are_those_of_the_loop(spec, accumulation, clip, tmp_path):
    how = {"accumulation": accumulation, "clip": clip}
    ours, plain = tiny.by_loop(spec, **how), tiny.by_loop("sequential", **how)
    theirs, _ = tiny.by_trainer(spec, tmp_path, **how)
    assert tiny.furthest(ours, theirs) < 1e-6
    steps = len(plain) // 2
    assert tiny.furthest(ours[:steps], plain[:steps]) == 0, "nothing is known before the first task"
    if "replay" not in spec:
        assert tiny.furthest(ours, plain) > 3e-5, "the method makes a difference"


@pytest.mark.slow
def test_a_penalty_added_after_clipping_gives_other_weights(tmp_path):
    """The place that a callback of the Trainer would have."""

    class Late(ContinualCallback):
        def _in_training_step(self, trainer, training_step):
            return training_step

        def on_pre_optimizer_step(self, args, state, control, **kwargs):
            self._task.after_backward()

    how = {"accumulation": 3, "clip": 0.05}
    late = Late("ewc", options=tiny.options_for("ewc"), seed=3)
    theirs, _ = tiny.by_trainer("ewc", tmp_path, callback=late, **how)
    assert tiny.furthest(tiny.by_loop("ewc", **how), theirs) > 1e-5
