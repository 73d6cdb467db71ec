"""A loaded model of transformers becomes the LMM that `load_lmm` makes of its folder, for every family."""

from __future__ import annotations

import shutil

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText

import evertune
from evertune.models import load_lmm
from evertune.models.features import FeatureStore
from evertune.models.processors import load_processor
from evertune.models.weights import fingerprint_of
from evertune.utils.errors import UserError

CHAT = ["llava", "qwen2_5_vl", "smolvlm", "idefics3", "qwen2_vl", "qwen3_vl", "llava_next", "llava_onevision"]
CHAT += ["internvl", "paligemma", "gemma3"]
BLIPS = [f"{family}-{lm}" for family in ("blip-2", "instructblip") for lm in ("opt", "t5")]


@pytest.fixture
def checkpoint(tiny_chat, tiny_blip):
    """The folder of a miniature."""

    def folder(name):
        return tiny_blip(*name.rsplit("-", 1)) if name in BLIPS else tiny_chat(name)

    return folder


def loaded(folder, *, dtype=torch.float32, **options):
    """Model and processor as a user of transformers has them."""
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype, **options)
    return model, load_processor(folder, AutoConfig.from_pretrained(folder))


def answer_of(lmm, samples):
    """Loss, gradient and predictions."""
    store = FeatureStore(lmm)
    store.ensure(samples)
    output = lmm(lmm.collate(samples, store.get(samples)))
    output.loss.backward()
    gradient = {name: p.grad for name, p in lmm.trainable().items() if p.grad is not None}
    texts = lmm.generate(store.get(samples), [s.instruction for s in samples], max_new_tokens=4)
    return output.nll.detach(), gradient, [text.ids for text in texts]


@pytest.mark.slow
@pytest.mark.parametrize("name", [*CHAT, *BLIPS])
def test_every_family(name, checkpoint, tasks):
    folder, samples = checkpoint(name), tasks[0].test[:4]
    ours, theirs = load_lmm(str(folder), seed=3, dtype="float32", device="cpu"), evertune.wrap(*loaded(folder), seed=3)
    assert theirs.fingerprint == ours.fingerprint and theirs.encoder_fingerprint == ours.encoder_fingerprint
    assert fingerprint_of(theirs.trainable()) == fingerprint_of(ours.trainable())
    assert theirs.scopes() == ours.scopes() and list(theirs.trainable()) == list(ours.trainable())
    nll, gradient, texts = answer_of(ours, samples)
    again, their_gradient, their_texts = answer_of(theirs, samples)
    assert torch.equal(nll, again) and texts == their_texts
    assert fingerprint_of(gradient) == fingerprint_of(their_gradient)


def test_options_and_bfloat16(tiny_chat):
    model, processor = loaded(tiny_chat("llava"), dtype=torch.bfloat16)
    theirs = evertune.wrap(model, processor, scope="lora", r=4, target_modules="o_proj")
    options = {"scope": "lora", "r": 4, "target_modules": "o_proj"}
    ours = load_lmm(str(tiny_chat("llava")), dtype=torch.bfloat16, device=torch.device("cpu"), options=options)
    assert theirs.fingerprint == ours.fingerprint
    assert theirs.dtype == torch.bfloat16 and {p.dtype for p in theirs.trainable().values()} == {torch.float32}
    assert set(theirs.trainable()) == set(ours.trainable())


def test_weights_decide_the_fingerprint(tiny_chat):
    model, processor = loaded(tiny_chat("llava"))
    with torch.no_grad():
        model.lm_head.weight[0, 0] += 1
    plain = load_lmm(str(tiny_chat("llava")), dtype="float32", device="cpu")
    assert evertune.wrap(model, processor).fingerprint != plain.fingerprint


def test_a_used_tokenizer_is_the_same(tiny_chat):
    """Padding of an earlier call stays in the tokenizer and decides nothing."""
    model, processor = loaded(tiny_chat("llava"))
    processor.tokenizer(["a", "abc"], padding="max_length", max_length=7, truncation=True)
    plain = load_lmm(str(tiny_chat("llava")), dtype="float32", device="cpu")
    assert evertune.wrap(model, processor).fingerprint == plain.fingerprint


def test_the_processor_is_found(tiny_chat):
    folder = tiny_chat("llava")
    plain = load_lmm(str(folder), dtype="float32", device="cpu")
    assert evertune.wrap(loaded(folder)[0]).fingerprint == plain.fingerprint, "where the model was loaded from"
    assert evertune.wrap(loaded(folder)[0], str(folder)).fingerprint == plain.fingerprint
    model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder))
    model.config._name_or_path = model.name_or_path = ""
    with pytest.raises(UserError, match="does not say where it was loaded from: give its processor too"):
        evertune.wrap(model)


def test_wrapped_again(tiny_chat):
    model, processor = loaded(tiny_chat("llava"))
    lmm = evertune.wrap(model, processor, scope="lora")
    assert evertune.wrap(model, processor, scope="lora") is lmm
    with pytest.raises(UserError, match="wrapped before with other options"):
        evertune.wrap(model, processor, scope="projection")
    with torch.no_grad():
        next(iter(lmm.trainable().values())).add_(1)
    with pytest.raises(UserError, match="wrapped before and trained since"):
        evertune.wrap(model, processor, scope="lora")


