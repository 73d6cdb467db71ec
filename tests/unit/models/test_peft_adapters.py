"""A PEFT adapter as the start: what evertune computes with it, against peft's own computation."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForImageTextToText

import evertune
from evertune.models import load_lmm, load_on_paper, model_identity
from evertune.models.features import FeatureStore
from evertune.models.processors import load_processor
from evertune.models.scopes import MODES
from evertune.training.method_contract import check_method
from evertune.utils.errors import UserError

LORA = {"r": 3, "lora_alpha": 5, "target_modules": ["q_proj", "o_proj"], "init_lora_weights": False}


def plain(folder):
    """A model as a user of transformers has it."""
    return AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


@pytest.fixture
def adapter(tiny_chat, tmp_path):
    """Write an adapter of random matrices for the miniature `name`."""

    def made(name="llava", place="first", **options):
        torch.manual_seed(7)
        inside = r"model\.language_model\..*\.(q_proj|o_proj)"
        options = {**LORA, "target_modules": inside, **options}
        get_peft_model(plain(tiny_chat(name)), LoraConfig(**options)).save_pretrained(tmp_path / place)
        return tmp_path / place

    return made


def load(folder, **options):
    return load_lmm(str(folder), seed=1, dtype="float32", device="cpu", **options)


def logits(lmm, samples):
    store = FeatureStore(lmm)
    store.ensure(samples)
    with torch.no_grad():
        return lmm(lmm.collate(samples, store.get(samples))).logits


def logits_of(model, lmm, samples):
    """Those of the library's model, or of peft's, in place of ours in `lmm`."""
    own, lmm.model = lmm.model, model
    try:
        return logits(lmm, samples)
    finally:
        lmm.model = own


@pytest.mark.parametrize("options", [{}, {"use_dora": True}, {"use_rslora": True, "rank_pattern": {"o_proj": 5}}])
@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
def test_merge(name, options, adapter, tiny_chat):
    folder = adapter(name, **options)
    lmm = load(tiny_chat(name), adapter=folder, adapter_mode="merge", options={"scope": "projection"})
    theirs = PeftModel.from_pretrained(plain(tiny_chat(name)), folder).merge_and_unload().state_dict()
    ours = lmm.model.state_dict()
    assert set(ours) == set(theirs) and all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert lmm.fingerprint != load(tiny_chat(name), options={"scope": "projection"}).fingerprint


@pytest.mark.parametrize("options", [{}, {"use_dora": True}, {"use_rslora": True, "rank_pattern": {"o_proj": 5}}])
def test_continue(options, adapter, tiny_chat, tasks):
    """The same matrices train, from the same values, with the same gradients as peft's own."""
    folder, samples = adapter(**options), tasks[0].test[:4]
    lmm = load(tiny_chat("llava"), adapter=folder)
    theirs = PeftModel.from_pretrained(plain(tiny_chat("llava")), folder, is_trainable=True)
    trained = {n.removeprefix("base_model.model."): p for n, p in theirs.named_parameters() if p.requires_grad}
    ours = {name.removeprefix("model."): p for name, p in lmm.trainable().items()}
    assert set(ours) == set(trained)
    assert all(torch.equal(ours[name], trained[name]) for name in trained)
    store = FeatureStore(lmm)
    store.ensure(samples)
    batch = lmm.collate(samples, store.get(samples))
    lmm(batch).loss.backward()
    own, lmm.model = lmm.model, theirs.get_base_model()
    lmm(batch).loss.backward()
    lmm.model = own
    for name, parameter in trained.items():
        torch.testing.assert_close(ours[name].grad, parameter.grad)


def test_continue_with_a_connector_that_the_adapter_trained(adapter, tiny_chat, tasks):
    folder = adapter(modules_to_save=["multi_modal_projector"])
    weights = load_file(folder / "adapter_model.safetensors")
    moved = {n: t + 0.5 if "multi_modal_projector" in n else t for n, t in weights.items()}
    save_file(moved, folder / "adapter_model.safetensors")
    lmm = load(tiny_chat("llava"), adapter=folder)
    theirs = PeftModel.from_pretrained(plain(tiny_chat("llava")), folder)
    for name, parameter in plain(tiny_chat("llava")).model.multi_modal_projector.named_parameters():
        ours = lmm.trainable()[f"model.model.multi_modal_projector.{name}"]
        assert torch.equal(ours, parameter + 0.5) and ours.requires_grad
    samples = tasks[0].test[:4]
    merged = theirs.merge_and_unload()
    torch.testing.assert_close(logits(lmm, samples), logits_of(merged, lmm, samples), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("first", "new"), [({}, "lora"), ({"use_dora": True}, "lora"), ({}, "dora")])
