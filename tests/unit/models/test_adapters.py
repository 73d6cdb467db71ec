"""Adapters beside layers: the sum against peft and NumPy, where they may stand, and that they come off again."""

from __future__ import annotations

import copy
from itertools import pairwise

import numpy as np
import pytest
import torch
from peft import LoraConfig
from peft.tuners.lora import Linear as PeftLinear
from torch import nn

from evertune.methods import Context, EProj, LoraRouter, Method, make_methods
from evertune.models import load_lmm
from evertune.models.adapters import ADAPTER, LowRank, attach, bare, linear_layers, spread
from evertune.models.weights import copy_of, fingerprint_of
from evertune.training.learner import Learner
from evertune.training.loop import Training
from evertune.utils.errors import UserError


def random_lmm(seed=1):
    return load_lmm("random", seed=seed, dtype="float32", device=torch.device("cpu"))


@pytest.fixture
def blip(mini_blip):
    return load_lmm(str(mini_blip), seed=1, dtype="float32", device=torch.device("cpu"))


def low_rank(layer, generator):
    return LowRank(layer, rank=2, alpha=6.0, generator=generator)


def put(lmm, *, targets="trained", whole="", seed=0, about="x"):
    return attach(lmm, low_rank, targets=targets, whole=whole, seed=seed, about=about)


def shake(parameters, amount=0.1):
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(amount * torch.randn(parameter.shape, generator=generator))


def test_the_sum_is_that_of_peft_and_of_numpy(blip):
    """A layer with an adapter says what peft's layer with the same matrices says."""
    layer = blip.module().get_submodule("blip.language_projection")
    plain = copy.deepcopy(layer)
    put(blip, targets="projection")
    adapter = layer._modules[ADAPTER]
    shake(adapter.parameters())
    theirs = PeftLinear(plain, "default", LoraConfig(r=2, lora_alpha=6), r=2, lora_alpha=6)
    theirs.lora_A["default"].weight.data.copy_(adapter.down)
    theirs.lora_B["default"].weight.data.copy_(adapter.up)
    x = torch.randn(3, 4, layer.in_features, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(layer(x), theirs(x))
    a, b, w, c = (t.detach().numpy().astype(float) for t in (adapter.down, adapter.up, layer.weight, layer.bias))
    by_hand = x.numpy().astype(float) @ (w + 3.0 * b @ a).T + c
    np.testing.assert_allclose(layer(x).detach().numpy(), by_hand, rtol=1e-4, atol=1e-5)


def test_it_starts_without_effect_and_as_a_linear_layer_would():
    values = spread(200, 64, torch.Generator().manual_seed(0))
    theirs = nn.Linear(64, 200).weight.detach()
    assert float(values.abs().max()) <= 1 / 8
    assert float(values.std()) == pytest.approx(float(theirs.std()), rel=0.03)
    layer = nn.Linear(64, 5)
    assert not low_rank(layer, torch.Generator().manual_seed(0))(torch.ones(2, 64)).any()


def test_the_untouched_model_answers_as_without_adapters(blip, tasks):
    sample = tasks[0].train[0]
    from PIL import Image

    features = blip.encode([Image.open(sample.images[0]).convert("RGB")])
    before = blip.generate(features, [sample.instruction], max_new_tokens=6)
    lmm = put(blip)
    assert lmm.generate(features, [sample.instruction], max_new_tokens=6) == before
    shake(lmm.trainable().values(), 2.0)
    assert lmm.generate(features, [sample.instruction], max_new_tokens=6) != before
    assert bare(lmm).generate(features, [sample.instruction], max_new_tokens=6) == before


@pytest.mark.slow
def test_where_adapters_stand_on_smol():
    lmm = random_lmm()
    everywhere = {"projector.1", "projector.3"} | {
        f"lm.base_model.model.model.layers.{i}.self_attn.{kind}_proj.base_layer" for i in (0, 1) for kind in "qv"
    }
    assert set(put(lmm).adapters) == everywhere, "the layers that carry its LoRA, and those of its projector"
    assert set(put(lmm, whole="projection").adapters) == {path for path in everywhere if "_proj" in path}
    assert set(put(lmm, targets="lora").adapters) == {path for path in everywhere if "_proj" in path}
    assert {path.split(".")[-1] for path in put(lmm, targets="o_proj, up_proj").adapters} == {"o_proj", "up_proj"}
    assert set(put(lmm, targets="1.self_attn.q_proj").adapters) == {
        "lm.base_model.model.model.layers.1.self_attn.q_proj.base_layer"
    }


def test_where_adapters_stand_on_instructblip(blip):
    trained = put(blip).adapters
    assert "blip.language_projection" in trained
    assert {path.split(".")[1] for path in trained} == {"qformer", "language_projection"}
    assert len(trained) == sum(isinstance(m, nn.Linear) for m in blip.blip.qformer.modules()) + 1
    assert {path.split(".")[1] for path in put(blip, targets="q_proj,v_proj").adapters} == {"language_model"}
    assert not any("vision" in path for path in linear_layers(blip).values()), "features of the tower are cached"


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"targets": "fc3"}, "no linear layer 'fc3'.*trained, projection, qformer, the layers .*q_proj"),
        ({"targets": "qkv"}, "no linear layer 'qkv'"),
        ({"whole": "lora"}, "no scope 'lora' to train in full; it has: projection, qformer"),
        ({"targets": "projection", "whole": "projection"}, "is left for adapters"),
    ],
    ids=["unknown", "tower", "scope", "nothing left"],
)
def test_targets_that_are_not_there(blip, options, complaint):
    with pytest.raises(UserError, match=complaint):
        put(blip, **options)