def refused(match, model, processor=None, **options):
    with pytest.raises(UserError, match=match) as caught:
        evertune.wrap(model, processor, **options)
    assert "\n" not in str(caught.value)


def test_what_is_no_model(tiny_chat):
    model, processor = loaded(tiny_chat("llava"))
    refused("given a processor .*the model comes first", processor, model)
    refused("given dict; for example evertune.wrap", {}, processor)
    refused("given a string .*load_lmm takes names", "llava", processor)
    refused("take its ._orig_mod", torch.compile(model), processor)
    refused("LlavaModel can't generate answers: load the model as LlavaForConditional", model.model, processor)
    refused("given an LMM .*use it as it is", evertune.wrap(model, processor), processor)
    with pytest.raises(UserError, match="this model has no such option"):
        evertune.wrap(loaded(tiny_chat("llava"))[0], processor, rank=3)


def test_a_family_that_is_not_supported(tiny_chat):
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    model, processor = LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=9)), loaded(tiny_chat("llava"))[1]
    refused("no family 'llama' .*without a vision tower.; the nearest: llava", model, processor)


def test_a_family_without_options(tiny_blip):
    model, processor = loaded(tiny_blip("blip-2", "opt"))
    refused("has no options: leave out model.scope", model, processor, scope="lora")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda model: setattr(model, "is_quantized", True), "the model is quantised"),
        (lambda model: setattr(model, "hf_device_map", {"a": 0, "b": "cpu"}), "spread over cpu, cuda:0 .device_map"),
        (lambda model: model.half(), "the model is in float16, which does not train without loss scaling"),
        (lambda model: model.to("meta"), "spread over meta"),
    ],
)
def test_models_that_can_not_train(change, match, tiny_chat):
    model, processor = loaded(tiny_chat("llava"))
    change(model)
    refused(match, model, processor)


def test_one_device_by_a_map_is_taken(tiny_chat):
    model, processor = loaded(tiny_chat("llava"))
    model.hf_device_map = {"": "cpu"}
    assert evertune.wrap(model, processor)


def test_processors_that_do_not_fit(tiny_chat, tiny_blip):
    model, processor = loaded(tiny_chat("llava"))
    refused("is a tokenizer: give the processor", model, processor.tokenizer)
    refused("is no processor: give the processor", model, processor.image_processor)
    refused("^an int is no processor: give the processor", model, 3)
    refused("^the class LlavaProcessor is no processor", model, type(processor))
    refused("^the model folder /no/such does not exist$", model, "/no/such")
    refused("LlavaNextProcessor does not fit LlavaFor.*LlavaProcessor", model, loaded(tiny_chat("llava_next"))[1])
    model.config.image_token_id = 1
    refused("it leaves 0 places for an image of 64 x 64 pixels, and the model makes 16 visual", model, processor)
    model, processor = loaded(tiny_chat("llava"))
    processor.tokenizer.add_tokens(["<more>"])
    refused("its tokenizer has ids up to .*word embeddings; .*resize_token_embeddings", model, processor)


@pytest.mark.parametrize("name", ["llava", "blip-2-opt"])
def test_images_of_another_size(name, checkpoint):
    model, processor = loaded(checkpoint(name))
    sizes = {"height": 35, "width": 35}
    processor.image_processor.size = processor.image_processor.size | {}
    for key in ("size", "crop_size"):
        if getattr(processor.image_processor, key, None):
            setattr(processor.image_processor, key, type(processor.image_processor.size)(**sizes))
    refused("the processor does not fit the model: ", model, processor)


def test_sizes_with_which_the_processor_itself_fails(tiny_chat):
    """The library divided by zero."""
    model, processor = loaded(tiny_chat("llava_next"))
    size = processor.image_processor.crop_size
    processor.image_processor.crop_size = type(size)(height=1, width=1)
    refused("llava_next: the processor does not fit the model: integer .* by zero|division by zero", model, processor)


@pytest.mark.slow
def test_devices_and_dtypes():
    lmm = load_lmm("random", dtype=torch.float32, device="cpu")
    assert lmm.dtype == torch.float32 and lmm.device == torch.device("cpu")
    with pytest.raises(UserError, match="device 'cudda' can't be used"):
        load_lmm("random", device="cudda")
    with pytest.raises(UserError, match="dtype must be auto, float32 or bfloat16, not 'float16'"):
        load_lmm("random", dtype=torch.float16)
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="device 'cuda' can't be used: .*; take 'cpu', or leave it out"):
            load_lmm("random", device="cuda")


def test_a_folder_whose_processor_does_not_fit(tiny_chat, tmp_path):
    folder = shutil.copytree(tiny_chat("llava"), tmp_path / "mixed")
    for path in tiny_chat("llava_next").glob("*processor*.json"):
        shutil.copy(path, folder)
    with pytest.raises(UserError):
        load_lmm(str(folder), dtype="float32", device="cpu")
