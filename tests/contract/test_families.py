"""Every family keeps the contract with methods of every kind; EProj finds the module it copies in each."""

from __future__ import annotations

import pytest

from evertune.methods import make_methods
from evertune.training.method_contract import check_method

FIRST = ["llava", "qwen2_5_vl", "smolvlm"]
OTHERS = ["idefics3", "qwen2_vl", "qwen3_vl", "llava_next", "llava_onevision", "internvl", "paligemma", "gemma3"]
OPTIONS = {
    "replay": {"ratio": 0.25},
    "ewc": {"strength": 50.0, "samples": 4},
    "mas": {"samples": 4},
    "lwf": {"strength": 3.0},
    "eproj": {"expert": "projection"},
}


@pytest.mark.parametrize("spec", ["sequential", "eproj", "ewc", "replay"])
@pytest.mark.parametrize("name", FIRST)
def test_first_families(name, spec, tiny_chat):
    check_method(lambda: make_methods(spec, OPTIONS), model=str(tiny_chat(name)))


@pytest.mark.parametrize("spec", ["replay+ewc", "eproj"])
@pytest.mark.parametrize("name", OTHERS)
def test_other_families(name, spec, tiny_chat):
    check_method(lambda: make_methods(spec, OPTIONS), model=str(tiny_chat(name)))


@pytest.mark.parametrize("spec", ["mas", "lwf", "tir+ewc"])
def test_other_methods(spec, tiny_chat):
    check_method(lambda: make_methods(spec, OPTIONS), model=str(tiny_chat("llava")))


@pytest.mark.parametrize("scope", ["projection", "dora", "full"])
def test_other_scopes(scope, tiny_chat):
    check_method(
        lambda: make_methods("replay+ewc", OPTIONS), model=str(tiny_chat("llava")), model_options={"scope": scope}
    )


@pytest.mark.parametrize("spec", ["replay+ewc", "eproj", "mas", "lwf"])
@pytest.mark.parametrize("kind", [("blip-2", "opt"), ("instructblip", "t5")], ids="-".join)
def test_blips(kind, spec, tiny_blip):
    check_method(lambda: make_methods(spec, OPTIONS), model=str(tiny_blip(*kind)))