def test_only_adapters_and_what_is_trained_in_full_train(blip):
    lmm = put(blip, whole="projection")
    projection = {"blip.language_projection.weight", "blip.language_projection.bias"}
    parameters = lmm.trainable()
    assert {name for name in parameters if f".{ADAPTER}." not in name} == projection
    assert set(lmm.scopes()["projection"]) == projection
    assert set(lmm.scopes()["adapters"]) == set(parameters) - projection
    assert {n for n, p in blip.module().named_parameters() if p.requires_grad} == set(parameters)
    assert lmm.lr_scale(next(iter(projection))) == blip.lr_scale("") == 1.0


@pytest.mark.slow
def test_the_projector_of_smol_keeps_its_rate(monkeypatch):
    lmm = random_lmm()
    monkeypatch.setitem(lmm.config, "projection_rate", 0.25)
    adapted = put(lmm, whole="projection")
    rates = {name: adapted.lr_scale(name) for name in adapted.trainable()}
    assert {name.split(".")[0] for name, rate in rates.items() if rate == 0.25} == {"projector"}
    assert put(lmm).lr_scale("projector.1.adapter.down") == 1.0


def test_adapters_come_off_again(blip):
    before, names = fingerprint_of(blip.module().state_dict()), set(blip.trainable())
    lmm = put(put(blip), targets="q_proj", seed=1)
    assert len(lmm.trainable()) == 2 * len(lmm.adapters) < len(names)
    assert bare(lmm) is blip and bare(blip) is blip
    assert fingerprint_of(blip.module().state_dict()) == before
    assert not any(m._forward_hooks for m in blip.module().modules())
    assert set(blip.trainable()) == names and all(p.requires_grad for p in blip.trainable().values())


@pytest.mark.slow
def test_what_decides_an_answer_decides_the_fingerprint():
    moved = random_lmm()
    shake(moved.trainable().values())
    prints = {
        put(random_lmm()).fingerprint,
        put(moved).fingerprint,
        put(random_lmm(), about="alpha 32").fingerprint,
        put(random_lmm(), targets="q_proj").fingerprint,
        random_lmm().fingerprint,
    }
    assert len(prints) == 5
    assert put(random_lmm()).fingerprint == put(random_lmm()).fingerprint


@pytest.mark.slow
def test_the_seed_and_the_layer_decide_an_adapter():
    first, again, other = (copy_of(put(random_lmm(), seed=seed).trainable()) for seed in (1, 1, 2))
    assert fingerprint_of(first) == fingerprint_of(again) != fingerprint_of(other)
    downs = [value for name, value in first.items() if name.endswith("q_proj.base_layer.adapter.down")]
    assert len(downs) == 2 and not torch.equal(*downs)


def test_methods_that_bring_adapters(tasks, tmp_path):
    """One model after the other run's adapters; a learner trains nothing else."""
    lmm = random_lmm()
    training = Training(learning_rate=1e-2)
    first = Learner(lmm, make_methods("lora"), folder=tmp_path / "a", training=training, reuse=False)
    rest = {n: p for n, p in lmm.module().named_parameters() if n not in first.lmm.trainable()}
    before = fingerprint_of(rest)
    stage = first.learn(tasks[0])
    assert stage.trained_parameters == sum(p.numel() for p in first.lmm.trainable().values())
    assert fingerprint_of(rest) == before
    assert any(f".{ADAPTER}." in name for name in first.lmm.trainable())
    second = Learner(lmm, make_methods("sequential"), folder=tmp_path / "b", training=training, reuse=False)
    assert second.lmm is lmm and not any(f".{ADAPTER}." in name for name in lmm.trainable())


