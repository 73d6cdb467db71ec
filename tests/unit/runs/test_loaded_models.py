"""`evertune.run` and `Learner` with a model of transformers that the caller has loaded."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from transformers import AutoConfig, AutoModelForImageTextToText

import evertune
from evertune import Task
from evertune.models.processors import load_processor
from evertune.utils.errors import RunFolderError, UserError

COLOURS = {"red": "warm", "orange": "warm", "blue": "cold", "navy": "cold"}


def loaded(folder):
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    return model, load_processor(folder, AutoConfig.from_pretrained(folder))


@pytest.fixture
def task():
    def rows(size):
        image = [Image.new("RGB", (size, size), colour) for colour in COLOURS]
        return [{"image": i, "instruction": "Warm?", "answer": a} for i, a in zip(image, COLOURS.values(), strict=True)]

    return Task.from_dataset("warmth", train=rows(32), test=rows(40))


@pytest.mark.parametrize("family", ["llava", "smolvlm"])
def test_a_run_is_that_of_the_folder(family, tiny_chat, task, tmp_path):
    folder = tiny_chat(family)
    more = {"methods": "replay", "seed": 3, "args": {"epochs": 2, "learning_rate": 0.01}, "progress": False}
    named = evertune.run(task, model=folder, settings=["dtype=float32"], out=tmp_path / "named", **more)
    model, processor = loaded(folder)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    given = evertune.run(task, model=model, processor=processor, out=tmp_path / "given", **more)
    one, other = (result.runs["replay"] for result in (named, given))
    assert one.matrix.R == other.matrix.R and one.answers(1, "warmth") == other.answers(1, "warmth")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items() if name in before)
    learner = evertune.Learner.from_run(tmp_path / "given", progress=False)
    image = Image.new("RGB", (32, 32), "red")
    by_object = evertune.Learner.from_run(
        tmp_path / "given", lmm=evertune.wrap(*loaded(folder), seed=3), progress=False
    )
    assert learner.ask(image, "Warm?").text == by_object.ask(image, "Warm?").text


def test_a_model_that_was_trained_meanwhile_is_another_one(tiny_chat, task, tmp_path):
    """A finished run does not answer for other weights of the same configuration."""
    (model, processor), out = loaded(tiny_chat("llava")), tmp_path / "run"
    evertune.run(task, model=model, processor=processor, out=out, progress=False)
    model, processor = loaded(tiny_chat("llava"))
    with torch.no_grad():
        model.lm_head.weight.add_(0.1)
    with pytest.raises(RunFolderError, match="was made with another"):
        evertune.run(task, model=model, processor=processor, out=out, progress=False)


def test_wrong_things(tiny_chat, task, tmp_path):
    model, processor = loaded(tiny_chat("llava"))
    for given, said in [
        ({"model": model}, "pass its processor, too"),
        ({"model": "random", "processor": processor}, "a processor is passed with a loaded model"),
        ({"model": torch.nn.Linear(2, 2), "processor": processor}, "Linear"),
    ]:
        with pytest.raises(UserError, match=said):
            evertune.run(task, out=tmp_path / "run", progress=False, **given)