def test_stack(first, new, adapter, tiny_chat, tasks):
    """The first adapter has its effect and is frozen; new matrices begin without effect beside it."""
    folder, samples = adapter(**first), tasks[0].test[:4]
    options = {"scope": new, "r": 2, "target_modules": "q_proj,v_proj"}
    lmm = load(tiny_chat("llava"), adapter=folder, adapter_mode="stack", options=options)
    names = set(lmm.trainable())
    assert names and all(".default" in name and ("q_proj" in name or "v_proj" in name) for name in names)
    assert {n for n, p in lmm.named_parameters() if p.requires_grad} == names
    base = PeftModel.from_pretrained(plain(tiny_chat("llava")), folder)
    torch.testing.assert_close(logits(lmm, samples), logits_of(base.get_base_model(), lmm, samples))
    with torch.no_grad():
        for parameter in lmm.trainable().values():
            parameter.add_(0.1)
    if first or new == "dora":
        return  # peft itself can't mix kinds in one call
    second = {n.removeprefix("model.").replace(".default", ""): p.detach().clone() for n, p in lmm.trainable().items()}
    base.add_adapter("second", LoraConfig(r=2, lora_alpha=16, target_modules=r"model\.language_model\..*\.(q|v)_proj"))
    base.base_model.set_adapter(["default", "second"])
    for name, parameter in base.get_base_model().named_parameters():
        if ".second" in name:
            parameter.data = second[name.replace(".second", "")]
    torch.testing.assert_close(logits(lmm, samples), logits_of(base.get_base_model(), lmm, samples))


@pytest.mark.parametrize("mode", MODES)
def test_a_peft_model_in_memory_is_the_folder(mode, adapter, tiny_chat, tasks):
    folder, base = adapter(), plain(tiny_chat("llava"))
    processor = load_processor(tiny_chat("llava"), base.config)
    lmm = evertune.wrap(PeftModel.from_pretrained(base, folder), processor, seed=1, adapter_mode=mode)
    again = load(tiny_chat("llava"), adapter=folder, adapter_mode=mode)
    assert lmm.fingerprint == again.fingerprint
    assert set(lmm.trainable()) == set(again.trainable())
    assert torch.equal(logits(lmm, tasks[0].test[:4]), logits(again, tasks[0].test[:4]))
    by_path = evertune.wrap(plain(tiny_chat("llava")), processor, seed=1, adapter=str(folder), adapter_mode=mode)
    assert by_path.fingerprint == again.fingerprint


def test_the_adapter_decides_the_fingerprint(adapter, tiny_chat):
    folder = adapter()
    prints = {
        load(tiny_chat("llava"), adapter=folder, adapter_mode=m).fingerprint for m in ("continue", "stack", "merge")
    }
    one = model_identity(str(tiny_chat("llava")), {"adapter": str(folder)})
    weights = load_file(folder / "adapter_model.safetensors")
    save_file({name: value * 1.1 for name, value in weights.items()}, folder / "adapter_model.safetensors")
    prints |= {
        load(tiny_chat("llava"), adapter=folder, adapter_mode=m).fingerprint for m in ("continue", "stack", "merge")
    }
    assert len(prints | {load(tiny_chat("llava")).fingerprint}) == 7
    assert one != model_identity(str(tiny_chat("llava")), {"adapter": str(folder)})


@pytest.mark.parametrize("kind", [("blip-2", "opt"), ("instructblip", "t5")], ids="-".join)
def test_blip_models_merge(kind, tiny_blip, tmp_path):
    base = plain(tiny_blip(*kind))
    targets = r"language_model\..*\.(q_proj|q)"
    get_peft_model(base, LoraConfig(**{**LORA, "target_modules": targets})).save_pretrained(tmp_path / "a")
    lmm = load(tiny_blip(*kind), adapter=tmp_path / "a", adapter_mode="merge")
    theirs = PeftModel.from_pretrained(plain(tiny_blip(*kind)), tmp_path / "a").merge_and_unload().state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in lmm.blip.state_dict().items())
    with pytest.raises(UserError, match="no low-rank matrices of its own: take model.adapter_mode=merge"):
        load(tiny_blip(*kind), adapter=tmp_path / "a")