@pytest.mark.slow
@pytest.mark.parametrize("spec", ["lora", "olora", "moelora", "lora-router"])
def test_they_learn(spec, tasks, tmp_path):
    """The loss of the second task falls, by adapters alone."""
    method = make_methods(spec)[0]
    method.whole = "none"
    training = Training(epochs=30, batch_size=8, learning_rate=1e-2)
    learner = Learner(random_lmm(), [method], folder=tmp_path, training=training, reuse=False)
    losses = []
    for task in tasks[:2]:
        learner.learn(task, on_step=lambda step: losses.append(step.loss))
    assert len(losses) == 60 and losses[59] < 0.5 * losses[30], (losses[30], losses[59])


def test_a_teacher_has_its_own_adapters(tasks, features):
    """`lwf` puts old weights into the model for one pass: adapters are among them."""
    lmm = put(random_lmm())
    shake(lmm.trainable().values(), 0.3)
    lwf = make_methods("lwf")[0]
    lwf.setup(Context(lmm=lmm, features=features, seed=0, start=copy_of(lmm.trainable())))
    lwf.before_task(tasks[0])
    batch = lmm.collate(tasks[0].train[:3], features.get(tasks[0].train[:3]))
    before = lmm.module()(batch).logits
    shake(lmm.trainable().values(), 0.3)
    assert not torch.allclose(lmm.module()(batch).logits, before, atol=1e-2)
    torch.testing.assert_close(lwf.teacher_logits(batch), before)


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        ("lora+lora-router", "each bring adapters of their own"),
        ("eproj+lora-router", "each keep something per task"),
        ("ewc+lora-router", "no earlier weights to hold"),
        ("joint+lora", "runs alone"),
    ],
)
def test_compositions_that_make_no_sense(spec, complaint):
    with pytest.raises(UserError, match=complaint):
        make_methods(spec)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"r": 0}, "lora.r must be 1 to 65,536"),
        ({"lora_alpha": 0.0}, "lora.lora_alpha above 0"),
        ({"target_modules": " , "}, "lora.target_modules is empty"),
        ({"rang": 4}, "no option 'rang'"),
        ({"r": "many"}, "lora.r='many'"),
    ],
)
def test_options_are_checked(options, complaint):
    with pytest.raises(UserError, match=complaint):
        make_methods("lora", {"lora": options})


def test_nothing_in_full():
    lmm = make_methods("lora", {"lora": {"modules_to_save": "none"}})[0].adapt(random_lmm(), seed=0)
    assert all(f".{ADAPTER}." in name for name in lmm.trainable())


def test_nothing_left_to_train(tasks, tmp_path):
    class Nothing(Method):
        name = "nothing"

        def is_trainable(self, parameter):
            return False

    learner = Learner(random_lmm(), [Nothing()], folder=tmp_path, reuse=False)
    with pytest.raises(UserError, match="'nothing' leaves nothing of random to train"):
        learner.learn(tasks[0])


def test_the_oracle_and_the_ridge():
    assert LoraRouter(routing="oracle").needs_task_id() and not LoraRouter().needs_task_id()
    with pytest.raises(UserError, match="lora-router.ridge must be above 0"):
        LoraRouter(ridge=0.0)
    assert isinstance(LoraRouter(), EProj)


@pytest.mark.slow
def test_a_task_more_stores_what_is_declared(tasks, tmp_path):
    method = LoraRouter(r=2)
    learner = Learner(random_lmm(), [method], folder=tmp_path, training=Training(learning_rate=1e-2), reuse=False)
    stored = [learner.learn(task).stored_bytes for task in tasks]
    assert [b - a for a, b in pairwise(stored)] == [method.grows_by()] * 2


def test_every_task_has_its_own_adapter_from_the_start_point(tasks, tmp_path):
    lmm = random_lmm()
    learner = Learner(lmm, [LoraRouter()], folder=tmp_path, training=Training(learning_rate=1e-2), reuse=False)
    start = fingerprint_of(learner.lmm.trainable())
    for task in tasks[:2]:
        learner.learn(task)
    method = learner.methods[0]
    kept = copy_of(learner.lmm.trainable())
    method.before_task(tasks[2])
    assert fingerprint_of(learner.lmm.trainable()) == start
    method.activate(tasks[1].name)
    assert fingerprint_of(learner.lmm.trainable()) == fingerprint_of(kept)
    method.activate(tasks[0].name)
    assert fingerprint_of(learner.lmm.trainable()) != fingerprint_of(kept)
