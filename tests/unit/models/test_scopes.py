"""What trains in a chat LMM: the parts that the user names, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from evertune.methods import EProj
from evertune.methods.base import Context
from evertune.models import load_lmm
from evertune.models.features import FeatureStore
from evertune.models.scopes import scope_of
from evertune.utils.errors import UserError


def load(folder, *, seed=0, dtype="float32", **options):
    return load_lmm(str(folder), seed=seed, dtype=dtype, device=torch.device("cpu"), options=options)


@pytest.fixture
def folder(tiny_chat):
    return tiny_chat("llava")


CONNECTOR = {f"model.model.multi_modal_projector.linear_{n}.{kind}" for n in (1, 2) for kind in ("weight", "bias")}


def test_projection(folder):
    lmm = load(folder, scope="projection")
    assert set(lmm.trainable()) == CONNECTOR == set(lmm.scopes()["projection"])
    assert {n for n, p in lmm.named_parameters() if p.requires_grad} == CONNECTOR


@pytest.mark.parametrize("adapter", ["lora", "dora"])
def test_adapters(folder, adapter):
    lmm = load(folder, scope=adapter, r=4, target_modules="q_proj,o_proj")
    names = set(lmm.trainable())
    assert lmm.scopes()["projection"] == []
    assert all(".lora_" in name and ("q_proj" in name or "o_proj" in name) for name in names)
    assert all("language_model" in name for name in names), "the tower has layers of these names too"
    assert any("magnitude" in name for name in names) == (adapter == "dora")
    assert all(p.shape[0] == 4 for n, p in lmm.trainable().items() if "lora_A" in n)


def test_full_is_the_lm_without_its_word_embeddings(folder):
    lmm = load(folder, scope="full")
    names = set(lmm.trainable())
    assert "model.lm_head.weight" in names
    assert not any("embed_tokens" in name or "vision_tower" in name or "projector" in name for name in names)
    both = set(load(folder, scope="projection+full").trainable())
    assert both == names | CONNECTOR


def test_a_tied_head_stays(tiny_chat):
    names = set(load(tiny_chat("paligemma"), scope="full").trainable())
    assert names
    assert not any("lm_head" in name or "embed_tokens" in name for name in names)


@pytest.mark.slow
@pytest.mark.parametrize("scope", ["projection", "projection+lora", "dora", "full"])
@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "gemma3"])
def test_a_step_reaches_all_that_trains_in_bfloat16(name, scope, tiny_chat, tasks):
    """What trains is float32 whatever the rest is, and every part of it gets a gradient."""
    lmm = load(tiny_chat(name), dtype="bfloat16", scope=scope)
    assert all(p.dtype == torch.float32 for p in lmm.trainable().values())
    store = FeatureStore(lmm)
    store.ensure(tasks[0].train + tasks[0].test)
    output = lmm(lmm.collate(tasks[0].train, store.get(tasks[0].train)))
    output.loss.backward()
    without = {n for n, p in lmm.trainable().items() if p.grad is None or not p.grad.any()}
    assert all("lora_A" in n for n in without), without  # B starts at zero, so A has no gradient yet
    assert torch.isfinite(output.loss)
    assert lmm.generate(store.get(tasks[0].test), [s.instruction for s in tasks[0].test], max_new_tokens=2)


def test_low_rank_matrices_start_without_effect(folder, tasks):
    plain, seeded = load(folder, scope="projection"), load(folder, seed=7)
    store = FeatureStore(plain)
    store.ensure(tasks[0].test)
    assert plain.encoder_fingerprint == seeded.encoder_fingerprint
    assert plain.fingerprint != seeded.fingerprint
    one, other = (m(m.collate(tasks[0].test, store.get(tasks[0].test))).nll for m in (plain, seeded))
    torch.testing.assert_close(one, other)


def test_the_seed_decides_the_matrices(folder):
    first, again, other = (load(folder, seed=seed).trainable() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_eproj_needs_a_projection_that_trains(folder):
    lmm = load(folder, scope="lora")
    context = Context(lmm=lmm, features=FeatureStore(lmm), seed=0, start=lmm.trainable())
    with pytest.raises(UserError, match="projection of .* does not train: add it to model.scope"):
        EProj(expert="projection").setup(context)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"scope": "lora+projector"}, "unknown part 'projector'.*projection"),
        ({"scope": "lora+full"}, "model.scope=lora\\+full: lora, dora and full exclude each other"),
        ({"r": 0}, "model.r=0: a rank is a whole number from 1 to"),
        ({"r": "many"}, "model.r is a str .*; taken is a whole number, such as 8"),
        ({"rank": 4}, "model.rank: this model has no such option; did you mean|known: "),
    ],
)
def test_options_without_sense(options, match):
    with pytest.raises(UserError, match=match):
        scope_of(options)


def test_targets_that_are_not_there(folder):
    """One misspelt name of several was left out without a word."""
    for given in ("q_proj,v_prj", ["q_proj", "v_prj"]):
        with pytest.raises(UserError, match=r"target_modules=q_proj,v_prj: the LM has no layer called 'v_prj'; did"):
            load(folder, target_modules=given)


def test_targets_as_peft_takes_them():
    assert scope_of({"target_modules": ["q_proj", "v_proj"]}) == scope_of({"target_modules": "q_proj,v_proj"})
    assert scope_of({"r": np.int64(4)}).r == 4


def test_a_model_without_options():
    with pytest.raises(UserError, match="the model random has no options: leave out model.scope"):
        load("random", scope="lora")
