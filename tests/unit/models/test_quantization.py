"""`model.quantization`: which layers are quantized, what trains beside them, and what is refused."""

from __future__ import annotations

import sys
from importlib.util import find_spec

import pytest
import torch
from chat_models import load, of_library
from torch import nn

import evertune
from evertune.methods import make_methods
from evertune.models import load_lmm, load_on_paper, quantization
from evertune.models.features import FeatureStore
from evertune.models.fsdp import spread_frozen
from evertune.models.meta import needed_bytes, refuse_too_large
from evertune.models.quantization import count_parameters, is_quantized, planned, quantization_of
from evertune.runs.api import configure, open_run
from evertune.runs.plan.api import plan
from evertune.training.learner import Learner
from evertune.training.loop import Training, train
from evertune.training.method_contract import check_method
from evertune.utils.errors import RunFolderError, UserError

with_bitsandbytes = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="the extra 'quantization'")
CLOSE = {"4bit": 0.04, "8bit": 0.005}
"""How far the loss of a random model may lie from that of the exact one, as a share of it."""


def prepared(lmm, samples):
    store = FeatureStore(lmm)
    store.ensure(samples)
    return store


def loss(lmm, samples):
    with torch.no_grad():
        return float(lmm(lmm.collate(samples, prepared(lmm, samples).get(samples))).loss)


@with_bitsandbytes
@pytest.mark.parametrize("kind", ["4bit", "8bit"])
@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "gemma3", "internvl"])
def test_only_the_linear_layers_of_the_lm_are_quantized(name, kind, tiny_chat, tasks):
    exact, lmm = load(tiny_chat(name)), load(tiny_chat(name), quantization=kind)
    layers = {path for path, module in lmm.module().named_modules() if is_quantized(module)}
    language = {
        path
        for path, module in lmm.module().named_modules()
        if ".language_model." in path and isinstance(module, nn.Linear) and ".lora_" not in path
    }
    assert layers == language and len(layers) == 14
    other = {n: p for n, p in lmm.module().named_parameters() if n.rpartition(".")[0] not in layers}
    same = dict(exact.module().named_parameters())
    assert other and all(torch.equal(p, same[n]) and p.dtype == torch.float32 for n, p in other.items())
    assert loss(lmm, tasks[0].test) == pytest.approx(loss(exact, tasks[0].test), rel=CLOSE[kind])
    assert loss(lmm, tasks[0].test) != loss(exact, tasks[0].test)
    assert exact.encoder_fingerprint == lmm.encoder_fingerprint, "they share cached features"
    assert exact.fingerprint != lmm.fingerprint == load(tiny_chat(name), quantization=kind).fingerprint
    assert count_parameters(lmm.module()) == sum(p.numel() for p in exact.module().parameters())


@with_bitsandbytes
@pytest.mark.parametrize("kind", ["4bit", "8bit"])
@pytest.mark.parametrize(("family", "lm"), [("instructblip", "opt"), ("blip-2", "t5")])
def test_the_families_without_options_are_quantized_too(family, lm, kind, tiny_blip, tasks):
    exact, lmm = (load(tiny_blip(family, lm), **options) for options in ({}, {"quantization": kind}))
    assert any(map(is_quantized, lmm.module().modules())) and not is_quantized(lmm.blip.get_output_embeddings())
    assert loss(lmm, tasks[0].test) == pytest.approx(loss(exact, tasks[0].test), rel=CLOSE[kind])


@with_bitsandbytes
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["4bit", "8bit"])
def test_numbers_do_not_depend_on_answers_before_the_training(kind, dtype, tiny_chat, tasks):
    """On some CPUs bitsandbytes would round 4-bit weights again when the first answer is generated."""
    folder, losses = str(tiny_chat("llava")), []
    for answers_first in (False, True):
        lmm = load_lmm(folder, seed=1, dtype=dtype, device="cpu", options={"quantization": kind})
        store = prepared(lmm, tasks[0].train)
        frozen = {n: t.clone() for n, t in lmm.module().state_dict().items() if n not in lmm.trainable()}
        started = {n: p.detach().clone() for n, p in lmm.trainable().items()}
        if answers_first:
            lmm.generate(store.get(tasks[0].train[:2]), ["colour?", "colour?"], max_new_tokens=2)
        training = Training(epochs=1, batch_size=4, learning_rate=1e-2)
        losses.append([s.loss for s in train(lmm, [], tasks[0].train, store, training=training, seed=0)])
        after = lmm.module().state_dict()
        assert all(torch.equal(after[n], tensor) for n, tensor in frozen.items())
        trained = lmm.trainable()
        assert all(p.dtype == torch.float32 and not torch.equal(p, started[n]) for n, p in trained.items())
    assert losses[0] == losses[1] and losses[0][-1] < losses[0][0]


