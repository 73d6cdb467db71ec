"""Large models on the meta device: published sizes, the paper's expert, memory that is refused before loading."""

from __future__ import annotations

import json

import pytest
import torch
import yaml
from chat_models import load
from PIL import Image
from typer.testing import CliRunner

from evertune.cli.main import app
from evertune.models import load_lmm, load_on_paper
from evertune.models import meta as paper
from evertune.models.chat import ChatLMM
from evertune.models.meta import kept_values, needed_bytes, refuse_too_large, visual_tokens
from evertune.models.presets import HUB_IDS
from evertune.runs.api import configure
from evertune.runs.plan.api import plan
from evertune.utils.errors import UserError

PUBLISHED = {
    "llava-1.5-7b-hf": 7_063_427_072,
    "Qwen2.5-VL-7B-Instruct": 8_292_166_656,
    "Qwen2.5-VL-3B-Instruct": 3_754_622_976,
    "SmolVLM-256M-Instruct": 256_484_928,
}
"""Parameters that the hub's pages state."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_are_the_published_ones(name):
    assert load_on_paper(name, options={"scope": "projection"}).count() == PUBLISHED[name]


@pytest.mark.parametrize(
    ("name", "expert"), [("instructblip-vicuna-7b", 768 * 4096 + 4096), ("llava-1.5-7b-hf", 1025 * 4096 + 4097 * 4096)]
)
def test_an_expert_of_eproj_is_that_of_the_paper(name, expert, toy_stream):
    """3.15 M at Vicuna-7B's width, 21 M for LLaVA's two layers."""
    (made,) = plan(configure(str(toy_stream), model=name, method="eproj"))
    assert made.trained_parameters == made.trained_by_part["projection"] == expert
    assert made.per_task_bytes == made.stage_bytes == 2 * expert, "kept as the model is"
    assert made.share_of_model < 0.01
    assert made.dtype == "bfloat16"


def test_one_set_of_weights_keeps_nothing_per_task(toy_stream):
    (made,) = plan(configure(str(toy_stream), model="llava-1.5-7b-hf", method="sequential"))
    assert made.per_task_bytes == 0 and made.stage_bytes == 4 * made.trained_parameters


@pytest.mark.slow
def test_every_preset_on_paper_can_be_planned(toy_stream):
    for name in HUB_IDS:
        (made,) = plan(configure(str(toy_stream), model=name))
        assert 0 < made.trained_parameters < made.all_parameters
        assert [stage.samples for stage in made.stages] == [8, 8, 8]


def test_memory_and_time_by_hand(toy_stream):
    (made,) = plan(configure(str(toy_stream), model="llava-1.5-7b-hf", settings=["model.scope=projection"]))
    trained, whole = 20_979_712, PUBLISHED["llava-1.5-7b-hf"]
    assert made.memory["trained weights, gradients, AdamW"] == 16 * trained
    assert made.memory["vision tower"] + made.memory["other frozen weights"] == 2 * (whole - trained)
    tokens = made.tokens["visual"] + made.tokens["text"]
    assert made.tokens["visual"] == 576
    assert made.memory["activations of 4 samples"] == 34 * tokens * 4 * 4096 * 32
    card = next(card for card in made.cards if card.name == "A100 80 GB")
    passed = 32 * (4 * 4096**2 + 3 * 4096 * 11008 + 2 * 4096) + 4096 + 32064 * 4096  # layers, last norm, head
    seconds = 24 * tokens * (4 * passed + 6 * trained) / (0.35 * 312e12)
    assert card.train_hours == pytest.approx(seconds / 3600)
    assert [card.fits for card in made.cards] == [
        sum(made.memory.values()) < 0.92e9 * gb for gb in (24, 24, 40, 80, 80)
    ]


@pytest.mark.slow
def test_half_the_bytes_in_half_precision():
    model = load_on_paper("SmolVLM-256M-Instruct")
    full, half = (needed_bytes(model, dtype)["frozen weights"] for dtype in (torch.float32, torch.bfloat16))
    assert full == 2 * half


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "tokens"),
    [("llava-1.5-7b-hf", 576), ("instructblip-vicuna-7b", 32), ("Qwen2.5-VL-7B-Instruct", 17 * 22)],
)
def test_visual_tokens(name, tokens):
    assert visual_tokens(load_on_paper(name).module().config) == tokens


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "megabytes"),
    [("llava-1.5-7b-hf", 1.18), ("instructblip-vicuna-7b", 0.72), ("Qwen2.5-VL-7B-Instruct", 3.84)],
)
def test_bytes_of_an_image(name, megabytes):
    assert load_on_paper(name).bytes_per_image() / 1e6 == pytest.approx(megabytes, abs=0.006)


@pytest.mark.parametrize("name", ["llava", "paligemma", "gemma3", "qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_bytes_of_an_image_are_those_of_its_features(name, tiny_chat, monkeypatch):
    """In miniature: what a configuration says against what the model makes of a photograph."""
    lmm = load(tiny_chat(name))
    (made,) = lmm.encode([Image.new("RGB", (64, 64), "grey")])
    height, width = 64, 64
    if name.startswith("qwen"):
        vision = lmm.model.config.vision_config
        side = vision.patch_size * vision.spatial_merge_size
        facts = lmm.prompts.layout((64, 64)).facts["image_grid_thw"][0].tolist()
        height, width = (side * count // vision.spatial_merge_size for count in facts[1:])
    monkeypatch.setattr(paper, "PHOTOGRAPH", (height, width))
    assert 2 * kept_values(lmm.model.config) == made.nbytes


def test_encoding_by_hand(toy_stream):
    """24 training images and 12 others: once each where they are kept, else as often as they are used."""
    (made,) = plan(configure(str(toy_stream), model="llava-1.5-7b-hf", settings=["features=off"]))
    (kept,) = plan(configure(str(toy_stream), model="llava-1.5-7b-hf"))
    images, uses = made.features.images, 24 + 4 * sum(stage.test for stage in made.stages)
    assert (kept.features.keep, kept.features.encoded, kept.features.images) == ("disk", images, images)
    assert (made.features.keep, made.features.encoded, made.features.kept_bytes) == ("off", uses, 0)
    assert kept.features.kept_bytes == images * kept.features.bytes_per_image
    tower = 303_507_456
    card = next(card for card in made.cards if card.name == "A100 80 GB")
    assert card.encode_hours == pytest.approx(uses * 2 * tower * 576 / (0.35 * 312e12) / 3600, rel=1e-3)


def test_what_fits_nowhere_is_refused(toy_stream):
    config = configure(str(toy_stream), model="llava-1.5-13b-hf", settings=["model.scope=full"])
    with pytest.raises(UserError, match=r"needs \d+\.\d GB .* more than any single GPU.*model\.scope=projection"):
        plan(config)


@pytest.mark.slow
def test_a_machine_that_is_too_small_is_refused_with_what_would_fit():
    model = load_on_paper("Qwen2.5-VL-7B-Instruct")
    cpu = torch.device("cpu")
    refuse_too_large(model, dtype=torch.float32, device=cpu, free=40_000_000_000)
    with pytest.raises(UserError, match=r"at least 33\.\d GB as float32.*20\.0 GB free.*fit as bfloat16 \(17"):
        refuse_too_large(model, dtype=torch.float32, device=cpu, free=20_000_000_000)
    with pytest.raises(UserError, match="Less would have to train"):
        refuse_too_large(model, dtype=torch.bfloat16, device=cpu, free=17_000_000_000)
    with pytest.raises(UserError, match=r"in 4 bits: --set model\.quantization=4bit"):
        refuse_too_large(model, dtype=torch.bfloat16, device=cpu, free=8_000_000_000)
    with pytest.raises(UserError, match="Take a smaller model"):
        refuse_too_large(model, dtype=torch.bfloat16, device=cpu, free=5_000_000_000)


def test_nothing_is_loaded_when_it_is_refused(tiny_chat, monkeypatch):
    monkeypatch.setattr(paper, "free_bytes", lambda device: 1000)
    monkeypatch.setattr(ChatLMM, "__init__", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(UserError, match="has 0.0 GB free"):
        load_lmm(str(tiny_chat("llava")), dtype="float32")


def test_free_memory_is_known():
    free = paper.free_bytes(torch.device("cpu"))
    assert free is not None
    assert free > 100_000_000


def test_a_folder_with_a_configuration_alone(tmp_path, tiny_chat, toy_stream):
    (tmp_path / "config.json").write_text((tiny_chat("qwen2_5_vl") / "config.json").read_text())
    (made,) = plan(configure(str(toy_stream), model=str(tmp_path)))
    lmm = load_lmm(str(tiny_chat("qwen2_5_vl")), dtype="float32", device=torch.device("cpu"))
    assert made.trained_parameters == sum(p.numel() for p in lmm.trainable().values())
    assert made.all_parameters == sum(p.numel() for p in lmm.parameters())


@pytest.mark.slow
def test_running_what_is_on_paper_only():
    with pytest.raises(UserError, match="only a configuration for .*take the model HuggingFaceTB/SmolVLM"):
        load_lmm("SmolVLM-256M-Instruct", dtype="bfloat16")


@pytest.mark.slow
def test_the_command(toy_stream, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump({"stream": str(toy_stream), "model": "instructblip-vicuna-7b", "method": "eproj"}))
    shown = CliRunner().invoke(app, ["plan", str(file)])
    assert shown.exit_code == 0
    assert "3,149,824 (0.0398 %)" in shown.output
    assert "A100 80 GB" in shown.output
    result = CliRunner().invoke(app, ["plan", str(file), "--json"])
    assert json.loads(result.output)[0]["trained_parameters"] == 3_149_824
