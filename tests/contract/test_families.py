"""Every family keeps the contract with methods of every kind; EProj finds the module it copies in each."""

from __future__ import annotations

import pytest

from evertune.methods import make_methods
from evertune.training.method_contract import check_method

CHAT = ["llava", "qwen2_5_vl", "smolvlm", "idefics3", "qwen2_vl", "qwen3_vl", "llava_next", "llava_onevision"]
CHAT += ["internvl", "paligemma", "gemma3"]
FIRST = ["llava", "qwen2_5_vl", "smolvlm", "paligemma", "gemma3"]
"""One of each kind of template, mask and connector; `make test-all` also has the others."""
OPTIONS = {
    "replay": {"ratio": 0.25},
    "ewc": {"strength": 50.0, "samples": 4},
    "mas": {"samples": 4},
    "lwf": {"strength": 3.0},
    "eproj": {"expert": "projection"},
}


@pytest.mark.parametrize(
    "name", [*FIRST, *(pytest.param(name, marks=pytest.mark.thorough) for name in CHAT if name not in FIRST)]
)
def test_chat_families(name, tiny_chat):
    """A method that protects and rehearses."""
    check_method(lambda: make_methods("replay+ewc", OPTIONS), model=str(tiny_chat(name)))


@pytest.mark.parametrize("name", [CHAT[0], *(pytest.param(name, marks=pytest.mark.thorough) for name in CHAT[1:])])
def test_experts_of_chat_families(name, tiny_chat):
    check_method(lambda: make_methods("eproj", OPTIONS), model=str(tiny_chat(name)))


@pytest.mark.thorough
@pytest.mark.parametrize("spec", ["sequential", "mas", "lwf", "tir+ewc"])
def test_other_methods(spec, tiny_chat):
    check_method(lambda: make_methods(spec, OPTIONS), model=str(tiny_chat("llava")))


@pytest.mark.thorough
@pytest.mark.parametrize("scope", ["projection", "dora", "full"])
def test_other_scopes(scope, tiny_chat):
    check_method(
        lambda: make_methods("replay+ewc", OPTIONS), model=str(tiny_chat("llava")), model_options={"scope": scope}
    )


@pytest.mark.parametrize("spec", ["replay+ewc", "eproj"])
@pytest.mark.parametrize("kind", [("blip-2", "opt"), ("instructblip", "t5")], ids="-".join)
def test_blips(kind, spec, tiny_blip):
    check_method(lambda: make_methods(spec, OPTIONS), model=str(tiny_blip(*kind)))


@pytest.mark.thorough
@pytest.mark.parametrize("spec", ["mas", "lwf"])
def test_other_methods_with_an_encoder_and_a_decoder(spec, tiny_blip):
    check_method(lambda: make_methods(spec, OPTIONS), model=str(tiny_blip("instructblip", "t5")))