@with_bitsandbytes
@pytest.mark.parametrize("kind", ["4bit", "8bit"])
@pytest.mark.parametrize("spec", ["replay+ewc", "eproj", "lora", "merge"])
def test_the_contract_of_methods(spec, kind, tiny_chat):
    """Frozen weights stay, and a training that is cut off ends bit-identical."""
    scope = "projection+lora" if spec in ("eproj", "lora") else "lora"
    options = {"quantization": kind, "scope": scope}
    check_method(lambda: make_methods(spec), model=str(tiny_chat("llava")), model_options=options)


@with_bitsandbytes
def test_a_whole_run(tiny_chat, toy_stream, tmp_path):
    """It says how it was quantized, answers again, and another quantization is another run."""

    def run(*settings):
        settings = ["dtype=float32", "model.scope=lora", *settings]
        model = str(tiny_chat("llava"))
        return evertune.run(str(toy_stream), model=model, out=tmp_path / "run", limit=3, settings=settings)

    assert run("model.quantization=4bit").runs["sequential"].matrix.finished
    assert "quantization: 4bit" in (tmp_path / "run" / "config.yaml").read_text()
    for other in ("8bit", "none"):
        with pytest.raises(RunFolderError, match="model_options"):
            run(f"model.quantization={other}")
    with pytest.raises(UserError, match="can't be merged into quantized weights"):
        evertune.export(tmp_path / "run", tmp_path / "whole")
    assert not (tmp_path / "whole").exists()
    (adapter,) = evertune.export(tmp_path / "run", tmp_path / "adapter", adapters=True, stage=3).adapters
    assert "its language model was quantized (4bit, bitsandbytes) in training" in (adapter / "README.md").read_text()
    again = load(tiny_chat("llava"), quantization="4bit", adapter=str(adapter))
    stacked = load(tiny_chat("llava"), quantization="4bit", adapter=str(adapter), adapter_mode="stack", scope="lora")
    assert set(stacked.trainable()) == set(again.trainable()) and stacked.fingerprint != again.fingerprint
    stage = open_run(tmp_path / "run").lmm.trainable()
    assert stage and all(torch.equal(again.trainable()[name], value) for name, value in stage.items())


@with_bitsandbytes
@pytest.mark.parametrize(("spec", "scope"), [("osf", "projection"), ("keeplora", "projection"), ("merge+lora", "lora")])
def test_methods_that_need_exact_weights_are_refused_at_the_start(spec, scope, tiny_chat, tmp_path):
    lmm = load(tiny_chat("llava"), quantization="4bit", scope="projection")
    options = {"merge": {"rule": "pm"}} if spec == "merge+lora" else {spec: {"target_modules": "q_proj"}}
    options |= {"lora": {"target_modules": "q_proj"}} if "lora" in spec.split("+") else {}
    with pytest.raises(UserError, match="needs exact weights, and the model is quantized: leave out"):
        Learner(lmm, make_methods(spec, options), folder=tmp_path)


@with_bitsandbytes
def test_sharded_weights_are_refused(tiny_chat):
    with pytest.raises(UserError, match="FSDP needs exact weights"):
        spread_frozen(load(tiny_chat("llava"), quantization="8bit"))


