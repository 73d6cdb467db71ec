"""InstructBLIP without the library's classes: the same bits, and what is left to the library."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace

import pytest
import torch
from PIL import Image

from evertune import planner
from evertune.errors import UserError
from evertune.lmm import PRESETS, load_lmm, model_folder
from evertune.lmm.plain import PlainBlip
from evertune.pretrain.parts import make_tokenizer

ASKED = [
    "what is this?",
    "where is the red cat",
    "cat",
    "a <image> and </s>,  ünknown ☃ words\nover two lines, and many more",
]


def loaded(folder, *, quick):
    return load_lmm(str(folder), dtype="float32", device=torch.device("cpu"), quick=quick)


def edited(folder, name, edit):
    """A JSON file of a checkpoint, changed in place."""
    content = json.loads((folder / name).read_text())
    edit(content)
    (folder / name).write_text(json.dumps(content))


@pytest.fixture(scope="module")
def unlike(tmp_path_factory, mini_blip):
    """A checkpoint of other proportions: groups of heads, a head apart, layers that do not see, a first word."""
    from transformers import InstructBlipConfig, InstructBlipForConditionalGeneration

    folder = tmp_path_factory.mktemp("unlike") / "blip"
    shutil.copytree(mini_blip, folder)
    config = InstructBlipConfig.from_pretrained(mini_blip).to_dict()
    config["qformer_config"] |= {"cross_attention_frequency": 2, "num_hidden_layers": 3, "encoder_hidden_size": 48}
    config["vision_config"] |= {"hidden_size": 48, "num_attention_heads": 3, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 24}
    config["text_config"] |= {**heads, "tie_word_embeddings": False}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = InstructBlipForConditionalGeneration(InstructBlipConfig(**config))
        for name, parameter in model.named_parameters():
            parameter.data.normal_(1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0, 0.2)
    model.save_pretrained(folder)
    edited(folder, "tokenizer.json", _begin_with_unknown)
    edited(folder, "qformer_tokenizer/tokenizer.json", _begin_with_unknown)
    return folder


def _begin_with_unknown(content):
    """A word before every text: what `add_special_tokens` is about."""
    word = {"id": "<unk>", "ids": [2], "tokens": ["<unk>"]}
    content["post_processor"]["single"].insert(0, {"SpecialToken": {"id": "<unk>", "type_id": 0}})
    content["post_processor"]["special_tokens"]["<unk>"] = word


@pytest.fixture(params=["mini", "unlike", "tiny-aligned"])
def checkpoint(request, mini_blip):
    folders = {"mini": mini_blip, "tiny-aligned": model_folder("tiny-aligned")}
    return folders[request.param] if request.param in folders else request.getfixturevalue("unlike")


@pytest.fixture
def both(checkpoint):
    plain, library = loaded(checkpoint, quick=True), loaded(checkpoint, quick=False)
    assert isinstance(plain.blip, PlainBlip)
    assert not isinstance(library.blip, PlainBlip)
    return plain, library


@pytest.fixture
def pictures():
    """Larger and smaller than what the tower sees."""
    draw = torch.Generator().manual_seed(1)
    sizes = ((96, 96, 3), (41, 200, 3), (333, 120, 3))
    return [Image.fromarray(torch.randint(0, 255, s, generator=draw, dtype=torch.uint8).numpy()) for s in sizes]


def test_features_ids_and_answers_are_the_librarys(both, pictures):
    plain, library = both
    features = plain.encode(pictures)
    assert torch.equal(features, library.encode(pictures))
    for text in ASKED:
        assert plain._prompt_ids(text) == library._prompt_ids(text)
        assert plain.token_texts(plain._answer_ids(text)) == library.token_texts(library._answer_ids(text))
        assert plain.lengths(text, text) == library.lengths(text, text)
    for counts in ([1, 1, 1, 0], [0, 2, 0, 1]):
        said = [lmm.answer(features, ASKED, max_new_tokens=12, pictures=counts) for lmm in both]
        assert said[0] == said[1]
        assert any(said[0])
    assert torch.equal(plain.embed_texts(ASKED[:2]), library.embed_texts(ASKED[:2]))


def test_losses_and_gradients_are_the_librarys(both, tasks, store_of):
    plain, library = both
    samples = [replace(sample, instruction=text) for sample, text in zip(tasks[0].train, ASKED, strict=False)]
    found = []
    for lmm in (plain, library):
        store = store_of(lmm, tasks)
        batch = lmm.collate(samples, store.get(samples))
        assert len(set(batch.extras["qformer_attention"].sum(1).tolist())) > 1  # there is padding to leave out
        output = lmm(batch)
        output.loss.backward()
        found.append((output.logits, {name: p.grad for name, p in lmm.trainable().items()}))
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1].keys() == found[1][1].keys()
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(gradient, found[1][1][name], rtol=1e-5, atol=1e-8, msg=name)


def test_it_is_the_same_model_to_whoever_keeps_what_it_said(both):
    plain, library = both
    assert plain.fingerprint == library.fingerprint
    assert plain.encoder_fingerprint == library.encoder_fingerprint
    assert plain.scopes().keys() == library.scopes().keys()
    weights = [{name: p.detach() for name, p in lmm.named_parameters()} for lmm in both]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def _of(part, **values):
    return lambda content: content[part].update(values)


@pytest.mark.parametrize(
    ("name", "edit"),
    [
        ("config.json", _of("text_config", hidden_act="gelu")),
        ("config.json", _of("text_config", attention_bias=True)),
        ("config.json", _of("text_config", rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0})),
        ("config.json", _of("text_config", rope_parameters=None)),
        ("config.json", _of("qformer_config", hidden_act="relu")),
        ("config.json", _of("vision_config", hidden_act="quick_gelu")),
        ("config.json", lambda content: content["vision_config"].pop("patch_size")),
        ("config.json", _of("vision_config", num_hidden_layers="many")),
        ("config.json", _of("qformer_config", num_hidden_layers=10**9)),
        ("config.json", _of("vision_config", num_attention_heads=3)),
        ("config.json", _of("text_config", is_encoder_decoder=False)),
        ("config.json", _of("text_config", rope_scaling={"type": "linear", "factor": 2.0})),
        ("config.json", _of("qformer_config", chunk_size_feed_forward=2)),
        ("config.json", lambda content: content.update(quantization_config={"quant_method": "fp8"})),
        ("config.json", lambda content: content.pop("num_query_tokens")),
        ("config.json", _of("text_config", rms_norm_eps=None)),
        ("config.json", _of("text_config", rope_parameters={"rope_type": "default", "rope_theta": "far"})),
        ("config.json", lambda content: content.update(text_config=["llama"])),
        ("generation_config.json", lambda content: content.update(repetition_penalty=1.5)),
        ("processor_config.json", _of("image_processor", do_center_crop=True)),
        ("processor_config.json", _of("image_processor", do_normalize=False)),
        ("processor_config.json", _of("image_processor", size={"shortest_edge": 96})),
        ("tokenizer_config.json", lambda content: content.update(add_bos_token=True)),
        ("tokenizer_config.json", lambda content: content.update(eos_token="unheard")),
        ("qformer_tokenizer/tokenizer.json", lambda content: content.update(truncation={"max_length": 4})),
        ("qformer_tokenizer/tokenizer_config.json", lambda content: content.update(tokenizer_class="BertTokenizer")),
    ],
)
def test_what_is_not_usual_is_left_to_the_library(mini_blip, tmp_path, name, edit):
    from evertune.lmm.instructblip import _is_usual

    folder = shutil.copytree(mini_blip, tmp_path / "blip")
    cpu = torch.device("cpu")
    assert _is_usual(folder, torch.float32, cpu)
    assert not _is_usual(folder, torch.bfloat16, cpu)
    edited(folder, name, edit)
    assert not _is_usual(folder, torch.float32, cpu)


def test_weights_in_shards_are_left_to_the_library(mini_blip, tmp_path):
    folder = shutil.copytree(mini_blip, tmp_path / "blip")
    library = loaded(folder, quick=False)
    (folder / "model.safetensors").unlink()
    library.blip.save_pretrained(folder, max_shard_size="20KB")
    assert not isinstance(loaded(folder, quick=True).blip, PlainBlip)


@pytest.mark.parametrize("damage", ["cut", "query_tokens", "embed_tokens"])
def test_damaged_weights_are_named(mini_blip, tmp_path, damage):
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(mini_blip, tmp_path / "blip")
    path = folder / "model.safetensors"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    else:
        save_file({name.replace(damage, "renamed"): value for name, value in load_file(path).items()}, path)
    with pytest.raises(UserError, match="model.safetensors: its tensors|can't be read as an InstructBLIP checkpoint"):
        loaded(folder, quick=True)


def test_other_families_take_no_notice():
    assert "random" in PRESETS
    assert load_lmm("random", quick=True).name == "random"


def test_a_plan_without_the_library_counts_its_memory(monkeypatch):
    with_library = planner._peak_memory()
    monkeypatch.delitem(sys.modules, "transformers")
    assert planner._peak_memory() - with_library == pytest.approx(planner.LIBRARY_BYTES, abs=8 << 20)


def test_the_tokenizer_says_what_it_adds(mini_blip):
    """Special words in a text are ids of their own on both sides, and not said."""
    plain, made = loaded(mini_blip, quick=True), make_tokenizer(documents=200)
    ids = plain.processor.tokenizer("a </s> b").input_ids
    assert made.eos_token_id in ids
    assert plain.processor.tokenizer.decode(ids, skip_special_tokens=True) == made.decode(ids, skip_special_tokens=True)
