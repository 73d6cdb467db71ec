"""`only`: the region trains, the rest stays, whatever it is combined with."""

from __future__ import annotations

import pytest
import torch

from evertune.methods import Only, make_methods
from evertune.models.weights import copy_of
from evertune.training.learner import Learner
from evertune.training.loop import Training
from evertune.utils.errors import UserError


@pytest.mark.parametrize(
    ("spec", "region", "inside"),
    [
        ("only", "attention", lambda name: "self_attn" in name),
        ("replay+only", "lora:last-1,projection", lambda name: "layers.0" not in name),
        ("only+lora", "attention", lambda name: "q_proj" in name or "v_proj" in name),
        ("only+eproj", "projection", lambda name: name.startswith("projector.")),
    ],
)
def test_what_is_outside_of_the_region_stays(lmm, tasks, tmp_path, spec, region, inside):
    methods = make_methods(spec, {"only": {"region": region}})
    training = Training(learning_rate=0.05, batch_size=4)
    learner = Learner(lmm, methods, folder=tmp_path, training=training, reuse=False)
    before = copy_of(learner.lmm.trainable())
    for task in tasks[:2]:
        learner.learn(task)
    changed = {name for name, p in learner.lmm.trainable().items() if not torch.equal(p, before[name])}
    wanted = {name for name in before if inside(name)}
    assert changed and changed <= wanted
    assert len(changed) > len(wanted) / 2, "nearly all of it moves"
    assert learner.stages[-1].trained_parameters == sum(before[name].numel() for name in wanted)


def test_a_region_in_which_nothing_trains(set_up):
    with pytest.raises(
        UserError, match=r"only.region=gate-up: nothing that .* trains is there. It trains projection, lo"
    ):
        set_up("only", {"only": {"region": "gate-up"}})
    with pytest.raises(UserError, match="there is no region 'attenton'"):
        set_up("only", {"only": {"region": "attenton"}})
    with pytest.raises(UserError, match="only.region is empty"):
        Only(region=" ,")