@with_bitsandbytes
def test_a_loaded_model_is_not_quantized(tiny_chat):
    model, processor = of_library(tiny_chat("llava"))
    with pytest.raises(UserError, match="wrap takes a model as it is; evertune.load_lmm"):
        evertune.wrap(model, processor, quantization="4bit")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantization": "3bit"}, "model.quantization"),
        ({"quantization": "4bit", "scope": "projection+full"}, "scope=full trains the quantized weights; take"),
        ({"quantization": "8bit", "scope": "dora"}, "scope=dora needs the norms of exact weights; take"),
        ({"quantization": "4bit", "adapter": "x", "adapter_mode": "merge"}, "continue or stack, or merge it first"),
    ],
)
def test_options_that_make_no_sense(options, message):
    with pytest.raises(UserError, match=message):
        quantization_of(options)
    with pytest.raises(UserError, match=message):
        load_on_paper("llava-1.5-7b-hf", options=options)


def test_a_model_of_no_library_class_has_no_quantization():
    with pytest.raises(UserError, match=r"the model random has no options: leave out model.quantization"):
        load_lmm("random", options={"quantization": "4bit"})


def test_a_missing_package_is_one_line(monkeypatch, tiny_chat):
    monkeypatch.setattr(quantization, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs bitsandbytes: pip install 'evertune\[quantization\]'"):
        load(tiny_chat("llava"), quantization="4bit")


def test_no_code_is_fetched_from_the_hub(monkeypatch, tmp_path):
    """bitsandbytes calls `kernels.get_kernel` at its import on CPUs with AVX512-BF16."""
    (tmp_path / "kernels.py").write_text("")
    (tmp_path / "bitsandbytes.py").write_text("try:\n    import kernels\nexcept ImportError:\n    kernels = None\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("bitsandbytes", "kernels"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    quantization._import_without_kernels()
    assert sys.modules.pop("bitsandbytes").kernels is None
    assert "kernels" not in sys.modules


def test_a_plan_counts_quantized_weights(toy_stream):
    """LLaVA-1.5-7B: 32 layers with 4 x 4096 x 4096 and 3 x 4096 x 11008 weights."""
    numbers = 32 * (4 * 4096 * 4096 + 3 * 4096 * 11008)
    memory = {}
    for kind in ("none", "4bit", "8bit"):
        settings = ["model.scope=lora", "train.batch_size=1", f"model.quantization={kind}"]
        (made,) = plan(configure(str(toy_stream), model="llava-1.5-7b-hf", settings=settings))
        memory[kind] = made.memory
    assert memory["4bit"]["quantized weights of the LM"] == pytest.approx(numbers * 4.127 / 8, rel=1e-3)
    assert memory["8bit"]["quantized weights of the LM"] == pytest.approx(numbers, rel=2e-3)
    for kind in ("4bit", "8bit"):
        frozen = memory["none"]["other frozen weights"] - memory[kind]["other frozen weights"]
        assert frozen == 2 * numbers and memory[kind]["vision tower"] == memory["none"]["vision tower"]


@with_bitsandbytes
@pytest.mark.parametrize(("kind", "made"), [("4bit", "Linear4bit"), ("8bit", "Linear8bitLt")])
def test_the_planned_bytes_are_those_of_bitsandbytes(kind, made, monkeypatch):
    import bitsandbytes

    exact = nn.Linear(2048, 1024, bias=False)
    monkeypatch.setattr(quantization, "layers_of_lm", lambda model: {"q": exact})
    options = {"4bit": {"quant_type": "nf4"}, "8bit": {"has_fp16_weights": False}}[kind]
    layer = getattr(bitsandbytes.nn, made)(2048, 1024, bias=False, **options)
    layer.load_state_dict(exact.state_dict())
    held = sum(t.nbytes for t in layer.to("cpu").state_dict().values())
    assert planned(exact, kind).bytes == pytest.approx(held, rel=0.002)
    assert planned(exact, kind).parameters == 2048 * 1024


def test_what_does_not_fit_would_in_4_bits():
    paper = load_on_paper("llava-1.5-7b-hf", options={"scope": "lora"})
    four = load_on_paper("llava-1.5-7b-hf", options={"scope": "lora", "quantization": "4bit"})
    assert sum(needed_bytes(four, torch.bfloat16).values()) < 5e9
    with pytest.raises(UserError, match="would fit with its LM in 4 bits: --set model.quantization=4bit"):
        refuse_too_large(paper, dtype=torch.bfloat16, device=torch.device("cpu"), free=8 * 10**9)