def edited(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def refused(match, *arguments, **options):
    with pytest.raises(UserError, match=match) as caught:
        load(*arguments, **options)
    assert "\n" not in str(caught.value)


def test_adapters_that_do_not_fit(adapter, tiny_chat, tmp_path):
    model, folder = tiny_chat("llava"), adapter()
    config = folder / "adapter_config.json"
    refused("there is no adapter folder 'nowhere'", model, adapter="nowhere")
    refused("is no adapter of peft: no adapter_config.json", model, adapter=model)
    refused("adapters of several stages: give one, for example .*first", model, adapter=tmp_path)
    refused("is an adapter of .*llava, the model is .*qwen2_vl: take its own", tiny_chat("qwen2_vl"), adapter=folder)
    kept = config.read_text()
    edited(config, target_modules=["none_proj"])
    refused("does not fit LlavaFor.*: Target modules .*none_proj.* not found", model, adapter=folder)
    edited(config, target_modules=["q_proj"])
    refused("does not fit LlavaFor.*the model has no place for the weights|lacks the weights", model, adapter=folder)
    config.write_text(kept)
    edited(config, r=4)
    refused("does not fit LlavaFor.*: .*size mismatch|Error", model, adapter=folder)
    config.write_text(kept)
    for changes, match in (
        ({"peft_type": "IA3"}, "an adapter of the kind IA3; evertune begins with LoRA and DoRA"),
        ({"megatron_config": {"a": 1}}, "megatron_config=.* is not supported"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa' is not supported: merge the adapter with peft"),
        ({"r": 10**9}, "ranks must be 1 to"),
    ):
        edited(config, **changes)
        refused(match, model, adapter=folder)
        config.write_text(kept)
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    refused("adapter_model.bin is a pickle, which can run code", model, adapter=folder)


def test_a_base_model_of_the_same_name(adapter, tiny_chat):
    folder = adapter()
    edited(folder / "adapter_config.json", base_model_name_or_path="owner/LLaVA")
    assert load(tiny_chat("llava"), adapter=folder)
    edited(folder / "adapter_config.json", base_model_name_or_path=None)
    assert load(tiny_chat("llava"), adapter=folder)


def test_options_that_make_no_sense(adapter, tiny_chat):
    model, folder = tiny_chat("llava"), adapter()
    refused("unknown model.adapter_mode 'stak'; did you mean 'stack'", model, adapter=folder, adapter_mode="stak")
    refused("adapter_mode=stack needs an adapter", model, adapter_mode="stack")
    refused("model.r: an adapter that is continued has its own", model, adapter=folder, options={"r": 4})
    refused("does not train what model.adapter_mode=continue", model, adapter=folder, options={"scope": "full"})
    refused("add 'lora or dora'", model, adapter=folder, adapter_mode="stack", options={"scope": "projection"})
    refused("has no options: leave out model.adapter", "random", adapter=folder)


def test_a_peft_model_of_several_adapters(adapter, tiny_chat):
    base = PeftModel.from_pretrained(plain(tiny_chat("llava")), adapter())
    base.add_adapter("more", LoraConfig(**LORA))
    processor = load_processor(tiny_chat("llava"), AutoConfig.from_pretrained(tiny_chat("llava")))
    with pytest.raises(UserError, match="has the adapters default, more: evertune takes one that is active"):
        evertune.wrap(base, processor)
    with pytest.raises(UserError, match="has layers of peft .*give the PeftModel"):
        evertune.wrap(base.get_base_model(), processor)


def test_on_paper(adapter, tiny_chat, tmp_path):
    folder = adapter(target_modules=["q_proj", "o_proj"])
    paper = shutil.copytree(tiny_chat("llava"), tmp_path / "llava")
    (paper / "model.safetensors").unlink()
    found = load_on_paper(str(paper), options={"adapter": str(folder)}).trainable()
    assert found and all("q_proj" in name or "o_proj" in name for name in found)
    assert load_on_paper(str(paper), options={"adapter": str(folder), "adapter_mode": "merge"}).trainable()


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_methods_keep_the_contract(mode, adapter, tiny_chat):
    from evertune.methods import make_methods

    options = {"adapter": str(adapter()), "adapter_mode": mode}
    check_method(lambda: make_methods("replay"), model=str(tiny_chat("llava")), model_options=options)
