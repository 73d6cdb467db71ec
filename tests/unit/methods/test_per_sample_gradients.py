"""The gradients of all samples of a batch at once, against one sample after another; and where that can't be done."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from evertune.methods import per_sample_gradients
from evertune.methods.mas import squared_norm
from evertune.methods.per_sample_gradients import gradients_of, samples_at_once
from evertune.models import load_lmm
from evertune.models.features import FeatureStore
from evertune.models.modes import evaluating

MODELS = ["random", "mini_blip", "blip-2 opt", "blip-2 t5"]


@pytest.fixture
def loaded(mini_blip, tiny_blip, tiny_chat):
    def made(name, **options):
        folders = {"random": lambda: "random", "mini_blip": lambda: mini_blip}
        known = folders.get(name) or (lambda: tiny_blip(*name.split()) if " " in name else tiny_chat(name))
        lmm = load_lmm(str(known()), dtype="float32", device=torch.device("cpu"), options=options)
        for parameter in lmm.trainable().values():
            nn.init.normal_(parameter, std=0.05)
        return lmm

    return made


def together(lmm, samples, of):
    store = FeatureStore(lmm)
    store.ensure(samples)
    parameters = lmm.trainable()
    with evaluating(lmm.module()):
        batch = lmm.collate(samples, store.get(samples))
        return gradients_of(lmm.module(), parameters, batch, of, count=len(samples))


def one_by_one(lmm, samples, of):
    store = FeatureStore(lmm)
    store.ensure(samples)
    parameters = lmm.trainable()
    with evaluating(lmm.module()):
        for sample in samples:
            value = of(lmm.module()(lmm.collate([sample], store.get([sample])))).sum()
            found = torch.autograd.grad(value, list(parameters.values()), allow_unused=True)
            yield dict(zip(parameters, found, strict=True))


@pytest.fixture
def uneven(tasks):
    """Instructions and answers of different lengths: there is padding everywhere."""
    return [
        replace(s, instruction="what " * (n + 1) + "?", answers=("red " * (n % 3 + 1),))
        for n, s in enumerate(tasks[0].train[:5])
    ]


@pytest.mark.parametrize("of", [lambda output: output.nll, squared_norm], ids=["nll", "mas"])
@pytest.mark.parametrize("name", MODELS)
def test_each_samples_own_gradient(name, of, loaded, uneven):
    lmm = loaded(name)
    found = together(lmm, uneven, of)
    assert found is not None
    scale = max(gradient.abs().max() for gradient in found.values())
    for at, alone in enumerate(one_by_one(lmm, uneven, of)):
        for parameter, gradient in alone.items():
            ours = found[parameter][at] if parameter in found else torch.zeros(())
            wanted = torch.zeros(()) if gradient is None else gradient
            assert (ours - wanted).abs().max() < 1e-4 * scale, f"{parameter} of sample {at}"


def test_nothing_is_left_behind(loaded, uneven):
    """No hook stays on the model, and no gradient on a parameter."""
    lmm = loaded("mini_blip")
    query = lmm.blip.query_tokens
    together(lmm, uneven, squared_norm)
    assert lmm.blip.query_tokens is query and all(p.grad is None for p in lmm.trainable().values())
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in lmm.modules())


def test_several_images_are_told_apart_from_samples(loaded, uneven):
    both = replace(uneven[0], images=uneven[0].images + uneven[1].images)
    assert together(loaded("mini_blip"), [both, *uneven[1:]], squared_norm) is None


def test_a_connector_that_reads_all_images_as_one(loaded, uneven):
    """Chat LMMs put the rows of all images one after another: their first dimension is not the samples."""
    assert together(loaded("qwen2_5_vl"), uneven, squared_norm) is None


def test_a_parameter_that_is_used_otherwise(loaded, uneven):
    """Everything trains here, also the norms of the LM, for which there is no rule."""
    assert together(loaded("llava", scope="full"), uneven, squared_norm) is None


@pytest.mark.parametrize(
    ("kind", "rule"),
    [
        (
            nn.Linear,
            lambda layer, read, back, mine: {part: g.flip(-1) for part, g in LINEAR(layer, read, back, mine).items()},
        ),
        (nn.Embedding, lambda layer, read, back, mine: EMBEDDING(layer, read.roll(1, 1), back, mine)),
        (nn.LayerNorm, lambda layer, read, back, mine: NORM(layer, 2 * read + back, back, mine)),
    ],
    ids=["linear", "embedding", "norm"],
)
def test_a_broken_rule_is_found(kind, rule, loaded, uneven, monkeypatch):
    monkeypatch.setitem(per_sample_gradients._RULES, kind, rule)
    assert together(loaded("mini_blip"), uneven, squared_norm) is None


LINEAR, EMBEDDING, NORM = (per_sample_gradients._RULES[kind] for kind in (nn.Linear, nn.Embedding, nn.LayerNorm))


class Words(nn.Module):
    """Answers with the sum of word embeddings, those of padding too: they have no gradient."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(6, 4, padding_idx=0)
        self.out = nn.Linear(4, 1)

    def forward(self, ids):
        return self.out(self.table(ids).sum(1)).square().squeeze(1)


def test_padding_of_an_embedding_does_not_train():
    model, ids = Words(), torch.tensor([[1, 2, 0], [3, 3, 0]])
    parameters = dict(model.named_parameters())
    found = gradients_of(model, parameters, ids, lambda values: values, count=2)
    assert found is not None, "they add up"
    for at, row in enumerate(ids):
        alone = torch.autograd.grad(model(row[None]).sum(), list(parameters.values()))
        for name, gradient in zip(parameters, alone, strict=True):
            torch.testing.assert_close(found[name][at], gradient)


def test_memory_is_bounded():
    small, large = {"a": torch.empty(10)}, {"a": torch.empty(10), "b": torch.empty(2**24, device="meta")}
    assert samples_at_once(small) == 16 and samples_at_once(large) == 4
    assert samples_at_once({"c": torch.empty(2**30, device="meta")}) == 1
