"""The checkpoints that come with evertune: ordinary, small, of one tower, and able to do what their cards say."""

from __future__ import annotations

import random

import pytest
import torch
from pretraining.instruct import known_accuracy
from transformers import InstructBlipForConditionalGeneration, InstructBlipProcessor

from evertune.data.pocket.draw import draw
from evertune.data.pocket.questions import CAPTION, describe
from evertune.data.pocket.world import draw_scene
from evertune.models import load_lmm, model_folder

NAMES = ("tiny-aligned", "tiny-instruct")


@pytest.fixture(scope="module")
def tiny():
    return {name: load_lmm(name, dtype="float32", device=torch.device("cpu")) for name in NAMES}


def scenes(count):
    choose = random.Random(11)
    return [draw_scene(choose, layout="things", split="test") for _ in range(count)]


def drawn_images(drawn):
    return [draw(scene, random.Random(n)) for n, scene in enumerate(drawn)]


def test_together_they_are_small():
    files = [path for name in NAMES for path in model_folder(name).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 25e6
    assert all(path.suffix in {".json", ".md", ".safetensors"} for path in files), "nothing that could run"


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_library_alone_gives_the_same_answers(name, tiny):
    model = InstructBlipForConditionalGeneration.from_pretrained(model_folder(name), dtype=torch.float32)
    processor = InstructBlipProcessor.from_pretrained(model_folder(name))
    images = drawn_images(scenes(4))
    inputs = processor(images=images, text=[CAPTION] * 4, return_tensors="pt")
    predicted = processor.batch_decode(
        model.generate(**inputs, max_new_tokens=24, do_sample=False), skip_special_tokens=True
    )
    ours = tiny[name].generate(tiny[name].encode(images), [CAPTION] * 4, max_new_tokens=24)
    assert [text.strip().removeprefix(CAPTION).strip() for text in predicted] == ours


@pytest.mark.slow
def test_the_aligned_one_describes_new_scenes_and_answers_nothing_shortly(tiny):
    drawn = scenes(24)
    features = tiny["tiny-aligned"].encode(drawn_images(drawn))
    predicted = tiny["tiny-aligned"].generate(features, [CAPTION] * 24, max_new_tokens=24)
    assert sum(text == describe(scene) for text, scene in zip(predicted, drawn, strict=True)) >= 23
    prompts = ["Question: how many things are there? Short answer:"] * 24
    short = tiny["tiny-aligned"].generate(features, prompts, max_new_tokens=24)
    assert not any(text.isdigit() for text in short)


@pytest.mark.slow
def test_the_instructed_one_knows_its_five_tasks(tiny):
    right = known_accuracy(tiny["tiny-instruct"], count=32)
    assert min(right.values()) > 0.85, right


def test_they_share_one_tower(tiny):
    assert tiny["tiny-aligned"].encoder_fingerprint == tiny["tiny-instruct"].encoder_fingerprint
