"""Regions of models by name, on the layouts of names that families have."""

from __future__ import annotations

import pytest
from tiny_chat import FAMILIES

from evertune.methods import make_methods
from evertune.models.adapters import linear_layers
from evertune.models.regions import in_region
from evertune.utils.errors import UserError

LLAMA = [
    f"lm.model.layers.{n}.{part}.weight"
    for n in range(3)
    for part in ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj", "input_layernorm")
]
OPT = [f"model.decoder.layers.{n}.{part}.bias" for n in range(2) for part in ("self_attn.out_proj", "fc1", "fc2")]
T5 = [
    f"decoder.block.{n}.layer.{part}.weight"
    for n in range(2)
    for part in ("0.SelfAttention.q", "1.EncDecAttention.k", "2.DenseReluDense.wi")
]
LOW_RANK = ["lm.layers.0.self_attn.q_proj.lora_A.default.weight", "lm.layers.1.self_attn.q_proj.adapter.down"]
TWO = ["a.layers.0.mlp.x.weight", "b.layers.7.mlp.x.weight"]
PROJECTOR = ["projector.0.weight", "projector.2.bias", "projector.2.lora_A.default.weight"]


@pytest.mark.parametrize(
    ("names", "word", "found"),
    [
        (LLAMA, "attention", [n for n in LLAMA if "self_attn" in n]),
        (LLAMA, "mlp", [n for n in LLAMA if ".mlp." in n]),
        (LLAMA, "gate-up", [n for n in LLAMA if "up_proj" in n]),
        (OPT, "gate-up", [n for n in OPT if "fc1" in n]),
        (T5, "gate-up", [n for n in T5 if ".wi" in n]),
        (LLAMA, "last-1", LLAMA[-5:]),
        (LLAMA, "last-2", LLAMA[-10:]),
        (LLAMA, "last-9", LLAMA),
        (LLAMA[:4] + LLAMA[5:9], "one-per-block", [LLAMA[3], LLAMA[8]]),
        (OPT, "mlp", [n for n in OPT if ".fc" in n]),
        (OPT, "last-1", OPT[3:]),
        (T5, "attention", [n for n in T5 if "Attention" in n]),
        (T5, "mlp", [n for n in T5 if "Dense" in n]),
        (T5, "last-1", T5[3:]),
        (LOW_RANK, "attention", LOW_RANK),
        (LOW_RANK, "last-1", LOW_RANK[1:]),
        (PROJECTOR, "last-1", []),
        (TWO, "last-1", TWO),
    ],
)  # fmt: skip
def test_names(names, word, found):
    assert in_region(names, word) == found


def targets(lmm, text):
    (method,) = make_methods("lora", {"lora": {"target_modules": text}})
    adapted = method.adapt(lmm, seed=0)
    return list(adapted.adapters)


def test_adapters_go_where_a_region_says(new_lmm):
    every = targets(new_lmm(), "q_proj,k_proj,v_proj,o_proj")
    assert targets(new_lmm(), "attention") == every
    last = max(int(path.split("layers.")[1].split(".")[0]) for path in every)
    assert targets(new_lmm(), "attention:last-1") == [path for path in every if f"layers.{last}." in path]
    assert targets(new_lmm(), "q_proj:last-1") == [p for p in every if f"layers.{last}." in p and "q_proj" in p]
    assert len(targets(new_lmm(), "one-per-block")) == last + 1
    assert set(targets(new_lmm(), "attention,mlp")) > set(every)


@pytest.mark.parametrize("word", ["last-0", "attention:none", "last-4:", "attention:q_proj"])
def test_what_is_no_region_is_refused(new_lmm, word):
    with pytest.raises(UserError, match=r"no linear layer .*regions attention, mlp, gate-up .*, last-K"):
        targets(new_lmm(), word)


def test_a_context_names_trained_parameters(context):
    trained = list(context.parameters)
    assert context.named("lora") == [name for name in trained if "lora_" in name] == context.named("attention")
    assert context.named("lora:last-1") and set(context.named("lora:last-1")) < set(context.named("lora"))
    with pytest.raises(UserError, match="no region 'atention'"):
        context.named("atention")


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_has_attention_and_an_mlp(name, tiny_chat):
    import torch

    from evertune.models import load_lmm

    lmm = load_lmm(str(tiny_chat(name)), dtype="float32", device=torch.device("cpu"), options={"scope": "lora"})
    names = [f"{path}.weight" for path in linear_layers(lmm)]
    for word in ("attention", "mlp", "gate-up", "last-1", "one-per-block"):
        assert in_region(names, word), word
    assert not set(in_region(names, "attention")) & set(in_region(names, "mlp"))
